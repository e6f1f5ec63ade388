"""Calibrations in files: arrays in the layout of safetensors, and JSON that says how they belong together."""

import dataclasses
import enum
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tumorjax.calibration.calibration import Calibration
from tumorjax.storage import open_arrays, write_arrays

_KIND, _VERSION = "calibration", 1
# A tree that is deeper than this is none of ours.
_DEEPEST = 40


def save_calibration(path: str | os.PathLike, calibration: Calibration) -> None:
    """Write a calibration into a file, which is replaced whole; `load_calibration` reads it.

    The file has the layout of safetensors. Its metadata hold JSON: a tree in which `{"array": name}` stands for an
    array of the file and `{"class": "module:Name", "fields": {...}}` for an object, with a checksum of everything.

    Parameters
    ----------
    path
        A `.safetensors` file.
    calibration
        What `calibrate` returned, of any method.

    Raises
    ------
    ValueError
        If the calibration holds something that cannot be kept, such as a function of a user's own class, or the path is
        a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give a file, such as {Path(path) / 'calibration.safetensors'}")
    arrays: dict[str, Any] = {}
    tree = encoded(calibration, "calibration", arrays)
    write_arrays(path, _KIND, _VERSION, {"tree": tree}, arrays)


def load_calibration(path: str | os.PathLike) -> Calibration:
    """Return the calibration of a file.

    Nothing in the file is run: classes are looked up in tumorjax and in the modules that are already imported, so that
    the module of a model or an observation of your own must be imported first.

    Raises
    ------
    ValueError
        If the file is missing, damaged, no calibration, or of a class that is not imported.
    """
    try:
        with open_arrays(path, _KIND, _VERSION) as file:
            tree = file.header["tree"]
            found = decoded(tree, file.read())
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        said = "its header is damaged" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} holds no calibration that can be used: {said}") from None
    if not isinstance(found, Calibration):
        raise ValueError(f"{path} holds no calibration, but {type(found).__name__}")
    return found


def kept_fields(kind: type) -> list[str]:
    """Return the fields of a class that a file keeps: all but those with the metadata `kept=False`."""
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind) if each.metadata.get("kept", True)]
    return list(getattr(kind, "_fields", ()))


def encoded(value: Any, place: str, arrays: dict[str, Any]) -> Any:
    """Return a value as JSON can hold it; its arrays are added to `arrays` by their place in the tree.

    Raises
    ------
    ValueError
        If it holds something that cannot be kept, such as a function.
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return {"class": _name_of(type(value)), "member": value.name}
    if isinstance(value, float):
        # As text, since JSON has neither infinity nor all digits for certain.
        return {"number": value.hex()}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        arrays[place] = np.asarray(value)
        return {"array": place, "device": isinstance(value, jax.Array)}
    if isinstance(value, dict):
        rows = [[encoded(key, "", {}), encoded(each, f"{place}.{key}", arrays)] for key, each in value.items()]
        return {"items": rows}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return {
            "list" if isinstance(value, list) else "tuple": [
                encoded(each, f"{place}.{i}", arrays) for i, each in enumerate(value)
            ]
        }
    kind = type(value)
    if not (names := kept_fields(kind)):
        raise ValueError(f"{place} is of {kind.__name__}, which cannot be kept in a file")
    return {
        "class": _name_of(kind),
        "fields": {name: encoded(getattr(value, name), f"{place}.{name}", arrays) for name in names},
    }


def decoded(tree: Any, arrays: dict[str, np.ndarray], depth: int = 0) -> Any:
    """Return the value that `encoded` was given; a ValueError where its classes are unknown, or nested too deeply."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if not isinstance(tree, dict):
        return tree

    def inner(each: Any) -> Any:
        return decoded(each, arrays, depth + 1)

    if "number" in tree:
        return float.fromhex(tree["number"])
    if "array" in tree:
        found = arrays[tree["array"]]
        return jnp.asarray(found) if tree["device"] else found
    if "items" in tree:
        return {inner(key): inner(each) for key, each in tree["items"]}
    for name, make in (("list", list), ("tuple", tuple)):
        if name in tree:
            return make(inner(each) for each in tree[name])
    kind = _class_of(tree["class"])
    if issubclass(kind, enum.Enum):
        return kind[tree["member"]]
    names = kept_fields(kind)
    fields = tree["fields"]
    # What is newer than the file has its default.
    newer = [name for name in names if name not in fields and _has_default(kind, name)]
    if set(fields) != set(names) - set(newer):
        raise ValueError(f"{kind.__name__} has other fields in this version")
    values = {name: inner(fields[name]) for name in names if name not in newer}
    if issubclass(kind, tuple):
        return kind(**values)
    # Without the constructor, which may convert or check anew: the bytes are those that were written.
    made = object.__new__(kind)
    for each in dataclasses.fields(kind):
        value = values[each.name] if each.name in values else _default_of(each)
        object.__setattr__(made, each.name, value)
    return made


def _has_default(kind: type, name: str) -> bool:
    """Return whether a field of a class has a default."""
    found = [each for each in dataclasses.fields(kind) if each.name == name] if dataclasses.is_dataclass(kind) else []
    missing = dataclasses.MISSING
    return any(each.default is not missing or each.default_factory is not missing for each in found)


def _default_of(each: dataclasses.Field) -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory()
    return None if each.default is dataclasses.MISSING else each.default


def _name_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class_of(name: str) -> type:
    """Return a class by its name, if it is one that a calibration can hold and its module is imported already."""
    module, _, path = name.partition(":")
    # Our own modules may be loaded, and no others; one of that name is a program.
    if module.partition(".")[0] == "tumorjax" and module not in sys.modules and not module.endswith(".__main__"):
        # A module of another version need not be there.
        with suppress(ImportError):
            import_module(module)
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    holds = isinstance(found, type) and (
        issubclass(found, (eqx.Module, enum.Enum))
        or dataclasses.is_dataclass(found)
        or (issubclass(found, tuple) and hasattr(found, "_fields"))
    )
    if not holds:
        raise ValueError(f"it is of the class {name:.100}, which is unknown here; import the module that defines it")
    return found
