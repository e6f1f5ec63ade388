"""Atlases aligned with a patient, on the patient's computing grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.atlas import AtlasImages, ventricle_volume
from tumorjax.atlas.images import title_of
from tumorjax.atlas.ventricles import LEAST_VENTRICLES
from tumorjax.io import InputError, resample
from tumorjax.patient.alignment import read_atlas
from tumorjax.patient.images import SHARED_UNALIGNED
from tumorjax.patient.patient import DEFAULT_ATLAS, Patient
from tumorjax.patient.relatives import is_family, with_relatives
from tumorjax.patient.shift import Shift, brain_behind, carried_back, shift_of
from tumorjax.patient.tissue import HOLE, TissueSource, fill_lesion
from tumorjax.patient.transforms import transform_to
from tumorjax.patient.ventricles import compare_ventricles, patient_ventricles
from tumorjax.quality import Note, Status
from tumorjax.registration import Transform

TISSUE_TRANSFORM = "atlas_transform.tfm"
"""Name of the file of results with the transform of the atlas that the patient's tissue comes from."""

# Standard deviation (mm) along an axis of the error with which a place that a tumour hides is carried between a patient
# and an atlas by either kind of map: `python -m benchmarks carrying` measures it between healthy brains.
_PLACE_ERRORS = {"deformable": 1.7, "affine": 1.8}

_FIBRES_AS_NOW = (
    "An atlas stands for the brain before the tumour, but its fibres are the patient's as they lie now, pushed and "
    "turned by the tumour: beside one that displaces much, the directions of growth are an approximation."
)


@dataclass(frozen=True, eq=False)
class AlignedAtlas:
    """An atlas aligned with a patient, as a substitute for the patient's brain before the tumour.

    Parameters
    ----------
    name
        Name or path that the atlas was loaded by.
    anatomy
        The atlas' tissue on the patient's computing grid, float32, moved by the affine map only, so that the shape of
        its structures is preserved up to scale and shear. An atlas shows no fibres: they are the patient's, where they
        lie now.
    transform
        Map from the patient's world to the atlas'; None if they are the same.
    ventricles
        Volume of the lateral ventricles after the affine map, ml; None where it is unknown.
    file
        Name of the file of results that holds the transform; None without a transform.
    deformed
        The atlas' tissue by the whole map, with tissue in place of the tumour: the patient's tissue as it is now, with
        the patient's fibres. None where no deformation was found.
    shift
        What the T1 image shows of the displacement beside this atlas; None where it shows nothing.
    displacement
        (x, y, z, 3), mm: the push of the tumour with which `anatomy` was found from `deformed`; None where `anatomy` is
        the atlas behind an affine map.
    place_error
        mm, along each axis: standard deviation of the error with which a place is carried between patient and atlas;
        zero for a brain that is taken as it is.
    """

    name: str
    anatomy: Anatomy
    transform: Transform | None = None
    ventricles: float | None = None
    file: str | None = None
    deformed: Anatomy | None = None
    shift: Shift | None = None
    displacement: np.ndarray | None = None
    place_error: float = 0.0

    @property
    def title(self) -> str:
        """The name without the folder in which the atlas lies; see `AtlasImages.title`."""
        return title_of(self.name)

    @property
    def can_couple(self) -> bool:
        """Whether registration and growth can take turns here: the atlas is deformed, and the T1 image shows that."""
        return self.deformed is not None and self.shift is not None

    def undisplaced(self) -> "AlignedAtlas":
        """Return the atlas with the patient's tissue as it is now for the brain before the tumour: without any push."""
        if self.deformed is None:
            raise ValueError(f"the atlas {self.name} has no deformation; give a T1 image")
        return replace(self, anatomy=self.deformed, displacement=np.zeros((*self.deformed.grid.shape, 3)))

    def behind(self, displacement: np.ndarray) -> "AlignedAtlas | None":
        """Return the atlas with the brain that this push of the tumour leads back to; None if the push folds.

        Fibres are led back with the tissue, and turned by the rotation of the map.
        """
        if self.deformed is None:
            raise ValueError(
                f"the atlas {self.name} has no deformation, so no push leads back from it; give a T1 image"
            )
        anatomy = brain_behind(self.deformed, displacement)
        return None if anatomy is None else replace(self, anatomy=anatomy, displacement=np.asarray(displacement))

    def carry(self, points: np.ndarray) -> np.ndarray:
        """Map points in the patient, (n, 3) mm, to the same anatomical points in `anatomy`.

        The map from the patient to the atlas is x -> matrix (x + d(x)), and `anatomy` already includes the inverse of
        the matrix, so only the displacement d is added. In the brain that a push leads back to, that is the push.
        """
        points = np.asarray(points, float)
        if self.displacement is not None:
            return carried_back(self.displacement, self.anatomy.grid, points)
        if self.transform is None or self.transform.field is None:
            return points
        return points + self.transform.field.at(points)


def load_atlases(names: Sequence[AtlasImages | str | Path]) -> list[AtlasImages | str]:
    """Load atlases by `tumorjax.atlas.load_atlas`, and check that growth with mass effect can use them.

    Parameters
    ----------
    names
        Name, folder or file of each atlas, or its images. A name "family:N" stays, for `with_relatives`.

    Raises
    ------
    InputError
        If an atlas is unknown, given twice, or shows no ventricles.
    """
    words = [each.name if isinstance(each, AtlasImages) else each for each in names]
    places = [str(Path(name).resolve() if Path(name).exists() else name) for name in words]
    for name, place in zip(words, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"atlases: {name} is given twice; give each atlas once")
    found = [
        str(each) if is_family(each) else each if isinstance(each, AtlasImages) else read_atlas(each) for each in names
    ]
    for atlas in found:
        if not isinstance(atlas, str) and not float(atlas.csf.data.max()) >= 0.5:
            raise InputError(f"atlas {atlas.name}: has no fluid, so no ventricles; give an atlas with a map of fluid")
    return found


def align_atlases(
    patient: Patient,
    atlases: Sequence[AtlasImages | str],
    notes: list[str] | None = None,
    *,
    healthy: Literal["affine", "coupled"] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> list[AlignedAtlas]:
    """Align atlases with a patient, by the T1 image or else by the brain; without these, by their world coordinates.

    Parameters
    ----------
    patient
        The patient, from `load_patient`.
    atlases
        The atlases, from `load_atlases`; relatives of an atlas are drawn for "family:N".
    notes
        List to which notes are appended: on repairs and on the alignment of each atlas, on atlases that are left out,
        and on unsuitable ventricles.
    healthy
        What is to stand for the brain before the tumour: the atlases behind "affine" maps, as published, or "coupled"
        ones, carried by what a registration finds beyond the push of the tumour. For the latter each atlas needs to be
        deformed to a T1 image; by default it is chosen if they are.
    progress
        Function that is called with a description of each step.

    Raises
    ------
    InputError
        If an atlas has no ventricles, does not overlap the patient, or is the patient's own T1 image, or none can be
        aligned.

    Warns
    -----
    RegistrationWarning
        If an atlas could not be aligned well.
    """
    aligned, notes = [], [] if notes is None else notes
    found = with_relatives(patient, atlases, patient_ventricles, notes, progress)
    # All of them before the first alignment, which takes minutes.
    volumes, failures = [_ventricles(atlas, patient) for atlas in found], list[str]()
    for atlas, volume in zip(found, volumes, strict=True):
        transform = transform_to(patient, atlas, notes, progress)
        if transform is not None and transform.failure:
            failed = f"The alignment of the atlas {atlas.title} FAILED: {transform.failure}; it is left out."
            notes.append(Note(failed, Status.DOUBTFUL))
            failures.append(f"{atlas.title}: {transform.failure}")
            continue
        affine = None if transform is None else Transform(transform.matrix)
        source = TissueSource.of(atlas, affine)
        grid = patient.anatomy.grid
        anatomy = Anatomy(grid, *source.on(grid), fibres=patient.anatomy.fibres)
        _check_covers(atlas, anatomy, patient)
        scale = 1.0 if affine is None else float(np.linalg.det(affine.matrix[:3, :3]))
        # The atlas of the patient's tissue may be one of them.
        file = TISSUE_TRANSFORM if transform is patient.source.transform else f"atlas_transform_{len(aligned) + 1}.tfm"
        file = None if transform is None else file
        now, shift = None, None
        if healthy != "affine":
            now, shift = _deformed(patient, atlas, transform), shift_of(patient, atlas, transform)
        error = _PLACE_ERRORS["affine" if transform is None or transform.field is None else "deformable"]
        aligned.append(
            AlignedAtlas(atlas.name, anatomy, transform, volume / scale, file, now, shift, place_error=error)
        )
    if not aligned:
        why = "; ".join(failures)
        raise InputError(f"atlases: none can be aligned with the patient ({why}); check the images, or give others")
    if patient.cavity is not None:
        # Atlases represent the brain before the tumour, and so before surgery.
        notes.append(
            Note(
                "The atlases have tissue where the patient has a resection cavity: growth with mass effect is "
                "calibrated as if nothing had been resected.",
                Status.DOUBTFUL,
            )
        )
    compare_ventricles(patient, {each.name: each.ventricles for each in aligned}, notes, progress)
    return as_asked(patient, aligned, healthy, notes)


def as_asked(
    patient: Patient,
    atlases: Sequence[AlignedAtlas],
    healthy: Literal["affine", "coupled"] | None,
    notes: list[str],
) -> list[AlignedAtlas]:
    """Return aligned atlases such that registration and growth take turns only where that is wanted.

    A doubtful note says why they cannot, if `healthy` is "coupled"; see `align_atlases`. Another note says that fibres
    are where the tumour has pushed them, if they do not take turns.
    """
    lacking = [atlas for atlas in atlases if healthy == "affine" or not atlas.can_couple]
    if lacking and patient.anatomy.fibres is not None:
        notes.append(_FIBRES_AS_NOW)
    if healthy == "affine":
        return [replace(atlas, deformed=None, shift=None) for atlas in atlases]
    if healthy == "coupled" and lacking:
        names = ", ".join(atlas.title for atlas in lacking)
        if "T1" not in patient.images:
            why = "there is no T1 image"
        elif any(atlas.deformed is None for atlas in lacking):
            why = f"{names} could not be deformed to the T1 image"
        else:
            why = f"the T1 image shows nothing of the displacement beside {names}"
        text = f"Registration and growth do not take turns, because {why}: atlases lie behind affine maps instead."
        notes.append(Note(text, Status.DOUBTFUL))
    return list(atlases)


def brain_before(
    patient: Patient,
    atlas: AtlasImages | str | Path = DEFAULT_ATLAS,
    notes: list[str] | None = None,
    *,
    healthy: Literal["affine", "coupled"] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> AlignedAtlas:
    """Return an atlas that stands for the patient's brain before the tumour, on the computing grid.

    A model that displaces tissue begins there. The patient's own tissue would not do: it is displaced already, so that
    every force beyond zero would make the fit worse. For the same reason the atlas is moved by an affine map alone.

    Parameters
    ----------
    patient
        From `load_patient`.
    atlas
        A name, a folder or a file, as for `tumorjax.atlas.load_atlas`, or the images of an atlas.
    notes
        Receives what `align_atlases` notes.
    healthy
        See `align_atlases`.
    progress
        Receives what is being done.

    Raises
    ------
    InputError
        If the atlas cannot stand for the brain before the tumour; see `load_atlases` and `align_atlases`.

    Warns
    -----
    RegistrationWarning
        If the atlas could not be aligned well.
    """
    (aligned,) = align_atlases(patient, load_atlases([atlas]), notes, healthy=healthy, progress=progress)
    return aligned


def _deformed(patient: Patient, atlas: AtlasImages, transform: Transform | None) -> Anatomy | None:
    """Return the patient's tissue as it is now: the patient's own, or that of an atlas by the whole map."""
    if transform is None or transform.field is None:
        return None
    if patient.source.own or transform is patient.source.transform:
        return patient.anatomy
    grid = patient.anatomy.grid
    brain = resample(patient.brain, patient.reference.affine, grid, kind="mean") >= 0.5
    inside = brain | (patient.lesion_fraction > 0)
    white, grey, csf = (each * inside for each in TissueSource.of(atlas, transform).on(grid))
    maps, _ = fill_lesion((white, grey, csf), patient.lesion_fraction, float(np.asarray(grid.spacing)[0]))
    return Anatomy(grid, *maps, fibres=patient.anatomy.fibres)


def _ventricles(atlas: AtlasImages, patient: Patient) -> float:
    """Return the volume of the lateral ventricles of an atlas, ml, or raise an InputError where it cannot be used."""
    t1 = patient.images.get("T1")
    if t1 is not None and atlas.t1.path and t1.path and Path(atlas.t1.path).resolve() == Path(t1.path).resolve():
        raise InputError(
            f"atlas {atlas.name}: is the patient's own T1 image, in which the tumour has displaced the tissue already; "
            "give a healthy brain"
        )
    volume = ventricle_volume(atlas)
    if volume < LEAST_VENTRICLES:
        raise InputError(
            f"atlas {atlas.name}: has ventricles of {volume:.1f} ml, but growth with mass effect needs ventricles; "
            "check its T1 image and map of fluid, or give another atlas"
        )
    return volume


def _check_covers(atlas: AtlasImages, anatomy: Anatomy, patient: Patient) -> None:
    covered = np.asarray(anatomy.white_matter + anatomy.grey_matter + anatomy.csf) >= HOLE
    inside = float(patient.lesion_fraction[covered].sum() / patient.lesion_fraction.sum())
    if inside < SHARED_UNALIGNED:
        raise InputError(f"atlas {atlas.name}: contains {inside:.0%} of the lesion; give a T1 image or a brain mask")
