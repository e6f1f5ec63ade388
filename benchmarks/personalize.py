"""Calibration of patients from images: time, fit on real patients, and accuracy on synthetic ones."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.patients import DATA, available, images, options, sri24
from benchmarks.record import Record, median_seconds
from tumorjax import FisherKolmogorov, GrowthParams, StrangRKL2, simulate
from tumorjax.atlas import load_atlas
from tumorjax.methods import LBFGS
from tumorjax.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice

_NAMES = ("mu1", "mu2", "origin_x", "origin_y", "origin_z", "threshold_core", "threshold_lesion")
# Half width of the 95 % interval of a standard normal error, and the expected share of errors outside.
_TWO_SIDED_95 = 1.96


def run(size: str) -> list[Record]:
    """All figures; `small` uses one synthetic patient on coarse voxels."""
    small = size == "small"
    resolution = 6.0 if small else 2.0
    records = synthetic_patients(1 if small else 10, resolution)
    if not small:
        records += real_patients()
    return records + forward(resolution)


def forward(resolution: float) -> list[Record]:
    """One solve (D 0.5, rho 0.05, T 250 days) in the ICBM152 brain, its error in time, and the cost of its gradient."""
    anatomy = load_atlas("icbm152").anatomy().coarsen(round(resolution))
    anatomy = anatomy.crop(*anatomy.box())
    origin = np.array([28.5, 30.5, 18.5], np.float32)
    params = GrowthParams(0.5, 0.05, origin, 250.0)
    model = FisherKolmogorov()

    # The anatomy is an argument, as in a calibration: no constant of the compiled program.
    @jax.jit
    def solve(anatomy, params):
        return simulate(model, params, anatomy, throw=False).density

    @jax.jit
    def gradient(anatomy, scaled):
        return jax.grad(lambda p: jnp.sum(simulate(model, p, anatomy, throw=False).density ** 2))(scaled)

    fine = simulate(model, params, anatomy, stepper=StrangRKL2(reaction_step=0.02, first_steps=200)).density
    density = solve(anatomy, params)
    error = float(jnp.linalg.norm(density - fine) / jnp.linalg.norm(fine))
    scaled = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params.scaled())
    seconds = median_seconds(lambda: solve(anatomy, params), 9)
    seconds_gradient = median_seconds(lambda: gradient(anatomy, scaled), 5)
    shape = {"shape": list(anatomy.grid.shape), "resolution_mm": resolution}
    return [
        Record("forward_seconds", seconds, "s", "<= 0.2 at 2 mm", shape),
        Record("forward_relative_error", error, "1", "", {**shape, "reference": "steps 30 times as small"}),
        Record("gradient_ratio", seconds_gradient / seconds, "forward solves", "", shape),
    ]


def real_patients() -> list[Record]:
    """The two patients of `shared/data`, by the command line in separate processes without compiled programs."""
    if not available("real patients"):
        return []
    fet = images("patient_fet") | {"recurrence": DATA / "patient_fet" / "recurrence.nii.gz"}
    mri = images("patient_mri")
    cases = {
        "patient_fet": (fet | sri24(), ">= 1.55"),
        "patient_mri": (mri | sri24(), ">= 1.38"),
        "patient_fet_icbm152": (fet, ""),
        "patient_mri_icbm152": (mri, ""),
        "patient_fet_with_pet": (fet | sri24() | {"pet": DATA / "patient_fet" / "fet.nii.gz"}, ""),
    }
    records = []
    for name, (given, target) in cases.items():
        metrics, seconds, gigabytes = command(options(given))
        starts = LBFGS().starts
        records += [
            Record(f"{name}_dice_sum", metrics["dice_sum"], "1", target, metrics),
            Record(f"{name}_seconds", seconds, "s", "<= 90 with compilation"),
            Record(f"{name}_peak_memory", gigabytes, "GB", "<= 3"),
            Record(
                f"{name}_gradients_a_start",
                metrics["coarse_gradients"] / starts,
                "1",
                "<= 60",
                {"on the full grid": metrics["gradients"]},
            ),
        ]
        if "coverage_plan" in metrics:
            records.append(
                Record(
                    f"{name}_coverage_plan",
                    metrics["coverage_plan"],
                    "1",
                    ">= 0.99",
                    {"coverage_standard": metrics["coverage_standard"]},
                )
            )
    return records


def command(arguments: list[str], kept: Path | None = None) -> tuple[dict, float, float]:
    """Run `tumorjax personalize`; return its figures, seconds, and peak memory in GB.

    Without a folder of what runs keep for later ones (compiled programs, registrations), nothing is kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        places = {"JAX_COMPILATION_CACHE_DIR": str((kept or Path(folder)) / "compiled")}
        if kept is not None:
            places["TUMORJAX_ALIGNMENTS"] = str(kept / "alignments")
        given = [sys.executable, "-m", "tumorjax.cli", "personalize", *arguments, "--out", str(out), "--quiet"]
        begun = time.perf_counter()
        process = subprocess.Popen(given, env={**os.environ, **places})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        if status:
            raise RuntimeError(f"{' '.join(given)} failed")
        metrics = json.loads((out / "metrics.json").read_text())
    return metrics, seconds, usage.ru_maxrss / 2**20


def synthetic_patients(count: int, resolution: float) -> list[Record]:
    """Errors, and their stated deviations, for tumours grown at 1 mm (small: 2 mm), outlines perturbed by 1.5 mm."""
    dices: dict[float, list[float]] = {0.01: [], 0.1: [], 0.5: []}
    errors, deviations, seconds = [], [], []
    for seed in range(count):
        truth = synthetic_patient(seed, resolution=resolution / 2)
        patient = load_patient(segmentation=truth.segmentation, labels="brats2021", resolution=resolution)
        result = personalize(patient)
        estimates = {row.name: row for row in result.estimates}
        errors.append([estimates[name].value - truth.truth[name] for name in _NAMES])
        deviations.append([estimates[name].deviation for name in _NAMES])
        seconds.append(result.metrics["seconds_calibration"])
        for level, values in dices.items():
            values.append(dice(result.density > level, truth.density > level))
        print(f"synthetic patient {seed}: Dice at 0.1 {dices[0.1][-1]:.3f}, at 0.01 {dices[0.01][-1]:.3f}", flush=True)
    error, deviation = np.array(errors), np.array(deviations, float)
    z = error / deviation
    target = {0.01: ">= 0.93", 0.1: ">= 0.93"}
    records = [
        Record(f"synthetic_dice_{level:g}", float(np.mean(values)), "1", target.get(level, ""), {"each": values})
        for level, values in dices.items()
    ]
    for i, name in enumerate(_NAMES):
        details = {"deviations": deviation[:, i].tolist(), "errors": error[:, i].tolist()}
        records.append(Record(f"synthetic_error_{name}", float(np.abs(error[:, i]).mean()), "unit of it", "", details))
        records.append(Record(f"synthetic_deviation_{name}", float(deviation[:, i].mean()), "unit of it"))
        records.append(
            Record(f"synthetic_z_{name}", float(np.sqrt((z[:, i] ** 2).mean())), "deviations (rms)", "about 1")
        )
    covered = float((np.abs(z) <= _TWO_SIDED_95).mean())
    records.append(Record("synthetic_coverage_95", covered, "1", "0.95"))
    records.append(Record("synthetic_seconds_calibration", float(np.median(seconds)), "s"))
    return records
