"""Derivatives at the edges of the domain, where a rate, a time or a force is zero: finite, and those from the right.

Their values there follow from the equation. With L the diffusion operator and f(c) = c (1 - c) in tissue, the state
after a time T is c_0 + T (D L c_0 + rho f(c_0)) to first order; and without diffusion every voxel follows the logistic
curve phi_t, so that by D it changes at the integral over s of T phi'_{T - s}(phi_s(c_0)) L phi_s(c_0).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, slope
from tumorjax import CheckpointedAdjoint, FisherKolmogorov, ForwardMode, GrowthParams, SplitEuler, StrangRKL2, simulate
from tumorjax.growth import InitialDensity, ScaledGrowthParams
from tumorjax.operators import diffuse, face_conductance

pytestmark = pytest.mark.usefixtures("compiled_plainly")

BRAIN = ball_brain((9, 8, 10), (3.0, 3.4, 2.7))
TISSUE = np.asarray(BRAIN.tissue, float)
PLACES = np.moveaxis(np.indices(BRAIN.grid.shape) - np.array([4, 4, 5])[:, None, None, None], 0, -1)
BEGIN = 0.3 * TISSUE * np.exp(-np.sum((PLACES * np.asarray(BRAIN.grid.spacing)) ** 2, axis=-1) / 60)
WEIGHTS = np.random.default_rng(0).uniform(0.5, 1.5, BRAIN.grid.shape)
DTYPES = (np.float64, np.float32)


def loss_of(density):
    return jnp.sum(jnp.asarray(WEIGHTS, density.dtype) * density**2)


def operator(density):
    """Return L c, for a diffusivity of one in white matter and an infinite ratio."""
    conductance = face_conductance(jnp.asarray(BRAIN.white_matter), BRAIN.tissue, jnp.asarray(BRAIN.grid.spacing))
    return np.asarray(diffuse(jnp.asarray(density), conductance))


def by(rate):
    """Return the derivative of the loss for a state that starts to change at a rate."""
    return float(np.sum(2 * WEIGHTS * BEGIN * rate))


SPREADING, DIVIDING = by(operator(BEGIN)), by(BEGIN * (1 - BEGIN))


def logistic(density, grown):
    return density * math.exp(grown) / (1 + density * math.expm1(grown))


def spreading_while_dividing(grown):
    """Return the derivative of the loss by D T at D = 0, by Gauss's quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    end, total = logistic(BEGIN, grown), 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        then, left = logistic(BEGIN, node * grown), (1 - node) * grown
        slope_ = math.exp(left) / (1 + then * math.expm1(left)) ** 2
        total += weight * np.sum(2 * WEIGHTS * end * slope_ * operator(then))
    return float(total)


class Physical(NamedTuple):
    diffusivity: float
    proliferation: float
    duration: float


class Scaled(NamedTuple):
    mu1: float
    mu2: float
    speed: float


# Where, and the right derivatives there; those by D and rho hold a factor T. The third is as accurate as the steps.
EDGES = (
    (Physical(0.0, 0.0, 50.0), (50 * SPREADING, 50 * DIVIDING, 0.0), 1e-12),
    (Physical(0.2, 0.04, 0.0), (0.0, 0.0, 0.2 * SPREADING + 0.04 * DIVIDING), 1e-12),
    (Physical(0.0, 0.04, 50.0), (50 * spreading_while_dividing(2.0), None, None), 2e-2),
    (Physical(1e-6, 0.04, 50.0), (50 * spreading_while_dividing(2.0), None, None), 2e-2),
    (Physical(1e-6, 0.0, 50.0), (50 * SPREADING, None, None), 1e-4),
    (Physical(0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1e-12),
    # D T = mu1^2 and rho T = mu2^2, so that both derivatives are zero at zero, and the speed is but a clock's.
    (Scaled(0.0, 0.0, 0.5), (0.0, 0.0, 0.0), 1e-12),
    (Scaled(0.0, 1.4, 0.5), (0.0, None, 0.0), 1e-12),
    (Scaled(2.0, 0.0, 0.5), (None, 0.0, 0.0), 1e-12),
    (Scaled(1e-3, 0.0, 0.5), (2e-3 * SPREADING, 0.0, 0.0), 1e-4),
)
SCHEMES = {"Strang": StrangRKL2(), "Euler": SplitEuler(reaction_step=0.01)}


def loss(point, scheme, adjoint, dtype):
    kind, origin = type(point), InitialDensity(jnp.asarray(BEGIN, dtype))
    if kind is Physical:
        params = GrowthParams(point.diffusivity, point.proliferation, origin, point.duration)
    else:
        params = ScaledGrowthParams(point.mu1, point.mu2, origin, point.speed)
    model, anatomy = FisherKolmogorov(math.inf), BRAIN.astype(dtype)
    return loss_of(simulate(model, params, anatomy, stepper=SCHEMES[scheme], adjoint=adjoint, throw=False).density)


def cast(point, dtype):
    return type(point)(*(jnp.asarray(x, dtype) for x in point))


@functools.partial(jax.jit, static_argnames=("scheme", "dtype"))
def reverse(point, scheme, dtype):
    return jax.value_and_grad(lambda p: loss(p, scheme, CheckpointedAdjoint(), dtype))(point)


@functools.partial(jax.jit, static_argnames=("scheme", "dtype"))
def forward(point, scheme, dtype):
    value, push = jax.linearize(lambda p: loss(p, scheme, ForwardMode(), dtype), point)
    axes = (type(point)(*row) for row in np.eye(3, dtype=dtype))
    return value, type(point)(*(push(axis) for axis in axes))


CASES = [
    pytest.param(mode, scheme, dtype, kind, id=f"{mode.__name__}-{scheme}-{dtype.__name__}-{kind.__name__}")
    for mode, scheme, dtype, kind in (
        *((mode, "Strang", dtype, Physical) for mode in (reverse, forward) for dtype in DTYPES),
        *((reverse, "Euler", dtype, Physical) for dtype in DTYPES),
        *((reverse, "Strang", dtype, Scaled) for dtype in DTYPES),
        (forward, "Euler", np.float64, Physical),
        (forward, "Strang", np.float64, Scaled),
    )
]


@pytest.mark.parametrize(("mode", "scheme", "dtype", "kind"), CASES)
def test_derivatives_at_the_edges_are_those_of_the_equation(mode, scheme, dtype, kind):
    for point, expected, accuracy in EDGES:
        if type(point) is not kind:
            continue
        _, found = mode(cast(point, dtype), scheme, dtype)
        assert np.isfinite(found).all(), point
        accuracy = max(accuracy, 1e-5 if dtype is np.float32 else 0)
        # Of first order in time.
        accuracy = 0.1 if scheme == "Euler" and accuracy > 1e-3 else accuracy
        for name, got, right in zip(point._fields, found, expected, strict=True):
            if right is not None:
                np.testing.assert_allclose(got, right, rtol=accuracy, atol=accuracy, err_msg=f"{point} by {name}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_taylor_remainders_from_the_edges_are_of_second_order(scheme):
    for point, along in (
        (Physical(0.0, 0.0, 50.0), Physical(0.01, 0.005, 0.0)),
        (Physical(0.2, 0.04, 0.0), Physical(0.0, 0.0, 2.0)),
        (Physical(0.0, 0.04, 50.0), Physical(0.01, 0.0, 0.0)),
        (Physical(0.2, 0.0, 50.0), Physical(0.0, 0.005, 0.0)),
    ):
        value, found = reverse(cast(point, float), scheme, np.float64)
        steps = 0.5 ** np.arange(4)
        moved = [type(point)(*(x + h * d for x, d in zip(point, along, strict=True))) for h in steps]
        values = np.array([reverse(cast(p, float), scheme, np.float64)[0] for p in moved])
        first = float(np.dot(found, along))
        assert abs(first) > 1e-3
        assert slope(steps, np.abs(values - value - steps * first)) == pytest.approx(2, abs=0.1), point
