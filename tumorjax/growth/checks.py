"""Checks of parameters where their values are known: not of tracers nor of the placeholders of tree operations."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def concrete(value: Any) -> np.ndarray | None:
    """Return the numbers of a concrete value; None for tracers and placeholders."""
    if isinstance(value, Tracer) or not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        return None
    return np.asarray(value)


def check_not_negative(name: str, value: Any) -> None:
    """Raise a ValueError where a value is negative or not finite."""
    number = concrete(value)
    if number is not None and not np.all((number >= 0) & np.isfinite(number)):
        raise ValueError(f"{name} must be finite and not negative, got {number}")


def check_positive(name: str, value: Any) -> None:
    """Raise a ValueError where a value is not positive or not finite."""
    number = concrete(value)
    if number is not None and not np.all((number > 0) & np.isfinite(number)):
        raise ValueError(f"{name} must be finite and positive, got {number}")
