"""Compilation of a part of a program separately from the rest."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def apart(function: Callable, *args: Any, **static: Any) -> Any:
    """Return the function's value, and keep XLA from fusing the function with the code around it.

    Arguments given by keyword are static.

    When XLA fuses a stencil with its consumers, it evaluates the stencil again at each of their points (several hundred
    times in reverse mode), or the fused loop is too large to be vectorised. An optimization barrier alone does not
    prevent that on a CPU. A conditional does, as long as the compiler cannot know that its condition is true; the
    barrier hides that.
    """
    function = jax.checkpoint(functools.partial(function, **static))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *args))
    true = lax.optimization_barrier(jnp.asarray(True))
    return lax.cond(true, function, lambda *_: zeros, *args)
