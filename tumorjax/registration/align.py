"""The function `register`, which aligns one brain with another and checks the result."""

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np

from tumorjax.io import Volume
from tumorjax.registration import inverse
from tumorjax.registration.engines import DEFAULT_ENGINE, ENGINES, check_engine, contrast_failure
from tumorjax.registration.images import Image, seen_region, working_image
from tumorjax.registration.linear import Optimiser, correlation
from tumorjax.registration.pair import Pair
from tumorjax.registration.transform import Field, Transform, count_folds
from tumorjax.registration.warping import warp

# Aligned with the atlas, healthy brains and patients reach a correlation of 0.85 to 0.95 and a Dice of 0.95 to 0.98;
# brains that lie upside down or on their side reach only 0.66 and 0.88.
_FLOORS = {"correlation": 0.7, "Dice": 0.9}
# A correct map never scales a head by more than this, even if a header has the wrong voxel size.
_MAX_SCALE = 3.0
# Largest ratio of the scales along two directions: correct maps reach 1.15, heads on their side 1.4 and more.
_MAX_ANISOTROPY = 1.35
# Two people's brains correlate equally well with left and right exchanged (within 0.015); the correlation of one
# person's brain with its own mirror image is lower by 0.03 (a healthy average) to 0.05.
_MIRROR_MARGIN = 0.025
# Largest median and largest maximal error (mm) of a usable inverse field.
_INVERSE_LIMITS = (0.5, 4.0)

# Largest decrease of the correlation that a deformation of aligned images may cause.
_LOSS = 0.01
# Standard deviations (mm) by which a deformation that cannot be used is smoothed, one after the other.
_WEAKER = (0.0, 2.0, 4.0, 8.0, 16.0)


RESOLUTION = 2.0
"""Voxel size of the finest level, mm."""
Kind = Literal["rigid", "affine", "deformable"]


class RegistrationWarning(UserWarning):
    """A registration is not reliable."""


def register(
    moving: Volume,
    fixed: Volume,
    *,
    kind: Kind = "affine",
    mask: np.ndarray | None = None,
    fixed_is_mask: bool = False,
    initial: Transform | None = None,
    resolution: float = RESOLUTION,
    engine: str = DEFAULT_ENGINE,
    labels: tuple[Volume, Volume] | None = None,
) -> Transform:
    """Find the affine, rigid or deformable map that aligns one brain with another.

    Intensities are compared by Mattes' mutual information [1]_, masks by the mean squared difference
    of their signed distances. The optimisation has three levels from coarse to fine voxels. The coarsest
    starts from the headers' alignment, from common centres of mass, and from common centres and volumes
    (which repairs a wrong voxel size in a header); the best result goes to the next level.
    A deformation follows the affine map. It is one to one and has an accurate inverse: the default method keeps it so,
    and what other methods return is smoothed until it is.

    Parameters
    ----------
    moving, fixed
        The images, without the skull; both T1-weighted or both masks.
    kind
        "affine" has twelve degrees of freedom, "rigid" six, "deformable" three per voxel.
    mask
        (x, y, z) of `fixed`, boolean: the voxels that the metric may use. Exclude a tumour here.
    fixed_is_mask
        Whether both images are brain masks.
    initial
        Start from the matrix of this map only; a deformation keeps it as its affine part.
    resolution
        Voxel size of the finest level and of a displacement field, mm; not finer than the fixed image's own.
    engine
        Method for the deformation: "greedy" (`tumorjax.registration.greedy`) or "demons" (SimpleITK), for images of
        the same contrast; "ants" (SyN with mutual information) or "ants-published" (with cross-correlation and the
        settings of the multi-atlas papers), which need the extra `ants`.
    labels
        Tissue labels of the moving and the fixed brain, for measuring the Dice of each label.

    Returns
    -------
    Transform
        The map. It is bitwise reproducible, except with ANTs, because the sampling has a fixed seed and sums run in one
        thread. If no deformation could be found, its `failure` gives the reason; `weakened` says whether one had to
        be smoothed.

    Raises
    ------
    ValueError
        If an argument is not as described, an image is empty, constant or not finite, the mask excludes everything, or
        the library of the engine is not installed.

    Warns
    -----
    RegistrationWarning
        If the result is not plausible; its `failure` gives the reason, too.

    Notes
    -----
    An image that is mirrored left-right is detected from its anatomy only if both images show the same person. Between
    two people the brain's asymmetry is too weak for that, and a symmetric atlas has none; then the orientation is known
    from the header only.

    References
    ----------
    .. [1] D. Mattes et al., "PET-CT image registration in the chest using free-form deformations",
       IEEE Trans. Med. Imaging 22 (2003). doi:10.1109/TMI.2003.809072
    """
    if kind not in ("rigid", "affine", "deformable"):
        raise ValueError(f"kind is 'rigid', 'affine' or 'deformable', got {kind!r}")
    if kind == "deformable" and fixed_is_mask:
        raise ValueError("masks show no structure inside a brain to deform it by; register them with kind='affine'")
    _, transform = _registered(moving, fixed, kind, mask, fixed_is_mask, initial, resolution, engine)
    if labels is not None:
        before, after = _dice(labels, Transform(np.eye(4))), _dice(labels, transform)
        transform = replace(transform, dice_before=before, dice_after=after)
    _warn_of(transform, moving, fixed)
    return transform


def register_in_steps(
    moving: Volume,
    fixed: Volume,
    *,
    mask: np.ndarray | None = None,
    initial: Transform | None = None,
    engine: str = DEFAULT_ENGINE,
) -> tuple[Transform, Transform]:
    """Return the affine map that aligns two images, and the deformation after it, for which they are prepared once.

    Parameters and errors are those of `register`. With `initial`, the affine map is that one. A deformation that failed
    says so in its `failure`.

    Warns
    -----
    RegistrationWarning
        If the affine map was searched for and is not plausible; it is then returned as both.
    """
    linear, deformed = _registered(moving, fixed, "deformable", mask, False, initial, RESOLUTION, engine)
    if initial is None:
        _warn_of(linear, moving, fixed)
    return linear, deformed


def _registered(
    moving: Volume,
    fixed: Volume,
    kind: Kind,
    mask: np.ndarray | None,
    fixed_is_mask: bool,
    initial: Transform | None,
    resolution: float,
    engine: str,
) -> tuple[Transform, Transform]:
    """Return the linear map, and what was asked for: the same, or a deformation."""
    check_engine(engine)
    if not (np.isfinite(resolution) and resolution > 0):
        raise ValueError(f"resolution is a voxel size in mm, got {resolution}")
    began = time.perf_counter()
    resolution = max(resolution, float(np.min(fixed.grid.spacing)))
    still = working_image(fixed, fixed_is_mask, resolution)
    shifted = working_image(moving, fixed_is_mask, resolution)
    region, seen = seen_region(still, mask, fixed)
    optimiser = Optimiser(still, shifted, region, "rigid" if kind == "rigid" else "affine", fixed_is_mask)
    if kind == "deformable" and initial is not None:
        matrix = initial.matrix
    else:
        matrix = optimiser.search(optimiser.starts() if initial is None else [initial.matrix])
    linear = Transform(
        matrix,
        "Dice" if fixed_is_mask else "correlation",
        optimiser.quality(np.eye(4)),
        optimiser.quality(matrix),
        seconds=time.perf_counter() - began,
    )
    linear = found = replace(linear, failure=_failure(linear))
    if not linear.failure:
        # Whether sides are exchanged is sought meanwhile.
        with ThreadPoolExecutor(1) as pool:
            looks = initial is None and not fixed_is_mask
            other = pool.submit(optimiser.mirrored_quality, matrix) if looks else None
            if kind == "deformable":
                found = _deformed(still, shifted, region, seen, linear, engine)
        if other is not None and (failure := _mirrored(linear.after, other.result())):
            linear = found = replace(linear, failure=failure)
    return linear, replace(found, seconds=time.perf_counter() - began)


def _warn_of(transform: Transform, moving: Volume, fixed: Volume) -> None:
    if transform.failure:
        warnings.warn(
            f"registration of {moving.name} to {fixed.name}: {transform.failure}; check orientation and contrast, "
            "or give a brain mask",
            RegistrationWarning,
            stacklevel=3,
        )


def _mirrored(quality: float, exchanged: float) -> str:
    """Return why images are mirrored, by their correlation and that with sides exchanged; empty if they are not."""
    if exchanged <= quality + _MIRROR_MARGIN:
        return ""
    return (
        f"one image seems mirrored left-right: the correlation is {exchanged:.2f} with sides exchanged, "
        f"{quality:.2f} without"
    )


def _deformed(
    still: Image, shifted: Image, region: np.ndarray, seen: np.ndarray, transform: Transform, engine: str
) -> Transform:
    source = Volume(shifted.data, shifted.affine)
    shown = warp(Volume(shifted.foreground, shifted.affine), transform, still.grid) >= 0.5
    aligned = warp(source, transform, still.grid)
    pair = Pair(still.data, aligned, still.foreground, seen, shown & still.foreground & seen, still.affine)
    if ENGINES[engine].compares_intensities and (failure := contrast_failure(pair)):
        return replace(transform, failure=failure)
    found, vectors = transform, ENGINES[engine].deform(pair)
    for width in _WEAKER:
        weaker = inverse.fading(inverse.smoothed(vectors, width / float(still.grid.spacing[0]))) if width else vectors
        found = _checked(weaker, still, source, region, replace(transform, weakened=width))
        if not found.failure:
            break
    return found


def _checked(vectors: np.ndarray, still: Image, source: Volume, region: np.ndarray, transform: Transform) -> Transform:
    """Return the map with a deformation and what is measured of it."""
    folds = count_folds(Field(still.affine, vectors, np.zeros_like(vectors)))
    if folds:
        return replace(transform, folds=folds, failure=f"the deformation folds at {folds} points")
    field = inverse.with_inverse(vectors, still.affine)
    error = inverse.inverse_error(field, still.foreground)
    found = replace(transform, field=field, inverse_error=error)
    after = correlation(still.data[region], warp(source, found, still.grid)[region])
    failure = ""
    if not (error[0] <= _INVERSE_LIMITS[0] and error[1] <= _INVERSE_LIMITS[1]):
        failure = f"the deformation's inverse errs by {error[0]:.2f} mm (median) and {error[1]:.1f} mm (largest)"
    elif not after >= transform.after - _LOSS:
        failure = f"correlation is {after:.2f} after deformation, {transform.after:.2f} before"
    return replace(found, after=after, failure=failure)


def _failure(transform: Transform) -> str:
    axes = transform.matrix[:3, :3]
    stretch = np.linalg.svd(axes)[1]
    if np.linalg.det(axes) <= 0:
        return "the map mirrors the brain"
    extreme = stretch.max() > _MAX_SCALE or stretch.min() < 1 / _MAX_SCALE
    if extreme or stretch.max() > _MAX_ANISOTROPY * stretch.min():
        return f"the map stretches the brain {', '.join(f'{s:.2f}' for s in stretch)}-fold"
    floor = _FLOORS[transform.measure]
    # A NaN must not pass.
    if not transform.after >= floor:
        return f"{transform.measure} is {transform.after:.2f} after registration, below {floor}"
    return ""


def _dice(labels: tuple[Volume, Volume], transform: Transform) -> dict[int, float]:
    moving, fixed = labels
    other = warp(moving, transform, fixed.grid, kind="label")
    result = {}
    for label in np.intersect1d(moving.data, fixed.data):
        if label:
            a, b = fixed.data == label, other == label
            result[int(label)] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    return result
