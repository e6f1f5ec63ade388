"""What a report shows, and its arrays turned the way a reader expects them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from tumorjax.calibration.estimates import Estimate
from tumorjax.quality import Status
from tumorjax.report.blocks import check_blocks
from tumorjax.sections import Block, Comparison, Field, Film, Frames, Marked, Section

# Room around the brain in every displayed slice, mm.
DISPLAY_MARGIN = 5.0
_MASKS = ("brain", "core", "lesion", "plan", "standard_plan", "recurrence")
_IMAGES = (
    "background",
    "density",
    "density_std",
    "pet",
    "pet_predicted",
    "truth",
    "displacement",
    "displacement_std",
    "jacobian",
    "probability",
    "atlas",
    "tissue",
    "flair",
)


@dataclass(frozen=True)
class Stage:
    """A stage of the work and how long it took, s."""

    name: str
    seconds: float


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything a report shows. All arrays share one grid; None leaves a section out.

    Parameters
    ----------
    title, subtitle
        Plain text; any characters.
    affine
        (4, 4), mm. Maps voxel indices to RAS world coordinates, any orientation.
    background
        (x, y, z). The image under the overlays, any unit.
    brain, core, lesion
        (x, y, z), bool. Brain mask and observed outlines; `lesion` is the whole lesion, or the core where that alone is
        outlined.
    density, density_std
        (x, y, z), fractions of the carrying capacity: estimate and its standard deviation.
    core_threshold, lesion_threshold
        Fitted densities at the outlines of core and whole lesion; the latter is None where no image shows it.
    plan, standard_plan
        (x, y, z), bool. The model's target volume, None where there is none, and the clinical margin's.
    pet, pet_predicted
        (x, y, z), the same arbitrary unit: measured and modelled uptake.
    recurrence
        (x, y, z), bool. Tumour at follow-up.
    truth
        (x, y, z). True density of a synthetic patient.
    parameters
        Rows of the parameters' table.
    metrics
        Figures of merit by key; fractions in [0, 1], volumes in ml, times in s.
    correlation
        Parameter names and their (n, n) posterior correlation matrix.
    stages
        Time for each stage.
    provenance
        Versions, command, checksums, date.
    notes
        Warnings and remarks for the reader.
    sections
        What the method adds: drawn in a loop, after everything that all methods share.
    uncertainty
        What the standard deviation of the density is, as a sentence.
    displacement, displacement_std
        (x, y, z), mm: by how much tissue has moved, and the standard deviation of the displacement.
    jacobian
        (x, y, z): by how much tissue is enlarged.
    probability, infiltrated
        (x, y, z): probability that the density is above the threshold `infiltrated`.
    credible_volumes
        Rows of a table: a region in words, and its 50 % and 90 % credible volumes, ml.
    quality, reasons
        Whether the result can be used as it is, and why not.
    margin
        mm, of the clinical plan.
    background_of
        Whose brain the background shows, in words.
    tissue, tissue_of
        (x, y, z): healthy tissue that the model grew in, 1 fluid, 2 grey matter, 3 white matter, 0 elsewhere; and where
        it comes from, in words.
    atlas, atlas_title
        (x, y, z), any unit: the image of the atlas where it was aligned with the patient, and its name; None for none.
    flair
        (x, y, z), any unit: the patient's FLAIR image, for the slices to leaf through; None for none.
    methods, references
        What was done, as paragraphs of a publication, and the works cited there by their numbers, from 1 on.
    """

    title: str
    subtitle: str
    affine: np.ndarray
    background: np.ndarray
    brain: np.ndarray
    core: np.ndarray
    lesion: np.ndarray
    density: np.ndarray
    density_std: np.ndarray | None
    core_threshold: float
    lesion_threshold: float | None
    plan: np.ndarray | None
    standard_plan: np.ndarray
    pet: np.ndarray | None
    pet_predicted: np.ndarray | None
    recurrence: np.ndarray | None
    truth: np.ndarray | None
    parameters: list[Estimate]
    metrics: dict[str, float | int | None]
    correlation: tuple[list[str], np.ndarray] | None
    stages: list[Stage]
    provenance: dict[str, str]
    notes: list[str]
    sections: Sequence[Section] = ()
    uncertainty: str = ""
    displacement: np.ndarray | None = None
    displacement_std: np.ndarray | None = None
    jacobian: np.ndarray | None = None
    probability: np.ndarray | None = None
    infiltrated: float = 0.01
    credible_volumes: Sequence[tuple[str, float, float]] = ()
    background_of: str = "the patient's T1 image"
    quality: Status = Status.GOOD
    reasons: Sequence[str] = ()
    margin: float = 15.0
    tissue: np.ndarray | None = None
    tissue_of: str = ""
    atlas: np.ndarray | None = None
    atlas_title: str = ""
    flair: np.ndarray | None = None
    methods: Sequence[str] = ()
    references: Sequence[str] = ()

    @property
    def spacing(self) -> np.ndarray:
        """(3,), distance between voxel centres along each axis, mm."""
        return np.sqrt((np.asarray(self.affine, float)[:3, :3] ** 2).sum(axis=0))

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml."""
        return float(abs(np.linalg.det(np.asarray(self.affine, float)[:3, :3]))) / 1000

    @property
    def outlines(self) -> tuple[str, ...]:
        """Names of what is outlined: the core, and the whole lesion unless it is the same voxels."""
        return ("core",) if np.array_equal(self.core, self.lesion) else ("core", "lesion")

    @property
    def thresholds(self) -> dict[str, float]:
        """Fitted densities at outlines by name, the core's first."""
        known = {} if self.lesion_threshold is None else {"lesion": self.lesion_threshold}
        return {"core": self.core_threshold, **known}

    def volumes(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and array of every volume that is there."""
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in _MASKS + _IMAGES and value is not None:
                yield each.name, np.asarray(value)


def check(data: ReportData) -> None:
    """Raise `ValueError` where shapes or the affine cannot be displayed."""
    affine = np.asarray(data.affine, float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"the affine must be an invertible (4, 4) matrix, got {affine.tolist()}")
    shape = np.shape(data.density)
    if len(shape) != 3:
        raise ValueError(f"the density must have three axes, got shape {shape}")
    for name, volume in data.volumes():
        if volume.shape != shape:
            raise ValueError(f"{name} has shape {volume.shape}, the density {shape}; resample it to one grid")
    if data.correlation is not None:
        names, matrix = data.correlation
        if np.shape(matrix) != (len(names), len(names)):
            raise ValueError(f"the correlation matrix of {len(names)} parameters has shape {np.shape(matrix)}")
    check_blocks(data.sections)
    for section in data.sections:
        for block in section.blocks:
            maps = [block] if isinstance(block, Field) else block.frames if isinstance(block, Frames) else []
            for each in maps:
                if np.shape(each.values) != shape:
                    name = each.label if isinstance(each, Field) else each.title
                    raise ValueError(f"{name} has shape {np.shape(each.values)}, the density {shape}")
            if isinstance(block, Comparison) and not shape == block.measured.shape == block.modelled.shape:
                raise ValueError(f"{block.label} has shape {block.measured.shape}, the density {shape}")
            for each in block.frames if isinstance(block, Film) else []:
                if sorted(n == m for n, m in zip(np.shape(each.values), shape, strict=False)) != [False, True, True]:
                    raise ValueError(f"{each.title} has shape {np.shape(each.values)}, which is no slice of {shape}")


def remarks(data: ReportData) -> list[str]:
    """Return what the reader must know about the arrays themselves, as sentences."""
    from nibabel.affines import obliquity

    found = []
    for name, volume in data.volumes():
        bad = 0 if volume.dtype.kind in "bui" else int(volume.size - np.isfinite(volume).sum())
        if bad:
            found.append(f"{name}: {bad} voxels are not finite; they are shown as zero.")
    tilt = float(np.rad2deg(obliquity(np.asarray(data.affine, float))).max())
    if tilt > 5:
        found.append(
            f"The image axes are tilted by up to {tilt:.0f}° against the scanner's; slices follow the image axes, "
            "so the orientation marks are approximate."
        )
    return found


def canonical(data: ReportData) -> ReportData:
    """Return the report's data with axes to the patient's right, front and top, cropped to the brain.

    The arrays are contiguous copies, so that what follows does not depend on the orientation in which
    they came, to the last bit.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    affine = np.asarray(data.affine, float)
    shape = np.shape(data.density)
    turn = io_orientation(affine)
    turned = {name: apply_orientation(volume, turn) for name, volume in data.volumes()}
    affine = affine @ inv_ornt_aff(turn, shape)
    shown = turned["brain"].astype(bool)
    # An empty brain mask says nothing about where to look: everything is shown.
    if shown.any():
        shown = shown | turned["core"].astype(bool) | turned["lesion"].astype(bool)
    start, stop = _box(shown, DISPLAY_MARGIN / np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    affine[:3, 3] += affine[:3, :3] @ start
    changed: dict[str, np.ndarray] = {"affine": affine}
    for name, volume in turned.items():
        piece = volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        if name in _MASKS:
            changed[name] = np.array(piece, bool, order="C")
        else:
            changed[name] = np.nan_to_num(np.array(piece, np.float32, order="C"), posinf=0.0, neginf=0.0)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))

    def placed(section: Section) -> Section:
        return replace(section, blocks=[_placed(block, turn, box) for block in section.blocks])

    return replace(data, sections=[placed(section) for section in data.sections], **changed)


def _placed(block: Block, turn: np.ndarray, box: tuple[slice, ...]) -> Block:
    """Return a block whose maps, if it has any, are turned and cropped."""
    from nibabel.orientations import apply_orientation

    def change(array: np.ndarray) -> np.ndarray:
        values = np.array(apply_orientation(np.asarray(array), turn)[box], np.float32, order="C")
        return np.nan_to_num(values, posinf=0.0, neginf=0.0)

    if isinstance(block, Frames):
        return replace(block, frames=[frame.changed(change) for frame in block.frames])
    if isinstance(block, Film):
        # Along one axis it has one voxel.
        thin = [axis for axis, n in enumerate(apply_orientation(block.frames[0].values, turn).shape) if n == 1]
        box = tuple(slice(None) if axis in thin else part for axis, part in enumerate(box))
        return replace(block, frames=[frame.changed(change) for frame in block.frames])
    if isinstance(block, Comparison):
        return block.changed(change)
    if isinstance(block, Marked):
        return replace(block, mask=change(block.mask))
    return replace(block, values=change(block.values)) if isinstance(block, Field) else block


def centre(data: ReportData) -> np.ndarray:
    """Return the (3,) index through which all planes are cut: the lesion's voxel nearest to its centre.

    The lesion is the core; where that is empty the whole lesion, then the denser half of the density.
    A centre of mass may lie outside a ring or between two foci, hence the nearest voxel that belongs.
    """
    for lesion in (data.core, data.lesion, data.density > 0.5 * max(float(data.density.max()), 1e-6)):
        if lesion.any():
            inside = np.argwhere(lesion)
            distance = (((inside - inside.mean(axis=0)) * data.spacing) ** 2).sum(axis=1)
            # Equal distances are broken by the first index, also where rounding makes them unequal.
            return inside[np.flatnonzero(distance <= distance.min() + 1e-6)[0]]
    return np.array(data.density.shape) // 2


def lesion_box(data: ReportData, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return first and past-the-last index (3,) of the box of lesion and fitted outline, `margin` mm around."""
    lesion = data.core | data.lesion | (data.density > min(data.thresholds.values()))
    return _box(lesion, margin / data.spacing)


def _box(mask: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounding box of a mask grown by a margin in voxels; everything where it is empty."""
    shape = np.array(mask.shape)
    if not mask.any():
        return np.zeros(3, int), shape
    ends = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append((inside[0], inside[-1] + 1))
    low, high = np.array(ends).T
    grow = np.ceil(margin - 1e-6).astype(int)
    return np.maximum(low - grow, 0), np.minimum(high + grow, shape)
