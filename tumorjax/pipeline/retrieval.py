"""From a patient and a database of simulated tumours to a method of calibration, and what its matches say."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from tumorjax.atlas import AtlasImages
from tumorjax.calibration import LBFGS, Calibration, Problem, Retrieval, index_of
from tumorjax.calibration.calibrate import AbstractMethod
from tumorjax.calibration.calibration import CalibrationResult
from tumorjax.calibration.evaluation import evaluate, fields
from tumorjax.calibration.index import DamagedIndex
from tumorjax.calibration.retrieval import RetrievalStats
from tumorjax.ensemble import Database
from tumorjax.io import InputError
from tumorjax.pipeline.alignment import noting, read_atlas
from tumorjax.pipeline.atlases import carry_from
from tumorjax.pipeline.patient import DEFAULT_ATLAS, Patient
from tumorjax.pipeline.tissue import TissueSource
from tumorjax.quality import Note, Status

# Tissue that was resampled by other versions of libraries, or on another processor, differs by rounding.
_SAME = 1e-3
# A tumour whose front is sharp is another on voxels of another size; between these ratios it hardly is.
_ALIKE = (0.8, 1.25)


class Simulated(NamedTuple):
    """Simulated tumours, and the images of the atlas in which they were grown."""

    database: Database
    atlas: AtlasImages


def open_simulated(
    place: str | os.PathLike, notes: list[str] | None = None, *, atlas: str | Path | None = None
) -> Simulated:
    """Open a database of simulated tumours with its atlas.

    Parameters
    ----------
    place
        Folder or URL of the database.
    notes
        Gets what had to be repaired in the atlas.
    atlas
        In which the database was made, as for `tumorjax.atlas.load_atlas`; "icbm152" if not given.

    Raises
    ------
    InputError
        If the database was made in another atlas.
    ValueError
        If there is no database, it is not finished, or it is damaged.
    """
    notes = [] if notes is None else notes
    database, healthy = Database.open(place), read_atlas(atlas or DEFAULT_ATLAS, notes)
    own = database.anatomy
    maps = zip((own.white_matter, own.grey_matter, own.csf), TissueSource.of(healthy).on(database.grid), strict=True)
    if max(float(np.abs(np.asarray(made) - found).max()) for made, found in maps) > _SAME:
        raise InputError(f"database: {place} was made in another atlas than {healthy.name}; name it with --atlas")
    return Simulated(database, healthy)


def retrieval_in(
    patient: Patient,
    simulated: Simulated,
    notes: list[str] | None = None,
    *,
    matches: int = 1,
    variant: str = "direct",
    refine: bool = True,
    progress: Callable[[str, float | None], None] = lambda stage, share: None,
) -> AbstractMethod:
    """Return the method that looks a patient's tumour up among simulated ones.

    Parameters
    ----------
    patient
        From `load_patient`.
    simulated
        From `open_simulated`.
    notes
        Gets how the atlas was aligned, and whether the voxels differ from the database's.
    matches
        Simulated tumours to find.
    variant
        How outlines are compared; see `tumorjax.retrieval.query`.
    refine
        Whether searches in the patient begin at the matches, or these are the answer.
    progress
        Told what is done, and the share of it where that is known.

    Raises
    ------
    InputError
        If the atlas cannot be aligned with the patient.

    Warns
    -----
    RegistrationWarning
        If it could not be aligned well.
    """
    database, atlas = simulated
    notes = [] if notes is None else notes
    carry = carry_from(patient, atlas, "database", notes, lambda message: progress(message, None))
    with noting(DamagedIndex, notes):
        index = index_of(
            database, variants=[variant], progress=lambda share: progress("indexing the simulated tumours", share)
        )
    method = Retrieval(database, index, carry=carry, k=matches, variant=variant)
    if refine:
        return LBFGS(init=method)
    made, own = (float(np.cbrt(grid.voxel_volume)) for grid in (database.grid, patient.anatomy.grid))
    if not _ALIKE[0] < made / own < _ALIKE[1]:
        notes.append(
            f"The simulated tumours were grown on voxels of {made:.1f} mm, this patient's on {own:.1f} mm, where sharp "
            "fronts grow otherwise; compute on those of the database, or refine the match."
        )
    return method


def match_of(calibration: Calibration) -> RetrievalStats | None:
    """Return which simulated tumours a calibration found, or began with; None if it did not look any up."""
    for stats in (calibration.stats, getattr(calibration.stats, "init", None)):
        if isinstance(stats, RetrievalStats):
            return stats
    return None


def figures_of_match(stats: RetrievalStats) -> dict[str, float | int | None]:
    """Return figures of merit of the best match, whose Dice coefficients are those in the atlas."""
    core, lesion = (float(dice[0]) for dice in (stats.matches.dice_core, stats.matches.dice_lesion))
    return {
        "match": int(stats.matches.indices[0]),
        "match_dice_core": core,
        "match_dice_flair": lesion,
        "match_dice_sum": core + lesion,
        "seconds_query": round(stats.matches.seconds, 4),
    }


def notes_on_match(calibration: Calibration, stats: RetrievalStats) -> list[str]:
    """Return what a reader should know of the matches."""
    found = stats.matches
    notes: list[str] = [
        f"Of {stats.tumours} simulated tumours number {found.indices[0]} resembles the patient's most: Dice "
        f"{found.dice_core[0]:.2f} (core) and {found.dice_lesion[0]:.2f} (whole lesion) in the atlas."
    ]
    alone = calibration.result is CalibrationResult.MATCHED
    if stats.moved:
        text = (
            f"The prior holds the {', '.join(name.removeprefix('growth.') for name in stats.moved)} of that tumour to "
            "be next to impossible in this patient; the nearest likely value is used."
        )
        # A search goes on from there.
        notes.append(Note(text, Status.DOUBTFUL if alone else Status.GOOD))
    if alone:
        count = len(found.indices)
        notes.append(
            "A single match has no uncertainty: the standard deviation of the density is zero."
            if count == 1
            else f"Standard deviations are those among the {count} nearest simulated tumours, not of a posterior."
        )
    return notes


def maps_of_matches(
    problem: Problem, calibration: Calibration
) -> tuple[Float[np.ndarray, "x y z"], Float[np.ndarray, "x y z"], int]:
    """Return the density of the best match, grown in the patient, its standard deviation over all, and the solves."""
    points = [calibration.coordinates]
    if calibration.samples is not None:
        points = np.asarray(jax.vmap(problem.prior.unconstrain)(calibration.samples))
    densities = np.stack([np.asarray(evaluate(fields, problem, np.asarray(z)).density) for z in points])
    return densities[0], np.std(densities, axis=0), len(densities)
