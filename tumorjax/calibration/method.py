"""The verb `calibrate`, and what a method of calibration is."""

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
from jaxtyping import Array, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.model_evidence import checksum_of_images
from tumorjax.calibration.problem import Problem
from tumorjax.growth import AbstractGrowth
from tumorjax.option import Option
from tumorjax.progress import SearchProgress, logged, silent

_log = logging.getLogger(__name__)


class AbstractMethod(eqx.Module):
    """An inverse method.

    A subclass needs `name`, `title` and `run`; everything else has a default.

    Attributes
    ----------
    name
        Its name in the command: "lbfgs".
    title
        Its name in sentences: "adjoint L-BFGS".
    summary
        What it does, for the help of the command; one sentence without a full stop.
    extra
        Extras of the installation that it needs, as in `pip install 'tumorjax[bayes]'`; None for none.
    libraries
        Modules that must be installed for it.
    needs_key
        Whether it draws random numbers.
    several_visits
        Whether it sees a problem through its predictions and their likelihood alone, so that it can calibrate visits,
        treatments between them, and laws of a volume. Otherwise it is refused those.
    frees_density
        Whether the density may leave the model where the images ask for it, so that the likelihood need not allow for
        the model's error.
    options
        Options of the command that belong to it; see `from_options`.
    references
        Works that a publication should cite for it, for the report.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str] = ""
    extra: ClassVar[str | None] = None
    libraries: ClassVar[tuple[str, ...]] = ()
    needs_key: ClassVar[bool] = False
    several_visits: ClassVar[bool] = False
    frees_density: ClassVar[bool] = False
    options: ClassVar[tuple[Option, ...]] = ()
    references: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "AbstractMethod":
        """Return the method that the options of a command describe.

        Parameters
        ----------
        options
            Values of the method's own options by name, those alone that were given; besides `resolution`, mm, the
            voxel size of the computing grid, `atlas`, the atlas that was named, if one was, and `displaces`, True where
            the model displaces tissue.

        Raises
        ------
        InputError
            If a value cannot be used.
        """
        names = {option.name for option in cls.options}
        return cls(**{name: value for name, value in options.items() if name in names})

    @property
    def single_seed(self) -> bool:
        """Whether the method, or one that it begins with, can only explain tumours that grew from a single seed."""
        return any(each.single_seed for each in self._held().values())

    @property
    def region(self) -> Literal["brain", "lesion"]:
        """What to solve on: the whole brain, or the neighbourhood of the lesion, for methods that take many solves."""
        return "brain"

    @property
    def brings_brain(self) -> bool:
        """Whether the method brings the brain before the tumour itself, where the model displaces tissue.

        If so, the problem's anatomy is the patient's own; otherwise it is that of an atlas, which is aligned with the
        patient.
        """
        return False

    def refuses_model(self, model: AbstractGrowth) -> str | None:
        """Return in one line why this method, or one that it begins with, cannot calibrate a model; None if it can.

        It is asked before any image is read.
        """
        return next((reason for each in self._held().values() if (reason := each.refuses_model(model))), None)

    def refuses(self, problem: Problem) -> str | None:
        """Return in one line why this method, or one that it begins with, cannot calibrate a problem; None if it can.

        A subclass with reasons of its own gives those, and this answer where it has none.
        """
        held = (each.refuses(problem) for each in self._held().values())
        return self.refuses_model(problem.model) or next((reason for reason in held if reason), None)

    def refuses_course(self, problem: Problem) -> str | None:
        """Return in one line why this method, or one that it begins with, cannot see several dates; None if it can."""
        if problem.calendar is None and problem.anatomy is not None:
            return None
        what = "images of one date" if problem.anatomy is not None else "tumours in space"
        return self.refuses_visits(len(problem.visits), type(problem.model).__name__, what)

    def refuses_visits(self, count: int, model: str, what: str = "images of one date") -> str | None:
        """Return in one line why so many visits, or treatments, cannot be calibrated; None if they can.

        It is asked before any image is read.

        Parameters
        ----------
        count
            Number of visits.
        model
            Name of the model's class.
        what
            What the method is for if it cannot.
        """
        if self.several_visits:
            return next((r for each in self._held().values() if (r := each.refuses_visits(count, model, what))), None)
        return (
            f"{self.title or type(self).__name__} is for {what}, without treatment, got {count} visits of {model}; use "
            "LBFGS, WeakConstraint, a sampler such as TMCMC or NUTS, or NeuralPosterior"
        )

    def prepare(
        self,
        patient: Any,
        model: AbstractGrowth,
        *,
        healthy: Literal["affine", "coupled"] | None = None,
        notes: list[str],
        progress: Callable[[str, float | None], None],
    ) -> "AbstractMethod":
        """Return the method with what it needs of this patient, such as an atlas that is aligned with the images.

        Methods that this one begins with are prepared, too; a subclass with needs of its own does both.

        Parameters
        ----------
        patient
            A `tumorjax.patient.Patient`, from `load_patient`.
        model
            What grows.
        healthy
            For methods that bring the brain before the tumour, which atlas stands for it: one behind an "affine" map,
            or one that is "coupled", found by registration and growth in turns; None is the latter where it can be.
        notes
            Receives what a reader of the results should know of the preparation.
        progress
            Receives the stage and the share of it that is done, where that is known.
        """
        held = self._held().items()
        found = {
            name: each.prepare(patient, model, healthy=healthy, notes=notes, progress=progress) for name, each in held
        }
        return dataclasses.replace(self, **found) if found else self

    def rehearse(self, problem: Problem) -> None:
        """Compile what `run` will need for problems of this one's shape; by default what methods need that it holds.

        It is called in a thread of its own while images are registered, with a problem whose tissue is not known yet.
        """
        for each in self._held().values():
            each.rehearse(problem)

    @abstractmethod
    def run(self, problem: Problem, key: Key[Array, ""] | None, progress: SearchProgress) -> Calibration:
        """Calibrate the problem."""

    def _held(self) -> dict[str, "AbstractMethod"]:
        """Return the methods that this one holds, by the name of the field."""
        return {name: each for name, each in vars(self).items() if isinstance(each, AbstractMethod)}


def check_healthy(healthy: str | None, model: AbstractGrowth | type[AbstractGrowth]) -> None:
    """Raise a ValueError where no atlas stands for the brain before the tumour as `AbstractMethod.prepare` is asked."""
    if healthy not in (None, "affine", "coupled"):
        raise ValueError(f'healthy must be "affine" or "coupled", got {healthy!r}')
    if healthy is not None and not model.displaces:
        raise ValueError(
            f"healthy: is not for {model.name or model}, which leaves tissue where it is; leave it out, or take a "
            "model that displaces tissue"
        )


def calibrate(
    problem: Problem,
    method: AbstractMethod,
    *,
    key: Key[Array, ""] | None = None,
    progress: SearchProgress = silent,
) -> Calibration:
    """Find the parameters with which the model explains the observations.

    Parameters
    ----------
    problem
        Model, anatomy, observations, prior.
    method
        How: `LBFGS()`, for one.
    key
        Random key, for methods that draw random numbers.
    progress
        Called now and then with the stage's name, the share of it that is done, and the best objective. The log
        `tumorjax.calibration` hears the same.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If the method is no method object, the problem no `Problem`, or the method cannot calibrate it; if a method
        that draws random numbers has no key; if the objective is not finite at any start.
    """
    if not isinstance(problem, Problem):
        raise ValueError(
            f"calibrate needs a Problem (model, anatomy, observations, prior), got {type(problem).__name__}"
        )
    if not isinstance(method, AbstractMethod):
        name = method.__name__ if isinstance(method, type) else repr(method)
        what = f"the class {name}; give an object of it, {name}()" if isinstance(method, type) else f"{name}; give one"
        raise ValueError(f"method must be a method object such as LBFGS(), got {what}")
    if (reason := method.refuses_course(problem) or method.refuses(problem)) is not None:
        raise ValueError(reason)
    _log.info("%s: %d unknown numbers", type(method).__name__, problem.prior.size)
    found = method.run(problem, key, logged(progress, _log))
    return dataclasses.replace(found, images=checksum_of_images(problem))
