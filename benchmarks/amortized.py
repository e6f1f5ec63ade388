"""The amortised posterior: seconds, coverage of the truth, and agreement with TMCMC, on tumours of unseen brains.

Patients are tumours of the published ranges in a random relative of ICBM152 of which the network has seen none,
outlined at random densities by readers who err as in the training. They are grown on the voxels of the inversion.
"""

import time
import warnings
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from benchmarks.cohorts import cohort, folder
from benchmarks.record import Record, code, kept
from tumorjax import FisherKolmogorov, Outline, Problem, calibrate
from tumorjax.calibration import default_prior
from tumorjax.ensemble import Database, tumours_of
from tumorjax.methods import TMCMC, AmortizedPosterior, DoubtfulEstimate
from tumorjax.methods.from_atlas.learnt import shares_of
from tumorjax.networks import OutsideTraining, Tumours, inverse_architecture, train_inverse
from tumorjax.networks.inverse_windows import TARGETS, THRESHOLDS
from tumorjax.networks.readers import outlined

# Displacement of the readers' outlines, mm: at most this standard deviation.
ERROR = 2.0
# Number of independent voxels that each outline counts as. Readers of these tumours err by another length and standard
# deviation than `SurfaceErrors` assumes of real ones.
WORTH = 60.0
# The seed of the brain and of the draws; training uses others.
_BRAIN, _SEED = 9, 19
_NAMES = ("mu1", "mu2", "origin_x", "origin_y", "origin_z", "threshold_core", "threshold_lesion")
_LEVELS = (0.5, 0.9)
# Number of patients of which compiled programs are kept.
_KEPT_PROGRAMS = 32


def add_arguments(parser: Any) -> None:
    """Add the options of this benchmark."""
    add = parser.add_argument
    add("--patients", type=int, metavar="N", help="patients of the coverage, at most 256 (default: 200)")
    add("--compared", type=int, metavar="N", help="patients of which TMCMC draws, too (default: 10)")


def run(size: str, patients: int | None = None, compared: int | None = None) -> list[Record]:
    """All figures; `small` takes few draws from a network that has learnt nothing, in voxels of 8 mm."""
    if size == "small":
        return _small()
    method = AmortizedPosterior.open()
    held = Patients(cohort(256, seed=_SEED, box="learn-morph-infer", deformed=_BRAIN, resolution=4.0))
    return coverage(method, held, patients or 200) + agreement(method, held, 10 if compared is None else compared)


def _small() -> list[Record]:
    learnt, others = tumours_of(cohort(20, resolution=8.0)), Patients(cohort(2, seed=1, resolution=8.0))
    made = inverse_architecture([learnt, learnt], targets=(*TARGETS, *THRESHOLDS))
    network = train_inverse([learnt, learnt], 2, size=replace(made, window=16), batch=4).model
    method = AmortizedPosterior(network, draws=20)
    return coverage(method, others, 2, store=False) + agreement(method, others, 1, particles=64)


class Patients:
    """Problems of tumours of a database, with the truth."""

    def __init__(self, database: Database) -> None:
        self.anatomy = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), database.anatomy)
        self.tumours: Tumours = tumours_of(database)

    def __getitem__(self, row: int) -> tuple[Problem, dict[str, float]]:
        """Return the problem of a tumour and its true numbers."""
        own, shape = self.tumours, self.tumours.tissue.shape[:3]
        density = own.density(row, np.zeros(3, int), shape)
        seen = outlined(density, np.random.default_rng([0, row]), own.spacing, ERROR)
        inside = np.asarray(self.anatomy.tissue)
        images = {
            name: Outline((mask & inside).astype(np.float32), inside, effective_voxels=WORTH)
            for name, mask in (("core", seen.core), ("lesion", seen.lesion))
        }
        prior = default_prior(self.anatomy, images, several=False)
        origin = np.asarray(self.anatomy.grid.to_world(own.seeds[row]))
        truth = {name: float(own.parameters[name][row]) for name in ("mu1", "mu2")}
        truth |= {f"origin_{axis}": float(value) for axis, value in zip("xyz", origin, strict=True)}
        truth |= {"threshold_core": seen.threshold_core, "threshold_lesion": seen.threshold_lesion}
        return Problem(FisherKolmogorov(), self.anatomy, images, prior), truth


def coverage(method: AmortizedPosterior, held: Patients, count: int, *, store: bool = True) -> list[Record]:
    """Coverage of central intervals, effective numbers and seconds a patient, with and without correction."""
    records = []
    for corrected in (True, False):
        rows, own = [], _with(method, corrected=corrected)
        place = folder() / "amortized" / f"{'corrected' if corrected else 'network'}"
        by = f"{code('amortized')}-{shares_of(held.anatomy).sum():.6g}-{method.draws}"
        for row in range(count):
            if row % _KEPT_PROGRAMS == 0:
                # A patient's box has programs of its own, and a process can map no more than those of some dozens.
                jax.clear_caches()
            measure = lambda row=row, own=own: _one(own, held, row)  # noqa: E731
            rows.append(kept(place / f"{row}.json", by, measure) if store else measure())
        name = "amortized" if corrected else "amortized_uncorrected"
        for level in _LEVELS:
            inside = {
                each: float(np.mean([abs(found["quantiles"][each] - 0.5) <= level / 2 for found in rows]))
                for each in _NAMES
            }
            mean, target = float(np.mean(list(inside.values()))), "0.86 to 0.94" if level == 0.9 else ""
            records.append(
                Record(f"{name}_coverage_{100 * level:.0f}", mean, "1", target, {**inside, "patients": count})
            )
        seconds = [found["seconds"] for found in rows[1:]]
        target = "<= 10" if corrected else "<= 2"
        records.append(Record(f"{name}_seconds", float(np.median(seconds)), "s", target, {"draws": method.draws}))
        if corrected:
            effective = [found["effective"] for found in rows]
            details = {"quartiles": np.quantile(effective, (0.25, 0.5, 0.75)).tolist(), "draws": method.draws}
            repeats = float(np.mean([found["repeats"] > 0 for found in rows]))
            records.append(Record("amortized_effective_draws", float(np.median(effective)), "1", "", details))
            records.append(Record("amortized_share_with_improved_proposal", repeats, "1"))
    return records


def agreement(method: AmortizedPosterior, held: Patients, count: int, particles: int = 1024) -> list[Record]:
    """Differences of corrected draws and of TMCMC: of means in standard deviations, and of standard deviations."""
    rows: list[dict[str, Any]] = []
    if not count:
        return []
    for row in range(count):
        problem, _ = held[row]
        own = _quietly(method, problem)
        reference = calibrate(problem.around(20.0), TMCMC(particles=particles), key=jax.random.key(1))
        both = [{each.name: each for each in found.estimates()} for found in (own, reference)]
        means = {each: abs(both[0][each].value - both[1][each].value) / both[1][each].deviation for each in _NAMES}
        spreads = {each: abs(both[0][each].deviation / both[1][each].deviation - 1) for each in _NAMES}
        evidence = float(own.log_evidence) - float(reference.log_evidence)
        rows.append({"means": means, "deviations": spreads, "log-evidence, nat": evidence})
    details = {"patients": rows, "particles": particles}
    away, wide = (float(np.mean([list(row[key].values()) for row in rows])) for key in ("means", "deviations"))
    return [
        Record("amortized_mean_error", away, "standard deviations of TMCMC", "<= 0.2", details),
        Record("amortized_deviation_error", wide, "1", "<= 0.2"),
    ]


def _with(method: AmortizedPosterior, **changes: Any) -> AmortizedPosterior:
    settings = {"draws": method.draws, "corrected": method.corrected, "chunk": method.chunk}
    return AmortizedPosterior(method.network, **(settings | changes))


def _quietly(method: AmortizedPosterior, problem: Problem) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulEstimate)
        warnings.simplefilter("ignore", OutsideTraining)
        return calibrate(problem, method, key=jax.random.key(0))


def _one(method: AmortizedPosterior, held: Patients, row: int) -> dict[str, Any]:
    """Return the quantiles of the true numbers in a posterior, and how it was found."""
    problem, truth = held[row]
    begun = time.perf_counter()
    found = _quietly(method, problem)
    seconds = time.perf_counter() - begun
    params, weights = found.samples, np.exp(np.asarray(found.log_weights, float))
    drawn = {name: np.asarray(getattr(params.growth, name), float) for name in ("mu1", "mu2")}
    drawn |= {f"origin_{axis}": np.asarray(params.growth.origin, float)[:, i] for i, axis in enumerate("xyz")}
    drawn |= {f"threshold_{name}": np.asarray(each.threshold, float) for name, each in params.observations.items()}
    quantiles = {name: float(weights @ (drawn[name] < truth[name])) for name in _NAMES}
    stats = found.stats
    return {
        "quantiles": quantiles,
        "seconds": seconds,
        "effective": stats.effective,
        "repeats": stats.details.get("repeats", 0),
        "overlap": found.overlap,
    }
