"""Growth of the tumour's whole volume, by ordinary differential equations that have a closed solution."""

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tumorjax.checks import check_not_negative, check_positive


class VolumeParams(eqx.Module):
    """Parameters of the growth of a volume.

    Parameters
    ----------
    initial
        V_0, mm^3: at time zero.
    rate
        r, 1/day. Its meaning is the law's, and so one number is another speed under another law.
    duration
        T, day.
    capacity
        K, mm^3: what the volume tends to; None where nothing limits it.

    Raises
    ------
    ValueError
        If a concrete value is not finite, a volume is not positive, or a rate or time is negative.
    """

    initial: Float[Any, ""]
    rate: Float[Any, ""]
    duration: Float[Any, ""]
    capacity: Float[Any, ""] | None = None

    def __check_init__(self) -> None:
        check_positive("initial", self.initial)
        if self.capacity is not None:
            check_positive("capacity", self.capacity)
        for name in ("rate", "duration"):
            check_not_negative(name, getattr(self, name))

    @property
    def valid(self) -> Bool[Array, ""]:
        """Whether no number is negative, and no volume zero; the constructor checks concrete values."""
        volumes = [v for v in (self.initial, self.capacity) if v is not None]
        positive = jnp.all(jnp.stack([jnp.asarray(v) > 0 for v in volumes]))
        return positive & jnp.all(jnp.stack([jnp.asarray(v) >= 0 for v in (self.rate, self.duration)]))

    def lasting(self, duration: Float[Any, ""]) -> "VolumeParams":
        """Return the same growth over another time, day."""
        return dataclasses.replace(self, duration=duration)


class AbstractVolumeLaw(eqx.Module):
    """A law dV/dt = f(V) of which the solution is known."""

    name: ClassVar[str] = ""
    title: ClassVar[str] = "Law of a volume"
    parameters: ClassVar[tuple[type, ...]] = (VolumeParams,)
    shows: ClassVar[frozenset[str]] = frozenset({"volume"})
    """What is seen of the outcome: the "volume" alone."""
    displaces: ClassVar[bool] = False

    @abstractmethod
    def volume(self, params: VolumeParams, times: Float[Any, "..."]) -> Float[Array, "..."]:
        """Return the volume in mm^3 at times in days after the beginning, in the precision of the times.

        Raises
        ------
        ValueError
            If the law needs a capacity and the parameters have none.
        """

    def under_drug(
        self, params: VolumeParams, times: Float[Any, "..."], killing: Float[Any, ""]
    ) -> Float[Array, "..."]:
        """Return the volume in mm^3 at times in days after the beginning of dV/dt = f(V) - k V; see `volume`.

        Raises
        ------
        ValueError
            If the law does not say how a drug acts.
        """
        raise ValueError(f"{type(self).__name__} does not say how a drug acts; define under_drug, or leave out drugs")


class ExponentialGrowth(AbstractVolumeLaw):
    """dV/dt = r V: the volume doubles every log(2) / r days. A capacity is ignored.

    References
    ----------
    Ezhov, dissertation, equation 3.1 (alpha is r).
    """

    def volume(self, params: VolumeParams, times: Float[Any, "..."]) -> Float[Array, "..."]:
        """Return V_0 e^{r t}; see `AbstractVolumeLaw.volume`."""
        initial, elapsed = _elapsed(params, times)
        return initial * jnp.exp(elapsed)

    def under_drug(
        self, params: VolumeParams, times: Float[Any, "..."], killing: Float[Any, ""]
    ) -> Float[Array, "..."]:
        """Return V_0 e^{(r - k) t}; see `AbstractVolumeLaw.under_drug`."""
        initial, elapsed = _elapsed(params, times)
        return initial * jnp.exp(elapsed - _killed(killing, elapsed, times))


class LogisticGrowth(AbstractVolumeLaw):
    """dV/dt = r V (1 - V / K).

    References
    ----------
    Ezhov, dissertation, equation 3.2 (rho is r).
    """

    def volume(self, params: VolumeParams, times: Float[Any, "..."]) -> Float[Array, "..."]:
        """Return K V_0 / (V_0 + (K - V_0) e^{-r t}); see `AbstractVolumeLaw.volume`."""
        initial, elapsed = _elapsed(params, times)
        # Without differences of volumes, so that nothing overflows or cancels, whichever of the two is larger.
        return initial / (jnp.exp(-elapsed) - initial / _capacity(self, params, initial) * jnp.expm1(-elapsed))

    def under_drug(
        self, params: VolumeParams, times: Float[Any, "..."], killing: Float[Any, ""]
    ) -> Float[Array, "..."]:
        """Return V_0 / (e^{-a} + r t V_0 / K (1 - e^{-a}) / a), a = (r - k) t; see `AbstractVolumeLaw.under_drug`."""
        initial, elapsed = _elapsed(params, times)
        net = elapsed - _killed(killing, elapsed, times)
        return initial / (jnp.exp(-net) + initial / _capacity(self, params, initial) * elapsed * _shrinking(net))


class GompertzGrowth(AbstractVolumeLaw):
    """dV/dt = r V log(K / V).

    It is the law dV/dt = alpha exp(-beta t) V of a division rate that decays, with beta = r and
    alpha = r log(K / V_0), the rate at the beginning.

    References
    ----------
    Ezhov, dissertation, equation 3.3.
    """

    def volume(self, params: VolumeParams, times: Float[Any, "..."]) -> Float[Array, "..."]:
        """Return V_0 exp(log(K / V_0) (1 - e^{-r t})); see `AbstractVolumeLaw.volume`."""
        initial, elapsed = _elapsed(params, times)
        return self._grown(params, initial, elapsed)

    def under_drug(
        self, params: VolumeParams, times: Float[Any, "..."], killing: Float[Any, ""]
    ) -> Float[Array, "..."]:
        """Return what `volume` does, times exp(-k t (1 - e^{-r t}) / (r t)); see `AbstractVolumeLaw.under_drug`."""
        initial, elapsed = _elapsed(params, times)
        killed = _killed(killing, elapsed, times) * _shrinking(elapsed)
        return self._grown(params, initial, elapsed) * jnp.exp(-killed)

    def _grown(
        self, params: VolumeParams, initial: Float[Array, ""], elapsed: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        capacity = _capacity(self, params, initial)
        # Nothing grows from nothing, as after a whole resection.
        some = initial > 0
        ratio = capacity / jnp.where(some, initial, capacity)
        # In this form what grows is small where the time is short, and keeps its digits.
        return jnp.where(some, initial * jnp.exp(-jnp.log(ratio) * jnp.expm1(-elapsed)), 0)


def _elapsed(params: VolumeParams, times: Float[Any, "..."]) -> tuple[Float[Array, ""], Float[Array, "..."]]:
    """Return V_0 and r t in the precision of the times."""
    times = jnp.asarray(times)
    if not jnp.issubdtype(times.dtype, jnp.floating):
        times = times.astype(float)
    return jnp.asarray(params.initial, times.dtype), jnp.asarray(params.rate, times.dtype) * times


def _killed(killing: Float[Any, ""], elapsed: Float[Array, "..."], times: Float[Any, "..."]) -> Float[Array, "..."]:
    """Return k t in the precision of r t."""
    return jnp.asarray(killing, elapsed.dtype) * jnp.asarray(times, elapsed.dtype)


def _shrinking(exponent: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return (1 - e^{-a}) / a, which is one at zero."""
    small = jnp.abs(exponent) < jnp.sqrt(jnp.finfo(exponent.dtype).eps)
    # The first `where` keeps NaN out of the derivative.
    some = jnp.where(small, 1, exponent)
    return jnp.where(small, 1 - exponent / 2, -jnp.expm1(-some) / some)


def _capacity(law: AbstractVolumeLaw, params: VolumeParams, initial: Float[Array, ""]) -> Float[Array, ""]:
    """Return K in the precision of V_0."""
    if params.capacity is None:
        raise ValueError(f"{type(law).__name__} needs a capacity, got None; give VolumeParams one in mm^3")
    return jnp.asarray(params.capacity, initial.dtype)
