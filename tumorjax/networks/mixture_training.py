"""The training of a `MixtureDensity`: all members at once, each with early stopping on its own held-out data."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from tumorjax.networks.mixture_density import MixtureArchitecture, MixtureDensity

_BATCH = 64
# Initial distance of the components, in standard deviations.
_APART = 0.3


class MixtureTraining(NamedTuple):
    """A trained network, and the result of its training.

    Attributes
    ----------
    model
        The network; each member has the weights with the smallest loss on its held-out data.
    losses
        (e,), minus the mean log-density of each member's held-out data, nat.
    epochs
        Number of passes through the data until the last member stopped.
    """

    model: MixtureDensity
    losses: Float[np.ndarray, "e"]
    epochs: int


class _Search(NamedTuple):
    """The state of the optimisation; `best`, `least` and `waited` are separate for each member."""

    params: Any
    moments: Any
    best: Any
    least: Float[Array, "e"]
    waited: Array
    epoch: Array


def train_mixture(
    architecture: MixtureArchitecture,
    features: Float[np.ndarray, "s f"],
    targets: Float[np.ndarray, "s n"],
    weights: Float[np.ndarray, "s"] | None = None,
    *,
    key: Key[Array, ""],
    group: int = 1,
    capacity: int | None = None,
    epochs: int = 300,
    patience: int = 10,
    rate: float = 2e-3,
    decay: float = 1e-1,
    held_out: float = 0.1,
    begin: MixtureDensity | None = None,
) -> MixtureTraining:
    """Maximise the weighted mean log-density of targets given features.

    The search starts from linear regression where the architecture has a linear part, otherwise from the moments of the
    targets, or from another network.

    The optimiser is AdamW, with batches of 64. Each member has its own held-out part of the data for early stopping.

    Parameters
    ----------
    architecture
        Architecture of the network.
    features, targets
        Pairs to learn from.
    weights
        Weights of the pairs, up to a factor; by default equal.
    key
        Random key for the initial weights, the held-out parts and the batches.
    group
        Number of consecutive pairs with the same targets, which are held out together.
    capacity
        Number of pairs for which the program is compiled; trainings with the same capacity share one program.
    epochs, patience
        Largest number of passes through the data, and number of passes without a smaller held-out loss after which the
        training of a member ends.
    rate, decay
        Learning rate and weight decay of AdamW.
    held_out
        Share of the pairs that are held out.
    begin
        A network of the same architecture to start from, with its standardisation (a warm start); it is not changed.

    Raises
    ------
    ValueError
        If there are too few pairs to learn from, or shapes do not fit.
    """
    count = len(features)
    if features.shape != (count, architecture.features) or targets.shape != (count, architecture.size):
        raise ValueError(
            f"features and targets have shapes {features.shape} and {targets.shape} for {architecture.features} "
            f"features and {architecture.size} coordinates"
        )
    if group < 1 or count % group:
        raise ValueError(f"{count} pairs cannot be divided into groups of {group}")
    valid = group * max(1, round(held_out * count / group))
    if (count - valid) // group < 2 * architecture.size:
        raise ValueError(f"{count} pairs are too few for {architecture.size} coordinates; simulate more")
    capacity = max(count, capacity or 0)
    shares = np.ones(count) if weights is None else np.asarray(weights, float)
    shares = shares / shares.mean()
    weights_key, order_key, batch_key = jax.random.split(key, 3)
    order = np.stack(
        [
            np.asarray(jax.random.permutation(k, count // group))
            for k in jax.random.split(order_key, architecture.members)
        ]
    )
    order = (group * order[:, :, None] + np.arange(group)).reshape(architecture.members, count)
    if begin is None:
        model = MixtureDensity(architecture, nnx.Rngs(weights_key))
        _standardise(model, features, targets, shares)
        random = np.random.default_rng(_seed(weights_key))
        if architecture.linear:
            _regress(model, features, targets, shares, order[:, valid:], random)
        else:
            spread = [_offset(architecture, np.zeros(architecture.size), np.eye(architecture.size), random)]
            model.offset[...] = jnp.asarray(np.repeat(spread, architecture.members, axis=0), jnp.float32)
    elif begin.architecture != architecture:
        raise ValueError(f"a warm start needs a network of the same architecture, got {begin.architecture}")
    else:
        model = begin
    graph, params, fixed = nnx.split(model, nnx.Param, ...)

    def padded(rows: np.ndarray, dtype: Any) -> Array:
        room = [(0, capacity - count)] + [(0, 0)] * (rows.ndim - 1)
        return jnp.asarray(np.pad(rows, room).astype(dtype))

    data = tuple(padded(part, np.float32) for part in (features, targets, shares))
    places = jnp.asarray(np.pad(order, [(0, 0), (0, capacity - count)]).astype(np.int32))
    # Largest number of pairs that are held out for any count up to the capacity.
    most = min(capacity, int(held_out * capacity) + group)
    # Optax mixes integers with floating-point numbers.
    with jax.numpy_dtype_promotion("standard"):
        found = _descend(
            graph, params, fixed, data, places, jnp.asarray(valid, jnp.int32), jnp.asarray(count, jnp.int32),
            jax.random.key_data(batch_key), (epochs, patience, rate, decay, most),
        )  # fmt: skip
    return MixtureTraining(nnx.merge(graph, found.best, fixed), np.asarray(found.least, float), int(found.epoch))


@partial(jax.jit, static_argnums=(0, 8))
def _descend(
    graph: Any,
    params: Any,
    fixed: Any,
    data: tuple[Array, Array, Array],
    places: Array,
    valid: Array,
    count: Array,
    key: Array,
    settings: tuple[int, int, float, float, int],
) -> _Search:
    """Return the final state. Rows `places[:, :valid]` are held out; the members learn from the rest up to `count`."""
    features, targets, weights = data
    epochs, patience, rate, decay, most = settings
    key, members = jax.random.wrap_key_data(key), len(places)
    # Weight decay leaves out the offsets and the linear part, which come from regression.
    shrunk = jax.tree.map_with_path(lambda path, _: "kernels" in str(path) or "head" in str(path), params)
    optimiser = optax.chain(optax.clip(5.0), optax.adamw(rate, weight_decay=decay, mask=shrunk))
    held = places[:, :most]
    held_weights = jnp.where(jnp.arange(most) < valid, weights[held], 0)

    def losses(params: Any, rows: Array, weights: Array) -> Array:
        model = nnx.merge(graph, params, fixed)
        found = model.log_probs(features[rows], targets[rows])
        # Padded rows may have an infinitely low density.
        return -jnp.sum(jnp.where(weights > 0, weights * found, 0), axis=1)

    def judge(params: Any) -> Array:
        # All held-out weights of a member may be zero; the bound prevents a division by zero.
        total = jnp.maximum(held_weights.sum(axis=1), jnp.finfo(jnp.float32).tiny)
        return losses(params, held, held_weights) / total

    def step(state: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        params, moments = state
        uniform = jax.random.uniform(key, (members, _BATCH), jnp.float32)
        chosen = valid + jnp.floor(uniform * (count - valid).astype(jnp.float32)).astype(jnp.int32)
        rows = jnp.take_along_axis(places, jnp.minimum(chosen, count - 1), axis=1)
        slope = jax.grad(lambda p: losses(p, rows, weights[rows]).sum() / _BATCH)(params)
        updates, moments = optimiser.update(slope, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    def go_on(search: _Search) -> Array:
        return (search.epoch < epochs) & jnp.any(search.waited < patience)

    def epoch(search: _Search) -> _Search:
        begin = jax.random.fold_in(key, search.epoch)
        steps = (count - valid + _BATCH - 1) // _BATCH

        def turn(i: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
            return step(state, jax.random.fold_in(begin, i))[0]

        params, moments = jax.lax.fori_loop(0, steps, turn, (search.params, search.moments))
        now = judge(params)
        # A member that has stopped does not change any more.
        better = (now < search.least) & (search.waited < patience)

        def kept(new: Array, old: Array) -> Array:
            return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        waited = jnp.where(better, 0, search.waited + 1)
        best = jax.tree.map(kept, params, search.best)
        return _Search(params, moments, best, jnp.where(better, now, search.least), waited, search.epoch + 1)

    begun = _Search(
        params, optimiser.init(params), params, judge(params), jnp.zeros(members, jnp.int32), jnp.zeros((), jnp.int32)
    )
    return jax.lax.while_loop(go_on, epoch, begun)


def _standardise(
    model: MixtureDensity,
    features: Float[np.ndarray, "s f"],
    targets: Float[np.ndarray, "s n"],
    weights: Float[np.ndarray, "s"],
) -> None:
    """Set the statistics of the network: mean and scale of the features, mean and covariance factor of the targets."""
    shares = weights / weights.sum()
    middle = shares @ features
    spread = np.sqrt(shares @ (features - middle) ** 2)
    # Constant features carry no information and get a scale of zero.
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6 * (1 + np.abs(middle)))
    centre = shares @ targets
    away = targets - centre
    covariance = (away * shares[:, None]).T @ away
    covariance += 1e-9 * np.trace(covariance) / len(centre) * np.eye(len(centre))
    model.feature_mean[...] = jnp.asarray(middle, jnp.float32)
    model.feature_scale[...] = jnp.asarray(scale, jnp.float32)
    model.target_mean[...] = jnp.asarray(centre, jnp.float32)
    model.target_factor[...] = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)


def _regress(
    model: MixtureDensity,
    features: Float[np.ndarray, "s f"],
    targets: Float[np.ndarray, "s n"],
    weights: Float[np.ndarray, "s"],
    order: np.ndarray,
    random: np.random.Generator,
) -> None:
    """Initialise each member by ridge regression on its training data, with the covariance of the residuals."""
    a = model.architecture
    x = (features - np.asarray(model.feature_mean[...])) * np.asarray(model.feature_scale[...])
    u = np.linalg.solve(np.asarray(model.target_factor[...], float), (targets - np.asarray(model.target_mean[...])).T).T
    linear, offset = [], []
    for some in order:
        share = weights[some] / weights[some].sum()
        xs, us = x[some], u[some]
        x_mean, u_mean = share @ xs, share @ us
        xs, us = xs - x_mean, us - u_mean
        worth = 1 / np.sum(share**2)
        # The ridge penalty matches the noise of the coefficients.
        gram = (xs * share[:, None]).T @ xs + max(1, a.features / worth) * 1e-2 * np.eye(a.features)
        slope = np.linalg.solve(gram, (xs * share[:, None]).T @ us)
        left = us - xs @ slope
        covariance = (left * share[:, None]).T @ left + 1e-6 * np.eye(a.size)
        factor = np.linalg.cholesky(np.linalg.inv(covariance))
        linear.append(slope)
        offset.append(_offset(a, u_mean - x_mean @ slope, factor, random))
    model.linear[...] = jnp.asarray(np.stack(linear), jnp.float32)
    model.offset[...] = jnp.asarray(np.stack(offset), jnp.float32)


def _offset(
    architecture: MixtureArchitecture,
    mean: Float[np.ndarray, "n"],
    factor: Float[np.ndarray, "n n"],
    random: np.random.Generator,
) -> Float[np.ndarray, "o"]:
    """Return the offset of a member's output with components about a mean, whose covariance is (A A^T)^-1."""
    a = architecture
    rows, columns = np.tril_indices(a.size, -1)
    steep = np.diag(factor)
    apart = _APART * random.normal(size=(a.components, a.size)) @ np.linalg.inv(factor)
    if a.components == 1:
        apart[:] = 0
    return np.concatenate(
        [
            np.zeros(a.components),
            (mean + apart).ravel(),
            np.tile(np.log(steep), a.components),
            np.tile((factor / steep)[rows, columns], a.components),
        ]
    )


def _seed(key: Key[Array, ""]) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()
