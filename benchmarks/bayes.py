"""Bayesian calibration: known posteriors, coverage, the published model of 11 parameters, and time."""

import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from benchmarks.patients import DATA, available, images, sri24
from benchmarks.record import Record
from benchmarks.simulated import brain, simulated
from tests.problems import patient
from tests.targets import Banana, Gaussian, TwoModes
from tumorjax import LBFGS, Prior, Problem, calibrate
from tumorjax.calibration import published_observations, published_prior
from tumorjax.calibration.coverage import central_credibility, ranks, uniformity
from tumorjax.methods.sampling import NUTS, TMCMC, Importance, Metropolis
from tumorjax.methods.sampling.target import ProblemTarget, log_likelihoods
from tumorjax.observation import independent_voxels
from tumorjax.patient import load_patient
from tumorjax.pipeline.problems import problem_of

# Margin around a lesion in which samplers simulate, mm.
_MARGIN = 20.0


def run(size: str) -> list[Record]:
    """All figures; `small` uses few particles and seeds, and leaves out the figures that take minutes."""
    small = size == "small"
    records = known_targets(2 if small else 20, 256 if small else 2048)
    if small:
        return records
    records += quadrature() + coverage(100) + correlated(40) + effort()
    return records + timing(4) + timing(2) + eleven_parameters()


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


def coverage(count: int) -> list[Record]:
    """Coverage of intervals and uniformity of ranks for patients at 4 mm drawn from prior and likelihood."""
    anatomy = brain(4)
    return _coverage([simulated(anatomy, seed) for seed in range(count)], "")


def correlated(count: int, length: float = 8.0) -> list[Record]:
    """Outlines with correlated errors, with every voxel counted as independent or with the effective number."""
    anatomy = brain(4)
    records = []
    for name, tempered in (("correlated_counted_as_independent", False), ("correlated_tempered", True)):
        patients = []
        for seed in range(count):
            one = simulated(anatomy, seed, correlation=length)
            if tempered:
                observations = {
                    name: replace(o, effective_voxels=independent_voxels(o.image, anatomy.grid, length))
                    for name, o in one.problem.observations.items()
                }
                one = replace(one, problem=replace(one.problem, observations=observations))
            patients.append(one)
        records += [replace(r, target="") for r in _coverage(patients, f"_{name}")]
    return records


def _coverage(patients: list[Any], suffix: str) -> list[Record]:
    """Draw from each posterior by particles that start from its Laplace approximation, and compare with the truths."""
    truths, draws, stages, begun = [], [], [], time.perf_counter()
    for number, one in enumerate(patients):
        middle = one.problem.prior.constrain(np.zeros(one.z.size, np.float32))
        method = TMCMC(128, steps=4, start=LBFGS(starts=(middle,), coarsening=1))
        found = calibrate(one.problem, method, key=jax.random.key(number))
        truths.append(one.z)
        draws.append(np.asarray(found.draws, float)[0])
        stages.append(found.stats.details["stages"])
    names = patients[0].problem.prior.names
    details = {
        "parameters": names,
        "patients": len(patients),
        "voxels": list(patients[0].problem.anatomy.grid.shape),
        "seconds": time.perf_counter() - begun,
        "mean stages": float(np.mean(stages)),
    }
    rank = ranks(np.array(truths), np.array(draws))
    records = []
    for level, target in ((0.5, "0.4 to 0.6"), (0.9, "0.84 to 0.96")):
        each = np.mean(central_credibility(rank) < level, axis=0)
        name = f"coverage_{round(100 * level)}{suffix}"
        records.append(Record(name, float(each.mean()), "1", target, {**details, "each": each.tolist()}))
    p = uniformity(rank)
    details = {"parameters": names, "each": p.tolist()}
    return [*records, Record(f"sbc_smallest_p{suffix}", float(p.min()), "1", "> 0.01", details)]


def effort() -> list[Record]:
    """Effective draws per second and per solve, for every sampler on one simulated patient at 4 mm."""
    one = simulated(brain(4), 0)
    middle = one.problem.prior.constrain(np.zeros(one.z.size, np.float32))
    start = LBFGS(starts=(middle,), coarsening=1)
    methods: dict[str, Any] = {
        "tmcmc": TMCMC(particles=512),
        "nuts": NUTS(chains=4, draws=100, warmup=50, start=start),
        "metropolis": Metropolis(chains=4, draws=500, burn_in=250, start=start),
        "importance": Importance(1000, start=start),
    }
    records = []
    for name, method in methods.items():
        calibrate(one.problem, replace(method, **_shortest(name)), key=jax.random.key(0))
        begun = time.perf_counter()
        found = calibrate(one.problem, method, key=jax.random.key(1))
        seconds = time.perf_counter() - begun
        stats = found.stats
        # The chains of TMCMC are short: what the weights of the last stage leave is an upper bound.
        stages = stats.ladder.get("effective draws")
        effective = float(stages[-1]) if stages else stats.effective or float(np.min(stats.ess))
        solves = stats.cost.solves
        details = {"seconds": seconds, "effective draws": effective, "solves or gradients": solves}
        records.append(Record(f"{name}_effective_draws_a_second", effective / seconds, "1/s", "", details))
        records.append(Record(f"{name}_effective_draws_a_solve", effective / solves, "1"))
    return records


def timing(spacing: int) -> list[Record]:
    """2048 particles, and NUTS with 4 chains of 500 draws, on a patient with a T1 image."""
    problem = real_problem(spacing)
    if problem is None:
        return []
    shape = {"voxels": list(problem.anatomy.grid.shape), "unknowns": problem.prior.size}
    methods: dict[str, Any] = {f"tmcmc_2048_{spacing}mm": TMCMC(screen=2 if spacing == 2 else None)}
    if spacing == 4:
        methods["nuts_4x500_4mm"] = NUTS(chains=4, draws=500)
    targets = {"tmcmc_2048_4mm": "<= 360", "tmcmc_2048_2mm": "<= 3600", "nuts_4x500_4mm": "<= 1200"}
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
        records.append(Record(f"{name}_seconds", found.stats.cost.seconds, "s", targets[name], details))
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


def _shortest(name: str) -> dict[str, Any]:
    """Settings with which a method compiles its programs, and does little else."""
    return {
        "tmcmc": {"particles": 32, "steps": 1},
        "nuts": {"chains": 4, "draws": 4, "warmup": 20},
        "metropolis": {"draws": 4, "burn_in": 0},
        "importance": {"count": 20},
    }[name]
