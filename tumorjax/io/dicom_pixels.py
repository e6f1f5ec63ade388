"""The pixels of DICOM series, as an image."""

import warnings
from pathlib import Path
from typing import NoReturn

import nibabel as nib
import numpy as np

from tumorjax.io.dicom import Series, open_series
from tumorjax.io.geometry import check_geometry
from tumorjax.io.volume import Volume

# Code of the standard for coordinates of the scanner.
_SCANNER = 1


def read_series(path: str | Path, *, name: str) -> Volume:
    """Read a DICOM series as an image in RAS world coordinates, with rescale slopes and intercepts applied.

    Files of single slices are decoded by SimpleITK (GDCM), and so is JPEG, JPEG-LS, JPEG 2000 and RLE compression;
    multi-frame images by pydicom. Sizes are checked before memory is allocated.

    Parameters
    ----------
    path
        A folder with the files of one series, where files that are not DICOM are passed over, or an enhanced
        multi-frame file.
    name
        Name of the image, for messages.

    Returns
    -------
    Volume
        (columns, rows, slices). Integers where no slope or intercept makes them others, else float32.

    Raises
    ------
    InputError
        As of `tumorjax.io.dicom.open_series`, and of `read_volume` for the geometry; if pixels cannot be decoded.
    """
    series = open_series(Path(path), name)
    affine = series.affine
    check_geometry(series.shape, np.dtype(np.int16), affine, series.path, name)
    data = series_pixels(series)
    header = nib.Nifti1Header()
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=_SCANNER)
    header.set_qform(affine, code=_SCANNER)
    return Volume(data, affine, header, name, series.path, notes=series.notes, frame=series.frame)


def series_pixels(series: Series) -> np.ndarray:
    """Return the voxels of a series, (columns, rows, slices); raise an `InputError` where they cannot be decoded."""
    if series.frames is not None:
        return _of_frames(series, series.frames)
    import SimpleITK as sitk

    columns, rows, slices = series.shape
    planes = []
    for file, header in zip(series.files, series.headers, strict=True):
        try:
            plane = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
        except RuntimeError:
            _fail_to_decode(series, file, header.file_meta.TransferSyntaxUID)
        if plane.size != rows * columns or plane.dtype.kind not in "iuf":
            series.fail(f"has the file {file.name}, whose pixels have shape {plane.shape}; export the series again")
        planes.append(plane.reshape(rows, columns).T)
    data = np.empty((columns, rows, slices), np.result_type(*planes), order="F")
    for place, plane in enumerate(planes):
        data[..., place] = plane
    return data.astype(np.float32) if data.dtype.kind == "f" else data


def _of_frames(series: Series, frames: np.ndarray) -> np.ndarray:
    from pydicom import dcmread

    columns, rows, slices = series.shape
    syntax = series.headers[0].file_meta.TransferSyntaxUID
    with warnings.catch_warnings():
        # What pydicom says of padding and lengths; the shape is checked here.
        warnings.simplefilter("ignore")
        try:
            pixels = dcmread(series.files[0]).pixel_array
        except Exception:
            _fail_to_decode(series, series.files[0], syntax)
    if pixels.shape != (slices, rows, columns) or pixels.dtype.kind not in "iuf":
        series.fail(f"has pixels of shape {pixels.shape}, its header of {(slices, rows, columns)}; export it again")
    data = np.asfortranarray(pixels[frames].transpose(2, 1, 0))
    if (series.rescaling == [1, 0]).all():
        return data
    slope, intercept = series.rescaling.T
    return (data * slope + intercept).astype(np.float32)


def _fail_to_decode(series: Series, file: Path, syntax: object) -> NoReturn:
    if getattr(syntax, "is_compressed", False):
        kind = getattr(syntax, "name", syntax)
        remedy = "which cannot be decoded here; decompress it (gdcmconv --raw, or dcmdjpeg)"
        series.fail(f"has the file {file.name}, compressed as {kind}, {remedy}")
    series.fail(f"has the file {file.name}, whose pixels cannot be read; copy or export the series again")
