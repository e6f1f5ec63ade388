"""Learn-Morph-Infer: accuracy of the predicted parameters, gain from refinement, and real patients."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cohorts import cohort
from benchmarks.patients import PATIENTS, available, images, options
from benchmarks.personalize import command
from benchmarks.record import Record
from benchmarks.retrieval import spread
from tumorjax import LBFGS, FisherKolmogorov, GrowthParams, Outline, Problem, ScaledGrowthParams, calibrate, simulate
from tumorjax.calibration import default_prior
from tumorjax.ensemble import Database, tumours_of
from tumorjax.methods import LearnMorphInfer
from tumorjax.networks import InverseNetwork, infer, inverse_architecture, load_inverse, train_inverse
from tumorjax.networks.readers import outlined
from tumorjax.networks.tumours import as_bytes
from tumorjax.planning import dice

HELD_OUT = 256
LEVELS = (0.01, 0.1, 0.8)


def run(size: str) -> list[Record]:
    """All figures; `small` trains for a few steps on 40 tumours in voxels of 8 mm, and has no real patients."""
    if size == "small":
        learnt, others = tumours_of(cohort(20, resolution=8.0)), Held(cohort(2, seed=1, resolution=8.0))
        architecture = replace(inverse_architecture([learnt], components=0), window=16)
        network = train_inverse([learnt], 2, size=architecture, batch=4).model
        return accuracy([network], others) + refinement(network, others, 1)
    network, others = load_inverse(), Held(cohort(HELD_OUT, seed=1, box="learn-morph-infer"))
    return accuracy([network], others) + refinement(network, others, 20) + real_patients()


class Held:
    """Held-out tumours, and their outlines at thresholds that cover the published intervals."""

    def __init__(self, database: Database) -> None:
        self.anatomy = jax.tree.map(jnp.asarray, database.anatomy)
        self.tissue = np.stack(
            [np.asarray(each) for each in (database.anatomy.white_matter, database.anatomy.grey_matter)]
            + [np.asarray(database.anatomy.csf)],
            axis=-1,
        )
        self._database, self._tumours = database, tumours_of(database)
        self.spacing = self._tumours.spacing

    def __len__(self) -> int:
        return len(self._database)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return density, core and lesion of a tumour."""
        density = self._database.density(row)
        return density, *outlined(as_bytes(density), np.random.default_rng([0, row]))[:2]

    def parameters(self, row: int) -> dict[str, float]:
        """Return the true parameters of a tumour: mu1, mu2, and the seed as voxel indices."""
        numbers = {name: float(values[row]) for name, values in self._tumours.parameters.items()}
        return numbers | dict(zip("xyz", self._tumours.seeds[row].tolist(), strict=True))

    def grow(self, said: dict[str, float]) -> np.ndarray:
        """Return the tumour of predicted parameters; a failed solve gives an empty one."""
        seed = self.anatomy.grid.to_world(jnp.array([said[axis] for axis in "xyz"], jnp.float32))
        growth: Any
        if "mu1" in said:
            growth = ScaledGrowthParams(max(said["mu1"], 1e-3), max(said["mu2"], 1e-3), seed)
        else:
            growth = GrowthParams(max(said["D"], 1e-6), max(said["rho"], 1e-6), seed, max(said["T"], 1.0))
        growth = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), growth)
        return np.nan_to_num(np.asarray(_grown(growth, self.anatomy)))


@jax.jit
def _grown(growth: Any, anatomy: Any) -> jax.Array:
    return simulate(FisherKolmogorov(), growth, anatomy).density


def resemblance(density: np.ndarray, truth: np.ndarray, tissue: np.ndarray) -> dict[str, float]:
    """Return Dice coefficients at the `LEVELS` that the truth reaches, and mean absolute errors where it is nonzero."""
    reached = {level: (truth > level).any() for level in LEVELS}
    row = {
        f"dice {level:g}": float(dice(density > level, truth > level)) if there else np.nan
        for level, there in reached.items()
    }
    kind = tissue.argmax(axis=-1)
    error = np.abs(density - truth)
    for name, number in (("white matter", 0), ("grey matter", 1)):
        there = (truth > 0) & (kind == number) & (tissue.sum(axis=-1) > 0.1)
        row[f"error in {name}"] = float(error[there].mean()) if there.any() else np.nan
    return row


def accuracy(networks: Sequence[InverseNetwork], others: Held) -> list[Record]:
    """Errors of predicted parameters, and of the tumours grown with them, for held-out tumours."""
    rows, seconds = [], []
    for i in range(len(others)):
        truth, core, lesion = others[i]
        said: dict[str, float] = {}
        begun = time.perf_counter()
        for network in networks:
            said |= infer(network, core, lesion, others.tissue, others.spacing)
        seconds.append(time.perf_counter() - begun)
        row, own = resemblance(others.grow(said), truth, others.tissue), others.parameters(i)
        row |= {f"error of {name}": abs(said[name] - own[name]) for name in said if name in own and name not in "xyz"}
        away = np.array([said[axis] - own[axis] for axis in "xyz"]) * others.spacing
        rows.append(row | {"error of the seed, mm": float(np.linalg.norm(away))})
    summary = {name: spread([row[name] for row in rows if np.isfinite(row[name])]) for name in rows[0]}
    targets = {0.01: "published 0.943", 0.1: "published 0.932", 0.8: "published 0.861"}
    names = {0.01: "001", 0.1: "01", 0.8: "08"}
    records = [
        Record(
            f"lmi_dice_{names[level]}",
            summary[f"dice {level:g}"]["mean"],
            "1",
            targets[level],
            {**summary, "tumours": len(rows)} if level == LEVELS[0] else {},
        )
        for level in LEVELS
    ]
    return [
        *records,
        Record("lmi_error_white_matter", summary["error in white matter"]["mean"], "1", "published 0.057"),
        Record("lmi_error_grey_matter", summary["error in grey matter"]["mean"], "1", "published 0.057"),
        Record(
            "lmi_failures",
            float(np.mean([row["dice 0.1"] < 0.5 for row in rows])),
            "1",
            "published just under 0.1 of real patients",
        ),
        Record("lmi_network_seconds", float(np.median(seconds)), "s", "<= 2"),
    ]


def refinement(network: InverseNetwork, others: Held, count: int) -> list[Record]:
    """Gain from refining predictions by the adjoint, with held-out tumours as patients in the atlas."""
    rows, seconds = [], []
    for i in range(count):
        truth, *outlines = others[i]
        inside = np.asarray(others.anatomy.tissue)
        core, lesion = (Outline(mask.astype(np.float32), inside) for mask in outlines)
        observations = {"core": core, "lesion": lesion}
        problem = Problem(FisherKolmogorov(), others.anatomy, observations, default_prior(others.anatomy, observations))
        begun = time.perf_counter()
        calibration = calibrate(problem, LBFGS(init=LearnMorphInfer(network, others.anatomy)))
        density = np.asarray(problem.density(calibration.params))
        seconds.append(time.perf_counter() - begun)
        rows.append(resemblance(density, truth, others.tissue))
    summary = {name: spread([row[name] for row in rows if np.isfinite(row[name])]) for name in rows[0]}
    named = (("001", 0.01, ">= 0.97"), ("01", 0.1, ">= 0.96"), ("08", 0.8, ">= 0.93"))
    details = {**summary, "tumours": count}
    return [
        *(
            Record(f"lmi_refined_dice_{name}", summary[f"dice {level:g}"]["mean"], "1", target, details)
            for name, level, target in named
        ),
        Record("lmi_refined_error_white_matter", summary["error in white matter"]["mean"], "1"),
        Record("lmi_refined_seconds", float(np.median(seconds)), "s"),
    ]


def real_patients() -> list[Record]:
    """Real patients by the command line, each in a separate process without compiled programs."""
    if not available("real patients"):
        return []
    # The paper's pipeline ends with the tumour grown with the predicted parameters.
    pipelines = (
        ("lmi", [], "lmi_patient_refined_seconds", ""),
        ("lmi_unrefined", ["--no-refine"], "lmi_patient_seconds", "<= 60, published 240 to 420"),
    )
    records = []
    for pipeline, more, whole, target in pipelines:
        times = []
        for name in PATIENTS:
            metrics, seconds, gigabytes = command([*options(images(name)), "--method", "lmi", *more])
            details = {**metrics, "seconds": seconds, "GB": gigabytes}
            records.append(Record(f"{name}_{pipeline}_dice_sum", metrics["dice_sum"], "1", "", details))
            times.append(seconds)
        records.append(Record(whole, float(np.max(times)), "s", target))
    return records
