"""Retrieval from a database: exactness, time and agreement of all variants, patients, and refinement."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cohorts import cohort, outlines, seconds_of_building
from benchmarks.patients import PATIENTS, available, images
from benchmarks.record import Record
from tumorjax import LBFGS, FisherKolmogorov, Outline, Problem, calibrate
from tumorjax.calibration import default_prior
from tumorjax.ensemble import Database
from tumorjax.methods import Retrieval, index_of
from tumorjax.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.problems import problem_of
from tumorjax.planning import dice
from tumorjax.retrieval import Index, PackedMasks, query, search
from tumorjax.retrieval.direct import coefficients

COUNT, HELD_OUT = 50_000, 1000
# Number of tumours in memory at a time.
_SOME = 256
_TOP = (1, 5, 15)
# Variants that need the weights of a network, which belong to one grid.
LEARNED = ("ae", "vae", "bf-hash")
# Values in table 1 of the paper: seconds with 32 processes or a GPU, and agreement of the best tumour with the exact
# query's.
PUBLISHED = {
    "direct": (340, 1.0),
    "ds64": (130, 0.887),
    "ds32": (116, 0.661),
    "vae": (34, 0.419),
    "ae": (22, 0.338),
    "bf-hash": (22, 0.322),
    "radiomics": (2.8, 0.0492),
}


def run(size: str) -> list[Record]:
    """All figures; `small` queries 200 tumours on voxels of 8 mm."""
    small = size == "small"
    count, held_out, resolution = (200, 20, 8.0) if small else (COUNT, HELD_OUT, 2.0)
    database = cohort(count, resolution=resolution)
    others = cohort(held_out, seed=1, resolution=resolution)
    place = Path(f"{database.url}.index")
    index = index_of(database, place, variants=[name for name in PUBLISHED if name not in LEARNED or not small])
    queries = Queries(others)
    records = storage(database, index)
    records += exactness(database, index, queries, 10 if small else 200)
    records += times(index, place, queries, 3 if small else 40)
    records += agreement(index, queries)
    records += sizes(index, queries, 3 if small else 20)
    return records if small else records + refinement(database, index, others, 20) + real_patients(database)


# A process that makes one query, comparing all outlines, and prints its peak memory and the anonymous part of it, KiB.
# (`getrusage` would include the memory of the parent.)
_ASK = """
import sys
import numpy as np
from tumorjax.retrieval import Index, search
outlines = np.load(sys.argv[2])
search(Index.open(sys.argv[1]).masks, outlines["core"], outlines["lesion"], 1, prune=False)
status = dict(line.split(":") for line in open("/proc/self/status"))
print(*(status[name].split()[0] for name in ("VmHWM", "RssAnon")))
"""


class Queries:
    """Outlines of the tumours of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def __len__(self) -> int:
        return len(self.database)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return core and lesion of one tumour."""
        if i >= len(self):
            raise IndexError(i)
        core, lesion = outlines(self.database.densities(slice(i, i + 1)))
        return core[0], lesion[0]


def storage(database: Database, index: Index) -> list[Record]:
    """Sizes of the database and its index on disk, and the speed of building small ones; the large one is stored."""
    records = [
        Record("database_megabytes", database.stored_bytes / 1e6, "MB", "", {"tumours": len(database)}),
        Record("database_bytes_a_tumour", database.stored_bytes / len(database), "B"),
        Record("index_megabytes", index.masks.words.nbytes / 1e6, "MB", "", {"voxels": len(index.masks.order)}),
    ]
    written = [file.stat().st_mtime for file in (Path(database.url) / "density").rglob("*") if file.is_file()]
    hours = (max(written) - min(written)) / 3600
    details = {"from": "the times of the first and the last shard; interruptions and other work included"}
    records.append(Record("database_build_hours", hours, "h", "<= 4", details))
    large = len(database) == COUNT
    for count, resolution in ((512, 2.0), (2000, 4.0)) if large else ((64, 8.0),):
        seconds = seconds_of_building(count, resolution)
        name = f"build_{count}_at_{resolution:g}mm_seconds"
        records.append(Record(name, seconds, "s", "", {"tumours a second, with compilation": count / seconds}))
    return records


def exactness(database: Database, index: Index, queries: Queries, count: int) -> list[Record]:
    """The exact query against a plain loop over floating-point densities of all tumours and voxels of the brain."""
    own = np.stack([[np.take(mask, index.masks.order) for mask in queries[i]] for i in range(count)]).astype(np.float32)
    volumes = own.sum(axis=2).astype(int)
    scores = np.empty((count, len(database)))
    done = 0
    for block in database.blocks():
        both = 0.0
        for part, masks in enumerate(outlines(block)):
            flat = np.take(masks.reshape(len(masks), -1), index.masks.order, axis=1).astype(np.float32)
            # Integers below 2^24 are exact in single precision.
            shared = np.rint(own[:, part] @ flat.T).astype(int)
            both = both + coefficients(shared, volumes[:, part, None] + flat.sum(axis=1).astype(int))
        scores[:, done : done + len(block)] = both
        done += len(block)
    hits, ties = [], []
    for i in range(count):
        (row,), (score,) = search(index.masks, *queries[i], 1)
        best = scores[i].max()
        hits.append(row == np.argmax(scores[i]) and score == best)
        ties.append(int((scores[i] == best).sum()))
    details = {"queries": count, "tumours": done, "queries with several best tumours": int(np.sum(np.array(ties) > 1))}
    return [Record("direct_top1", float(np.mean(hits)), "1", "1", details)]


def times(index: Index, place: Path, queries: Queries, count: int) -> list[Record]:
    """Seconds of exact queries with and without pruning, and the memory of a process that makes one."""
    records = []
    chosen = [queries[i] for i in range(count)]
    name = "50k" if len(index) == COUNT else str(len(index))
    for kind, prune, target in (("", False, "<= 0.2"), ("_pruned", True, "<= 0.02")):
        seconds = timed(index.masks, chosen, prune)
        details = {
            "queries": count,
            "largest": float(seconds.max()),
            "first quarter": float(np.quantile(seconds, 0.25)),
        }
        records.append(Record(f"direct_{name}{kind}_seconds", float(np.median(seconds)), "s", target, details))
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file.name, core=chosen[0][0], lesion=chosen[0][1])
        command = [sys.executable, "-c", _ASK, str(place), file.name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    largest, own = (int(size) / 2**20 for size in done.stdout.split())
    details = {"of that no mapped file, GB": own, "pruned": False}
    records.append(Record("query_peak_memory", largest, "GB", "<= 4", details))
    return records


def timed(masks: PackedMasks, chosen: list[tuple[np.ndarray, np.ndarray]], prune: bool) -> np.ndarray:
    """Return the seconds of each query, after one that compiles and reads the disk."""
    search(masks, *chosen[0], 1, prune=prune)
    seconds = []
    for core, lesion in chosen:
        begun = time.perf_counter()
        search(masks, core, lesion, 1, prune=prune)
        seconds.append(time.perf_counter() - begun)
    return np.array(seconds)


def agreement(index: Index, queries: Queries) -> list[Record]:
    """Agreement of each variant with the exact query, Dice coefficients of its matches, and its seconds."""
    best, exact = [], []
    for i in range(len(queries)):
        (row,), (score,) = search(index.masks, *queries[i], 1)
        best.append(row)
        exact.append(score)
    records = [Record("direct_dice_sum", float(np.mean(exact)), "1", "paper 1.69", spread(exact))]
    for name in index.variants:
        ranks, sums, seconds = [], [], []
        for i in range(len(queries)):
            found = query(index, *queries[i], min(max(_TOP), len(index)), method=name)
            ranks.append(np.flatnonzero(found.indices == best[i])[:1])
            sums.append(float(found.dice_core[0] + found.dice_lesion[0]))
            seconds.append(found.seconds)
        top = {k: float(np.mean([len(rank) > 0 and rank[0] < k for rank in ranks])) for k in _TOP}
        published_seconds, published_top = PUBLISHED[name]
        details = {
            **{f"top-{k}": share for k, share in top.items()},
            "dice sum": spread(sums),
            "published seconds": published_seconds,
            "published top-1": published_top,
            "queries": len(queries),
        }
        label = name.replace("-", "_")
        records += [
            Record(f"{label}_query_seconds", float(np.median(seconds)), "s", "", details),
            Record(f"{label}_top1_agreement", top[1], "1", "1" if name == "direct" else ""),
            Record(f"{label}_mean_dice_sum", float(np.mean(sums)), "1"),
        ]
    return records


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return mean, quartiles and extremes."""
    values = np.array(list(values))
    quantiles = {"least": 0, "first quarter": 0.25, "median": 0.5, "third quarter": 0.75, "most": 1}
    return {"mean": float(values.mean()), **{name: float(np.quantile(values, q)) for name, q in quantiles.items()}}


def sizes(index: Index, queries: Queries, count: int) -> list[Record]:
    """Cost and results of exact queries as functions of the size of the database."""
    chosen, records = [queries[i] for i in range(count)], []
    steps = [n for n in (1000, 2000, 5000, 10_000, 20_000, COUNT) if n <= len(index)] or [len(index)]
    for n in steps:
        masks = first_of(index.masks, n)
        details = {"pruned, s": float(np.median(timed(masks, chosen, True)))}
        details["dice sum"] = float(np.mean([search(masks, *each, 1)[1][0] for each in chosen]))
        details["queries"] = count
        records.append(
            Record(f"direct_{n}_seconds_of_all", float(np.median(timed(masks, chosen, False))), "s", "", details)
        )
    return records


def first_of(masks: PackedMasks, n: int) -> PackedMasks:
    """Return the outlines of the first n tumours."""
    return replace(masks, words=masks.words[:n], blocks=masks.blocks[..., :n], counts=masks.counts[:, :n])


def refinement(database: Database, index: Index, others: Database, count: int) -> list[Record]:
    """Held-out tumours as patients in the atlas: the match, and its refinement by the adjoint."""
    anatomy = jax.tree.map(jnp.asarray, database.anatomy)
    rows: dict[str, list[dict[str, float]]] = {"match": [], "refined": []}
    for i in range(count):
        truth = others.density(i)
        core, lesion = (Outline(mask.astype(np.float32), np.asarray(anatomy.tissue)) for mask in Queries(others)[i])
        observations = {"core": core, "lesion": lesion}
        problem = Problem(FisherKolmogorov(), anatomy, observations, default_prior(anatomy, observations))
        look_up = Retrieval(database, index)
        for kind, method in (("match", look_up), ("refined", LBFGS(init=look_up))):
            begun = time.perf_counter()
            calibration = calibrate(problem, method)
            seconds = time.perf_counter() - begun
            density = np.asarray(problem.density(calibration.params))
            dices = [
                dice(density > float(calibration.params.observations[name].threshold), np.asarray(o.inside) > 0.5)
                for name, o in observations.items()
            ]
            grown = truth > 0.01
            rows[kind].append(
                {
                    "dice sum": float(sum(dices)),
                    "mean absolute error": float(np.abs(density - truth)[grown].mean()),
                    "relative error": float(np.linalg.norm(density - truth) / np.linalg.norm(truth)),
                    "dice at 0.1": float(dice(density > 0.1, truth > 0.1)),
                    "dice at 0.01": float(dice(density > 0.01, truth > 0.01)),
                    "seconds": seconds,
                }
            )
    records = []
    for kind, found in rows.items():
        summary = {name: spread([row[name] for row in found]) for name in found[0]}
        label = "match_in_patient_dice_sum" if kind == "match" else "refined_dice_sum"
        records.append(Record(label, summary["dice sum"]["mean"], "1", "", {**summary, "tumours": count}))
        seconds = np.median([row["seconds"] for row in found])
        records.append(Record(f"{kind}_seconds", float(seconds), "s"))
        records.append(Record(f"{kind}_density_error", summary["mean absolute error"]["mean"], "1"))
    return records


def real_patients(database: Database) -> list[Record]:
    """The patients of `shared/data`: the match in the atlas, and refined in the patient."""
    if not available("real patients"):
        return []
    records, sums = [], []
    for name in PATIENTS:
        patient = load_patient(**images(name), resolution=2.0)
        look_up = Retrieval(database).prepare(
            patient, FisherKolmogorov(), notes=patient.notes, progress=lambda stage, share: None
        )
        problem = problem_of(patient)
        for kind, method in (
            ("", look_up),
            ("_optimised", replace(look_up, optimise_thresholds=True)),
        ):
            found = calibrate(problem, method).stats.matches
            both = {"core": float(found.dice_core[0]), "lesion": float(found.dice_lesion[0])}
            details = {**both, "thresholds": found.thresholds[0].tolist(), "seconds": found.seconds}
            target = "paper 1.07" if kind == "" else ""
            records.append(Record(f"{name}_match{kind}_dice_sum", sum(both.values()), "1", target, details))
            if kind == "":
                sums.append(sum(both.values()))
        begun = time.perf_counter()
        refined = personalize(patient, method=LBFGS(init=look_up))
        details = dict(refined.metrics) | {"seconds": time.perf_counter() - begun}
        records.append(Record(f"{name}_refined_dice_sum", refined.metrics["dice_sum"], "1", "", details))
    records.append(Record("real_dice_sum", float(np.mean(sums)), "1", "paper 1.07"))
    return records
