"""A patient's images, checked and brought to one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorjax.anatomy import TISSUE_THRESHOLD, Anatomy
from tumorjax.atlas import load_atlas
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import InputError, Volume, read_volume, resample, sha256
from tumorjax.pipeline.tissue import (
    HOLE,
    TissueSource,
    align,
    fill_holes,
    fill_lesion,
    from_atlas,
    from_labels,
    from_maps,
    stripped_brain,
)
from tumorjax.planning import dice
from tumorjax.registration import Transform

# The labels of BraTS: 1 necrosis, 4 enhancing tumour, 2 oedema.
LABELS = {"core": (1, 4), "edema": (2,)}
DEFAULT_ATLAS = "icbm152"
TISSUE_LABELS = {"csf": (1,), "gm": (2,), "wm": (3,)}
# Voxels kept around the brain, so that no operator meets the border.
_MARGIN = 2
# Images of one patient show the same brain; less of the lesion in it (with an atlas that was not aligned: less)
# means that they do not share the world.
_SHARED = 0.8
_SHARED_UNALIGNED = 0.9
_SHARED_BRAIN = 0.6

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
    source, transform = _tissue_source(
        images, atlas or DEFAULT_ATLAS, tissue_labels, lesion, has_skull, notes, progress
    )

    progress("bringing the images to one grid")
    grid = reference.grid.with_spacing(resolution)
    core_fraction, flair_fraction = (_share(mask, reference, grid) for mask in (core, flair))
    maps = source.on(grid)
    _check_shared(source, maps, flair_fraction, None if known_brain is None else _share(known_brain, reference, grid))
    fine_maps = source.on(reference.grid) if known_brain is None or "T1" not in images else maps
    brain = flair | (fill_holes(np.sum(fine_maps, axis=0) >= 0.5) if known_brain is None else known_brain)
    if "T1" in images:
        background = resample(images["T1"].data, images["T1"].affine, reference.grid)
    else:
        # Bright white and dark fluid, as a T1 image shows them.
        background = fine_maps[0] + 0.6 * fine_maps[1] + 0.2 * fine_maps[2]
    brain_fraction = _share(brain, reference, grid)
    if source.csf is None:
        maps = (maps[0], maps[1], np.clip(brain_fraction - maps[0] - maps[1], 0, 1))
    if known_brain is not None:
        inside = (brain_fraction >= 0.5) | (flair_fraction > 0)
        maps = (maps[0] * inside, maps[1] * inside, maps[2] * inside)

    start, shape = tissue_box(brain_fraction > 0, margin=_MARGIN)
    box = tuple(slice(first, first + count) for first, count in zip(start, shape, strict=True))
    grid, core_fraction, flair_fraction = grid.crop(start, shape), core_fraction[box], flair_fraction[box]
    anatomy = _anatomy(tuple(tissue[box] for tissue in maps), flair_fraction, grid, source.own, notes)
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


def _share(mask: np.ndarray, reference: Volume, grid: Grid) -> np.ndarray:
    return np.clip(resample(mask, reference.affine, grid, kind="mean"), 0, 1)


def _lesion(
    segmentation: Volume, labels: Mapping[str, tuple[int, ...]] | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    chosen = LABELS if labels is None else labels
    if "core" not in chosen or not set(chosen) <= set(LABELS):
        raise InputError(f"labels: got {', '.join(chosen) or 'none'}; give core and edema, as core=1,4 edema=2")
    values, counts = np.unique(segmentation.data, return_counts=True)
    present = {float(v): int(n) for v, n in zip(values, counts, strict=True) if v != 0}
    if not present:
        segmentation.fail("is empty; give a segmentation of the tumour")
    if any(value != round(value) or value < 0 for value in present):
        segmentation.fail(f"has values such as {next(iter(present)):g} that are no labels; give a label map")
    shown = ", ".join(f"{value:g} ({count} voxels)" for value, count in list(present.items())[:20])
    for name, numbers in chosen.items():
        if not present.keys() & {float(number) for number in numbers}:
            wanted = ",".join(map(str, numbers))
            segmentation.fail(f"has no {name} label {wanted}; present are {shown}; map them, as core=1,4 edema=2")
    mapped = {float(number) for numbers in chosen.values() for number in numbers}
    rest = {f"{value:g}": count for value, count in present.items() if value not in mapped}
    if rest and labels is None:
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


def _tissue_source(
    images: Images,
    atlas: str | Path,
    tissue_labels: Mapping[str, tuple[int, ...]] | None,
    lesion: Volume,
    has_skull: bool,
    notes: list[str],
    progress: Callable[[str], None],
) -> tuple[TissueSource, Transform | None]:
    if "white matter" in images:
        return from_maps(images["white matter"], images["grey matter"], images.get("CSF")), None
    if "tissue" in images:
        return from_labels(images["tissue"], tissue_labels or TISSUE_LABELS), None
    progress(f"loading the atlas {atlas}")
    healthy = load_atlas(atlas)
    t1, mask = images.get("T1"), images.get("brain mask")
    if t1 is None and mask is None:
        notes.append(f"The atlas {healthy.name} is taken to lie in the patient's world; a T1 image would align it.")
        return from_atlas(healthy), None
    progress(f"aligning the atlas with the {'brain mask' if t1 is None else 'T1 image'}")
    transform = align(healthy, t1, mask, lesion, has_skull=has_skull)
    notes.append(
        f"The atlas {healthy.name} is aligned with the {'brain mask' if t1 is None else 'T1 image'} by an affine map: "
        f"{transform.measure} {transform.after:.2f}{f'. It FAILED: {transform.failure}' if transform.failure else ''}."
    )
    return from_atlas(healthy, transform), transform


def _check_shared(
    source: TissueSource,
    maps: tuple[np.ndarray, np.ndarray, np.ndarray],
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


def _anatomy(
    maps: tuple[np.ndarray, ...], flair_fraction: np.ndarray, grid: Grid, own: bool, notes: list[str]
) -> Anatomy:
    white, grey, csf = maps
    (white, grey, csf), filled = fill_lesion(
        (white, grey, csf), flair_fraction > 0, float(np.asarray(grid.spacing)[0]), own=own
    )
    lesion = float(flair_fraction.sum())
    if filled:
        notes.append(
            f"{filled} computing voxels of the lesion had no healthy tissue and hold that of their surroundings."
        )
    beyond = float(flair_fraction[white + grey < TISSUE_THRESHOLD].sum()) / lesion
    if beyond > 0.005:
        notes.append(f"{beyond:.1%} of the lesion lies in fluid, by the tissue maps; no tumour is computed there.")
    return Anatomy(grid, white, grey, csf)


def _pet(pet: Volume, grid: Grid, flair_fraction: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
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
