"""Stage S.3 alone by three kinds of search: what the joint cost of derivatives and iterations is."""

import functools
import time
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from benchmarks.displaced import WIDTH, displaced, problem_of
from benchmarks.multi_atlas.setting import Setting
from benchmarks.record import Record
from tumorjax import GaussianBasis, Prior, Problem
from tumorjax.calibration.evaluation import evaluate, fields, value_and_gradient
from tumorjax.calibration.problem import Fields
from tumorjax.calibration.quasi_newton import answer, search
from tumorjax.calibration.scoring import minus_log_posterior, moves_growth, scoring


def searches(case: str, setting: Setting) -> list[Record]:
    """S.3 with the true seed by three methods, from the same start to within one nat of the same misfit.

    The methods are L-BFGS with gradients by finite differences, as in the paper; L-BFGS with the adjoint; and Fisher
    scoring.
    """
    one = displaced(case, setting.spacing)
    problem = problem_of(one)
    basis = GaussianBasis(one.truth.growth.origin.centres, np.ones(1), WIDTH)
    unknown = eqx.tree_at(lambda p: p.growth.growth.origin, problem.prior.distributions, basis)
    problem = replace(problem, anatomy=one.healthy, prior=Prior(unknown))
    start = np.where(np.array(problem.prior.names) == "growth.mass_effect", -1.0, 0.0)
    solved = [i for i in range(start.size) if moves_growth(problem, start, i)]
    settings = {"budget": 60, "gradient_tolerance": 0.02, "value_tolerance": 0.05}

    def differences(point: np.ndarray, step: float = 0.02) -> tuple[float, np.ndarray]:
        seen = evaluate(fields, problem, point)
        value, slope = _objective(problem, point, seen), np.zeros(start.size)
        for i, shift in enumerate(step * np.eye(start.size)):
            there = evaluate(fields, problem, point + shift) if i in solved else seen
            slope[i] = (_objective(problem, point + shift, there) - value) / step
        return value, slope

    methods: dict[str, Any] = {
        "finite_differences": (search(start, **settings), differences, 1 + len(solved)),
        "adjoint": (search(start, **settings), functools.partial(evaluate, value_and_gradient, problem), 1),
        "scoring": (
            scoring(problem, start, np.ones(start.size, bool), iterations=15, value_tolerance=0.05),
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

    def at(point: np.ndarray) -> float:
        return _objective(problem, point, evaluate(fields, problem, point))

    best = min(end.value for _, end, _ in reached.values())
    records = []
    for label, (trace, end, solves) in reached.items():
        values = [value if value is not None else at(point) for _, point, value in trace]
        first = next((i for i, value in enumerate(values) if value < best + 1), None)
        details = {"misfit above the best, nat": end.value - best, "evaluations in all": len(trace)}
        if first is not None:
            details |= {
                "evaluations": first + 1,
                "forward solves" if label != "adjoint" else "gradients": (first + 1) * solves,
            }
        seconds = trace[-1 if first is None else first][0]
        records.append(Record(setting.name(label, f"{case}_seconds"), seconds, "s", "", details))
    return records


def _objective(problem: Problem, point: np.ndarray, seen: Fields) -> float:
    return float(minus_log_posterior(problem, seen, jnp.asarray(point, problem.dtype)))
