"""Checks of arguments. The values of tracers are not known, so only their shapes and kinds are checked."""

import operator
from numbers import Integral, Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def concrete(value: Any) -> np.ndarray | None:
    """Return the numbers of a concrete value; None for tracers and for placeholders such as distributions."""
    if isinstance(value, Tracer) or not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        return None
    return np.asarray(value)


def check_numbers(name: str, value: Any) -> None:
    """Raise a ValueError where a value is neither real numbers nor a module in their place, like a distribution."""
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        dtype = value.dtype
        real = any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer, np.bool_))
        got = f"an array of {dtype}"
    else:
        real, got = isinstance(value, (Real, eqx.Module)), repr(value)
    if not real:
        raise ValueError(f"{name} must be a real number or an array of them, got {got}")


def check_finite(name: str, value: Any) -> None:
    """Raise a ValueError where a value is not a number or not finite."""
    check_numbers(name, value)
    number = concrete(value)
    if number is not None and not np.all(np.isfinite(number)):
        raise ValueError(f"{name} must be finite, got {number}")


def check_not_negative(name: str, value: Any) -> None:
    """Raise a ValueError where a value is not a number, negative or not finite."""
    check_numbers(name, value)
    number = concrete(value)
    if number is not None and not np.all((number >= 0) & np.isfinite(number)):
        raise ValueError(f"{name} must be finite and not negative, got {number}")


def check_positive(name: str, value: Any) -> None:
    """Raise a ValueError where a value is not a number, not positive or not finite."""
    check_numbers(name, value)
    number = concrete(value)
    if number is not None and not np.all((number > 0) & np.isfinite(number)):
        raise ValueError(f"{name} must be finite and positive, got {number}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError where a value is not a whole number, or less than the least."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_counts(settings: Any, **least: int) -> None:
    """Raise a ValueError where one of the settings of a method is not a whole number, or less than its least."""
    for name, number in least.items():
        check_count(name, getattr(settings, name), number)


def check_real(name: str, value: Any) -> None:
    """Raise a ValueError where a static value is not a plain real number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}")


def check_box(start: Any, size: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the slices of a box of voxels, or raise a ValueError where it is not inside an image of this shape."""
    try:
        corners = [(operator.index(first), operator.index(n)) for first, n in zip(start, size, strict=True)]
    except (TypeError, ValueError):
        corners = []
    if len(corners) != len(shape) or any(a < 0 or n < 1 or a + n > m for (a, n), m in zip(corners, shape, strict=True)):
        raise ValueError(f"a box from voxel {start} of {size} voxels does not lie in an image of shape {shape}")
    return tuple(slice(first, first + n) for first, n in corners)


def as_array(value: Any) -> Any:
    """Return lists and tuples of numbers as arrays, and anything else as it is."""
    if not isinstance(value, (list, tuple)):
        return value
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
        return jnp.asarray(value)
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        # The caller's own check reports what is wrong with it.
        return value


def as_number(name: str, value: Any) -> Any:
    """Return a measured number as an array, so that it is no part of a compiled program."""
    check_numbers(name, value)
    return np.asarray(value, float) if isinstance(value, (int, float)) else value


def as_image(value: Any) -> Any:
    """Return an image of real numbers; integers become floating, because integer arithmetic would round.

    Raises
    ------
    ValueError
        If the value is not an image of real numbers.
    """
    value = as_array(value)
    check_numbers("an image", value)
    if not isinstance(value, (np.ndarray, jax.Array)):
        raise ValueError(f"an image must be an array, got {value!r}")
    return value if jnp.issubdtype(value.dtype, np.floating) else value.astype(jnp.result_type(float))


def as_mask(value: Any) -> Any:
    """Return a mask as booleans; zeros and ones are converted.

    Raises
    ------
    ValueError
        If the value is not a mask.
    """
    value = np.asarray(value) if isinstance(value, (list, tuple)) else value
    if not isinstance(value, (np.ndarray, jax.Array)):
        raise ValueError(f"a mask must be an array, got {value!r}")
    if value.dtype == bool:
        return value
    known = concrete(value)
    if known is not None and not np.isin(known, (0, 1)).all():
        raise ValueError(f"a mask must hold truth values, or zeros and ones, got values of {value.dtype}")
    return value.astype(bool)
