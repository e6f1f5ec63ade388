"""The inverse methods of the comparison, all with the same growth model."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.cohorts import cohort
from benchmarks.evolution import CMAES
from benchmarks.suite import Case
from tumorjax import (
    LBFGS,
    NUTS,
    TMCMC,
    AmortizedPosterior,
    FisherKolmogorov,
    LearnMorphInfer,
    MassEffect,
    MultiAtlas,
    NeuralPosterior,
    Retrieval,
    WeakConstraint,
)
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.ensemble import Database
from tumorjax.pipeline.personalize import personalize
from tumorjax.results.personalization import Personalization

# Number of tumours in the database, and seeds of the atlases besides ICBM152 in which mass effect is calibrated.
_DATABASE, _ATLASES = 5120, (8001, 8002)


def _with(method: Any) -> Callable[[Case], Personalization]:
    # Plans of all results are compared, including those that must not be used.
    return lambda case: personalize(
        case.patient,
        method=method,
        key=jax.random.key(0),
        recurrence=case.recurrence,
        plan_despite_failure=True,
    )


def simulated_tumours(resolution: float) -> Database:
    """Return simulated tumours on the computing voxels of the patients, because sharp fronts depend on voxel size."""
    return cohort(_DATABASE, box="learn-morph-infer", resolution=resolution)


def _retrieval(case: Case, refine: bool) -> Personalization:
    resolution = float(case.patient.anatomy.grid.spacing[0])
    query = Retrieval(simulated_tumours(resolution))
    return _with(LBFGS(init=query) if refine else query)(case)


def _inference(case: Case, refine: bool) -> Personalization:
    network = LearnMorphInfer.open()
    return _with(LBFGS(init=network) if refine else network)(case)


def _multi_atlas(case: Case) -> Personalization:
    atlas = load_atlas("icbm152")
    atlases = [atlas, *(deformed_atlas(atlas, seed)[0] for seed in _ATLASES)]
    return personalize(
        case.patient,
        method=MultiAtlas(tuple(atlases)),
        # The model of all methods, and the force of the synthetic tumours with mass effect.
        model=MassEffect(FisherKolmogorov(), force="tanh"),
        recurrence=case.recurrence,
        plan_despite_failure=True,
    )


METHODS: dict[str, Callable[[Case], Personalization]] = {
    "LBFGS": _with(LBFGS()),
    "WeakConstraint": _with(WeakConstraint()),
    "MultiAtlas": _multi_atlas,
    "TMCMC": _with(TMCMC(512)),
    "NUTS": _with(NUTS(chains=2, draws=100, warmup=100)),
    "NeuralPosterior": _with(NeuralPosterior(4, 300, draws=500)),
    "AmortizedPosterior": lambda case: _with(AmortizedPosterior.open())(case),
    "LearnMorphInfer": lambda case: _inference(case, refine=False),
    "LearnMorphInfer+LBFGS": lambda case: _inference(case, refine=True),
    "Retrieval": lambda case: _retrieval(case, refine=False),
    "Retrieval+LBFGS": lambda case: _retrieval(case, refine=True),
    "CMA-ES": _with(CMAES()),
}

CLASSES: dict[str, tuple[type, ...]] = {
    "LBFGS": (LBFGS,),
    "WeakConstraint": (WeakConstraint,),
    "MultiAtlas": (MultiAtlas,),
    "TMCMC": (TMCMC,),
    "NUTS": (NUTS,),
    "NeuralPosterior": (NeuralPosterior,),
    "AmortizedPosterior": (AmortizedPosterior,),
    "LearnMorphInfer": (LearnMorphInfer,),
    "LearnMorphInfer+LBFGS": (LearnMorphInfer, LBFGS),
    "Retrieval": (Retrieval,),
    "Retrieval+LBFGS": (Retrieval, LBFGS),
    "CMA-ES": (CMAES,),
}
"""The classes that do the work of each method of the comparison."""
