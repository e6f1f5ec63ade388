"""A patient's images: the brain that they show, and checks that they belong together."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tumorjax.grid import Grid, tissue_box
from tumorjax.io import Volume, fill_holes, resample
from tumorjax.patient.tissue import HOLE, Maps, TissueSource, stripped_brain
from tumorjax.planning import dice

# Images share a world only if the brain contains at least this share of the lesion (for an atlas that was not aligned:
# the second share), and if two brains overlap by at least this Dice.
_SHARED = 0.8
SHARED_UNALIGNED = 0.9
_SHARED_BRAIN = 0.6
# Even a generous brain mask is smaller than this (ml); a larger one fills the image.
_LARGEST_MASK = 3000.0

# Units in which scanners and programs write an ADC, in mm^2/s, and what its median in a tumour can be, mm^2/s.
_ADC_UNITS = {"1e-6 mm^2/s": 1e-6, "1e-3 mm^2/s": 1e-3, "mm^2/s": 1.0, "m^2/s": 1e6}
_ADC = (3e-4, 3.5e-3)

Images = Mapping[str, Volume]


class Brain(NamedTuple):
    """The brain in an image, on the voxels of that image.

    Parameters
    ----------
    image
        The T1 image or the brain mask, with a boolean mask of the brain as its data.
    """

    image: Volume

    def on(self, grid: Grid) -> np.ndarray:
        """Return the mask of the brain on a grid."""
        return resample(self.image.data, self.image.affine, grid, kind="mean") >= 0.5


def known_brain(images: Images, lesion: Volume, notes: list[str]) -> tuple[Brain | None, bool]:
    """Return the brain in the brain mask or else in the T1 image, and whether the T1 image shows the skull.

    The brain is None if neither defines it.
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
            mask.fail(f"has {millilitres:.0f} ml, more than a brain; give a mask that is zero outside the brain")
    start, shape = tissue_box(lesion.data)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    for name, brain in shown.items():
        inside = float(brain.on(lesion.grid.crop(start, shape))[lesion.data[box]].mean())
        if inside < _SHARED:
            images[name].fail(f"contains {inside:.0%} of the lesion; give an image in the segmentation's world space")
    if has_skull and "brain mask" not in images:
        notes.append("The T1 image shows the skull, so the tissue maps define the brain; a brain mask would be better.")
        return None, True
    # If there are both, the brain mask is used, which comes last.
    return (list(shown.values())[-1] if shown else None), has_skull


def check_shared(
    source: TissueSource,
    maps: Maps,
    lesion_fraction: np.ndarray,
    brain_fraction: np.ndarray | None,
) -> None:
    """Raise an `InputError` if tissue maps on the computing grid do not overlap the lesion or the brain."""
    # Maps may have a hole under the tumour, but must not lie elsewhere.
    covered = fill_holes(np.sum(maps, axis=0) >= HOLE)
    inside = float(lesion_fraction[covered].sum() / lesion_fraction.sum())
    image = source.white_matter
    remedy = (
        "give maps in the segmentation's world space" if source.own else "give a T1 image or a brain mask to align it"
    )
    if brain_fraction is None:
        if inside < (_SHARED if source.own else SHARED_UNALIGNED):
            image.fail(f"contains {inside:.0%} of the lesion; {remedy}")
        return
    overlap = dice(covered, brain_fraction >= 0.5)
    if overlap < _SHARED_BRAIN:
        image.fail(f"shows a brain that overlaps the patient's with a Dice of {overlap:.2f}; {remedy}")


def uptake_on(pet: Volume, grid: Grid, lesion_fraction: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the PET signal on a grid, zero where it was not measured, and the mask where it was measured."""
    signal = pet.data[pet.data != 0]
    if signal.size and np.ptp(signal) == 0:
        pet.fail(f"is {signal[0]:g} wherever it is not zero; give the image of this patient, or leave it out")
    uptake, measured = _measured_on(pet, pet.data != 0, grid)
    _check_covered(pet, measured, lesion_fraction, "lesion", notes)
    return uptake, measured


def adc_on(adc: Volume, grid: Grid, core_fraction: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the apparent diffusion coefficient on a grid, mm^2/s, and the mask of the core where it was measured.

    The unit is recognised by the median in the core, whose plausible values in one unit are none in another.
    """
    found, measured = _measured_on(adc, adc.data > 0, grid)
    _check_covered(adc, measured, core_fraction, "core", notes)
    measured &= core_fraction >= 0.5
    if not measured.any():
        adc.fail("shows no voxel of the computation in the core; give a smaller --resolution, or leave it out")
    middle = float(np.median(found[measured]))
    units = [(unit, in_mm) for unit, in_mm in _ADC_UNITS.items() if _ADC[0] <= middle * in_mm <= _ADC[1]]
    if len(units) != 1:
        adc.fail(
            f"has a median of {middle:g} in the core, which is plausible in none of the units {', '.join(_ADC_UNITS)} "
            f"({_ADC[0]:g} to {_ADC[1]:g} mm^2/s); give the apparent diffusion coefficient in one of them"
        )
    unit, in_mm = units[0]
    notes.append(f"The ADC image is taken to be in {unit}, by its median of {middle:.4g} in the core.")
    return found * np.float32(in_mm), measured


def _measured_on(image: Volume, shown: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return an image on a grid, zero where it was not measured, and the mask where it was measured."""
    share = resample(shown.astype(np.float32), image.affine, grid)
    measured = share >= 0.5
    # Voxels at the border of the measured region are averaged over their measured part only.
    values = resample(np.where(shown, image.data, 0), image.affine, grid)
    return np.divide(values, share, out=np.zeros_like(share), where=measured), measured


def _check_covered(image: Volume, measured: np.ndarray, fraction: np.ndarray, region: str, notes: list[str]) -> None:
    """Raise an `InputError` where an image shows nothing of a region, and note where it does not show all of it."""
    inside = float(fraction[measured].sum() / fraction.sum())
    if inside == 0:
        image.fail(f"shows nothing in the {region}; give an image in the segmentation's world space")
    if inside < _SHARED:
        # Notes of a later visit begin with its day.
        notes.append(f"The {image.name.partition(' of ')[0]} image covers {inside:.0%} of the {region}.")
