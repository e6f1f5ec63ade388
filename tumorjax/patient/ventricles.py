"""The lateral ventricles of a patient, and whether those of atlases suit them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tumorjax.atlas import ventricle_mask, ventricle_volume
from tumorjax.atlas.images import from_maps, title_of
from tumorjax.atlas.ventricles import LARGEST_RATIO, LEAST_VENTRICLES, are_suitable, ventricles_in
from tumorjax.patient.patient import Patient
from tumorjax.patient.tissue import as_t1
from tumorjax.quality import Note, Status
from tumorjax.registration import warp, warp_all

# Assumed relative error of the volume of segmented ventricles.
_VENTRICLES_ERROR = 0.05


def patient_ventricles(patient: Patient) -> float:
    """Return the volume of a patient's lateral ventricles, ml; zero if none are found."""
    source, grid = patient.source, patient.reference.grid
    millilitres = float(grid.voxel_volume) / 1000
    if source.atlas is not None and source.transform is not None:
        mask = replace(source.atlas.csf, data=ventricle_mask(source.atlas))
        if source.segmented is None:
            return float(warp(mask, source.transform, grid, kind="mean").sum()) * millilitres
        other = replace(mask, data=(source.atlas.csf.data >= 0.5) & ~mask.data)
        fluid, grid = source.segmented[2], source.segmented[2].grid
        core, rest = (part >= 0.5 for part in warp_all([mask, other], source.transform, grid, kind="mean"))
        found = ventricles_in(fluid.data >= 0.5, core, rest, grid)
        return float(found.sum() * grid.voxel_volume) / 1000
    white, grey, csf = source.on(grid)
    if source.csf is None:
        csf = np.clip(patient.brain - white - grey, 0, 1)
    maps = np.stack([white, grey, csf]) * patient.brain
    return ventricle_volume(from_maps("patient", replace(patient.reference, data=as_t1(maps)), maps))


def compare_ventricles(
    patient: Patient, atlases: Mapping[str, float | None], notes: list[str], progress: Callable[[str], None]
) -> None:
    """Note where the ventricles of atlases are too small or too large for a patient's.

    Parameters
    ----------
    patient
        From `load_patient`; nothing is compared where no image shows its fluid.
    atlases
        Volumes of the lateral ventricles by the atlases' names, ml; None where they are unknown.
    notes
        Receives what is found.
    progress
        Receives what is being done.
    """
    if not patient.shows_fluid:
        return
    progress("comparing ventricles")
    volume = patient_ventricles(patient)
    if volume < LEAST_VENTRICLES:
        notes.append("The patient's ventricles were not found, so those of the atlases are not compared with them.")
        return
    # A smaller volume may still be suitable within the error of the patient's volume.
    factors = (1, 1 + _VENTRICLES_ERROR)
    known = {name: own for name, own in atlases.items() if own is not None}
    odd = {name: own for name, own in known.items() if not any(are_suitable(f * own / volume) for f in factors)}
    # It is enough if one of several atlases is suitable; without any, the results are doubtful.
    status = Status.DOUBTFUL if len(odd) == len(atlases) else Status.GOOD
    for name, own in odd.items():
        text = (
            f"The atlas {title_of(name)} has ventricles of {own:.0f} ml, the patient {volume:.0f} ml; "
            f"suitable atlases have between 1 and {LARGEST_RATIO} times the patient's volume."
        )
        notes.append(Note(text, status))
