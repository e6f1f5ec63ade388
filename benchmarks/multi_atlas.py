"""The inversion of one scan with mass effect: the tables of the multi-atlas paper, on patients whose truth is known.

Patients are grown on voxels half as long as those of the inversion, in the ICBM152 brain; its T1 image and its fluid
move with the tumour. Atlases of the unknown anatomy are that brain under random diffeomorphisms, aligned with the
patient's T1 image by registration, the tumour masked.

`python -m benchmarks multi_atlas --json benchmarks/results/multi_atlas.json` measures all of it, in many hours on two
cores. The result of each part is stored beside the cohorts, so that the same command continues after an interruption; a
part is measured again if the code has changed. Names state the voxel size, and the cases that a mean is over.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cohorts import folder
from benchmarks.displaced import WIDTH, Patient, aligned, patient, problem_of, scaled
from benchmarks.mass_effect import CASES, VOXEL, YEAR
from benchmarks.record import Record, code, kept
from tumorjax import (
    Anatomy,
    GaussianBasis,
    MassEffectParams,
    MultiAtlas,
    Prior,
    Problem,
    Solution,
    calibrate,
    simulate,
)
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.calibration.evaluation import evaluate, fields, value_and_gradient
from tumorjax.calibration.quasi_newton import answer, search
from tumorjax.calibration.scoring import scoring
from tumorjax.methods.multi_atlas.sparse import SparseOrigin

# Rows in the paper: table 1 with the true and the inverted seed, table S2 with unknown anatomy (atlases 1 to 3).
PUBLISHED_TRUE = {
    "a": dict(gamma=4.44e-6, rho=2.26e-3, kappa=2.76e-3, displacement=4.63e-4, tumour=3.28e-3),
    "b": dict(gamma=1.50e-3, rho=2.69e-3, kappa=1.39e-2, displacement=7.27e-4, tumour=3.52e-3),
    "c": dict(gamma=1.32e-3, rho=2.50e-5, kappa=2.14e-4, displacement=1.49e-3, tumour=7.18e-4),
    "d": dict(gamma=2.17e-4, rho=1.00e-5, kappa=3.12e-4, displacement=4.61e-4, tumour=3.35e-4),
}
PUBLISHED_INVERTED = {
    "a": dict(gamma=2.95e-3, rho=1.63e-1, kappa=2.08e-1, displacement=2.86e-1, tumour=2.42e-1),
    "b": dict(gamma=5.29e-2, rho=1.29e-1, kappa=1.94e-1, displacement=4.93e-3, tumour=2.12e-1),
    "c": dict(gamma=3.54e-2, rho=1.39e-1, kappa=2.55e-1, displacement=1.46e-2, tumour=1.65e-1),
    "d": dict(gamma=1.46e-2, rho=1.59e-1, kappa=2.16e-1, displacement=3.78e-2, tumour=1.88e-1),
}
PUBLISHED_UNKNOWN = {
    "a": dict(displacement=(11.2, 5.39, 16.9), tumour=(0.476, 0.436, 0.484)),
    "b": dict(displacement=(0.240, 0.266, 0.876), tumour=(0.385, 0.342, 0.399)),
    "c": dict(displacement=(0.106, 0.275, 0.490), tumour=(0.318, 0.287, 0.356)),
    "d": dict(displacement=(0.121, 0.200, 0.239), tumour=(0.337, 0.304, 0.279)),
}
ROWS = ("gamma", "rho", "kappa", "displacement", "displacement_field", "tumour")
TARGETS = {"rho": "<= 0.08", "kappa": "<= 0.12", "displacement": "<= 0.02", "tumour": "<= 0.1"}

# Typical difference (mm) between the brains of different people after an affine alignment.
_MAGNITUDE, _SMOOTHNESS = 4.0, 15.0
_SEEDS = (1, 2, 3)

PARTS = ("known", "unknown", "same-voxels", "ablation", "searches")
"""The parts of the benchmark that can be measured separately."""


def add_arguments(parser: Any) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help="all, or some of a, b, c and d")
    parser.add_argument(
        "--resolution", type=int, choices=(2, 4), metavar="MM", help="voxels of the tables, 2 (default) or 4"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"all, or some of {', '.join(PARTS)}")


def run(
    size: str,
    cases: Sequence[str] | None = None,
    resolution: int | None = None,
    parts: Sequence[str] | None = None,
) -> list[Record]:
    """All tables; `small` inverts one case on voxels of 8 mm, with the true seed."""
    if size == "small":
        return known_anatomy("c", 8, inverted=False)
    chosen, spacing, place = list(cases or CASES), resolution or 2, folder() / "multi-atlas"
    measured: dict[str, Callable[[], list[Record]]] = {}
    for part in parts or PARTS:
        measured |= pieces(part, chosen, spacing)
    by, records = code("multi_atlas", "displaced", "mass_effect"), []
    for name, measure in measured.items():

        def found(measure: Callable[[], list[Record]] = measure) -> dict[str, Any]:
            return {"records": [asdict(record) for record in measure()]}

        records += [Record(**each) for each in kept(place / f"{name}.json", by, found)["records"]]
    return records + summary(records)


def pieces(part: str, cases: Sequence[str], spacing: int) -> dict[str, Callable[[], list[Record]]]:
    """Return the units of measurement, each stored by itself, by name; units that two parts share have one name."""
    one = functools.partial
    if part == "known":
        return {f"{spacing}mm_{name}_known": one(known_anatomy, name, spacing) for name in cases}
    if part == "unknown":
        return {f"{spacing}mm_{name}_unknown": one(unknown_anatomy, name, spacing) for name in cases}
    if part == "same-voxels":
        return {"4mm_c_same_voxels": one(known_anatomy, "c", 4, finer=1)}
    if part == "searches":
        return {"4mm_c_searches": one(searches, "c", 4)}
    # What each part brings, for the case d: the joint refinement, and the fluid.
    return {
        "4mm_d_unknown": one(unknown_anatomy, "d", 4),
        "4mm_d_unknown_without_refinement": one(unknown_anatomy, "d", 4, refine=False),
        "4mm_d_unknown_without_fluid": one(unknown_anatomy, "d", 4, fluid=False),
    }


def known_anatomy(name: str, spacing: int, *, inverted: bool = True, finer: int = 2) -> list[Record]:
    """Table 1: the healthy anatomy is known; the seed is known or inverted."""
    one = patient(name, spacing, finer)
    problem = problem_of(one)
    method = MultiAtlas((one.healthy,), coarsening=2 if spacing < 4 else 1, budget=25)
    records = []
    places = np.repeat(np.asarray(one.truth.growth.origin.centres, float), method.sparsity, axis=0)
    heights = np.r_[1.0, np.full(method.sparsity - 1, 1e-3)]
    true = SparseOrigin(GaussianBasis(places, heights, WIDTH, unit_peak=True), np.zeros(2), 0.0)
    runs: dict[str, Any] = {"true_seed": lambda: replace(method, refine=False).fit(problem, [true], 0, _quiet)}
    if inverted:
        runs["inverted_seed"] = lambda: calibrate(problem, method)
    for label, invert in runs.items():
        begun = time.perf_counter()
        found = invert()
        seconds = time.perf_counter() - begun
        errors, details = _errors(one, *_grown(one, found.samples, 0, one.healthy))
        details |= {"seconds": seconds, "stats": _plain(found.stats)}
        published = (PUBLISHED_TRUE if label == "true_seed" else PUBLISHED_INVERTED)[name]
        for row, value in errors.items():
            target = "<= 0.01" if label == "true_seed" else TARGETS.get(row, "")
            shared = details if row == "tumour" else {}
            which = f"{spacing}mm_{name}" if finer > 1 else f"{spacing}mm_{name}_same_voxels"
            told = {"published": published.get(row), **shared}
            records.append(Record(f"{which}_{label}_{row}_error", value, "1", target, told))
    return records


def unknown_anatomy(name: str, spacing: int, *, fluid: bool = True, refine: bool = True) -> list[Record]:
    """Tables 2 and S2: neither the seed nor the healthy anatomy is known; three atlases replace the anatomy."""
    one = patient(name, spacing)
    images = [
        deformed_atlas(load_atlas("icbm152"), seed, magnitude=_MAGNITUDE, smoothness=_SMOOTHNESS) for seed in _SEEDS
    ]
    begun = time.perf_counter()
    atlases, carries = zip(*(aligned(one, atlas) for atlas, _ in images), strict=True)
    registered = time.perf_counter() - begun
    method = MultiAtlas(
        tuple(atlases), carry=tuple(carries), coarsening=2 if spacing < 4 else 1, refine=refine, budget=25
    )
    found = calibrate(problem_of(one, fluid=fluid), method)
    seconds = time.perf_counter() - begun
    solutions = [_grown(one, found.samples, i, atlas) for i, atlas in enumerate(atlases)]
    each = [_errors(one, growth, solution) for growth, solution in solutions]
    kind = f"{spacing}mm_{name}_unknown_anatomy"
    kind += ("" if fluid else "_without_fluid") + ("" if refine else "_without_refinement")
    records = []
    for row in each[0][0]:
        values = [errors[row] for errors, _ in each]
        details: dict[str, Any] = {"atlases": values, "published": PUBLISHED_UNKNOWN[name].get(row)}
        if row == "tumour":
            weights = np.exp(np.asarray(found.log_weights, float)).tolist()
            details |= {"seconds": seconds, "seconds of registration": registered, "weights": weights}
            details |= {"stats": _plain(found.stats), "largest displacement, voxels": [d["largest"] for _, d in each]}
            # Signed errors, to distinguish too small from too large.
            details["T rho, T kappa, gamma"] = [d["T rho, T kappa, gamma"] for _, d in each]
        target = {"displacement": "<= 0.12", "tumour": "<= 0.2"}.get(row, "")
        records.append(Record(f"{kind}_{row}_error", float(np.mean(values)), "1", target, details))
    # The result for a user is the mean over the atlases.
    density, displacement = (
        np.mean([np.asarray(getattr(solution, field)) for _, solution in solutions], axis=0)
        for field in ("density", "displacement")
    )
    of_the_mean = field_errors(one, density, displacement)
    # If fields point in different directions, the size of their mean may be right by chance.
    del of_the_mean["displacement"]
    for row, value in of_the_mean.items():
        records.append(Record(f"{kind}_{row}_error_of_the_mean", value, "1"))
    return [*records, Record(f"{kind}_seconds", seconds, "s", "<= 900")]


def searches(name: str, spacing: int) -> list[Record]:
    """S.3 with the true seed by three methods, from the same start to within one nat of the same misfit.

    The methods are L-BFGS with gradients by finite differences, as in the paper; L-BFGS with the adjoint; and Fisher
    scoring.
    """
    one = patient(name, spacing)
    problem = problem_of(one)
    basis = GaussianBasis(one.truth.growth.origin.centres, np.ones(1), WIDTH)
    unknown = eqx.tree_at(lambda p: p.growth.growth.origin, problem.prior.distributions, basis)
    problem = replace(problem, anatomy=one.healthy, prior=Prior(unknown))
    start = np.array([0.0, 0.0, -1.0])
    settings = {"budget": 60, "gradient_tolerance": 0.02, "value_tolerance": 0.05}

    def differences(point: np.ndarray, step: float = 0.02) -> tuple[float, np.ndarray]:
        values = [_objective(problem, point + shift) for shift in step * np.vstack([np.zeros(3), np.eye(3)])]
        return values[0], (np.array(values[1:]) - values[0]) / step

    methods: dict[str, Any] = {
        "finite_differences": (search(start, **settings), differences, 4),
        "adjoint": (search(start, **settings), functools.partial(evaluate, value_and_gradient, problem), 1),
        "scoring": (
            scoring(problem, start, np.ones(3, bool), iterations=15, value_tolerance=0.05),
            functools.partial(evaluate, fields, problem),
            1,
        ),
    }
    reached = {}
    for label, (asking, function, solves) in methods.items():
        function(start)
        begun, trace = time.perf_counter(), []

        def timed(point: np.ndarray, function: Any = function, trace: list = trace, begun: float = begun) -> Any:
            found = function(point)
            # Scoring is sent fields, whose value is computed afterwards.
            value = float(found[0]) if np.ndim(found[0]) == 0 else None
            trace.append((time.perf_counter() - begun, point, value))
            return found

        end = answer(asking, timed)
        reached[label] = (trace, end, solves)
    best = min(end.value for _, end, _ in reached.values())
    records = []
    for label, (trace, end, solves) in reached.items():
        first = next(
            (i for i, (_, point, value) in enumerate(trace) if (value or _objective(problem, point)) < best + 1), None
        )
        details = {"misfit above the best, nat": end.value - best, "evaluations in all": len(trace)}
        if first is not None:
            details |= {
                "evaluations": first + 1,
                "forward solves" if label != "adjoint" else "gradients": (first + 1) * solves,
            }
        seconds = trace[-1 if first is None else first][0]
        records.append(Record(f"{spacing}mm_{name}_{label}_seconds", seconds, "s", "", details))
    return records


def _objective(problem: Problem, point: np.ndarray) -> float:
    z = jnp.asarray(point, problem.anatomy.dtype)
    seen = evaluate(fields, problem, point)
    return float(0.5 * jnp.sum(z**2) - problem.log_likelihood(seen, problem.prior.constrain(z)))


def summary(records: list[Record]) -> list[Record]:
    """The tables in one number each: means over those cases that were measured on the same voxels, which names list."""
    values = {r.name: r.value for r in records}
    found: list[Record] = []
    for spacing in (2, 4):
        for kind, rows in (
            ("true_seed", ROWS),
            ("inverted_seed", ROWS),
            ("unknown_anatomy", ROWS),
            ("unknown_anatomy", ("displacement_field", "tumour")),
        ):
            end = "error_of_the_mean" if rows is not ROWS else "error"
            for row in rows:
                # Without mass effect or displacement the error is absolute, not relative.
                cases = [c for c in CASES if not (c == "a" and row.startswith(("gamma", "displacement")))]
                names = {c: f"{spacing}mm_{c}_{kind}_{row}_{end}" for c in cases}
                each = {c: values[name] for c, name in names.items() if name in values}
                if len(each) > 1:
                    label = f"{spacing}mm_{kind}_{row}_{end}_averaged_over_{''.join(each)}"
                    target = TARGETS.get(row, "") if kind == "inverted_seed" else ""
                    found.append(Record(label, float(np.mean(list(each.values()))), "1", target, {"cases": each}))
    return found


def _grown(one: Patient, samples: Any, index: int, anatomy: Anatomy) -> tuple[MassEffectParams, Solution]:
    """Return the growth of one sample, and its solution in an anatomy."""
    growth = jax.tree.map(lambda leaf: leaf[index], samples).growth
    return growth, simulate(one.model, growth, anatomy)


def _errors(one: Patient, growth: MassEffectParams, solution: Solution) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the paper's errors: relative, or absolute where the truth is zero."""
    true = scaled(one)
    pairs = {
        # In the paper's unit, 1e5 Pa.
        "gamma": (float(growth.mass_effect) / 1e5, float(one.truth.mass_effect) / 1e5),
        "rho": (float(growth.growth.mu2) ** 2, float(true.mu2) ** 2),
        "kappa": (float(growth.growth.mu1) ** 2, float(true.mu1) ** 2),
    }
    errors = {row: abs(found - truth) / (truth or 1) for row, (found, truth) in pairs.items()}
    errors |= field_errors(one, solution.density, solution.displacement)
    details = {
        "largest": float(jnp.linalg.norm(solution.displacement, axis=-1).max()) / VOXEL,
        "largest of the truth, voxels": one.largest / VOXEL,
        "T rho, T kappa, gamma": [pairs["rho"][0], pairs["kappa"][0], pairs["gamma"][0]],
        "years": float(growth.duration) / YEAR,
    }
    return errors, details


def field_errors(one: Patient, density: Any, displacement: Any) -> dict[str, float]:
    """Return the errors of fields, relative to the norm of the truth.

    "displacement" is the paper's error, the difference of the norms, which ignores the direction of the displacement;
    "displacement_field" is the norm of the difference. If the true displacement is zero, both are the root mean square
    over the head, in voxels of the paper.
    """
    found, truth = _norm(displacement), _norm(one.displacement)
    unit = truth or VOXEL * np.sqrt(np.size(one.density))
    return {
        "displacement": abs(found - truth) / unit,
        "displacement_field": _norm(np.asarray(displacement, float) - np.asarray(one.displacement, float)) / unit,
        "tumour": _norm(density - one.density) / _norm(one.density),
    }


def _norm(field: Any) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(field, float))))


def _quiet(stage: str, share: float, objective: float) -> None:
    pass


def _plain(stats: Any) -> Any:
    """Return the statistics in a form that a record can hold."""
    return {
        "state at time zero": [np.asarray(basis.weights).round(3).tolist() for basis in stats.origins],
        "gradients without mass effect": stats.origin_gradients,
        "atlases": [atlas._asdict() for atlas in stats.atlases],
    }
