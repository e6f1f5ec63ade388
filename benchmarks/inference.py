"""Learn-Morph-Infer: accuracy of the predicted parameters, gain from refinement, and real patients."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cohorts import cohort
from benchmarks.patients import PATIENTS, available, images, options
from benchmarks.personalize import command
from benchmarks.record import Record
from benchmarks.retrieval import spread
from tumorjax import (
    LBFGS,
    FisherKolmogorov,
    GrowthParams,
    MassEffect,
    MassEffectParams,
    Outline,
    Problem,
    ScaledGrowthParams,
    calibrate,
    simulate,
)
from tumorjax.calibration import default_prior
from tumorjax.ensemble import Database, tumours_of
from tumorjax.growth import AbstractGrowth
from tumorjax.methods import LearnMorphInfer
from tumorjax.methods.from_atlas.indirect import corrected
from tumorjax.methods.from_atlas.learnt import heard, intervals, shares_of
from tumorjax.networks import (
    SHIPPED_MASS_EFFECT,
    InverseNetwork,
    inverse_architecture,
    load_inverse,
    train_inverse,
)
from tumorjax.networks.readers import outlined
from tumorjax.networks.tumours import as_bytes
from tumorjax.planning import dice

HELD_OUT = 256
CORRECTIONS = LearnMorphInfer.corrections
LEVELS = (0.01, 0.1, 0.8)
# Dice coefficients at these levels, and mean absolute errors in white and grey matter and in CSF, of the paper.
_PUBLISHED = {
    "lmi": ((0.943, 0.932, 0.861), (0.057, 0.057, None)),
    "lmi_mass_effect": ((0.886, 0.850, 0.783), (0.054, 0.055, 0.054)),
}


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")


def run(size: str, parts: Sequence[str] | None = None) -> list[Record]:
    """All figures, or those of some parts; `small` trains for a few steps on 40 tumours in voxels of 8 mm."""
    if size == "small":
        learnt, others = tumours_of(cohort(20, resolution=8.0)), Held(cohort(2, seed=1, resolution=8.0))
        architecture = replace(inverse_architecture([learnt], components=0), window=16)
        network = train_inverse([learnt], 2, size=architecture, batch=4).model
        return accuracy([network], others, corrections=1) + refinement(network, others, 1)
    return [record for part in parts or PARTS for record in PARTS[part]()]


def still() -> list[Record]:
    """Accuracy where tissue stays in place, on voxels of 2 mm: of the network, corrected and refined."""
    network, others = load_inverse(), Held(cohort(HELD_OUT, seed=1, box="learn-morph-infer"))
    alone = accuracy([network], others) + accuracy([network], others, "lmi_corrected", corrections=CORRECTIONS)
    return alone + refinement(network, others, 20)


def mass_effect() -> list[Record]:
    """Accuracy with mass effect, on voxels of 4 mm: gamma known, as in the paper, and told by the network."""
    network = load_inverse(SHIPPED_MASS_EFFECT)
    others = Held(cohort(HELD_OUT, seed=1, box="learn-morph-infer", resolution=4.0, model=MassEffect()))
    records = []
    for name, times in (("", 0), ("_corrected", CORRECTIONS)):
        records += accuracy([network], others, f"lmi_mass_effect{name}", known=True, corrections=times)
        records += accuracy([network], others, f"lmi_mass_effect_inferred{name}", corrections=times)
    return records


class Held:
    """Held-out tumours, and their outlines at thresholds that cover the published intervals."""

    def __init__(self, database: Database) -> None:
        self.anatomy = jax.tree.map(jnp.asarray, database.anatomy)
        self.tissue = shares_of(database.anatomy)
        self._database, self._tumours = database, tumours_of(database)
        self._model = database.recipe.model
        self.spacing = self._tumours.spacing

    def __len__(self) -> int:
        return len(self._database)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return density, core and lesion of a tumour."""
        density = self._database.density(row)
        return density, *outlined(as_bytes(density), np.random.default_rng([0, row]))[:2]

    @property
    def displaced(self) -> bool:
        """Whether the tumours displace tissue."""
        return self._model.displaces

    def tissue_now(self, row: int) -> np.ndarray:
        """Return white matter, grey matter and CSF as a tumour has displaced them."""
        if not self.displaced:
            return self.tissue
        return np.asarray(shares_of(self._database.grow(row).anatomy))

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
        if self.displaced:
            growth = MassEffectParams(growth, max(said["gamma"], 0.0))
        growth = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), growth)
        return np.nan_to_num(np.asarray(_grown(self._model, growth, self.anatomy)))


@eqx.filter_jit
def _grown(model: AbstractGrowth, growth: Any, anatomy: Any) -> jax.Array:
    return simulate(model, growth, anatomy).density


def resemblance(density: np.ndarray, truth: np.ndarray, tissue: np.ndarray) -> dict[str, float]:
    """Return Dice coefficients at the `LEVELS` that the truth reaches, and mean absolute errors where it is nonzero."""
    reached = {level: (truth > level).any() for level in LEVELS}
    row = {
        f"dice {level:g}": float(dice(density > level, truth > level)) if there else np.nan
        for level, there in reached.items()
    }
    kind = tissue.argmax(axis=-1)
    error = np.abs(density - truth)
    for name, number in (("white matter", 0), ("grey matter", 1), ("CSF", 2)):
        there = (truth > 0) & (kind == number) & (tissue.sum(axis=-1) > 0.1)
        row[f"error in {name}"] = float(error[there].mean()) if there.any() else np.nan
    return row


def accuracy(
    networks: Sequence[InverseNetwork],
    others: Held,
    prefix: str = "lmi",
    *,
    known: bool = False,
    corrections: int = 0,
) -> list[Record]:
    """Errors of predicted parameters, and of the tumours grown with them, for held-out tumours.

    `known` gives the networks the true mass effect; `corrections` is that of `LearnMorphInfer`.
    """
    rows, seconds = [], []
    for i in range(len(others)):
        truth, core, lesion = others[i]
        own = others.parameters(i)
        force = {"gamma": own["gamma"]} if known else {}

        def say(core: np.ndarray, lesion: np.ndarray, force: dict[str, float] = force) -> dict[str, float]:
            return heard(networks, others.anatomy, core, lesion, mass_effect=force.get("gamma"))[0] | force

        begun = time.perf_counter()
        said, _ = corrected(say, others.grow, core, lesion, corrections, bounds=intervals(networks))
        seconds.append(time.perf_counter() - begun)
        row = resemblance(others.grow(said), truth, others.tissue_now(i))
        row |= {f"error of {name}": abs(said[name] - own[name]) for name in said if name in own and name not in "xyz"}
        away = np.array([said[axis] - own[axis] for axis in "xyz"]) * others.spacing
        rows.append(row | {"error of the seed, mm": float(np.linalg.norm(away))})
    summary = {name: spread([row[name] for row in rows if np.isfinite(row[name])]) for name in rows[0]}
    dices, errors = _PUBLISHED["lmi_mass_effect" if others.displaced else "lmi"]
    details: dict[str, Any] = {**summary, "tumours": len(rows)}
    records = []
    for level, number, published in zip(LEVELS, ("001", "01", "08"), dices, strict=True):
        value = summary[f"dice {level:g}"]["mean"]
        records.append(Record(f"{prefix}_dice_{number}", value, "1", f"published {published:g}", details))
        details = {}
    for tissue, published in zip(("white matter", "grey matter", "CSF"), errors, strict=True):
        if published is not None:
            name = f"{prefix}_error_{tissue.replace(' ', '_').lower()}"
            records.append(Record(name, summary[f"error in {tissue}"]["mean"], "1", f"published {published:g}"))
    failures = float(np.mean([row["dice 0.1"] < 0.5 for row in rows]))
    return [
        *records,
        Record(f"{prefix}_failures", failures, "1", "published just under 0.1 of real patients"),
        Record(f"{prefix}_network_seconds", float(np.median(seconds)), "s", "<= 2"),
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


PARTS = {"still": still, "mass_effect": mass_effect, "real": real_patients}
"""What is measured, by name."""
