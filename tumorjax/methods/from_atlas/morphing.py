"""Between a patient and an atlas: outlines one way, parameters of growth and grown tumours the other.

Methods that know tumours of an atlas only, from a database or by a network, look at a patient's outlines there, and
what they find is carried into the patient.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import map_coordinates

from tumorjax.anatomy import Anatomy
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.foci import core_and_lesion
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.problem import Parameters, Problem
from tumorjax.grid import Grid
from tumorjax.growth import AbstractGrowth, Foci, ScaledGrowthParams
from tumorjax.methods.search.starts import FARTHEST, into_the_prior, observation_starts
from tumorjax.option import Option
from tumorjax.quality import Note, Status

# Maps world coordinates of the atlas, (n, 3) mm, to the same anatomical places in the patient; None where they are the
# same.
Carry = Callable[[np.ndarray], np.ndarray] | None
# A warp that does not fold takes about ten.
_SEARCHES = 50
MORPH = Option(
    "morph",
    "the tumour that grew in the atlas, morphed into the patient, is the answer, as published (default: a tumour of "
    "the same parameters grows in the patient's brain, and a search refines it)",
    type=None,
)


def of_another_kind(model: AbstractGrowth, what: str, *, displaces: bool) -> str | None:
    """Return that a model has mass effect where tumours of an atlas have none, or reversely; None if both agree."""
    if model.displaces == displaces:
        return None
    kind = "with" if displaces else "without"
    return f"{what} is for growth {kind} mass effect, got {type(model).__name__}; give one of tumours of this model"


def incomparable(problem: Problem, what: str, *, displaces: bool = False) -> str | None:
    """Return why tumours of an atlas say nothing of a problem; None if they do.

    Parameters
    ----------
    problem
        What is to be calibrated.
    what
        The method that knows tumours of an atlas.
    displaces
        Whether those tumours had mass effect.
    """
    if reason := of_another_kind(problem.model, what, displaces=displaces):
        return reason
    growth = problem.prior.distributions.growth
    if growth.like(ScaledGrowthParams(1.0, 1.0, np.zeros(3))) is None:
        return f"{what} is for GrowthParams or ScaledGrowthParams, the prior has {type(growth).__name__}"
    if isinstance(growth.origin, Foci):
        return (
            f"{what} knows tumours of one seed, the prior has one for each part of the core; give a prior of a single "
            "seed: default_prior(..., several=False)"
        )
    if core_and_lesion(problem.observations) is None:
        return f"{what} needs an outline of the core, under this name"
    return None


def core_for_both(problem: Problem, what: str, *, alone: bool) -> list[Note]:
    """Return the note that a core which alone is outlined stands for the lesion, too; none where both are outlined.

    Parameters
    ----------
    problem
        What was calibrated.
    what
        Which tumours are known by two outlines, in words.
    alone
        Whether the answer is not refined; a search counts the outline once.
    """
    if "lesion" in problem.observations:
        return []
    text = (
        f"The core alone is outlined, while {what} by the whole lesion, too: it stands for both here, which makes "
        "fronts too sharp."
    )
    return [Note(text, Status.DOUBTFUL if alone else Status.GOOD)]


def unlike_in_fibres(anatomy: Anatomy, *, along: bool) -> str | None:
    """Return in words that tumours of an atlas grew along fibres where the patient's do not, or reversely; None if not.

    Parameters
    ----------
    anatomy
        The patient's.
    along
        Whether the tumours of the atlas grew along fibres.
    """
    if (anatomy.fibres is not None) == along:
        return None
    there, here = ("along", "without") if along else ("without", "along")
    return f"grew {there} fibres, while the patient's grows {here} them"


def outlines_in(
    problem: Problem, grid: Grid, brain: Bool[np.ndarray, "x y z"], carry: Carry, whose: str
) -> tuple[Bool[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Return the patient's outlines of core and lesion on a grid of the atlas; the core for both if it is alone.

    Parameters
    ----------
    problem
        It has the outline "core", and "lesion" where that is known.
    grid
        Of the atlas.
    brain
        Where tumours grow there.
    carry
        From the atlas into the patient.
    whose
        The brain is, for messages.

    Raises
    ------
    ValueError
        If an outline lies outside the brain, or `carry` does not map places to places.
    """
    voxels = np.moveaxis(np.indices(grid.shape, float), 0, -1).reshape(-1, 3)
    places = problem.anatomy.grid.in_double().to_index(carried(grid.in_double().to_world(voxels), carry)).T
    outlines, found = core_and_lesion(problem.observations), []
    assert outlines is not None
    for name, outline in zip(("core", "lesion"), outlines, strict=True):
        inside = np.asarray(outline.image, float)
        mask = map_coordinates(inside, places, order=1, mode="grid-constant").reshape(grid.shape) >= 0.5
        if not (mask & brain).any():
            raise ValueError(
                f"the patient's {name} lies outside the tissue of {whose} brain, so no tumour resembles it; check how "
                "patient and atlas are aligned"
            )
        found.append(mask)
    return found[0], found[1]


def carried(world: Float[np.ndarray, "n 3"], carry: Carry) -> Float[np.ndarray, "n 3"]:
    """Return places of the atlas in the patient's world."""
    there = world if carry is None else np.asarray(carry(world), float)
    if there.shape != world.shape or not np.isfinite(there).all():
        raise ValueError(f"carry must map places {world.shape} to finite ones, got shape {there.shape}")
    return there


class Morph:
    """The way of maps from an atlas into a patient, sought once for all of them.

    A voxel y of the patient is sought in the atlas by x <- x + A^-1 (y - carry(x)), A being the affine part of `carry`.

    Parameters
    ----------
    grid
        Of the atlas.
    carry
        From the atlas into the patient.
    patient
        The patient's grid.

    Raises
    ------
    ValueError
        If `carry` does not map places to places, or folds so much that voxels are not found.
    """

    def __init__(self, grid: Grid, carry: Carry, patient: Grid) -> None:
        self._grid, self._carry, self._shape = grid.in_double(), carry, patient.shape
        wanted = patient.in_double().to_world(np.moveaxis(np.indices(patient.shape, float), 0, -1).reshape(-1, 3))
        nodes = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 9) for n in grid.shape), indexing="ij"), axis=-1)
        known = self._grid.to_world(nodes.reshape(-1, 3))
        line, *_ = np.linalg.lstsq(np.column_stack([known, np.ones(len(known))]), carried(known, carry), rcond=None)
        back = np.linalg.inv(line[:3])
        found = (wanted - line[3]) @ back
        size, far = float(np.min(np.asarray(patient.spacing))), np.inf
        for _ in range(_SEARCHES):
            away = wanted - carried(found, carry)
            # Outside the atlas there is nothing to be found.
            index = self._grid.to_index(found)
            inside = ((index > -0.5) & (index < np.asarray(grid.shape) - 0.5)).all(axis=1)
            far = float(np.abs(away[inside]).max(initial=0))
            if far < 0.1 * size:
                break
            found = found + away @ back
        else:
            raise ValueError(f"carry folds: voxels of the patient are not found in the atlas, {far:.2g} mm off")
        # (n, 3), mm: where each voxel of the patient lies in the atlas.
        self._places = found

    def density(self, values: Float[np.ndarray, "u v w"]) -> Float[np.ndarray, "x y z"]:
        """Return a map of the atlas in the patient, linearly interpolated, zero where the atlas does not reach."""
        index = self._grid.to_index(self._places).T
        shown = map_coordinates(np.asarray(values, float), index, order=1, mode="grid-constant")
        return shown.reshape(self._shape)

    def displacement(self, vectors: Float[np.ndarray, "u v w 3"]) -> Float[np.ndarray, "x y z 3"]:
        """Return the displacement in the patient of tissue that a tumour has displaced in the atlas, mm.

        What is now at x in the atlas was at x - u(x); in the patient it has moved from carry(x - u(x)) to carry(x).
        """
        moved = np.stack([self.density(part).ravel() for part in np.moveaxis(np.asarray(vectors), -1, 0)], axis=-1)
        there = carried(self._places, self._carry) - carried(self._places - moved, self._carry)
        return there.reshape(*self._shape, 3)


class Morphed(NamedTuple):
    """Tumours that grew in an atlas, morphed into a patient.

    Parameters
    ----------
    densities
        (k, x, y, z), on the problem's grid.
    displacements
        (k, x, y, z, 3), mm; None where tissue stays.
    """

    densities: Float[np.ndarray, "k x y z"]
    displacements: Float[np.ndarray, "k x y z 3"] | None

    @classmethod
    def of(cls, problem: Problem, morph: Morph, grown: Sequence[tuple[Any, Any]]) -> "Morphed":
        """Return tumours, each a density and a displacement or None, in the patient of a problem."""
        densities = np.stack([morph.density(np.nan_to_num(np.asarray(density))) for density, _ in grown])
        if not problem.model.displaces:
            # Tissue that moves is elsewhere than before the tumour; any other holds all cells.
            return cls(np.where(np.asarray(problem.anatomy.tissue), densities, 0), None)
        return cls(densities, np.stack([morph.displacement(np.asarray(moved)) for _, moved in grown]))

    def maps(self, cost: Cost) -> Maps:
        """Return the first tumour, and standard deviations over all."""
        displacement, spread = None, None
        if self.displacements is not None:
            displacement = self.displacements[0]
            spread = np.sqrt(np.var(self.displacements, axis=0).sum(axis=-1))
        return Maps(
            density=self.densities[0],
            deviation=np.std(self.densities, axis=0),
            displacement=displacement,
            displacement_deviation=spread,
            cost=cost,
        )


def into_patient(
    problem: Problem, growth: Any, thresholds: tuple[float, float], carry: Carry
) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
    """Return a tumour of the atlas in the coordinates of the patient's prior, and what had to be moved for that.

    The origin is carried into the patient, or to the nearest tissue where it does not arrive in any. What the prior
    holds to be next to impossible is moved to where it does not.
    """
    prior, wanted = problem.prior, problem.prior.distributions.growth
    seeds = np.asarray(growth.origin, float)
    origin = _into_tissue(carried(seeds.reshape(-1, 3), carry), problem.anatomy).reshape(seeds.shape)
    there = Parameters(wanted.like(growth).with_origin(origin), observation_starts(problem, thresholds))
    there = jax.tree.map(_number, there)
    # Transports are increasing: between these every parameter is within so many standard deviations.
    low, high = (prior.constrain(jnp.full(prior.size, z)).growth for z in (-FARTHEST, FARTHEST))
    clipped = jax.tree.map(np.clip, there.growth, *(jax.tree.map(_number, bound) for bound in (low, high)))
    near = Parameters(clipped, there.observations)
    moved = tuple(
        name
        for name, value in prior.unknown(there).items()
        if not np.allclose(value, prior.unknown(near)[name], rtol=1e-5)
    )
    return into_the_prior(np.asarray(prior.unconstrain(near), float)), moved


def _number(leaf: Any) -> Float[np.ndarray, "..."]:
    return np.asarray(leaf, float)


def _into_tissue(points: Float[np.ndarray, "n 3"], anatomy: Anatomy) -> Float[np.ndarray, "n 3"]:
    """Return points of the world, mm; those that lie in no voxel of tissue are moved to the centre of the nearest."""
    grid, tissue = anatomy.grid.in_double(), np.asarray(anatomy.tissue)
    centres = grid.to_world(np.argwhere(tissue).astype(float))
    found = points.copy()
    for point, voxel in zip(found, np.rint(grid.to_index(points)).astype(int), strict=True):
        inside = ((voxel >= 0) & (voxel < grid.shape)).all() and tissue[tuple(voxel)]
        if not inside:
            point[:] = centres[np.argmin(np.sum((centres - point) ** 2, axis=1))]
    return found
