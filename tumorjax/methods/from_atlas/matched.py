"""The simulated tumours that resemble a patient's most, as a calibration."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.draws import Tumour
from tumorjax.calibration.evaluation import evaluate, growth
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.problem import Problem
from tumorjax.methods.from_atlas.morphing import Morphed, core_for_both, unlike_in_fibres
from tumorjax.quality import Note, Status
from tumorjax.retrieval import Matches

# A tumour whose front is sharp is another on voxels of another size; between these ratios it hardly is.
_ALIKE = (0.8, 1.25)


class RetrievalStats(NamedTuple):
    """Which simulated tumours were found.

    Parameters
    ----------
    matches
        The tumours, their Dice coefficients with the patient's outlines in the atlas, and the seconds of the query.
    tumours
        How many there are in the database.
    variant
        How they were compared.
    moved
        Which parameters of the best match's growth the prior holds to be next to impossible, so that they were moved
        to where it does not.
    voxel
        mm: edge of the voxels on which the tumours of the database grew.
    fibres
        Whether they grew along fibres.
    lesion
        Whether the patient's whole lesion is outlined; otherwise the core stood for it in the comparison.
    """

    matches: Matches
    tumours: int
    variant: str
    moved: tuple[str, ...]
    voxel: float
    fibres: bool = False
    lesion: bool = True


class Matched(Calibration):
    """The simulated tumours that resemble a patient's most, of which the best lends its parameters.

    `stats` are `RetrievalStats`. Several matches are `samples` of equal weight, and `covariance` is their spread. How
    far apart equally good answers are is no posterior: with more matches it grows.

    Parameters
    ----------
    morphed
        The tumours as they are in the database, morphed into the patient; None where they grow in the patient.
    """

    morphed: Morphed | None = None

    @property
    def fitted(self) -> bool:
        """False: the tumours of the database were not fitted to the patient's images."""
        return False

    @property
    def description(self) -> str:
        """The tumour that is shown, in words."""
        return self.beginning

    @property
    def beginning(self) -> str:
        """What a search that begins with these matches begins from, in words."""
        return f"the most similar of {self.stats.tumours} simulated tumours"

    @property
    def uncertainty(self) -> str:
        """What the standard deviation of the density is, as a sentence of the report."""
        return (
            f"Standard deviation of the density over the {len(self.starts())} simulated tumours that resemble the "
            f"patient's most, each {_where(self.morphed)}. It shows how far apart similar tumours are, and is no "
            "posterior."
        )

    @property
    def estimate(self) -> str:
        """What the values and standard deviations of the estimates are, in words."""
        return "those of the simulated tumour that resembles the patient's most; standard deviations over all matches"

    def maps(
        self,
        problem: Problem,
        thresholds: Sequence[float] = (),
        progress: Callable[[float], None] = lambda share: None,
    ) -> Maps:
        """Return density and displacement of the best match in the patient, and standard deviations over all.

        The tumours grow in the patient, unless they were morphed.
        """
        if self.morphed is not None:
            return self.morphed.maps(Cost())
        points, grown = self.starts(), []
        for number, point in enumerate(points, start=1):
            grown.append(evaluate(growth, problem, point))
            progress(number / len(points))
        densities = np.stack([np.asarray(density) for density, _ in grown])
        moved = [np.asarray(each) for _, each in grown if each is not None]
        return Morphed(densities, np.stack(moved) if moved else None).maps(Cost(solves=len(points)))

    def tumours(self, problem: Problem) -> list[Tumour]:
        """Return the tumour that grows in the patient; none where it was morphed into it."""
        return super().tumours(problem) if self.morphed is None else []

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return which tumour resembles the patient's most, and what limits an answer by matches alone."""
        stats: RetrievalStats = self.stats
        found = stats.matches
        both = f" and {found.dice_lesion[0]:.2f} (whole lesion)" if stats.lesion else ""
        notes: list[str] = [
            f"Of {stats.tumours} simulated tumours number {found.indices[0]} resembles the patient's most: Dice "
            f"{found.dice_core[0]:.2f} (core){both} in the atlas.",
            *core_for_both(problem, "simulated tumours are compared", alone=alone),
        ]
        if stats.moved:
            text = (
                f"The prior holds the {', '.join(name.removeprefix('growth.') for name in stats.moved)} of that "
                "tumour to be next to impossible in this patient; the nearest likely value is used."
            )
            # A search goes on from there.
            notes.append(Note(text, Status.DOUBTFUL if alone else Status.GOOD))
        if words := unlike_in_fibres(problem.anatomy, along=stats.fibres):
            text = f"The simulated tumours {words}: the match resembles the patient's as far as that does not matter."
            notes.append(Note(text, Status.DOUBTFUL if alone else Status.GOOD))
        if not alone:
            return notes
        count, own = len(found.indices), float(np.cbrt(problem.anatomy.grid.voxel_volume))
        notes.append(
            "A single match has no uncertainty: the standard deviation of the density is zero."
            if count == 1
            else f"Standard deviations are those among the {count} nearest simulated tumours, not of a posterior."
        )
        if self.morphed is not None:
            notes.append("The tumour grew in the atlas and was morphed into the patient; the prior was not used.")
        elif not _ALIKE[0] < stats.voxel / own < _ALIKE[1]:
            notes.append(
                f"The simulated tumours were grown on voxels of {stats.voxel:.1f} mm, this patient's on {own:.1f} mm, "
                "where sharp fronts grow otherwise; compute on those of the database, or refine the match."
            )
        return notes

    def figures(self) -> dict[str, float | int | None]:
        """Return the number of the best match and its Dice coefficients, which are those in the atlas."""
        found = self.stats.matches
        core = float(found.dice_core[0])
        lesion = float(found.dice_lesion[0]) if self.stats.lesion else None
        return {
            "match": int(found.indices[0]),
            "match_dice_core": core,
            "match_dice_lesion": lesion,
            "match_dice_sum": None if lesion is None else core + lesion,
            "seconds_query": round(found.seconds, 4),
        }


def _where(morphed: Morphed | None) -> str:
    return "grown in the patient's brain" if morphed is None else "grown in the atlas and morphed into the patient"
