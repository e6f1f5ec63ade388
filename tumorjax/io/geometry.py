"""The geometry of an image: reading and checking the two ways in which a NIfTI header can state it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tumorjax.grid import Grid
from tumorjax.io.errors import fail
from tumorjax.quality import Note, Status

if TYPE_CHECKING:
    from tumorjax.io.volume import Volume

# 645^3 voxels, 1 GB in float32: no scanner's image of a head is larger.
_MAX_VOXELS = 2**28
# Voxel edges outside this range (mm) mean that the header is in metres or micrometres.
_SPACINGS = (0.05, 25.0)
# No scanner's table is this far (mm) from its magnet.
_FARTHEST = 10_000.0
# The form codes of the standard: unknown, scanner, aligned, Talairach, MNI, another template.
_CODES = range(6)
# Two geometries agree if they place each corner at most this share of a voxel apart.
_SAME = 0.1
# Voxel sizes that differ by more than this share cannot be explained by rounding.
_SIZES = 0.05


class Geometry(NamedTuple):
    """The geometry that a header states.

    Parameters
    ----------
    affine
        (4, 4), mm. Maps voxel indices to RAS world coordinates.
    notes
        Notes on the geometry for readers of the results.
    qform
        Whether the qform may be copied to results; an unusable one must not be.
    """

    affine: np.ndarray
    notes: tuple[str, ...] = ()
    qform: bool = True


def read_geometry(header: Any, path: Path, name: str) -> Geometry:
    """Return the geometry that a NIfTI header states.

    A header can state the geometry twice: by the sform, a matrix, and by the qform, a rotation, voxel sizes (pixdim)
    and an offset. Codes say which of them are valid; like other programs, this function prefers the sform.

    Parameters
    ----------
    header
        nibabel's header as it is in the file, unchecked, because nibabel's checks repair it silently.
    path, name
        Path and name of the image, for messages.

    Raises
    ------
    InputError
        If a code is not in the standard, the valid form is not usable, or the two forms differ in the direction of
        axes, in handedness or in the size of voxels. If they differ in position only, the geometry gets a note.
    """
    codes = {form: int(header[f"{form}_code"]) for form in ("sform", "qform")}
    for form, code in codes.items():
        if code not in _CODES:
            fail(name, path, f"has the {form} code {code}, which is not from 0 to 5; export it again, or correct it")
    sizes = np.array(header["pixdim"][1:4], float)
    if codes["sform"]:
        return _by_sform(header, codes["qform"], sizes, path, name)
    if not np.isfinite(sizes).all() or sizes.min() <= 0:
        use = "which its qform needs" if codes["qform"] else "and no other geometry"
        fail(name, path, f"has voxels of {_list(sizes)} mm in its header (pixdim), {use}; correct the header")
    if not codes["qform"]:
        return Geometry(np.array(header.get_base_affine(), float))
    affine, problem = _qform(header, sizes)
    if affine is None:
        fail(name, path, f"has its geometry in the qform, but {problem}; correct the header or export it again")
    qfac = float(header["pixdim"][0])
    if qfac == 0:
        # The standard prescribes this reading.
        text = f"The header of the {name} does not state the handedness of its axes (qfac 0); right-handed is assumed."
        return Geometry(affine, (Note(text, Status.DOUBTFUL),))
    return Geometry(affine)


def _by_sform(header: Any, qform_code: int, sizes: np.ndarray, path: Path, name: str) -> Geometry:
    sform = np.array(header.get_sform(), float)
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(sform).all() or edges.min() <= 0:
        # The check of the grid reports what is wrong with it.
        return Geometry(sform)
    if np.isfinite(sizes).all() and sizes.min() > 0 and not np.allclose(edges, sizes, rtol=_SIZES):
        fail(
            name,
            path,
            f"has voxels of {_list(edges)} mm in its sform and of {_list(sizes)} mm in its pixdim; find out which is "
            "right, and correct the other",
        )
    if not qform_code:
        return Geometry(sform)
    qform, problem = _qform(header, np.abs(sizes))
    if qform is None:
        text = f"The qform of the {name} cannot be used ({problem}); its sform is used."
        return Geometry(sform, (Note(text, Status.DOUBTFUL),), qform=False)
    axes, others = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform))
    if (axes * others).sum(axis=0).min() < math.cos(math.pi / 4):
        wanted, found = (_directions(affine) for affine in (sform, qform))
        fail(
            name,
            path,
            f"has axes that run along {wanted} by its sform and along {found} by its qform; find out which is right, "
            "and copy it over the other (fslorient -copysform2qform or -copyqform2sform)",
        )
    ends = np.array(np.meshgrid(*[(0, max(int(n) - 1, 0)) for n in header["dim"][1:4]], indexing="ij")).reshape(3, -1)
    apart = np.linalg.norm((sform[:3, :3] - qform[:3, :3]) @ ends + (sform[:3, 3:] - qform[:3, 3:]), axis=0).max()
    if apart <= _SAME * edges.min():
        return Geometry(sform)
    text = (
        f"The sform and the qform of the {name} place it up to {apart:.1f} mm apart (offsets {_list(sform[:3, 3])} and "
        f"{_list(qform[:3, 3])} mm); the sform is used."
    )
    return Geometry(sform, (Note(text, Status.DOUBTFUL),))


def _qform(header: Any, sizes: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return the affine of the qform, or None and the problem with it."""
    if not np.isfinite(sizes).all() or sizes.min() <= 0:
        return None, f"voxels have {_list(sizes)} mm (pixdim)"
    qfac = float(header["pixdim"][0])
    if qfac not in (-1, 0, 1):
        return None, f"its handedness (qfac) is {qfac:g}, neither 1 nor -1"
    imaginary = np.array([header[f"quatern_{part}"] for part in "bcd"], float)
    offset = np.array([header[f"qoffset_{part}"] for part in "xyz"], float)
    if not (np.isfinite(imaginary).all() and np.isfinite(offset).all()):
        return None, "it holds NaN or infinite numbers"
    if (rest := 1 - imaginary @ imaginary) < -1e-5:
        return None, f"its quaternion {_list(imaginary)} is longer than one"
    b, c, d = imaginary
    a = math.sqrt(max(rest, 0.0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes * [1, 1, -1 if qfac < 0 else 1]
    affine[:3, 3] = offset
    return affine, ""


def check_geometry(
    shape: tuple[int, ...], dtype: np.dtype, affine: Any, path: Path | None, name: str
) -> tuple[int, int, int]:
    """Return the shape of a 3-D image of real numbers; raise an `InputError` if it or its affine is not usable."""
    if len(shape) != 3 or min(shape) < 2:
        fail(name, path, f"has dimensions {shape}; give one 3-D image of at least 2 voxels a side")
    if dtype.kind not in "iuf":
        fail(name, path, f"has voxels of type {dtype} (complex or colour); give an image of real numbers")
    voxels = math.prod(shape)
    if voxels > _MAX_VOXELS:
        fail(name, path, f"has {voxels} voxels {shape}, more than {_MAX_VOXELS}; resample or crop it")
    x, y, z = shape
    affine = np.array(affine, float)
    try:
        spacing = np.asarray(Grid((x, y, z), affine).spacing)
    except ValueError as error:
        fail(name, path, str(error))
    if spacing.min() < _SPACINGS[0] or spacing.max() > _SPACINGS[1]:
        fail(name, path, f"has voxels of {_list(spacing)} mm; correct the header's spacing or units")
    if (far := np.abs(affine[:3, 3]).max()) > _FARTHEST:
        fail(name, path, f"lies {far:.3g} mm from the origin of the world; correct the header's offset")
    if (affine[3] != [0, 0, 0, 1]).any():
        fail(name, path, f"has an affine whose last row is {affine[3].tolist()}, not 0 0 0 1; correct it")
    return x, y, z


def check_worlds(images: Mapping[str, "Volume"], needed: bool = False) -> list[str]:
    """Check that images which belong together state their position in the world where that matters; return notes.

    Parameters
    ----------
    images
        The images that belong together.
    needed
        Whether world coordinates are used besides, for an atlas that is not aligned or for points.

    Raises
    ------
    InputError
        If an image does not state its position (its form codes are zero), and another one does, or lies on other
        voxels, or world coordinates are needed.
    """
    lost = [image for image in images.values() if not image.has_world]
    if not lost:
        return _notes_on_frames(images)
    first = lost[0]
    unsaid = "has the form codes 0, so that its position in the world is unknown, and so is which side is left"
    remedy = "export it again with its geometry, or copy that of the image on whose voxels it lies (fslcpgeom)"
    if len(lost) < len(images):
        other = next(image for image in images.values() if image.has_world)
        first.fail(f"{unsaid}, while the {other.name} states both; {remedy}")
    if needed:
        first.fail(f"{unsaid}, which is needed here; {remedy}")
    for image in lost[1:]:
        if image.data.shape != first.data.shape or not np.allclose(image.affine, first.affine, atol=1e-3):
            image.fail(f"{unsaid}, and lies on other voxels than the {first.name}; {remedy}")
    names = ", ".join(image.name for image in lost)
    return [
        Note(
            f"The position of the images in the world is unknown (form codes 0: {names}). They are assumed to share "
            "their voxels, whose axes are assumed to run left, to the front and up; left and right may be exchanged.",
            Status.DOUBTFUL,
        )
    ]


def _notes_on_frames(images: Mapping[str, "Volume"]) -> list[str]:
    """Return a note where DICOM series state different frames of reference."""
    framed = [image for image in images.values() if image.frame]
    if len({image.frame for image in framed}) < 2:
        return []
    names = " and the ".join(image.name for image in framed)
    text = f"The {names} state different frames of reference; they must have been registered to each other."
    return [Note(text, Status.DOUBTFUL)]


def _directions(affine: np.ndarray) -> str:
    ends = (("right", "left"), ("front", "back"), ("top", "bottom"))
    found = []
    for axis in affine[:3, :3].T:
        largest = int(np.abs(axis).argmax())
        found.append(ends[largest][0 if axis[largest] > 0 else 1])
    return ", ".join(found)


def _list(numbers: np.ndarray) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
