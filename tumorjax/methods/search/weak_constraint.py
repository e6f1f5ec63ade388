"""Weakly constrained calibration: the density may leave the equation of growth where the images ask for it."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.laplace import laplace_covariance
from tumorjax.calibration.method import AbstractMethod
from tumorjax.calibration.model_evidence import laplace_evidence
from tumorjax.calibration.problem import Problem
from tumorjax.calibration.quasi_newton import Minimum, minimise
from tumorjax.calibration.result import CalibrationResult
from tumorjax.checks import check_count, check_not_negative, check_real
from tumorjax.grid import Grid
from tumorjax.growth import AbstractGrowth, Forcing
from tumorjax.integrate import at_one
from tumorjax.methods.checkpoint import CHECKPOINT, Stages, checkpoint_of, stages_of
from tumorjax.methods.search.cross_validation import folds, knowing, log_likelihood
from tumorjax.methods.search.departed import Departed, Priced
from tumorjax.methods.search.lbfgs import LBFGS, LBFGSStats
from tumorjax.methods.search.trajectories import Trajectories, trajectories
from tumorjax.methods.search.weakened import Weakened, doubted, information, objective_and_gradient, weaken
from tumorjax.observation import Outline
from tumorjax.option import Option
from tumorjax.progress import SearchProgress

# Deviations of the forcing among which cross-validation chooses, after the physical limit: beyond these the rate varies
# more than between tumours. What predicts worse by less than this (nat; 95 % of a ratio of likelihoods) is as good.
_DEVIATIONS = (0.1, 0.2, 0.4, 0.8, 1.6)
_AS_GOOD = 2.0
# Largest deviation of the logarithm of a rate that a price may permit.
_LARGEST_DEVIATION = 10.0
# Width of what is held out in one piece, and largest voxels of the searches for the price, over the length of the
# forcing. With the default length the pieces are as wide as the errors of models are correlated.
_CUBE, _VOXEL = 1.2, 0.4
# Margin (mm) around the lesion in which these searches simulate tissue that stays in place.
_MARGIN = 25.0
# Draws from the posterior of parameters and forcing together, from which the deviations of the maps follow.
_DRAWS = 32
# Larger lattices would take minutes for the information of a point.
_MOST_KNOTS = 4000


class WeakConstraint(AbstractMethod):
    """Calibration in which the density keeps to the equation of growth at a price, and to the images at another.

    The rate of division is multiplied by exp(s), with s a smooth field (`Forcing`) that is normal, of mean zero and
    variance one over the price. So the density leaves the equation by rho (exp(s) - 1) c (1 - c). Data assimilation
    with a weak constraint [1]_, and ODIL and GliODIL [2]_, [3]_, penalise what is left of the equation likewise; here
    the density is still that of a growth, between zero and one. As the price rises, the calibration becomes that of
    `start`.

    Unless the price is given, the images decide how far they are to be followed, by cross-validation: of the black and
    the white cubes of a three-dimensional board, either half is predicted by a search that knows the other one. The
    answer has the highest price that predicts what was held out as well as the best, to two nats. It keeps to the
    equation where that does, and where the tumour is too small for anything to be held out. (The evidence in the
    Laplace approximation prefers the equation where images deny it: the weights that outlines get for their correlated
    errors suit displacements that are smooth, and not details.)

    Parameters
    ----------
    price
        What a squared unit of s costs: one over its variance. None lets the images choose.
    length
        mm: distance of the knots of s, over which it is correlated; at least a voxel.
    reach
        mm: how far around the outlines the rate may depart.
    coarsening
        Factor between the voxels on which the price and the uncertainty are found and those of the problem; by default
        the largest with which they are no longer than 0.4 of the length.
    budget
        Largest number of gradient evaluations for each price, and for the final search.
    draws
        Number of draws from the posterior of parameters and forcing together, on the voxels of the search for the
        price, by Hamiltonian Monte Carlo; zero takes the normal approximation, which does not see that cells would
        appear where the images show none. By default 32, and zero for a model that displaces tissue, whose gradients
        cost too much.
    model_error
        mm: standard deviation by which the outlines may be missed as far as deviations and draws are concerned, since
        an anatomy that is not the patient's is no matter of the forcing; see `SurfaceErrors.model_deviation`. The
        default is the largest of three ways in which a model is wrong (`python -m benchmarks readers`). The density
        follows the outlines as if this were zero.
    value_tolerance
        nat. Stop where two iterations together improve the log-posterior by less than this.
    start
        Method that finds the calibration without forcing.
    checkpoint
        A file that keeps each search when it has ended, with a checksum. The same run, started again, continues from
        there to the same result; None keeps nothing.

    References
    ----------
    .. [1] Y. Trémolet, "Accounting for an imperfect model in 4D-Var", Quarterly Journal of the Royal Meteorological
       Society 132 (2006).
    .. [2] P. Karnakov, S. Litvinov, P. Koumoutsakos, "Optimizing a DIscrete Loss (ODIL) to solve forward and inverse
       problems for partial differential equations using machine learning tools", arXiv:2205.04611 (2022).
    .. [3] M. Balcerak et al., "Individualizing glioma radiotherapy planning by optimization of a data and
       physics-informed discrete loss", Nature Communications (2025).
    """

    name: ClassVar[str] = "weak-constraint"
    title: ClassVar[str] = "weakly constrained L-BFGS"
    summary: ClassVar[str] = "the most probable density that keeps to the growth model only as far as the images allow"
    references: ClassVar[tuple[str, ...]] = (
        "Y. Trémolet, Accounting for an imperfect model in 4D-Var, Quarterly Journal of the Royal Meteorological "
        "Society 132 (2006) 2483-2504.",
    )
    several_visits: ClassVar[bool] = True
    frees_density: ClassVar[bool] = True
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "price",
            "penalty on departures from the equation of growth: one over the variance of the logarithm of the rate of "
            "division "
            "(default: by cross-validation)",
            float,
            "P",
        ),
        CHECKPOINT,
    )

    price: float | None = eqx.field(static=True, default=None)
    length: float = eqx.field(static=True, default=10.0, kw_only=True)
    reach: float = eqx.field(static=True, default=10.0, kw_only=True)
    coarsening: int | None = eqx.field(static=True, default=None, kw_only=True)
    budget: int = eqx.field(static=True, default=100, kw_only=True)
    draws: int | None = eqx.field(static=True, default=None, kw_only=True)
    model_error: float = eqx.field(static=True, default=2.3, kw_only=True)
    value_tolerance: float = eqx.field(static=True, default=0.02, kw_only=True)
    start: AbstractMethod = eqx.field(default=LBFGS(), kw_only=True)
    checkpoint: str | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self) -> None:
        if self.price is not None:
            check_real("price", self.price)
            if not 0 < self.price < np.inf:
                what = "take LBFGS, which keeps to the equation" if self.price == np.inf else "give a positive price"
                raise ValueError(f"price: got {self.price:g}; {what}, or leave it out, so that the images choose")
            if not self.price >= 1 / _LARGEST_DEVIATION**2:
                raise ValueError(
                    f"price: got {self.price:g}, by which rates would depart by exp({self.price**-0.5:.3g}); "
                    f"give {1 / _LARGEST_DEVIATION**2:g} or more, or none, so that the images choose"
                )
        for name in ("length", "reach", "value_tolerance"):
            check_real(name, getattr(self, name))
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.coarsening is not None:
            check_count("coarsening", self.coarsening)
        check_count("budget", self.budget, least=2)
        if self.draws is not None:
            check_count("draws", self.draws, least=0)
        check_real("model_error", self.model_error)
        check_not_negative("model_error", self.model_error)
        if not isinstance(self.start, AbstractMethod):
            raise ValueError(f"start must be a method object such as LBFGS(), got {self.start!r}")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "WeakConstraint":
        """Return the search that the options of a command describe."""
        checkpoint = checkpoint_of(options)
        return cls(options.get("price"), checkpoint=checkpoint)

    def refuses_model(self, model: AbstractGrowth) -> str | None:
        """Return in one line why the rate of a model cannot depart from place to place; None if it can."""
        nothing = Forcing(np.zeros((1, 1, 1)), Grid((1, 1, 1), np.eye(4)))
        if not isinstance(model, AbstractGrowth) or model.forced(nothing) is None:
            return f"{type(model).__name__} has no rate of division that could depart from place to place; take LBFGS"
        return super().refuses_model(model)

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why a problem cannot be weakened; None if it can."""
        if (reason := super().refuses(problem)) is not None:
            return reason
        if not any(isinstance(o, Outline) for visit in problem.visits for o in visit.observations.values()):
            return "a weak constraint needs an outline, around which the rate may depart"
        return None

    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> Calibration:
        """Calibrate the problem; `key` is for the method of `start`."""
        began = time.monotonic()
        begun = self.start.run(problem, key, progress)
        fine = weaken(problem, self.length, self.reach, 1.0)
        if (knots := fine.size - problem.prior.size) > _MOST_KNOTS:
            raise ValueError(f"the forcing has {knots} knots, more than {_MOST_KNOTS}; give a larger length")
        point = np.concatenate([np.asarray(begun.coordinates, float), np.zeros(knots)])
        settings = dataclasses.replace(self, start=LBFGS(), checkpoint=None)
        with stages_of(self.checkpoint, settings, problem, point) as stages:
            found = self._searched(fine, point, stages, progress)
            seconds = stages.seconds + time.monotonic() - began
        cost = dataclasses.replace(found.cost + begun.cost, seconds=seconds)
        return dataclasses.replace(found, cost=cost, begun=begun)

    def _searched(self, fine: Weakened, point: np.ndarray, stages: Stages, progress: SearchProgress) -> Departed:
        rough = self._rough(fine)
        if self.price is None:
            deviation, prices, searches = self._chosen(rough, point, stages, progress)
        else:
            deviation, prices, searches = self.price**-0.5, (), []
        near = self._search(_at(rough, deviation), point, (0.0, 0.5), stages, progress, "search on coarse voxels")
        own = _at(fine, deviation)
        final = self._search(own, near.point, (0.5, 0.5), stages, progress, "search")
        if final.result is CalibrationResult.NOT_FINITE:
            raise ValueError("the objective is not finite where the search begins; check the prior and the outlines")
        count = own.problem.prior.size
        coordinates = jnp.asarray(final.point[:count], own.dtype)
        rough = _at(rough, deviation)
        loose = doubted(rough, self.model_error)
        known, vague = stages(f"information {deviation:g}", lambda: self._informations(rough, loose, near.point))
        covariance = np.linalg.inv(vague)
        walked = self._drawn(loose, near.point, covariance, stages, progress)
        coarse = sum(each.evaluations for each in (*searches, near)) + (walked.gradients if walked else 0)
        return Departed(
            own.problem.prior.constrain(coordinates),
            own.problem.prior,
            coordinates,
            jnp.asarray(covariance[:count, :count], own.dtype),
            final.result,
            LBFGSStats(len(final.history) - 1, float(np.abs(final.gradient).max()), final.value),
            method=self.title,
            cost=Cost(final.evaluations, final.evaluations, coarse, coarse),
            # Searches at other prices have other objectives.
            histories=(tuple(final.history),),
            coarse_histories=(tuple(near.history),),
            forcing=own.forcing(jnp.asarray(final.point, own.dtype)),
            deviation=deviation,
            joint=jnp.asarray(covariance, own.dtype),
            prices=prices,
            steps=None if walked is None else jnp.asarray(walked.steps, own.dtype),
            acceptance=None if walked is None else walked.acceptance,
            laplace=laplace_evidence(final.value, np.linalg.inv(known)),
        )

    def _rough(self, fine: Weakened) -> Weakened:
        """Return the problem around the lesion, on the voxels on which price and uncertainty are found."""
        problem = fine.problem
        factor = self.coarsening or max(1, int(_VOXEL * self.length / np.max(problem.anatomy.grid.spacing)))
        if not problem.model.displaces:
            fine = knowing(fine, problem.around(_MARGIN, multiple=4 * factor))
        return fine.coarsen(factor) if factor > 1 else fine

    def _chosen(
        self, rough: Weakened, point: np.ndarray, stages: Stages, progress: SearchProgress
    ) -> tuple[float, tuple[Priced, ...], list[Minimum]]:
        """Return the deviation that cross-validation chooses, what was tried, and the searches for it.

        It is zero for a tumour so small that nothing of it can be held out.
        """
        parts = folds(rough.problem, _CUBE * self.length)
        best, prices, searches = -np.inf, [], []
        ends, each_share = [point] * len(parts), 0.5 / (1 + len(_DEVIATIONS))
        for deviation in (0.0, *_DEVIATIONS) if parts else ():
            total = 0.0
            for i, part in enumerate(parts):
                weakened = _at(knowing(rough, part.learned), deviation)
                share = (len(searches) * each_share, each_share)
                searches.append(self._search(weakened, ends[i], share, stages, progress, f"price, fold {i + 1}"))
                ends[i] = searches[-1].point
                other = knowing(weakened, part.held_out)
                total += float(log_likelihood(other, jnp.asarray(ends[i], weakened.dtype)))
            prices.append(Priced(deviation, total))
            best = max(each.held_out for each in prices)
            if not total > best - _AS_GOOD:
                break
        chosen = next((each.deviation for each in prices if each.held_out > best - _AS_GOOD), 0.0)
        return chosen, tuple(prices), searches

    def _drawn(
        self, weakened: Weakened, point: np.ndarray, covariance: np.ndarray, stages: Stages, progress: SearchProgress
    ) -> Trajectories | None:
        """Return draws of the coordinates; None where the normal approximation is to do, or there is no forcing."""
        count = (0 if weakened.problem.model.displaces else _DRAWS) if self.draws is None else self.draws
        if not (count and weakened.deviation > 0):
            return None
        middle = self._search(weakened, point, (0.9, 0.0), stages, progress, "search for the middle of the draws")
        walked = stages(
            "draws",
            lambda: trajectories(
                lambda at: at_one(objective_and_gradient, weakened, jnp.asarray(at, weakened.dtype)),
                middle.point,
                np.linalg.cholesky(covariance),
                count,
                progress=lambda share: progress("draws of parameters and forcing", share, np.nan),
            ),
        )
        return walked._replace(gradients=middle.evaluations + walked.gradients)

    def _informations(self, rough: Weakened, loose: Weakened, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the information of the images, and the prior's, at a point: as they are, and doubted."""
        problems = rough.problem, loose.problem
        if rough.deviation > 0:
            known, vague = information(rough, jnp.asarray(point, rough.dtype), problems)
            return np.asarray(known, float), np.asarray(vague, float)
        # Nothing shows the weights of a field that is zero.
        count = rough.problem.prior.size
        result = np.eye(len(point)), np.eye(len(point))
        for matrix, problem in zip(result, problems, strict=True):
            covariance = laplace_covariance(problem, jnp.asarray(point[:count], rough.dtype))
            matrix[:count, :count] = np.linalg.inv(np.asarray(covariance, float))
        return result

    def _search(
        self,
        weakened: Weakened,
        begin: np.ndarray,
        share: tuple[float, float],
        stages: Stages,
        progress: SearchProgress,
        stage: str,
    ) -> Minimum:
        return stages(
            f"{stage} {float(weakened.deviation):g}",
            lambda: minimise(
                lambda point: at_one(objective_and_gradient, weakened, jnp.asarray(point, weakened.dtype)),
                begin,
                budget=self.budget,
                gradient_tolerance=1e-3,
                value_tolerance=self.value_tolerance,
                progress=lambda evaluations, value: progress(
                    stage, share[0] + share[1] * min(evaluations / self.budget, 1.0), value
                ),
            ),
        )


def _at(weakened: Weakened, deviation: float) -> Weakened:
    return dataclasses.replace(weakened, deviation=np.asarray(deviation))
