"""What the network of Learn-Morph-Infer is shown of a tumour, and in which numbers it gives the parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from tumorjax.networks.guards import TrainingBox
from tumorjax.networks.tumours import resampled

# The paper's network sees one channel of outlines on the whole grid of its atlas, and so knows the anatomy by heart.
# "small" sees a window as wide as the lesion wants, and the tissue in it: it trains on a CPU, tumours of all sizes look
# alike to it, and turned windows are data too.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {"layers": "patch", "window": 32, "radii": 4.0, "tissue": True},
    "published": {"layers": "convolution", "window": 128, "radii": None, "tissue": False},
}
TARGETS = ("mu1", "mu2", "x", "y", "z")
"""mm, 1, and the seed's distance from the middle of the window: see `InverseArchitecture.unit`."""
_LAYERS = ("patch", "convolution")
# Share of a brain's volume by which the same brain may differ, that other versions of libraries have resampled.
_SAME_BRAIN = 2e-3


@dataclass(frozen=True)
class InverseArchitecture:
    """What decides the weights of an `InverseNetwork`, and what it can be asked.

    Parameters
    ----------
    layers
        "patch", cheap on a CPU, or "convolution", as in the paper.
    window
        Voxels along each edge of the cube that it sees.
    radii
        Edge of that cube, whose middle is then that of the lesion, in radii of a ball of the lesion's volume. None is
        the voxels as they are about the middle of the grid.
    tissue
        Whether it sees white matter, grey matter and CSF.
    spacing
        Edge of the voxels, mm.
    targets
        What it predicts, among `TARGETS`, the physical "D", "rho" and "T", mm^2/day, 1/day and day, and the "gamma" of
        mass effect, Pa.
    box
        Intervals of the targets, and of the volumes of the outlines, ml.
    shape, affine
        Of the grid of its tumours: voxels, and from voxel indices to the world of their atlas, RAS mm. A window about
        the middle of another grid, such as that of the whole atlas, is shifted against what it learnt. None where that
        is not known: of networks from before it was kept, and of tumours that do not say where they lie.
    brain
        White matter, grey matter and CSF in that grid, ml, by which another brain is recognised; None where that
        is not known.
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

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if self.brain is not None:
            object.__setattr__(self, "brain", tuple(float(ml) for ml in self.brain))
        if self.affine is not None:
            object.__setattr__(self, "affine", tuple(tuple(float(x) for x in row) for row in self.affine))
            if np.shape(self.affine) != (4, 4) or self.shape is None or not np.isfinite(self.affine).all():
                raise ValueError(f"a grid has a shape and an affine (4, 4), got {self.shape} and {self.affine}")
        if self.shape is not None and (len(self.shape) != 3 or min(self.shape) < 1):
            raise ValueError(f"a grid has three axes, got the shape {self.shape}")
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "box", TrainingBox.of(self.box))
        if self.layers not in _LAYERS or not (self.radii is None or self.radii > 0):
            raise ValueError(
                f"an inverse network cannot have {self.layers!r} layers, and windows of {self.radii} radii"
            )
        if self.window < 16 or self.window % 16 or not self.spacing > 0:
            raise ValueError(f"a window is a multiple of 16 voxels, got {self.window} on a grid of {self.spacing} mm")
        if not self.targets or not {*self.targets} <= {name for name, *_ in self.box.sides}:
            raise ValueError(f"each target has an interval, got targets {self.targets} and {self.box}")

    def check_grid(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError if outlines on a grid of this shape are not what the network learnt from."""
        if self.shape is None and self.radii is None:
            raise ValueError(
                "the network sees a window about the middle of a grid, and its file does not say of which; train it "
                "again, which keeps the grid"
            )
        if self.shape is not None and shape != self.shape:
            raise ValueError(
                f"the network learnt on a grid of {self.shape} voxels, got {shape}; give outlines and tissue on the "
                "grid of its tumours, to which `LearnMorphInfer` crops an atlas"
            )

    def check_brain(self, tissue: UInt8[np.ndarray, "x y z 3"]) -> None:
        """Raise a ValueError if the tissue on the network's grid is not that of its tumours' brain."""
        if self.brain is None:
            return
        there = tissue_volumes(tissue, self.spacing)
        if np.abs(np.subtract(there, self.brain)).max() > _SAME_BRAIN * sum(self.brain):
            told = " and ".join("/".join(f"{ml:.0f}" for ml in brain) for brain in (there, self.brain))
            raise ValueError(
                "the network learnt in another brain: white matter, grey matter and CSF of the anatomy and of its "
                f"tumours' brain have {told} ml; give the atlas in which they grew"
            )

    @property
    def channels(self) -> int:
        """Core, lesion and tissue; or the paper's sum of core and lesion."""
        return 5 if self.tissue else 1

    def view(
        self,
        core: Bool[np.ndarray, "u v w"],
        lesion: Bool[np.ndarray, "u v w"],
        tissue: UInt8[np.ndarray, "x y z 3"],
        start: Int[Any, "3"] = 0,
    ) -> "View":
        """Return what the network sees of outlines, which begin at the voxel `start` of the tissue's grid."""
        radius = self.spacing * float(np.cbrt(3 / (4 * np.pi) * lesion.sum()))
        step, middle = 1.0, np.rint((np.asarray(tissue.shape[:3]) - self.window) / 2) + (self.window - 1) / 2
        if self.radii is not None:
            step = self.radii * radius / (self.spacing * self.window)
            middle = np.array([np.average(where) for where in np.nonzero(lesion)]) + start
        inner, outer = (
            resampled(255 * mask.astype(np.uint8), middle - start, step, self.window) for mask in (core, lesion)
        )
        if not self.tissue:
            # 0.666 and 0.333 of one, in the paper.
            return View((2 / 3 * inner + outer / 3).astype(np.uint8)[..., None], middle, radius)
        maps = resampled(tissue, middle, step, self.window)
        return View(np.concatenate([np.stack([inner, outer], axis=-1), maps], axis=-1), middle, radius)

    def unit(self, radius: float) -> float:
        """Return the unit of the targets x, y and z, mm: the radius of the lesion, or 1."""
        return 1.0 if self.radii is None else radius

    def coordinates(self, values: Mapping[str, float], radius: float) -> Float[np.ndarray, "t"]:
        """Return targets as the network gives them, for a lesion of a radius, mm: see `values`."""
        middles, halves = self._intervals()
        numbers = (np.array([values[name] for name in self.targets]) - middles) / halves
        if (pair := self._pair()) is not None:
            mu1, mu2 = values["mu1"], values["mu2"]
            numbers[pair] = np.log(mu1 * mu2 / radius), np.log(mu1 / mu2) / 2
        return numbers

    def values(self, coordinates: Float[np.ndarray, "t"], radius: float) -> dict[str, float]:
        """Return targets by name from what the network gives, of which the intervals of the box are [-1, 1].

        Where windows are as wide as the lesion wants, mu_1 and mu_2 are given by log(mu_1 mu_2 / r) and
        log(mu_1 / mu_2) / 2, r being the lesion's radius: outlines show well how far the front has come, and badly how
        steep it is, and a mean of tumours alike in the first is alike in it too.
        """
        middles, halves = self._intervals()
        values = dict(zip(self.targets, (middles + halves * coordinates).tolist(), strict=True))
        if (pair := self._pair()) is not None:
            front, ratio = np.clip(coordinates[pair], -5, 5).tolist()
            root = np.sqrt(radius * np.exp(front))
            values |= {"mu1": float(root * np.exp(ratio)), "mu2": float(root * np.exp(-ratio))}
        return values

    def _intervals(self) -> Float[np.ndarray, "2 t"]:
        bounds = np.array([self.box.bounds(name) for name in self.targets])
        return np.stack([bounds.mean(axis=1), np.diff(bounds, axis=1)[:, 0] / 2])

    def _pair(self) -> list[int] | None:
        """Return where mu_1 and mu_2 are among the targets, if both are given, by the lesion's radius."""
        both = self.radii is not None and {"mu1", "mu2"} <= {*self.targets}
        return [self.targets.index(name) for name in ("mu1", "mu2")] if both else None


class View(NamedTuple):
    """What a network sees: a window, its middle in fractional voxel indices of the grid, the lesion's radius in mm."""

    window: UInt8[np.ndarray, "w w w c"]
    middle: Float[np.ndarray, "3"]
    radius: float


def volumes(core: Bool[np.ndarray, "x y z"], lesion: Bool[np.ndarray, "x y z"], spacing: float) -> dict[str, float]:
    """Return the volumes of outlines as a `TrainingBox` names them."""
    return {"core_ml": core.sum() * spacing**3 / 1000, "lesion_ml": lesion.sum() * spacing**3 / 1000}


def tissue_volumes(tissue: UInt8[np.ndarray, "x y z 3"], spacing: float) -> tuple[float, ...]:
    """Return the volumes of white matter, grey matter and CSF, ml."""
    return tuple((tissue.sum(axis=(0, 1, 2), dtype=float) / 255 * spacing**3 / 1000).tolist())
