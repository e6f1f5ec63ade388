"""The answer of a network that has learnt the inverse problem, as a calibration."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.cost import Cost
from tumorjax.calibration.draws import Tumour
from tumorjax.calibration.maps import Maps
from tumorjax.calibration.problem import Problem
from tumorjax.methods.from_atlas.morphing import Morphed, core_for_both, unlike_in_fibres
from tumorjax.quality import Note, Status


class LearnMorphInferStats(NamedTuple):
    """What the network said, and what one solve of the growth model says of it.

    Parameters
    ----------
    inferred
        The network's answer by name, corrected; x, y and z are voxel indices of the atlas.
    dice_core, dice_lesion
        Dice coefficients of the patient's outlines with those of the tumour that grows from the answer in the patient,
        or is morphed into it, at the thresholds where they are largest; None for a lesion that is not outlined.
    moved
        Which parameters the prior holds to be next to impossible, so that they were moved to where it does not.
    outside
        What about this patient the network has not learnt, in words.
    seconds_network
        From outlines in the atlas to parameters.
    plausible
        Whether that tumour's lesion resembles the patient's; its core where that alone is outlined.
    """

    inferred: dict[str, float]
    dice_core: float
    dice_lesion: float | None
    moved: tuple[str, ...]
    outside: tuple[str, ...]
    seconds_network: float
    plausible: bool


class Inferred(Calibration):
    """The parameters that a network reads off the outlines; nothing is known of their uncertainty.

    `stats` are `LearnMorphInferStats`.

    Parameters
    ----------
    morphed
        The tumour that grew in the atlas, morphed into the patient; None where it grows in the patient.
    """

    morphed: Morphed | None = None

    @property
    def fitted(self) -> bool:
        """False: the network has seen the outlines, but no search has fitted its answer to them."""
        return False

    @property
    def plausible(self) -> bool:
        """Whether the tumour that grows from the answer resembles the patient's."""
        return self.stats.plausible

    @property
    def description(self) -> str:
        """Where the parameters come from, in words."""
        return "parameters given by a network"

    @property
    def beginning(self) -> str:
        """What a search that begins with this answer begins from, in words."""
        return "a network's answer"

    @property
    def estimate(self) -> str:
        """What the values of the estimates are, in words."""
        return "those that a network gave; nothing is known of their standard deviations"

    def maps(
        self,
        problem: Problem,
        thresholds: Sequence[float] = (),
        progress: Callable[[float], None] = lambda share: None,
    ) -> Maps:
        """Return density and displacement of the answer, grown in the patient or morphed into it."""
        if self.morphed is not None:
            return self.morphed.maps(Cost())
        return super().maps(problem, thresholds, progress)

    def tumours(self, problem: Problem) -> list[Tumour]:
        """Return the tumour that grows in the patient; none where it was morphed into it."""
        return super().tumours(problem) if self.morphed is None else []

    def notes(self, problem: Problem, *, alone: bool = True) -> list[str]:
        """Return how well the tumour of the answer meets the outlines, and what limits the answer alone."""
        stats: LearnMorphInferStats = self.stats
        where = "grown in the patient" if self.morphed is None else "grown in the atlas and morphed into the patient"
        both = "" if stats.dice_lesion is None else f" and {stats.dice_lesion:.2f} (whole lesion)"
        notes: list[str] = [
            f"The tumour of the network's answer has Dice {stats.dice_core:.2f} (core){both} with the patient's, "
            f"{where}.",
            *core_for_both(problem, "the network knows tumours", alone=alone),
        ]
        # A search goes on from the answer, and is judged by itself.
        status = Status.DOUBTFUL if alone else Status.GOOD
        notes += [Note(f"{message[0].upper()}{message[1:]}.", status) for message in stats.outside]
        if words := unlike_in_fibres(problem.anatomy, along=False):
            text = f"The tumours that the network has learnt {words}: its answer knows nothing of fibres."
            notes.append(Note(text, status))
        if stats.moved:
            text = (
                f"The prior holds the {', '.join(name.removeprefix('growth.') for name in stats.moved)} that the "
                "network gives to be next to impossible in this patient; the nearest likely value is used."
            )
            notes.append(Note(text, status))
        if alone:
            notes.append("The network gives no uncertainty: the standard deviation of the density is zero.")
            if not stats.plausible:
                text = "That tumour is not the patient's. Refine it: leave out --no-refine and --morph."
                notes.append(Note(text, Status.DOUBTFUL))
        return notes

    def figures(self) -> dict[str, float | int | None]:
        """Return how well the tumour of the network's answer meets the outlines, before any refinement."""
        stats = self.stats
        return {
            "inferred_dice_core": stats.dice_core,
            "inferred_dice_lesion": stats.dice_lesion,
            "inferred_dice_sum": None if stats.dice_lesion is None else stats.dice_core + stats.dice_lesion,
            "seconds_network": round(stats.seconds_network, 4),
        }
