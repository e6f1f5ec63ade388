"""What the calibrated model says of a patient, and how it is kept."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax.calibration import Calibration, Forecast
from tumorjax.calibration.estimates import Estimate, frame_of
from tumorjax.decisions import DosePlan, ScanGains
from tumorjax.growth import AbstractGrowth, Treatment
from tumorjax.io import InputError
from tumorjax.patient.patient import Patient
from tumorjax.patient.prescription import Prescription
from tumorjax.progress import Progress, silent
from tumorjax.quality import Status
from tumorjax.results.slices import Growth, Slices
from tumorjax.sections import Comparison, Section
from tumorjax.text import printable


@dataclass(frozen=True, repr=False)
class PageView:
    """A page that a notebook shows in a frame, apart from the notebook's own text and styles.

    Parameters
    ----------
    page
        HTML of the whole page.
    height
        Height of the frame, pixels.
    """

    page: str
    height: int

    def __repr__(self) -> str:
        """Return what this is, without the page."""
        return f"report, {len(self.page) / 1e6:.1f} MB; a notebook shows it"

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.page, quote=True)}" sandbox="allow-scripts" title="report" '
            f'style="width: 100%; height: {int(self.height)}px; border: 0"></iframe>'
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Personalization:
    """A patient's tumour as the calibrated model sees it; images are in the patient's own geometry.

    Parameters
    ----------
    patient
        The patient whose images were calibrated to.
    model
        What grows.
    calibration
        The parameters, found on the computing grid.
    density, density_std
        (x, y, z): cell density as a fraction of the carrying capacity, and its standard deviation.
    plan, standard_plan
        (x, y, z), bool: the model's target volume, which holds the core, and the clinical margin's, of the same size.
        A result that has failed has no plan: None.
    predicted
        (x, y, z), by the observation's name: images as the model predicts them, such as "pet" in the image's unit.
    compared
        By the observation's name: these images as they were measured and as predicted, on the scale of reports.
    recurrence
        (x, y, z), bool: tumour at follow-up; None where none was given.
    estimates
        The parameters in words, with units and standard deviations.
    metrics
        Figures of merit.
    stages
        Name and seconds of each stage.
    notes
        Remarks on the calibration for the reader of the results.
    margin
        Margin of the clinical plan, mm.
    quality, reasons
        Whether the result can be used as it is, and the notes on patient and calibration because of which it cannot.
    probabilities
        (x, y, z), by threshold: probability that the density is above it; empty for a method without draws.
    credible
        (x, y, z), bool, by credibility: volumes outside which a voxel is not infiltrated (has less than the smallest
        threshold); empty for a method without draws.
    displacement
        (x, y, z, 3), mm in RAS world: by how much the tissue at a voxel has moved; None where tissue stays.
    displacement_std
        (x, y, z), mm: root mean square distance of the displacement from this mean; None as above.
    jacobian
        (x, y, z): det(I + grad u), by how much the tissue is enlarged, one where nothing moved; None as above.
    sections
        What the method adds to the report.
    truth
        (x, y, z): true density of a synthetic patient; None for others.
    title
        Title of the report; by default the name of the segmentation's file, and of several visits that of their folder
        or table with the days.
    hashes
        SHA-256 of files that were read besides those of the patient, by their role.
    forecast
        Of several visits: volumes inside each outline over time, and densities (k, x, y, z) on the days of the visits
        and of the forecast, means over draws; None for one date.
    treatments
        What was done and what is to come, by name, on the clock of the visits.
    prescription, dose_plan
        A course of radiation, and its planned dose map beside the uniform one, Gy a fraction; None for none, and the
        dose plan also where there is no target volume.
    scan_gains
        What one more scan on each of some days is expected to say; None where that was not asked.
    kept
        The patient on a last day that was kept back, to check the forecast; None for none.
    slices
        Of several visits: how the tumour grows from the first of them to the last day, in one slice; None for one date.
    growth
        How the tumour grew from its seed on, for an animation; None where that was not asked, or cannot be.
    """

    patient: Patient
    model: AbstractGrowth
    calibration: Calibration
    density: np.ndarray
    density_std: np.ndarray
    plan: np.ndarray | None
    standard_plan: np.ndarray
    estimates: list[Estimate]
    metrics: dict[str, float | int | None]
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    compared: dict[str, Comparison] = field(default_factory=dict)
    recurrence: np.ndarray | None = None
    stages: list[tuple[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    margin: float = 15.0
    quality: Status = Status.GOOD
    reasons: list[str] = field(default_factory=list)
    probabilities: dict[float, np.ndarray] = field(default_factory=dict)
    credible: dict[float, np.ndarray] = field(default_factory=dict)
    displacement: np.ndarray | None = None
    displacement_std: np.ndarray | None = None
    jacobian: np.ndarray | None = None
    sections: list[Section] = field(default_factory=list)
    truth: np.ndarray | None = None
    title: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    forecast: Forecast | None = None
    treatments: dict[str, Treatment] = field(default_factory=dict)
    prescription: Prescription | None = None
    dose_plan: DosePlan | None = None
    scan_gains: ScanGains | None = None
    kept: Patient | None = None
    slices: Slices | None = None
    growth: Growth | None = None

    def __repr__(self) -> str:
        """Return the quality with its reasons and the table of the calibration, without the images."""
        head = f"Personalization, quality {self.quality}"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons), "", repr(self.calibration)])

    def _repr_html_(self) -> str:
        """Return the quality, the density in three planes and the table of the calibration, for a notebook."""
        from tumorjax.report import glance
        from tumorjax.results.page import figures_of

        return glance(figures_of(self), self.calibration._repr_html_() or "")

    def view(self, height: int = 800) -> "PageView":
        """Return the report, to be shown in a notebook in a frame of its own.

        Parameters
        ----------
        height
            Height of the frame, pixels.
        """
        from tumorjax.report import report_page
        from tumorjax.results.page import report_of

        return PageView(report_page(report_of(self)), height)

    @property
    def displacement_norm(self) -> np.ndarray | None:
        """(x, y, z), mm: length of the displacement; None where tissue stays."""
        return None if self.displacement is None else np.linalg.norm(self.displacement, axis=-1)

    def to_xarray(self) -> Any:
        """Return the images as an `xarray.Dataset` over voxels i, j, k, with the world coordinates of each voxel.

        The affine from voxels to RAS mm is the attribute `affine`, row by row; images that a result lacks are left out.

        Raises
        ------
        ImportError
            If xarray is not installed; the extra `bayes` brings it.
        """
        from tumorjax.results.labelled import labelled

        return labelled(self)

    def to_dataframe(self) -> Any:
        """Return the parameters as a `pandas.DataFrame`, a row for each; see `Calibration.to_dataframe`."""
        return frame_of(self.estimates)

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        command: str | None = None,
        progress: Progress = silent,
    ) -> dict[str, Any]:
        """Write maps, parameters, metrics and the report into a folder, as the command does.

        Parameters
        ----------
        folder
            Where to write: a folder that does not exist, or is empty. It appears whole or not at all, with the
            checksums of its files in `SHA256SUMS`.
        overwrite
            Permit a folder that is not empty: results that an earlier run wrote there are replaced.
        command
            What was typed, for the record of how the results came about.
        progress
            Receives what is being written.

        Returns
        -------
        dict
            The metrics, as in `metrics.json`.

        Raises
        ------
        InputError
            If the folder is not empty, or cannot be written.
        """
        from tumorjax.io import output_folder
        from tumorjax.results.files import write_personalization

        with output_folder(folder, overwrite) as out:
            return write_personalization(out, self, command=command, progress=progress)

    def report(self, folder: str | Path) -> None:
        """Write `report.html` and `report.png` into a folder, which is made if it is not there.

        Raises
        ------
        InputError
            If it is a file.
        """
        from tumorjax.report import write_report
        from tumorjax.results.page import report_of

        if (path := Path(folder)).is_file():
            raise InputError(f"report {printable(path)}: is a file; give a folder")
        write_report(path, report_of(self))
