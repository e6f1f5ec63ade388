"""Growth with mass effect: cases a to d of the multi-atlas paper, errors of elasticity and time steps, and costs."""

import dataclasses
import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.brain import ORIGIN, head
from benchmarks.cohorts import seconds_of_building
from benchmarks.record import Record, median_seconds, medians_by_turns
from tumorjax import (
    Anatomy,
    FlowSplitting,
    GaussianBasis,
    MassEffect,
    MassEffectParams,
    Result,
    Solution,
    StrangRKL2,
    simulate,
)
from tumorjax.growth.mass_effect_params import PUBLISHED_DURATION, PUBLISHED_SIDE
from tumorjax.operators import (
    Fourier,
    Multigrid,
    free_faces,
    gradient_on_faces,
    solve_elasticity,
    stiffness,
)

CASES = {"a": (0.0, 12.0, 0.025), "b": (0.4, 12.0, 0.025), "c": (0.8, 10.0, 0.05), "d": (1.2, 10.0, 0.025)}
"""gamma [1e5 Pa], rho and kappa in units of the paper's box and time."""
PUBLISHED = {"a": 0.0, "b": 6.1, "c": 10.0, "d": 14.9}
"""Largest displacement, voxels of 0.9 mm."""
VOXEL, BOX, YEAR = 0.9, PUBLISHED_SIDE, PUBLISHED_DURATION


def run(size: str) -> list[Record]:
    """All figures; `small` uses coarse voxels."""
    if size == "small":
        return published_cases(4) + approximations(8) + costs(8) + elasticity((8,)) + database(32, 8)
    return published_cases(2) + approximations(4) + costs(4) + costs(2) + elasticity((4, 2)) + database(2000, 4)


def case(name: str, **settings: Any) -> tuple[MassEffect, MassEffectParams]:
    """Return model and parameters of a case: one Gaussian, of a maximum of one, grows for a year."""
    model = dataclasses.replace(MassEffect.published(), **settings)
    origin = GaussianBasis(ORIGIN[None], np.ones(1, np.float32), 2.0)
    return model, MassEffectParams.from_published(*CASES[name], origin)


def boxed(spacing: int) -> Anatomy:
    """Return the ICBM152 head, cropped."""
    anatomy = head(spacing)
    return anatomy.crop(*MassEffect().box(anatomy))


@eqx.filter_jit
def solve(model: MassEffect, params: MassEffectParams, anatomy: Anatomy, stepper: FlowSplitting) -> Solution:
    """Solve once."""
    return simulate(model, params, anatomy, stepper=stepper, throw=False)


def largest(solution: Solution) -> float:
    """Return the largest displacement, mm."""
    return float(jnp.linalg.norm(solution.displacement, axis=-1).max())


def outcome(solution: Solution) -> str:
    """Return the result of a solve in words."""
    return Result(int(solution.result)).name


def published_cases(spacing: int) -> list[Record]:
    """The largest displacement of each case beside the published one, with the published solver's force and without."""
    anatomy = boxed(spacing)
    records = []
    for force in ("tanh", "linear"):
        for name in CASES:
            model, params = case(name, force=force)
            solution = solve(model, params, anatomy, FlowSplitting())
            details = {
                "published": PUBLISHED[name],
                "result": outcome(solution),
                "volume above 0.5, ml": float((solution.density > 0.5).sum()) * float(anatomy.grid.voxel_volume) / 1000,
                "largest density": float(solution.density.max()),
                "steps": int(solution.steps),
            }
            target = f"about {PUBLISHED[name]:g}" if force == "tanh" else ""
            records.append(
                Record(f"case_{name}_{force}_displacement", largest(solution) / VOXEL, "voxels", target, details)
            )
    return records


def approximations(spacing: int) -> list[Record]:
    """Errors of case c from elasticity on coarser voxels, from its tolerance, and from the time steps."""
    anatomy = boxed(spacing)
    fine_steps = FlowSplitting(StrangRKL2(reaction_step=0.1, first_steps=100))
    runs = {
        "finest": (1, fine_steps),
        "default_steps": (1, FlowSplitting()),
        "coarsening_2": (2, fine_steps),
        "coarsening_4": (4, fine_steps),
        "default": (2, FlowSplitting()),
        "tolerance_1e-3": (2, FlowSplitting(tolerance=1e-3)),
        "tolerance_1e-6": (2, FlowSplitting(tolerance=1e-6)),
    }
    solutions = {}
    for name, (coarsening, stepper) in runs.items():
        model, params = case("c", coarsening=coarsening, force="tanh")
        solutions[name] = solve(model, params, anatomy, stepper)
    exact = solutions.pop("finest")
    records = []
    for name, solution in solutions.items():
        displacement, density = (
            float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
            for a, b in ((solution.displacement, exact.displacement), (solution.density, exact.density))
        )
        details = {"largest displacement, mm": largest(solution), "relative L2 difference of the density": density}
        details |= {"spacing": spacing, "largest of the finest, mm": largest(exact), "result": outcome(solution)}
        details["steps"] = int(solution.steps)
        in_time = name == "default_steps"
        key = "mass_effect_time_error" if in_time else f"displacement_difference_{name}"
        records.append(Record(key, displacement, "1", "<= 0.02" if in_time else "", details))
    return records


def costs(spacing: int) -> list[Record]:
    """Seconds of case c, of its value with a gradient in solves, and of compiling both."""
    anatomy = boxed(spacing)
    model, params = case("c")
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, anatomy.dtype), params)

    @jax.jit
    def forward(params: MassEffectParams, anatomy: Anatomy) -> Any:
        return simulate(model, params, anatomy, throw=False)

    @jax.jit
    def gradient(params: MassEffectParams, anatomy: Anatomy) -> Any:
        return jax.value_and_grad(lambda p: jnp.sum(simulate(model, p, anatomy, throw=False).density ** 2))(params)

    compiling = []
    for function in (forward, gradient):
        start = time.perf_counter()
        function.lower(params, anatomy).compile()
        compiling.append(time.perf_counter() - start)
    solution = forward(params, anatomy)
    once = (lambda: forward(params, anatomy), lambda: gradient(params, anatomy))
    seconds, reverse = medians_by_turns(once, 5)
    details = {
        "shape": list(anatomy.grid.shape),
        "steps": int(solution.steps),
        "result": outcome(solution),
        "largest displacement, mm": largest(solution),
        "seconds of compiling": compiling[0],
    }
    target, prefix = {2: "<= 4", 4: "<= 0.5"}.get(spacing, ""), "" if spacing == 2 else f"{spacing}mm_"
    reversing = {"spacing": spacing, "seconds": reverse, "seconds of compiling": compiling[1]}
    return [
        Record(f"mass_effect_{spacing}mm_seconds", seconds, "s", target, details),
        Record(f"{prefix}mass_effect_gradient_ratio", reverse / seconds, "forward solves", "<= 4", reversing),
    ]


def elasticity(spacings: tuple[int, ...]) -> list[Record]:
    """Iterations and seconds of elasticity solves around a tumour of 20 mm, with either preconditioner."""
    records = []
    for spacing in spacings:
        anatomy = boxed(spacing)
        h = jnp.asarray(anatomy.grid.spacing, jnp.float32)
        maps = [jnp.asarray(m) for m in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf)]
        world = anatomy.grid.to_world(np.moveaxis(np.indices(anatomy.grid.shape), 0, -1))
        distance = np.linalg.norm(world - ORIGIN, axis=-1)
        density = jnp.asarray(1 / (1 + np.exp((distance - 20) / 2)), jnp.float32)
        shares = jnp.stack([maps[0], maps[1], 1 - maps[0] - maps[1], density])
        first, shear = (jnp.tensordot(jnp.stack(m), shares, 1) for m in MassEffect().mechanics.moduli(jnp.float32))
        medium = stiffness(first, shear, free_faces(sum(maps) > 0.5), h)
        force = 8e4 * gradient_on_faces(density, h)
        run = eqx.filter_jit(solve_elasticity)
        for preconditioner in (Multigrid(), Fourier()):
            zero = jnp.zeros_like(force)
            again = 0.97 * run(force, medium, guess=zero, preconditioner=preconditioner)[0]
            name = type(preconditioner).__name__.lower()
            for start, guess in (("cold", zero), ("warm", again)):
                once = functools.partial(run, force, medium, guess=guess, preconditioner=preconditioner)
                _, convergence = once()
                seconds = median_seconds(once, 5)
                target = "<= 15" if name == "multigrid" else ""
                details = {"seconds": seconds, "relative residual": float(convergence.residual)}
                records.append(
                    Record(
                        f"elasticity_{name}_{spacing}mm_{start}_iterations",
                        float(convergence.iterations),
                        "iterations",
                        target,
                        details,
                    )
                )
    return records


def database(count: int, resolution: int) -> list[Record]:
    """Seconds of a database of tumours that displace tissue, as `tumorjax database build` draws them."""
    seconds = seconds_of_building(count, resolution, MassEffect())
    target = "<= 3600" if count == 2000 else ""
    details = {"tumours a second, with compilation": count / seconds}
    return [Record(f"build_{count}_at_{resolution}mm_seconds", seconds, "s", target, details)]
