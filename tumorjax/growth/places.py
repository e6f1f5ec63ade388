"""Where a tumour began, in words."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.growth.gaussian_basis import GaussianBasis, held
from tumorjax.growth.origins import AbstractOrigin, Foci, Origin
from tumorjax.quantity import Quantity

_AXES = (("x", "left to right"), ("y", "back to front"), ("z", "bottom to top"))


def origin_quantities(origin: Origin, foci: Any = ()) -> list[Quantity]:
    """Return the numbers that describe an origin, of parameters that hold it as `origin`.

    Several seeds are `origin`, `origin_2` and so on, with the shares of the further ones. A state at time zero that
    an image gives has none.

    Parameters
    ----------
    origin
        Concrete, or only its structure.
    foci
        (f, 3), mm, RAS world: middles of several foci. A `GaussianBasis` has a mean place near each.
    """
    if isinstance(origin, GaussianBasis):
        return _gaussians(foci)
    if isinstance(origin, AbstractOrigin):
        return []
    points = origin.points if isinstance(origin, Foci) else origin
    if np.ndim(points) == 1:
        return _place(0, "origin of the tumour", "origin", lambda params: params.origin)
    seeds, path = np.shape(points)[0], "origin.points" if isinstance(origin, Foci) else "origin"
    found = []
    for k in range(seeds):
        find = lambda params, k=k: _points(params.origin)[k]  # noqa: E731
        found += _place(k, f"origin of focus {k + 1}", path, find, first=3 * k)
        if k > 0 and isinstance(origin, Foci):
            share = lambda params, k=k: params.origin.shares[k - 1]  # noqa: E731
            meaning = f"cells that focus {k + 1} began with, of those of the first: the fewer, the later it appeared"
            found.append(Quantity(f"share_{k + 1}", f"m_{k + 1}", "", meaning, share, f"origin.shares[{k - 1}]"))
    return found


def _gaussians(foci: Any) -> list[Quantity]:
    meaning = "Gaussians of which the tumour is made at the beginning"
    found = [Quantity("gaussians", "s", "", meaning, lambda params: _count(params.origin))]
    for k in range(max(len(foci), 1)):
        near = f" near focus {k + 1}" if len(foci) else ""
        find = lambda params, k=k: _mean_places(params.origin, foci)[k]  # noqa: E731
        found += _place(k, f"mean place of the Gaussians{near} by weight", None, find)
    return found


def _place(k: int, what: str, path: str | None, find: Callable[[Any], Any], first: int = 0) -> list[Quantity]:
    """Return the coordinates of a place that belongs to focus k, from 0, as three numbers."""
    which, below = ("", "0") if k == 0 else (f"_{k + 1}", f"0,{k + 1}")
    return [
        Quantity(
            f"origin{which}_{axis}",
            f"{axis}_{below}",
            "mm",
            f"{what}, {direction} (RAS world)",
            lambda params, i=i: find(params)[i],
            None if path is None else f"{path}[{first + i}]",
        )
        for i, (axis, direction) in enumerate(_AXES)
    ]


def _points(origin: Any) -> Any:
    return origin.points if isinstance(origin, Foci) else origin


def _count(origin: GaussianBasis) -> Float[Array, ""]:
    return jnp.sum(held(jnp.asarray(origin.weights)), dtype=float)


def _mean_places(origin: GaussianBasis, foci: Any) -> Float[Array, "f 3"]:
    """Return the mean place of the Gaussians by weight, or for several foci of those that are nearest to each."""
    if not len(foci):
        return origin.centre_of_mass[None]
    centres, weights = jnp.asarray(origin.centres), jnp.asarray(origin.weights)
    away = jnp.linalg.norm(centres[:, None] - jnp.asarray(foci, centres.dtype), axis=-1)
    near = away.argmin(axis=1)
    return jnp.stack(
        [replace(origin, weights=jnp.where(near == k, weights, 0)).centre_of_mass for k in range(len(foci))]
    )
