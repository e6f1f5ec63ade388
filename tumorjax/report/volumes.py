"""The volumes through which a reader of the page leafs: eight bits a voxel, cropped to the brain, compressed."""

import base64
import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorjax.report.figures import (
    CORE,
    LESION,
    MODEL,
    PLAN,
    RECURRENCE,
    STANDARD,
    density_scale,
    difference,
)
from tumorjax.report.panes import bar_of
from tumorjax.report.tiles import Scale
from tumorjax.text import printable

if TYPE_CHECKING:
    from tumorjax.report.tiles import View

# Voxels of a volume from which on only every second along each axis is kept, or every third: a page stays small.
_MOST = 6_000_000
_LEVELS = 255


@dataclass(frozen=True)
class Volumes:
    """What the page's viewer shows.

    Parameters
    ----------
    about
        Geometry, names, colours, and where each volume begins, as JSON that may stand in a page.
    data
        The volumes one after the other, gzip in base64.
    every
        Every how many voxels along each axis are kept.
    """

    about: str
    data: str
    every: int

    @property
    def megabytes(self) -> float:
        """Size in the page, MB."""
        return len(self.data) / 1e6


def volumes_of(view: "View") -> Volumes:
    """Return the volumes of a report: images, maps with their colours, and outlines."""
    data = view.data
    every = max(1, int(np.ceil((data.density.size / _MOST) ** (1 / 3))))
    kept = (slice(None, None, every),) * 3
    parts: list[np.ndarray] = []

    def add(values: np.ndarray, low: float, high: float) -> int:
        scaled = (np.asarray(values[kept], np.float32) - low) * (_LEVELS / max(high - low, 1e-12))
        return put(np.clip(np.rint(scaled), 0, _LEVELS).astype(np.uint8))

    def put(values: np.ndarray) -> int:
        parts.append(np.ascontiguousarray(values))
        return len(parts) - 1

    images = [{"name": data.background_of, "at": add(data.background, *view.grey)}]
    if data.flair is not None:
        images.append({"name": "the patient's FLAIR image", "at": add(data.flair, *view.greys(data.flair))})
    if data.atlas is not None:
        images.append(
            {"name": f"{data.atlas_title}, aligned with the patient", "at": add(data.atlas, *view.greys(data.atlas))}
        )
    inside = data.brain | data.lesion
    maps = []
    for name, values, scale in _maps(view):
        # Eight bits of a scale that diverges have no place for its middle, so it begins at its lower end.
        hidden = np.where(inside, values, 0.0)
        maps.append(
            {
                "name": name,
                "label": " ".join(scale.label.split()),
                "at": add(hidden, scale.low, scale.high),
                "low": scale.low,
                "high": scale.high,
                "colours": _colours(scale),
                "bar": _bar(scale),
            }
        )
    outlines = [
        {"name": name, "colour": colour, "at": put(mask[kept].astype(np.uint8)), "level": 0.5, "shown": shown}
        for name, mask, colour, shown in _masks(view)
    ]
    outlines += [
        {
            "name": f"model, {name} (density = {level:.2f})",
            "colour": MODEL[name],
            "at": maps[0]["at"],
            "level": _LEVELS * level,
            "dashed": True,
            "shown": False,
        }
        for name, level in data.thresholds.items()
    ]
    affine = np.asarray(data.affine, float) @ np.diag([every, every, every, 1.0])
    about = {
        "shape": list(parts[0].shape),
        "spacing": (view.spacing * every).tolist(),
        "affine": affine.round(6).tolist(),
        "focus": (view.focus // every).tolist(),
        "images": images,
        "maps": maps,
        "outlines": outlines,
    }
    packed = gzip.compress(b"".join(each.tobytes() for each in parts), 6, mtime=0)
    return Volumes(_safe(about), base64.b64encode(packed).decode("ascii"), every)


def _maps(view: "View") -> list[tuple[str, np.ndarray, Scale]]:
    """Return name, values and colours of each map that there is; the density is the first."""
    data = view.data
    found = [("density", data.density, density_scale(view))]
    further = (
        ("standard deviation of the density", data.density_std, "magma", 1.0),
        ("displacement (mm)", data.displacement, "viridis", 1.0),
        ("standard deviation of the displacement (mm)", data.displacement_std, "magma", 1.0),
        (f"probability of a density above {data.infiltrated:g}", data.probability, "viridis", 1.0),
        ("true density", data.truth, "inferno", 1.0),
        ("PET, measured", data.pet, "inferno", 1.0),
    )
    for name, values, colours, _ in further:
        if values is not None and float(values.max()) > 0:
            top = 1.0 if name.startswith(("probability", "true")) else float(values.max())
            found.append((name, values, Scale(name, colours, 0.0, top)))
    if data.truth is not None:
        error = data.density - data.truth
        seen = np.maximum(data.density, data.truth) > 0.05
        found.append(("estimate \N{MINUS SIGN} truth", error, difference(error[seen], "difference of densities")))
    return found


def _masks(view: "View") -> list[tuple[str, np.ndarray, str, bool]]:
    """Return name, voxels and colour of each outline, and whether it is shown at first."""
    data = view.data
    found = [
        (f"observed {name}", getattr(data, name), {"core": CORE, "lesion": LESION}[name], True)
        for name in data.outlines
    ]
    if data.plan is not None:
        found.append(("model's plan", data.plan, PLAN, False))
    found.append((f"{data.margin:g} mm margin", data.standard_plan, STANDARD, False))
    if data.recurrence is not None:
        found.append(("recurrence", data.recurrence, RECURRENCE, True))
    return [each for each in found if each[1].any()]


def _colours(scale: Scale) -> str:
    """Return the 256 colours of a scale, four bytes each, in base64."""
    colours = scale.rgba(np.linspace(scale.low, scale.high, _LEVELS + 1))
    return base64.b64encode(np.rint(255 * colours).astype(np.uint8).tobytes()).decode("ascii")


def _bar(scale: Scale) -> dict[str, Any]:
    bar = bar_of(scale)
    return {"gradient": bar.gradient, "ticks": bar.ticks}


def _safe(content: dict[str, Any]) -> str:
    """Return JSON in which no text can end the element of the page that holds it."""
    text = json.dumps(_shown(content), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(content: Any) -> Any:
    match content:
        case str():
            return printable(content)
        case dict():
            return {key: _shown(value) for key, value in content.items()}
        case list() | tuple():
            return [_shown(each) for each in content]
    return content
