"""Batches of solves, member by member where that is faster."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap


def by_members(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of trees of arrays which a CPU computes for each member of a batch in turn.

    The state of one solve fits the caches of a CPU and that of a batch does not, and in a batch every member would take
    the steps and stages of the stiffest. An accelerator computes all members at once.

    The function is not to be differentiated from outside: it stands within a rule of differentiation.
    """

    @custom_vmap
    def of_one(*arguments: Any) -> Any:
        return function(*arguments)

    @of_one.def_vmap
    def _(size: int, batched: Any, *arguments: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(arguments)
        along = jax.tree.leaves(batched)
        # What all members share is not copied for each.
        several = [leaf for leaf, own in zip(leaves, along, strict=True) if own]

        def whole(own: Any) -> tuple[Any, ...]:
            rest = iter(own)
            return tree.unflatten([next(rest) if mine else leaf for leaf, mine in zip(leaves, along, strict=True)])

        result = lax.platform_dependent(
            several,
            cpu=lambda own: lax.map(lambda one: of_one(*whole(one)), own),
            default=jax.vmap(lambda one: function(*whole(one)), axis_size=size),
        )
        return result, jax.tree.map(lambda _: True, result)

    return of_one
