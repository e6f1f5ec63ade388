"""Gradient descent for any network: checkpoints, validation, a log, and an end where numbers cease to be finite."""

import enum
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tumorjax.networks.batches import Ahead
from tumorjax.networks.checkpoints import Checkpoints
from tumorjax.networks.journal import Journal
from tumorjax.networks.pieces import ShortOfMemory, halved, mean_over_pieces
from tumorjax.networks.weights import named

Network = TypeVar("Network", bound=nnx.Module)


class TrainingResult(enum.Enum):
    """How a training ended."""

    FINISHED = "all steps were taken"
    STOPPED = "the loss on the validation set had not fallen for as long as was allowed"
    DIVERGED = "the loss or its gradient was not finite; the weights are those before that"


@dataclass(frozen=True)
class Training(Generic[Network]):
    """A trained network, and how the training went.

    Attributes
    ----------
    model
        With the weights of the least loss on the validation set; without one, the last.
    step
        Steps taken.
    loss
        Of the last of them, before it.
    validation
        The least loss on the validation set, if there is one.
    result
        How it ended.
    pieces
        In how many pieces, one after another, each batch was computed, for want of memory for more at once.
    """

    model: Network
    step: int
    loss: float
    validation: float | None
    result: TrainingResult
    pieces: int = 1


class TrainingProgress(NamedTuple):
    """Where a training is.

    Attributes
    ----------
    step, steps
        Taken, and in all.
    loss
        Of the last step.
    validation
        The last loss on the validation set, if there is one yet.
    rate
        Steps a second.
    remaining
        Seconds.
    pieces
        As of `Training`.
    """

    step: int
    steps: int
    loss: float
    validation: float | None
    rate: float
    remaining: float
    pieces: int = 1


class Options(TypedDict, total=False):
    """What the training of each network passes on to `train`, which describes it."""

    every: int
    patience: int | None
    ema: float | None
    precision: Literal["full", "mixed"]
    checkpoints: str | os.PathLike | None
    settings: Mapping[str, Any] | None
    log: str | os.PathLike | None
    progress: Callable[[TrainingProgress], None] | None


class _State(NamedTuple):
    """What a checkpoint keeps; `average` and `best` are empty where they are not wanted."""

    weights: dict[str, Array]
    optimiser: Any
    average: dict[str, Array]
    best: dict[str, Array]
    loss: Float[Array, ""]
    least: Float[Array, ""]
    waited: Int[Array, ""]


def train(
    model: Network,
    optimiser: optax.GradientTransformation,
    batches: Callable[[int], Any],
    loss: Callable[[Network, Any, PRNGKeyArray], Float[Array, ""]],
    steps: int,
    *,
    key: PRNGKeyArray,
    validation: Callable[[], Iterable[Any]] | None = None,
    every: int = 100,
    patience: int | None = None,
    ema: float | None = None,
    precision: Literal["full", "mixed"] = "full",
    checkpoints: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    log: str | os.PathLike | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Training[Network]:
    """Minimise a loss over the parameters of a network.

    A step depends on the weights, the state of the optimiser, its number, the key and nothing else: what was
    interrupted goes on from its last checkpoint to the weights that it would have had.

    Where the memory does not suffice for a batch, its halves are computed one after another, and their gradients
    averaged; then quarters, and so on.

    Parameters
    ----------
    model
        Its `nnx.Param` are trained; other variables stay as they are. The network itself is not changed.
    optimiser
        Of optax.
    batches
        Gives the batch of a step, counted from 0: a pure function, such as rows chosen by `shuffled`. It is called in a
        thread, while the step before is computed.
    loss
        Of a network, a batch and a key, which differs from step to step. It is compiled. The arrays of a batch have
        one first axis.
    steps
        Number of steps, those of an interrupted training included.
    key
        Of all random numbers.
    validation
        Gives batches, always the same, and all of one size. Their mean loss, with one key, is taken every so often.
    every
        Steps between validations and between checkpoints.
    patience
        Validations without a smaller loss, after which the training ends.
    ema
        Decay of an exponential moving average of the weights, which then are those that are validated and returned.
    precision
        "mixed" computes the network in bfloat16, and keeps weights and moments in float32; for accelerators.
    checkpoints
        A folder; None keeps nothing.
    settings
        What distinguishes this training, JSON: checkpoints of another are refused.
    log
        A CSV file with a row a step; what is resumed goes on in it.
    progress
        Is told after each step.

    Raises
    ------
    ValueError
        If numbers are out of range, or the checkpoints are of another training.
    MemoryError
        If the memory does not suffice for one row of a batch.

    Warns
    -----
    ShortOfMemory
        When a batch is halved.
    """
    if steps < 1 or every < 1 or (patience is not None and (patience < 1 or validation is None)):
        raise ValueError(
            "steps, every and patience are from 1, and patience needs a validation set, "
            f"got {steps}, {every}, {patience}"
        )
    if precision not in ("full", "mixed"):
        raise ValueError(f"precision is 'full' or 'mixed', got {precision!r}")
    graph, trained, fixed = nnx.split(model, nnx.Param, ...)
    weights, rebuilt = named(trained)

    def network(weights: Mapping[str, Any]) -> Network:
        if precision == "mixed":
            weights = {name: array.astype(jnp.bfloat16) for name, array in weights.items()}
        return nnx.merge(graph, rebuilt(weights), fixed)

    def loss_of(weights: Mapping[str, Any], batch: Any, key: PRNGKeyArray) -> Float[Array, ""]:
        return loss(network(weights), batch, key)

    @partial(jax.jit, static_argnums=3)
    def advance(state: _State, batch: Any, key: PRNGKeyArray, pieces: int) -> tuple[_State, Float[Array, "2"]]:
        value, slope = mean_over_pieces(jax.value_and_grad(loss_of), pieces)(state.weights, batch, key)
        # Optax mixes whole numbers with others.
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = optimiser.update(slope, state.optimiser, state.weights)
            moved: Any = optax.apply_updates(state.weights, updates)
            norm = optax.tree.norm(slope)
            average = optax.incremental_update(moved, state.average, 1 - ema) if ema is not None else {}
        new = state._replace(weights=moved, optimiser=moments, average=average, loss=value.astype(jnp.float32))
        return new, jnp.stack([value, norm.astype(value.dtype)])

    @partial(jax.jit, static_argnums=2)
    def validate(weights: dict[str, Array], batch: Any, pieces: int) -> Float[Array, ""]:
        return mean_over_pieces(loss_of, pieces)(weights, batch, key)

    state = _State(
        weights,
        optimiser.init(weights),
        weights if ema is not None else {},
        weights if validation is not None else {},
        jnp.full((), jnp.nan, jnp.float32),
        jnp.full((), jnp.inf, jnp.float32),
        jnp.zeros((), jnp.int32),
    )
    keeper, step = None, 0
    if checkpoints is not None:
        own = {"key": jax.random.key_data(key).tolist(), "ema": ema, "precision": precision}
        keeper = Checkpoints(checkpoints, own | dict(settings or {}))
        step, state = keeper.load(state)
    journal = None if log is None else Journal(Path(log), step)
    checked, begun, first, pieces = None, time.monotonic(), step, 1
    result, ahead = TrainingResult.FINISHED, Ahead(batches, steps)
    try:
        while step < steps:
            if patience is not None and int(state.waited) >= patience:
                result = TrainingResult.STOPPED
                break
            batch = ahead(step)
            try:
                new, told = advance(state, batch, jax.random.fold_in(key, step), pieces)
                value, norm = np.asarray(told).tolist()
            except jax.errors.JaxRuntimeError as error:
                pieces = halved(batch, pieces, error)
                message = f"out of memory: each batch is computed in {pieces} pieces, one after another"
                warnings.warn(message, ShortOfMemory, stacklevel=2)
                continue
            if not (math.isfinite(value) and math.isfinite(norm)):
                result = TrainingResult.DIVERGED
                break
            state, step, due = new, step + 1, (step + 1) % every == 0 or step + 1 == steps
            now = None
            if due and validation is not None:
                shown = state.average or state.weights
                now = checked = float(np.mean([float(validate(shown, held, pieces)) for held in validation()]))
                state = _judged(state, shown, now)
            seconds = time.monotonic() - begun
            if journal is not None:
                journal.write(step, value, norm, now, seconds)
            if due and keeper is not None:
                keeper.save(step, state)
            if progress is not None:
                rate = (step - first) / seconds
                progress(TrainingProgress(step, steps, value, checked, rate, (steps - step) / rate, pieces))
    finally:
        ahead.close()
        if keeper is not None:
            keeper.close()
        if journal is not None:
            journal.close()
    least = float(state.least)
    chosen = state.best if math.isfinite(least) else state.average or state.weights
    model = nnx.merge(graph, rebuilt(chosen), fixed)
    return Training(model, step, float(state.loss), None if validation is None else least, result, pieces)


def _judged(state: _State, weights: dict[str, Array], loss: float) -> _State:
    """Return the state after a validation of weights."""
    if not loss < float(state.least):
        return state._replace(waited=state.waited + 1)
    return state._replace(best=weights, least=jnp.asarray(loss, jnp.float32), waited=jnp.zeros_like(state.waited))
