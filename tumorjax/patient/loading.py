"""Reading a patient's images."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tumorjax.cellularity import ADC_LAWS, LinearAdcLaw
from tumorjax.grid import Grid
from tumorjax.io import (
    InputError,
    TensorVolume,
    Volume,
    above_background,
    as_background,
    as_labels,
    as_tensor,
    as_volume,
    check_worlds,
    resample,
    sha256,
)
from tumorjax.patient.assembly import Scans, assembled, framed, without_tissue
from tumorjax.patient.conventions import Labels
from tumorjax.patient.fibres import where_measured
from tumorjax.patient.images import Images, known_brain
from tumorjax.patient.labels import lesion_of
from tumorjax.patient.patient import DEFAULT_ATLAS, FRAME, Patient, with_cavity
from tumorjax.patient.tissue import tissue_source
from tumorjax.registration import DEFAULT_ENGINE, Transform, check_engine, load_transform
from tumorjax.storage import text_digest

T = TypeVar("T")

Image = str | Path | Volume
"""The path of a NIfTI file or of a DICOM series, or an image in memory."""

# Images whose voxels may be NaN anywhere outside the brain; labels and maps may have NaN only towards the border.
_NAN_OUTSIDE = ("T1", "PET", "ADC")


def load_patient(
    *,
    segmentation: Image,
    labels: Labels | str | None = None,
    t1: Image | None = None,
    pet: Image | None = None,
    adc: Image | None = None,
    flair: Image | None = None,
    adc_law: str = LinearAdcLaw.name,
    white_matter: Image | None = None,
    grey_matter: Image | None = None,
    csf: Image | None = None,
    tissue: Image | None = None,
    tissue_labels: Mapping[str, tuple[int, ...]] | None = None,
    atlas: str | Path | None = None,
    transform: str | Path | Transform | None = None,
    brain_mask: Image | None = None,
    dti: str | Path | TensorVolume | None = None,
    resolution: float = 2.0,
    registration: str = DEFAULT_ENGINE,
    progress: Callable[[str], None] = lambda message: None,
    early: Callable[[Callable[[], Patient | None]], None] | None = None,
) -> Patient:
    """Read a patient's images and make the anatomy in which tumours are simulated.

    Images are paths of files, or a `Volume` in memory.

    Parameters
    ----------
    segmentation
        Label image of the tumour. Its voxels define the geometry of all returned images, extended to the whole brain if
        the image is smaller.
    labels
        Labels of "core", "edema" and "cavity" (resected), or the name of a convention
        (`tumorjax.patient.conventions`); by default the convention of BraTS that the labels fit. Without "edema", the
        core is the only outline, and the lesion is the core.
    t1, pet
        T1-weighted image and PET image.
    adc
        Image of the apparent diffusion coefficient of water, in m^2/s, mm^2/s, 1e-3 mm^2/s or 1e-6 mm^2/s; the
        unit is recognised by its values in the core. There the density is read off it, see
        `tumorjax.DensityMap.from_adc`.
    adc_law
        How: "linear", ADC_w - ADC is proportional to the density, or "inverse", 1 / ADC is.
    flair
        FLAIR image, which the report shows; nothing is calibrated to it.
    white_matter, grey_matter, csf
        Probability maps of the patient's tissue.
    tissue, tissue_labels
        Alternatively, a label image of the tissue, and its labels of "csf", "gm" and "wm" (by default 1, 2 and 3).
    atlas
        Alternatively, an atlas (see `tumorjax.atlas.load_atlas`), which is aligned with the T1 image or else
        with the brain mask; without both, it must share the patient's world. The default, if no tissue is
        given, is "icbm152".
    transform
        The map from the patient's world to the atlas', or a file of it, as an earlier run wrote it
        (`atlas_transform.tfm`), or another program in ITK's text format; nothing is registered then.
    brain_mask
        Mask of the brain, outside which there is no tissue. By default it is found from the T1 image, if that has no
        skull, or else from the tissue.
    dti
        Image of the diffusion tensors, in the patient's world, along whose fibres cells in white matter diffuse: a file
        that `tumorjax.io.read_tensor` reads without settings, or what it returns with them. Where it shows nothing,
        cells diffuse alike in all directions. In the core and the cavity, where the tensors are those of the tumour and
        not of the tissue that it grew in, they are filled in from the white matter around. In the oedema the directions
        are kept: they are relative to the mean diffusivity, which water raises.
    resolution
        Voxel size of the computing grid, mm.
    registration
        Engine by which atlases are deformed to the T1 image, see `tumorjax.registration.register`.
    progress
        Function that is called with a description of each step.
    early
        Function that is called before an atlas is aligned, with a function that returns the patient as if all of the
        brain were white matter, see `tumorjax.patient.assembly.without_tissue`; such as `begin` of a
        `tumorjax.pipeline.rehearsal.Rehearsal`, which compiles meanwhile.

    Raises
    ------
    InputError
        If an input is unusable, or the images do not share a world; the message is one line.

    Warns
    -----
    RegistrationWarning
        If the atlas could not be aligned well.
    """
    if not 0.5 <= resolution <= 8:
        raise InputError(f"resolution: got {resolution} mm; give 0.5 to 8")
    if (white_matter is None) != (grey_matter is None) or (csf is not None and white_matter is None):
        raise InputError("tissue: white and grey matter come together; give both maps")
    given = [
        name for name, one in (("maps", white_matter), ("a label map", tissue), ("an atlas", atlas)) if one is not None
    ]
    if len(given) > 1:
        raise InputError(f"tissue: got {' and '.join(given)}; give one of them")
    if transform is not None and given and given != ["an atlas"]:
        raise InputError(f"transform: leads to an atlas, but the tissue is given by {given[0]}; leave one out")
    if adc_law not in ADC_LAWS:
        raise InputError(f"adc_law: got {adc_law!r:.40}; give {' or '.join(ADC_LAWS)}")
    check_engine(registration)
    to_atlas = load_transform(transform) if isinstance(transform, (str, Path)) else transform
    progress("reading images")
    given_images = {
        "segmentation": segmentation,
        "T1": t1,
        "PET": pet,
        "ADC": adc,
        "FLAIR": flair,
        "white matter": white_matter,
        "grey matter": grey_matter,
        "CSF": csf,
        "tissue": tissue,
        "brain mask": brain_mask,
    }
    images = {
        name: as_volume(image, name=name, background_nan=True)
        for name, image in given_images.items()
        if image is not None
    }
    images = {name: each if name in _NAN_OUTSIDE else as_background(each) for name, each in images.items()}
    files = {**given_images, "transform": transform}
    hashes = {name: sha256(file) for name, file in files.items() if isinstance(file, (str, Path))}
    # The identifier itself would name the study.
    hashes |= {f"{FRAME} of {name}": text_digest(each.frame) for name, each in images.items() if each.frame}
    tensor = None if dti is None else as_tensor(dti, name="DTI")
    if tensor is not None:
        images["DTI"] = where_measured(tensor)
        hashes |= {} if tensor.path is None else {"DTI": sha256(tensor.path)}
    # Without any of these, the atlas cannot be aligned and must share the patient's world.
    placed = transform is None and not images.keys() & {"T1", "brain mask", "white matter", "tissue"}
    notes = [*check_worlds(images, needed=placed), *(note for image in images.values() for note in image.notes)]
    outlined = images["segmentation"] = as_labels(images["segmentation"], notes)
    core, lesion, cavity = lesion_of(outlined, labels, notes)
    if "T1" in images:
        images["T1"] = above_background(images["T1"], notes, inside=_mask_on(images, images["T1"].grid))
    affected = replace(outlined, data=with_cavity(lesion, cavity), name="lesion")
    shown, has_skull = known_brain(images, affected, notes)
    about = (adc_law, resolution, registration)
    scans = Scans(images, hashes, outlined, core, lesion, cavity, shown, has_skull, tensor, *about)
    # Placing the images takes a second, for which no tissue is needed.
    frame = _begun(framed, scans) if scans.tells_frame else None
    if early is not None:
        early(lambda: without_tissue(scans, frame and frame.result()))
    source = tissue_source(
        images,
        affected,
        notes,
        atlas=DEFAULT_ATLAS if atlas is None else atlas,
        labels=tissue_labels,
        brain=None if shown is None else shown.image,
        has_skull=has_skull,
        resolution=resolution,
        registration=registration,
        transform=to_atlas,
        progress=progress,
    )
    if placed:
        check_worlds({"segmentation": outlined, "atlas": source.white_matter}, needed=True)
    progress("resampling the images to one grid")
    return assembled(scans, source, notes, frame and frame.result())


def _begun(work: Callable[..., T], *given: Any) -> Future[T]:
    """Return the future of a function that a thread of its own begins."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work, *given)
    finally:
        pool.shutdown(wait=False)


def _mask_on(images: Images, grid: Grid) -> np.ndarray | None:
    if "brain mask" not in images:
        return None
    mask = images["brain mask"]
    return resample(mask.data > 0.5, mask.affine, grid, kind="mean") >= 0.5
