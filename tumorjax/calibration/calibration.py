"""What a calibration returns."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.draws import Draws, Tumour, one_by_one
from tumorjax.calibration.estimates import Estimate, Spread, estimates_of, frame_of, quantities_of
from tumorjax.calibration.laplace import laplace_maps
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.model_evidence import Evidence, laplace_evidence
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.calibration.result import CalibrationResult, notes_on_search
from tumorjax.calibration.summary import Summary, plot, summary_of
from tumorjax.prior import Prior
from tumorjax.quantity import Quantity
from tumorjax.sections import Curves, Section

# Most numbers of a quantity of which each is differentiated backwards by itself.
_FEW = 64


class Calibration(eqx.Module):
    """Calibrated parameters with their uncertainty, and everything that others need to know of how they were found.

    Methods whose answers are of another kind (draws, matches, a mixture over atlases) return a subclass. A calibration
    answers for itself: nothing that writes files, reports or plans needs to know which method it comes from.

    Parameters
    ----------
    params
        The maximum a posteriori, arranged as the problem's prior arranges its parameters.
    prior
        The prior, which names the coordinates.
    coordinates
        (n,): `params` in the prior's coordinates, where the prior is standard normal.
    covariance
        (n, n): posterior covariance of the coordinates (Laplace approximation); None where it is unknown.
    result
        Why the method stopped.
    method
        The method's title, for sentences: "adjoint L-BFGS".
    cost
        Solves, gradients and seconds, those of `begun` among them.
    stats
        Details of the method; see there.
    histories
        Objective after each iteration of each search on the problem's voxels, the final one last.
    coarse_histories
        The same of searches on coarser voxels, where the objective is another.
    samples
        Parameters with a leading axis, for a method that returns several; None otherwise.
    log_weights
        Logarithms of their weights, which sum to one.
    begun
        The calibration of another method from which this one began; None without.
    images
        Checksum of the images that were seen and of their weights, which `calibrate` adds; empty where it is unknown.
    """

    params: Parameters
    prior: Prior
    coordinates: Float[Array, "n"]
    covariance: Float[Array, "n n"] | None
    result: CalibrationResult = eqx.field(static=True)
    stats: Any = None
    samples: Parameters | None = None
    log_weights: Float[Array, "m"] | None = None
    method: str = eqx.field(static=True, default="", kw_only=True)
    cost: Cost = eqx.field(default_factory=Cost, kw_only=True)
    histories: tuple[tuple[float, ...], ...] = eqx.field(static=True, default=(), kw_only=True)
    coarse_histories: tuple[tuple[float, ...], ...] = eqx.field(static=True, default=(), kw_only=True)
    begun: "Calibration | None" = eqx.field(default=None, kw_only=True)
    images: str = eqx.field(static=True, default="", kw_only=True)

    @property
    def frees_density(self) -> bool:
        """Whether the density leaves the equation of growth, and follows ragged outlines."""
        return False

    @property
    def fitted(self) -> bool:
        """Whether the parameters were fitted to this patient's images, rather than found elsewhere and carried over."""
        return True

    @property
    def plausible(self) -> bool:
        """Whether the calibrated tumour resembles the patient's, so that a search may begin with it."""
        return True

    @property
    def description(self) -> str:
        """How the model was calibrated, to follow its title: "calibrated by adjoint L-BFGS"."""
        begun = "" if self.begun is None else f" from {self.begun.beginning}"
        return f"calibrated by {self.method}{begun}"

    @property
    def beginning(self) -> str:
        """What a search that begins with this calibration begins from, in words."""
        return f"the parameters found by {self.method}"

    @property
    def estimate(self) -> str:
        """What the values and standard deviations of the estimates are, in words."""
        if self.covariance is None:
            return "the most probable parameters that were found; their standard deviations are unknown"
        return "maximum a posteriori; standard deviations from a Laplace approximation"

    @property
    def uncertainty(self) -> str:
        """What the standard deviation of the density in each voxel is, as a sentence of the report."""
        return "Standard deviation of the density in each voxel, given the data, the prior and the model."

    @property
    def centre(self) -> Parameters:
        """The parameters that stand for the calibration: the maximum a posteriori, or the mean of draws or atlases."""
        return self.params

    @property
    def evidence(self) -> Evidence | None:
        """The evidence of the model, by the Laplace approximation around the optimum; None where that is unknown.

        See `compare_evidence`.
        """
        objective = getattr(self.stats, "objective", None)
        if objective is None or self.covariance is None:
            return None
        return laplace_evidence(objective, self.covariance)

    def starts(self) -> list[np.ndarray]:
        """Return where a search that begins with this calibration begins, in the prior's coordinates."""
        points = self.coordinates[None] if self.samples is None else jax.vmap(self.prior.unconstrain)(self.samples)
        return list(np.asarray(points, float))

    def maps(
        self,
        problem: Problem,
        thresholds: Sequence[float] = (),
        progress: Callable[[float], None] = lambda share: None,
    ) -> Maps:
        """Return density, its uncertainty and displacement on the grid of a problem.

        Parameters
        ----------
        problem
            The problem that was calibrated, or the same on a larger box.
        thresholds
            Densities above which probabilities are wanted, from methods that can give them.
        progress
            Receives the share that is done.
        """
        return laplace_maps(problem, self.coordinates, self.covariance)

    def quantities(self) -> list[Quantity]:
        """Return what is worth a row of a table, in the words of growth and observations."""
        return quantities_of(self.params, self.prior)

    def spread(self, quantity: Callable[[Parameters], Any]) -> Spread:
        """Return value, standard deviation and mode of a quantity of the parameters, with intervals where known."""
        value = self.mean(quantity)
        return Spread(value, None if self.covariance is None else self.standard_deviations(quantity), value)

    def estimates(self, truth: Mapping[str, float] | None = None) -> list[Estimate]:
        """Return the calibrated numbers with units and standard deviations.

        Parameters
        ----------
        truth
            True values by name, where they are known.
        """
        return estimates_of(self, truth)

    def summary(self) -> Summary:
        """Return a table of estimates, intervals, units, and of what the data say beyond the prior.

        The last column is the posterior over the prior standard deviation in the prior's coordinates: 100 % where the
        data say nothing about a number, near 0 % where they determine it.
        """
        return summary_of(self)

    def to_dataframe(self) -> Any:
        """Return the calibrated numbers as a `pandas.DataFrame`, a row for each by its name.

        The columns are `value`, `standard_deviation`, the ends `low` and `high` of the 90 % credible interval (of
        draws), `unit`, `fixed`, `symbol` and `meaning`; what is unknown is NaN.

        Raises
        ------
        ImportError
            If pandas is not installed; the extra `bayes` brings it.
        """
        return frame_of(self.estimates())

    def plot(self) -> Any:
        """Return a Matplotlib figure with the prior and the posterior of every calibrated number."""
        return plot(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write the calibration into a `.safetensors` file, from which `load_calibration` returns it."""
        from tumorjax.calibration.saving import save_calibration

        save_calibration(path, self)

    def __repr__(self) -> str:
        """Return the summary as text; the fields where there is none, as of a trace, of shapes or of a batch."""
        table = self._table()
        return super().__repr__() if table is None else str(table)

    def _repr_html_(self) -> str | None:
        table = self._table()
        return None if table is None else table._repr_html_()

    def _table(self) -> Summary | None:
        """Return the summary; None where the numbers are not those of one calibration."""
        if np.ndim(self.coordinates) != 1 or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            return None
        # An object whose numbers were taken out can be shown all the same.
        with suppress(Exception):
            return self.summary()
        return None

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return what a reader should know of the calibration; notes carry how far they put the result in doubt.

        Parameters
        ----------
        problem
            What was calibrated.
        alone
            Whether this is the answer, or only where another method began.
        """
        begun = [] if self.begun is None else self.begun.notes(problem, alone=False)
        return [*(notes_on_search(self.result) if alone else []), *begun]

    def figures(self) -> dict[str, float | int | None]:
        """Return the method's own numbers for the record of metrics, by name."""
        return {} if self.begun is None else self.begun.figures()

    def sections(self) -> list[Section]:
        """Return the method's own sections of the report."""
        shown = (("objective on coarser voxels", self.coarse_histories), ("objective", self.histories))
        curves = [Curves("iteration", title, series) for title, series in shown if series]
        return [Section("Convergence", curves)] if curves else []

    def tables(self) -> dict[str, Any]:
        """Return what the method adds to the file of parameters, by key; JSON."""
        return {}

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Return the files that the method adds to the results: a function that writes each, by its name."""
        return {}

    def sample(self, key: Key[Array, ""], count: int) -> Parameters:
        """Draw parameters from the Laplace approximation, with a leading axis of `count`."""
        # Unlike a Cholesky factor this one exists where the spread of few matches is singular, too.
        variances, axes = jnp.linalg.eigh(self._known())
        factor = axes * jnp.sqrt(jnp.maximum(variances, 0))
        z = jax.random.normal(key, (count, self.coordinates.size), self.coordinates.dtype)
        return jax.vmap(self.prior.constrain)(self.coordinates + z @ factor.T)

    def drawn(self, problem: Problem, key: Key[Array, ""], count: int) -> list[Draws]:
        """Return draws one by one, with the problem of each; a single one where nothing is known of their spread.

        Parameters
        ----------
        problem
            The problem that was calibrated, or the same on a larger box.
        key
            Random key.
        count
            Number of draws.

        Raises
        ------
        ValueError
            If the calibration has other unknowns than the problem.
        """
        if self.prior.names != problem.prior.names:
            raise ValueError(
                "the calibration has other unknowns than the problem; give the problem that was calibrated"
            )
        if self.covariance is None:
            return [Draws(problem, [jax.tree.map(jnp.asarray, self.params)])]
        return [Draws(problem, one_by_one(self.sample(key, count), count))]

    def tumours(self, problem: Problem) -> list[Tumour]:
        """Return the tumours whose mean stands for the calibration: where tissue, seed and rates lead to the density.

        None of them where the density did not grow in the problem's anatomy, but was carried there.

        Parameters
        ----------
        problem
            The problem that was calibrated, or the same on a larger box.
        """
        prior = problem.prior
        return [Tumour(problem, prior.completed(prior.unknown(self.centre), problem.dtype))]

    def mean(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return a quantity at the calibrated parameters; of draws and of a mixture over atlases its mean over them."""
        return quantity(self.params)

    def standard_deviations(self, quantity: Callable[[Parameters], Any] = lambda params: params) -> Any:
        """Return the standard deviation of every number of a quantity, by default of the parameters themselves.

        To first order in the coordinates' covariance; zero for what is known.

        Parameters
        ----------
        quantity
            A function of the parameters. A solve in it (`problem.density`) has derivatives backwards only, which is
            what few numbers take; for as many as a whole image give the solve `ForwardMode()`.

        Raises
        ------
        ValueError
            If nothing is known of the uncertainty, or many numbers depend on a solve without `ForwardMode()`.
        """
        covariance = self._known()
        return jax.tree.map(lambda slope: _deviation(slope, covariance), self._slopes(quantity))

    def correlation(self) -> Float[Array, "n n"]:
        """Return the posterior correlation of the coordinates, in the order of `prior.names`."""
        covariance = self._known()
        scale = jnp.sqrt(jnp.diagonal(covariance))
        return covariance / scale[:, None] / scale[None, :]

    def _slopes(self, quantity: Callable[[Parameters], Any]) -> Any:
        """Return the derivative of a quantity in the coordinates."""

        def at(z: Float[Array, "n"]) -> Any:
            return quantity(self.prior.constrain(z))

        try:
            return jax.jacfwd(at)(self.coordinates)
        except TypeError as error:
            # What JAX says where a function has a rule for the backward mode alone, as a solve has by default.
            if "custom_vjp" not in str(error):
                raise
        size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(at, self.coordinates)))
        if size > _FEW:
            raise ValueError(
                f"this quantity has {size} numbers, too many for derivatives backwards, one after another; "
                "give the solve in it the other mode: problem.density(params, ForwardMode())"
            )
        return jax.jacrev(at)(self.coordinates)

    def _known(self) -> Float[Array, "n n"]:
        if self.covariance is None:
            raise ValueError(
                "this calibration has no uncertainty: a single match, or the answer of a network; refine it, or ask "
                "for several matches"
            )
        return self.covariance


def _deviation(slope: Float[Array, "... n"], covariance: Float[Array, "n n"]) -> Float[Array, "..."]:
    """Return the standard deviations of numbers with these derivatives."""
    # By a power of two, which rounds nothing: the square of a number in an extreme unit may not exist.
    _, exponent = jnp.frexp(jnp.max(jnp.abs(slope)))
    slope = jnp.ldexp(slope, -exponent)
    return jnp.ldexp(jnp.sqrt(jnp.einsum("...i,ij,...j->...", slope, covariance, slope)), exponent)
