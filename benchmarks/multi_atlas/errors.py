"""Errors of an inversion, beside the truth of a synthetic patient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.displaced import Displaced, scaled
from benchmarks.mass_effect import VOXEL, YEAR
from tumorjax import Anatomy, MassEffectParams, Solution, simulate


def grown(one: Displaced, samples: Any, index: int, anatomy: Anatomy) -> tuple[MassEffectParams, Solution]:
    """Return the growth of one sample, and its solution in an anatomy."""
    growth = jax.tree.map(lambda leaf: leaf[index], samples).growth
    return growth, simulate(one.model, growth, anatomy)


def errors(one: Displaced, growth: MassEffectParams, solution: Solution) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the paper's errors, relative or absolute where the truth is zero, and what belongs to them."""
    true = scaled(one)
    pairs = {
        # In the paper's unit, 1e5 Pa.
        "gamma": (float(growth.mass_effect) / 1e5, float(one.truth.mass_effect) / 1e5),
        "rho": (float(growth.growth.mu2) ** 2, float(true.mu2) ** 2),
        "kappa": (float(growth.growth.mu1) ** 2, float(true.mu1) ** 2),
    }
    found = {row: abs(value - truth) / (truth or 1) for row, (value, truth) in pairs.items()}
    found |= field_errors(one, solution.density, solution.displacement)
    details = {
        "largest": float(jnp.linalg.norm(solution.displacement, axis=-1).max()) / VOXEL,
        "largest of the truth, voxels": one.largest / VOXEL,
        # Signed errors follow from these: they distinguish too small from too large.
        "T rho, T kappa, gamma": [pairs["rho"][0], pairs["kappa"][0], pairs["gamma"][0]],
        "years": float(growth.duration) / YEAR,
    }
    return found, details


def field_errors(one: Displaced, density: Any, displacement: Any) -> dict[str, float]:
    """Return the errors of fields, relative to the norm of the truth.

    "displacement" is the paper's error, the difference of the norms, which ignores the direction of the displacement;
    "displacement_field" is the norm of the difference. If the true displacement is zero, both are the root mean square
    over the head, in voxels of the paper.
    """
    found, truth = _norm(displacement), _norm(one.displacement)
    unit = truth or VOXEL * np.sqrt(np.size(one.density))
    return {
        "displacement": abs(found - truth) / unit,
        "displacement_field": _norm(np.asarray(displacement, float) - np.asarray(one.displacement, float)) / unit,
        "tumour": _norm(density - one.density) / _norm(one.density),
    }


def _norm(field: Any) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(field, float))))


def plain(stats: Any) -> Any:
    """Return the statistics of a calibration in a form that a record can hold."""
    return {
        "state at time zero": [np.asarray(basis.weights).round(3).tolist() for basis in stats.origins],
        "gradients without mass effect": stats.origin_gradients,
        "atlases": [atlas._asdict() for atlas in stats.atlases],
    }


def quiet(stage: str, share: float, objective: float) -> None:
    """Follow a calibration without a word."""
