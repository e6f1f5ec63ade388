"""Synthetic relatives of an atlas, for who has one atlas only: chosen by the volume of their ventricles."""

import warnings
from collections.abc import Callable, Sequence

from tumorjax.atlas import AtlasImages, AtlasWarning, atlas_family, choose_atlases, ventricle_volume
from tumorjax.atlas.ventricles import LEAST_VENTRICLES
from tumorjax.io import InputError
from tumorjax.patient.alignment import read_atlas
from tumorjax.patient.patient import DEFAULT_ATLAS, Patient

_PREFIX, _MOST = "family:", 20
# So many relatives are drawn for each that is chosen; always the same ones.
_DRAWN, _SEED = 3, 20260


def is_family(name: object) -> bool:
    """Return whether a name is "family:N", which stands for N relatives.

    Raises
    ------
    InputError
        If N is no number from 1 to 20.
    """
    return isinstance(name, str) and name.startswith(_PREFIX) and family_size(name) > 0


def family_size(name: str) -> int:
    """Return N of the name "family:N"; see `is_family`."""
    text = name.removeprefix(_PREFIX)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST):
        raise InputError(f"atlases: got {name}; give family:N with N from 1 to {_MOST}")
    return int(text)


def with_relatives(
    patient: Patient,
    atlases: Sequence[AtlasImages | str],
    ventricles: Callable[[Patient], float],
    notes: list[str],
    progress: Callable[[str], None],
) -> list[AtlasImages]:
    """Return atlases with relatives in place of each "family:N".

    Relatives are random smooth deformations of the atlas of the patient's tissue, or else of ICBM152, of 4 mm root mean
    square (`tumorjax.atlas.atlas_family`). Three times as many are drawn, and those whose ventricles suit the patient's
    are chosen (`tumorjax.atlas.choose_atlases`); the first ones where the patient's are not known.

    Parameters
    ----------
    patient
        The patient.
    atlases
        Images, and names "family:N", as of `tumorjax.patient.atlases.load_atlases`.
    ventricles
        Function that returns the volume of a patient's ventricles, ml.
    notes
        Receives which relatives stand for the brain, and where few are suitable.
    progress
        Receives what is being done.
    """
    found: list[AtlasImages] = []
    for each in atlases:
        if isinstance(each, AtlasImages):
            found.append(each)
        else:
            found += _chosen(patient, family_size(each), ventricles, notes, progress)
    return found


def _chosen(
    patient: Patient,
    count: int,
    ventricles: Callable[[Patient], float],
    notes: list[str],
    progress: Callable[[str], None],
) -> list[AtlasImages]:
    base = patient.source.atlas or read_atlas(DEFAULT_ATLAS)
    volume = ventricles(patient) if patient.shows_fluid else 0.0
    known = volume >= LEAST_VENTRICLES
    drawn: list[AtlasImages] = []
    for relative, _ in atlas_family(base, _SEED, count * _DRAWN if known else count):
        drawn.append(relative)
        progress(f"drawing relatives of the atlas {base.title}: {len(drawn)}")
    if not known:
        notes.append(
            f"{count} random relatives of the atlas {base.title} stand for the brain before the tumour; the patient's "
            "ventricles are not known, so they are not chosen by these."
        )
        return drawn
    volumes = [ventricle_volume(each) for each in drawn]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AtlasWarning)
        chosen = choose_atlases(volume, drawn, count, volumes=volumes)
    notes += [f"{each.message}." for each in caught if issubclass(each.category, AtlasWarning)]
    notes.append(
        f"{count} of {len(drawn)} random relatives of the atlas {base.title} stand for the brain before the tumour, "
        f"chosen by the patient's ventricles of {volume:.0f} ml."
    )
    return chosen
