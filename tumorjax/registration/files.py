"""Transforms in ITK's text format, which ITK, SimpleITK, Slicer and ANTs read."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

import numpy as np

from tumorjax.io import InputError, fail
from tumorjax.registration.inverse import with_inverse
from tumorjax.registration.transform import Field, Transform
from tumorjax.storage import new_file, parsed

_FIRST_LINE = "#Insight Transform File V1.0"
# Two lines that are comments to ITK: a checksum of the lines after it, and the measures of the registration.
_CHECKSUM = "#SHA256: "
_MEASURED = "#Measured: "
_SUFFIXES = (".tfm", ".txt")
# A field of 256^3 points has 50 million numbers of ten characters.
_MAX_BYTES = 2**30
# Most characters of a number with the space after it.
_LONGEST_NUMBER = 64
# ITK uses LPS world coordinates.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AFFINES = ("AffineTransform", "MatrixOffsetTransformBase")
_FIELD, _CHAIN = "DisplacementFieldTransform", "CompositeTransform"


def save_transform(path: str | Path, transform: Transform) -> None:
    """Write a transform as text that `SimpleITK.ReadTransform` reads; the file appears complete or not at all.

    As usual in ITK, the transform in the file maps points of the fixed image to points of the moving one, in LPS mm.
    Two comments contain the measures of the registration and a checksum of all later lines. The checksum is compared
    when the file is read; files of other programs have none. The inverse field is not written, but computed again when
    the file is read.

    Parameters
    ----------
    path
        A `.tfm` or `.txt` file, replaced if it exists. A field takes about 25 bytes per point.
    transform
        The map.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{path} does not end in .tfm or .txt, ITK's transforms as text")
    measured = {name: value for name, value in asdict(_without_arrays(transform)).items() if name not in _ARRAYS}
    lines = [_MEASURED + json.dumps(measured)]
    matrix = _LPS @ transform.matrix @ _LPS
    linear = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
    if transform.field is None:
        lines += _block(0, "AffineTransform", linear, [0.0, 0.0, 0.0])
    else:
        field = transform.field
        affine = _LPS @ field.affine
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        geometry = [*map(float, field.shape), *affine[:3, 3], *spacing, *(affine[:3, :3] / spacing).ravel()]
        vectors = field.forward.transpose(2, 1, 0, 3).astype(np.float64).round(4) * np.array([-1.0, -1.0, 1.0])
        lines += ["#Transform 0", f"Transform: {_CHAIN}_double_3_3"]
        # ITK applies the last transform of a composite first.
        lines += _block(1, "AffineTransform", linear, [0.0, 0.0, 0.0])
        lines += _block(2, _FIELD, vectors.ravel(), geometry)
    rest = ("\n".join(lines) + "\n").encode("ascii")
    with new_file(path) as partial, partial.open("wb") as file:
        file.write(f"{_FIRST_LINE}\n{_CHECKSUM}{hashlib.sha256(rest).hexdigest()}\n".encode("ascii"))
        file.write(rest)


def load_transform(path: str | Path) -> Transform:
    """Read a transform from a text file of `save_transform` or ITK: an affine map, or one with a displacement field.

    Raises
    ------
    InputError
        If the file is missing, too large, damaged or of another kind; sizes are checked before memory is allocated.
    """
    path = Path(path)
    if not path.is_file():
        _fail(path, "does not exist; check the path")
    if path.stat().st_size > _MAX_BYTES:
        _fail(path, f"has {path.stat().st_size} bytes, more than {_MAX_BYTES}; register at a coarser resolution")
    try:
        with path.open("rb") as stream:
            if stream.readline(100).strip() != _FIRST_LINE.encode():
                _fail(path, f"does not begin with {_FIRST_LINE!r}; give a transform as ITK writes it to .tfm or .txt")
            rest = stream.read()
        if rest.startswith(_CHECKSUM.encode()):
            stated, _, rest = rest.partition(b"\n")
            if stated.decode("latin-1").removeprefix(_CHECKSUM).strip() != hashlib.sha256(rest).hexdigest():
                _fail(
                    path,
                    "is not as it was written (its checksum differs); use another copy or register again, or remove "
                    f"the line {_CHECKSUM.strip(' :')!r} if it was changed on purpose",
                )
        return _parsed(rest.decode("latin-1").splitlines())
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError) as error:
        _fail(path, f"is not a usable transform ({error}); write it again")


_ARRAYS = ("matrix", "field")


def _without_arrays(transform: Transform) -> Transform:
    # `asdict` would copy the arrays.
    return replace(transform, matrix=np.eye(4), field=None)


def _block(number: int, name: str, parameters: Any, fixed: Any) -> list[str]:
    return [
        f"#Transform {number}",
        f"Transform: {name}_double_3_3",
        f"Parameters: {_written(parameters)}",
        f"FixedParameters: {_written(fixed)}",
    ]


def _written(values: Any) -> str:
    # JSON's encoder writes numbers as `repr` does, in less time.
    return json.dumps(np.asarray(values, float).tolist(), separators=(" ", ":"))[1:-1]


def _parsed(lines: list[str]) -> Transform:
    measured: dict[str, Any] = {}
    blocks: list[dict[str, str]] = []
    for line in lines:
        if line.startswith(_MEASURED):
            measured = _checked(parsed(line.removeprefix(_MEASURED)))
        elif line.strip() and not line.startswith("#"):
            key, _, value = line.partition(":")
            if key == "Transform":
                blocks.append({})
            if not blocks or key in blocks[-1] or key not in ("Transform", "Parameters", "FixedParameters"):
                raise ValueError(f"unexpected line {line[:40]!r}")
            blocks[-1][key] = value.strip()
    names = [block["Transform"].partition("_")[0] for block in blocks]
    if names[:1] == [_CHAIN]:
        blocks, names = blocks[1:], names[1:]
    if not names or names[0] not in _AFFINES or names[1:] not in ([], [_FIELD]):
        raise ValueError(f"holds {', '.join(names) or 'nothing'}; give one affine map, or one with a field after it")
    matrix = _LPS @ _matrix(blocks[0]) @ _LPS
    field = _field(blocks[1]) if len(blocks) > 1 else None
    return Transform(matrix, field=field, **measured)


# JSON types of the measures.
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("measure", "failure"), str),
    **dict.fromkeys(("before", "after", "seconds", "weakened"), (int, float)),
    **dict.fromkeys(("dice_before", "dice_after"), (dict, NoneType)),
    "folds": int,
    "inverse_error": list,
}


def _checked(measured: Any) -> dict[str, Any]:
    known = set(Transform.__dataclass_fields__) - set(_ARRAYS)
    if not isinstance(measured, dict) or not set(measured) <= known:
        raise ValueError("the measured values are not those of a registration")
    for name, value in measured.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise ValueError(f"the measured {name} is {value!r:.40}")
    for name in ("dice_before", "dice_after"):
        if measured.get(name) is not None:
            measured[name] = {int(label): float(value) for label, value in measured[name].items()}
    if "inverse_error" in measured:
        median, largest = measured["inverse_error"]
        measured["inverse_error"] = (float(median), float(largest))
    if not isinstance(measured.get("failure", ""), str):
        raise ValueError("the failure is not text")
    return measured


def _numbers(text: str, count: int) -> np.ndarray:
    # The length of the text and the number of words are checked before they are converted.
    if not 2 * count - 1 <= len(text) <= _LONGEST_NUMBER * count:
        raise ValueError(f"{len(text)} characters of numbers, expected {count} of them")
    found = text.split()
    if len(found) != count:
        raise ValueError(f"{len(found)} numbers, expected {count}")
    values = np.array(found, float)
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinite numbers")
    return values


def _matrix(block: dict[str, str]) -> np.ndarray:
    values, centre = _numbers(block["Parameters"], 12), _numbers(block["FixedParameters"], 3)
    matrix = np.eye(4)
    matrix[:3, :3] = values[:9].reshape(3, 3)
    matrix[:3, 3] = values[9:] + centre - matrix[:3, :3] @ centre
    return matrix


def _field(block: dict[str, str]) -> Field:
    geometry = _numbers(block["FixedParameters"], 18)
    shape = tuple(int(n) for n in geometry[:3])
    if (geometry[:3] != shape).any() or min(shape) < 2:
        raise ValueError(f"a field of {geometry[:3].tolist()} points")
    affine = np.eye(4)
    affine[:3, :3] = geometry[9:].reshape(3, 3) * geometry[6:9]
    affine[:3, 3] = geometry[3:6]
    values = _numbers(block["Parameters"], 3 * math.prod(shape))
    vectors = values.reshape(*shape[::-1], 3).transpose(2, 1, 0, 3) * np.array([-1.0, -1.0, 1.0])
    return with_inverse(vectors, _LPS @ affine)


def _fail(path: Path, problem: str) -> NoReturn:
    fail("transform", path, problem)
