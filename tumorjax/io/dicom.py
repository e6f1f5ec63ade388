"""DICOM series: their slices in order, with exact geometry, checked before any pixel is read."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tumorjax.io.errors import InputError, fail
from tumorjax.quality import Note, Status

if TYPE_CHECKING:
    from pydicom import Dataset

# "DICM" stands behind a preamble of this length.
_PREAMBLE = 128
# More files than any series of a head has.
_MOST_FILES = 2**14
# Endings of files that must be DICOM, in a folder where others are passed over.
_ENDINGS = (".dcm", ".dicom", ".ima")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
# What all slices of a series share.
_SHARED = {
    "PatientID": "patients",
    "StudyInstanceUID": "studies",
    "FrameOfReferenceUID": "frames of reference",
    "Modality": "modalities",
    "Rows": "sizes",
    "Columns": "sizes",
}
# Slices are equally far apart on one line where they deviate by less than this share of their distance.
_REGULAR = 0.01
# A distance of so many times the usual one is a gap.
_GAP = 1.5
# Directions and voxel sizes agree between slices, and axes have length one, within this (cosine, mm).
_SAME = 1e-4
_UNIT = 1e-2
# Most series that a message lists.
_LISTED = 4


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of a DICOM series in the order in which they lie in space; no pixels.

    Parameters
    ----------
    name, path
        Name of the image, and the folder or file that it was read from, for messages.
    headers
        Headers: one of each slice, or a single one of a multi-frame image.
    files
        The files of the headers.
    frames
        (slices,), frame of each slice in the multi-frame image; None for a series with one file a slice.
    positions
        (slices, 3), mm: the centre of the first pixel of each slice, in DICOM's patient coordinates (LPS).
    directions
        (2, 3), directions along a row and along a column, LPS.
    spacing
        (2,), mm: distances along a row and along a column, between columns and between rows.
    rescaling
        (slices, 2), slope and intercept of each slice of a multi-frame image.
    notes
        Notes on the series for readers of the results.
    """

    name: str
    path: Path
    headers: "Sequence[Dataset]" = field(repr=False)
    files: Sequence[Path] = field(repr=False)
    frames: np.ndarray | None = field(repr=False)
    positions: np.ndarray = field(repr=False)
    directions: np.ndarray
    spacing: np.ndarray
    rescaling: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def frame(self) -> str | None:
        """Identifier of the frame of reference; None if the series states none."""
        return str(self.headers[0].get("FrameOfReferenceUID") or "") or None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of columns, rows and slices."""
        return int(self.headers[0].Columns), int(self.headers[0].Rows), len(self.positions)

    @property
    def patient_affine(self) -> np.ndarray:
        """Affine (4, 4), mm, that maps indices of column, row and slice to DICOM's patient coordinates (LPS)."""
        affine = np.eye(4)
        affine[:3, :2] = self.directions.T * self.spacing
        last = len(self.positions) - 1
        affine[:3, 2] = (self.positions[-1] - self.positions[0]) / max(last, 1)
        affine[:3, 3] = self.positions[0]
        return affine

    @property
    def affine(self) -> np.ndarray:
        """Affine (4, 4), mm, that maps indices of column, row and slice to RAS world coordinates."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.patient_affine

    def fail(self, problem: str) -> NoReturn:
        """Raise an `InputError` that names this series and the problem with it."""
        fail(self.name, self.path, problem)


def is_dicom(path: Path) -> bool:
    """Return whether a path is a DICOM file, or a folder with some."""
    try:
        return any(map(_has_magic, _files(path))) if path.is_dir() else path.is_file() and _has_magic(path)
    except OSError:
        return False


def open_series(path: Path, name: str) -> Series:
    """Read and check the headers of a DICOM series; raise an `InputError` if it is not one whole volume.

    Parameters
    ----------
    path
        A folder with the files of one series, or a multi-frame file.
    name
        Name of the image, for messages.

    Raises
    ------
    InputError
        If pydicom is not installed; a file is damaged; there are several series, or images of one series that do not
        go together (of other size, direction, patient or frame of reference, or several at one place); slices are
        missing between others or not equally far apart; or the images are coloured, segmentations, or without geometry.
    """
    files = [file for file in _files(path) if _has_magic(file)] if path.is_dir() else [path]
    if not files or not is_dicom(path):
        what = "is a folder without DICOM files" if path.is_dir() else "is no DICOM file"
        fail(name, path, f"{what}; give the folder of one DICOM series")
    if len(files) > _MOST_FILES:
        fail(name, path, f"has {len(files)} DICOM files, more than {_MOST_FILES}; give the folder of one series")
    try:
        import pydicom  # noqa: F401
    except ImportError:
        fail(name, path, "is DICOM, for which pydicom is needed; install it with pip install 'tumorjax[dicom]'")
    if path.is_dir() and (bad := [f for f in _files(path) if f.name.lower().endswith(_ENDINGS) and f not in files]):
        fail(name, path, f"has the file {bad[0].name}, which is no readable DICOM; copy or export the series again")
    with warnings.catch_warnings():
        # Values that bend the standard's rules, which scanners write; those that are needed are checked here.
        warnings.simplefilter("ignore")
        try:
            headers = [_header(file, path, name) for file in files]
            _check_one_series(headers, path, name)
            if len(headers) == 1 and int(headers[0].get("NumberOfFrames") or 1) > 1:
                return _of_frames(headers[0], files[0], path, name)
            return _of_files(headers, files, path, name)
        except InputError:
            raise
        except Exception as error:
            # pydicom parses values when they are asked for, and its errors have no base class of their own.
            fail(name, path, f"has a damaged DICOM header ({error}); copy or export the series again")


def _files(folder: Path) -> list[Path]:
    found = (folder / each for each in sorted(os.listdir(folder)) if not each.startswith(".") and each != "DICOMDIR")
    return [each for each in found if each.is_file()]


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"


def _header(file: Path, path: Path, name: str) -> "Dataset":
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    try:
        # A deflated file may be a million times as long when it is inflated, which pydicom would do at once.
        if read_file_meta_info(file).get("TransferSyntaxUID") == _DEFLATED:
            fail(name, path, f"has the file {file.name} with a deflated header; export the series uncompressed")
        with file.open("rb") as stream:
            header = dcmread(stream, stop_before_pixels=True)
            left = file.stat().st_size - stream.tell()
    except InputError:
        raise
    except Exception as error:
        fail(name, path, f"has the file {file.name}, which is damaged ({error}); copy or export the series again")
    if missing := [each for each in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID") if each not in header]:
        fail(name, path, f"has the file {file.name} without {missing[0]}, so that it is no image; leave it out")
    if "Rows" not in header or "Columns" not in header:
        what = header.get("Modality") or "another object"
        fail(name, path, f"has the file {file.name}, which is no image ({what}); give the images of one series")
    if header.SOPClassUID == _SEGMENTATION:
        fail(name, path, f"has the DICOM segmentation {file.name}, which is not read; convert it to NIfTI with dcmqi")
    if int(header.get("SamplesPerPixel", 1)) != 1:
        fail(name, path, f"has the coloured image {file.name}; give a series in grey values")
    frames = int(header.get("NumberOfFrames") or 1)
    size = int(header.Rows) * int(header.Columns) * frames * int(header.BitsAllocated) // 8
    if not header.file_meta.TransferSyntaxUID.is_compressed and left < size:
        fail(name, path, f"has the file {file.name} with {left} bytes of its {size} of pixels; it is cut off")
    return header


def _check_one_series(headers: "list[Dataset]", path: Path, name: str) -> None:
    series: dict[str, list[Dataset]] = {}
    for header in headers:
        series.setdefault(str(header.SeriesInstanceUID), []).append(header)
    if len(series) > 1:
        listed = [
            f"{each[0].get('SeriesNumber') or '-'} {each[0].get('SeriesDescription') or ''} ({len(each)} images)"
            for each in series.values()
        ]
        more = ", ..." if len(listed) > _LISTED else ""
        fail(name, path, f"has {len(series)} series: {', '.join(listed[:_LISTED])}{more}; give a folder with one")
    for keyword, what in _SHARED.items():
        if (count := len({str(header.get(keyword)) for header in headers})) > 1:
            fail(name, path, f"mixes images of {count} {what} ({keyword}); give one series of equal slices")
    if len(headers) > 1 and any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        fail(name, path, f"has {len(headers)} files, some of them multi-frame; give one multi-frame file, or slices")


def _of_files(headers: "list[Dataset]", files: list[Path], path: Path, name: str) -> Series:
    geometry = []
    for header, file in zip(headers, files, strict=True):
        where = f"has the file {file.name}"
        position = _numbers(header, "ImagePositionPatient", 3, where, path, name)
        axes = _numbers(header, "ImageOrientationPatient", 6, where, path, name).reshape(2, 3)
        geometry.append((position, axes, _numbers(header, "PixelSpacing", 2, where, path, name)))
    order, positions, axes, spacing = _stacked(geometry, path, name)
    ordered = [headers[place] for place in order]
    notes = _completeness(ordered, name)
    # The decoder of the pixels applies slopes and intercepts of single files.
    rescaling = np.tile([1.0, 0.0], (len(order), 1))
    return Series(name, path, ordered, [files[n] for n in order], None, positions, axes, spacing, rescaling, notes)


def _of_frames(header: "Dataset", file: Path, path: Path, name: str) -> Series:
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    each = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(each) != int(header.NumberOfFrames):
        fail(name, path, "is a multi-frame image without a place for each frame; convert it to NIfTI")

    def group(frame: "Dataset", sequence: str) -> Any:
        found = frame.get(sequence) or (None if shared is None else shared.get(sequence))
        return found[0] if found else None

    geometry, rescaling = [], []
    for number, frame in enumerate(each, 1):
        place, turn, sizes, rescale = (
            group(frame, f"{what}Sequence")
            for what in ("PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation")
        )
        where = f"has frame {number}"
        position = _numbers(place, "ImagePositionPatient", 3, where, path, name)
        axes = _numbers(turn, "ImageOrientationPatient", 6, where, path, name).reshape(2, 3)
        geometry.append((position, axes, _numbers(sizes, "PixelSpacing", 2, where, path, name)))
        slope = [1.0, 0.0] if rescale is None else [float(rescale.RescaleSlope), float(rescale.RescaleIntercept)]
        rescaling.append(slope)
    order, positions, axes, spacing = _stacked(geometry, path, name)
    return Series(name, path, [header], [file], order, positions, axes, spacing, np.array(rescaling)[order])


def _numbers(dataset: "Dataset | None", keyword: str, count: int, where: str, path: Path, name: str) -> np.ndarray:
    value = None if dataset is None else dataset.get(keyword)
    try:
        numbers = np.array(value, float)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        fail(name, path, f"{where} without a usable {keyword}, so that its geometry is unknown; export it again")
    return numbers


def _stacked(
    geometry: list[tuple[np.ndarray, np.ndarray, np.ndarray]], path: Path, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the order of slices along their normal, their positions, directions, and spacing along row and column."""
    positions, axes, spacing = (np.array(each) for each in zip(*geometry, strict=True))
    for what, values in (("directions", axes), ("voxel sizes", spacing)):
        if np.abs(values - values[0]).max() > _SAME:
            fail(name, path, f"mixes images of several {what}; give one series of parallel, equal slices")
    if np.abs(np.linalg.norm(axes[0], axis=1) - 1).max() > _UNIT or spacing[0].min() <= 0:
        fail(name, path, "has directions that are not of length one, or voxels without size; export it again")
    normal = np.cross(*axes[0])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    # DICOM's first number is the distance between rows.
    found = order, positions[order], axes[0], spacing[0][::-1]
    if len(order) < 2:
        fail(name, path, "has one slice; give a series with at least 2")
    steps = np.diff(heights[order])
    usual = float(np.median(steps))
    if steps.min() <= _REGULAR * max(usual, steps.max()):
        at = heights[order][int(steps.argmin())]
        count = int((np.abs(heights - at) <= _REGULAR * steps.max()).sum())
        fail(
            name,
            path,
            f"has {count} images at one place (such as echoes, times or b-values); give the images of one of them",
        )
    if steps.max() > _GAP * usual:
        missing = int(np.round(steps / usual - 1).sum())
        gap = f"{steps.max():.3g} mm lie between two slices, {usual:.3g} mm between others"
        fail(name, path, f"lacks about {missing} slice{'s' * (missing > 1)}: {gap}; export the whole series")
    line = np.linspace(0, 1, len(order))[:, None]
    straight = positions[order[0]] + line * (positions[order[-1]] - positions[order[0]])
    if np.linalg.norm(positions[order] - straight, axis=1).max() > _REGULAR * usual:
        fail(name, path, "has slices that are not equally far apart on one line; resample it to NIfTI")
    return found


def _completeness(headers: "Sequence[Dataset]", name: str) -> tuple[str, ...]:
    """Return a note where headers announce more images than there are: slices may be missing at the ends."""
    if "DERIVED" in str(headers[0].get("ImageType")):
        # Another number than that of the images that were acquired.
        return ()
    announced = max(int(headers[0].get(each) or 0) for each in ("ImagesInAcquisition", "NumberOfSlices"))
    if announced <= len(headers):
        return ()
    text = f"The {name} has {len(headers)} slices, and its headers announce {announced}; the series may be incomplete."
    return (Note(text, Status.DOUBTFUL),)
