"""Every inverse method, as it is run on a patient of the comparison: one model of growth for all of them."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.cohorts import cohort
from benchmarks.evolution import CMAES
from benchmarks.suite import Case
from tumorjax import LBFGS, NUTS, TMCMC, FisherKolmogorov, MassEffect, NeuralPosterior
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.ensemble import Database
from tumorjax.pipeline.atlases import align_atlases
from tumorjax.pipeline.learn_morph_infer import inference_in, open_network
from tumorjax.pipeline.multi_atlas import personalize_with_atlases
from tumorjax.pipeline.personalize import Personalization, personalize
from tumorjax.pipeline.retrieval import Simulated, retrieval_in

# Tumours of the database that is asked, and seeds of the atlases beside ICBM152 in which mass effect is calibrated.
_DATABASE, _ATLASES = 5120, (8001, 8002)


def _with(method: Any) -> Callable[[Case], Personalization]:
    # Plans are compared of all results, also of those that must not be used.
    return lambda case: personalize(
        case.patient,
        method=method,
        key=jax.random.key(0),
        recurrence=case.recurrence,
        plan_despite_failure=True,
    )


def simulated_tumours(resolution: float) -> Database:
    """Return simulated tumours on the voxels on which patients are computed: on others, sharp fronts are others."""
    return cohort(_DATABASE, box="learn-morph-infer", resolution=resolution)


def _retrieval(case: Case, refine: bool) -> Personalization:
    resolution = float(case.patient.anatomy.grid.spacing[0])
    simulated = Simulated(simulated_tumours(resolution), load_atlas("icbm152"))
    return _with(retrieval_in(case.patient, simulated, refine=refine))(case)


def _inference(case: Case, refine: bool) -> Personalization:
    return _with(inference_in(case.patient, open_network(), refine=refine))(case)


def _multi_atlas(case: Case) -> Personalization:
    atlas = load_atlas("icbm152")
    atlases = [atlas, *(deformed_atlas(atlas, seed)[0] for seed in _ATLASES)]
    return personalize_with_atlases(
        case.patient,
        align_atlases(case.patient, atlases),
        # That of all methods, and the force with which the synthetic tumours push.
        model=MassEffect(FisherKolmogorov(), force="tanh"),
        recurrence=case.recurrence,
        plan_despite_failure=True,
    )


METHODS: dict[str, Callable[[Case], Personalization]] = {
    "LBFGS": _with(LBFGS()),
    "MultiAtlas": _multi_atlas,
    "TMCMC": _with(TMCMC(512)),
    "NUTS": _with(NUTS(chains=2, draws=100, warmup=100)),
    "NeuralPosterior": _with(NeuralPosterior(4, 300, draws=500)),
    "LearnMorphInfer": lambda case: _inference(case, refine=False),
    "LearnMorphInfer+LBFGS": lambda case: _inference(case, refine=True),
    "Retrieval": lambda case: _retrieval(case, refine=False),
    "Retrieval+LBFGS": lambda case: _retrieval(case, refine=True),
    "CMA-ES": _with(CMAES()),
}
