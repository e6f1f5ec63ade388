"""Neural posterior estimation on synthetic rats: comparison with TMCMC and the truth, coverage, and effort."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from scipy.special import logsumexp

from benchmarks import cohorts
from benchmarks.record import Record, code
from tumorjax import TMCMC, NeuralPosterior, Problem, calibrate
from tumorjax.calibration.coverage import central_credibility, density_credibility, ranks
from tumorjax.methods.neural.simulator import ProblemSimulator
from tumorjax.methods.sampling.target import ProblemTarget, log_likelihoods
from tumorjax.pipeline.small_animal import Rat, forecast, synthetic_rat, true_volumes

DAYS = (11.0, 14.0, 16.0)
NAMES = ("D_w", "rho", "u_T1", "u_T2")
# Levels of the error of a mean, in standard deviations, at which numbers of solves are compared.
LEVELS = (0.1, 0.2)


@dataclass(frozen=True)
class Size:
    """Sizes of the benchmark.

    Parameters
    ----------
    spacing
        Edge of the rats' voxels, mm.
    rounds, simulations
        Rounds of NPE on the rat, and simulations in each.
    draws
        Draws from every posterior.
    particles
        Particles of TMCMC, with which the rat's posterior is compared.
    subjects, weighted_subjects, subject_rounds, subject_simulations
        Subjects of the coverage with truncated proposals and with the paper's, rounds, and simulations in each.
    budgets
        Simulations in each of four rounds of NPE in the comparison of effort.
    populations
        Particles of TMCMC in the comparison of effort.
    seeds
        Number of runs of each setting.
    reference
        Draws of the reference posterior for both.
    """

    spacing: float = 0.6
    rounds: int = 4
    simulations: int = 1000
    draws: int = 1000
    particles: int = 2048
    subjects: int = 50
    weighted_subjects: int = 10
    subject_rounds: int = 4
    subject_simulations: int = 300
    budgets: tuple[int, ...] = (50, 100, 200, 400)
    populations: tuple[int, ...] = (64, 128, 256, 512)
    seeds: int = 3
    reference: int = 8000


FULL = Size()
SMALL = Size(
    spacing=1.2, rounds=2, simulations=60, draws=60, particles=64, subjects=2, weighted_subjects=1,
    subject_rounds=2, subject_simulations=40, budgets=(30, 60), populations=(16, 32), seeds=1, reference=200,
)  # fmt: skip


def run(size: str) -> list[Record]:
    """All figures; `small` is for tests. At full size, the result of each rat of the coverage is stored."""
    chosen, kept = (SMALL, None) if size == "small" else (FULL, cohorts.folder() / "rats")
    return rat_records(chosen) + coverage_records(chosen, kept) + effort_records(chosen)


def rat_records(size: Size = FULL, starts: tuple[str, ...] = ("seed", "image")) -> list[Record]:
    """Both set-ups of the rat: posterior against TMCMC and the truth, and the predicted volumes."""
    records = []
    with TemporaryDirectory() as folder:
        for start in starts:
            records += _rat(start, size, Path(folder))
    return records


def _rat(start: Any, size: Size, folder: Path) -> list[Record]:
    """Return the figures of one set-up."""
    records = []
    rat = synthetic_rat(0, start=start, spacing=size.spacing)
    posteriors, details = {}, {}
    for name in ("tmcmc", "npe", "npe_network"):
        begun = time.perf_counter()
        found = posteriors[name] = _calibrated(rat.problem, name, size, folder / start)
        mean, deviation = _moments(found.draws, found.log_weights)
        details[name] = {
            "mean": mean.tolist(),
            "standard deviation": deviation.tolist(),
            "seconds": time.perf_counter() - begun,
            "solves": found.cost.solves,
            "log_evidence": _number(found.log_evidence),
            "stats": {k: np.asarray(v).tolist() for k, v in found.stats.numbers().items()},
        }
    middle, width = (np.array(details["tmcmc"][key]) for key in ("mean", "standard deviation"))
    for name in ("npe", "npe_network"):
        mean, deviation = (np.array(details[name][key]) for key in ("mean", "standard deviation"))
        away = float(np.abs((mean - middle) / width).max())
        told = {"coordinates": NAMES, "truth": rat.z.tolist(), "tmcmc": details["tmcmc"], "npe": details[name]}
        records += [
            Record(f"{name}_rat_{start}_mean_error", away, "standard deviations", "<= 0.3", told),
            Record(f"{name}_rat_{start}_deviation_error", float(np.abs(deviation / width - 1).max()), "1", "<= 0.3"),
            Record(f"{name}_rat_{start}_truth_level", _level(rat, posteriors[name]), "1", "<= 0.9"),
        ]
    records.append(Record(f"npe_rat_{start}_seconds", details["npe"]["seconds"], "s"))
    records.append(Record(f"tmcmc_rat_{start}_seconds", details["tmcmc"]["seconds"], "s"))
    days = [day for day in DAYS if day > rat.day]
    told, truth = forecast(rat.problem, posteriors["npe"], days, begun=rat.begun), true_volumes(rat, days)
    # A difference of one voxel does not count as an error.
    voxel = float(rat.problem.anatomy.grid.voxel_volume)
    inside = float(np.mean((told.low - voxel <= truth) & (truth <= told.high + voxel)))
    details = {
        "days": days,
        "volumes of T1 and T2, mm3": told.mean.tolist(),
        "5 %": told.low.tolist(),
        "95 %": told.high.tolist(),
        "of the truth": truth.tolist(),
    }
    records.append(Record(f"npe_rat_{start}_volumes_in_band", inside, "1", "", details))
    return records


def coverage_records(size: Size = FULL, folder: Path | None = None) -> list[Record]:
    """Expected coverage over rats with truths drawn from the prior, each with a network of its own.

    The coverage is that of the region of highest density, with and without the correction, and of central intervals.
    The result of each subject is stored in a folder.
    """
    records = []
    for proposal, subjects in (("truncated", size.subjects), ("weighted", size.weighted_subjects)):
        method = NeuralPosterior(size.subject_rounds, size.subject_simulations, proposal, size.draws)
        found = [_subject(method, number, size, folder) for number in range(subjects)]
        stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
        levels = {
            "network": density_credibility(stacked["network_truth"], stacked["network_density"]),
            "corrected": density_credibility(
                stacked["corrected_truth"], stacked["corrected_density"], stacked["log_weights"]
            ),
        }
        central = {
            "network": central_credibility(ranks(stacked["truth"], stacked["network"])),
            "corrected": central_credibility(ranks(stacked["truth"], stacked["corrected"], stacked["log_weights"])),
        }
        for kind, level in levels.items():
            details = {
                "subjects": subjects,
                "rounds": size.subject_rounds,
                "simulations a round": size.subject_simulations,
                "mean seconds": float(stacked["seconds"].mean()),
                "effective draws": np.quantile(stacked["ess"], (0, 0.25, 0.5, 0.75, 1)).tolist(),
                "log density of the truth, mean, nat": float(stacked["network_truth"].mean()),
                # The first subjects of both proposals are the same, and can be compared one by one.
                "log density of the truth of each, nat": stacked["network_truth"].ravel().tolist(),
                "effective draws of each": stacked["ess"].ravel().tolist(),
                "levels": level.tolist(),
            }
            name = "npe" if (proposal, kind) == ("truncated", "corrected") else f"npe_{proposal}_{kind}"
            for nominal, target in ((50, "0.36 to 0.64"), (90, "0.8 to 0.98")):
                each = np.mean(central[kind] < nominal / 100, axis=0)
                more = {**details, "central intervals": dict(zip(NAMES, each.tolist(), strict=True))}
                value = float(np.mean(level < nominal / 100))
                records.append(Record(f"{name}_coverage_{nominal}", value, "1", target, more))
                records.append(Record(f"{name}_central_coverage_{nominal}", float(each.mean()), "1"))
    return records


def effort_records(size: Size = FULL) -> list[Record]:
    """Solves that NPE and TMCMC need for the posterior mean of one rat to the same error."""
    problem = synthetic_rat(0, spacing=size.spacing).problem
    best = NeuralPosterior(size.rounds, size.simulations, draws=size.reference)
    found = calibrate(problem, best, key=jax.random.key(100))
    middle, width = _moments(found.draws, found.log_weights)
    methods: dict[str, list[Any]] = {
        "npe": [NeuralPosterior(4, n, draws=4 * n) for n in size.budgets],
        "npe_network": [NeuralPosterior(4, n, draws=2000, corrected=False) for n in size.budgets],
        "tmcmc": [TMCMC(n) for n in size.populations],
    }
    curves = {}
    for name, some in methods.items():
        rows = []
        for method in some:
            errors, solves, begun = [], [], time.perf_counter()
            for seed in range(size.seeds):
                one = calibrate(problem, method, key=jax.random.key(seed))
                mean, _ = _moments(one.draws, one.log_weights)
                errors.append((mean - middle) / width)
                solves.append(one.cost.solves)
            error = float(np.sqrt(np.mean(np.square(errors))))
            rows.append((float(np.mean(solves)), error, (time.perf_counter() - begun) / size.seeds))
        curves[name] = rows
    return needed(curves, {"effective draws of the reference": found.stats.effective})


def needed(curves: dict[str, Any], more: dict[str, Any]) -> list[Record]:
    """The number of solves from which each method's error stays below a level; a bound if all runs are on one side.

    Parameters
    ----------
    curves
        For each method, (solves, error in standard deviations, seconds) of each run.
    more
        Further details for the records.
    """
    records = []
    for level in LEVELS:
        for name, rows in curves.items():
            value, bound = _solves_to(rows, level)
            details = {"bound": bound, "solves, error in standard deviations, seconds": curves, **more}
            records.append(Record(f"{name}_solves_for_{level}", value, "solves", "", details))
    return records


def _calibrated(problem: Problem, name: str, size: Size, folder: Path) -> Any:
    """Return the posteriors by the names of the methods; the two of the network share its rounds."""
    if name == "tmcmc":
        return calibrate(problem, TMCMC(size.particles), key=jax.random.key(0))
    rounds = str(folder.with_suffix(".npz"))
    corrected = name == "npe"
    method = NeuralPosterior(size.rounds, size.simulations, draws=size.draws, corrected=corrected, checkpoint=rounds)
    return calibrate(problem, method, key=jax.random.key(0))


def _subject(method: NeuralPosterior, number: int, size: Size, folder: Path | None) -> dict[str, np.ndarray]:
    """Return truth and draws for one rat, from the network and corrected, with log-densities at all of them."""
    shape = f"{method.rounds}x{method.simulations}-{size.draws}-{size.spacing:g}"
    # Results of other versions of the code are not used.
    file = None if folder is None else folder / code("neural_posterior") / f"{method.proposal}-{shape}-{number:03d}.npz"
    if file is not None and file.exists():
        with np.load(file) as stored:
            return dict(stored)
    rat = synthetic_rat(number, drawn=True, spacing=size.spacing)
    key, target, begun = jax.random.key(number), ProblemTarget(rat.problem), time.perf_counter()
    learnt = method.learn(ProblemSimulator.of(rat.problem), key)
    (plain,) = replace(method, corrected=False).draw(learnt, target, key).draws
    drawn = method.draw(learnt, target, key)
    (points,), (values,), log_weights = drawn.draws, drawn.log_likelihoods, np.zeros(size.draws)
    if drawn.log_weights is not None:
        (log_weights,) = drawn.log_weights
    found = {
        "truth": rat.z,
        "network": plain,
        "network_truth": learnt.mixture.log_prob(rat.z[None])[0],
        "network_density": learnt.mixture.log_prob(plain),
        "corrected": points,
        "corrected_truth": log_likelihoods(target, rat.z[None])[0] - 0.5 * np.sum(rat.z**2),
        "corrected_density": values - 0.5 * np.sum(points**2, axis=1),
        "log_weights": log_weights - logsumexp(log_weights),
        "ess": np.array(drawn.stats.effective),
        "seconds": np.array(time.perf_counter() - begun),
    }
    print(f"{method.proposal} proposals, rat {number + 1}: {float(found['seconds']):.0f} s", flush=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial.npz")
        np.savez(partial, **found)
        partial.replace(file)
    return {name: np.asarray(value) for name, value in found.items()}


def _moments(draws: Any, log_weights: Any) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(draws, float).reshape(-1, np.shape(draws)[-1])
    weights = np.exp(np.asarray(log_weights, float) - logsumexp(np.asarray(log_weights, float)))
    mean = weights @ points
    return mean, np.sqrt(weights @ (points - mean) ** 2)


def _level(rat: Rat, posterior: Any) -> float:
    """Return the level of the smallest region of highest density that contains the truth."""
    points = np.asarray(posterior.draws, float)[0]
    truth = _density(rat.problem, rat.z[None])
    density = np.asarray(posterior.log_likelihoods, float)[0] - 0.5 * np.sum(points**2, axis=1)
    if not posterior.stats.details["corrected"]:
        density = _density(rat.problem, points)
    return float(density_credibility(truth, density[None], np.asarray(posterior.log_weights, float)[None])[0])


def _density(problem: Problem, points: np.ndarray) -> np.ndarray:
    return log_likelihoods(ProblemTarget(problem), points) - 0.5 * np.sum(points**2, axis=1)


def _solves_to(rows: Sequence[Sequence[float]], level: float) -> tuple[float, str]:
    """Return the number of solves from which errors stay below a level, and the kind of bound that it is.

    Between the last run above the level and the next, the number is interpolated logarithmically. If all runs are below
    the level, it is "at most" the smallest number; if the largest run is above it, it is "more than" that number.
    """
    solves, errors = (np.array([row[i] for row in sorted(rows, key=lambda row: row[0])]) for i in (0, 1))
    above = np.flatnonzero(errors > level)
    if not above.size:
        return float(solves[0]), "at most"
    last = int(above[-1])
    if last == len(solves) - 1:
        return float(solves[last]), "more than"
    ends = slice(last, last + 2)
    # Interpolation wants abscissae that rise; errors fall.
    share = np.interp(-np.log(level), -np.log(errors[ends]), np.log(solves[ends]))
    return float(np.exp(share)), ""


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(float(value)) else None
