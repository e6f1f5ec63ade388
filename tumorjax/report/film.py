"""Films of a tumour that grows: the frames in one picture, of which a page shows one after the other."""

import base64
import io
import math
from dataclasses import dataclass, replace

import numpy as np

from tumorjax.report.course import paint
from tumorjax.report.figures import density_scale
from tumorjax.report.rows import new_figure, to_pixels
from tumorjax.report.tiles import AXIAL, PLANES, Plane, Tile, View, bar_length, plain
from tumorjax.sections import Film, Frame

_WIDE, _DPI = 3.6, 110  # in, of a frame, and pixels per inch
_QUALITY = 82  # of WebP, from which on lines of one pixel keep their colours
# Seconds: all of the time that passes, and for how long the days stand still on which there were images.
_RUN, _HOLD = 5.0, 1.0


@dataclass(frozen=True)
class Moment:
    """A frame of the film on the page.

    Parameters
    ----------
    label
        The day in words.
    begin
        When it appears, per cent of the film.
    across, down
        Where it is in the picture, per cent of its width and height.
    seen
        Whether there were images on this day.
    """

    label: str
    begin: float
    across: float
    down: float
    seen: bool


@dataclass(frozen=True)
class Reel:
    """A film as the page shows it.

    Parameters
    ----------
    picture
        All frames in rows, WebP in base64.
    columns
        Frames in a row.
    wide, high
        Size of a frame, pixels.
    seconds
        How long it runs.
    moments
        The frames in their order.
    """

    picture: str
    columns: int
    wide: int
    high: int
    seconds: float
    moments: list[Moment]


def reel_of(view: View, film: Film) -> Reel | None:
    """Return a film as the page shows it; None for less than two frames."""
    from PIL import Image

    count = len(film.frames)
    if count < 2:
        return None
    columns = math.ceil(math.sqrt(count))
    plane = plane_of(view, film)
    pictures = [_picture(view, plane, frame) for frame in film.frames]
    high, wide = pictures[0].shape[:2]
    sheet = np.zeros((-(-count // columns) * high, columns * wide, 3), np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = picture
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "webp", quality=_QUALITY, method=4)
    begins, seconds = _times(film)
    rows = sheet.shape[0] // high
    moments = [
        Moment(
            plain(frame.title, 60),
            100 * begin / seconds,
            100 * (number % columns) / columns,
            100 * (number // columns) / rows,
            frame.seen,
        )
        for number, (frame, begin) in enumerate(zip(film.frames, begins, strict=True))
    ]
    return Reel(base64.b64encode(buffer.getvalue()).decode("ascii"), columns, wide, high, seconds, moments)


def _times(film: Film) -> tuple[list[float], float]:
    """Return when each frame begins, s, and how long the film runs: days pass evenly but for those of images."""
    days = np.asarray(film.days, float)
    passing = _RUN * np.diff(days, append=days[-1]) / (days[-1] - days[0])
    standing = np.array([_HOLD if frame.seen else 0.0 for frame in film.frames])
    # The last day is worth a look, too.
    standing[-1] = _HOLD
    ends = np.cumsum(passing + standing)
    return [0.0, *ends[:-1].tolist()], float(ends[-1])


def plane_of(view: View, film: Film) -> Plane:
    """Return the plane in which a film is: normal to it, frames have less voxels than the report."""
    shape = film.frames[0].values.shape
    return next((each for each in PLANES if shape[each.axis] < view.data.density.shape[each.axis]), AXIAL)


def _picture(view: View, plane: Plane, frame: Frame) -> np.ndarray:
    """Return a frame, (rows, columns, 3), in a plane through the centre of the lesion."""
    place = int(view.focus[plane.axis])

    def whole(cut: np.ndarray) -> np.ndarray:
        """Return an image that is zero beside its one slice."""
        found = np.zeros(view.data.density.shape, np.float32)
        found[(slice(None),) * plane.axis + (place,)] = cut.take(0, axis=plane.axis)
        return found

    # All planes have one scale.
    scale = _WIDE / view.size[0]
    wide, high = scale * view.size[plane.across], scale * view.size[plane.up]
    figure = new_figure(wide, high)
    tile = Tile(figure, view, plane, place, box=(0.0, 0.0, wide, high), middle=view.size / 2, scale=scale)
    shown = frame.changed(whole)
    if shown.background is not None:
        tile.image(shown.background)
    paint(tile, replace(shown, background=None), density_scale(view))
    tile.marks(bar=bar_length(view.size[0]), title=plain(frame.title, 45) or None)
    return to_pixels(figure, _DPI)
