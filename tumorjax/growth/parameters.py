"""The parameters of reaction-diffusion growth, in physical and in identifiable form."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tumorjax.checks import as_array, check_not_negative, check_positive
from tumorjax.growth.origins import Origin, check_origin, crop_origin
from tumorjax.growth.places import origin_quantities
from tumorjax.prior import AbstractDistribution, SameAs
from tumorjax.quantity import Quantity

# The mean velocity of growth that the literature fixes where only one scan is given.
PUBLISHED_SPEED = 200 / 365.25
"""mm/day; 200 mm/year."""

_ARRAYS = (np.ndarray, np.generic, jax.Array)
_PHYSICAL = (
    ("diffusivity", "D_w", "mm²/day", "diffusivity in white matter"),
    ("proliferation", "ρ", "1/day", "proliferation rate"),
    ("duration", "T", "day", "time since the seed"),
)
_IDENTIFIABLE = (
    ("mu1", "μ_1", "mm", "diffusion length, √(D_w T)"),
    ("mu2", "μ_2", "", "proliferation number, √(ρ T)"),
)


class AbstractGrowthParams(eqx.Module):
    """Parameters of a growth model, or a tree like them with distributions in place of numbers.

    Those of many tumours have a leading axis in each number, as `simulate_many` and `jax.vmap` take them. Among arrays
    (n,) a single number, and a single origin (3,), is repeated.

    A subclass has, as fields or properties, the `origin` (see `Origin`) and the `duration` T, day, from the seed to
    the scan.
    """

    if TYPE_CHECKING:
        # To a type checker abstract variables would be arguments of every constructor.
        @property
        def origin(self) -> Any:
            """Where the tumour began."""

        @property
        def duration(self) -> Any:
            """T, day."""

    else:
        origin: eqx.AbstractVar[Any]
        duration: eqx.AbstractVar[Any]

    @property
    @abstractmethod
    def valid(self) -> Bool[Array, ""]:
        """Whether the numbers are possible; where values are concrete, the constructor checks that."""

    def with_origin(self, origin: Origin) -> Self:
        """Return the same parameters with another origin."""
        return dataclasses.replace(self, origin=origin)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Self:
        """Return the same parameters for the box of `shape` voxels that begins at `start`."""
        return self.with_origin(crop_origin(self.origin, start, shape))

    def lasting(self, duration: Float[Any, ""]) -> Self:
        """Return the same tumour, whose rates stay, after another time since the seed, day.

        Raises
        ------
        ValueError
            If the duration is no field of the parameters, and the class does not define this.
        """
        if "duration" not in _fields(type(self)):
            raise ValueError(
                f"how a tumour of {type(self).__name__} is at another time is unknown; define `lasting`, or give "
                "images of one date"
            )
        return dataclasses.replace(self, duration=duration)

    def at_speed(self, speed: Any) -> Self | None:
        """Return the same tumour at another speed of growth, mm/day; None where the speed is no number of its own."""
        return None

    def like(self, other: Any) -> Self | None:
        """Return the tumour of other parameters in this form, in which some of one's own may be distributions.

        None where the one form cannot be made from the other. What the other form lacks has its typical value.
        """
        return None

    def quantities(self, foci: Any = ()) -> list[Quantity]:
        """Return the numbers that tables give, those that are assumed last.

        Parameters
        ----------
        foci
            Middles of several foci; see `origin_quantities`.
        """
        return [*origin_quantities(self.origin, foci), *_further(self, ("origin", "duration"))]


class GrowthParams(AbstractGrowthParams):
    """Physical parameters of Fisher-Kolmogorov growth.

    Parameters
    ----------
    diffusivity
        D_w, mm^2/day: in pure white matter.
    proliferation
        rho, 1/day.
    origin
        Where the tumour began: (3,), mm, RAS world; or (n, 3), so many seeds, or `Foci` of unequal ones; or the
        state at time zero as a `GaussianBasis` or an `InitialDensity`.
    duration
        T, day: from the seed to the scan.

    Raises
    ------
    ValueError
        If a concrete value is negative or not finite, or the origin is not three coordinates a seed.
    """

    diffusivity: Float[Any, ""]
    proliferation: Float[Any, ""]
    origin: Origin = eqx.field(converter=as_array)
    duration: Float[Any, ""]

    def __post_init__(self) -> None:
        _repeat(self, "diffusivity", "proliferation", "duration")

    def __check_init__(self) -> None:
        for name in ("diffusivity", "proliferation", "duration"):
            check_not_negative(name, getattr(self, name))
        check_origin(self.origin)

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether no rate is negative; where values are concrete, the constructor has checked that."""
        return _none_negative(self.diffusivity, self.proliferation, self.duration)

    def like(self, other: Any) -> Self:
        """Return another tumour by its physical parameters."""
        return _as(self, GrowthParams, other.physical())

    def physical(self) -> "GrowthParams":
        """Return the parameters themselves."""
        return self

    def totals(self) -> tuple[Float[Any, ""], Float[Any, ""]]:
        """Return D_w T, mm^2, and rho T: what the density at the end depends on."""
        return self.diffusivity * self.duration, self.proliferation * self.duration

    def scaled(self) -> "ScaledGrowthParams":
        """Return the same tumour by its identifiable parameters; D_w, rho and T must be positive."""
        for name in ("diffusivity", "proliferation", "duration"):
            check_positive(name, getattr(self, name))
        mu1, mu2 = jnp.sqrt(self.diffusivity * self.duration), jnp.sqrt(self.proliferation * self.duration)
        return ScaledGrowthParams(mu1, mu2, self.origin, 2 * jnp.sqrt(self.diffusivity * self.proliferation))

    def quantities(self, foci: Any = ()) -> list[Quantity]:
        """Return the numbers in words, and then those that follow from them; see `origin_quantities` for `foci`."""
        derived = [_follows(*row, GrowthParams.scaled) for row in _IDENTIFIABLE]
        own = [*map(_holds, _PHYSICAL), *_further(self, _fields(GrowthParams))]
        return [*own, *origin_quantities(self.origin, foci), *derived]


class ScaledGrowthParams(AbstractGrowthParams):
    """Parameters of growth that one scan determines: two numbers and the origin, at an assumed speed.

    The tumour of (D_w, rho, T) is that of (D_w s, rho s, T / s) for every s, so a single scan
    determines only mu1, mu2 and the origin; the speed of growth v has to come from elsewhere
    and changes nothing but the calendar.

    Parameters
    ----------
    mu1
        mu_1 = sqrt(D_w T), mm: how far cells spread by diffusion.
    mu2
        mu_2 = sqrt(rho T), dimensionless: how often they divided.
    origin
        Where the tumour began, as of `GrowthParams`.
    speed
        v = 2 sqrt(D_w rho), mm/day; by default the published 200 mm/year.

    Raises
    ------
    ValueError
        If a concrete value is negative or not finite, the speed is zero, or the origin is not three coordinates a seed.

    References
    ----------
    Ezhov et al., "Learn-Morph-Infer: a new way of solving the inverse problem for brain tumor
    modeling", Medical Image Analysis 2023, section 2.
    """

    mu1: Float[Any, ""]
    mu2: Float[Any, ""]
    origin: Origin = eqx.field(converter=as_array)
    speed: Float[Any, ""] = PUBLISHED_SPEED

    def __post_init__(self) -> None:
        _repeat(self, "mu1", "mu2", "speed")

    def __check_init__(self) -> None:
        for name in ("mu1", "mu2"):
            check_not_negative(name, getattr(self, name))
        check_positive("speed", self.speed)
        check_origin(self.origin)

    @property
    def duration(self) -> Float[Any, ""]:
        """T = 2 mu1 mu2 / v, day."""
        return 2 * self.mu1 * self.mu2 / self.speed

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether no number is negative; where values are concrete, the constructor has checked that."""
        return _none_negative(self.mu1, self.mu2) & (jnp.asarray(self.speed) > 0)

    def at_speed(self, speed: Any) -> "ScaledGrowthParams":
        """Return the same tumour at another speed, which changes nothing but the calendar."""
        return dataclasses.replace(self, speed=speed)

    def like(self, other: Any) -> Self:
        """Return another tumour by its identifiable parameters."""
        return _as(self, ScaledGrowthParams, other.scaled())

    def scaled(self) -> "ScaledGrowthParams":
        """Return the parameters themselves."""
        return self

    def totals(self) -> tuple[Float[Any, ""], Float[Any, ""]]:
        """Return D_w T = mu1^2, mm^2, and rho T = mu2^2, which are there also where D_w or rho would be infinite."""
        return self.mu1**2, self.mu2**2

    def lasting(self, duration: Float[Any, ""]) -> "ScaledGrowthParams":
        """Return the same tumour, of the same speed and width of the front, after another time, day.

        Both mu grow with the square root of the time; the present one must be above zero.
        """
        share = jnp.sqrt(duration / self.duration)
        return dataclasses.replace(self, mu1=self.mu1 * share, mu2=self.mu2 * share)

    def physical(self) -> GrowthParams:
        """Return D_w = mu1 v / (2 mu2), rho = mu2 v / (2 mu1), T = 2 mu1 mu2 / v; mu1 and mu2 must be positive."""
        for name in ("mu1", "mu2"):
            check_positive(name, getattr(self, name))
        return GrowthParams(
            diffusivity=self.mu1 * self.speed / (2 * self.mu2),
            proliferation=self.mu2 * self.speed / (2 * self.mu1),
            origin=self.origin,
            duration=self.duration,
        )

    def quantities(self, foci: Any = ()) -> list[Quantity]:
        """Return the numbers in words, last the speed and what follows from it; see `origin_quantities` for `foci`."""
        meaning = "front speed, assumed, because one scan contains no information about it"
        speed = Quantity(
            "speed", "v", "mm/day", meaning, lambda params: params.speed, "speed", fixed=True, freed="front speed"
        )
        derived = [
            dataclasses.replace(
                _follows(name, symbol, unit, f"{meaning}, at the assumed speed", ScaledGrowthParams.physical),
                freed=meaning,
            )
            for name, symbol, unit, meaning in _PHYSICAL
        ]
        own = [*map(_holds, _IDENTIFIABLE), *_further(self, _fields(ScaledGrowthParams))]
        return [*own, *origin_quantities(self.origin, foci), speed, *derived]


def batch_of(*values: Any) -> tuple[int, ...]:
    """Return the shape of the arrays among numbers; that of one number where they have several or there is none."""
    shapes = {np.shape(value) for value in values if isinstance(value, _ARRAYS)} - {()}
    return shapes.pop() if len(shapes) == 1 else ()


def repeated(value: Any, shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Return a number or array along leading axes of a shape, a plain number in a dtype; other things as they are."""
    if isinstance(value, jax.Array):
        return jnp.broadcast_to(value, shape + value.shape)
    if not isinstance(value, (*_ARRAYS, int, float)):
        return value
    return np.full(shape + np.shape(value), value, getattr(value, "dtype", dtype))


def _repeat(params: Any, *names: str) -> None:
    """Repeat single ones of these numbers, and an origin that is one place, where others of the numbers are arrays."""
    values = {name: getattr(params, name) for name in names}
    shape, origin = batch_of(*values.values()), as_array(params.origin)
    if shape == ():
        return
    dtype = jnp.result_type(float, next(value for value in values.values() if np.shape(value) == shape))
    for name, value in values.items():
        if np.shape(value) == ():
            setattr(params, name, repeated(value, shape, dtype))
    if isinstance(origin, _ARRAYS) and np.ndim(origin) == 1:
        params.origin = repeated(origin, shape)


def typical(value: Any, z: float = 0.0) -> Any:
    """Return a value itself, and of a distribution the one at a coordinate: by default its median."""
    if isinstance(value, AbstractDistribution):
        return value.transport(jnp.full(value.shape, z))
    # What is the same as another has its value from there.
    return 0.0 if isinstance(value, SameAs) else value


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _as(own: Any, kind: type, other: Any) -> Any:
    """Return parameters of the class of `own`, a subclass of `kind`, with the numbers of another tumour of `kind`."""
    held = _fields(kind)
    further = {name: typical(getattr(own, name)) for name in _fields(type(own)) if name not in held}
    return type(own)(**{name: getattr(other, name) for name in held}, **further)


def _further(params: AbstractGrowthParams, known: Iterable[str]) -> list[Quantity]:
    """Return the numbers that the parameters hold beside those that are known, by their names."""
    names = [name for name in _fields(type(params)) if name not in known and np.ndim(getattr(params, name)) == 0]
    return [_holds((name, name, "", f"{name} of the growth model")) for name in names]


def _holds(words: tuple[str, str, str, str]) -> Quantity:
    """Return a number that the parameters hold."""
    return Quantity(*words, lambda params: getattr(params, words[0]), words[0])


def _follows(name: str, symbol: str, unit: str, meaning: str, form: Callable[[Any], Any]) -> Quantity:
    """Return a number of another form of the parameters."""
    return Quantity(name, symbol, unit, meaning, lambda params: getattr(form(params), name))


def _none_negative(*values: Float[Any, ""]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.asarray(value) for value in values]) >= 0)
