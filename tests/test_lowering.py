"""What runs on a CPU here is lowered for GPU and TPU too, as programs that never wait for the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain
from tumorjax import FisherKolmogorov, MassEffect, MassEffectParams, ScaledGrowthParams, simulate

pytestmark = pytest.mark.usefixtures("one_test_as_installed")

ANATOMY = ball_brain((12, 11, 10), (5.0, 5.0, 5.5))
POINT = ScaledGrowthParams(5.0, 2.0, np.zeros(3, np.float32))
# Of the programs that call Python, exchange data with it, or ask it for more.
HOST = ("callback", "infeed", "outfeed", "send", "recv")


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def density(params, anatomy, model):
    return simulate(model, params, anatomy, throw=False).density


def squares(params, anatomy, model):
    return jnp.sum(density(params, anatomy, model) ** 2)


def programs():
    growth, force = FisherKolmogorov(), MassEffect(coarsening=1)
    pushed = MassEffectParams(POINT, 1e4)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), single(POINT))
    yield "growth", lambda p, a: density(p, a, growth), POINT
    yield "gradient", jax.grad(lambda p, a: squares(p, a, growth)), POINT
    yield "batch", jax.vmap(lambda p, a: density(p, a, growth), (0, None)), several
    yield "gradients of a batch", jax.vmap(jax.grad(lambda p, a: squares(p, a, growth)), (0, None)), several
    yield "mass effect", lambda p, a: density(p, a, force), pushed
    yield "its gradient", jax.grad(lambda p, a: squares(p, a, force)), pushed


@pytest.mark.parametrize(
    ("name", "function", "params"), list(programs()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_lowered_without_the_host(name, function, params):
    # One module for both.
    exported = jax.export.export(jax.jit(function), platforms=["cuda", "tpu"])(single(params), single(ANATOMY))
    text = exported.mlir_module()
    assert "stablehlo.while" in text, name
    assert not [word for word in HOST if f"stablehlo.{word}" in text or f"_{word}" in text]
