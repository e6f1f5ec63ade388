"""An alternative to the package's adjoint: the same solve, differentiated by JAX with recursive checkpoints."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.record import median_seconds
from tumorjax import Anatomy, FisherKolmogorov, ScaledGrowthParams, StrangRKL2
from tumorjax.integrate.rkl2 import stages
from tumorjax.integrate.stepper import Interval
from tumorjax.operators import diffuse

_SEGMENT = 6


def gradient_by_checkpoints(anatomy: Anatomy, params: ScaledGrowthParams, expected: Any) -> tuple[float, float]:
    """Return the seconds for a value with its gradient (mu1 and mu2), and its relative difference from `expected`.

    Reverse mode through a loop needs a fixed length. Therefore steps and stages are counted beforehand, and every step
    takes as many stages as the longest. Segments of steps are checkpointed, and so is every step in them.
    """
    model, stepper = FisherKolmogorov(), StrangRKL2()
    terms = model.terms(params, anatomy)
    schedule = stepper.schedule(terms, Interval())
    n = int(schedule.steps)
    widths = np.array([float(schedule.width(k)) for k in range(n)])
    counts = np.array([int(stages(w * schedule.stiffness, stepper.max_stages)) for w in widths])
    reactions = (widths + np.append(widths[1:], 0)) / 2
    segments = -(-n // _SEGMENT)
    # Steps of zero length fill the last segment.
    padding = (0, segments * _SEGMENT - n)
    table = [np.pad(widths, padding), np.pad(reactions, padding), np.pad(counts, padding, constant_values=3)]
    rows = tuple(jnp.asarray(x.reshape(segments, _SEGMENT), anatomy.dtype) for x in table)
    most = int(counts.max())
    ks = jnp.arange(1, most + 1, dtype=anatomy.dtype)

    def loss(mu: Any, anatomy: Anatomy) -> Any:
        # D T = mu1^2 and rho T = mu2^2.
        moved = ScaledGrowthParams(mu[0], mu[1], params.origin, params.speed)
        terms = model.terms(moved, anatomy)

        def step(c: Any, row: Any) -> tuple[Any, None]:
            width, reaction, s = row
            tau = mu[0] ** 2 * width
            b, w = (s * s + s - 2) / (2 * s * (s + 1)), 4 / (s * s + s - 2)

            def stage(carry: Any, k: Any) -> tuple[Any, None]:
                current, previous = carry
                applied = current + w * tau * diffuse(current, terms.conductance)
                new = ((2 * k - 1) / k) * applied - ((k - 1) / k) * previous
                return (jnp.where(k <= s, new, current), jnp.where(k <= s, current, previous)), None

            (last, _), _ = lax.scan(stage, (c, jnp.zeros_like(c)), ks)
            return terms.reaction((1 - b) * c + b * last, reaction * mu[1] ** 2 * terms.growth), None

        def segment(c: Any, row: Any) -> tuple[Any, None]:
            return lax.scan(jax.checkpoint(step), c, row)

        c = terms.reaction(model.initial(moved, anatomy), widths[0] / 2 * mu[1] ** 2 * terms.growth)
        c, _ = lax.scan(jax.checkpoint(segment), c, rows)
        return jnp.sum(c**2)

    compiled = jax.jit(jax.value_and_grad(loss))
    mu = jnp.stack([params.mu1, params.mu2])
    run = functools.partial(compiled, mu, anatomy)
    seconds = median_seconds(run, 3)
    difference = jnp.linalg.norm(run()[1] - expected) / jnp.linalg.norm(expected)
    return seconds, float(difference)
