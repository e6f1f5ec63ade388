"""The background of an image of intensities: which value it has, and how the rest comes to lie above it."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from tumorjax.io.volume import Volume

# A value that fills this share of the image's border is its background; noise and tissue repeat none as often.
_CONSTANT = 0.1
# What differs from the background by less than this share of the range of intensities is background too: resampling
# blurs and rings around a brain.
_SAME = 0.02
# Intensities below the background are noise or ringing where they are fewer (share of the voxels) or weaker (share of
# the range) than this.
_FEW, _WEAK = 0.05, 0.05
# A background that differs from zero by less than this share of the range is zero.
_NEGLIGIBLE = 0.01
# Brightness that the darkest tissue is given, of the bright tissue: that of fluid in a T1 image.
_DARKEST = 0.2
# Percentiles that stand for dark and bright tissue.
_DARK, _BRIGHT = 0.1, 98.0
# Voxels by which percentiles are estimated.
_ENOUGH = 500_000


def above_background(image: Volume, notes: list[str] | None = None, *, inside: np.ndarray | None = None) -> Volume:
    """Return an image with zero as its background and positive tissue, whatever normalisation it has been through.

    Parameters
    ----------
    image
        Intensities, such as a T1 image.
    notes
        Gets a remark where tissue was as dark as the background or darker, so that all intensities were raised.
    inside
        (x, y, z), boolean: a mask of the brain on the image's voxels. It is used only where the image itself does not
        show what is background.

    Returns
    -------
    Volume
        The image itself where the background is zero already and nothing but noise is below.

    Raises
    ------
    InputError
        If voxels inside are missing (NaN or infinite), or the background cannot be told.

    Notes
    -----
    The background is the value that fills the border of the image, and everything of this value, or missing, that
    reaches the border. Without such a value it is the noise of which the border has the median. It is subtracted where
    tissue lies above it. Where tissue lies on both sides (z-scores in a brain mask) or below, the tissue is raised
    until the darkest has a fifth of the brightness of the brightest, as fluid in a T1 image has; the true offset is
    lost.
    """
    data, lost = np.asarray(image.data), image.missing
    edge = _edge(data, lost)
    values, counts = np.unique(edge, return_counts=True) if edge.size else (np.zeros(1), np.zeros(1))
    constant = counts.max() >= _CONSTANT * edge.size > 0
    level = float(values[counts.argmax()]) if constant else None
    if lost is None and level == 0 and data.min() >= 0:
        return image
    shown = data.ravel() if lost is None else data[~lost]
    shown = shown if level is None else shown[shown != level]
    if not shown.size:
        return image
    some = shown[:: max(1, shown.size // _ENOUGH)].astype(float)
    spread = float(np.subtract(*np.percentile(some, [98, 2])))

    def is_lowest(value: float) -> bool:
        return float(np.mean(some < value - _WEAK * spread)) <= _FEW

    def is_background(value: float | None) -> np.ndarray:
        alike = np.zeros(data.shape, bool) if value is None else np.abs(data - value) <= _SAME * spread
        return alike if lost is None else alike | lost

    if lost is not None and (enclosed := int((lost & ~_reaching_the_border(is_background(level))).sum())):
        image.fail(f"has {enclosed} NaN or infinite voxels inside of what it shows, not only outside; repair it")
    if level is None and lost is None and not is_lowest(0.0):
        # A border of noise, or one that tissue reaches.
        level = float(np.median(edge))
        if not is_lowest(level):
            if inside is None or not inside.any():
                image.fail(
                    f"has values from {data.min():g} to {data.max():g} and no background of one value, so that the "
                    "brain cannot be found; give one that is zero outside the brain, or a brain mask"
                )
            return _raised(image, ~np.asarray(inside, bool), notes)
    zero = 0.0 if level is None or abs(level) <= _NEGLIGIBLE * spread else level
    if not is_lowest(zero):
        outside = _around(is_background(level))
        return _raised(image, outside if lost is None else outside | lost, notes)
    if zero == 0:
        # Where voxels are missing the data are zero.
        return image if lost is None else replace(image, missing=None)
    shifted = data.astype(np.float32) - np.float32(zero)
    return replace(image, data=shifted if lost is None else np.where(lost, 0, shifted), missing=None)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return a mask without holes: everything that no path outside the mask joins to the border."""
    return ~_reaching_the_border(~mask)


def _reaching_the_border(mask: np.ndarray) -> np.ndarray:
    # scipy's binary_fill_holes does the same by repeated dilation, thirty times as slowly.
    parts = np.zeros([n + 2 for n in mask.shape], np.int32)
    ndimage.label(np.pad(mask, 1, constant_values=True), output=parts)
    return (parts == parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


def _around(background: np.ndarray) -> np.ndarray:
    """Return the background that reaches the border, without tissue of the same value that narrow paths join to it."""
    wide = _reaching_the_border(ndimage.minimum_filter(background, 3, mode="constant", cval=True))
    return np.asarray(ndimage.maximum_filter(wide, 3, mode="constant", cval=True)) & background


def _edge(data: np.ndarray, lost: np.ndarray | None) -> np.ndarray:
    """Return the intensities at the border of the image, and at that of what is missing."""
    faces = np.concatenate([np.take(data, end, axis).ravel() for axis in range(3) for end in (0, -1)])
    if lost is None:
        return faces
    known = np.concatenate([np.take(~lost, end, axis).ravel() for axis in range(3) for end in (0, -1)])
    beside = np.asarray(ndimage.binary_dilation(lost)) & ~lost
    return np.concatenate([faces[known], data[beside]])


def _raised(image: Volume, outside: np.ndarray, notes: list[str] | None) -> Volume:
    data = np.asarray(image.data)
    tissue = data[~outside]
    if not tissue.size:
        return image
    dark, bright = np.percentile(tissue[:: max(1, tissue.size // _ENOUGH)].astype(float), [_DARK, _BRIGHT])
    zero = (dark - _DARKEST * bright) / (1 - _DARKEST)
    raised = np.where(outside, 0, np.maximum(data.astype(np.float32) - zero, dark - zero)).astype(np.float32)
    if notes is not None:
        notes.append(
            f"The {image.name} image has tissue below its background (values from {tissue.min():g} to "
            f"{tissue.max():g}); its intensities are raised above it."
        )
    return replace(image, data=raised, missing=None)
