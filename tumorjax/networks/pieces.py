"""Computing batches in pieces when they are too large for the memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray


class ShortOfMemory(UserWarning):
    """A batch was too large for the memory and is computed in pieces."""


def mean_over_pieces(function: Callable[..., Any], pieces: int) -> Callable[..., Any]:
    """Return a function that averages `function` (of weights, a batch and a key) over consecutive pieces of the batch.

    Arrays of the batch are cut along their first axis; scalars belong to every piece.
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
    """Return twice the number of pieces after an out-of-memory error.

    Raises
    ------
    MemoryError
        If the batch cannot be divided into that many equal pieces.
    Exception
        The given error, if it has another cause.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    rows = {len(leaf) for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)}
    if any(n % (2 * pieces) for n in rows):
        raise MemoryError(
            f"there is not enough memory for {max(rows) // pieces} rows of a batch of {max(rows)}; use a smaller "
            "batch, or a power of 2, or a smaller network"
        ) from error
    return 2 * pieces
