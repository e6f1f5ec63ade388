"""Bayesian calibration: known posteriors, coverage, the published model of 11 parameters, and time."""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np

from benchmarks.cohorts import folder
from benchmarks.patients import DATA, available, images, sri24
from benchmarks.record import Record, code, kept
from benchmarks.simulated import WRONG, brain, prior, simulated
from tests.problems import patient
from tests.targets import Banana, Gaussian, TwoModes
from tumorjax import LBFGS, Anatomy, Prior, Problem, SurfaceErrors, calibrate
from tumorjax.calibration import published_observations, published_prior
from tumorjax.calibration.coverage import central_credibility, ranks, uniformity
from tumorjax.methods.sampling import NUTS, TMCMC, Importance, Metropolis
from tumorjax.methods.sampling.target import ProblemTarget, log_likelihoods
from tumorjax.patient import load_patient
from tumorjax.pipeline.problems import problem_of

# Margin around a lesion in which samplers simulate, mm.
_MARGIN = 20.0
# Voxels (mm) of simulated patients, and draws from the posterior of each.
_SPACING, _DRAWS = 4, 256
# First seed of patients: others than those on which the errors of models are measured, which are below it.
_FIRST = 1000

MODEL_ERROR = SurfaceErrors(model_deviation=2.3, model_length=11.0)
"""Errors of outlines where the model may be wrong: the largest of the three kinds (`python -m benchmarks readers`)."""


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")


def run(size: str, parts: list[str] | None = None) -> list[Record]:
    """All figures, or those of some parts; `small` uses few particles and seeds, and leaves out what takes minutes.

    Each part is kept in the folder of cohorts, and each patient within it, so that a run that was stopped goes on, and
    one of all parts collects what others have measured.
    """
    if size == "small":
        return known_targets(2, 256)
    found = []
    for name in PARTS if parts is None else parts:
        file = folder() / "bayes" / f"part_{name}.json"
        measured = kept(
            file, code("bayes", "simulated"), lambda name=name: {"records": [asdict(r) for r in PARTS[name]()]}
        )
        found += [Record(**record) for record in measured["records"]]
    return found


def known_targets(seeds: int, particles: int) -> list[Record]:
    """Errors of TMCMC over seeds for targets with known evidence, mean and covariance."""
    targets = {
        "gaussian": Gaussian(5),
        "banana": Banana(3),
        "two_modes": TwoModes(2),
        "two_modes_unequal": TwoModes(2, share=0.2),
    }
    records, all_errors = [], []
    for name, target in targets.items():
        drawn = [TMCMC(particles=particles).draw(target, jax.random.key(seed)) for seed in range(seeds)]
        errors = np.array([one.log_evidence - target.log_evidence for one in drawn])
        means = np.array([one.draws[0].mean(axis=0) for one in drawn])
        # The standard deviation over seeds is the standard error of one run; that of their mean is smaller by a root.
        error = np.abs(means.mean(axis=0) - target.mean) / (means.std(axis=0, ddof=1) / np.sqrt(seeds))
        spread = np.array([one.draws[0].var(axis=0) for one in drawn])
        wrong = np.abs(spread.mean(axis=0) - np.diag(target.covariance)) / (spread.std(axis=0, ddof=1) / np.sqrt(seeds))
        all_errors.append(np.abs(errors).mean())
        details = {
            "bias, nat": float(errors.mean()),
            "standard deviation over seeds, nat": float(errors.std(ddof=1)),
            "largest, nat": float(np.abs(errors).max()),
            "seeds": seeds,
            "particles": particles,
            "mean, in standard errors": error.tolist(),
            "variances, in standard errors": wrong.tolist(),
        }
        records.append(Record(f"{name}_evidence_error_nats", float(np.abs(errors).mean()), "nat", "<= 0.1", details))
        records.append(Record(f"{name}_worst_moment", float(max(error.max(), wrong.max())), "standard errors", "<= 3"))
    return [Record("evidence_error_nats", float(max(all_errors)), "nat", "<= 0.1"), *records]


def quadrature(points: int = 21) -> list[Record]:
    """A tumour with three unknowns: TMCMC and NUTS against numerical integration over the prior's coordinates."""
    problem = _three_unknowns()
    start = calibrate(problem, LBFGS(starts=1, coarsening=1))
    centre = np.asarray(start.coordinates, float)
    widths, axes = np.linalg.eigh(np.asarray(start.covariance, float))
    steps = np.linspace(-4.5, 4.5, points)
    grid = np.stack(np.meshgrid(*3 * [steps], indexing="ij"), axis=-1).reshape(-1, 3)
    z = centre + (grid * np.sqrt(widths)) @ axes.T
    density = log_likelihoods(ProblemTarget(problem), z) - 0.5 * np.sum(z**2, axis=1)
    weights = np.exp(density - density.max())
    cell = float((steps[1] - steps[0]) ** 3 * np.sqrt(widths).prod())
    log_evidence = float(np.log(weights.sum() * cell) + density.max() - 1.5 * np.log(2 * np.pi))
    weights /= weights.sum()
    mean = weights @ z
    deviation = np.sqrt(weights @ (z - mean) ** 2)
    methods: dict[str, Any] = {
        "tmcmc": TMCMC(particles=1024),
        "nuts": NUTS(chains=4, draws=250, start=LBFGS(starts=1, coarsening=1)),
    }
    records = []
    for name, method in methods.items():
        found = calibrate(problem, method, key=jax.random.key(1))
        draws = np.asarray(found.draws, float).reshape(-1, 3)
        details = {
            "coordinates": problem.prior.names,
            "mean": draws.mean(axis=0).tolist(),
            "of the quadrature": mean.tolist(),
            "standard deviations": draws.std(axis=0).tolist(),
            "standard deviations of the quadrature": deviation.tolist(),
        }
        away = float(np.abs((draws.mean(axis=0) - mean) / deviation).max())
        records.append(Record(f"quadrature_{name}_mean_error", away, "standard deviations", "", details))
        wide = float(np.abs(draws.std(axis=0) / deviation - 1).max())
        records.append(Record(f"quadrature_{name}_deviation_error", wide, "1"))
        if name == "tmcmc":
            records.append(
                Record("quadrature_tmcmc_evidence_error", float(found.log_evidence) - log_evidence, "nat", "<= 0.1")
            )
    return records


def own_model(count: int = 200) -> list[Record]:
    """Coverage of intervals and uniformity of ranks for patients at 4 mm drawn from prior and likelihood."""
    found = _posteriors("own", count, None)
    rank, names, details = _ranks(found), prior().names, _details(found)
    records = [
        _covered(rank, names, level, "", target, details)
        for level, target in ((0.5, "0.45 to 0.55"), (0.9, "0.87 to 0.93"))
    ]
    p = uniformity(rank)
    details = {"parameters": names, "each": p.tolist()}
    return [*records, Record("sbc_smallest_p", float(p.min()), "1", ">= 0.05", details)]


def correlated(count: int = 60) -> list[Record]:
    """Outlines whose surfaces readers displace: every voxel counted as independent, and by the errors of readers."""
    records = []
    for suffix, errors, targets in (
        ("_correlated_counted_as_independent", None, ("", "")),
        ("_correlated", SurfaceErrors(), ("0.42 to 0.60", "0.85 to 0.95")),
    ):
        # What comes of counting all voxels is seen on few patients.
        found = _posteriors("correlated", count if errors else count // 3, errors)
        for level, target in zip((0.5, 0.9), targets, strict=True):
            records.append(_covered(_ranks(found), prior().names, level, suffix, target, _details(found)))
    return records


def wrong_model(count: int = 30) -> list[Record]:
    """Tumours that the fitted model does not know, with and without the error of the model in the likelihood."""
    records = []
    for suffix, errors in (("_without_model_error", SurfaceErrors()), ("", MODEL_ERROR)):
        ranks_of = {}
        for kind in WRONG:
            found = _posteriors(kind, count, errors)
            ranks_of[kind] = _ranks(found)
            for level in (0.5, 0.9):
                name = f"_wrong_model_{kind}{suffix}"
                records.append(_covered(ranks_of[kind], prior().names, level, name, "", _details(found)))
        together = np.concatenate(list(ranks_of.values()))
        for level, target in ((0.5, ""), (0.9, ">= 0.80" if errors is MODEL_ERROR else "")):
            name = f"_wrong_model{suffix}"
            details = {"patients": len(together), "kinds": list(WRONG), "errors": repr(errors)}
            records.append(_covered(together, prior().names, level, name, target, details))
    return records


def _posteriors(kind: str, count: int, errors: SurfaceErrors | None) -> list[dict[str, Any]]:
    """Return truths and draws of patients; each is kept in a file, so that a run that was stopped goes on."""
    anatomy = brain(_SPACING)
    name = "_".join((kind, *(() if errors is None else (f"{number:g}" for number in vars(errors).values()))))
    found = []
    for seed in range(_FIRST, _FIRST + count):
        file = folder() / "bayes" / f"{name}_{seed}.json"
        found.append(kept(file, code("bayes", "simulated"), lambda seed=seed: _posterior(anatomy, seed, kind, errors)))
        if len(found) % 10 == 0:
            print(f"{name}: {len(found)} of {count} patients", flush=True)
    return found


def _posterior(anatomy: Anatomy, seed: int, kind: str, errors: SurfaceErrors | None) -> dict[str, Any]:
    """Return the truth of a patient, and weighted draws from the posterior about its Laplace approximation."""
    begun = time.perf_counter()
    one = simulated(anatomy, seed, kind, errors)
    middle = one.problem.prior.constrain(np.zeros(one.z.size, np.float32))
    method = Importance(_DRAWS, start=LBFGS(starts=(middle,), coarsening=1))
    found = calibrate(one.problem, method, key=jax.random.key(seed))
    log_weights = np.asarray(found.log_weights, float).ravel()
    draws = np.asarray(found.draws, float).reshape(len(log_weights), -1)
    return {
        "truth": one.z.tolist(),
        "draws": np.round(draws, 5).tolist(),
        "log_weights": np.round(log_weights, 5).tolist(),
        "effective": float(found.stats.effective),
        "failed": int(found.stats.failed),
        "effective_voxels": {n: float(o.weight * o.size) for n, o in one.problem.observations.items()},
        "seconds": time.perf_counter() - begun,
    }


def _ranks(found: list[dict[str, Any]]) -> np.ndarray:
    """Return the ranks of the truths (patients, parameters); draws of no weight were left out, and are filled up."""
    most = max(len(one["log_weights"]) for one in found)
    truths = np.array([one["truth"] for one in found])
    draws, log_weights = np.zeros((len(found), most, truths.shape[1])), np.full((len(found), most), -np.inf)
    for i, one in enumerate(found):
        draws[i, : len(one["draws"])], log_weights[i, : len(one["draws"])] = one["draws"], one["log_weights"]
    return ranks(truths, draws, log_weights)


def _details(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how the posteriors were found."""
    effective = [one["effective"] for one in found]
    worth = [list(one["effective_voxels"].values()) for one in found]
    return {
        "patients": len(found),
        "draws": _DRAWS,
        "effective draws, median and least": [float(np.median(effective)), float(np.min(effective))],
        "failed solves": sum(one["failed"] for one in found),
        "independent voxels of an outline, median": float(np.median(worth)),
        "seconds": sum(one["seconds"] for one in found),
    }


def _covered(
    rank: np.ndarray, names: list[str], level: float, suffix: str, target: str, details: dict[str, Any]
) -> Record:
    """Return how often central intervals hold the truth: the mean over the parameters that have one."""
    # The sharpness of displaced outlines is no number of the truth.
    known = [i for i, name in enumerate(names) if suffix == "" or "sharpness" not in name]
    each = np.mean(central_credibility(rank[:, known]) < level, axis=0)
    told = {**details, "parameters": [names[i] for i in known], "each": each.tolist()}
    return Record(f"coverage_{round(100 * level)}{suffix}", float(each.mean()), "1", target, told)


def effort() -> list[Record]:
    """Effective draws per second and per solve, for every sampler on one simulated patient at 4 mm."""
    one = simulated(brain(4), 0)
    middle = one.problem.prior.constrain(np.zeros(one.z.size, np.float32))
    records = []
    for name, (method, short) in samplers(LBFGS(starts=(middle,), coarsening=1)).items():
        calibrate(one.problem, short, key=jax.random.key(0))
        begun = time.perf_counter()
        found = calibrate(one.problem, method, key=jax.random.key(1))
        seconds = time.perf_counter() - begun
        stats = found.stats
        # The chains of TMCMC are short: what the weights of the last stage leave is an upper bound.
        stages = stats.ladder.get("effective draws")
        effective = float(stages[-1]) if stages else stats.effective or float(np.min(stats.ess))
        solves = stats.cost.solves
        details = {"seconds": seconds, "effective draws": effective, "solves or gradients": solves}
        target = ">= 2" if name == "nuts" else ""
        records.append(Record(f"{name}_effective_draws_per_second", effective / seconds, "1/s", target, details))
        records.append(Record(f"{name}_effective_draws_a_solve", effective / solves, "1"))
    return records


def timing(spacing: int) -> list[Record]:
    """2048 particles from the prior or from the Laplace approximation, and NUTS, on a patient with a T1 image."""
    problem = real_problem(spacing)
    if problem is None:
        return []
    shape = {"voxels": list(problem.anatomy.grid.shape), "unknowns": problem.prior.size}
    methods: dict[str, Any] = {f"tmcmc_2048_{spacing}mm": TMCMC(screen=2 if spacing == 2 else None)}
    if spacing == 4:
        methods["tmcmc_2048_4mm_from_laplace"] = TMCMC(start=LBFGS())
        methods["nuts_4x500_4mm"] = NUTS(chains=4, draws=500)
    targets = {"tmcmc_2048_4mm": "<= 100", "tmcmc_2048_2mm": "<= 3600", "nuts_4x500_4mm": "<= 1200"}
    records = []
    for name, method in methods.items():
        found = calibrate(problem, method, key=jax.random.key(0))
        details = {
            **shape,
            "coordinates": problem.prior.names,
            "means": np.asarray(found.draws, float).reshape(-1, problem.prior.size).mean(axis=0).tolist(),
            "standard deviations": np.sqrt(np.diag(np.asarray(found.covariance, float))).tolist(),
            "log_evidence": float(found.log_evidence),
            "stats": {k: np.asarray(v).tolist() for k, v in found.stats.numbers().items()},
        }
        # That of the search around which the draws began is part of it.
        records.append(Record(f"{name}_seconds", found.cost.seconds, "s", targets.get(name, ""), details))
    return records


def eleven_parameters() -> list[Record]:
    """Table II of the dissertation's chapter 5, numerical solver: the best of 11 parameters with FET PET at 4 mm.

    The search uses the adjoint from four starts. Every voxel counts as independent there, which makes the posterior so
    narrow that particles need some thirty stages to reach it.
    """
    if not available("patient with FET"):
        return []
    pet = DATA / "patient_fet" / "fet.nii.gz"
    problem = problem_of(load_patient(**images("patient_fet"), **sri24(), pet=pet, resolution=4.0))
    observations = published_observations(problem.observations)
    problem = replace(problem, observations=observations, prior=published_prior(problem.anatomy, observations))
    problem = problem.around(_MARGIN)
    begun = time.perf_counter()
    found = calibrate(problem, LBFGS(coarsening=1))
    best, spread = found.params, found.standard_deviations()
    pet = observations["pet"]
    top = float(np.max(np.asarray(pet.image)[np.asarray(pet.valid)]))
    rows: dict[str, Any] = {
        "D_w, mm2/day": (best.growth.diffusivity, spread.growth.diffusivity),
        "rho, 1/day": (best.growth.proliferation, spread.growth.proliferation),
        "T, day": (best.growth.duration, spread.growth.duration),
        "x y z, mm": (best.growth.origin, spread.growth.origin),
        "u_T1c": (best.observations["core"].threshold, spread.observations["core"].threshold),
        "u_FLAIR": (best.observations["lesion"].threshold, spread.observations["lesion"].threshold),
        "sharpness, 1 / sigma_alpha": (best.observations["core"].sharpness, spread.observations["core"].sharpness),
        "b, of the largest signal": (best.observations["pet"].scale / top, spread.observations["pet"].scale / top),
        "sigma, of the largest signal": (best.observations["pet"].noise / top, spread.observations["pet"].noise / top),
    }
    details = {name: [np.asarray(value).tolist(), np.asarray(width).tolist()] for name, (value, width) in rows.items()}
    details |= {"seconds": time.perf_counter() - begun, "result": found.result.value}
    return [Record("eleven_parameters_objective", found.stats.objective, "nat", "", details)]


def real_problem(spacing: int) -> Problem | None:
    """The patient with MRI in the box of the lesion; None without the data."""
    if not available("patient with MRI"):
        return None
    return problem_of(load_patient(**images("patient_mri"), resolution=float(spacing))).around(_MARGIN)


def _three_unknowns() -> Problem:
    """The small patient of the tests, with only mu1, mu2 and one threshold unknown."""
    problem = patient(dtype=np.float32)
    known = problem.prior.constrain(np.zeros(problem.prior.size))
    unknown = problem.prior.distributions
    growth = replace(unknown.growth, origin=np.array([-12.0, -6.0, 5.0]))
    outlines = {
        "core": replace(unknown.observations["core"], threshold=known.observations["core"].threshold, sharpness=4.0),
        "lesion": replace(unknown.observations["lesion"], sharpness=4.0),
    }
    return replace(problem, prior=Prior(replace(unknown, growth=growth, observations=outlines)))


def samplers(start: LBFGS) -> dict[str, tuple[Any, Any]]:
    """Return the samplers of `effort`, and each as it compiles its programs and does little else."""
    nuts = NUTS(chains=4, draws=100, warmup=50, start=start)
    walk = Metropolis(chains=4, draws=500, burn_in=250, start=start)
    return {
        "tmcmc": (TMCMC(particles=512), TMCMC(particles=32, steps=1)),
        # The length of the warm-up is a part of the program.
        "nuts": (nuts, replace(nuts, draws=4)),
        "metropolis": (walk, replace(walk, draws=4, burn_in=0)),
        "importance": (Importance(1000, start=start), Importance(20, start=start)),
    }


PARTS: dict[str, Callable[[], list[Record]]] = {
    "known_targets": lambda: known_targets(20, 2048),
    "quadrature": quadrature,
    "own_model": own_model,
    "correlated": correlated,
    "wrong_model": wrong_model,
    "effort": effort,
    "timing_4mm": lambda: timing(4),
    "timing_2mm": lambda: timing(2),
    "eleven_parameters": eleven_parameters,
}
