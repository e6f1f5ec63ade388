"""From a patient's images to a calibrated map of tumour cells, a plan and figures of merit."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Key

from tumorjax.calibration import (
    LBFGS,
    Calibration,
    CalibrationResult,
    DoubtfulEstimate,
    LearnMorphInfer,
    Problem,
    Retrieval,
    calibrate,
)
from tumorjax.calibration.calibrate import AbstractMethod
from tumorjax.calibration.laplace import density_and_deviation
from tumorjax.calibration.sampling.maps import posterior_maps
from tumorjax.calibration.sampling.posterior import Posterior
from tumorjax.io import Volume, to_voxels
from tumorjax.pipeline.assessment import assessed, check_margin
from tumorjax.pipeline.diagnostics import Diagnostics, diagnose, solves_of
from tumorjax.pipeline.estimates import Estimate
from tumorjax.pipeline.learn_morph_infer import figures_of_inference, inference_of, notes_on_inference
from tumorjax.pipeline.patient import Patient
from tumorjax.pipeline.problems import notes_on_foci, notes_on_pet, problem_of
from tumorjax.pipeline.recurrence import at_follow_up
from tumorjax.pipeline.retrieval import figures_of_match, maps_of_matches, match_of, notes_on_match
from tumorjax.planning import coverage, credible_volume, millilitres
from tumorjax.quality import Status

Progress = Callable[[str, float | None], None]

# Densities above which the probability is mapped: infiltration, visible oedema, half of the capacity. Credible volumes
# are of what is infiltrated.
THRESHOLDS = (0.01, 0.1, 0.5)
LEVELS = (0.5, 0.9)
# Draws are made in the box of the lesion and this margin (mm), beyond which a tumour has a thousandth of the capacity.
_ROOM = 20.0


class Stopwatch:
    """Times the stages of the work, one after the other."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a stage."""
        begun = time.perf_counter()
        yield
        self.stages.append((name, time.perf_counter() - begun))

    def seconds(self, name: str | None = None) -> float:
        """Return the time of one stage, or of all."""
        return sum(seconds for stage, seconds in self.stages if name in (None, stage))

    def figures(self) -> dict[str, float]:
        """Return the seconds of the calibration, and of all stages so far."""
        return {
            "seconds_calibration": round(self.seconds("calibration"), 3),
            "seconds_total": round(self.seconds(), 3),
        }


@dataclass(frozen=True, eq=False)
class Personalization:
    """A patient's tumour as the calibrated model sees it; volumes are in the patient's own geometry.

    Parameters
    ----------
    calibration
        The parameters on the computing grid.
    density, density_std
        (x, y, z): cell density as a fraction of the carrying capacity, and its standard deviation.
    plan, standard_plan
        (x, y, z), bool: the model's target volume, which holds the core, and the clinical margin's, of the same size.
        A result that has failed has no plan: None.
    pet_predicted
        (x, y, z), the PET image's unit; None without PET.
    recurrence
        (x, y, z), bool; None where none was given.
    estimates
        The parameters in words, with units and standard deviations.
    metrics
        Figures of merit.
    stages
        Name and seconds of each stage.
    notes
        What a reader of the results should know about the calibration.
    margin
        mm, of the clinical plan.
    quality, reasons
        Whether the result can be used as it is, and the notes on patient and calibration because of which it cannot.
    probabilities
        (x, y, z), by threshold: that the density is above it; empty without draws from the posterior.
    credible
        (x, y, z), bool, by credibility: volumes outside which a voxel is not infiltrated (has less than the smallest
        threshold); empty without draws.
    diagnostics
        What the draws are worth; None without.
    """

    calibration: Calibration
    density: np.ndarray
    density_std: np.ndarray
    plan: np.ndarray | None
    standard_plan: np.ndarray
    pet_predicted: np.ndarray | None
    recurrence: np.ndarray | None
    estimates: list[Estimate]
    metrics: dict[str, float | int | None]
    stages: list[tuple[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    margin: float = 15.0
    quality: Status = Status.GOOD
    reasons: list[str] = field(default_factory=list)
    probabilities: dict[float, np.ndarray] = field(default_factory=dict)
    credible: dict[float, np.ndarray] = field(default_factory=dict)
    diagnostics: Diagnostics | None = None


def personalize(
    patient: Patient,
    *,
    method: AbstractMethod | None = None,
    key: Key[Array, ""] | None = None,
    recurrence: Volume | None = None,
    recurrence_labels: Sequence[int] | None = None,
    margin: float = 15.0,
    plan_despite_failure: bool = False,
    stopwatch: Stopwatch | None = None,
    progress: Progress = lambda stage, share: None,
) -> Personalization:
    """Calibrate the growth model to a patient and derive what the scans do not show.

    Parameters
    ----------
    patient
        From `load_patient`.
    method
        How to calibrate; `LBFGS()` if not given. Of a sampler the maps are those of its draws. For a database of
        simulated tumours see `tumorjax.pipeline.retrieval.retrieval_in`, for a network
        `tumorjax.pipeline.learn_morph_infer.inference_in`.
    key
        Random key, which samplers need.
    recurrence
        Tumour at follow-up, any geometry in the patient's world; measured, never used to calibrate.
    recurrence_labels
        Of the recurrence that count; by default all but the resection cavity, see `at_follow_up`.
    margin
        mm: of the clinical plan, whose size the model's plan shares.
    plan_despite_failure
        Make a plan also where the result has failed: where the atlas is not aligned, say, or the model does not meet
        the outlines at all.
    stopwatch
        Continues a measurement that began with loading.
    progress
        Told each stage, and the share of it that is done where that is known.

    Raises
    ------
    InputError
        If the images cannot be calibrated to.
    """
    watch = stopwatch or Stopwatch()
    method = method or LBFGS()
    notes: list[str] = []
    # Before the work, for it may turn out unusable.
    check_margin(margin)
    again = None if recurrence is None else at_follow_up(recurrence, patient, recurrence_labels, notes)
    with watch("calibration"):
        problem = problem_of(patient, several=not method.single_seed)
        # Searches are over before that saves anything, queries and networks solve next to nothing; draws are many.
        solved = problem if isinstance(method, (LBFGS, LearnMorphInfer, Retrieval)) else problem.around(_ROOM)
        with warnings.catch_warnings():
            # Told among the notes.
            warnings.simplefilter("ignore", DoubtfulEstimate)
            calibration = calibrate(solved, method, key=key, progress=lambda stage, share, _: progress(stage, share))
    with watch("maps"):
        maps = _maps(problem, calibration, progress)
        more, found = _particulars(patient, problem, calibration, maps, None if again is None else again.tumour)
    with watch("plan"):
        progress("target volume", None)
        fields = assessed(
            patient,
            problem,
            calibration,
            maps.density,
            maps.deviation,
            again,
            margin=margin,
            notes=[*notes_on_foci(problem), *notes_on_pet(patient), *found.pop("notes", []), *notes],
            despite_failure=plan_despite_failure,
        )
    kept = {name: getattr(calibration.stats, name, 0) for name in ("gradients", "coarse_gradients", "coarse_solves")}
    cost = {
        "forward_solves": solves_of(calibration.stats) + maps.solves,
        **{name: count for name, count in kept.items() if count},
    }
    fields["metrics"] |= cost | more | watch.figures()
    return Personalization(**fields, **found, stages=watch.stages)


class _Maps(NamedTuple):
    """Density and its deviation on the computing grid, probabilities by threshold, and the solves for all of it."""

    density: np.ndarray
    deviation: np.ndarray
    probabilities: dict[float, np.ndarray]
    solves: int


def _maps(problem: Problem, calibration: Calibration, progress: Progress) -> _Maps:
    stage = "density and its uncertainty"
    progress(stage, None)
    if isinstance(calibration, Posterior):
        maps = posterior_maps(problem, calibration, THRESHOLDS, progress=lambda share: progress(stage, share))
        return _Maps(maps.mean, maps.std, dict(zip(THRESHOLDS, maps.probabilities, strict=True)), maps.solves)
    if calibration.covariance is None or calibration.result is CalibrationResult.MATCHED:
        density, deviation, solves = maps_of_matches(problem, calibration)
        return _Maps(density, deviation, {}, solves)
    maps = density_and_deviation(problem, calibration.coordinates, calibration.covariance)
    density, deviation = (np.asarray(each) for each in maps)
    # The Laplace approximation holds a solve with tangents, the density is one, and its standard deviation two for
    # each number of the growth.
    moving = sum(name.startswith("growth.") for name in problem.prior.names)
    return _Maps(density, deviation, {}, 1 + 1 + 2 * moving)


def _particulars(
    patient: Patient, problem: Problem, calibration: Calibration, maps: _Maps, recurrence: np.ndarray | None
) -> tuple[dict[str, float | int | None], dict[str, Any]]:
    """Return metrics, and fields of a `Personalization`, that only draws, a database or a network give."""
    if (match := match_of(calibration)) is not None:
        return figures_of_match(match), {"notes": notes_on_match(calibration, match)}
    if (inference := inference_of(calibration)) is not None:
        return figures_of_inference(inference), {"notes": notes_on_inference(calibration, inference)}
    if not isinstance(calibration, Posterior):
        return {}, {}
    grid, like = problem.anatomy.grid, patient.reference
    fine = {t: np.clip(to_voxels(each, grid, like), 0, 1) for t, each in maps.probabilities.items()}
    credible = {level: credible_volume(fine[min(fine)], patient.brain, level) for level in LEVELS}
    metrics: dict[str, float | int | None] = {}
    for level, volume in credible.items():
        name = f"credible_{100 * level:.0f}"
        metrics[f"{name}_ml"] = millilitres(volume, np.asarray(like.grid.spacing))
        if recurrence is not None:
            metrics[f"coverage_{name}"] = coverage(volume, recurrence)
    diagnostics = diagnose(calibration)
    metrics["effective_draws"] = round(diagnostics.effective, 1)
    found = {"probabilities": fine, "credible": credible, "diagnostics": diagnostics, "notes": diagnostics.notes()}
    return metrics, found
