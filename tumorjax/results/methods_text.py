"""The paragraph on methods that a publication needs, made from what was done, with the works that it rests on."""

from collections.abc import Sequence

import numpy as np

from tumorjax.calibration import Calibration
from tumorjax.methods.registry import methods
from tumorjax.patient.patient import Patient
from tumorjax.planning import millilitres
from tumorjax.registration import ENGINES
from tumorjax.results.personalization import Personalization

_MARGIN = (
    "M. Niyazi et al., ESTRO-EANO guideline on target delineation and radiotherapy details for glioblastoma, "
    "Radiotherapy and Oncology 184 (2023) 109663."
)
_ATLASES = {
    "icbm152": "V. S. Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54 "
    "(2011) 313-327."
}


class _Cited:
    """Works in the order in which they are cited first."""

    def __init__(self) -> None:
        self.works: list[str] = []

    def __call__(self, works: Sequence[str]) -> str:
        """Return the numbers of works as they stand in a sentence, with a space before; nothing for none."""
        self.works += [work for work in works if work not in self.works]
        return f" [{', '.join(str(1 + self.works.index(work)) for work in works)}]" if works else ""


def methods_text(result: Personalization, versions: str) -> tuple[list[str], list[str]]:
    """Return paragraphs that say what was done, and the works that they cite by number.

    Parameters
    ----------
    result
        From `personalize`.
    versions
        Names and versions of the software, separated by commas.
    """
    cited, patient = _Cited(), result.patient
    spacing = " x ".join(f"{h:g}" for h in np.asarray(patient.anatomy.grid.spacing))
    model, calibration = result.model, result.calibration
    summary = f": {model.summary}" if model.summary else ""
    plan = (
        "The result has failed, so that no target volume was derived from it."
        if result.plan is None
        else "The model's target volume consists of as many voxels of the brain, those of highest density, with the "
        "core among them."
    )
    paragraphs = [
        _images(patient, cited),
        f"Growth was described by the {_lower(model.title)}{cited(model.references)}{summary}. It was solved on voxels "
        f"of {spacing} mm. {_calibrated(calibration, cited)} The outline of each region was modelled as the surface on "
        "which the density equals a threshold, which was estimated with the other parameters. Estimates: "
        f"{calibration.estimate}.",
        f"The clinical target volume is the core with a margin of {result.margin:g} mm inside the brain"
        f"{cited([_MARGIN])}. {plan}",
        f"Software: {versions}.",
    ]
    return paragraphs, cited.works


def _images(patient: Patient, cited: _Cited) -> str:
    spacing = np.asarray(patient.reference.grid.spacing)
    sizes = {name: millilitres(mask, spacing) for name, mask in patient.outlines.items()}
    words = {"core": "tumour core", "lesion": "whole lesion"}
    outlined = " and ".join(f"{words[name]} ({size:.1f} ml)" for name, size in sizes.items())
    names = [name for name in patient.images if name != "segmentation"]
    images = f" Further images: {', '.join(names)}." if names else ""
    days = f" on {len(patient.visits)} days" if patient.earlier else ""
    verb = "was" if len(sizes) == 1 else "were"
    return f"The {outlined} {verb} outlined{days}.{images} {_tissue(patient, cited)}"


def _tissue(patient: Patient, cited: _Cited) -> str:
    source = patient.source
    if source.atlas is None:
        return "Maps of the patient's tissue were given."
    atlas = (
        f"the atlas {source.atlas.title}{cited([_ATLASES[name]] if (name := source.atlas.name) in _ATLASES else [])}"
    )
    if source.transform is None:
        return f"Healthy tissue was taken from {atlas}, which shares the patient's world."
    engine = ENGINES[patient.registration]
    how = "an affine map"
    if source.transform.field is not None:
        how += f" and a deformation ({patient.registration}{cited(engine.references)})"
    reached = source.transform.after
    quality = f"; {source.transform.measure} {reached:.2f}" if np.isfinite(reached) else ""
    own = " It helped to segment the tissue in the T1 image." if source.segmented is not None else ""
    return f"Healthy tissue was taken from {atlas}, aligned with the patient by {how}{quality}.{own}"


def _calibrated(calibration: Calibration, cited: _Cited) -> str:
    """Return how parameters were found, with the works of each method that took part."""
    known = {kind.title: kind.references for kind in methods().values()}
    works, begun = [], calibration
    while begun is not None:
        works += [work for work in known.get(begun.method, ()) if work not in works]
        begun = begun.begun
    return f"The model was {calibration.description}{cited(works)}."


def _lower(title: str) -> str:
    """Return a title inside a sentence: names of people keep their capital."""
    first = title.split(maxsplit=1)[0]
    return title if "-" in first or not first[1:].islower() else title[0].lower() + title[1:]
