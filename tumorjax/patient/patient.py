"""A patient's images and anatomy, on the voxels of the segmentation and on the computing grid."""

from dataclasses import dataclass, replace

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.cellularity import LinearAdcLaw
from tumorjax.io import Volume
from tumorjax.patient.findings import Finding
from tumorjax.patient.images import Images
from tumorjax.patient.tissue import TissueSource, tissue_mask
from tumorjax.registration import DEFAULT_ENGINE, Transform

DEFAULT_ATLAS = "icbm152"
FRAME = "frame of reference"
"""What digests of the frames of reference of DICOM images are called, each "of" an image."""


@dataclass(frozen=True, eq=False, repr=False)
class Patient:
    """A patient's images and anatomy, on the voxels of the segmentation and on the computing grid.

    Parameters
    ----------
    reference
        The segmentation, extended to the whole brain if its image is smaller; its voxels are the patient's geometry.
    core, lesion
        (x, y, z) in the patient's geometry, boolean: the tumour core, and the whole lesion (core and oedema).
    brain
        (x, y, z) in the patient's geometry, boolean: the brain, including the lesion.
    background
        (x, y, z) in the patient's geometry, float32: the T1 image, or else tissue, as background for figures.
    anatomy
        Healthy tissue on the computing grid, float32; with the fibres of white matter where an image shows them.
    core_fraction, lesion_fraction
        (x, y, z) on the computing grid, float32: share of each voxel in the core and in the whole lesion.
    pet, pet_mask
        (x, y, z) on the computing grid: the PET signal in its own unit (zero where not measured), and the mask
        where it was measured (boolean). None without PET.
    source
        Source of the tissue.
    images
        The given images by role ("T1", "brain mask").
    has_skull
        Whether the T1 image shows a head with its skull.
    notes
        Notes on the inputs for readers of the results.
    hashes
        SHA-256 of each file, by role.
    cavity
        (x, y, z) in the patient's geometry, boolean: the resection cavity, which contains no cells; None if there is
        none.
    registration
        Engine by which atlases are deformed.
    day
        Day on which this was seen, on the patient's own clock.
    adc, adc_mask
        (x, y, z) on the computing grid: the apparent diffusion coefficient of water, mm^2/s, and the mask of the core
        where it was measured (boolean). None without an image of it.
    adc_law
        Name of the law by which the density is read off it: "linear" or "inverse".
    earlier
        The same patient on the days before, in order, all in the geometry and with the anatomy of the first; from
        `load_visits`.
    name
        For titles: the patient's, or that of the folder or the table of the visits; empty where the segmentation's file
        names the patient.
    findings
        What is wrong with the masks of lesion and brain; their notes are among `notes`.
    """

    reference: Volume
    core: np.ndarray
    lesion: np.ndarray
    brain: np.ndarray
    background: np.ndarray
    anatomy: Anatomy
    core_fraction: np.ndarray
    lesion_fraction: np.ndarray
    pet: np.ndarray | None
    pet_mask: np.ndarray | None
    source: TissueSource
    images: Images
    has_skull: bool
    notes: list[str]
    hashes: dict[str, str]
    cavity: np.ndarray | None = None
    registration: str = DEFAULT_ENGINE
    day: float = 0.0
    adc: np.ndarray | None = None
    adc_mask: np.ndarray | None = None
    adc_law: str = LinearAdcLaw.name
    earlier: tuple["Patient", ...] = ()
    name: str = ""
    findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        """Return the images by name and the size of the grids, without their voxels."""
        voxels, grid = " x ".join(map(str, self.core.shape)), self.anatomy.grid
        computed = " x ".join(map(str, grid.shape))
        seen = f"; seen on days {', '.join(f'{each.day:g}' for each in self.visits)}" if self.earlier else ""
        return f"Patient({', '.join(self.images)}; {voxels} voxels, computed on {computed}{seen})"

    @property
    def visits(self) -> tuple["Patient", ...]:
        """The patient on each day, in order; alone where there is one date."""
        return (*self.earlier, self)

    @property
    def outlines(self) -> dict[str, np.ndarray]:
        """What is outlined by name, (x, y, z) boolean: the "core", and the whole "lesion" unless it is the same voxels.

        Without oedema a segmentation has one outline, whose voxels would otherwise count twice.
        """
        alone = np.array_equal(self.core, self.lesion)
        return {"core": self.core} if alone else {"core": self.core, "lesion": self.lesion}

    @property
    def background_of(self) -> str:
        """A description of the brain that the background shows."""
        if "T1" in self.images:
            return "the patient's T1 image"
        if self.source.atlas is None:
            return "the tissue that was given"
        placed = "as it lies" if self.source.transform is None else "aligned with the patient"
        return f"the atlas {self.source.atlas.title}, {placed}: not the patient's own brain"

    @property
    def transform(self) -> Transform | None:
        """The registration of the atlas that the tissue comes from; None if there is none."""
        return self.source.transform

    @property
    def shows_fluid(self) -> bool:
        """Whether the fluid in the anatomy is the patient's, and not that of an atlas behind an affine map."""
        map_ = self.source.transform
        deformed = map_ is not None and map_.field is not None and not map_.failure
        return self.source.own or self.source.segmented is not None or deformed

    @property
    def affected(self) -> Volume:
        """Mask of the whole lesion and the resection cavity."""
        return replace(self.reference, data=with_cavity(self.lesion, self.cavity), name="lesion")

    @property
    def tissue(self) -> np.ndarray:
        """Where cells can be, (x, y, z) boolean: voxels with tissue in maps of it, and those of the outlined core."""
        grid, affected = self.reference.grid, self.affected.data
        mapped = tissue_mask(self.source.on(grid), affected, float(np.min(np.asarray(grid.spacing))))
        found = (mapped & self.brain) | self.core
        return found if self.cavity is None else found & ~self.cavity


def with_cavity(lesion: np.ndarray, cavity: np.ndarray | None) -> np.ndarray:
    """Return the mask of a lesion and its resection cavity, if there is one."""
    return lesion if cavity is None else lesion | cavity
