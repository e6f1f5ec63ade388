"""Diffusion tensors from NIfTI files: checked when read, rotated to the world axes, and normalised."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tumorjax.grid import Grid
from tumorjax.io.errors import InputError, fail
from tumorjax.io.geometry import check_geometry
from tumorjax.io.nifti import open_nifti, read_voxels
from tumorjax.io.resampling import resample

Order = Literal["upper", "lower", "diagonal"]
Frame = Literal["image", "world"]

# Positions of xx, xy, xz, yy, yz, zz in a file.
_ORDERS = {"upper": [0, 1, 2, 3, 4, 5], "lower": [0, 1, 3, 2, 4, 5], "diagonal": [0, 3, 4, 1, 5, 2]}
_SYMMATRIX = 1005
_ROWS, _COLUMNS = np.triu_indices(3)
_FULL = [0, 1, 2, 1, 3, 4, 2, 4, 5]
# The three diagonal entries have similar means over a brain; one with less than this share of their sum is misplaced.
_LEAST_DIAGONAL = 0.02


@dataclass(frozen=True, eq=False)
class TensorVolume:
    """An image of diffusion tensors with its position in the world.

    Parameters
    ----------
    data
        (x, y, z, 6), float32: D_xx, D_xy, D_xz, D_yy, D_yz, D_zz along the axes of the world (RAS), in any unit.
    affine
        (4, 4), mm. Maps voxel indices to RAS world coordinates.
    name, path
        Name of the image, and the file that it was read from, for messages.
    notes
        Notes on the image for readers of the results.
    """

    data: np.ndarray
    affine: np.ndarray
    name: str = "tensor"
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """The grid of the voxels."""
        return Grid(self.data.shape[:3], self.affine)

    def on(self, grid: Grid) -> np.ndarray:
        """Return the tensors on another grid, (x, y, z, 6), zero outside the image.

        Each component is interpolated (averaged, where the new voxels are larger) by itself. The result is a weighted
        mean of tensors with non-negative weights, so positive definite tensors stay so. The mean of tensors with
        different directions is less anisotropic.
        """
        return np.stack([resample(self.data[..., n], self.affine, grid) for n in range(6)], axis=-1)


def read_tensor(
    path: str | Path, *, order: Order | None = None, frame: Frame = "image", name: str = "tensor"
) -> TensorVolume:
    """Read and check a NIfTI image of diffusion tensors.

    Parameters
    ----------
    path
        A `.nii` or `.nii.gz` file with six components a voxel, (x, y, z, 6) or (x, y, z, 1, 6), or with whole
        matrices, (x, y, z, 3, 3), as DIPY's `quadratic_form` is saved.
    order
        Order of the components: "upper" is xx, xy, xz, yy, yz, zz (FSL's dtifit), "lower" is xx, xy, yy, xz, yz, zz
        (the standard's symmetric matrix; ANTs, ITK, Camino), "diagonal" is xx, yy, zz, xy, xz, yz (MRtrix3). By default
        "lower" if the header's intent is a symmetric matrix, otherwise "upper" if the image has four dimensions.
    frame
        The axes of the components. "image": those of the voxels, with the first one flipped where the affine's
        determinant is positive. This is FSL's rule for gradient directions, and it holds for all tensors that were
        fitted to them without a change of axes. "world": RAS (MRtrix3). No header states which applies; the wrong one
        mirrors or rotates the fibres, so check them visually.
    name
        Name of the image, for messages.

    Raises
    ------
    InputError
        If the file is missing, damaged, not NIfTI or too large, has other dimensions, has NaN or infinite values or is
        zero everywhere, or if its components are in another order, or in an unknown one.
    ValueError
        If the order or the frame is none of those above.
    """
    if order not in (None, *_ORDERS) or frame not in ("image", "world"):
        raise ValueError(f"order is one of {', '.join(_ORDERS)}, frame 'image' or 'world'; got {order!r}, {frame!r}")
    path = Path(path)
    nifti = open_nifti(path, name)
    image = nifti.image
    check_geometry((2, 2, 2), image.get_data_dtype(), nifti.affine, path, name)
    if not (image.header["sform_code"] or image.header["qform_code"]):
        fail(name, path, "has the form codes 0, so that the direction of its axes is unknown; export it again")
    (shape, components), intent = _dimensions(image, path, name), int(image.header["intent_code"])
    whole = components == (3, 3)
    if whole and order is not None:
        fail(name, path, f"has whole matrices (dimensions {image.shape}), whose order is known; give no order")
    if order is None and intent != _SYMMATRIX and image.ndim > 4 and not whole:
        fail(name, path, "does not state the order of its components (intent is no symmetric matrix); give the order")
    order = order or ("lower" if intent == _SYMMATRIX else "upper")
    # The components are stored one after the other, as in an image with that many times as many slices.
    count = math.prod(components)
    check_geometry((shape[0], shape[1], count * shape[2]), image.get_data_dtype(), nifti.affine, path, name)
    data = read_voxels(nifti, (*shape, *components), path, name)
    if whole:
        data = _halves(data, path, name)
        order = "upper"
    with np.errstate(over="ignore"):
        data = data[..., _ORDERS[order]].astype(np.float32)
    _check_values(data, order, path, name)
    if frame == "image":
        data = turned(data, _image_axes(nifti.affine))
    return TensorVolume(data, nifti.affine, name, path, nifti.notes)


def as_tensor(image: str | Path | TensorVolume, *, name: str) -> TensorVolume:
    """Return an image of tensors from memory, or from its file by the defaults of `read_tensor`, with its checks."""
    if isinstance(image, (str, Path)):
        return read_tensor(image, name=name)
    if not isinstance(image, TensorVolume):
        raise InputError(f"{name}: got {type(image).__name__}; give a file, or what tumorjax.io.read_tensor returns")
    data = np.asarray(image.data)
    if data.ndim != 4 or data.shape[3] != 6:
        fail(name, image.path, f"has values of shape {data.shape}; give six components a voxel, (x, y, z, 6)")
    check_geometry(data.shape[:3], data.dtype, image.affine, image.path, name)
    data = data.astype(np.float32, copy=False)
    _check_values(data, "upper", image.path, name)
    return replace(image, data=data, name=name)


def turned(tensor: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return R D R^T for tensors of shape (..., 6), in their dtype."""
    # The matrix of this linear map on the six components follows from its action on each basis tensor.
    basis = np.eye(6)[:, _FULL].reshape(6, 3, 3)
    return tensor @ (rotation @ basis @ rotation.T)[:, _ROWS, _COLUMNS].astype(tensor.dtype)


def relative_tensor(tensor: np.ndarray, *, largest_ratio: float = 10.0) -> np.ndarray:
    """Return tensors divided by their mean diffusivity, with noisy eigenvalues repaired.

    Parameters
    ----------
    tensor
        (..., 6), diffusion tensors in any unit.
    largest_ratio
        Largest ratio of eigenvalues. Those below the largest one over this ratio, such as negative ones, are raised to
        that value.

    Returns
    -------
    ndarray
        (..., 6), positive definite, with a trace of three; the identity where no eigenvalue is positive.

    Raises
    ------
    ValueError
        If the ratio is below one.
    """
    if not largest_ratio >= 1:
        raise ValueError(f"largest_ratio is at least one, got {largest_ratio}")
    tensor = np.asarray(tensor)
    relative = np.broadcast_to(np.eye(3)[_ROWS, _COLUMNS].astype(tensor.dtype), tensor.shape).copy()
    some = np.nonzero(tensor.any(axis=-1))
    values, vectors = np.linalg.eigh(tensor[some].astype(float)[:, _FULL].reshape(-1, 3, 3))
    positive = values[:, 2] > 0
    some, values, vectors = tuple(index[positive] for index in some), values[positive], vectors[positive]
    values = np.maximum(values, values[:, 2:] / largest_ratio)
    values *= 3 / values.sum(axis=1, keepdims=True)
    relative[some] = np.einsum("nab,nb,ncb->nac", vectors, values, vectors)[:, _ROWS, _COLUMNS]
    return relative


def _dimensions(image: Any, path: Path, name: str) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Return the voxels and the components of a tensor image."""
    shape = tuple(int(n) for n in image.shape)
    spatial, rest = shape[:3], tuple(n for n in shape[3:] if n != 1)
    if rest not in ((6,), (3, 3)) or len(spatial) != 3 or min(spatial) < 2:
        fail(
            name,
            path,
            f"has dimensions {shape}; give one image (x, y, z, 6), (x, y, z, 1, 6) or (x, y, z, 3, 3) of tensors",
        )
    return (spatial[0], spatial[1], spatial[2]), rest


def _check_values(data: np.ndarray, order: str, path: Path | None, name: str) -> None:
    """Raise an `InputError` where components, (x, y, z, 6), are not those of diffusion tensors in this order."""
    if not np.isfinite(data).all():
        bad = data.size - int(np.isfinite(data).sum())
        fail(name, path, f"has {bad} NaN or infinite values of {data.size}; repair the image")
    if not data.any():
        fail(name, path, "is zero everywhere; give an image of tensors")
    diagonal = data[..., [0, 3, 5]].mean(axis=(0, 1, 2), dtype=float)
    if diagonal.min() < _LEAST_DIAGONAL * diagonal.sum() or diagonal.sum() <= 0:
        means = ", ".join(f"{mean:.3g}" for mean in diagonal)
        fail(name, path, f"has mean diagonal entries {means} in the order {order!r}; give the order of its components")


def _halves(data: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Return the six components of matrices (x, y, z, 3, 3), which must be symmetric up to rounding."""
    with np.errstate(invalid="ignore", over="ignore"):
        skew = np.abs(data - np.swapaxes(data, -1, -2)).max()
        if skew > 1e-3 * np.abs(data).max():
            fail(name, path, f"has matrices that differ by up to {skew:.3g} from symmetric ones; give tensors")
    return data[..., _ROWS, _COLUMNS]


def _image_axes(affine: np.ndarray) -> np.ndarray:
    """Return the directions of the axes of the frame "image" in the world, as columns."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return axes * [-1 if np.linalg.det(axes) > 0 else 1, 1, 1]
