"""Input windows and output coordinates of the inverse network of Learn-Morph-Infer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.special import ndtr, ndtri

from tumorjax.networks.guards import TrainingBox
from tumorjax.networks.tumours import resampled

# The paper's network sees one channel of outlines on the whole grid of its atlas, and learns that anatomy implicitly.
# "small" sees a window whose width is proportional to the lesion's, and the tissue in it. It can be trained on a CPU,
# tumours of all sizes look alike to it, and turned windows can augment the data.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"layers": "patch", "window": 32, "radii": 4.0, "tissue": True, "components": 4},
    "published": {"layers": "convolution", "window": 128, "radii": None, "tissue": False},
}
TARGETS = ("mu1", "mu2", "x", "y", "z")
"""Targets of the paper: mu1 (mm), mu2, and the position of the seed relative to the middle of the window, in units of
`InverseArchitecture.unit`."""
THRESHOLDS = ("threshold_core", "threshold_lesion")
"""Further targets: the densities at the outlines."""
# A threshold at an end of its interval has this coordinate, and no more.
_END = 3.0
_LAYERS = ("patch", "convolution")
# Share of a brain's volume by which the same brain may differ after resampling by other versions of libraries.
_SAME_BRAIN = 2e-3


@dataclass(frozen=True)
class InverseArchitecture:
    """The architecture of an `InverseNetwork`, with the range of its training data.

    Parameters
    ----------
    layers
        Kind of layers: "patch", which are fast on a CPU, or "convolution", as in the paper.
    window
        Voxels along each edge of the cube that the network sees.
    radii
        Edge of that cube in radii of a ball with the lesion's volume; the cube is then centred on the lesion. With
        None, the cube consists of the voxels around the middle of the grid.
    tissue
        Whether the network sees white matter, grey matter and CSF.
    spacing
        Edge of the voxels, mm.
    targets
        The predicted quantities: any of `TARGETS`, `THRESHOLDS`, the physical "D", "rho" and "T" (mm^2/day, 1/day and
        day), and the "gamma" of mass effect (Pa).
    box
        Intervals of the targets, and of the volumes of the outlines, ml.
    shape, affine
        Shape of the grid of the training tumours, and its affine from voxel indices to the world of their atlas, RAS
        mm. On another grid, such as that of the whole atlas, a window around the middle would be shifted against the
        training data. None if unknown, as for networks of earlier versions and tumours without a position.
    brain
        Volumes of white matter, grey matter and CSF in that grid, ml, by which another brain is recognised; None if
        unknown.
    growth
        The model by which the training tumours grew, as `tumorjax.ensemble.described` describes it, so that growth with
        another ratio of diffusivities, say, is recognised; None if unknown.
    """

    layers: str
    window: int
    radii: float | None
    tissue: bool
    spacing: float
    targets: tuple[str, ...]
    box: TrainingBox = field(repr=False)
    shape: tuple[int, ...] | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    brain: tuple[float, ...] | None = None
    growth: str | None = None
    components: int = 0

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if self.brain is not None:
            object.__setattr__(self, "brain", tuple(float(ml) for ml in self.brain))
        if self.affine is not None:
            object.__setattr__(self, "affine", tuple(tuple(float(x) for x in row) for row in self.affine))
            if np.shape(self.affine) != (4, 4) or self.shape is None or not np.isfinite(self.affine).all():
                raise ValueError(f"a grid needs a shape and an affine (4, 4), got {self.shape} and {self.affine}")
        if self.shape is not None and (len(self.shape) != 3 or min(self.shape) < 1):
            raise ValueError(f"a grid needs three axes, got the shape {self.shape}")
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "box", TrainingBox.of(self.box))
        if self.layers not in _LAYERS or not (self.radii is None or self.radii > 0):
            raise ValueError(
                f"an inverse network cannot have {self.layers!r} layers, and windows of {self.radii} radii"
            )
        if self.window < 16 or self.window % 16 or not self.spacing > 0:
            raise ValueError(
                f"a window must be a multiple of 16 voxels, got {self.window}, on voxels of {self.spacing} mm"
            )
        if self.components < 0:
            raise ValueError(f"a distribution has components, or 0 for none, got {self.components}")
        if not self.targets or not {*self.targets} <= {name for name, *_ in self.box.sides}:
            raise ValueError(f"each target needs an interval, got targets {self.targets} and {self.box}")

    def check_grid(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError if this shape is not that of the grid that the network was trained on."""
        if self.shape is None and self.radii is None:
            raise ValueError(
                "the network sees a window around the middle of a grid, but its file does not state which grid; train "
                "it again, which stores the grid"
            )
        if self.shape is not None and shape != self.shape:
            raise ValueError(
                f"the network was trained on a grid of {self.shape} voxels, got {shape}; give outlines and tissue on "
                "the grid of its tumours, to which `LearnMorphInfer` crops an atlas"
            )

    def check_brain(self, tissue: UInt8[np.ndarray, "x y z 3"]) -> None:
        """Raise a ValueError if the tissue on the network's grid is not that of the brain it was trained in."""
        if self.brain is None:
            return
        there = tissue_volumes(tissue, self.spacing)
        if np.abs(np.subtract(there, self.brain)).max() > _SAME_BRAIN * sum(self.brain):
            given, own = ("/".join(f"{ml:.0f}" for ml in brain) for brain in (there, self.brain))
            raise ValueError(
                "the network was trained in another brain: white matter, grey matter and CSF have "
                f"{given} ml in the anatomy and {own} ml in its training data; give the atlas of these data"
            )

    @property
    def channels(self) -> int:
        """The number of channels: for core, lesion and three tissues, or for the paper's sum of core and lesion."""
        return 5 if self.tissue else 1

    def view(
        self,
        core: Bool[np.ndarray, "u v w"],
        lesion: Bool[np.ndarray, "u v w"],
        tissue: UInt8[np.ndarray, "x y z 3"],
        start: Int[Any, "3"] = 0,
        spacing: float | None = None,
    ) -> "View":
        """Return the network's view of outlines that begin at voxel `start` of the tissue's grid.

        A window that is as wide as the lesion can be seen on voxels of another edge, `spacing` mm.

        It is computed in the smallest box around the outlines, so that a tumour of a database, which is kept in a box
        of its own, has bit for bit the view of the same outlines on the whole grid.
        """
        box = _box(core | lesion)
        core, lesion, first = core[box], lesion[box], np.array([axis.start for axis in box])
        spacing = self.spacing if spacing is None else spacing
        radius = spacing * float(np.cbrt(3 / (4 * np.pi) * lesion.sum()))
        step, begin = 1.0, first + start
        if self.radii is None:
            middle = middle_of(tissue.shape[:3], self.window)
            inside = middle - begin
        else:
            step = self.radii * radius / (spacing * self.window)
            inside = np.array([np.average(where) for where in np.nonzero(lesion)])
            middle = inside + begin
        inner, outer = (resampled(255 * mask.astype(np.uint8), inside, step, self.window) for mask in (core, lesion))
        if not self.tissue:
            # The paper weights core and lesion with 0.666 and 0.333.
            return View((2 / 3 * inner + outer / 3).astype(np.uint8)[..., None], middle, radius)
        maps = resampled(tissue, middle, step, self.window)
        return View(np.concatenate([np.stack([inner, outer], axis=-1), maps], axis=-1), middle, radius)

    def unit(self, radius: float) -> float:
        """Return the unit of the targets x, y and z, mm: the radius of the lesion, or 1."""
        return 1.0 if self.radii is None else radius

    def coordinates(self, values: Mapping[str, float], radius: float) -> Float[np.ndarray, "t"]:
        """Return the network's coordinates of targets for a lesion with this radius, mm; the inverse of `values`."""
        middles, halves = self._intervals()
        numbers = (np.array([values[name] for name in self.targets]) - middles) / halves
        if (pair := self._pair()) is not None:
            mu1, mu2 = values["mu1"], values["mu2"]
            numbers[pair] = np.log(mu1 * mu2 / radius), np.log(mu1 / mu2) / 2
        bounded = self._bounded()
        with np.errstate(divide="ignore"):
            numbers[bounded] = np.clip(ndtri(np.clip((numbers[bounded] + 1) / 2, 0, 1)), -_END, _END)
        return numbers

    def values(self, coordinates: Float[np.ndarray, "*k t"], radius: float) -> dict[str, Float[np.ndarray, "*k"]]:
        """Return targets by name from the network's coordinates, in which the intervals of the box are [-1, 1].

        If the window scales with the lesion, the coordinates of mu_1 and mu_2 are log(mu_1 mu_2 / r) and
        log(mu_1 / mu_2) / 2, where r is the lesion's radius. Outlines determine the position of the front well and its
        steepness poorly; with these coordinates, averaging tumours with the same front position keeps it. The
        coordinate of a threshold is standard normal if the threshold is uniform in its interval.
        """
        middles, halves = self._intervals()
        numbers = np.array(coordinates, float)
        bounded = self._bounded()
        numbers[..., bounded] = 2 * ndtr(np.clip(numbers[..., bounded], -_END, _END)) - 1
        values = dict(zip(self.targets, np.moveaxis(middles + halves * numbers, -1, 0), strict=True))
        if (pair := self._pair()) is not None:
            front, ratio = np.moveaxis(np.clip(np.asarray(coordinates, float)[..., pair], -5, 5), -1, 0)
            root = np.sqrt(radius * np.exp(front))
            values |= {"mu1": root * np.exp(ratio), "mu2": root * np.exp(-ratio)}
        return values

    def _intervals(self) -> Float[np.ndarray, "2 t"]:
        bounds = np.array([self.box.bounds(name) for name in self.targets])
        return np.stack([bounds.mean(axis=1), np.diff(bounds, axis=1)[:, 0] / 2])

    def _pair(self) -> list[int] | None:
        """Return the indices of mu_1 and mu_2 among the targets if they are scaled by the lesion's radius, or None."""
        both = self.radii is not None and {"mu1", "mu2"} <= {*self.targets}
        return [self.targets.index(name) for name in ("mu1", "mu2")] if both else None

    def _bounded(self) -> list[int]:
        """Return the indices of the thresholds among the targets."""
        return [self.targets.index(name) for name in THRESHOLDS if name in self.targets]


def _box(mask: Bool[np.ndarray, "x y z"]) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask, which is not empty."""
    return tuple(slice(int(there.min()), int(there.max()) + 1) for there in np.nonzero(mask))


class View(NamedTuple):
    """A network's view: a window, its middle in fractional voxel indices of the grid, and the lesion's radius, mm."""

    window: UInt8[np.ndarray, "w w w c"]
    middle: Float[np.ndarray, "3"]
    radius: float


def middle_of(shape: tuple[int, ...], window: int) -> Float[np.ndarray, "3"]:
    """Return the middle of a window around the middle of a grid, in voxel indices: a half, as its edges are even."""
    return np.rint((np.asarray(shape) - window) / 2) + (window - 1) / 2


def volumes(core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], spacing: float) -> dict[str, float]:
    """Return the volumes of outlines by their names in a `TrainingBox`."""
    return {"core_ml": core.sum() * spacing**3 / 1000, "lesion_ml": lesion.sum() * spacing**3 / 1000}


def tissue_volumes(tissue: UInt8[np.ndarray, "x y z 3"], spacing: float) -> tuple[float, ...]:
    """Return the volumes of white matter, grey matter and CSF, ml."""
    return tuple((tissue.sum(axis=(0, 1, 2), dtype=float) / 255 * spacing**3 / 1000).tolist())
