"""Batches on a CPU: each member takes its own steps and shares what is common; an accelerator has all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tumorjax.integrate.members import by_members
from tumorjax.integrate.stepper import _batch_maximum

COUNTS = jnp.asarray([3, 1, 2])


def turns(count, start):
    """Return how often a loop turns, in whose batch all members turn as often as the longest."""
    end = jax.lax.fori_loop(0, _batch_maximum(count), lambda _, tree: {"sum": tree["sum"] + 1}, {"sum": start})
    return end["sum"]


def test_each_member_takes_its_own_steps():
    assert jax.vmap(turns, (0, None))(COUNTS, 0).tolist() == [3, 3, 3]
    assert jax.vmap(by_members(turns), (0, None))(COUNTS, 0).tolist() == [3, 1, 2]
    assert jax.jit(jax.vmap(by_members(turns), (0, None)))(COUNTS, 0).tolist() == [3, 1, 2]


def test_batches_of_batches():
    nested = jax.vmap(jax.vmap(by_members(turns), (0, None)), (None, 0))(COUNTS, jnp.asarray([0, 10]))
    assert nested.tolist() == [[3, 1, 2], [13, 11, 12]]


@pytest.mark.parametrize(("platform", "batched"), (("cpu", False), ("cuda", True), ("tpu", True)))
def test_an_accelerator_has_all_members_at_once(platform, batched):
    def far(field, shared):
        return jnp.sin(field) * shared

    fields, shared = jnp.zeros((5, 7), jnp.float32), jnp.ones(7, jnp.float32)
    exported = jax.export.export(jax.jit(jax.vmap(by_members(far), (0, None))), platforms=[platform])(fields, shared)
    sines = [line for line in exported.mlir_module().splitlines() if "sine" in line]
    assert len(sines) == 1
    assert ("tensor<5x7xf32>" in sines[0]) is batched


def test_a_batch_of_one_argument_of_several_is_the_same_as_a_loop():
    def both(tree, factor):
        return {"product": tree["a"] * factor + tree["b"]}

    tree = {"a": jnp.arange(4.0), "b": jnp.asarray(0.5)}
    found = jax.vmap(by_members(both), ({"a": 0, "b": None}, None))(tree, jnp.asarray(2.0))
    np.testing.assert_array_equal(found["product"], [0.5, 2.5, 4.5, 6.5])
