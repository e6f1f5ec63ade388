"""What every growth model offers to the verbs, to the methods of calibration and to tables of results."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import equinox as eqx
from jaxtyping import Array, Bool

from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid
from tumorjax.growth.forcing import Forcing
from tumorjax.growth.origins import Origin
from tumorjax.growth.outcome import Outcome
from tumorjax.growth.parameters import AbstractGrowthParams, ScaledGrowthParams
from tumorjax.option import Option
from tumorjax.prior import LogNormal
from tumorjax.quantity import Quantity


class AbstractGrowth(eqx.Module):
    """A model of how the density of tumour cells grows in an anatomy.

    A model has a state at time zero (`initial`) and an equation (`terms`), which a scheme of `integrate` advances. Give
    `ReactionDiffusion` or `ReactionAdvectionDiffusion` as terms, and the scheme is there; for other terms `stepper`
    returns a scheme of your own. A model that needs no steps in time returns the end from `predict`.
    """

    name: ClassVar[str] = ""
    """What the command calls the model."""
    title: ClassVar[str] = "Growth model"
    """What tables and sentences call the model: "Fisher-Kolmogorov model"."""
    summary: ClassVar[str] = ""
    """One line of help."""
    parameters: ClassVar[tuple[type, ...]] = (AbstractGrowthParams,)
    """Classes of the parameters that the model takes."""
    shows: ClassVar[frozenset[str]] = frozenset({"density"})
    """What images can show of the outcome: the "density", and where tissue moves the "csf" and the "displacement"."""
    options: ClassVar[tuple[Option, ...]] = ()
    """Options of the command that belong to the model; see `from_options`."""
    numbers: ClassVar[tuple[Option, ...]] = ()
    """Options of commands that grow tumours of given parameters, for each number that the model has beside those of the
    growth; the name is that of the field of the parameters."""
    references: ClassVar[tuple[str, ...]] = ()
    """Works that a publication should cite for the model, for the report."""
    displaces: ClassVar[bool] = False
    """Whether the tissue moves. Then a problem needs the brain as it was before the tumour, and all of it."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return the model that the options of a command describe, those alone that were given."""
        return cls(**options)

    @abstractmethod
    def initial(self, params: Any, anatomy: Anatomy) -> Any:
        """Return the state at time zero: a density (x, y, z), or a tree that holds one."""

    @abstractmethod
    def seeded(self, params: Any, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether the tumour begins in tissue."""

    @abstractmethod
    def terms(self, params: Any, anatomy: Anatomy) -> Any:
        """Return the coefficients of the equation on an anatomy, over the whole time of growth."""

    def box(self, anatomy: Anatomy) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the first voxel and the shape of the box outside which nothing changes; needs concrete maps."""
        return anatomy.box()

    def outcome(self, state: Any, anatomy: Anatomy) -> Outcome:
        """Return what a state means; by default it is the density itself."""
        return Outcome(state)

    def stepper(self) -> Any:
        """Return the model's own scheme in time; None for the default scheme of its terms."""
        return None

    def predict(self, params: Any, anatomy: Anatomy) -> Outcome | None:
        """Return the end of the growth if the model needs no steps in time; else None."""
        return None

    def forced(self, forcing: Forcing) -> Self | None:
        """Return the same model, whose rate of division departs from its own as given; None where it has no such."""
        return None

    def default_prior(self, origin: Origin, speed: float) -> AbstractGrowthParams:
        """Return parameters with a distribution in place of each that one scan determines.

        mu1 and mu2 are log-normal about the middle of the published boxes of D_w, rho and T.

        Parameters
        ----------
        origin
            A distribution of the place where the tumour began, or `Foci` of such, or a known state at time zero.
        speed
            v, mm/day: fixed, because one scan contains no information on it.
        """
        return ScaledGrowthParams(mu1=LogNormal(7.0, 0.7), mu2=LogNormal(3.5, 0.35), origin=origin, speed=speed)

    def with_growth(self, growth: AbstractGrowthParams) -> AbstractGrowthParams:
        """Return parameters of this model whose cells grow as given; whatever else it has gets its default prior.

        Parameters
        ----------
        growth
            Parameters of the growth alone, numbers or distributions.
        """
        return growth

    def quantities(self, params: AbstractGrowthParams) -> list[Quantity]:
        """Return the numbers that tables give of parameters, those that are assumed last."""
        return params.quantities()

    def seed_volume(self, grid: Grid) -> float:
        """Return the volume in mm^3 in which the tumour begins on a grid, so that no smaller lesion can be explained.

        Zero where that is not known.
        """
        return 0.0
