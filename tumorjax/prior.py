"""Priors, as smooth maps from independent standard normal coordinates.

Every method of calibration works in the coordinates z, where the prior is the standard normal
density and nothing is bounded; a distribution is the map that carries them to its parameter.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.special import ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Key, PyTree

from tumorjax.checks import as_array, check_finite, check_positive, concrete


class AbstractDistribution(eqx.Module):
    """A distribution of independent components, given by its map from standard normal coordinates."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of a value."""

    @abstractmethod
    def transport(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Map standard normal coordinates to values; increasing in every component."""

    @abstractmethod
    def coordinates(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Map values to their standard normal coordinates."""

    def log_prob(self, value: Float[Array, "..."]) -> Float[Array, ""]:
        """Return the log-density at a value, summed over its components."""
        z = self.coordinates(value)
        _, slope = jax.jvp(self.transport, (z,), (jnp.ones_like(z),))
        return jnp.sum(norm.logpdf(z) - jnp.log(slope))


class Normal(AbstractDistribution):
    """The normal distribution of mean `loc` and standard deviation `scale`."""

    loc: Float[Any, "..."] = eqx.field(converter=as_array)
    scale: Float[Any, "..."] = eqx.field(converter=as_array)

    def __check_init__(self) -> None:
        check_finite("loc", self.loc)
        check_positive("scale", self.scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value."""
        return jnp.broadcast_shapes(jnp.shape(self.loc), jnp.shape(self.scale))

    def transport(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return loc + scale z."""
        return jnp.asarray(self.loc, z.dtype) + jnp.asarray(self.scale, z.dtype) * z

    def coordinates(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return (value - loc) / scale."""
        value = jnp.asarray(value)
        return (value - jnp.asarray(self.loc, value.dtype)) / jnp.asarray(self.scale, value.dtype)


class LogNormal(AbstractDistribution):
    """The log-normal distribution: `median`, and `spread` = standard deviation of the logarithm."""

    median: Float[Any, "..."] = eqx.field(converter=as_array)
    spread: Float[Any, "..."] = eqx.field(converter=as_array)

    def __check_init__(self) -> None:
        check_positive("median", self.median)
        check_positive("spread", self.spread)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value."""
        return jnp.broadcast_shapes(jnp.shape(self.median), jnp.shape(self.spread))

    def transport(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return median exp(spread z)."""
        return jnp.asarray(self.median, z.dtype) * jnp.exp(jnp.asarray(self.spread, z.dtype) * z)

    def coordinates(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return log(value / median) / spread."""
        value = jnp.asarray(value)
        return jnp.log(value / jnp.asarray(self.median, value.dtype)) / jnp.asarray(self.spread, value.dtype)


class Uniform(AbstractDistribution):
    """The uniform distribution between `low` and `high`."""

    low: Float[Any, "..."] = eqx.field(converter=as_array)
    high: Float[Any, "..."] = eqx.field(converter=as_array)

    def __check_init__(self) -> None:
        for name in ("low", "high"):
            check_finite(name, getattr(self, name))
        low, high = concrete(self.low), concrete(self.high)
        if low is not None and high is not None:
            check_positive("high - low", high - low)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value."""
        return jnp.broadcast_shapes(jnp.shape(self.low), jnp.shape(self.high))

    def transport(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return low + (high - low) Phi(z), Phi the normal distribution function."""
        low, high = (jnp.asarray(bound, z.dtype) for bound in (self.low, self.high))
        return low + (high - low) * norm.cdf(z)

    def coordinates(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the quantile of the value; infinite at the bounds, NaN outside."""
        value = jnp.asarray(value)
        low, high = (jnp.asarray(bound, value.dtype) for bound in (self.low, self.high))
        return ndtri((value - low) / (high - low))


class UniformSteps(AbstractDistribution):
    """The uniform distribution over `low`, `low` + `step`, and so on up to `high`: for drawing, not for searching.

    Parameters
    ----------
    low, high
        The first and the last value.
    step
        Between neighbours, a whole number of which lies between these.

    Raises
    ------
    ValueError
        If it does not.
    """

    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    step: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_positive("step", self.step)
        steps = (self.high - self.low) / self.step
        if not (steps >= 1 and abs(steps - round(steps)) < 1e-6):
            raise ValueError(f"there is no whole number of steps of {self.step} from {self.low} to {self.high}")

    @property
    def count(self) -> int:
        """Number of values."""
        return round((self.high - self.low) / self.step) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value: one number."""
        return ()

    def transport(self, z: Float[Array, ""]) -> Float[Array, ""]:
        """Return the value whose share of the quantiles holds Phi(z); it has no slope."""
        return self.low + self.step * jnp.clip(jnp.floor(self.count * norm.cdf(z)), 0, self.count - 1)

    def coordinates(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """Return the middle of the value's share of the quantiles; NaN outside."""
        value = jnp.asarray(value)
        return ndtri((jnp.round((value - self.low) / self.step) + 0.5) / self.count)

    def log_prob(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """Return the logarithm of a value's probability; minus infinity between the values, and beyond them."""
        place = (jnp.asarray(value) - self.low) / self.step
        known = (jnp.abs(place - jnp.round(place)) < 1e-3) & (place > -0.5) & (place < self.count - 0.5)
        return jnp.sum(jnp.where(known, -jnp.log(self.count), -jnp.inf))


class Reciprocal(AbstractDistribution):
    """The distribution of 1 / x, where x is positive and follows another: a sharpness, if the width is uniform.

    Parameters
    ----------
    of
        The distribution of x.

    Raises
    ------
    ValueError
        If x can be zero or negative.
    """

    of: AbstractDistribution

    def __check_init__(self) -> None:
        if not isinstance(self.of, AbstractDistribution):
            raise ValueError(f"Reciprocal is of a distribution, got {self.of!r}")
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self.of)):
            return
        with jax.ensure_compile_time_eval():
            # Farther out than anyone draws.
            least = float(jnp.min(self.of.transport(jnp.full(self.of.shape, -8.0))))
        if not least > 0:
            raise ValueError(f"the reciprocal of values that may be {least:.3g} does not exist; they must be positive")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value."""
        return self.of.shape

    def transport(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return 1 / x of minus z, which makes it increasing."""
        return 1 / self.of.transport(-z)

    def coordinates(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return minus the coordinates of 1 / value."""
        return -self.of.coordinates(1 / jnp.asarray(value))


class SameAs(eqx.Module):
    """In place of a distribution: the parameter is the same as that of another place, and has no coordinate of its own.

    Parameters
    ----------
    name
        The other place, as in `Prior.names` but whole: `observations.core.sharpness`, `growth.origin`.
    """

    name: str = eqx.field(static=True)


class Prior(eqx.Module):
    """A prior over a tree of parameters.

    Parameters
    ----------
    distributions
        The tree of parameters with a distribution in place of each unknown; a number in place of a known value;
        `SameAs` in place of what another unknown tells.

    Raises
    ------
    ValueError
        If a `SameAs` names no unknown.
    """

    distributions: PyTree

    def __check_init__(self) -> None:
        unknown = [name for name, leaf in self._places() if _unknown(leaf)]
        for name, leaf in self._places():
            if isinstance(leaf, SameAs) and leaf.name not in unknown:
                raise ValueError(f"{name} is the same as {leaf.name}, which is none of the unknown: {unknown}")

    @property
    def names(self) -> list[str]:
        """A name for each coordinate, by its path: `growth.mu1`, `growth.origin[0]`, `observations.core.threshold`."""
        names = []
        for name, leaf in self._places():
            if _unknown(leaf):
                names += [name] if leaf.shape == () else [f"{name}[{i}]" for i in range(_size(leaf))]
        return names

    @property
    def known(self) -> list[str]:
        """The names of all known values, each of them whole: `observations.adc.relative`."""
        return [name for name, leaf in self._places() if not _stands_for_a_value(leaf)]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return sum(_size(leaf) for _, leaf in self._places() if _unknown(leaf))

    # One program each: on the host, every one of two dozen small operations would be compiled by itself.

    @eqx.filter_jit
    def constrain(self, z: Float[Array, "n"]) -> PyTree:
        """Map coordinates, which the prior holds to be standard normal, to the tree of parameters."""
        found, begin = {}, 0
        for name, leaf in self._places():
            if _unknown(leaf):
                end = begin + _size(leaf)
                found[name] = leaf.transport(z[begin:end].reshape(leaf.shape))
                begin = end
        return self.completed(found, z.dtype)

    def completed(self, unknown: Mapping[str, Any], dtype: Any) -> PyTree:
        """Return the tree of parameters with these unknown values, by name as of `unknown`, among the known ones."""
        # What is the same as another may stand before it.
        values = [unknown.get(leaf.name if isinstance(leaf, SameAs) else name, leaf) for name, leaf in self._places()]
        return jax.tree.unflatten(self._structure, [jnp.asarray(value, dtype) for value in values])

    def unconstrain(self, params: PyTree) -> Float[Array, "n"]:
        """Map parameters to their coordinates; values that are the same as others are not looked at."""
        # Plain numbers would be parts of the program, which would serve no other patient.
        return self._coordinates(jax.tree.map(jnp.asarray, params))

    @eqx.filter_jit
    def _coordinates(self, params: PyTree) -> Float[Array, "n"]:
        return jnp.concatenate([jnp.ravel(leaf.coordinates(value)) for leaf, value in self._unknown_values(params)])

    def log_prob(self, params: PyTree) -> Float[Array, ""]:
        """Return the log-density of parameters, in the unknown among them."""
        return jnp.sum(jnp.stack([leaf.log_prob(value) for leaf, value in self._unknown_values(params)]))

    def unknown(self, params: PyTree) -> dict[str, Any]:
        """Return the unknown values among parameters by name; those of many draws keep their leading axes."""
        values = self._structure.flatten_up_to(params)
        return {name: value for (name, leaf), value in zip(self._places(), values, strict=True) if _unknown(leaf)}

    def sample(self, key: Key[Array, ""]) -> PyTree:
        """Draw parameters."""
        return self.constrain(jax.random.normal(key, (self.size,)))

    def _places(self) -> list[tuple[str, Any]]:
        """Return name and content of every place in the tree."""
        places = jax.tree_util.tree_leaves_with_path(self.distributions, is_leaf=_stands_for_a_value)
        return [("".join(map(_step, path)).lstrip("."), leaf) for path, leaf in places]

    @property
    def _structure(self) -> Any:
        return jax.tree.structure(self.distributions, is_leaf=_stands_for_a_value)

    def _unknown_values(self, params: PyTree) -> list[tuple[AbstractDistribution, Any]]:
        leaves = [leaf for _, leaf in self._places() if _unknown(leaf)]
        return list(zip(leaves, self.unknown(params).values(), strict=True))


def _step(key: Any) -> str:
    """Return one step of a path; keys of dictionaries read like attributes."""
    return f".{key.key}" if isinstance(key, jax.tree_util.DictKey) else str(key)


def _stands_for_a_value(leaf: Any) -> bool:
    return isinstance(leaf, (AbstractDistribution, SameAs))


def _unknown(leaf: Any) -> bool:
    return isinstance(leaf, AbstractDistribution)


def _size(distribution: AbstractDistribution) -> int:
    size = 1
    for n in distribution.shape:
        size *= n
    return size
