"""NIfTI volumes: checked when read, whole when written."""

import gzip
import math
import os
import uuid
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from tumorjax.grid import Grid

# 645^3 voxels, 1 GB in float32: no scanner's image of a head is larger.
_MAX_VOXELS = 2**28
# No deflate stream expands further, so a header that asks for more has lost its data.
_MAX_DEFLATE = 1032
# Padding after the voxels is legal; a stream that goes on for longer is not the image its header describes.
_MAX_TRAILING = 2**24
# Voxel edges outside this range (mm) mean that the header counts in metres or micrometres.
_SPACINGS = (0.05, 25.0)


class InputError(ValueError):
    """An input cannot be used; the message is one line: which input, what was got, what to do."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image with its place in the world.

    Parameters
    ----------
    data
        (x, y, z). Integers where the file holds unscaled integers, else float32.
    affine
        (4, 4), mm. Maps voxel indices to RAS world coordinates.
    header
        nibabel's header, whose codes and units `write_volume` keeps; None for an image made here.
    name, path
        What the image is and where it came from, for messages.
    missing
        (x, y, z), boolean: voxels that were NaN or infinite and are zero in `data`; None if there are none.
    notes
        What a reader of the results should know about the image.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any = field(default=None, repr=False)
    name: str = "image"
    path: Path | None = None
    missing: np.ndarray | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """The grid of the voxels."""
        return Grid(self.data.shape, np.asarray(self.affine, float))  # pyright: ignore[reportArgumentType]

    def fail(self, problem: str) -> NoReturn:
        """Raise the `InputError` that names this image and says what is wrong with it."""
        fail(self.name, self.path, problem)


def fail(name: str, path: Path | None, problem: str) -> NoReturn:
    """Raise the `InputError` of one line that names an input and says what is wrong with it."""
    raise InputError(" ".join(f"{name}{f' {path}' if path else ''}: {problem}".split()))


def read_volume(path: str | Path, *, name: str, background_nan: bool = False) -> Volume:
    """Read and check a 3-D NIfTI image.

    Sizes are checked from the header before memory is taken, and a compressed file is read to
    its end so that its checksum is verified.

    Parameters
    ----------
    path
        A `.nii` or `.nii.gz` file. A trailing fourth axis of length one is dropped.
    name
        What the image is, for messages ("segmentation").
    background_nan
        Accept voxels that are NaN or infinite, as many programs write outside the brain: they become zero, and
        `Volume.missing` records where they were. The caller, who knows the brain, must check that none lies inside.

    Raises
    ------
    InputError
        If the file is missing, damaged, not NIfTI, not 3-D or too large, if its voxels are complex,
        coloured, NaN or infinite (all of them, where `background_nan`), or its affine is not finite, singular or
        sheared.
    """
    path = Path(path)
    if path.is_dir():
        fail(name, path, "is a folder; give one NIfTI file (dcm2niix converts a DICOM series)")
    if not path.is_file():
        fail(name, path, "does not exist; check the path")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        fail(name, path, "is not a .nii or .nii.gz file; convert it to NIfTI")
    # What nibabel, gzip and zlib raise on damaged headers and streams.
    damage = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, OverflowError)
    try:
        image: Any = nib.load(path)
    except damage as error:
        fail(name, path, f"is not a readable NIfTI image ({error}); convert or export it again")
    if not isinstance(image, nib.Nifti1Image):
        fail(name, path, f"is {type(image).__name__}, not a single-file NIfTI image; convert it")
    shape, size = _check_header(image, path, name)
    try:
        payload = _read_bytes(path, size)
        data = np.asanyarray(type(image).from_bytes(payload).dataobj).reshape(shape)
    except damage as error:
        fail(name, path, f"is damaged ({error}); copy or export it again")
    del payload
    data, missing = _checked(data, path, name, background_nan)
    return Volume(data, np.array(image.affine, float), image.header.copy(), name, path, missing)


def as_volume(image: str | Path | Volume, *, name: str, background_nan: bool = False) -> Volume:
    """Return an image that is at hand, or read it from its file; checked either way, see `read_volume`."""
    if not isinstance(image, Volume):
        return read_volume(image, name=name, background_nan=background_nan)
    data = np.asarray(image.data)
    data = data.astype(np.uint8) if data.dtype == bool else data
    _check_geometry(data.shape, data.dtype, image.affine, image.path, name)
    data, missing = _checked(data, image.path, name, background_nan)
    if image.missing is not None:
        missing = image.missing if missing is None else missing | image.missing
    return replace(image, data=data, name=name, missing=missing)


def _checked(
    data: np.ndarray, path: Path | None, name: str, background_nan: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return voxels in this machine's byte order, in single precision if not integers, and where they are missing."""
    scaled = data.dtype.kind == "f"
    with np.errstate(over="ignore"):
        data = data.astype(np.float32 if scaled else data.dtype.newbyteorder("="), copy=False)
    if not scaled or (finite := np.isfinite(data)).all():
        return data, None
    bad = data.size - int(finite.sum())
    if not background_nan or bad == data.size:
        fail(name, path, f"has {bad} NaN or infinite voxels of {data.size}; repair the image")
    return np.where(finite, data, np.float32(0)), ~finite


def _check_header(image: Any, path: Path, name: str) -> tuple[tuple[int, int, int], int]:
    # Returns the shape without trailing ones and the bytes up to the last voxel.
    shape, dtype = tuple(int(n) for n in image.shape), image.get_data_dtype()
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    sides = _check_geometry(shape, dtype, image.affine, path, name)
    size = int(image.dataobj.offset) + math.prod(sides) * dtype.itemsize
    stored = path.stat().st_size
    if size > stored * (_MAX_DEFLATE if path.name.lower().endswith(".gz") else 1):
        fail(name, path, f"has {stored} bytes, too few for the {size} its header describes; the file is cut off")
    return sides, size


def _check_geometry(
    shape: tuple[int, ...], dtype: np.dtype, affine: Any, path: Path | None, name: str
) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 2:
        fail(name, path, f"has dimensions {shape}; give one 3-D image of at least 2 voxels a side")
    if dtype.kind not in "iuf":
        fail(name, path, f"has voxels of type {dtype} (complex or colour); give an image of real numbers")
    voxels = math.prod(shape)
    if voxels > _MAX_VOXELS:
        fail(name, path, f"has {voxels} voxels {shape}, more than {_MAX_VOXELS}; resample or crop it")
    x, y, z = shape
    try:
        spacing = np.asarray(Grid((x, y, z), np.array(affine, float)).spacing)
    except ValueError as error:
        fail(name, path, str(error))
    if spacing.min() < _SPACINGS[0] or spacing.max() > _SPACINGS[1]:
        fail(name, path, f"has voxels of {np.round(spacing, 4).tolist()} mm; correct the header's spacing or units")
    return x, y, z


def _read_bytes(path: Path, size: int) -> bytes:
    if not path.name.lower().endswith(".gz"):
        with path.open("rb") as stream:
            return stream.read(size)
    with gzip.open(path) as stream:
        payload = stream.read(size)
        if len(payload) < size:
            raise EOFError(f"the data end after {len(payload)} of {size} bytes")
        # gzip verifies its checksum only at the end of the stream.
        trailing = 0
        while block := stream.read(2**20):
            trailing += len(block)
            if trailing > _MAX_TRAILING:
                raise ValueError("the stream goes on after the last voxel")
    return payload


def write_volume(path: str | Path, data: np.ndarray, like: Volume) -> None:
    """Write an image in the geometry of another one; the file appears whole or not at all.

    Booleans and integers are written as uint8, everything else as float32. Codes and units of the
    other header are kept, its free text and extensions (which may name a patient) are not.

    Parameters
    ----------
    path
        A `.nii` or `.nii.gz` file, replaced if it exists.
    data
        (x, y, z), of the shape of `like`.
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
