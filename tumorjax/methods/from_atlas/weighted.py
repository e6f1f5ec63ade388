"""All tumours of a database, weighted by the likelihood of a patient's outlines: a posterior without a solve."""

import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import ndtri

from tumorjax.calibration.cost import Cost
from tumorjax.calibration.problem import Problem
from tumorjax.ensemble import Database
from tumorjax.methods.from_atlas.morphing import Carry, into_patient, unlike_in_fibres
from tumorjax.methods.sampling.diagnostics import EFFECTIVE
from tumorjax.methods.sampling.posterior import Posterior, posterior_of
from tumorjax.methods.sampling.sample import Sample, SamplerStats, effective_number, evidence_error
from tumorjax.observation import Outline
from tumorjax.quality import Note, Status
from tumorjax.retrieval import LEVELS, Labels, OutlineLikelihood, PackedMasks

# Points at which the likelihood is averaged over what is unknown of the outlines; a power of two.
_NODES = 2**12
# Where fewer tumours count, the power of the likelihood is halved until so many do, or it is this small.
_LEAST, _SMALLEST = 10.0, 2.0**-10
# Share of the weights that the draws have together, since the tumours without are many and none of them counts; and
# largest number of draws.
_SHARE, _MOST = 0.999, 500


class WeightedTumours(Posterior):
    """Simulated tumours as draws from a posterior: their weights are likelihoods of the patient's outlines.

    The prior is that of the database: the ranges from which its tumours were drawn, and the sizes that it accepted.
    `log_evidence` is the mean likelihood over all its tumours. `stats.effective` is the effective number of tumours by
    their likelihoods. Where it is below ten, or half of the tumours, the weights of the draws are those of the
    likelihood to a power, which is halved until so many count, `stats.details["exponent"]`: as if the outlines were
    worth fewer voxels. The draws spread more widely than the posterior then, and `notes` say so.
    """

    @property
    def description(self) -> str:
        """How the model was calibrated, to follow its title."""
        return f"{self.stats.details['tumours']} simulated tumours, weighted by the likelihood of the outlines,"

    @property
    def beginning(self) -> str:
        """What a search that begins with these draws begins from, in words."""
        return f"the most probable of {self.stats.details['tumours']} simulated tumours"

    @property
    def estimate(self) -> str:
        """What the values of the estimates are, in words."""
        return (
            "mean of simulated tumours weighted by the likelihood of the outlines, with their standard deviations and "
            "90 % credible intervals under the prior of the database; map is the most probable of them"
        )

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return how many tumours count, and what the draws leave out."""
        if not alone:
            return []
        found = self.stats.details
        effective = self.stats.effective
        few = effective < EFFECTIVE
        advice = f"; below {EFFECTIVE} the ends of intervals are rough" if few else ""
        text = (
            f"By the likelihood of the outlines the {found['tumours']} simulated tumours are worth {effective:.1f} "
            f"independent draws from the posterior{advice}."
        )
        notes: list[str] = [Note(text, Status.DOUBTFUL if few else Status.GOOD)]
        if found["exponent"] < 1:
            text = (
                "Hardly any simulated tumour resembles the patient's as closely as the likelihood asks for. The draws "
                f"are weighted by the likelihood to the power of {found['exponent']:.2g}, with which "
                f"{found['counted']:.0f} of them count: their intervals are wider than those of the posterior. Refine "
                "the answer by a search or a sampler, or take a larger database."
            )
            notes.append(Note(text, Status.DOUBTFUL))
        notes.append(
            "The prior is the database's: the ranges of parameters and sizes from which its tumours were drawn. The "
            "likelihood is that of the outlines in the atlas."
        )
        if others := sorted(name for name in problem.observations if name not in found["outlines"]):
            text = (
                f"What {' and '.join(others)} show is not used; the numbers that belong to it are those of the prior."
            )
            notes.append(Note(text, Status.DOUBTFUL))
        if words := unlike_in_fibres(problem.anatomy, along=found["fibres"]):
            notes.append(Note(f"The simulated tumours {words}, which the weights do not know.", Status.DOUBTFUL))
        if found["moved"] > 0:
            text = (
                f"The prior of the calibration holds {found['moved']:.0%} of the draws, by weight, to be next to "
                "impossible in this patient; they are moved to the nearest likely values."
            )
            notes.append(Note(text, Status.DOUBTFUL if found["moved"] > 0.05 else Status.GOOD))
        return notes

    def figures(self) -> dict[str, float | int | None]:
        """Return the effective number of tumours, the exponent of the likelihood, and the evidence."""
        return {
            "effective_draws": round(float(self.stats.effective), 1),
            "likelihood_exponent": round(float(self.stats.details["exponent"]), 4),
            "log_evidence": round(float(np.asarray(self.log_evidence)), 2),
            "match": self.stats.details["match"],
        }


def weighted_tumours(
    problem: Problem,
    database: Database,
    masks: PackedMasks,
    outlines: Mapping[str, Bool[np.ndarray, "x y z"]],
    carry: Carry,
    densities: Callable[[int], Shaped[np.ndarray, "x y z"]],
    *,
    method: str,
    progress: Callable[[float], None] = lambda share: None,
) -> WeightedTumours:
    """Return the posterior of a problem that the tumours of a database make.

    What is unknown of the outlines is integrated for each tumour, over 4096 points of its prior: the low-discrepancy
    sequence of Sobol. Each tumour that counts is one draw, with thresholds drawn from their posterior given the tumour.

    Parameters
    ----------
    problem
        What is calibrated.
    database
        Its tumours are draws of the prior.
    masks
        Their packed outlines.
    outlines
        Those of the patient that are known, on the database's grid, by the names of the problem's observations.
    carry
        From the atlas into the patient.
    densities
        Returns the density of a tumour as it was when it was packed.
    method
        Title, for sentences.
    progress
        Receives the share that is done.
    """
    begun, prior = time.perf_counter(), problem.prior
    nodes, observed = _nodes(problem)
    likelihood = OutlineLikelihood(masks, densities, _labels(problem, masks, outlines, nodes))
    found = exact = likelihood.evaluate(progress=progress)
    count, exponent, effective = len(database), 1.0, effective_number(exact.log_means)
    # A power below one is a likelihood of outlines that are worth fewer voxels.
    counted, least = effective, min(_LEAST, count / 2)
    while counted < least and exponent > _SMALLEST:
        exponent /= 2
        found = likelihood.evaluate(exponent, progress=progress)
        counted = effective_number(found.log_means)
    tempered = found.log_means
    kept, log_weights = _draws(tempered)
    draws, moved = np.zeros((len(kept), prior.size)), np.zeros(len(kept), bool)
    for i, each in enumerate(kept):
        growth = database.parameters(int(found.rows[each]))
        draws[i], changed = into_patient(problem, growth, masks.thresholds, carry)
        draws[i, observed], moved[i] = nodes[found.nodes[each]][observed], bool(changed)
    stats = SamplerStats(
        cost=Cost(seconds=time.perf_counter() - begun),
        effective=effective,
        log_evidence_error=evidence_error(effective, count),
        details={
            "tumours": count,
            "read": len(found.rows),
            "match": int(found.rows[np.argmax(tempered)]),
            "exponent": exponent,
            "counted": counted,
            "outlines": tuple(outlines),
            "moved": float(np.exp(log_weights) @ moved),
            "fibres": database.anatomy.fibres is not None,
        },
    )
    sample = Sample(
        draws[None],
        found.log_values[kept][None] / exponent,
        log_weights[None],
        float(np.logaddexp.reduce(exact.log_means) - np.log(count)),
        stats,
    )
    return WeightedTumours(**vars(posterior_of(problem, sample, method=method)))


def _draws(log_weights: Float[np.ndarray, "k"]) -> tuple[Int[np.ndarray, "d"], Float[np.ndarray, "d"]]:
    """Return which tumours are draws, the heaviest first, and logarithms of their weights."""
    order = np.argsort(-log_weights, kind="stable")
    shares = np.cumsum(np.exp(log_weights[order] - np.logaddexp.reduce(log_weights)))
    kept = int(np.searchsorted(shares, _SHARE)) + 1
    if kept <= _MOST:
        kept = order[:kept]
        return kept, log_weights[kept] - np.logaddexp.reduce(log_weights[kept])
    # Systematic resampling, without random numbers.
    places = np.minimum(np.searchsorted(shares, (np.arange(_MOST) + 0.5) / _MOST), len(order) - 1)
    chosen, times = np.unique(places, return_counts=True)
    return order[chosen], np.log(times / _MOST)


def _nodes(problem: Problem) -> tuple[Float[np.ndarray, "m n"], Bool[np.ndarray, "n"]]:
    """Return points of the prior that differ in what is unknown of the images, and which coordinates those are."""
    # It takes a second to import.
    from scipy.stats import qmc

    observed = np.array([name.startswith("observations.") for name in problem.prior.names])
    if not observed.any():
        return np.zeros((1, observed.size)), observed
    nodes = np.zeros((_NODES, observed.size))
    # Its first point is the corner of the cube, where no quantile is finite.
    spread = qmc.Sobol(int(observed.sum()), scramble=False).random(_NODES) + 0.5 / _NODES
    nodes[:, observed] = ndtri(spread)
    return nodes, observed


def _labels(
    problem: Problem,
    masks: PackedMasks,
    outlines: Mapping[str, Bool[np.ndarray, "x y z"]],
    nodes: Float[np.ndarray, "m n"],
) -> list[Labels]:
    """Return what each outline says about the density in a voxel of the database."""
    dtype, found = problem.dtype, []
    unknown = jax.vmap(problem.prior.constrain)(jnp.asarray(nodes, dtype)).observations
    levels = jnp.asarray(LEVELS, dtype)
    for name, inside in outlines.items():
        outline = problem.observations[name]
        assert isinstance(outline, Outline)
        probability = np.asarray(
            jax.vmap(lambda params, o=outline: o.probability(levels, params))(unknown[name]), float
        )
        # As much as all voxels of the patient's outline together, whatever the size of the atlas' voxels.
        weight = float(outline.weight * outline.size) / max(int(np.count_nonzero(np.take(inside, masks.order))), 1)
        found.append(Labels(inside, weight * np.log(probability.T), weight * np.log1p(-probability.T)))
    return found
