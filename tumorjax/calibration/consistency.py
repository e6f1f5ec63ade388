"""Whether the parts of a calibration problem belong together: one clear line where they do not."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from tumorjax.anatomy import TISSUE_THRESHOLD, Anatomy
from tumorjax.calibration.visit import Visit
from tumorjax.grid import Grid
from tumorjax.growth import AbstractGrowth, AbstractVolumeLaw, Foci, Treatment
from tumorjax.observation import AbstractObservation
from tumorjax.prior import AbstractDistribution, Prior, SameAs


def checked_visits(given: Sequence[Any]) -> list[Visit]:
    """Return visits, or raise a ValueError where something else is among them."""
    if wrong := [type(each).__name__ for each in given if not isinstance(each, Visit)]:
        raise ValueError(f"visits are given as [Visit(day, observations), ...], got {wrong[0]} among them")
    return list(given)


def check_model(model: Any, anatomy: Any) -> None:
    """Raise a ValueError unless there are a model of cells in space and an anatomy, or a law of a volume alone."""
    placed = isinstance(model, AbstractGrowth) and isinstance(anatomy, Anatomy)
    if not (placed or (isinstance(model, AbstractVolumeLaw) and anatomy is None)):
        got = [x.__name__ if isinstance(x, type) else type(x).__name__ for x in (model, anatomy)]
        raise ValueError(
            "a problem is of a model of cells in space, such as FisherKolmogorov(), and an Anatomy, in this order; "
            f"got {got[0]} and {got[1]}"
        )


def check_observations(
    images: Sequence[Mapping[str, AbstractObservation]], model: AbstractGrowth, anatomy: Anatomy | None
) -> None:
    """Raise a ValueError unless images of all visits, in order, are on the grid and show what the model has."""
    if not images[-1]:
        raise ValueError("a problem needs at least one observation")
    for name, observation in (pair for observations in images for pair in observations.items()):
        if not isinstance(observation, AbstractObservation):
            raise ValueError(
                f"observations must be images such as Outline or Pet, got {type(observation).__name__} as {name!r}"
            )
        if observation.shows not in model.shows:
            raise ValueError(
                f"an image shows the {observation.shows}, which {type(model).__name__} leaves as it is; leave "
                "out that image, or use a model that moves tissue, such as MassEffect"
            )
        shape = jnp.shape(observation.valid)
        if anatomy is not None and shape != anatomy.grid.shape:
            raise ValueError(
                f"the observation {name!r} has shape {shape} on an anatomy of shape {anatomy.grid.shape}; resample it"
            )


def check_prior(
    prior: Any,
    images: Sequence[Mapping[str, AbstractObservation]],
    treatments: Mapping[str, Treatment],
    anatomy: Anatomy | None,
) -> None:
    """Raise a ValueError unless a prior has exactly what is unknown, and the origin where there is tissue."""
    if not isinstance(prior, Prior):
        raise ValueError(
            f"prior must be a Prior over Parameters, got {type(prior).__name__}; give default_prior(...) or Prior(...)"
        )
    unknown = prior.distributions
    known = getattr(unknown, "observations", {})
    own = sorted({name for observations in images for name in observations})
    for name in sorted(set(own) ^ known.keys()):
        holder, other = ("problem", "prior") if name in own else ("prior", "problem")
        raise ValueError(
            f"the {holder} has the observation {name!r}, which the {other} lacks; both need the same names, got "
            f"{', '.join(own)} in the problem and {', '.join(known) or 'none'} in the prior"
        )
    check_treatments(treatments, getattr(unknown, "treatments", {}))
    growth = getattr(unknown, "growth", None)
    origin = getattr(growth, "origin", None)
    origin = origin.points if isinstance(origin, Foci) else origin
    if anatomy is None or not isinstance(origin, AbstractDistribution):
        return
    corners = _corners(origin, anatomy)
    if corners is not None and not _holds_tissue(corners, anatomy):
        low, high = (np.round(corner, 1).tolist() for corner in corners)
        raise ValueError(
            f"the prior of the origin is from {low} to {high}, where there is no tissue; "
            "give world coordinates (RAS, mm) in the brain of this problem"
        )


def check_treatments(treatments: Mapping[str, Treatment], unknown: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a ValueError where the prior has a number that no treatment has, or lacks one that is a distribution."""
    for name, treatment in treatments.items():
        numbers = {field.name: getattr(treatment, field.name) for field in dataclasses.fields(treatment)}
        free = {field for field, value in numbers.items() if isinstance(value, AbstractDistribution)}
        if missing := sorted(free - set(unknown.get(name, {}))):
            raise ValueError(
                f"{missing[0]} of the treatment {name!r} is a distribution, which the prior lacks; give it "
                f'Parameters(growth, observations, {{"{name}": {{"{missing[0]}": ...}}}})'
            )
        for value in numbers.values():
            path = value.name.split(".") if isinstance(value, SameAs) else []
            if path and not (len(path) == 3 and path[2] in unknown.get(path[1], {})):
                raise ValueError(
                    f"a number of the treatment {name!r} is the same as {value.name}, which is none of the unknown; "
                    'give SameAs("treatments.NAME.FIELD")'
                )
    for name, numbers in unknown.items():
        known = treatments.get(name)
        if known is None:
            raise ValueError(
                f"the prior has the treatment {name!r}, which the problem lacks, got {', '.join(treatments) or 'none'}"
            )
        if wrong := [field for field in numbers if field not in known.calibrated]:
            raise ValueError(
                f"of the treatment {name!r} {' and '.join(known.calibrated)} can be calibrated, got {wrong[0]}"
            )


def _corners(origin: AbstractDistribution, anatomy: Anatomy) -> np.ndarray | None:
    """Return the corners of the box in the world that holds nearly all seeds, (2, 3); None if that is not known."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((origin, anatomy))) or origin.shape[-1:] != (3,):
        return None
    with jax.ensure_compile_time_eval():
        # Four standard deviations out; of a uniform distribution, nearly its bounds.
        low, high = (np.asarray(origin.transport(jnp.full(origin.shape, z))) for z in (-4.0, 4.0))
    return np.stack([low.reshape(-1, 3).min(axis=0), high.reshape(-1, 3).max(axis=0)])


def _holds_tissue(corners: np.ndarray, anatomy: Anatomy) -> bool:
    """Return whether there is tissue in a box of the world or within two voxels of it."""
    eight = np.stack(np.meshgrid(*corners.T, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = anatomy.grid
    index = Grid(grid.shape, np.asarray(grid.affine)).to_index(eight)
    low = np.maximum(np.floor(index.min(axis=0)) - 2, 0).astype(int)
    high = np.maximum(np.ceil(index.max(axis=0)) + 3, 0).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    white, grey = (np.asarray(tissue)[box] for tissue in (anatomy.white_matter, anatomy.grey_matter))
    return bool(np.any(white + grey >= TISSUE_THRESHOLD))
