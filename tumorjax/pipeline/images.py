"""A patient's images: what they show, and whether they belong together."""

from collections.abc import Mapping

import numpy as np

from tumorjax.atlas.brain import fill_holes
from tumorjax.grid import Grid
from tumorjax.io import InputError, Volume, resample
from tumorjax.pipeline.tissue import HOLE, Maps, TissueSource, stripped_brain
from tumorjax.planning import dice

# The labels of BraTS: 1 necrosis, 4 enhancing tumour, 2 oedema.
LABELS = {"core": (1, 4), "edema": (2,)}
# Images of one patient show the same brain; less of the lesion in it (with an atlas that was not aligned: less)
# means that they do not share the world. Nor do brains that overlap less (Dice).
_SHARED = 0.8
SHARED_UNALIGNED = 0.9
_SHARED_BRAIN = 0.6
# No brain mask is this large (ml), even if generous; one that is fills the image.
_LARGEST_MASK = 3000.0

Images = Mapping[str, Volume]


def lesion_of(
    segmentation: Volume, labels: Mapping[str, tuple[int, ...]] | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return core and whole lesion in a label map, boolean; labels that are in neither become notes."""
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


def known_brain(images: Images, lesion: Volume, notes: list[str]) -> tuple[np.ndarray | None, bool]:
    """Return the brain that the mask or else the T1 image shows, and whether the T1 image shows a skull.

    The brain is in the geometry of the lesion; None if no image shows it.
    """
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


def check_shared(
    source: TissueSource,
    maps: Maps,
    flair_fraction: np.ndarray,
    brain_fraction: np.ndarray | None,
) -> None:
    """Raise an `InputError` if tissue maps on the computing grid lie elsewhere than the lesion or the brain."""
    # Maps with a hole under the tumour are welcome, maps of another place are not.
    covered = fill_holes(np.sum(maps, axis=0) >= HOLE)
    inside = float(flair_fraction[covered].sum() / flair_fraction.sum())
    image = source.white_matter
    remedy = (
        "give maps in the segmentation's world space" if source.own else "give a T1 image or a brain mask to align it"
    )
    if brain_fraction is None:
        if inside < (_SHARED if source.own else SHARED_UNALIGNED):
            image.fail(f"holds {inside:.0%} of the lesion; {remedy}")
        return
    overlap = dice(covered, brain_fraction >= 0.5)
    if overlap < _SHARED_BRAIN:
        image.fail(f"shows a brain that overlaps the patient's with a Dice of {overlap:.2f}; {remedy}")


def uptake_on(pet: Volume, grid: Grid, flair_fraction: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the PET signal on a grid, zero where not measured, and where it was measured."""
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
