"""The background of an intensity image: finding its value, and shifting intensities so that it is zero."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from tumorjax.io.volume import Volume

# A value that fills this share of the image's border is its background; in noise and tissue no value is as frequent.
_CONSTANT = 0.1
# Values that differ from the background by less than this share of the intensity range count as background too,
# because resampling blurs and causes ringing around a brain.
_SAME = 0.02
# Intensities below the background count as noise or ringing if they are fewer (share of the voxels) or weaker (share of
# the range) than this.
_FEW, _WEAK = 0.05, 0.05
# A background that differs from zero by less than this share of the range is zero.
_NEGLIGIBLE = 0.01
# Brightness of the darkest tissue after raising, as a share of the bright tissue: that of fluid in a T1 image.
_DARKEST = 0.2
# Percentiles that represent dark and bright tissue.
_DARK, _BRIGHT = 0.1, 98.0
# Number of voxels from which percentiles are estimated.
_ENOUGH = 500_000


def above_background(image: Volume, notes: list[str] | None = None, *, inside: np.ndarray | None = None) -> Volume:
    """Return an image with a background of zero and positive tissue, however it was normalised.

    Parameters
    ----------
    image
        An intensity image, such as a T1 image.
    notes
        List to which a note is appended if all intensities were raised, because tissue was as dark as the background.
    inside
        (x, y, z), boolean: a mask of the brain on the image's voxels. It is used only where the image itself does not
        show what is background.

    Returns
    -------
    Volume
        The shifted image; the image itself if its background is zero already and only noise lies below.

    Raises
    ------
    InputError
        If voxels inside are missing (NaN or infinite), or the background cannot be determined.

    Notes
    -----
    The background consists of the voxels that have the most frequent value of the image's border, or are missing, and
    are connected with the border. If no value is frequent there, the background is noise, and its level is the median
    of the border. This level is subtracted where tissue lies above it. Where tissue lies on both sides (z-scores in a
    brain mask) or below, the tissue is raised until the darkest has a fifth of the brightness of the brightest, like
    fluid in a T1 image; the true offset is lost.
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
        image.fail(f"has {enclosed} NaN or infinite voxels in its foreground, not only in the background; repair it")
    if level is None and lost is None and not is_lowest(0.0):
        # The border is noise, or tissue reaches it.
        level = float(np.median(edge))
        if not is_lowest(level):
            if inside is None or not inside.any():
                image.fail(
                    f"has values from {data.min():g} to {data.max():g} and no background of one value, so that the "
                    "brain cannot be found; give an image that is zero outside the brain, or a brain mask"
                )
            return _raised(image, ~np.asarray(inside, bool), notes)
    zero = 0.0 if level is None or abs(level) <= _NEGLIGIBLE * spread else level
    if not is_lowest(zero):
        outside = _around(is_background(level))
        return _raised(image, outside if lost is None else outside | lost, notes)
    if zero == 0:
        # The data are zero already where voxels are missing.
        return image if lost is None else replace(image, missing=None)
    shifted = data.astype(np.float32) - np.float32(zero)
    return replace(image, data=shifted if lost is None else np.where(lost, 0, shifted), missing=None)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return a mask with its holes filled: a hole is a part of the outside that is not connected with the border."""
    return ~_reaching_the_border(~mask)


def _reaching_the_border(mask: np.ndarray) -> np.ndarray:
    # scipy's binary_fill_holes does the same by repeated dilation, thirty times as slowly.
    parts = np.zeros([n + 2 for n in mask.shape], np.int32)
    ndimage.label(np.pad(mask, 1, constant_values=True), output=parts)
    return (parts == parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


def _around(background: np.ndarray) -> np.ndarray:
    """Return the background connected with the border, without tissue of the same value joined to it by thin paths."""
    wide = _reaching_the_border(ndimage.minimum_filter(background, 3, mode="constant", cval=True))
    return np.asarray(ndimage.maximum_filter(wide, 3, mode="constant", cval=True)) & background


def _edge(data: np.ndarray, lost: np.ndarray | None) -> np.ndarray:
    """Return the intensities at the border of the image and around its missing voxels."""
    faces = _faces(data)
    if lost is None:
        return faces
    known = ~_faces(lost)
    beside = np.asarray(ndimage.binary_dilation(lost)) & ~lost
    return np.concatenate([faces[known], data[beside]])


def _faces(data: np.ndarray) -> np.ndarray:
    # np.take would copy all of an array in the order of NIfTI, for each face.
    return np.concatenate([np.moveaxis(data, axis, 0)[end].ravel() for axis in range(3) for end in (0, -1)])


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
