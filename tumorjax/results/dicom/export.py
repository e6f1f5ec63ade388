"""Writing a result as DICOM objects that belong to a series of the patient."""

import warnings
from pathlib import Path
from typing import Any

from tumorjax.io import InputError, output_folder

PLAN_CONTOURS, PLAN_MASK, DENSITY, DOSE = "plan_rtstruct.dcm", "plan_seg.dcm", "density_pm.dcm", "dose_rtdose.dcm"


def export_dicom(
    folder: str | Path, reference: str | Path, out: str | Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write a result as DICOM objects in the frame of reference of a series, and return what was written.

    Objects are the plan as a structure set and as a segmentation, the density as a parametric map, and the planned dose
    if there is one. They take patient and study from the series, lie on its slices, and are marked for research. All
    identifiers follow from the contents: the same result and series give the same bytes.

    Parameters
    ----------
    folder
        Folder of a result of `tumorjax personalize` (`Personalization.save`).
    reference
        Folder of a DICOM series of the patient, or a multi-frame file, in the world of the result.
    out
        Folder of the objects, which appears whole or not at all.
    overwrite
        Permit a folder that is not empty.

    Returns
    -------
    dict
        Quality of the result, volume of the plan on the voxels of the series (ml), and the names of the files.

    Raises
    ------
    InputError
        If pydicom or highdicom is not installed; the folder has no result with a plan; the series is not one whole
        series, or lies elsewhere than the result; or the folder of the objects cannot be written.
    """
    try:
        import highdicom  # noqa: F401
        import pydicom  # noqa: F401
    except ImportError:
        raise InputError("export: needs pydicom and highdicom; pip install 'tumorjax[dicom]'") from None
    from tumorjax.results.dicom.dose import dose_grid
    from tumorjax.results.dicom.images import density_map, segmentation
    from tumorjax.results.dicom.kept import read_kept
    from tumorjax.results.dicom.placed import place
    from tumorjax.results.dicom.structure_set import structure_set

    with output_folder(out, overwrite) as staging:
        kept = read_kept(Path(folder))
        placed = place(kept, Path(reference))
        try:
            with warnings.catch_warnings():
                # The reference's own values, which bend the standard's rules where its scanner does.
                warnings.simplefilter("ignore")
                objects = {
                    PLAN_CONTOURS: structure_set(placed),
                    PLAN_MASK: segmentation(placed),
                    DENSITY: density_map(placed),
                }
                if placed.dose is not None:
                    objects[DOSE] = dose_grid(placed, placed.dose)
                for name, each in objects.items():
                    each.save_as(staging / name, enforce_file_format=True)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            placed.series.fail(f"has headers to which no objects can be added ({said}); give another series")
    volume = float(placed.plan.sum() * placed.grid.voxel_volume) / 1000
    return {"quality": kept.quality, "plan_ml": volume, "files": ", ".join(objects)}
