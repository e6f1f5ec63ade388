"""The law of a volume in time, with treatments between its closed solutions."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tumorjax.growth import AbstractVolumeLaw, Chemotherapy, Radiotherapy, Surgery, Treatment, VolumeParams
from tumorjax.integrate.solution import VolumeSolution
from tumorjax.integrate.timeline import Calendar, Phase, kept_days, phases, saved_days


def follow(
    law: AbstractVolumeLaw,
    params: VolumeParams,
    treatments: tuple[Treatment, ...],
    save_every: float | None,
    calendar: Calendar | None,
) -> VolumeSolution:
    """Return the volume of a law at the end, and on the days on which it is kept; see `simulate`.

    Raises
    ------
    ValueError
        If a dose or a cavity is an image, or a law does not say how a drug acts.
    """
    for treatment in treatments:
        place = {Surgery: "cavity", Radiotherapy: "dose"}.get(type(treatment))
        if place is not None and jnp.ndim(getattr(treatment, place)) != 0:
            got = jnp.shape(getattr(treatment, place))
            raise ValueError(f"a volume has no place; give {place} as one number, got {got}")
    valid = params.valid
    if calendar is not None:
        age = _floating(params.duration)
        end = age + jnp.asarray(calendar.span, age.dtype)
        found = _treated(law, params, treatments, calendar.since_seed(age), end)
        kept = calendar.kept(age)
        volumes = jnp.where(calendar.possible(age), found[jnp.asarray(kept.positions)], jnp.nan)
        days, series = jnp.append(kept.days, end), True
    else:
        saved, series = saved_days(params.duration, save_every), save_every is not None
        if treatments:
            timeline, end = phases(params.duration, treatments, saved), _floating(params.duration)
            found = _treated(law, params, treatments, timeline, end)
            begun = max(day for treatment in treatments for day in treatment.begins)
            found = jnp.where(end > begun, found, jnp.nan)
            days, volumes = end[None], found[-1:]
            if saved is not None:
                kept = kept_days(timeline, saved)
                days = jnp.append(jnp.asarray(kept.days, end.dtype), end)
                volumes = found[jnp.asarray(kept.positions)]
        else:
            days = jnp.asarray(params.duration)[None] if saved is None else jnp.asarray([0.0, *saved])
            volumes = law.volume(params, days)
    volumes = jnp.where(valid, volumes, jnp.nan)
    return VolumeSolution(volumes[-1], days, volumes if series else None)


def _floating(days: Any) -> Float[Array, ""]:
    days = jnp.asarray(days)
    return days if jnp.issubdtype(days.dtype, jnp.floating) else days.astype(float)


def _treated(
    law: AbstractVolumeLaw,
    params: VolumeParams,
    treatments: tuple[Treatment, ...],
    timeline: list[Phase],
    end: Float[Array, ""],
) -> Float[Array, "n"]:
    """Return the volumes at the beginning and at the ends of all intervals: before what is done on the same day."""
    treatments = jax.tree.map(lambda leaf: jnp.asarray(leaf, end.dtype), treatments)
    surgeries = [t for t in treatments if isinstance(t, Surgery)]
    radiation = [t for t in treatments if isinstance(t, Radiotherapy)]
    drugs = [t for t in treatments if isinstance(t, Chemotherapy)]
    volume = jnp.asarray(params.initial, end.dtype)
    found = [volume]
    for phase in timeline:
        for i in phase.surgeries:
            volume = volume * (1 - surgeries[i].taken)
        days, fractions, given = (jnp.asarray(x, end.dtype) for x in (phase.days, phase.fractions, phase.drugs))
        for i, (begin, stop) in enumerate(itertools.pairwise(days)):
            for j, treatment in enumerate(radiation):
                volume = volume * treatment.survival(fractions[i, j])
            rates = [given[i, j] * treatment.rate for j, treatment in enumerate(drugs)]
            last = phase is timeline[-1] and i == len(days) - 2
            # A drug may stop after a traced end.
            width = (end if last else jnp.where(stop <= end, stop, end)) - jnp.where(begin <= end, begin, end)
            # Not by the constructor: after a whole resection the volume is zero.
            here = eqx.tree_at(lambda p: p.initial, params, volume)
            volume = law.under_drug(here, width, sum(rates)) if rates else law.volume(here, width)
            found.append(volume)
    return jnp.stack(found)
