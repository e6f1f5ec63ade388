"""Batches that are too large for the memory, computed in pieces."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray


class ShortOfMemory(UserWarning):
    """A batch was too large for the memory, and is computed in pieces."""


def mean_over_pieces(function: Callable[..., Any], pieces: int) -> Callable[..., Any]:
    """Return what averages a function of weights, a batch and a key over pieces of the batch, one after another.

    Arrays of the batch are cut along their first axis; what has none belongs to every piece.
    """
    if pieces == 1:
        return function

    def averaged(weights: Any, batch: Any, key: PRNGKeyArray) -> Any:
        leaves, tree = jax.tree.flatten(batch)
        cut = [jnp.reshape(leaf, (pieces, -1, *jnp.shape(leaf)[1:])) if jnp.ndim(leaf) else leaf for leaf in leaves]

        def piece(number: Any) -> Any:
            part = [leaf[number] if jnp.ndim(leaf) else leaf for leaf in cut]
            return function(weights, jax.tree.unflatten(tree, part), jax.random.fold_in(key, number))

        def add(total: Any, number: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, piece(number)), None

        total, _ = jax.lax.scan(add, piece(0), jnp.arange(1, pieces))
        return jax.tree.map(lambda sum_: sum_ / jnp.asarray(pieces, sum_.dtype), total)

    return averaged


def halved(batch: Any, pieces: int, error: Exception) -> int:
    """Return twice as many pieces, after an error that tells of too little memory.

    Raises
    ------
    MemoryError
        If there are no smaller pieces of one size.
    Exception
        The error itself, if it tells of something else.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    rows = {len(leaf) for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)}
    if any(n % (2 * pieces) for n in rows):
        raise MemoryError(
            f"the memory does not suffice for {max(rows) // pieces} rows of a batch of {max(rows)}; give a batch of "
            "fewer, or a power of 2, or a smaller network"
        ) from error
    return 2 * pieces
