"""Reading NIfTI files with a check of their header and of the completeness of their data."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from tumorjax.io.errors import InputError, fail
from tumorjax.io.geometry import read_geometry
from tumorjax.quality import Note, Status

# A deflate stream cannot expand further, so if the header describes more, the data are incomplete.
_MAX_DEFLATE = 1032
# Exceptions of nibabel, gzip and zlib on damaged headers and streams.
_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, OverflowError)


class Nifti(NamedTuple):
    """An opened file.

    Parameters
    ----------
    image
        nibabel's image, with a repaired header.
    affine
        (4, 4), mm. Maps voxel indices to RAS world coordinates.
    notes
        Notes on the header for readers of the results.
    """

    image: Any
    affine: np.ndarray
    notes: tuple[str, ...]


def open_nifti(path: Path, name: str) -> Nifti:
    """Open a `.nii` or `.nii.gz` file and check its header; raise an `InputError` if it cannot be used."""
    try:
        if path.is_dir():
            fail(name, path, "is a folder without DICOM files; give one NIfTI file, or the folder of one DICOM series")
        if not path.is_file():
            fail(name, path, "does not exist; check the path")
    except OSError as error:
        fail(name, path, f"cannot be read ({error.strerror}); check the path")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        fail(name, path, "is not a .nii or .nii.gz file, nor DICOM; convert it to NIfTI")
    try:
        # The raw header, because nibabel silently repairs what it reads.
        header = _raw_header(path)
        if header is None:
            fail(name, path, f"is {type(nib.load(path)).__name__}, not a single-file NIfTI image; convert it")
        # Overflows and NaN are reported later, with the name of the image.
        with np.errstate(all="ignore"):
            geometry = read_geometry(header, path, name)
        # nibabel silently changes an offset that is too low, unless it is zero.
        if not (offset := float(header["vox_offset"])) >= header.single_vox_offset:
            fail(name, path, f"begins its voxels at byte {offset:g}, before the end of its header; export it again")
        image: Any = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            fail(name, path, f"is {type(image).__name__}, not a single-file NIfTI image; convert it")
        bits = 8 * np.dtype(image.get_data_dtype()).itemsize
    except InputError:
        raise
    except _DAMAGE as error:
        fail(name, path, f"is not a readable NIfTI image ({error}); convert or export it again")
    if not geometry.qform:
        image.header["qform_code"] = 0
        image.header["pixdim"][1:4] = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    notes = list(geometry.notes)
    if int(header["bitpix"]) != bits:
        text = f"The header of the {name} states {int(header['bitpix'])} bits per voxel, but its data type has {bits}"
        notes.append(Note(f"{text}; the data type is used.", Status.DOUBTFUL))
    return Nifti(image, geometry.affine, tuple(notes))


def read_voxels(nifti: Nifti, shape: tuple[int, ...], path: Path, name: str) -> np.ndarray:
    """Return the voxels of a file; raise an `InputError` if they are incomplete or damaged.

    The size is checked before memory is allocated, and a compressed file is read to its end, so that its checksum is
    verified.

    Parameters
    ----------
    nifti
        The file.
    shape
        The checked shape in the header, perhaps without axes of length one.
    path, name
        Path and name of the image, for messages.
    """
    image = nifti.image
    itemsize = image.get_data_dtype().itemsize
    size = int(image.dataobj.offset) + math.prod(shape) * itemsize
    # Extra data of at least one layer of voxels mean that the header's dimensions are wrong. Less is padding, which the
    # format allows.
    layer = math.prod(sorted(shape)[:-1]) * itemsize
    compressed = path.name.lower().endswith(".gz")
    try:
        stored = path.stat().st_size
        if size > stored * (_MAX_DEFLATE if compressed else 1):
            fail(name, path, f"has {stored} bytes, too few for the {size} its header describes; the file is cut off")
        with _opened(path) as stream:
            payload = stream.read(size)
            if len(payload) < size:
                raise EOFError(f"the data end after {len(payload)} of {size} bytes")
            # gzip verifies its checksum only at the end of the stream.
            trailing = 0
            while block := stream.read(2**16):
                trailing += len(block)
                if trailing >= layer:
                    raise ValueError(f"the file continues after the {size} bytes that its header describes")
        return np.asanyarray(type(image).from_bytes(payload).dataobj).reshape(shape)
    except InputError:
        raise
    except _DAMAGE as error:
        fail(name, path, f"is damaged ({error}); copy or export it again")


def _raw_header(path: Path) -> Any:
    """Return nibabel's header without its checks; None if the file is not NIfTI."""
    with _opened(path) as stream:
        raw = stream.read(nib.Nifti2Header.template_dtype.itemsize)
    for kind in (nib.Nifti2Header, nib.Nifti1Header):
        if kind.may_contain_header(raw):
            return kind(raw[: kind.template_dtype.itemsize], check=False)
    return None


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")
