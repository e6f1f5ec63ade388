"""Conversion of models and priors to JSON, by the names of their classes, and back.

Only these known classes are ever created from a file.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tumorjax.growth import FisherKolmogorov, GrowthParams, MassEffect, MassEffectParams, Mechanics, ScaledGrowthParams
from tumorjax.prior import LogNormal, Normal, Prior, Reciprocal, SameAs, Uniform, UniformSteps

_CLASSES = (
    *(FisherKolmogorov, MassEffect, Mechanics),
    *(GrowthParams, ScaledGrowthParams, MassEffectParams),
    *(Prior, Normal, LogNormal, Uniform, UniformSteps, Reciprocal, SameAs),
)
_KNOWN: dict[str, type] = {known.__name__: known for known in _CLASSES}


def describe(value: Any) -> Any:
    """Return a model or a prior in a form that JSON can hold.

    Raises
    ------
    ValueError
        If it contains anything but numbers, texts and the classes of this package.
    """
    if type(value) in _KNOWN.values():
        held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # What a model can have and has not is no part of it.
        return {
            "type": type(value).__name__,
            **{name: describe(each) for name, each in held.items() if each is not None},
        }
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return {"array": describe(np.asarray(value).tolist()), "dtype": np.asarray(value).dtype.name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"a database cannot keep a {type(value).__name__}; make model and prior of numbers and {', '.join(_KNOWN)}"
    )


def described(model: Any) -> str | None:
    """Return a model as one line of JSON, which `disagreement` compares; None where it is no model of this package."""
    try:
        return json.dumps(describe(model), sort_keys=True)
    except ValueError:
        return None


def disagreement(known: Any, model: Any) -> str | None:
    """Return in words how a model differs from another one, such as "ratio = 10, got ratio = 5"; None if they agree.

    Parameters
    ----------
    known
        A model of this package, or what `described` says of it.
    model
        Any model.
    """
    words, asked = known if isinstance(known, str) else described(known), described(model)
    if words is None or asked is None:
        return f"another model, got {type(model).__name__}"
    there, here = (dict(_numbers(json.loads(each))) for each in (words, asked))
    apart = [name for name in there | here if there.get(name) != here.get(name)]
    # Without a dot in front, the type is that of the whole model, and all else follows from it.
    apart = ["type"] if "type" in apart else apart
    return ", got ".join(_listed({name: each.get(name) for name in apart}) for each in (there, here)) if apart else None


def settings_of(model: Any) -> str:
    """Return the numbers and texts of a model of this package in words, such as "ratio = 10, dividing = tissue"."""
    found = dict(_numbers(describe(model)))
    return _listed({name: value for name, value in found.items() if name.rsplit(".", 1)[-1] != "type"}, ", ")


def _numbers(description: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts of a description, with the names of their fields."""
    match description:
        case {"array": value} | {"float": value}:
            yield name, value
        case dict():
            for field, value in description.items():
                yield from _numbers(value, f"{name}.{field}".lstrip("."))
        case _:
            yield name, description


def _listed(values: Mapping[str, Any], between: str = " and ") -> str:
    said = (f"{value:g}" if isinstance(value, float) else value for value in values.values())
    return between.join(f"{name.rsplit('.', 1)[-1]} = {value}" for name, value in zip(values, said, strict=True))


def restore(description: Any) -> Any:
    """Return the model or prior of a description that `describe` made.

    Raises
    ------
    ValueError
        If the description is not valid.
    """
    match description:
        case {"type": str(name), **fields} if name in _KNOWN:
            try:
                return _KNOWN[name](**{field: restore(value) for field, value in fields.items()})
            except TypeError as error:
                raise ValueError(f"{name} cannot be made: {error}") from None
        case {"array": values, "dtype": "float32" | "float64" | "int32" | "int64" as dtype}:
            return np.asarray(restore(values), dtype)
        case {"float": "inf" | "-inf" | "nan" as number}:
            return float(number)
        case list():
            return tuple(restore(item) for item in description)
        case None | bool() | int() | float() | str():
            return description
    raise ValueError(f"{str(description)[:60]} describes neither a model nor a prior")
