"""The posterior of growth, with what is unknown of each image integrated out by quadrature.

Given the density, an outline's threshold and sharpness depend on no other image, and cost little beside the solve. So
their integral is computed for each solve, and a sampler sees the coordinates of growth alone, without the thin ridge
on which thresholds and growth lie together. Afterwards the integrated numbers are drawn given each draw of growth.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Key

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.problem import Problem, Shown
from tumorjax.methods.sampling.diagnostics import mixing
from tumorjax.methods.sampling.sample import Sample
from tumorjax.methods.sampling.target import AbstractTarget, Completed, complete
from tumorjax.prior import Prior, SameAs
from tumorjax.progress import SearchProgress, silent

# Largest number of unknowns of an image: a grid of more has too many nodes.
_MOST = 2
# First the prior is covered, then repeatedly the posterior by its moments, and at last its integral is computed: nodes
# along an axis, and how far they reach in standard deviations. A grid on whose border the posterior is largest moves
# there, at most so often.
_PRIOR_NODES, _PRIOR_REACH = 9, 3.0
_FITS, _FITTED_NODES, _FITTED_REACH = 3, 5, 2.5
_NODES, _REACH = 9, 4.0
_MOVES = 12
# Nodes along an axis where numbers are drawn, each between its neighbours.
_DRAWN = 21


class _Block(NamedTuple):
    """The coordinates [start, stop) of the prior, which are unknowns of the observations of one name."""

    name: str
    start: int
    stop: int


class MarginalTarget(AbstractTarget):
    """The target of a problem over all coordinates but those that belong to one image alone, which are integrated out.

    Integrated are the unknowns of an observation if there are one or two, and no other place of the prior is the same
    as one of them: threshold and sharpness of an outline, scale and noise of PET.

    Parameters
    ----------
    problem
        The problem.
    """

    problem: Problem

    @property
    def size(self) -> int:
        """Number of coordinates that are left, n."""
        return len(self.kept)

    @property
    def dtype(self) -> Any:
        """The anatomy's dtype."""
        return self.problem.dtype

    @property
    def kept(self) -> list[int]:
        """The numbers of these coordinates among those of the prior, N."""
        integrated = {i for block in self._blocks() for i in range(block.start, block.stop)}
        return [i for i in range(self.problem.prior.size) if i not in integrated]

    def log_likelihood(self, z: Float[Array, "n"]) -> Float[Array, ""]:
        """Return the logarithm of the likelihood's integral over the other coordinates, nat."""
        shown, params = self._shown(z)
        return self._marginal(shown, params, self._quadratures(shown))

    def completed(self, z: Float[Array, "n"], key: Key[Array, ""]) -> Completed:
        """Return all coordinates, those that are integrated out drawn given the others."""
        shown, params = self._shown(z)
        whole, quadratures = self._scattered(z), self._quadratures(shown)
        for i, (block, quadrature) in enumerate(quadratures):
            whole = whole.at[block.start : block.stop].set(quadrature.drawn(jax.random.fold_in(key, i)))
        joint = self.problem.log_likelihood(shown, self.problem.prior.constrain(whole))
        return Completed(whole, joint, self._marginal(shown, params, quadratures))

    def _marginal(self, shown: Shown, params: Any, quadratures: "list[tuple[_Block, _Quadrature]]") -> Float[Array, ""]:
        """Return the logarithm of the integral, nat, given what images show."""
        names = [block.name for block, _ in quadratures]
        total, failed = jnp.zeros((), self.dtype), jnp.zeros((), bool)
        for _, name, observation, field in self.problem.seen(shown):
            if name not in names:
                total = total + observation.log_prob(field, params.observations[name])
            # A largest value, as in the logarithm of a sum, may be compiled so that it overlooks what is not a number.
            failed = failed | jnp.isnan(jnp.sum(field))
        for _, quadrature in quadratures:
            total = total + quadrature.log_integral
        return jnp.where(failed, jnp.nan, total)

    def _shown(self, z: Float[Array, "n"]) -> tuple[Shown, Any]:
        params = self.problem.prior.constrain(self._scattered(z))
        return self.problem.predict(params), params

    def _scattered(self, z: Float[Array, "n"]) -> Float[Array, "N"]:
        """Return all coordinates, those that are integrated out in the middle of the prior."""
        return jnp.zeros(self.problem.prior.size, z.dtype).at[np.array(self.kept, int)].set(z)

    def _blocks(self) -> list[_Block]:
        """Return what is integrated out."""
        prior, names = self.problem.prior, self.problem.prior.names
        same = {leaf.name.split(".")[1] for leaf in _same(prior.distributions) if leaf.name.startswith("observations.")}
        found = []
        for name, unknown in prior.distributions.observations.items():
            own = [i for i, place in enumerate(names) if place.startswith(f"observations.{name}.")]
            if name not in same and not _same(unknown) and 1 <= len(own) <= _MOST:
                found.append(_Block(name, own[0], own[-1] + 1))
        return found

    def _quadratures(self, shown: Shown) -> "list[tuple[_Block, _Quadrature]]":
        """Return what is integrated out, with the quadrature of each."""
        return [(block, self._quadrature(block, shown)) for block in self._blocks()]

    def _quadrature(self, block: _Block, shown: Shown) -> "_Quadrature":
        """Return the quadrature over the unknowns of an image, on a grid that its likelihood has been fitted with."""
        own = Prior(self.problem.prior.distributions.observations[block.name])
        images = [image.log_probs_of(field) for _, name, image, field in self.problem.seen(shown) if name == block.name]

        def log_probs(nodes: Float[Array, "m k"]) -> Float[Array, "m"]:
            params = jax.vmap(own.constrain)(nodes)
            return sum((image(params) for image in images), jnp.zeros(len(nodes), self.dtype))

        return _Quadrature.of(log_probs, block.stop - block.start, self.dtype)


class _Quadrature(NamedTuple):
    """The integral of a likelihood over a standard normal prior, by the trapezoidal rule in a normal approximation.

    The trapezoidal rule converges exponentially where the integrand vanishes at the ends of the grid.

    Parameters
    ----------
    log_density
        Of the posterior, without the evidence: a function of nodes (m, k).
    centre, factor
        (k,), (k, k): mean of the posterior and Cholesky factor of its covariance, which place the nodes. The integral
        does not depend on them, so that they have no gradient.
    """

    log_density: Callable[[Float[Array, "m k"]], Float[Array, "m"]]
    centre: Float[Array, "k"]
    factor: Float[Array, "k k"]

    @classmethod
    def of(cls, log_probs: Callable[[Array], Array], size: int, dtype: Any) -> "_Quadrature":
        """Return the quadrature for log-likelihoods at nodes (m, size)."""

        def log_density(nodes: Float[Array, "m k"]) -> Float[Array, "m"]:
            return log_probs(nodes) - 0.5 * jnp.sum(nodes**2, axis=1) - 0.5 * size * np.log(2 * np.pi).astype(dtype)

        start = cls(log_density, jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype))
        found = start._fitted(_grid(_PRIOR_NODES, _PRIOR_REACH, size, dtype))
        for _ in range(_FITS):
            found = found._fitted(_grid(_FITTED_NODES, _FITTED_REACH, size, dtype))
        # A posterior that is bent reaches further than its middle lets expect.
        return found._fitted(_grid(_NODES, _REACH, size, dtype))

    @property
    def log_integral(self) -> Float[Array, ""]:
        """The logarithm of the integral."""
        size = len(self.centre)
        grid = _grid(_NODES, _REACH, size, self.centre.dtype)
        cell = size * np.log(2 * _REACH / (_NODES - 1)).astype(self.centre.dtype)
        volume = cell + jnp.log(jnp.abs(jnp.diagonal(self.factor))).sum()
        values = self.log_density(self._nodes(grid))
        # A grid on whose border most of the integral lies does not reach the posterior: such a solve counts as failed.
        border = logsumexp(jnp.where(_on_border(grid), values, -jnp.inf))
        total = logsumexp(values)
        return jnp.where(border > total - float(np.log(2)), jnp.nan, total + volume)

    def drawn(self, key: Key[Array, ""]) -> Float[Array, "k"]:
        """Draw from the posterior: a node, and a place between it and its neighbours."""
        size, choice, within = len(self.centre), *jax.random.split(key)
        grid = _grid(_DRAWN, _REACH, size, self.centre.dtype)
        chosen = jnp.asarray(grid)[jax.random.categorical(choice, self.log_density(self._nodes(grid)))]
        away = jax.random.triangular(within, -1.0, 0.0, 1.0, (size,)).astype(grid.dtype)
        return self.centre + self.factor @ (chosen + away * (2 * _REACH / (_DRAWN - 1)))

    def _nodes(self, grid: Float[Any, "m k"]) -> Float[Array, "m k"]:
        return self.centre + grid @ self.factor.T

    def _fitted(self, grid: Float[Any, "m k"]) -> "_Quadrature":
        """Return the quadrature about the moments of the posterior, as far as a grid shows them."""

        def values(nodes: Float[Array, "m k"]) -> Float[Array, "m"]:
            # Where a solve failed nothing is finite, and neither is the integral.
            return jax.lax.stop_gradient(jnp.nan_to_num(self.log_density(nodes), nan=0.0))

        def beyond(state: tuple[Array, Array, Array]) -> Array:
            _, found, moves = state
            # Where all nodes are equal there is nothing to follow.
            return _on_border(grid)[jnp.argmax(found)] & (found.max() > found.min()) & (moves < _MOVES)

        def moved(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            nodes, found, moves = state
            nodes = nodes[jnp.argmax(found)] + grid @ self.factor.T
            return nodes, values(nodes), moves + 1

        nodes = jax.lax.stop_gradient(self._nodes(grid))
        nodes, found, _ = jax.lax.while_loop(beyond, moved, (nodes, values(nodes), jnp.zeros((), int)))
        weights = jax.nn.softmax(found)
        centre = weights @ nodes
        away = nodes - centre
        spacing = float(2 * grid.max() / (round(len(grid) ** (1 / grid.shape[1])) - 1))
        # A posterior that is narrower than the grid lies between its nodes.
        least = (0.25 * spacing) ** 2 * self.factor @ self.factor.T
        covariance = away.T @ (weights[:, None] * away) + least
        return self._replace(centre=centre, factor=jnp.linalg.cholesky(covariance))


def completed(target: MarginalTarget, sample: Sample, key: Key[Array, ""], progress: SearchProgress = silent) -> Sample:
    """Return draws of a target with all coordinates, at one solve for each of which there are not others.

    Draws that are copies of each other remain so, since they count once. Draws of no weight are left out, as they may
    have no tumour.
    """
    if target.size == target.problem.prior.size:
        return sample
    draws, log_weights = sample.draws, sample.log_weights
    if log_weights is not None:
        used = np.isfinite(log_weights[0])
        draws, log_weights = draws[:, used], log_weights[:, used]
    points, copies = np.unique(draws.reshape(-1, draws.shape[-1]), axis=0, return_inverse=True)
    found = complete(target, points, key, progress=lambda share: progress("unknowns of images", share, np.nan))
    draws = found.points[copies].reshape(*draws.shape[:2], -1)
    stats = sample.stats._replace(cost=sample.stats.cost + Cost(solves=len(points)))
    if stats.r_hat is not None:
        r_hat, ess = mixing(draws)
        stats = stats._replace(r_hat=r_hat, ess=ess)
    return Sample(draws, found.values[copies].reshape(draws.shape[:2]), log_weights, sample.log_evidence, stats)


def _grid(count: int, reach: float, size: int, dtype: Any) -> Float[np.ndarray, "m k"]:
    """Return the nodes of a cube of `count` nodes along each axis."""
    axes = np.meshgrid(*[np.linspace(-reach, reach, count)] * size, indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, size).astype(dtype)


def _on_border(grid: Float[np.ndarray, "m k"]) -> Bool[Array, "m"]:
    """Return which nodes of a cube are on its border."""
    return jnp.asarray(np.abs(grid).max(axis=1) == grid.max())


def _same(tree: Any) -> list[SameAs]:
    """Return everything in a tree that is the same as something else."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, SameAs))
    return [leaf for leaf in leaves if isinstance(leaf, SameAs)]
