"""Ablation studies of the papers: of the network of Learn-Morph-Infer, and of the surrogate."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import inference, surrogate
from benchmarks.cohorts import cohort, folder
from benchmarks.record import Record, following
from tumorjax.ensemble import tumours_of
from tumorjax.networks import (
    Tumours,
    load_inverse,
    load_surrogate,
    save_inverse,
    save_surrogate,
    surrogate_architecture,
    train_inverse,
    train_surrogate,
)
from tumorjax.networks.surrogate_training import PARTS, PUBLISHED_LOSS

# Values in the paper's table of ablations: Dice coefficients at three densities, mean absolute error in white matter.
PUBLISHED = {
    "D, rho, T and the seed, two networks": (0.607, 0.558, 0.423, 0.463),
    "mu1, mu2 and the seed, two networks": (0.940, 0.928, 0.855, 0.059),
    "mu1, mu2 and the seed, one network": (0.943, 0.932, 0.861, 0.057),
}
_PARTS = {
    "D, rho, T and the seed, two networks": (("D", "rho", "T"), ("x", "y", "z")),
    "mu1, mu2 and the seed, two networks": (("mu1", "mu2"), ("x", "y", "z")),
    "mu1, mu2 and the seed, one network": (("mu1", "mu2", "x", "y", "z"),),
}
# The rows of the paper's table I.
SURROGATES = {
    "skips": {"skips": True},
    "csf_only": {"csf_only": True},
    "one_loss": {"groups": (PARTS,)},
    "complement": {"groups": (("tumour",), PARTS[1:])},
    "brain_too": {"groups": (("tumour",), ("csf",), ("brain",))},
    "proposed": {},
}
# Number of tumours in each brain that the surrogate learns from, and the seeds of the brains besides the atlas.
COUNT, LEARNT = 1024, (1, 2, 3)


def run(size: str) -> list[Record]:
    """Both ablations, all networks trained for few steps; `small` trains one network of each for two."""
    if size == "small":
        learnt, others = (cohort(n, seed=seed, resolution=8.0) for n, seed in ((40, 0), (4, 1)))
        with tempfile.TemporaryDirectory() as place:
            found = of_inference(tumours_of(learnt), inference.Held(others), Path(place), steps=2, batch=4, only=1)
            brains = {"atlas": tumours_of(others)}
            return found + of_surrogate([tumours_of(learnt)], brains, Path(place), steps=2, batch=2, only=1)
    place, held = folder() / "ablation", inference.Held(cohort(inference.HELD_OUT, seed=1, box="learn-morph-infer"))
    learnt = tumours_of(cohort(5120, box="learn-morph-infer"))
    records = of_inference(learnt, held, place, steps=150, batch=32)
    brains = [tumours_of(cohort(COUNT))] + [tumours_of(cohort(COUNT, deformed=seed)) for seed in LEARNT]
    return records + of_surrogate(brains, surrogate.unseen_brains(64), place, steps=80, batch=16)


def of_inference(
    learnt: Tumours, others: inference.Held, place: Path, *, steps: int, batch: int, only: int | None = None
) -> list[Record]:
    """The rows of the paper's table with a small budget of training: targets, in one network or in two."""
    records = []
    held = max(2, len(learnt) // 20)
    for name, parts in list(_PARTS.items())[-(only or len(_PARTS)) :]:
        networks = []
        for targets in parts:
            file = place / f"{'-'.join(targets)}-{steps}.safetensors"
            if not file.exists():
                done = train_inverse(
                    [learnt.part(slice(held, None))],
                    steps,
                    components=0,
                    targets=targets,
                    validation=[learnt.part(slice(held))],
                    batch=batch,
                    checkpoints=place / file.stem,
                    progress=following(file.stem),
                )
                save_inverse(file, done.model)
            networks.append(load_inverse(file))
        found = inference.accuracy(networks, others)
        values = {record.name: record.value for record in found}
        label = "_".join("".join(targets) for targets in parts)
        details: dict[str, Any] = {"told": name, "steps of each network": steps, "tumours learnt from": len(learnt)}
        details |= {record.name.removeprefix("lmi_"): record.value for record in found}
        details["published, Dice at 0.01, 0.1, 0.8, error"] = PUBLISHED[name]
        records.append(Record(f"ablation_{label}_dice_01", values["lmi_dice_01"], "1", "", details))
    return records


def of_surrogate(
    learnt: list[Tumours], brains: dict[str, Tumours], place: Path, *, steps: int, batch: int, only: int | None = None
) -> list[Record]:
    """The rows of the paper's table I with a small budget of training."""
    records, held = [], max(2, len(learnt[0]) // 20)
    validation, rest = ([each.part(rows) for each in learnt] for rows in (slice(held), slice(held, None)))
    for name, settings in list(SURROGATES.items())[-(only or len(SURROGATES)) :]:
        file = place / f"surrogate-{name}-{steps}.safetensors"
        if not file.exists():
            groups = settings.get("groups", PUBLISHED_LOSS)
            made = {key: value for key, value in settings.items() if key != "groups"}
            done = train_surrogate(
                rest,
                steps,
                size=surrogate_architecture(rest, **made),
                window=48,
                batch=batch,
                groups=groups,
                validation=validation,
                checkpoints=place / file.stem,
                progress=following(file.stem),
            )
            save_surrogate(file, done.model)
        found = {record.name: record.value for record in surrogate.accuracy(load_surrogate(file), brains)}
        details = {**found, "steps": steps}
        records.append(Record(f"ablation_{name}_dice_02", found["surrogate_clinical_dice_02"], "1", "", details))
    return records
