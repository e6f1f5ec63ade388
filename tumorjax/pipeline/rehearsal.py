"""Compiling what a patient's calibration needs while the patient's images are still registered."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from tumorjax.calibration import AbstractMethod
from tumorjax.calibration.evaluation import evaluate, growth
from tumorjax.growth import AbstractGrowth
from tumorjax.patient import Patient
from tumorjax.pipeline.problems import errors_of_outlines, problem_of, solved_by


class Rehearsal:
    """A calibration in advance, in a thread, of a patient whose tissue is not known yet.

    Registration takes longer than anything else with images, and leaves a core free; the grids of a patient whose
    brain is known do not depend on it. So the programs of the calibration are compiled meanwhile. What is found is
    thrown away, and an error is no concern: the calibration itself will say it.

    Parameters
    ----------
    model
        What grows. One that displaces tissue begins in another brain, so that nothing can be rehearsed.
    method
        How it will be calibrated; what it rehearses, see `AbstractMethod.rehearse`.
    model_error
        As `personalize` will be given it: a program is of one error.

    Examples
    --------
    >>> with Rehearsal(model, method) as rehearsal:  # doctest: +SKIP
    ...     patient = load_patient(segmentation="segmentation.nii.gz", t1="t1.nii.gz", early=rehearsal.begin)
    """

    def __init__(self, model: AbstractGrowth, method: AbstractMethod, model_error: float | None = None) -> None:
        self._model, self._method, self._error = model, method, model_error
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        """Wait for the program that is being compiled: a second compilation beside it would not be faster."""
        self._pool.shutdown(cancel_futures=True)

    def begin(self, patient: Callable[[], Patient | None]) -> None:
        """Begin with a patient whose tissue is unknown, as `load_patient` gives it to `early`."""
        if not self._model.displaces:
            self._pool.submit(self._run, patient)

    def _run(self, patient: Callable[[], Patient | None]) -> None:
        if (known := patient()) is not None:
            errors = errors_of_outlines(self._method, self._error)
            problem = problem_of(known, self._model, self._method, errors=errors)
            self._method.rehearse(solved_by(self._method, problem))
            # Maps are of the whole brain.
            evaluate(growth, problem, np.zeros(problem.prior.size))
