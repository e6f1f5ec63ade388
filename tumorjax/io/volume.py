"""Images of files: checked when read, and written as NIfTI, atomically."""

import os
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import nibabel as nib
import numpy as np
from scipy import ndimage

from tumorjax.grid import Grid
from tumorjax.io.dicom import is_dicom
from tumorjax.io.errors import fail
from tumorjax.io.geometry import check_geometry
from tumorjax.io.nifti import open_nifti, read_voxels


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image with its position in the world.

    Parameters
    ----------
    data
        (x, y, z). Integers if the file stores unscaled integers, otherwise float32.
    affine
        (4, 4), mm. Maps voxel indices to RAS world coordinates.
    header
        nibabel's header, whose codes and units `write_volume` keeps; None for an image that was not read from a file.
    name, path
        Name of the image, and the file that it was read from, for messages.
    missing
        (x, y, z), boolean: voxels that were NaN or infinite and are zero in `data`; None if there are none.
    notes
        Notes on the image for readers of the results.
    frame
        Frame of reference of a DICOM series: two series of one frame share a world. None for other images.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any = field(default=None, repr=False)
    name: str = "image"
    path: Path | None = None
    missing: np.ndarray | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    frame: str | None = None

    @property
    def grid(self) -> Grid:
        """The grid of the voxels."""
        return Grid(self.data.shape, np.asarray(self.affine, float))  # pyright: ignore[reportArgumentType]

    @property
    def has_world(self) -> bool:
        """Whether the position in the world is known, from an affine without a header or from a header's codes."""
        return self.header is None or bool(self.header["sform_code"] or self.header["qform_code"])

    def fail(self, problem: str) -> NoReturn:
        """Raise an `InputError` that names this image and the problem with it."""
        fail(self.name, self.path, problem)


def read_volume(path: str | Path, *, name: str, background_nan: bool = False) -> Volume:
    """Read and check a 3-D image: NIfTI, or a DICOM series (see `tumorjax.io.dicom_pixels.read_series`).

    Sizes are checked from the header before memory is allocated, and a compressed file is read to
    its end, so that its checksum is verified.

    Parameters
    ----------
    path
        A `.nii` or `.nii.gz` file, of which a trailing fourth axis of length one is dropped; or the folder of a DICOM
        series, or an enhanced multi-frame DICOM file.
    name
        Name of the image, for messages ("segmentation").
    background_nan
        Accept voxels that are NaN or infinite, which many programs write outside the brain: they become zero, and
        `Volume.missing` records where they were. The caller must check that none of them lies inside the brain.

    Raises
    ------
    InputError
        If the file is missing, damaged, neither NIfTI nor DICOM, not 3-D or too large, if its voxels are complex,
        coloured, NaN or infinite (all of them, where `background_nan`), if its affine is not finite, singular or
        sheared, or its header states contradictory geometries (see `tumorjax.io.geometry.read_geometry`). Minor
        oddities become `Volume.notes`.
    """
    path = Path(path)
    if is_dicom(path):
        from tumorjax.io.dicom_pixels import read_series

        return as_volume(read_series(path, name=name), name=name, background_nan=background_nan)
    nifti = open_nifti(path, name)
    shape = tuple(int(n) for n in nifti.image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    sides = check_geometry(shape, nifti.image.get_data_dtype(), nifti.affine, path, name)
    data, missing = _checked(read_voxels(nifti, sides, path, name), path, name, background_nan)
    return Volume(data, nifti.affine, nifti.image.header.copy(), name, path, missing, nifti.notes)


def as_volume(image: str | Path | Volume, *, name: str, background_nan: bool = False) -> Volume:
    """Return an image from memory or from its file, with the checks of `read_volume` in both cases."""
    if not isinstance(image, Volume):
        return read_volume(image, name=name, background_nan=background_nan)
    data = np.asarray(image.data)
    data = data.astype(np.uint8) if data.dtype == bool else data
    check_geometry(data.shape, data.dtype, image.affine, image.path, name)
    data, missing = _checked(data, image.path, name, background_nan)
    if image.missing is not None:
        missing = image.missing if missing is None else missing | image.missing
    return replace(image, data=data, name=name, missing=missing)


def as_background(volume: Volume) -> Volume:
    """Return an image of labels or probabilities, after checking that all its missing voxels are background.

    Many programs write NaN instead of zero in the background. Missing voxels count as background if they are connected
    with the image's border through missing voxels alone.

    Parameters
    ----------
    volume
        An image that was read with `background_nan`.

    Raises
    ------
    InputError
        If other voxels are NaN or infinite, too.
    """
    if volume.missing is None:
        return volume
    parts, _ = ndimage.label(volume.missing)  # pyright: ignore[reportGeneralTypeIssues]
    faces = [parts.take(end, axis) for axis in range(3) for end in (0, -1)]
    enclosed = volume.missing & ~np.isin(parts, np.concatenate([np.unique(face) for face in faces]))
    if enclosed.any():
        volume.fail(f"has {int(enclosed.sum())} NaN or infinite voxels in its foreground; repair the image")
    return volume


def _checked(
    data: np.ndarray, path: Path | None, name: str, background_nan: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return voxels in native byte order, in single precision if not integers, and the mask of missing ones."""
    scaled = data.dtype.kind == "f"
    with np.errstate(over="ignore"):
        data = data.astype(np.float32 if scaled else data.dtype.newbyteorder("="), copy=False)
    if not scaled or (finite := np.isfinite(data)).all():
        return data, None
    bad = data.size - int(finite.sum())
    if not background_nan or bad == data.size:
        fail(name, path, f"has {bad} NaN or infinite voxels of {data.size}; repair the image")
    return np.where(finite, data, np.float32(0)), ~finite


def write_volume(path: str | Path, data: np.ndarray, like: Volume) -> None:
    """Write an image with the geometry of another one; the file appears complete or not at all.

    Booleans and integers are written as uint8, everything else as float32. Codes and units of the
    other header are kept; its free text and extensions, which may name a patient, are not.

    Parameters
    ----------
    path
        A `.nii` or `.nii.gz` file, replaced if it exists.
    data
        (x, y, z), with the shape of `like`.
    like
        The image whose affine and header codes are kept.

    Raises
    ------
    ValueError
        If the shape differs, integers do not fit eight bits, or the name does not end as NIfTI.
    """
    path, data = Path(path), np.asarray(data)
    if data.shape != like.data.shape:
        raise ValueError(f"data have shape {data.shape}, the geometry {like.data.shape}; resample them first")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path} does not end in .nii or .nii.gz")
    if data.dtype.kind in "iu" and data.size and (data.min() < 0 or data.max() > 255):
        raise ValueError(f"integers from {data.min()} to {data.max()} do not fit uint8; write float32")
    data = data.astype(np.uint8 if data.dtype.kind in "biu" else np.float32)
    header = nib.Nifti1Header() if like.header is None else like.header.copy()
    if like.header is None:
        header.set_xyzt_units("mm")
    header.extensions.clear()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    for text in ("descrip", "aux_file", "db_name"):
        if text in header:
            header[text] = b""
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        nib.save(kind(data, like.affine, header), temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
