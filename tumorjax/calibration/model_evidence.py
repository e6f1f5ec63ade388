"""Models compared by their evidence for the same images."""

import hashlib
import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

if TYPE_CHECKING:
    from tumorjax.calibration.calibration import Calibration
    from tumorjax.calibration.problem import Problem

_HEAD = ("model", "log-evidence, nat", "± error", "probability", "against the best")
# Differences of log-evidence up to which one model is no better, somewhat better, and clearly better than another.
_GRADES = ((1.0, "no worse"), (2.5, "somewhat worse"), (5.0, "clearly worse"))
_WORST = "much worse"


class Evidence(NamedTuple):
    """The evidence of a model: the probability density of the images, averaged over its prior.

    Parameters
    ----------
    value
        Its logarithm, nat.
    error
        Standard error of the logarithm, nat; NaN where unknown, as in a Laplace approximation.
    kind
        "draws" or "laplace": what estimates it.
    """

    value: float
    error: float
    kind: Literal["draws", "laplace"] = "draws"


def laplace_evidence(objective: float, covariance: Any) -> Evidence:
    """Return the evidence by the Laplace approximation, in coordinates in which the prior is standard normal.

    Parameters
    ----------
    objective
        Minus the log-posterior at the optimum, nat.
    covariance
        (n, n): posterior covariance there.
    """
    _, log_determinant = np.linalg.slogdet(np.asarray(covariance, float))
    return Evidence(0.5 * float(log_determinant) - float(objective), np.nan, "laplace")


class EvidenceRow(NamedTuple):
    """A model in a comparison.

    Parameters
    ----------
    name
        What it was called.
    evidence
        Its evidence.
    probability
        Of this model, if the compared ones were equally probable before, and no others are possible.
    grade
        How it stands against the best, in words, by Kass and Raftery's scale.
    """

    name: str
    evidence: Evidence
    probability: float
    grade: str


class EvidenceTable(NamedTuple):
    """Models by their evidence, the best first; shows itself in a terminal and in a notebook."""

    rows: tuple[EvidenceRow, ...]

    def __str__(self) -> str:
        """Return the table as text."""
        cells = [_HEAD, *map(_cells, self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(_HEAD))]
        return "\n".join(
            "  ".join(cell.ljust(w) if i in (0, 4) else cell.rjust(w) for i, (cell, w) in enumerate(pairs)).rstrip()
            for pairs in (list(zip(line, widths, strict=True)) for line in cells)
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in _HEAD)
        body = "".join(
            "<tr>{}</tr>".format("".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row))) for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_dataframe(self) -> Any:
        """Return the table as a `pandas.DataFrame`, a row for each model; see `Calibration.to_dataframe`."""
        import pandas

        return pandas.DataFrame(
            {
                "log_evidence": [row.evidence.value for row in self.rows],
                "error": [row.evidence.error for row in self.rows],
                "probability": [row.probability for row in self.rows],
                "against_the_best": [row.grade for row in self.rows],
            },
            index=pandas.Index([row.name for row in self.rows], name="model"),
        )


def checksum_of_images(problem: "Problem") -> str:
    """Return a checksum of what a problem sees, by which `compare_evidence` knows the same images; empty for tracers.

    It is over voxels, where they count, and the weight of one of them, of each image on its day. The laws by which a
    density leads to an image belong to the model, and may differ.
    """
    digest = hashlib.sha256()
    for visit in problem.visits:
        for name, image in visit.observations.items():
            weight = image.weight
            voxels = [leaf for leaf in jax.tree.leaves(image) if np.ndim(leaf) >= 3]
            if any(isinstance(each, Tracer) for each in (weight, *voxels)):
                return ""
            # In single precision, so that images are the same in both; weights are sums, which depend on it more.
            digest.update(f"{visit.day} {name} {float(weight):.3g}".encode())
            for each in voxels:
                values = np.ascontiguousarray(np.asarray(each, np.float32))
                digest.update(f" {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()


def compare_evidence(calibrations: "Mapping[str, Calibration]") -> EvidenceTable:
    """Return a table of the evidence of models for the same images.

    The evidence is that of `TMCMC` and other samplers that estimate it, or that of the Laplace approximation around the
    optimum of a search. Evidences compare where the images, their voxels and the priors of what belongs to them are the
    same, and where all are of one kind: a Laplace approximation may err by nats, which says nothing of the model.

    Parameters
    ----------
    calibrations
        Calibrations by the name of their model, all of the same observations.

    Raises
    ------
    ValueError
        If there are fewer than two, one has no evidence or that of another kind, their observations have other names or
        priors, or the images, their voxels or their weights differ.

    References
    ----------
    R. E. Kass, A. E. Raftery, "Bayes factors", Journal of the American Statistical Association 90 (1995), section 3.2.
    """
    if not isinstance(calibrations, Mapping) or not all(hasattr(each, "evidence") for each in calibrations.values()):
        raise ValueError(f"a comparison takes calibrations by the name of their model, got {calibrations!r:.80}")
    if len(calibrations) < 2:
        raise ValueError(f"a comparison takes two models or more, got {len(calibrations)}")
    first, *others = (
        [name for name in each.prior.names if name.startswith("observations.")] for each in calibrations.values()
    )
    if any(names != first for names in others):
        raise ValueError("evidence compares models for the same images; these have other observations")
    one, *more = (_priors_of_images(each) for each in calibrations.values())
    if any(not _same(one, each) for each in more):
        raise ValueError(
            "evidence compares models for the same images; these have other priors of thresholds, scales or noise, so "
            "that their evidences differ for that alone; give one prior of the observations"
        )
    if len({each.images for each in calibrations.values() if each.images}) > 1:
        raise ValueError(
            "evidence compares models for the same images on the same voxels, each with the same weight; these were "
            "calibrated to others; give the same observations, and of personalize the same model_error"
        )
    found = {}
    for name, each in calibrations.items():
        evidence = each.evidence
        if evidence is None or not np.isfinite(evidence.value):
            raise ValueError(
                f"the calibration {name!r} by {each.method or 'this method'} has no evidence; take TMCMC, or LBFGS for "
                "a Laplace approximation"
            )
        found[name] = evidence
    if len({each.kind for each in found.values()}) > 1:
        approximate = ", ".join(repr(name) for name, each in found.items() if each.kind == "laplace")
        raise ValueError(
            f"the evidence of {approximate} is that of a Laplace approximation, and the others' that of draws, so that "
            "they differ for that alone; calibrate all by one method"
        )
    best = max(each.value for each in found.values())
    total = sum(np.exp(each.value - best) for each in found.values())
    rows = [
        EvidenceRow(name, each, float(np.exp(each.value - best) / total), _grade(best - each.value))
        for name, each in found.items()
    ]
    return EvidenceTable(tuple(sorted(rows, key=lambda row: -row.evidence.value)))


def _priors_of_images(calibration: "Calibration") -> Any:
    """Return the priors of the parameters of observations."""
    tree = calibration.prior.distributions
    return tree["observations"] if isinstance(tree, Mapping) else getattr(tree, "observations", None)


def _same(one: Any, other: Any) -> bool:
    """Return whether two trees of distributions and numbers are the same, up to the precision of the numbers."""
    (first, structure), (second, others) = jax.tree.flatten(one), jax.tree.flatten(other)
    return structure == others and all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-5, atol=0) for a, b in zip(first, second, strict=True)
    )


def _grade(behind: float) -> str:
    if behind == 0:
        return "best"
    return next((words for most, words in _GRADES if behind <= most), _WORST)


def _cells(row: EvidenceRow) -> tuple[str, ...]:
    error = "" if np.isnan(row.evidence.error) else f"{row.evidence.error:.2g}"
    return row.name, f"{row.evidence.value:.1f}", error, f"{row.probability:.3g}", row.grade
