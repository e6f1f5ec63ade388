"""A patient's images: what they show, and whether they belong together."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid, tissue_box
from tumorjax.growth import FisherKolmogorov
from tumorjax.io import Volume, fill_holes, resample
from tumorjax.pipeline.tissue import HOLE, Maps, TissueSource, stripped_brain
from tumorjax.planning import dice
from tumorjax.quality import Note, Status

# Images of one patient show the same brain; less of the lesion in it (with an atlas that was not aligned: less)
# means that they do not share the world. Nor do brains that overlap less (Dice).
_SHARED = 0.8
SHARED_UNALIGNED = 0.9
_SHARED_BRAIN = 0.6
# No brain mask is this large (ml), even if generous; one that is fills the image.
_LARGEST_MASK = 3000.0

# Fewer voxels of the computing grid are no outline.
_LEAST_VOXELS = 8

Images = Mapping[str, Volume]


class Brain(NamedTuple):
    """The brain that an image shows, on the voxels of that image.

    Parameters
    ----------
    image
        The T1 image or the brain mask; its data are the brain, boolean.
    """

    image: Volume

    def on(self, grid: Grid) -> np.ndarray:
        """Return the brain on a grid, boolean."""
        return resample(self.image.data, self.image.affine, grid, kind="mean") >= 0.5


def known_brain(images: Images, lesion: Volume, notes: list[str]) -> tuple[Brain | None, bool]:
    """Return the brain that the mask or else the T1 image shows, and whether the T1 image shows a skull.

    The brain is None if no image shows it.
    """
    shown: dict[str, Brain] = {}
    has_skull = False
    if "T1" in images:
        t1 = images["T1"]
        stripped = stripped_brain(t1)
        has_skull = stripped is None
        shown["T1"] = Brain(replace(t1, data=t1.data > 0 if stripped is None else stripped))
    if "brain mask" in images:
        mask = images["brain mask"]
        shown["brain mask"] = Brain(replace(mask, data=mask.data > 0.5))
        millilitres = float(shown["brain mask"].image.data.sum() * mask.grid.voxel_volume) / 1000
        if millilitres > _LARGEST_MASK:
            mask.fail(f"holds {millilitres:.0f} ml, more than a brain; give one that is zero outside the brain")
    start, shape = tissue_box(lesion.data)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    for name, brain in shown.items():
        inside = float(brain.on(lesion.grid.crop(start, shape))[lesion.data[box]].mean())
        if inside < _SHARED:
            images[name].fail(f"holds {inside:.0%} of the lesion; give an image in the segmentation's world space")
    if has_skull and "brain mask" not in images:
        notes.append("The T1 image shows the skull, so the tissue maps tell the brain; a brain mask would be better.")
        return None, True
    # The mask, where there are both.
    return (list(shown.values())[-1] if shown else None), has_skull


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


def notes_on_size(anatomy: Anatomy, core_fraction: np.ndarray, flair_fraction: np.ndarray) -> list[str]:
    """Return a note where a lesion is too small for the computing grid, or for the seed that growth starts from."""
    voxel = float(anatomy.grid.voxel_volume)
    # A seed is a ball of cubic splines, which reaches over two knots.
    seed = 4 / 3 * math.pi * (2 * max(FisherKolmogorov().seed_width, math.cbrt(voxel))) ** 3
    for name, fraction, least, why in (
        ("lesion", flair_fraction, seed, "the seed that growth starts from"),
        ("core", core_fraction, _LEAST_VOXELS * voxel, f"{_LEAST_VOXELS} voxels of the computation"),
    ):
        if (volume := float(fraction.sum()) * voxel) < least:
            text = f"The {name} ({volume / 1000:.2g} ml) is smaller than {why} ({least / 1000:.2g} ml)"
            return [Note(f"{text}: its outline says little, and the model can hardly meet it.", Status.DOUBTFUL)]
    return []


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
