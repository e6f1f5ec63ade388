"""Atlases beside a patient: aligned with the images, on the patient's computing grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.atlas import AtlasImages, ventricle_mask, ventricle_volume
from tumorjax.atlas.images import from_maps
from tumorjax.atlas.ventricles import LARGEST_RATIO, LEAST_VENTRICLES, are_suitable
from tumorjax.io import InputError
from tumorjax.pipeline.alignment import align_atlas, quality, read_atlas
from tumorjax.pipeline.images import SHARED_UNALIGNED
from tumorjax.pipeline.patient import Patient
from tumorjax.pipeline.tissue import HOLE, TissueSource, as_t1
from tumorjax.quality import Note, Status
from tumorjax.registration import Transform, warp

# Relative error of the volume of segmented ventricles; heuristic.
_VENTRICLES_ERROR = 0.05


@dataclass(frozen=True, eq=False)
class AlignedAtlas:
    """A healthy brain that stands for the patient's before the tumour.

    Parameters
    ----------
    name
        What the atlas was asked for by.
    anatomy
        Its tissue on the patient's computing grid, float32, moved by the affine map alone: apart from size and
        posture the atlas stays as it is.
    transform
        Maps the patient's world to the atlas'; None if they are the same.
    ventricles
        ml, of the lateral ventricles after the affine map.
    """

    name: str
    anatomy: Anatomy
    transform: Transform | None
    ventricles: float

    def carry(self, points: np.ndarray) -> np.ndarray:
        """Map places in the patient, (n, 3) mm, to the same anatomical places in `anatomy`.

        The map from the patient to the atlas is x -> matrix (x + d(x)), and the matrix is undone in `anatomy`.
        """
        points = np.asarray(points, float)
        if self.transform is None or self.transform.field is None:
            return points
        return points + self.transform.field.at(points)


def load_atlases(names: Sequence[str | Path], notes: list[str]) -> list[AtlasImages]:
    """Read atlases as `tumorjax.atlas.load_atlas` does, and check that growth with mass effect can use them.

    Parameters
    ----------
    names
        Of the atlases: each a name, a folder or a file.
    notes
        Gets what had to be repaired.

    Raises
    ------
    InputError
        If an atlas is unknown, given twice, or shows no ventricles.
    """
    places = [str(Path(name).resolve() if Path(name).exists() else name) for name in names]
    for name, place in zip(names, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"atlases: {name} is given twice; give each atlas once")
    found = [read_atlas(name, notes) for name in names]
    for atlas in found:
        if not float(atlas.csf.data.max()) >= 0.5:
            raise InputError(f"atlas {atlas.name}: shows no fluid, so no ventricles; give an atlas with a map of it")
    return found


def align_atlases(
    patient: Patient,
    atlases: Sequence[AtlasImages],
    notes: list[str] | None = None,
    *,
    progress: Callable[[str], None] = lambda message: None,
) -> list[AlignedAtlas]:
    """Bring atlases to a patient: by the T1 image, else by the brain, else as they lie.

    Parameters
    ----------
    patient
        From `load_patient`.
    atlases
        From `load_atlases`.
    notes
        Gets what a reader should know: how each was aligned, which are left out, whose ventricles do not suit.
    progress
        Told what is done.

    Raises
    ------
    InputError
        If an atlas shows no ventricles or does not lie where the patient does, or none can be aligned.

    Warns
    -----
    RegistrationWarning
        If an atlas could not be aligned well.
    """
    aligned, notes = [], [] if notes is None else notes
    for atlas in atlases:
        volume = ventricle_volume(atlas)
        if volume < LEAST_VENTRICLES:
            raise InputError(
                f"atlas {atlas.name}: shows ventricles of {volume:.1f} ml; growth with mass effect needs them, "
                "so check its T1 image and map of fluid, or give another atlas"
            )
        transform = transform_to(patient, atlas, notes, progress)
        if transform is not None and transform.failure:
            failed = f"The alignment of the atlas {atlas.name} FAILED: {transform.failure}; it is left out."
            notes.append(Note(failed, Status.DOUBTFUL))
            continue
        affine = None if transform is None else Transform(transform.matrix)
        source = TissueSource.of(atlas, affine)
        grid = patient.anatomy.grid
        anatomy = Anatomy(grid, *source.on(grid))
        _check_covers(atlas, anatomy, patient)
        scale = 1.0 if affine is None else float(np.linalg.det(affine.matrix[:3, :3]))
        aligned.append(AlignedAtlas(atlas.name, anatomy, transform, volume / scale))
    if not aligned:
        raise InputError(f"atlases: none can be aligned with the patient; {notes[-1]}")
    if patient.cavity is not None:
        # Atlases show the brain before the tumour, and so before surgery.
        notes.append(
            Note(
                "The atlases have tissue where the patient has a resection cavity: growth with mass effect is "
                "calibrated as if nothing had been resected.",
                Status.DOUBTFUL,
            )
        )
    _compare_ventricles(patient, aligned, notes, progress)
    return aligned


def transform_to(
    patient: Patient, atlas: AtlasImages, notes: list[str], progress: Callable[[str], None]
) -> Transform | None:
    """Return the map from a patient's world to an atlas'; None if the atlas is taken to lie where the patient does.

    It is the one of the patient's tissue where that is from the same atlas. A note says how it was found, unless it
    failed, which it tells itself.
    """
    own = patient.source.atlas
    if own is not None and own.name == atlas.name:
        return patient.source.transform
    t1, mask = patient.images.get("T1"), patient.images.get("brain mask")
    if t1 is None and mask is None:
        if not patient.source.own:
            notes.append(f"The atlas {atlas.name} is taken to lie in the patient's world; a T1 image would align it.")
            return None
        # The patient's own maps show the brain.
        mask = replace(patient.reference, data=patient.brain)
    target = "T1 image" if t1 is not None else "brain mask" if "brain mask" in patient.images else "brain"
    progress(f"aligning the atlas {atlas.name} with the {target}")
    transform = align_atlas(atlas, t1, mask, patient.lesion, patient.has_skull, notes)
    if not transform.failure:
        notes.append(f"The atlas {atlas.name} is aligned with the {target} by {quality(transform)}.")
    return transform


def carry_from(
    patient: Patient, atlas: AtlasImages, what: str, notes: list[str], progress: Callable[[str], None]
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what maps places of an atlas, (n, 3) mm, to those of the patient; None where they are the same.

    Raises
    ------
    InputError
        If the atlas cannot be aligned; `what` needs it.
    """
    transform = transform_to(patient, atlas, notes, progress)
    if transform is None:
        return None
    if transform.failure:
        raise InputError(
            f"{what}: its atlas {atlas.name} cannot be aligned with the patient: {transform.failure}; check the "
            "images, or give --brain-mask"
        )
    return transform.inverse().apply


def _check_covers(atlas: AtlasImages, anatomy: Anatomy, patient: Patient) -> None:
    covered = np.asarray(anatomy.white_matter + anatomy.grey_matter + anatomy.csf) >= HOLE
    inside = float(patient.flair_fraction[covered].sum() / patient.flair_fraction.sum())
    if inside < SHARED_UNALIGNED:
        raise InputError(f"atlas {atlas.name}: holds {inside:.0%} of the lesion; give a T1 image or a brain mask")


def _compare_ventricles(
    patient: Patient, atlases: list[AlignedAtlas], notes: list[str], progress: Callable[[str], None]
) -> None:
    if not patient.shows_fluid:
        return
    progress("comparing ventricles")
    volume = patient_ventricles(patient)
    if volume < LEAST_VENTRICLES:
        notes.append("The patient's ventricles are not found, so those of the atlases are not compared with them.")
        return
    # One that is smaller by no more than the error of a volume may still suit.
    factors = (1, 1 + _VENTRICLES_ERROR)
    odd = [atlas for atlas in atlases if not any(are_suitable(f * atlas.ventricles / volume) for f in factors)]
    # One of several may stand for the extremes; without any that suits, nothing stands for the patient.
    status = Status.DOUBTFUL if len(odd) == len(atlases) else Status.GOOD
    for atlas in odd:
        text = (
            f"The atlas {atlas.name} has ventricles of {atlas.ventricles:.0f} ml, the patient {volume:.0f} ml; "
            f"suitable atlases have from once to {LARGEST_RATIO} times the patient's."
        )
        notes.append(Note(text, status))


def patient_ventricles(patient: Patient) -> float:
    """Return the volume of a patient's lateral ventricles, ml; zero where none are found."""
    source, grid = patient.source, patient.reference.grid
    millilitres = float(grid.voxel_volume) / 1000
    if source.atlas is not None and source.transform is not None:
        mask = replace(source.atlas.csf, data=ventricle_mask(source.atlas))
        return float(warp(mask, source.transform, grid, kind="mean").sum()) * millilitres
    white, grey, csf = source.on(grid)
    if source.csf is None:
        csf = np.clip(patient.brain - white - grey, 0, 1)
    maps = np.stack([white, grey, csf]) * patient.brain
    return ventricle_volume(from_maps("patient", replace(patient.reference, data=as_t1(maps)), maps))
