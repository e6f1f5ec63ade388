"""A patient's images, checked and brought to one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import InputError, Volume, read_volume, resample, sha256
from tumorjax.pipeline.tissue import HOLE, Maps, TissueSource, fill_holes, fill_lesion, stripped_brain, tissue_source
from tumorjax.planning import dice
from tumorjax.registration import Transform

# The labels of BraTS: 1 necrosis, 4 enhancing tumour, 2 oedema.
LABELS = {"core": (1, 4), "edema": (2,)}
DEFAULT_ATLAS = "icbm152"
# Voxels kept around the brain, so that no operator meets the border.
_MARGIN = 2
# Images of one patient show the same brain; less of the lesion in it (with an atlas that was not aligned: less)
# means that they do not share the world. Nor do brains that overlap less (Dice).
_SHARED = 0.8
_SHARED_UNALIGNED = 0.9
_SHARED_BRAIN = 0.6
# Less than this share of the lesion is not worth a note.
_TOLD = 0.005

# No brain mask is this large (ml), even if generous; one that is fills the image.
_LARGEST_MASK = 3000.0

Images = Mapping[str, Volume]


@dataclass(frozen=True, eq=False)
class Patient:
    """What is known of a patient, in the geometry of the segmentation and on the computing grid.

    Parameters
    ----------
    reference
        The segmentation; its voxels are the patient's geometry.
    core, flair
        (x, y, z) in the patient's geometry, boolean: the tumour core, and the whole lesion (core and oedema).
    brain
        The same, boolean; holds the lesion.
    background
        The same, float32: the T1 image, or tissue where there is none, to draw on.
    anatomy
        Healthy tissue on the computing grid, float32.
    core_fraction, flair_fraction
        (x, y, z) of the computing grid, float32: share of each voxel in the core and in the whole lesion.
    pet, pet_mask
        The same: the PET signal in its own unit (zero where not measured), and where it was measured
        (not zero, boolean). None without PET.
    transform
        The atlas' registration; None without one.
    notes
        What a reader of the results should know about the inputs.
    hashes
        SHA-256 of each file, by its role.
    """

    reference: Volume
    core: np.ndarray
    flair: np.ndarray
    brain: np.ndarray
    background: np.ndarray
    anatomy: Anatomy
    core_fraction: np.ndarray
    flair_fraction: np.ndarray
    pet: np.ndarray | None
    pet_mask: np.ndarray | None
    transform: Transform | None
    notes: list[str]
    hashes: dict[str, str]


def load_patient(
    *,
    segmentation: str | Path,
    labels: Mapping[str, tuple[int, ...]] | None = None,
    t1: str | Path | None = None,
    pet: str | Path | None = None,
    white_matter: str | Path | None = None,
    grey_matter: str | Path | None = None,
    csf: str | Path | None = None,
    tissue: str | Path | None = None,
    tissue_labels: Mapping[str, tuple[int, ...]] | None = None,
    atlas: str | Path | None = None,
    brain_mask: str | Path | None = None,
    resolution: float = 2.0,
    progress: Callable[[str], None] = lambda message: None,
) -> Patient:
    """Read a patient's images and make the anatomy in which a tumour can be computed.

    Parameters
    ----------
    segmentation
        Label map of the tumour; its voxels are the geometry of everything that is returned.
    labels
        Labels of "core" and "edema"; by default those of BraTS. Without "edema" the lesion is the core.
    t1, pet
        T1-weighted image, PET image.
    white_matter, grey_matter, csf
        Probability maps of the patient's tissue.
    tissue, tissue_labels
        Or a label map of it, with the labels of "csf", "gm" and "wm" (1, 2 and 3).
    atlas
        Or an atlas (see `tumorjax.atlas.load_atlas`), aligned with the T1 image or else with the
        brain mask; with neither, it must share the patient's world. Tissue comes from "icbm152"
        if nothing else is given.
    brain_mask
        Where tissue may be. By default the T1 image without its skull, or where there is tissue.
    resolution
        Voxel size of the computing grid, mm.
    progress
        Told what is done.

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
    given = [name for name, one in (("maps", white_matter), ("a label map", tissue), ("an atlas", atlas)) if one]
    if len(given) > 1:
        raise InputError(f"tissue: got {' and '.join(given)}; give one of them")
    progress("reading images")
    paths = {
        "segmentation": segmentation,
        "T1": t1,
        "PET": pet,
        "white matter": white_matter,
        "grey matter": grey_matter,
        "CSF": csf,
        "tissue": tissue,
        "brain mask": brain_mask,
    }
    images = {name: read_volume(path, name=name) for name, path in paths.items() if path is not None}
    hashes = {name: sha256(path) for name, path in paths.items() if path is not None}
    notes: list[str] = []
    reference = images["segmentation"]
    core, flair = _lesion(reference, labels, notes)
    lesion = replace(reference, data=flair, name="lesion")
    known_brain, has_skull = _known_brain(images, lesion, notes)
    source, transform = tissue_source(
        images,
        lesion,
        notes,
        atlas=atlas or DEFAULT_ATLAS,
        labels=tissue_labels,
        has_skull=has_skull,
        progress=progress,
    )

    progress("bringing the images to one grid")
    # At the patient's own voxels only what is shown or bounds the brain.
    fine_maps = None if known_brain is not None and "T1" in images else source.on(reference.grid)
    background = _background(images, fine_maps, reference.grid)
    brain = flair | (_filled_brain(fine_maps) if known_brain is None else known_brain)
    grid = _computing_grid(brain, reference, resolution)
    core_fraction, flair_fraction, brain_fraction = (_share(mask, reference, grid) for mask in (core, flair, brain))
    maps = source.on(grid)
    _check_shared(source, maps, flair_fraction, None if known_brain is None else brain_fraction)
    if source.csf is None:
        maps = (maps[0], maps[1], np.clip(brain_fraction - maps[0] - maps[1], 0, 1))
    if known_brain is not None:
        inside = (brain_fraction >= 0.5) | (flair_fraction > 0)
        maps = (maps[0] * inside, maps[1] * inside, maps[2] * inside)
    anatomy = _anatomy(maps, flair_fraction, grid, notes)
    uptake, measured = _pet(images["PET"], grid, flair_fraction, notes) if "PET" in images else (None, None)
    return Patient(
        reference=reference,
        core=core,
        flair=flair,
        brain=brain,
        background=background,
        anatomy=anatomy,
        core_fraction=core_fraction,
        flair_fraction=flair_fraction,
        pet=uptake,
        pet_mask=measured,
        transform=transform,
        notes=notes,
        hashes=hashes,
    )


def _filled_brain(maps: Maps | None) -> np.ndarray:
    if maps is None:
        raise ValueError("a brain needs tissue maps where no image shows it")
    return fill_holes(np.sum(maps, axis=0) >= 0.5)


def _background(images: Images, maps: Maps | None, grid: Grid) -> np.ndarray:
    if "T1" in images:
        return resample(images["T1"].data, images["T1"].affine, grid)
    if maps is None:
        raise ValueError("a background needs a T1 image or tissue maps")
    # Bright white matter and dark fluid, as a T1 image shows them.
    return maps[0] + np.float32(0.6) * maps[1] + np.float32(0.2) * maps[2]


def _computing_grid(brain: np.ndarray, reference: Volume, resolution: float) -> Grid:
    # Whole blocks of the patient's voxels, where the resolution is a multiple of theirs.
    grid = reference.grid.with_spacing(resolution)
    return grid.crop(*tissue_box(_share(brain, reference, grid) > 0, margin=_MARGIN))


def _share(mask: np.ndarray, reference: Volume, grid: Grid) -> np.ndarray:
    return np.clip(resample(mask, reference.affine, grid, kind="mean"), 0, 1)


def _lesion(
    segmentation: Volume, labels: Mapping[str, tuple[int, ...]] | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    chosen = labels or LABELS
    if "core" not in chosen or not set(chosen) <= set(LABELS):
        raise InputError(f"labels: got {', '.join(chosen) or 'none'}; give core and edema, as core=1,4 edema=2")
    values, counts = np.unique(segmentation.data, return_counts=True)
    present = {float(v): int(n) for v, n in zip(values, counts, strict=True) if v != 0}
    if not present:
        segmentation.fail("is empty; give a segmentation of the tumour")
    if odd := [value for value in present if value != round(value) or value < 0]:
        segmentation.fail(f"has values such as {odd[0]:g} that are no labels; give a label map")
    shown = ", ".join(f"{value:g} ({count} voxels)" for value, count in list(present.items())[:20])
    for name, numbers in chosen.items():
        if not present.keys() & {float(number) for number in numbers}:
            wanted = ",".join(map(str, numbers))
            segmentation.fail(f"has no {name} label {wanted}; present are {shown}; map them, as core=1,4 edema=2")
    mapped = {float(number) for numbers in chosen.values() for number in numbers}
    rest = {f"{value:g}": count for value, count in present.items() if value not in mapped}
    if rest and not labels:
        segmentation.fail(f"has labels beyond core=1,4 edema=2: present are {shown}; map them, as core=1,4 edema=2")
    for value, count in rest.items():
        notes.append(f"Label {value} of the segmentation ({count} voxels) is neither core nor oedema and is left out.")
    core = np.isin(segmentation.data, chosen["core"])
    return core, core | np.isin(segmentation.data, chosen.get("edema", ()))


def _known_brain(images: Images, lesion: Volume, notes: list[str]) -> tuple[np.ndarray | None, bool]:
    # The brain that the mask or else the T1 image shows, in the patient's geometry, and whether the T1 has a skull.
    shown: dict[str, np.ndarray] = {}
    has_skull = False
    if "T1" in images:
        stripped = stripped_brain(images["T1"])
        has_skull = stripped is None
        shown["T1"] = images["T1"].data > 0 if stripped is None else stripped
    if "brain mask" in images:
        shown["brain mask"] = images["brain mask"].data > 0.5
    brain = None
    for name, mask in shown.items():
        millilitres = float(mask.sum() * images[name].grid.voxel_volume) / 1000
        if name == "brain mask" and millilitres > _LARGEST_MASK:
            images[name].fail(f"holds {millilitres:.0f} ml, more than a brain; give one that is zero outside the brain")
        brain = resample(mask, images[name].affine, lesion.grid, kind="mean") >= 0.5
        inside = float(brain[lesion.data].mean())
        if inside < _SHARED:
            images[name].fail(f"holds {inside:.0%} of the lesion; give an image in the segmentation's world space")
    if has_skull and "brain mask" not in images:
        notes.append("The T1 image shows the skull, so the tissue maps tell the brain; a brain mask would be better.")
        return None, True
    if brain is not None and (lost := int((lesion.data & ~brain).sum())):
        notes.append(f"{lost} voxels of the lesion lie outside the brain; they are added to it.")
    return brain, has_skull


def _check_shared(
    source: TissueSource,
    maps: Maps,
    flair_fraction: np.ndarray,
    brain_fraction: np.ndarray | None,
) -> None:
    # Maps with a hole under the tumour are welcome, maps of another place are not.
    covered = fill_holes(np.sum(maps, axis=0) >= HOLE)
    inside = float(flair_fraction[covered].sum() / flair_fraction.sum())
    image = source.white_matter
    remedy = (
        "give maps in the segmentation's world space" if source.own else "give a T1 image or a brain mask to align it"
    )
    if brain_fraction is None:
        if inside < (_SHARED if source.own else _SHARED_UNALIGNED):
            image.fail(f"holds {inside:.0%} of the lesion; {remedy}")
        return
    overlap = dice(covered, brain_fraction >= 0.5)
    if overlap < _SHARED_BRAIN:
        image.fail(f"shows a brain that overlaps the patient's with a Dice of {overlap:.2f}; {remedy}")


def _anatomy(maps: Maps, flair_fraction: np.ndarray, grid: Grid, notes: list[str]) -> Anatomy:
    (white, grey, csf), filled = fill_lesion(maps, flair_fraction, float(np.asarray(grid.spacing)[0]))
    if filled > _TOLD:
        notes.append(f"{filled:.1%} of the lesion had no tissue in the maps and was given that of its surroundings.")
    return Anatomy(grid, white, grey, csf)


def _pet(pet: Volume, grid: Grid, flair_fraction: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    signal = pet.data[pet.data != 0]
    if signal.size and np.ptp(signal) == 0:
        pet.fail(f"is {signal[0]:g} wherever it is not zero; give the image of this patient, or leave it out")
    shown = resample((pet.data != 0).astype(np.float32), pet.affine, grid)
    measured = shown >= 0.5
    # Voxels at the rim of what was measured are averaged over the measured part alone.
    uptake = np.divide(resample(pet.data, pet.affine, grid), shown, out=np.zeros_like(shown), where=measured)
    inside = float(flair_fraction[measured].sum() / flair_fraction.sum())
    if inside == 0:
        pet.fail("shows nothing in the lesion; give an image in the segmentation's world space")
    if inside < _SHARED:
        notes.append(f"The PET image covers {inside:.0%} of the lesion.")
    return uptake, measured
