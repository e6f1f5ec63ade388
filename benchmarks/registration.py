"""Registration of real brains: seconds, similarity, tissue overlap, folds and the error of the inverse."""

import importlib.util
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
from scipy import ndimage

from benchmarks.patients import DATA, available
from benchmarks.record import Record
from tumorjax.atlas import load_atlas
from tumorjax.io import Volume, read_volume
from tumorjax.planning import dice
from tumorjax.registration import RegistrationWarning, Transform, register, warp

# Registration ignores this rim (mm) around a segmentation, which may contain unsegmented oedema.
_LESION_RIM = 4
_PAIRS = (
    ("icbm152", "sri24"),
    ("sri24", "icbm152"),
    ("icbm152", "nirep1"),
    ("icbm152", "nirep2"),
    ("icbm152", "patient"),
    ("sri24", "patient"),
)
# Cluster centres start at these quantiles of the brain's intensities.
_QUANTILES = (10, 45, 85)


_TISSUES = ("fluid", "grey_matter", "white_matter")


def run(size: str) -> list[Record]:
    """All pairs with every engine that is installed; `small` uses one pair on coarse voxels."""
    if not available("registration"):
        return []
    pairs, resolution = (_PAIRS[:1], 4.0) if size == "small" else (_PAIRS, 2.0)
    return [record for pair in pairs for record in measure(*pair, resolution)]


def measure(moving: str, fixed: str, resolution: float) -> list[Record]:
    """Return the figures of one pair of brains, with every engine that is installed."""
    engines: list[str] = ["greedy", "demons", *(["ants"] if importlib.util.find_spec("ants") else [])]
    images, mask = (_t1(moving), _t1(fixed)), _healthy() if fixed == "patient" else None
    classes = (_classes(moving), _classes(fixed))
    if mask is not None:
        classes = (classes[0], replace(classes[1], data=np.where(mask, classes[1].data, 0).astype(np.uint8)))
    found: dict[str, Transform] = {}
    with warnings.catch_warnings():
        # A failure is among the details.
        warnings.simplefilter("ignore", RegistrationWarning)
        found["affine"] = register(*images, mask=mask, resolution=resolution)
        for engine in engines:
            found[engine] = register(
                *images, kind="deformable", engine=engine, mask=mask, initial=found["affine"], resolution=resolution
            )
    return [
        record
        for method, transform in found.items()
        for record in _records(f"{moving}_to_{fixed}_{method}", transform, classes, (moving, fixed))
    ]


def _records(name: str, transform: Transform, classes: tuple[Volume, Volume], brains: tuple[str, str]) -> list[Record]:
    details = {"correlation_before": transform.before, "failure": transform.failure}
    deformed = transform.field is not None
    records = [
        Record(f"{name}_seconds", transform.seconds, "s", "<= 20" if deformed else "", details),
        Record(f"{name}_correlation", transform.after, "1"),
        *_overlaps(f"{name}_dice_intensity_class", classes, transform),
    ]
    if set(brains) == {"icbm152", "sri24"}:
        records += _overlaps(f"{name}_dice_labels", (_labels(brains[0]), _labels(brains[1])), transform)
    if deformed:
        records += [
            Record(f"{name}_folds", transform.folds, "voxels", "0"),
            Record(f"{name}_inverse_error", transform.inverse_error[0], "mm", "<= 1"),
            Record(f"{name}_largest_inverse_error", transform.inverse_error[1], "mm"),
        ]
    return records


def _overlaps(name: str, labels: tuple[Volume, Volume], transform: Transform) -> list[Record]:
    moved = warp(labels[0], transform, labels[1].grid, kind="label")
    # Where the fixed brain has no label nothing is compared: outside the brain, and in a tumour.
    known = labels[1].data > 0
    return [
        Record(f"{name}_{tissue}", dice((moved == k) & known, labels[1].data == k), "1")
        for k, tissue in enumerate(_TISSUES, start=1)
    ]


@cache
def _t1(brain: str) -> Volume:
    if brain == "icbm152":
        return load_atlas("icbm152").t1
    file = {
        "sri24": "atlas_sri24/t1",
        "nirep1": "brains_nirep/brain01",
        "nirep2": "brains_nirep/brain02",
        "patient": "patient_mri/t1",
    }[brain]
    return read_volume(DATA / f"{file}.nii.gz", name=brain)


@cache
def _healthy() -> np.ndarray:
    segmentation = read_volume(DATA / "patient_mri" / "segmentation.nii.gz", name="segmentation")
    return np.asarray(ndimage.distance_transform_edt(segmentation.data == 0)) > _LESION_RIM


@cache
def _labels(brain: str) -> Volume:
    if brain == "sri24":
        return read_volume(DATA / "atlas_sri24" / "tissue_labels.nii.gz", name="tissue labels")
    atlas = load_atlas("icbm152")
    maps = np.stack([atlas.csf.data, atlas.grey_matter.data, atlas.white_matter.data])
    data = np.where(atlas.brain.data > 0, 1 + maps.argmax(axis=0), 0).astype(np.uint8)
    return Volume(data, atlas.t1.affine, name="tissue labels")


@cache
def _classes(brain: str) -> Volume:
    # Three clusters of a brain's own intensities (k-means): dark, middle and bright. Unlike labels that come from
    # elsewhere, they are what the image itself shows.
    t1 = _t1(brain)
    inside = t1.data > 0.05 * np.percentile(t1.data[t1.data > 0], 98)
    values = t1.data[inside]
    centres = np.percentile(values, _QUANTILES)
    for _ in range(30):
        nearest = np.digitize(values, _between(centres))
        centres = np.array([values[nearest == k].mean() for k in range(3)])
    data = np.zeros(t1.data.shape, np.uint8)
    data[inside] = 1 + np.digitize(values, _between(centres))
    return Volume(data, t1.affine, name=f"{brain} classes")


def _between(centres: np.ndarray) -> np.ndarray:
    return (centres[1:] + centres[:-1]) / 2
