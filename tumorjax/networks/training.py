"""Training of any network by gradient descent, with checkpoints, validation, a log, and a stop on divergence."""

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
    """A trained network, and the result of its training.

    Attributes
    ----------
    model
        The network, with the weights of the smallest loss on the validation set or, without one, the last weights.
    step
        Number of steps taken.
    loss
        Loss of the last batch, before its step.
    validation
        The smallest loss on the validation set, if there is one.
    result
        How the training ended.
    pieces
        Number of pieces in which each batch was computed, if there was not enough memory for whole batches.
    """

    model: Network
    step: int
    loss: float
    validation: float | None
    result: TrainingResult
    pieces: int = 1


class TrainingProgress(NamedTuple):
    """Progress of a training.

    Attributes
    ----------
    step, steps
        Number of steps taken, and in total.
    loss
        Loss of the last step.
    validation
        The last loss on the validation set, if there is one yet.
    rate
        Steps per second.
    remaining
        Expected remaining time, s.
    pieces
        Number of pieces in which each batch is computed; see `Training`.
    """

    step: int
    steps: int
    loss: float
    validation: float | None
    rate: float
    remaining: float
    pieces: int = 1


class Options(TypedDict, total=False):
    """Options that the training of each network passes on to `train`, where they are described."""

    every: int
    patience: int | None
    ema: float | None
    precision: Literal["full", "mixed"]
    checkpoints: str | os.PathLike | None
    settings: Mapping[str, Any] | None
    log: str | os.PathLike | None
    progress: Callable[[TrainingProgress], None] | None


class _State(NamedTuple):
    """The state in a checkpoint; `average` and `best` are empty if they are not needed."""

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

    A step depends only on the weights, the state of the optimiser, its number and the key. So an interrupted training
    continues from its last checkpoint to the same weights as an uninterrupted one.

    If there is not enough memory for a batch, its halves are computed one after another and their gradients averaged;
    if necessary its quarters, and so on.

    Parameters
    ----------
    model
        The initial network, which is not changed. Its `nnx.Param` are trained; other variables keep their values.
    optimiser
        An optimiser of optax.
    batches
        Pure function from a step, counted from 0, to its batch, such as rows chosen by `shuffled`. It is called in a
        thread while the previous step is computed.
    loss
        Function of a network, a batch and a key, which differs for each step; it is compiled. All arrays of a batch
        have the same length along the first axis.
    steps
        Number of steps, including those before an interruption.
    key
        Random key of the training.
    validation
        Function that returns the validation batches, always the same ones, all of one size. Their mean loss, with a
        fixed key, is computed after every `every` steps.
    every
        Number of steps between validations and between checkpoints.
    patience
        Number of validations without a smaller loss after which the training ends.
    ema
        Decay of an exponential moving average of the weights; if given, the average is validated and returned.
    precision
        "mixed" computes the network in bfloat16, and keeps weights and moments in float32; for accelerators.
    checkpoints
        Folder for checkpoints; None writes none.
    settings
        Settings that identify this training, as JSON can hold them; checkpoints with other settings are refused.
    log
        A CSV file with a row per step; a resumed training continues it.
    progress
        Function that is called after each step.

    Raises
    ------
    ValueError
        If numbers are out of range, or the checkpoints belong to another training.
    MemoryError
        If there is not enough memory for the smallest piece of a batch.

    Warns
    -----
    ShortOfMemory
        When a batch is halved.
    """
    if steps < 1 or every < 1 or (patience is not None and (patience < 1 or validation is None)):
        raise ValueError(
            "steps, every and patience must be at least 1, and patience needs a validation set; "
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
        # Optax mixes integers with floating-point numbers.
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
                new, numbers = advance(state, batch, jax.random.fold_in(key, step), pieces)
                value, norm = np.asarray(numbers).tolist()
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
