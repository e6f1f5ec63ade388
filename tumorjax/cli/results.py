"""The files that a personalization leaves."""

import dataclasses
import datetime
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax.calibration import CalibrationResult
from tumorjax.calibration.sampling.posterior import Posterior
from tumorjax.cli.draws import METHODS, diagnostics_entry, draws_of, write_draws
from tumorjax.cli.maps import transform_files, write_maps
from tumorjax.io import resample
from tumorjax.pipeline.estimates import Estimate, correlation
from tumorjax.pipeline.learn_morph_infer import inference_of
from tumorjax.pipeline.multi_atlas import AtlasEstimate, MultiAtlasPersonalization, averages
from tumorjax.pipeline.patient import Patient
from tumorjax.pipeline.personalize import Personalization, Progress, Stopwatch
from tumorjax.pipeline.retrieval import match_of
from tumorjax.report import AtlasFit, Parameter, ReportData, Stage, write_report

# Of each number in an atlas, in the order of the table: words, and unit.
_ATLAS_COLUMNS = {
    "objective": ("objective", "nat"),
    "mass_effect": ("γ", "Pa"),
    "mu1": ("μ1", "mm"),
    "mu2": ("μ2", ""),
    "diffusivity": ("D", "mm²/day"),
    "proliferation": ("ρ", "1/day"),
    "max_displacement": ("largest |u|", "mm"),
    "displaced": ("|u| > 2 mm", "ml"),
    "ventricles": ("ventricles", "ml"),
    "gaussians": ("Gaussians", ""),
}
_VERSIONS = ("tumorjax", "jax", "jaxlib", "equinox", "optax", "numpy", "nibabel", "simpleitk", "nilearn")
_SAMPLERS = ("numpyro", "arviz", "flax")


def write_personalization(
    out: Path,
    patient: Patient,
    result: Personalization,
    title: str,
    command: str,
    hashes: dict[str, str],
    watch: Stopwatch,
    progress: Progress,
    *,
    truth: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write maps, parameters, report and metrics into a folder, and return the metrics, the quality first.

    Parameters
    ----------
    out
        The folder; it exists.
    patient, result
        What was calibrated, and the outcome.
    title
        Of the report.
    command
        What the user typed.
    hashes
        SHA-256 of the inputs by role.
    watch
        Has timed the stages so far.
    progress
        Told the stages.
    truth
        (x, y, z): true density of a synthetic patient.
    """
    with watch("files"):
        progress("writing maps", None)
        write_maps(out, patient, result)
        draws = result.calibration if isinstance(result.calibration, Posterior) else None
        provenance = _provenance(command, hashes, _VERSIONS if draws is None else _VERSIONS + _SAMPLERS)
        parameters = {
            "estimate": "maximum a posteriori; standard deviations from a Laplace approximation",
            "parameters": {row.name: _row(row) for row in result.estimates},
        }
        if isinstance(result, MultiAtlasPersonalization):
            parameters |= _atlas_table(result.atlases, transform_files(patient, result))
        if draws is not None and result.diagnostics is not None:
            write_draws(out, draws)
            parameters["estimate"] = (
                "mean of draws from the posterior, with their standard deviations and 90 % credible intervals; map is "
                "the draw of highest posterior density"
            )
            parameters["diagnostics"] = diagnostics_entry(result.diagnostics)
        if result.calibration.result is CalibrationResult.MATCHED:
            parameters["estimate"] = (
                "those of the simulated tumour that resembles the patient's most; standard deviations over all matches"
            )
        elif result.calibration.covariance is None:
            parameters["estimate"] = "those that a network gave; nothing is known of their standard deviations"
        parameters["provenance"] = provenance
        _write_json(out / "parameters.json", parameters)
    with watch("report"):
        progress("drawing the report", None)
        write_report(out, _report(patient, result, title, provenance, watch, truth))
    result.metrics["seconds_total"] = round(watch.seconds(), 3)
    stages = {f"seconds_{name.replace(' ', '_')}": round(seconds, 3) for name, seconds in watch.stages}
    quality = {"quality": str(result.quality), "quality_reasons": [str(reason) for reason in result.reasons]}
    metrics = {**quality, **result.metrics, **stages}
    _write_json(out / "metrics.json", metrics)
    return metrics


def _row(row: Estimate) -> dict[str, object]:
    entry: dict[str, object] = {
        "value": row.value,
        "unit": row.unit,
        "standard_deviation": row.deviation,
        "map": row.value if row.mode is None else row.mode,
        "symbol": row.symbol,
        "meaning": row.meaning,
        "fixed": row.fixed,
    }
    if row.interval is not None:
        entry["interval_90"] = list(row.interval)
    return entry if row.truth is None else {**entry, "truth": row.truth}


def _atlas_table(rows: list[AtlasEstimate], transforms: list[str | None]) -> dict[str, object]:
    return {
        "estimate": "plain mean over atlases of the maxima a posteriori; standard deviations of the mixture of Laplace "
        "approximations",
        "atlases": [dataclasses.asdict(row) | {"transform": name} for row, name in zip(rows, transforms, strict=True)],
        "units": {name: unit for name, (_, unit) in _ATLAS_COLUMNS.items()},
        "averages": averages(rows),
    }


def _atlas_fit(row: AtlasEstimate) -> AtlasFit:
    numbers = {
        f"{symbol} ({unit})" if unit else symbol: getattr(row, name) for name, (symbol, unit) in _ATLAS_COLUMNS.items()
    }
    # Folders have long names.
    return AtlasFit(Path(row.atlas).name, row.weight, numbers, row.grows)


def _write_json(path: Path, content: dict) -> None:
    # A name that is no UTF-8 keeps its bytes as an escape of JSON's.
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _provenance(command: str, hashes: dict[str, str], libraries: tuple[str, ...]) -> dict[str, str]:
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": ", ".join(f"{name} {number}" for name in libraries if (number := _version(name))),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{f"sha256 of {role}": digest for role, digest in hashes.items()},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _report(
    patient: Patient,
    result: Personalization,
    title: str,
    provenance: dict[str, str],
    watch: Stopwatch,
    truth: np.ndarray | None,
) -> ReportData:
    rows = result.estimates
    thresholds = {row.name: row.value for row in rows}
    calibration = result.calibration
    pet = None
    if patient.pet is not None:
        pet = resample(patient.pet, np.asarray(patient.anatomy.grid.affine), patient.reference.grid)
    spacing = " x ".join(f"{h:g}" for h in np.asarray(patient.anatomy.grid.spacing))
    how = "Fisher-Kolmogorov model, calibrated by adjoint L-BFGS"
    more: dict[str, Any] = {}
    if isinstance(result, MultiAtlasPersonalization):
        count = len(result.atlases)
        how = f"Growth with mass effect, calibrated in {f'{count} atlases' if count > 1 else 'one atlas'}"
        histories = [[*first, *second] for first, second, _ in (each.histories for each in calibration.stats.atlases)]
        more = {
            "displacement": result.displacement_norm,
            "displacement_std": result.displacement_std,
            "jacobian": result.jacobian,
            "atlases": [_atlas_fit(row) for row in result.atlases],
        }
    elif result.diagnostics is not None:
        method = result.diagnostics.method
        how, histories = f"Fisher-Kolmogorov model, posterior by {METHODS.get(method, method)}", []
        more = {
            "probability": result.probabilities[min(result.probabilities)],
            "infiltrated": min(result.probabilities),
            "draws": draws_of(result, patient.brain, np.asarray(patient.reference.grid.spacing)),
        }
    else:
        histories = [list(history) for history in getattr(calibration.stats, "histories", ())]
        if (match := match_of(calibration)) is not None:
            begun = f"the most similar of {match.tumours} simulated tumours"
            matched = calibration.result is CalibrationResult.MATCHED
            how = f"Fisher-Kolmogorov model, {begun}" if matched else f"{how} from {begun}"
            more = {"matches": len(match.matches.indices) if matched else 0}
        elif inference_of(calibration) is not None:
            told = calibration.covariance is None
            how = "Fisher-Kolmogorov model, parameters told by a network" if told else f"{how} from a network's answer"
    return ReportData(
        title=f"Personalized tumour growth: {title}",
        subtitle=f"{how} on voxels of {spacing} mm",
        affine=np.asarray(patient.reference.affine),
        background=patient.background,
        background_of=patient.background_of,
        brain=patient.brain,
        core=patient.core,
        flair=patient.flair,
        density=result.density,
        density_std=result.density_std,
        core_threshold=thresholds["threshold_core"],
        flair_threshold=thresholds["threshold_flair"],
        plan=result.plan,
        standard_plan=result.standard_plan,
        pet=pet,
        pet_predicted=result.pet_predicted,
        recurrence=result.recurrence,
        truth=truth,
        parameters=[
            Parameter(
                row.name,
                row.symbol,
                row.value,
                row.deviation,
                row.unit,
                row.meaning,
                row.truth,
                row.fixed,
                row.interval,
            )
            for row in rows
        ],
        metrics=result.metrics,
        convergence=histories,
        # Few matches say nothing of it, nor does a network.
        correlation=None
        if calibration.covariance is None or calibration.result is CalibrationResult.MATCHED
        else correlation(calibration, rows),
        stages=[Stage(name, seconds) for name, seconds in watch.stages],
        provenance=provenance,
        notes=[*patient.notes, *result.notes, f"Calibration {calibration.result.value}."],
        quality=result.quality,
        reasons=result.reasons,
        margin=result.margin,
        **more,
    )
