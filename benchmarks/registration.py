"""Registration of real brains: similarity, tissue overlap, folds, the error of the inverse, and seconds, by engine."""

import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.cohorts import folder
from benchmarks.patients import DATA, available
from benchmarks.record import Record, code, kept
from tumorjax.atlas import load_atlas
from tumorjax.io import Volume, above_background, read_volume, resample
from tumorjax.planning import dice
from tumorjax.registration import (
    DEFAULT_ENGINE,
    ENGINES,
    RegistrationWarning,
    Transform,
    jacobian_determinant,
    register,
    warp,
)

# Registration ignores this rim (mm) around a segmentation, which may contain unsegmented oedema.
_LESION_RIM = 4
ATLASES = ("icbm152", "sri24", "nirep1", "nirep2")
"""Healthy brains: an average, and three persons'."""
_PATIENTS = ("patient_mri", "patient_large")
PAIRS = tuple((atlas, patient) for patient in _PATIENTS for atlas in ATLASES)
"""Atlases and patients with tumours, lesion masked; the names of the summary are over them."""
_HEALTHY = (("icbm152", "sri24"), ("sri24", "icbm152"))
_TISSUES = ("fluid", "grey_matter", "white_matter")
# Measured only where it is asked for: it takes many minutes a pair.
_SLOW = "ants-published"


def add_arguments(parser: Any) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--engines", nargs="+", choices=tuple(ENGINES), metavar="NAME", help=f"default: all installed but {_SLOW}"
    )


def run(size: str, engines: Sequence[str] | None = None) -> list[Record]:
    """All pairs with every engine that is installed; `small` uses one pair on coarse voxels."""
    if not available("registration"):
        return []
    chosen = list(engines or installed())
    if size == "small":
        return measure(*PAIRS[0], 4.0, chosen)
    found: dict[str, Record] = {}
    # The default engine first: what an interrupted command has measured is then of one kind.
    for engine in chosen:
        for pair in (*PAIRS, *_HEALTHY):
            found |= {record.name: record for record in measure(*pair, 2.0, [engine])}
    records = list(found.values())
    return summary(records) + records


def installed() -> list[str]:
    """Return the engines whose libraries are installed, without the slowest."""
    found = [name for name, engine in ENGINES.items() if not engine.library or importlib.util.find_spec(engine.library)]
    return [name for name in found if name != _SLOW]


def measure(moving: str, fixed: str, resolution: float, engines: Sequence[str] | None = None) -> list[Record]:
    """Return the figures of one pair of brains, each engine stored by itself, so that an interruption costs little."""
    pair, place, by = f"{moving}_to_{fixed}", folder() / "registration", code("registration")

    def stored(name: str, how: Callable[[], Transform]) -> dict[str, Any]:
        def found() -> dict[str, Any]:
            begun = time.process_time()
            with warnings.catch_warnings():
                # A failure is among the details.
                warnings.simplefilter("ignore", RegistrationWarning)
                transform = how()
            processor = time.process_time() - begun
            records = _records(f"{pair}_{name}", transform, processor, moving, fixed)
            return {"matrix": transform.matrix.tolist(), "records": [asdict(each) for each in records]}

        return kept(place / f"{pair}_{resolution:g}mm_{name}.json", by, found)

    mask = _healthy(fixed) if fixed in _PATIENTS else None
    images = (t1_of(moving), t1_of(fixed))
    units = [stored("affine", partial(register, *images, mask=mask, resolution=resolution))]
    initial = Transform(np.array(units[0]["matrix"]))
    for engine in engines or installed():
        settings: dict[str, Any] = {"mask": mask, "initial": initial, "resolution": resolution, "engine": engine}
        units.append(stored(engine, partial(register, *images, kind="deformable", **settings)))
    return [Record(**each) for unit in units for each in unit["records"]]


def summary(records: Sequence[Record]) -> list[Record]:
    """Return folds, failures and worst figures of the default engine, and the correlation of each, over the pairs."""
    values = {each.name: each.value for each in records}

    def over(engine: str, what: str) -> list[float]:
        names = [f"{moving}_to_{fixed}_{engine}_{what}" for moving, fixed in PAIRS]
        return [values[name] for name in names if name in values]

    found = []
    if folds := over(DEFAULT_ENGINE, "folds"):
        found += [
            Record("folds", sum(folds), "voxels", "0", {"pairs": len(folds)}),
            Record("failures", sum(over(DEFAULT_ENGINE, "failed")), "pairs", "0"),
            Record("least_jacobian", min(over(DEFAULT_ENGINE, "least_jacobian")), "1", "> 0"),
            Record("largest_seconds", max(over(DEFAULT_ENGINE, "seconds")), "s", "<= 20"),
            Record("largest_processor_seconds", max(over(DEFAULT_ENGINE, "processor_seconds")), "s"),
            Record("largest_inverse_error", max(over(DEFAULT_ENGINE, "largest_inverse_error")), "mm"),
        ]
    for name in ("affine", *ENGINES):
        if correlations := over(name, "correlation"):
            details = {"pairs": len(correlations)}
            found.append(Record(f"{name}_mean_correlation", float(np.mean(correlations)), "1", details=details))
        if weakened := over(name, "weakened"):
            either = zip(weakened, over(name, "failed"), strict=True)
            found.append(Record(f"{name}_weakened_or_failed", sum(max(each) > 0 for each in either), "pairs"))
    ours, theirs = over(DEFAULT_ENGINE, "correlation"), over("ants", "correlation")
    if ours and len(ours) == len(theirs):
        least = min(a - b for a, b in zip(ours, theirs, strict=True))
        found.append(Record("least_correlation_above_ants", least, "1", ">= -0.01"))
    return found


def table(records: Sequence[Record]) -> str:
    """Return the table of the page of results: a row for each pair, with correlation, least Jacobian and seconds."""
    values = {each.name: each.value for each in records}
    engines = [name for name in ENGINES if any(f"_{name}_correlation" in each for each in values)]

    def cell(pair: str, engine: str) -> str:
        found = {key.removeprefix(f"{pair}_{engine}_"): value for key, value in values.items()}
        if "correlation" not in found:
            return "not measured"
        text = f"{found['correlation']:.3f}, {found['least_jacobian']:.2f}, {found['seconds']:.0f} s"
        if found["failed"]:
            return f"{text}, failed"
        return f"{text}, smoothed by {found['weakened']:g} mm" if found["weakened"] else text

    head = ["atlas to patient", "affine", *(f"`{name}`" for name in engines)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for moving, fixed in PAIRS:
        pair = f"{moving}_to_{fixed}"
        cells = [f"{values[f'{pair}_affine_correlation']:.3f}", *(cell(pair, name) for name in engines)]
        lines.append(f"| {moving} to `{fixed}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _records(name: str, transform: Transform, processor: float, moving: str, fixed: str) -> list[Record]:
    details = {"correlation_before": transform.before, "failure": transform.failure}
    deformed = name.rpartition("_")[2] != "affine"
    records = [
        Record(f"{name}_seconds", transform.seconds, "s", "<= 20" if deformed else "", details),
        Record(f"{name}_processor_seconds", processor, "s"),
        Record(f"{name}_correlation", transform.after, "1"),
    ]
    if {moving, fixed} == {"icbm152", "sri24"}:
        records += _overlaps(f"{name}_dice_labels", (_labels(moving), _labels(fixed)), transform)
    if deformed:
        least = 1.0
        if transform.field is not None:
            # The field alone: the affine map's own change of volume is no compression.
            grid = t1_of(fixed).grid.with_spacing(2.0)
            least = float(jacobian_determinant(Transform(np.eye(4), field=transform.field), grid).min())
        records += [
            Record(f"{name}_folds", transform.folds, "voxels", "0"),
            Record(f"{name}_failed", float(bool(transform.failure)), "1", "0"),
            Record(f"{name}_weakened", transform.weakened, "mm"),
            Record(f"{name}_least_jacobian", least, "1"),
            Record(f"{name}_inverse_error", transform.inverse_error[0], "mm", "<= 1"),
            Record(f"{name}_largest_inverse_error", transform.inverse_error[1], "mm"),
        ]
    return records


def _overlaps(name: str, labels: tuple[Volume, Volume], transform: Transform) -> list[Record]:
    moved = warp(labels[0], transform, labels[1].grid, kind="label")
    # Where the fixed brain has no label nothing is compared.
    known = labels[1].data > 0
    return [
        Record(f"{name}_{tissue}", dice((moved == k) & known, labels[1].data == k), "1")
        for k, tissue in enumerate(_TISSUES, start=1)
    ]


@cache
def t1_of(brain: str) -> Volume:
    """Return the T1 image of an atlas or a patient, without the skull."""
    if brain == "icbm152":
        return load_atlas("icbm152").t1
    files = {"sri24": "atlas_sri24/t1", "nirep1": "brains_nirep/brain01", "nirep2": "brains_nirep/brain02"}
    file = files.get(brain, f"{brain}/t1")
    return above_background(read_volume(DATA / f"{file}.nii.gz", name=brain))


@cache
def _healthy(patient: str) -> np.ndarray:
    segmentation = read_volume(DATA / patient / "segmentation.nii.gz", name="segmentation")
    tumour = resample(segmentation.data > 0, segmentation.affine, t1_of(patient).grid, kind="mean") > 0
    return np.asarray(ndimage.distance_transform_edt(~tumour)) > _LESION_RIM


@cache
def _labels(brain: str) -> Volume:
    if brain == "sri24":
        return read_volume(DATA / "atlas_sri24" / "tissue_labels.nii.gz", name="tissue labels")
    atlas = load_atlas("icbm152")
    maps = np.stack([atlas.csf.data, atlas.grey_matter.data, atlas.white_matter.data])
    data = np.where(atlas.brain.data > 0, 1 + maps.argmax(axis=0), 0).astype(np.uint8)
    return Volume(data, atlas.t1.affine, name="tissue labels")
