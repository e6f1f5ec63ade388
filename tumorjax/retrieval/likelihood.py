"""The likelihood of a patient's outlines under each of many simulated tumours, with what is unknown of them integrated.

A likelihood of outlines whose voxels count by themselves depends on how many voxels of each stored density lie inside
and outside an outline. From the packed outlines of a tumour follows how many these are in three intervals of density,
and so a bound of its likelihood, without a look at its density.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import logsumexp

from tumorjax.retrieval.direct import runs_of
from tumorjax.retrieval.kernels import shared_bits
from tumorjax.retrieval.masks import PackedMasks, block_counts, cutoffs

LEVELS = np.arange(256) / 255
"""The densities for which the likelihood is computed: those that 8 bits hold."""

# Tumours that are read together, and that are bounded together.
_READ, _BOUNDED = 64, 1024
_GOLDEN = (np.sqrt(5) - 1) / 2


class Labels(NamedTuple):
    """An outline, and what it says about the density in a voxel.

    Parameters
    ----------
    inside
        (x, y, z), on the grid of the tumours.
    log_inside, log_outside
        (256, m), nat: log-likelihood of a voxel inside the outline and of one outside, for each of `LEVELS`, at m nodes
        of what is unknown of the outline.
    """

    inside: Bool[np.ndarray, "x y z"]
    log_inside: Float[np.ndarray, "256 m"]
    log_outside: Float[np.ndarray, "256 m"]


class Likelihoods(NamedTuple):
    """The tumours that a patient's outlines do not rule out.

    Parameters
    ----------
    rows
        (k,): indices of the tumours that were read, in the order of their bounds.
    log_means
        (k,), nat: logarithms of their likelihoods, to the power that was asked for, averaged over the nodes.
    nodes
        (k,): a node for each, as its likelihood over the nodes has it.
    log_values
        (k,), nat: logarithm of that power of the likelihood at the node.
    """

    rows: Int[np.ndarray, "k"]
    log_means: Float[np.ndarray, "k"]
    nodes: Int[np.ndarray, "k"]
    log_values: Float[np.ndarray, "k"]


class OutlineLikelihood:
    """The likelihood of a patient's outlines under every tumour of an index; densities are read once.

    Parameters
    ----------
    masks
        Outlines of n tumours.
    densities
        Returns the density of a tumour as it was when it was packed.
    labels
        The patient's outlines; all with the same nodes. Voxels outside the brain do not count.
    """

    def __init__(
        self,
        masks: PackedMasks,
        densities: Callable[[int], Shaped[np.ndarray, "x y z"]],
        labels: Sequence[Labels],
    ) -> None:
        self._order, self._densities = masks.order, densities
        self._inside = [np.take(each.inside, masks.order) for each in labels]
        # (levels, m), those inside and outside of one outline after the other.
        self._table = np.concatenate([part for each in labels for part in (each.log_inside, each.log_outside)])
        self._counts: dict[int, Float[np.ndarray, "l"]] = {}
        self._between, self._best = _between_isolines(masks, labels)

    def evaluate(
        self,
        exponent: float = 1.0,
        *,
        neglected: float = 1e-3,
        progress: Callable[[float], None] = lambda share: None,
    ) -> Likelihoods:
        """Return the likelihoods, to a power, of all tumours but those that have no more than a share of their sum.

        Tumours are read in the order of upper bounds of their likelihoods, until the bounds of the rest add up to less
        than that share.

        Parameters
        ----------
        exponent
            Power of the likelihood.
        neglected
            Largest share of the sum of all likelihoods that tumours which are left out may have.
        progress
            Receives the share that is done.

        Notes
        -----
        The node of a tumour is the quantile of its likelihood over the nodes at a number that follows from its row: the
        fractional part of a multiple of the golden ratio, by which any rows are spread evenly. So there are no random
        numbers.
        """
        bounds = self._bounds(exponent)
        order = np.argsort(-bounds, kind="stable")
        # (n,): logarithm of what all tumours from here on have together at most.
        rest = np.logaddexp.accumulate(bounds[order][::-1])[::-1]
        least = np.log(neglected) if neglected > 0 else -np.inf
        table, size = exponent * self._table, self._table.shape[1]
        read, total, means, nodes, values = 0, -np.inf, [], [], []
        while read < len(order) and not rest[read] < total + least:
            rows = order[read : read + _READ]
            found = np.stack([self._counted(int(row)) for row in rows]) @ table
            likelihood = np.exp(found - found.max(axis=1, keepdims=True))
            shares = np.cumsum(likelihood, axis=1)
            quantile = (rows * _GOLDEN) % 1.0 * shares[:, -1]
            node = np.minimum((shares <= quantile[:, None]).sum(axis=1), size - 1)
            means.append(found.max(axis=1) + np.log(likelihood.mean(axis=1)))
            nodes.append(node)
            values.append(found[np.arange(len(rows)), node])
            total = np.logaddexp(total, logsumexp(means[-1]))
            read += len(rows)
            progress(read / len(order))
        progress(1.0)
        return Likelihoods(order[:read], np.concatenate(means), np.concatenate(nodes), np.concatenate(values))

    def _counted(self, row: int) -> Float[np.ndarray, "l"]:
        """Return how many voxels of each level lie inside each outline, and outside."""
        if row not in self._counts:
            levels = _levels(np.take(np.asarray(self._densities(row)), self._order))
            # One pass for both: a count of each part would copy it first.
            parts = [np.bincount(levels + len(LEVELS) * ~inside, minlength=2 * len(LEVELS)) for inside in self._inside]
            self._counts[row] = np.concatenate(parts).astype(float)
        return self._counts[row]

    def _bounds(self, exponent: float) -> Float[np.ndarray, "n"]:
        """Return upper bounds of the logarithms of the likelihoods to a power, averaged over the nodes, nat."""
        table = exponent * self._best
        parts = [
            np.asarray(logsumexp(self._between[begin : begin + _BOUNDED] @ table, axis=1))
            for begin in range(0, len(self._between), _BOUNDED)
        ]
        return np.concatenate(parts) - np.log(table.shape[1])


def _between_isolines(
    masks: PackedMasks, labels: Sequence[Labels]
) -> tuple[Float[np.ndarray, "n b"], Float[np.ndarray, "b m"]]:
    """Return numbers of voxels between the packed isolines of all tumours, and the largest log-likelihood of each.

    For each outline these are the voxels inside it, below both isolines, between them and above, then those outside.
    """
    core, lesion = cutoffs(masks.thresholds, np.uint8).tolist()
    # One level more on each side, since densities that are stored as fractions are rounded.
    intervals = (slice(0, lesion + 2), slice(lesion, core + 2), slice(core, len(LEVELS)))
    rows, voxels = np.arange(len(masks)), len(masks.order)
    every = _between(np.stack([np.full(len(rows), voxels), masks.counts[1], masks.counts[0]]))
    counts, tables = [], []
    for each in labels:
        words = masks.inside(each.inside)
        runs, volume = runs_of(block_counts(words)), np.count_nonzero(np.take(each.inside, masks.order))
        shared = [shared_bits(masks.words, mask, rows, runs, words) for mask in (1, 0)]
        within = _between(np.stack([np.full(len(rows), volume), *shared]))
        counts += [*within, *(every - within)]
        tables += [table[some].max(axis=0) for table in (each.log_inside, each.log_outside) for some in intervals]
    return np.stack(counts, axis=1).astype(float), np.stack(tables)


def _between(above: Int[np.ndarray, "3 n"]) -> Int[np.ndarray, "3 n"]:
    """Return numbers of voxels between isolines from those above them."""
    return above - np.concatenate([above[1:], np.zeros_like(above[:1])])


def _levels(values: Shaped[np.ndarray, "v"]) -> Int[np.ndarray, "v"]:
    """Return which of `LEVELS` stored densities are, or are nearest to."""
    if values.dtype == np.uint8:
        return values.astype(np.intp)
    return np.clip(np.rint(255 * values.astype(np.float32)), 0, 255).astype(np.intp)
