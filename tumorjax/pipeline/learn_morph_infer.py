"""From a patient and a network that knows tumours of an atlas to a method of calibration, and what its answer says."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tumorjax.anatomy import Anatomy
from tumorjax.calibration import LBFGS, Calibration, CalibrationResult, LearnMorphInfer
from tumorjax.calibration.calibrate import AbstractMethod
from tumorjax.calibration.learn_morph_infer import LearnMorphInferStats
from tumorjax.io import InputError
from tumorjax.pipeline.alignment import read_atlas
from tumorjax.pipeline.atlases import carry_from
from tumorjax.pipeline.patient import DEFAULT_ATLAS, Patient
from tumorjax.quality import Note, Status


class Learnt(NamedTuple):
    """A network, the anatomy of the atlas in which it infers, and the images of that."""

    network: Any
    anatomy: Anatomy
    images: Any


def open_network(
    file: str | os.PathLike | None = None, notes: list[str] | None = None, *, atlas: str | Path | None = None
) -> Learnt:
    """Open the network of a file with its atlas.

    Parameters
    ----------
    file
        Written by `tumorjax train inverse`; None for the weights that ship.
    notes
        Gets what had to be repaired in the atlas.
    atlas
        In which its tumours were grown, as for `tumorjax.atlas.load_atlas`; "icbm152" if not given.

    Raises
    ------
    InputError
        If it is no file of such a network, or it was not trained in that atlas.
    """
    from tumorjax.networks import SHIPPED_INVERSE, load_inverse

    if file is None and atlas not in (None, DEFAULT_ATLAS):
        raise InputError(
            f"network: the one that ships learnt tumours of {DEFAULT_ATLAS}, not of {atlas}; leave out --atlas, or "
            "give --network with the file that `tumorjax train inverse` wrote"
        )
    try:
        network = load_inverse(file or SHIPPED_INVERSE)
    except ValueError as error:
        raise InputError(f"network: {error}") from None
    images = read_atlas(atlas or DEFAULT_ATLAS, [] if notes is None else notes)
    learnt = Learnt(network, images.anatomy(network.architecture.spacing), images)
    try:
        LearnMorphInfer(network, learnt.anatomy)
    except ValueError as error:
        raise InputError(f"network: {error}; --atlas says which that is") from None
    return learnt


def inference_in(
    patient: Patient,
    learnt: Learnt,
    notes: list[str] | None = None,
    *,
    refine: bool = True,
    progress: Callable[[str, float | None], None] = lambda stage, share: None,
) -> AbstractMethod:
    """Return the method that reads a patient's parameters off the outlines.

    Parameters
    ----------
    patient
        From `load_patient`.
    learnt
        From `open_network`.
    notes
        Gets how the atlas was aligned.
    refine
        Whether a search in the patient begins at the network's answer, or this is the answer.
    progress
        Told what is done.

    Raises
    ------
    InputError
        If the atlas cannot be aligned with the patient.

    Warns
    -----
    RegistrationWarning
        If it could not be aligned well.
    """
    notes = [] if notes is None else notes
    carry = carry_from(patient, learnt.images, "network", notes, lambda message: progress(message, None))
    method = LearnMorphInfer(learnt.network, learnt.anatomy, carry=carry)
    return LBFGS(init=method) if refine else method


def inference_of(calibration: Calibration) -> LearnMorphInferStats | None:
    """Return what a network said for a calibration, or for its beginning; None if none was asked."""
    for stats in (calibration.stats, getattr(calibration.stats, "init", None)):
        if isinstance(stats, LearnMorphInferStats):
            return stats
    return None


def figures_of_inference(stats: LearnMorphInferStats) -> dict[str, float | int | None]:
    """Return figures of merit of the network's answer, before any refinement."""
    return {
        "inferred_dice_core": stats.dice_core,
        "inferred_dice_flair": stats.dice_lesion,
        "inferred_dice_sum": stats.dice_core + stats.dice_lesion,
        "seconds_network": round(stats.seconds_network, 4),
    }


def notes_on_inference(calibration: Calibration, stats: LearnMorphInferStats) -> list[str]:
    """Return what a reader should know of the network's answer."""
    notes: list[str] = [
        f"The tumour of the network's answer has Dice {stats.dice_core:.2f} (core) and {stats.dice_lesion:.2f} (whole "
        "lesion) with the patient's, grown in the patient."
    ]
    alone = calibration.result in (CalibrationResult.INFERRED, CalibrationResult.IMPLAUSIBLE)
    # A search goes on from the answer, and is judged by itself.
    status = Status.DOUBTFUL if alone else Status.GOOD
    notes += [Note(f"{message[0].upper()}{message[1:]}.", status) for message in stats.outside]
    if stats.moved:
        text = (
            f"The prior holds the {', '.join(name.removeprefix('growth.') for name in stats.moved)} that the network "
            "says to be next to impossible in this patient; the nearest likely value is used."
        )
        notes.append(Note(text, status))
    if alone:
        notes.append("The network tells no uncertainty: the standard deviation of the density is zero.")
    if calibration.result is CalibrationResult.IMPLAUSIBLE:
        notes.append(Note("That tumour is not the patient's. Refine it: leave out --no-refine.", Status.DOUBTFUL))
    return notes
