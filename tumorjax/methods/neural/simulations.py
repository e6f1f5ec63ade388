"""Simulations at many points, kept in little memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from tumorjax.integrate import each
from tumorjax.methods.neural.simulator import AbstractSimulator

# Bytes of simulated images that are held at once, and that are kept.
_AT_ONCE, _MEMORY = 2**28, 2**29
# Share of the signal, over all data, of those that are left out.
_LEFT_OUT = 1e-3


class Shown(NamedTuple):
    """The data of a simulated patient, or of many with a leading axis.

    Parameters
    ----------
    labels
        (i, l), bool: the labels of all voxels of every outline, in i drawn images.
    values
        (i, v): the values of all voxels of other images.
    extras
        (i, f): further numbers of the images.
    mean, variance
        (l + v,): mean and variance of the data, given the parameters; the variance is infinite where an image shows
        nothing.
    """

    labels: Any
    values: Any
    extras: Any
    mean: Any
    variance: Any


class Kept(NamedTuple):
    """Simulations that did not fail, of i images each, in little memory.

    Parameters
    ----------
    z
        (s, n).
    extras
        (s, i, f).
    bits
        (s, i, ...): labels, eight in a byte.
    values
        (s, i, v): other data, in half precision.
    """

    z: Float[np.ndarray, "s n"]
    extras: Float[np.ndarray, "s i f"]
    bits: np.ndarray
    values: np.ndarray

    def rows(self, some: Any) -> "Kept":
        """Return some of the simulations."""
        return Kept(*(part[some] for part in self))

    def joined(self, other: "Kept") -> "Kept":
        """Return these simulations and others."""
        return Kept(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def data(self, labels: int) -> Float[np.ndarray, "si w"]:
        """Return all images as numbers, in single precision; `labels` of their data are labels."""
        count = self.bits.shape[0] * self.bits.shape[1]
        bits = np.unpackbits(self.bits, axis=2, count=labels).reshape(count, labels).astype(np.float32)
        values = self.values.reshape(count, self.values.shape[2])
        return np.concatenate([bits, values.astype(np.float32)], axis=1)


class Predictions(NamedTuple):
    """Means and variances of the data of some simulations, (p, w), in single precision."""

    mean: Float[np.ndarray, "p w"]
    variance: Float[np.ndarray, "p w"]


def images_of(simulator: AbstractSimulator, wanted: int, simulations: int) -> int:
    """Return how many images of each simulation fit into memory, at least one and at most those wanted."""
    labels, values, _ = simulator.observed()
    return int(np.clip(_MEMORY / (simulations * max(len(labels) / 8 + 2 * len(values), 1)), 1, wanted))


def draw_data(
    simulator: AbstractSimulator,
    points: Float[np.ndarray, "m n"],
    key: Key[Array, ""],
    *,
    images: int,
    seen: Int[np.ndarray, "w"] | None,
    predictions: int,
    chunk: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Kept, Predictions, Int[np.ndarray, "w"], int]:
    """Simulate at points.

    Parameters
    ----------
    simulator
        Simulator of the data.
    points
        (m, n): coordinates at which to simulate.
    key
        Random key of the noise; the number of the point is folded in.
    images
        Number of images drawn for each simulation.
    seen
        Numbers of the data that are kept; None keeps those that vary over the first simulations.
    predictions
        Number of simulations whose predictions are returned.
    chunk, progress
        See `log_likelihoods`.

    Returns
    -------
    The simulations that did not fail; predictions of the first of them; the numbers of the data that are kept; the
    number of simulations that failed.

    Raises
    ------
    ValueError
        If most simulations fail, or data do not depend on the parameters.
    """
    points = np.asarray(points, simulator.dtype)
    labels, values, _ = simulator.observed()
    room = max(2, _AT_ONCE // (images * (len(labels) + 4 * len(values)) + 8 * (len(labels) + len(values)) + 1))
    kept, told, failed, done = [], [], 0, 0
    while done < len(points):
        some = np.arange(done, min(len(points), done + min(room, predictions if done == 0 else room)))
        begun, part = done / len(points), len(some) / len(points)
        shown = each(
            _simulate,
            (simulator, key, jnp.zeros(images)),
            (points[some], some.astype(np.int32)),
            chunk=chunk,
            progress=lambda share, begun=begun, part=part: progress(begun + share * part),
        )
        fine = np.isfinite(shown.mean.sum(axis=1)) & np.isfinite(shown.values.sum(axis=(1, 2)))
        failed += int(np.sum(~fine))
        done += len(some)
        if seen is None and fine.sum() >= 2:
            seen = _varying(shown.mean[fine], shown.variance[fine])
        if seen is None:
            continue
        first = seen[seen < len(labels)]
        others = seen[seen >= len(labels)] - len(labels)
        kept.append(
            Kept(
                points[some][fine].astype(float),
                shown.extras[fine].astype(float),
                np.packbits(shown.labels[fine][..., first], axis=-1),
                shown.values[fine][..., others].astype(np.float16),
            )
        )
        wanted = max(0, predictions - sum(len(one.mean) for one in told))
        both = (shown.mean, shown.variance)
        told.append(Predictions(*(part[fine][:wanted][:, seen].astype(np.float32) for part in both)))
    if seen is None or failed > len(points) / 2:
        raise ValueError(
            f"{failed} of {len(points)} simulations failed: the model or its scheme cannot grow what the prior draws; "
            "narrow the prior, or take finer steps"
        )
    joined = Kept(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))
    together = Predictions(*(np.concatenate(parts) for parts in zip(*told, strict=True)))
    return joined, together, seen, failed


def _simulate(held: tuple[AbstractSimulator, Array, Array], point: tuple[Array, Array]) -> Shown:
    simulator, key, images = held
    prediction = simulator.predict(point[0])
    keys = jax.random.split(jax.random.fold_in(key, point[1]), len(images))
    drawn = jax.lax.map(lambda one: simulator.draw(prediction, one), keys)
    labels, values, extras = drawn
    mean, variance = simulator.expected(prediction)
    return Shown(labels, values, extras, mean, variance)


def _varying(mean: Float[np.ndarray, "m w"], variance: Float[np.ndarray, "m w"]) -> Int[np.ndarray, "k"]:
    """Return the numbers of the data that hold all but a thousandth of the signal, on the scale of information."""
    with np.errstate(invalid="ignore"):
        signal = np.log1p(np.nan_to_num(mean.astype(float).var(axis=0) / variance.mean(axis=0), nan=0.0))
    if not signal.sum() > 1e-6:
        raise ValueError("the images do not depend on the parameters; look at the prior and the observations")
    order = np.argsort(-signal, kind="stable")
    count = int(np.searchsorted(np.cumsum(signal[order]), (1 - _LEFT_OUT) * signal.sum())) + 1
    return np.sort(order[:count])
