"""What the calibration in each atlas says: the tumour grown there, a table, and averages over atlases."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from tumorjax.anatomy import Anatomy
from tumorjax.atlas.images import title_of
from tumorjax.calibration.maps import VISIBLY
from tumorjax.calibration.problem import Problem
from tumorjax.integrate import Result, Solution, simulate
from tumorjax.patient.atlases import AlignedAtlas
from tumorjax.planning import dice
from tumorjax.quality import Note, Status
from tumorjax.sections import Section, Table, Text

# Densities agree if the regions above this one have at least this Dice coefficient.
_AGREED, _AGREE = 0.1, 0.7

_COLUMNS = {
    "objective": ("objective", "nat"),
    "mass_effect": ("γ", "Pa"),
    "mu1": ("μ1", "mm"),
    "mu2": ("μ2", ""),
    "diffusivity": ("D", "mm²/day"),
    "proliferation": ("ρ", "1/day"),
    "max_displacement": ("largest |u|", "mm"),
    "displaced": ("|u| > 2 mm", "ml"),
    "ventricles": ("ventricles", "ml"),
    "gaussians": ("Gaussians", ""),
}
UNITS = {name: unit for name, (_, unit) in _COLUMNS.items()}
"""Units of the numbers of an atlas."""


@dataclasses.dataclass(frozen=True)
class AtlasEstimate:
    """What the calibration in one atlas says.

    Parameters
    ----------
    atlas
        Its name.
    weight
        Posterior probability among the atlases.
    objective
        Minus the log-posterior, nat.
    mass_effect
        gamma, Pa.
    mu1, mu2
        √(D_w T), mm; √(rho T).
    diffusivity, proliferation
        D_w, mm²/day; rho, 1/day; at the assumed speed.
    max_displacement
        Largest |u|, mm.
    displaced
        Volume in which |u| exceeds 2 mm, ml.
    ventricles
        Volume of the atlas' lateral ventricles, aligned with the patient, ml; None where it is unknown.
    gaussians
        Number of Gaussians that the tumour begins with.
    grows
        Whether a tumour grows there; if not, the atlas counts in no mean.
    """

    atlas: str
    weight: float
    objective: float
    mass_effect: float
    mu1: float
    mu2: float
    diffusivity: float
    proliferation: float
    max_displacement: float
    displaced: float
    ventricles: float | None
    gaussians: int
    grows: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Grown:
    """The tumour of the parameters that were found in an atlas.

    Parameters
    ----------
    density, displacement
        (x, y, z); (x, y, z, 3), mm. Zero where the solve failed.
    failure
        Why the solve failed; None if it did not.
    """

    density: Float[np.ndarray, "x y z"]
    displacement: Float[np.ndarray, "x y z 3"]
    failure: str | None = None

    @property
    def max_displacement(self) -> float:
        """Largest |u|, mm."""
        return float(np.linalg.norm(self.displacement, axis=-1).max())

    @property
    def displaced_voxels(self) -> int:
        """Number of voxels that are visibly displaced."""
        return int((np.linalg.norm(self.displacement, axis=-1) > VISIBLY).sum())


def grow_in(model: Any, params: Any, anatomy: Anatomy) -> Grown:
    """Return the tumour of these parameters of growth in an atlas."""
    solution = _simulated(model, params, anatomy)
    result = Result(int(solution.result))
    density, displacement = (np.asarray(each, float) for each in (solution.density, solution.displacement))
    # A tumour that begins in a ventricle of the atlas does not grow there, which is no failure.
    if result in (Result.SUCCESS, Result.SEED_OUTSIDE_TISSUE):
        return Grown(density, displacement)
    return Grown(np.zeros_like(density), np.zeros_like(displacement), result.message.partition(";")[0])


@eqx.filter_jit
def _simulated(model: Any, params: Any, anatomy: Anatomy) -> Solution:
    # One program for all atlases: outside `jit` each would be cropped to a box of its own.
    return simulate(model, params, anatomy, throw=False)


def averages(rows: Sequence[AtlasEstimate]) -> dict[str, dict[str, float]]:
    """Return the mean and standard deviation of every number over the atlases in which a tumour grows.

    Both weighted by posterior weights, and plain. A number that is unknown in an atlas has none.

    References
    ----------
    Subramanian et al., MICCAI 2020, table S3, which has the plain ones.
    """
    rows = [row for row in rows if row.grows]
    weights = np.array([row.weight for row in rows])
    # All of the weight may be that of an atlas in which there is no tumour.
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(rows), 1 / len(rows))
    result = {}
    for name in _COLUMNS:
        found = [getattr(row, name) for row in rows]
        if any(value is None for value in found):
            continue
        values = np.array(found)
        mean = weights @ values
        result[name] = {
            "weighted_mean": float(mean),
            "weighted_standard_deviation": float(np.sqrt(weights @ (values - mean) ** 2)),
            "mean": float(values.mean()),
            "standard_deviation": float(values.std()),
        }
    return result


def deviation_of(
    displacements: Float[np.ndarray, "m x y z 3"], shares: Float[np.ndarray, "m"] | None = None
) -> Float[np.ndarray, "x y z"]:
    """Return the standard deviation of displacements: the root mean square distance to their mean by shares."""
    shares = np.full(len(displacements), 1 / len(displacements)) if shares is None else shares
    away = displacements - np.tensordot(shares, displacements, 1)
    return np.sqrt(np.tensordot(shares, away**2, 1).sum(axis=-1))


def agreement(densities: Sequence[Float[np.ndarray, "x y z"]], level: float = _AGREED) -> list[list[float]]:
    """Return the Dice coefficient of each pair of densities above a level; one where both are empty."""
    masks = [density > level for density in densities]
    return [[dice(a, b) for b in masks] for a in masks]


def notes_on_agreement(names: Sequence[str], densities: Sequence[Float[np.ndarray, "x y z"]]) -> list[str]:
    """Return a note where densities of several atlases disagree, so that their mean is a tumour that none has."""
    table = agreement(densities)
    apart = [
        (table[i][j], f"{title_of(names[i])} and {title_of(names[j])} ({table[i][j]:.2f})")
        for i in range(len(names))
        for j in range(i)
        if table[i][j] < _AGREE
    ]
    if not apart:
        return []
    listed = ", ".join(words for _, words in sorted(apart))
    text = (
        f"The densities of the atlases disagree: above {_AGREED:g} of the carrying capacity the Dice coefficient is "
        f"below {_AGREE:g} between {listed}. Their mean is a tumour that no atlas has; look at each of them, and leave "
        "out those whose objective is far higher, or use --weights tempered."
    )
    return [Note(text, Status.DOUBTFUL)]


def notes_on(problem: Problem, rows: Sequence[AtlasEstimate], atlases: Sequence[AlignedAtlas] = ()) -> list[str]:
    """Return what limits a calibration in these atlases."""
    notes: list[str] = []
    if barren := [title_of(row.atlas) for row in rows if not row.grows]:
        notes.append(
            Note(
                f"No tumour grows in {', '.join(barren)}, where the seed lies in no tissue; means and standard "
                "deviations leave this out. Give another atlas in its place.",
                Status.DOUBTFUL,
            )
        )
    if len(rows) == 1:
        notes.append(
            "With a single atlas there is no spread over atlases: that of the displacement is zero, and that of the "
            "density too small; give several, for none is the patient's brain before the tumour."
        )
    told = any(observation.shows == "csf" for observation in problem.observations.values())
    if not told and not any(atlas.can_couple for atlas in atlases):
        notes.append(
            "No image shows the patient's own ventricles, so only the tumour's outlines tell how strongly it pushes; "
            "a T1 image in which tissue can be told apart, or tissue maps, would tell more."
        )
    return notes


def section_of(rows: Sequence[AtlasEstimate]) -> Section:
    """Return the table of atlases for the report."""
    head = ["Atlas", "Weight", *(f"{symbol} ({unit})" if unit else symbol for symbol, unit in _COLUMNS.values())]
    # Folders have long names.
    body = [[title_of(row.atlas), f"{row.weight:.1%}", *(getattr(row, name) for name in _COLUMNS)] for row in rows]
    foot = []
    if sum(row.grows for row in rows) > 1:
        found = averages(rows)
        for label, mean, spread in (
            ("mean by weight", "weighted_mean", "weighted_standard_deviation"),
            ("plain mean", "mean", "standard_deviation"),
        ):
            for title, which in ((label, mean), ("± deviation", spread)):
                foot.append([title, None, *(found[name][which] if name in found else None for name in _COLUMNS)])
    words = (
        "Each atlas stands for the patient's brain before the tumour, which nobody has seen. The weight is the atlas' "
        "posterior probability; the objective is minus the log-posterior, so that less is better. Unless others were "
        "asked for, the maps are plain means: weights rest on a model that is not exact, and soon leave all to one "
        "atlas."
    )
    return Section("Spread over atlases", [Text(words), Table(head, body, foot)])
