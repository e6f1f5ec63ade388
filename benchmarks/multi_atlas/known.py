"""Table 1: the healthy anatomy is known; the seed is known, or inverted too."""

import time
from dataclasses import replace
from typing import Any

import equinox as eqx
import numpy as np

from benchmarks.displaced import WIDTH, displaced, problem_of
from benchmarks.multi_atlas.errors import errors, grown, plain, quiet
from benchmarks.multi_atlas.published import INVERTED_SEED, TARGETS, TRUE_SEED
from benchmarks.multi_atlas.setting import Setting
from benchmarks.record import Record
from tumorjax import GaussianBasis, Prior, Problem, calibrate
from tumorjax.methods.multi_atlas.sparse import SparseOrigin
from tumorjax.methods.multi_atlas.stages import without_mass_effect


def known_anatomy(case: str, setting: Setting, *, inverted: bool = True) -> list[Record]:
    """Return the errors of a case, with the true seed and, if wanted, with the inverted one."""
    one = displaced(case, setting.spacing, setting.finer)
    problem = problem_of(one, seen=setting.seen, fluid=setting.fluid)
    method = setting.method((one.healthy,))
    seed = true_seed(problem, np.asarray(one.truth.growth.origin.centres, float), method.sparsity)
    runs: dict[str, Any] = {"true_seed": lambda: replace(method, refine=False).fit(problem, [seed], 0, quiet)}
    if inverted:
        runs["inverted_seed"] = lambda: calibrate(problem, method)
    records = []
    for question, invert in runs.items():
        begun = time.perf_counter()
        found = invert()
        seconds = time.perf_counter() - begun
        values, details = errors(one, *grown(one, found.samples, 0, one.healthy))
        details |= {"seconds": seconds, "stats": plain(found.stats)}
        published = (TRUE_SEED if question == "true_seed" else INVERTED_SEED)[case]
        for row, value in values.items():
            target = "<= 0.01" if question == "true_seed" else TARGETS.get(row, "")
            told = {"published": published.get(row), **(details if row == "tumour" else {})}
            records.append(Record(setting.name(question, f"{case}_{row}_error"), value, "1", target, told))
    return records


def true_seed(problem: Problem, centres: np.ndarray, sparsity: int) -> SparseOrigin:
    """Return the true Gaussian among places that hold next to nothing, with the rest at the prior's medians."""
    places = np.repeat(centres, sparsity, axis=0)
    basis = GaussianBasis(places, np.r_[1.0, np.full(sparsity - 1, 1e-3)], WIDTH, unit_peak=True)
    still = without_mass_effect(problem).prior
    rest = Prior(eqx.tree_at(lambda p: p.growth.origin, still.distributions, basis))
    return SparseOrigin(basis, np.zeros(rest.size), 0.0)
