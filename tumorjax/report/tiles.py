"""Slices of a volume as tiles on a figure: one scale for all planes, marks, scale bar, overlays.

Everything is placed in inches, so that tiles of different figures line up on the page.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from scipy import ndimage

from tumorjax.report.data import ReportData, canonical, centre, lesion_box

WIDTH = 11.2  # in, of every figure that spans the page: a hundredth of an inch is a pixel of the page
INK, SOFT = "#1b2430", "#52606d"  # of words, and of words beside the point
Dash = str | tuple[float, tuple[float, ...]]  # a line style, by name or as offset and pattern
_GAP = 0.05  # in, between tiles
_LABEL: dict[str, Any] = {
    "color": "white",
    "path_effects": [withStroke(linewidth=2.0, foreground="black")],
    "parse_math": False,
}


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def plain(text: str, most: int = 100) -> str:
    """Return `text` on one line of at most so many characters, those that the figures' font cannot draw replaced.

    matplotlib warns for each of them; the page itself shows the text as it came.
    """
    text = " ".join(text.split())
    if len(text) > most:
        text = text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return "".join(c if ord(c) in _glyphs() else "\N{WHITE SQUARE}" for c in text)


@dataclass(frozen=True)
class Plane:
    """An anatomical plane in the radiological convention.

    Parameters
    ----------
    name
        Its name.
    axis, across, up
        The canonical axes normal to the image, along its width and along its height.
    left, right, top, bottom
        Letters of the patient's directions at the image's edges.
    """

    name: str
    axis: int
    across: int
    up: int
    left: str
    right: str
    top: str
    bottom: str


# The patient's right, and front, on the image's left: the first axis of every image runs backwards.
AXIAL = Plane("Axial", 2, 0, 1, "R", "L", "A", "P")
CORONAL = Plane("Coronal", 1, 0, 2, "R", "L", "S", "I")
SAGITTAL = Plane("Sagittal", 0, 1, 2, "A", "P", "S", "I")
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class Scale:
    """A colour scale: label, colour map, range, and the values that are drawn as lines on its bar.

    Overlays fade in over the first `fade` of the range: from `low` on, or from the middle where the scale diverges.
    """

    label: str
    cmap: str
    low: float
    high: float
    fade: float = 0.15
    opacity: float = 0.85
    lines: tuple[tuple[float, str, Dash], ...] = ()
    diverging: bool = False

    def rgba(self, values: np.ndarray) -> np.ndarray:
        """Return (..., 4) colours of values, transparent below the range where the scale fades."""
        unit = (np.asarray(values, float) - self.low) / max(self.high - self.low, 1e-12)
        colours = _colour_map(self.cmap)(np.clip(unit, 0, 1))
        strength = np.abs(2 * unit - 1) if self.diverging else unit
        # Below 2 % of the range nothing is shown: a density's faint tail would tint the whole brain.
        colours[..., 3] = self.opacity * np.clip((strength - 0.02) / self.fade, 0, 1)
        return colours


@cache
def _colour_map(name: str) -> Colormap:
    return colormaps[name]


class View:
    """A report's data in canonical orientation, with the point and the windows that its slices share."""

    def __init__(self, data: ReportData) -> None:
        self.data = canonical(data)
        self.spacing = self.data.spacing
        self.focus = centre(self.data)
        self.size = np.array(self.data.density.shape) * self.spacing
        self.grey = self.greys(self.data.background)

    def greys(self, image: np.ndarray) -> tuple[float, float]:
        """Return the values of an image that are shown black and white."""
        inside = image[self.data.brain]
        values = inside if inside.size else image.ravel()
        low, high = np.percentile(values, [0.5, 99.8])
        return float(min(low, 0.0) if low < 0.1 * high else low), float(max(high, low + 1e-6))

    def through(self, mask: np.ndarray) -> "View":
        """Return the same view, cut through the voxel of the largest part of a mask that is nearest to its centre."""
        parts = np.zeros(mask.shape, np.int32)
        ndimage.label(mask, output=parts)
        inside = np.argwhere(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))
        distance = (((inside - inside.mean(axis=0)) * self.spacing) ** 2).sum(axis=1)
        view = copy(self)
        view.focus = inside[int(distance.argmin())]
        return view

    def position(self, plane: Plane, index: int) -> str:
        """Return the world coordinate of a slice in words."""
        at = self.focus.astype(float)
        at[plane.axis] = index
        world = self.data.affine[:3, :3] @ at + self.data.affine[:3, 3]
        # Rounded twice: a flipped array carries the same coordinate with another last bit.
        value = round(round(float(world[plane.axis]), 3))
        return f"{'xyz'[plane.axis]} = {value} mm".replace("-", "\N{MINUS SIGN}")

    def window(self, close_up: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return centre and extent (3,), mm, of the displayed box: the brain, or the same shape round the lesion."""
        middle, extent = self.size / 2, self.size
        if not close_up:
            return middle, extent
        start, stop = lesion_box(self.data, margin=12.0)
        low, high = start * self.spacing, stop * self.spacing
        shrink = min(1.0, float(((high - low) / extent).max()))
        # Never below a few centimetres: a tiny lesion would be shown as a handful of blocks.
        shrink = max(shrink, min(1.0, 50.0 / float(extent.max())))
        half = shrink * extent / 2
        return np.clip((low + high) / 2, half, extent - half), 2 * half


class Tile:
    """One slice on a figure, onto which images and outlines are drawn."""

    def __init__(
        self,
        figure: Figure,
        view: View,
        plane: Plane,
        index: int,
        *,
        box: tuple[float, float, float, float],
        middle: np.ndarray,
        scale: float,
    ) -> None:
        """Place the slice `index` of `plane` in `box` (left, bottom, width, height; in), `scale` in inches per mm."""
        self.view, self.plane, self.index = view, plane, index
        self.axes = axes_at(figure, box)
        self.axes.set_axis_off()
        self.axes.add_patch(Rectangle((0, 0), 1, 1, transform=self.axes.transAxes, facecolor="black", zorder=-1))
        wide, high = box[2] / scale / 2, box[3] / scale / 2
        x, y = middle[plane.across], middle[plane.up]
        self._limits = (x + wide, x - wide), (y - high, y + high)
        self.image(view.data.background)

    def cut(self, volume: np.ndarray) -> np.ndarray:
        """Return the slice with rows along the image's height."""
        # The two remaining axes keep their order, and `across` always precedes `up`.
        return np.take(volume, self.index, axis=self.plane.axis).T

    def _show(self, pixels: np.ndarray, **style: Any) -> None:
        across, up = self.view.size[self.plane.across], self.view.size[self.plane.up]
        self.axes.imshow(
            pixels, extent=(0, across, 0, up), origin="lower", aspect="auto", interpolation="bilinear", **style
        )
        self.axes.set(xlim=self._limits[0], ylim=self._limits[1])

    def image(self, volume: np.ndarray, greys: tuple[float, float] | None = None) -> None:
        """Draw a volume in grey, by default with the values of the background as black and white."""
        low, high = greys or self.view.grey
        self._show(self.cut(volume), cmap="gray", vmin=low, vmax=high)

    def heat(self, volume: np.ndarray, scale: Scale) -> None:
        """Draw a volume in the colours of a scale, inside the brain."""
        colours = scale.rgba(self.cut(volume))
        colours[~self.cut(self.view.data.brain | self.view.data.lesion), 3] = 0.0
        self._show(colours)

    def fill(self, mask: np.ndarray, colour: str, opacity: float) -> None:
        """Tint the voxels of a mask."""
        colours = np.empty((*self.cut(mask).shape, 4))
        colours[:] = to_rgba(colour)
        colours[..., 3] = opacity * self.cut(mask)
        self._show(colours)

    def outline(self, volume: np.ndarray, colour: str, *, level: float = 0.5, style: Dash = "-", width: float = 1.3):
        """Draw the line where a volume crosses a level, or a mask's outline, on a dark casing."""
        values = self.cut(np.asarray(volume, float))
        # matplotlib warns where the level is not crossed.
        if not values.min() < level < values.max():
            return
        x = (np.arange(values.shape[1]) + 0.5) * self.view.spacing[self.plane.across]
        y = (np.arange(values.shape[0]) + 0.5) * self.view.spacing[self.plane.up]
        lines = self.axes.contour(x, y, values, [level], colors=[colour], linewidths=width, linestyles=[style])
        lines.set_path_effects([withStroke(linewidth=width + 0.9, foreground=(0, 0, 0, 0.65))])
        self.axes.set(xlim=self._limits[0], ylim=self._limits[1])

    def marks(self, *, bar: float | None, title: str | None = None) -> None:
        """Write orientation letters, the plane's name and position, and a scale bar of `bar` mm."""
        plane, axes = self.plane, self.axes
        place: dict[str, Any] = {"transform": axes.transAxes, **_LABEL}
        # Offsets are in inches, whatever the tile's size.
        dx, dy = 0.07 / inches(axes)[0], 0.07 / inches(axes)[1]
        axes.text(dx, 0.5, plane.left, ha="left", va="center", fontsize=9, fontweight="bold", **place)
        axes.text(1 - dx, 0.5, plane.right, ha="right", va="center", fontsize=9, fontweight="bold", **place)
        words = f"{plane.name}  {self.view.position(plane, self.index)}" if title is None else title
        axes.text(dx, 1 - dy, words, ha="left", va="top", fontsize=7.5, **place)
        if bar is None:
            return
        (right, left), (low, high) = self._limits
        end = left + (right - left) * dx
        base = low + (high - low) * dy
        thick = (high - low) * dy * 0.35
        axes.add_patch(Rectangle((end, base), bar, thick, facecolor="white", edgecolor="black", linewidth=0.5))
        axes.text(end + bar / 2, base + 1.6 * thick, f"{bar:g} mm", ha="center", va="bottom", fontsize=7, **_LABEL)


def axes_at(figure: Figure, box: Sequence[float]) -> Axes:
    """Return new axes at (left, bottom, width, height), in."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((box[0] / wide, box[1] / high, box[2] / wide, box[3] / high))


def inches(axes: Axes) -> tuple[float, float]:
    """Return width and height of axes, in."""
    box = axes.get_position()
    wide, high = axes.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    return box.width * wide, box.height * high


def bar_length(extent_mm: float) -> float:
    """Return a round length for a scale bar: the largest that is at most two fifths of the extent."""
    return max((b for b in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if b <= 0.4 * extent_mm), default=1.0)


def row_scale(view: View, width: float, tallest: float) -> tuple[float, float]:
    """Return inches per mm, and the height (in), of three whole planes side by side in `width` inches."""
    across = sum(view.size[plane.across] for plane in PLANES)
    up = max(view.size[plane.up] for plane in PLANES)
    scale = min((width - 2 * _GAP) / across, tallest / up)
    return float(scale), float(scale * up)


def three_planes(
    figure: Figure, view: View, *, left: float, bottom: float, width: float, tallest: float, close_up: bool = False
) -> list[Tile]:
    """Return tiles of the three planes through the focus, side by side and to one scale."""
    scale, height = row_scale(view, width, tallest)
    middle, extent = view.window(close_up)
    zoom = float(view.size[0] / extent[0])
    tiles, x = [], left
    for plane in PLANES:
        wide = scale * view.size[plane.across]
        box = (x, bottom, wide, height)
        tiles.append(Tile(figure, view, plane, int(view.focus[plane.axis]), box=box, middle=middle, scale=scale * zoom))
        x += wide + _GAP
    return tiles
