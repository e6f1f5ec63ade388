"""Growth of the tumour's whole volume, by ordinary differential equations that have a closed solution."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from tumorjax.growth.checks import check_not_negative, check_positive


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
        for name in ("initial", "capacity"):
            check_positive(name, getattr(self, name))
        for name in ("rate", "duration"):
            check_not_negative(name, getattr(self, name))


class AbstractVolumeLaw(eqx.Module):
    """A law dV/dt = f(V) of which the solution is known."""

    @abstractmethod
    def volume(self, params: VolumeParams, times: Float[Any, "..."]) -> Float[Array, "..."]:
        """Return the volume in mm^3 at times in days after the beginning, in the precision of the times.

        Raises
        ------
        ValueError
            If the law needs a capacity and the parameters have none.
        """


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
        # In this form what grows is small where the time is short, and keeps its digits.
        return initial * jnp.exp(-jnp.log(_capacity(self, params, initial) / initial) * jnp.expm1(-elapsed))


def _elapsed(params: VolumeParams, times: Float[Any, "..."]) -> tuple[Float[Array, ""], Float[Array, "..."]]:
    """Return V_0 and r t in the precision of the times."""
    times = jnp.asarray(times)
    if not jnp.issubdtype(times.dtype, jnp.floating):
        times = times.astype(float)
    return jnp.asarray(params.initial, times.dtype), jnp.asarray(params.rate, times.dtype) * times


def _capacity(law: AbstractVolumeLaw, params: VolumeParams, initial: Float[Array, ""]) -> Float[Array, ""]:
    """Return K in the precision of V_0."""
    if params.capacity is None:
        raise ValueError(f"{type(law).__name__} needs a capacity, got None; give VolumeParams one in mm^3")
    return jnp.asarray(params.capacity, initial.dtype)
