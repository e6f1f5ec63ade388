"""The law of a volume in time, with treatments between its closed solutions."""

import itertools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from tumorjax.growth import AbstractVolumeLaw, Chemotherapy, Radiotherapy, Surgery, Treatment, VolumeParams
from tumorjax.integrate.solution import VolumeSolution
from tumorjax.integrate.timeline import kept_days, phases, saved_days


def follow(
    law: AbstractVolumeLaw, params: VolumeParams, treatments: tuple[Treatment, ...], save_every: float | None
) -> VolumeSolution:
    """Return the volume of a law at the end, and on the days on which it is kept; see `simulate`.

    Raises
    ------
    ValueError
        If a dose or a cavity is an image, or a law does not say how a drug acts.
    """
    saved = saved_days(params.duration, save_every)
    if treatments:
        days, volumes = _treated(law, params, treatments, saved)
    else:
        days = jnp.asarray(params.duration)[None] if saved is None else jnp.asarray([0.0, *saved])
        volumes = law.volume(params, days)
    volumes = jnp.where(params.valid, volumes, jnp.nan)
    return VolumeSolution(volumes[-1], days, None if saved is None else volumes)


def _treated(
    law: AbstractVolumeLaw, params: VolumeParams, treatments: tuple[Treatment, ...], saved: object
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Return the days that are kept, the end among them, and the volumes then: before what is done on the same day."""
    for treatment in treatments:
        place = {Surgery: "cavity", Radiotherapy: "dose"}.get(type(treatment))
        if place is not None and jnp.ndim(getattr(treatment, place)) != 0:
            got = jnp.shape(getattr(treatment, place))
            raise ValueError(f"a volume has no place; give {place} as one number, got {got}")
    timeline = phases(params.duration, treatments, saved)  # pyright: ignore[reportArgumentType]
    end = jnp.asarray(params.duration)
    end = end if jnp.issubdtype(end.dtype, jnp.floating) else end.astype(float)
    surgeries = [t for t in treatments if isinstance(t, Surgery)]
    radiation = [t for t in treatments if isinstance(t, Radiotherapy)]
    drugs = [t for t in treatments if isinstance(t, Chemotherapy)]
    volume = jnp.asarray(params.initial, end.dtype)
    found = [volume]
    for phase in timeline:
        for i in phase.surgeries:
            volume = volume * (1 - jnp.asarray(surgeries[i].cavity, end.dtype))
        days = [*phase.days.astype(float)]
        for i, (begin, stop) in enumerate(itertools.pairwise(days)):
            for treatment, count in zip(radiation, phase.fractions[i], strict=True):
                volume = volume * jnp.asarray(treatment.survival(count), end.dtype)
            rates = [jnp.asarray(t.rate, end.dtype) for t, given in zip(drugs, phase.drugs[i], strict=True) if given]
            last = phase is timeline[-1] and i == len(days) - 2
            # A drug may stop after a traced end.
            width = (end if last else jnp.where(stop <= end, stop, end)) - jnp.where(begin <= end, begin, end)
            # Not by the constructor: after a whole resection the volume is zero.
            here = eqx.tree_at(lambda p: p.initial, params, volume)
            volume = law.under_drug(here, width, sum(rates)) if rates else law.volume(here, width)
            found.append(volume)
    begun = max(day for treatment in treatments for day in treatment.begins)
    series = jnp.where(end > begun, jnp.stack(found), jnp.nan)
    if saved is None:
        return end[None], series[-1:]
    days, positions = kept_days(timeline, saved)  # pyright: ignore[reportArgumentType]
    return jnp.append(jnp.asarray(days, end.dtype), end), series[jnp.asarray(positions)]
