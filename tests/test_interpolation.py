"""Smooth balls of constant mass, and means over blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import slope
from tumorjax.operators import block_mean, spline_ball

SHAPE = (14, 15, 16)
CENTRES = jnp.asarray(np.random.default_rng(0).uniform(6, 8, (50, 3)))


@jax.jit
def balls_at(widths):
    return jax.vmap(lambda centre: spline_ball(centre, SHAPE, widths))(CENTRES)


@pytest.mark.parametrize("widths", ((1.0, 1.0, 1.0), (2.0, 1.0, 2.0), (1.3, 1.7, 2.4)))
def test_the_ball_sums_to_one_wherever_it_falls(widths):
    balls = balls_at(jnp.asarray(widths))
    np.testing.assert_allclose(balls.sum(axis=(1, 2, 3)), 1, atol=1e-13)
    assert float(balls.min()) == 0
    # The support reaches two widths each way.
    assert int((balls[0] > 0).sum()) <= np.prod([np.ceil(4 * w) + 1 for w in widths])


def test_the_ball_has_the_given_centre():
    index = np.indices(SHAPE).astype(float)
    balls = balls_at(jnp.asarray([1.0, 2.0, 2.0]))
    np.testing.assert_allclose(np.einsum("nxyz,axyz->na", balls, index), CENTRES, atol=1e-13)


def test_the_ball_is_smooth_in_its_centre():
    @jax.jit
    def value(shift):
        return spline_ball(jnp.asarray([7.0, 7.3, 6.9]) + shift, SHAPE, jnp.asarray([2.0, 1.5, 1.0]))[6, 8, 7]

    # At a shift of zero the first axis sits on a knot, where only the third derivative jumps.
    second = jax.jit(jax.vmap(jax.grad(jax.grad(lambda s: value(jnp.stack([s, 0 * s, 0 * s]))))))(
        jnp.asarray([-1e-9, 0.0, 1e-9])
    )
    np.testing.assert_allclose(second, second[1], rtol=1e-6)
    direction = jnp.asarray([0.6, -0.5, 0.4])
    derivative = jnp.vdot(jax.jit(jax.grad(value))(jnp.zeros(3)), direction)
    steps = np.array([4e-3, 2e-3, 1e-3])
    remainder = [abs(value(h * direction) - value(jnp.zeros(3)) - h * derivative) for h in steps]
    assert slope(steps, remainder) == pytest.approx(2, abs=0.05)


def test_a_ball_far_outside_is_nothing():
    for centre in ((-100.0, 7.0, 7.0), (7.0, 7.0, 1e6)):
        ball = spline_ball(jnp.asarray(centre), SHAPE, jnp.asarray([2.0, 2.0, 2.0]))
        assert float(jnp.abs(ball).max()) == 0


def test_block_mean():
    field = np.random.default_rng(1).uniform(size=(4, 6, 2))
    expected = [[field[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(block_mean(jnp.asarray(field), 2)[..., 0], expected)
    # Incomplete blocks are filled up with zeros, so the sum is kept.
    odd = block_mean(jnp.asarray(field), 4)
    assert odd.shape == (1, 2, 1)
    np.testing.assert_allclose(odd.sum() * 64, field.sum())
