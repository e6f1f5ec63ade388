"""The training data and the training of the inverse network of Learn-Morph-Infer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from tumorjax.networks.batches import shuffled
from tumorjax.networks.guards import TrainingBox
from tumorjax.networks.inverse import InverseNetwork
from tumorjax.networks.inverse_windows import (
    SIZES,
    TARGETS,
    THRESHOLDS,
    InverseArchitecture,
    middle_of,
    tissue_volumes,
    volumes,
)
from tumorjax.networks.mixture_density import MixtureDensity
from tumorjax.networks.readers import CORE, LESION, outlined
from tumorjax.networks.training import Options, Training, train
from tumorjax.networks.tumours import Tumours, Turn, located

_AXES = "xyz"
# Errors of readers, mm, by default.
_ERROR = 2.0
# Norm of a gradient beyond which it is scaled down: the likelihood of a narrow Gaussian has steep walls.
_STEEPEST = 1.0


class InverseBatch(NamedTuple):
    """Windows of outlines, the radii of the lesions, mm, and the targets in the network's coordinates."""

    windows: UInt8[Any, "b w w w c"]
    radius: Float[Any, "b"]
    targets: Float[Any, "b t"]


def inverse_batch(
    architecture: InverseArchitecture,
    tumours: Sequence[Tumours],
    rows: Int[np.ndarray, "b"],
    draw: np.random.Generator | None,
    error: float = 0.0,
) -> InverseBatch:
    """Return a batch of tumours as the network sees them.

    Parameters
    ----------
    architecture
        Architecture of the network.
    tumours
        Tumours of one or several anatomies, numbered consecutively.
    rows
        Numbers of the tumours in the batch.
    draw
        Random generator for the thresholds, the errors of the reader and, if the network sees tissue, for one of the 48
        symmetries of the voxels (a turned window is then a tumour in a turned brain). Without it, thresholds are spread
        evenly and nothing is turned.
    error
        See `outlined`.
    """
    windows, radii, targets = [], [], []
    for row in rows.tolist():
        own, i = located(tumours, row)
        seen = outlined(own.boxes[i], row if draw is None else draw, own.spacing, error)
        window, middle, radius = architecture.view(seen.core, seen.lesion, own.tissue, own.starts[i])
        seed = (own.seeds[i] - middle) * own.spacing / architecture.unit(radius)
        if draw is not None and architecture.tissue:
            turn = Turn(int(draw.integers(48)))
            window, seed = turn.volume(window), turn.vector(seed)
        known = {name: getattr(seen, name) for name in THRESHOLDS}
        known |= {name: float(each[i]) for name, each in own.parameters.items()}
        known |= dict(zip(_AXES, seed.tolist(), strict=True))
        windows.append(window)
        radii.append(radius)
        targets.append(architecture.coordinates(known, radius))
    return InverseBatch(np.stack(windows), np.array(radii, np.float32), np.array(targets, np.float32))


def inverse_loss(model: InverseNetwork, batch: InverseBatch, key: PRNGKeyArray) -> Float[Array, ""]:
    """Return the mean squared error of the targets in the network's coordinates, or minus their mean log-density."""
    if isinstance(model.head, MixtureDensity):
        return -jnp.mean(model.head.log_prob(model.features(batch.windows, batch.radius), batch.targets))
    return jnp.mean((model(batch.windows, batch.radius) - batch.targets) ** 2)


def inverse_architecture(
    tumours: Sequence[Tumours], size: str = "small", targets: Sequence[str] = TARGETS, components: int | None = None
) -> InverseArchitecture:
    """Return the architecture of one of `SIZES` for training on these tumours.

    The grid, and the intervals of the targets and of the outlines' volumes, are those of the tumours. A window that is
    as wide as the lesion may be turned, so that the interval of its seeds is that of the lesion's radius on all axes.
    Such a window can lie in any brain: for tumours of several brains the network keeps no grid.

    Raises
    ------
    ValueError
        If the size or a target is unknown, the tumours' voxels or models differ, or the size is for one brain only.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
    first, names = tumours[0], {name for each in tumours for name in each.parameters}
    if unknown := sorted({*targets} - {*_AXES, *THRESHOLDS, *names}):
        known = ", ".join([*first.parameters, *_AXES, *THRESHOLDS])
        raise ValueError(f"unknown targets {', '.join(unknown)}; there are {known}")
    if len(edges := {round(each.spacing, 3) for each in tumours}) != 1:
        raise ValueError(f"tumours to learn from must have voxels of one size, got {sorted(edges)} mm")
    if len({(each.growth, *sorted(each.parameters)) for each in tumours}) != 1:
        raise ValueError("tumours to learn from must have grown by one model; give databases of one model")
    parameters = {name: np.concatenate([each.parameters[name] for each in tumours]) for name in first.parameters}
    if "gamma" in targets and np.ptp(parameters["gamma"]) == 0:
        raise ValueError(
            "gamma is the same in all tumours, so that nothing can be learnt of it; leave it out of the targets"
        )
    settings = dict(SIZES[size])
    if components is not None:
        settings["components"] = components
    if settings["radii"] is None:
        if len(tumours) > 1:
            raise ValueError(f"a network of size {size!r} learns on the whole grid of one brain; give one database")
        settings["window"] = max(settings["window"], -(-max(first.tissue.shape[:3]) // 16) * 16)
        away = first.spacing * (first.seeds - middle_of(first.tissue.shape[:3], settings["window"]))
        sides = [(axis, *_ends(values)) for axis, values in zip(_AXES, away.T, strict=True)]
    else:
        sides = [(axis, -1.0, 1.0) for axis in _AXES]
    intervals = dict(zip(THRESHOLDS, (CORE, LESION), strict=True))
    sides += [(name, *intervals[name]) for name in THRESHOLDS if name in targets]
    sides += [(name, *_ends(values)) for name, values in parameters.items() if name in targets]
    if (gamma := parameters.get("gamma")) is not None and "gamma" not in targets:
        # Its interval says that the tumours had mass effect, and of which strength.
        low, high = _ends(gamma)
        sides.append(("gamma", low, high if low < high else 1.01 * low + 1.0))
    boxes = [box for each in tumours for box in each.boxes]
    seen = [volumes(*outlined(box, row)[:2], first.spacing) for row, box in enumerate(boxes)]
    sides += [(name, *_ends(np.array([each[name] for each in seen]))) for name in seen[0]]
    one = len(tumours) == 1
    return InverseArchitecture(
        **settings,
        spacing=first.spacing,
        targets=tuple(targets),
        box=TrainingBox(tuple(sides)),
        shape=first.tissue.shape[:3] if one else None,
        affine=None if first.affine is None or not one else tuple(map(tuple, first.affine.tolist())),
        brain=tissue_volumes(first.tissue, first.spacing) if one else None,
        growth=first.growth,
    )


def train_inverse(
    tumours: Sequence[Tumours],
    steps: int,
    *,
    size: str | InverseArchitecture = "small",
    targets: Sequence[str] = TARGETS,
    components: int | None = None,
    validation: Sequence[Tumours] | None = None,
    batch: int = 32,
    rate: float | None = None,
    error: float | None = None,
    start: InverseNetwork | None = None,
    trunk: InverseNetwork | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> Training:
    """Train the network of Learn-Morph-Infer by AdamW.

    The learning rate of the small network rises for a twentieth of the steps, then falls as a cosine. That of the
    published network is 6e-5, multiplied by 0.999997 at each step, with a weight decay of 0.05 [1]_.

    Parameters
    ----------
    tumours
        Tumours to learn from; of several anatomies, unless the network sees a whole grid.
    steps
        Number of steps of the optimiser.
    size
        "small", "published", or an architecture.
    targets
        The predicted quantities; see `InverseArchitecture`. The ablations of the paper are
        ("D", "rho", "T", "x", "y", "z"), and two networks with ("mu1", "mu2") and ("x", "y", "z").
    components
        See `InverseArchitecture`; by default those of the size.
    validation
        Other tumours; the weights with the smallest loss on them are returned.
    batch
        Number of tumours in a batch.
    rate
        The highest learning rate; by default 1e-3 for the small network.
    error
        Errors of the readers, mm, see `outlined`; by default 2 if the network predicts a distribution, and otherwise 0,
        as in the paper.
    start
        A network of the same architecture, with whose weights the training begins; its intervals are kept.
    trunk
        A network whose layers the training begins with, except for those that predict the targets if these are others:
        so a network of other targets, or of tumours that grew by another model or on other voxels, learns from what
        this one sees in outlines.
    seed
        Seed of the weights, the batches, the outlines and the symmetries.
    options
        Options of `train`; `settings` can contain whatever else identifies this training, such as its data.

    References
    ----------
    .. [1] I. Ezhov et al., "Learn-Morph-Infer", Medical Image Analysis 2023, section 3.
    """
    made = size if start is None else start.architecture
    if not isinstance(made, InverseArchitecture):
        made = inverse_architecture(tumours, made, targets, components)
    elif components is not None and start is None:
        made = dataclasses.replace(made, components=components)
    architecture, count = made, sum(map(len, tumours))
    if not 1 <= batch <= count:
        raise ValueError(f"a batch must have 1 to {count} of the tumours to learn from, got {batch}")
    if rate is not None and not 0 < rate < 1e9:
        raise ValueError(f"the learning rate must be positive, got {rate:g}")
    error = (_ERROR if architecture.components else 0.0) if error is None else error
    if not 0 <= error < 20:
        raise ValueError(f"the errors of readers are 0 to 20 mm, got {error:g}")
    if architecture.layers == "patch":
        highest = rate or 1e-3
        schedule = optax.warmup_cosine_decay_schedule(0.0, highest, max(1, steps // 20), max(2, steps))
        optimiser = optax.chain(optax.clip_by_global_norm(_STEEPEST), optax.adamw(schedule, weight_decay=1e-4))
    else:
        highest = rate or 6e-5
        optimiser = optax.adamw(optax.exponential_decay(highest, 1, 0.999997), weight_decay=0.05)
    own = {"architecture": str(architecture), "batch": batch, "rate": highest, "steps": steps, "error": error}
    options["settings"] = own | dict(options.get("settings") or {})
    rows = shuffled(count, batch, seed)
    held = None
    if validation is not None:
        held = _in_batches(architecture, validation, min(batch, sum(map(len, validation))), error)
    model = start or InverseNetwork(architecture, nnx.Rngs(seed))
    if trunk is not None:
        begin_with_trunk(model, trunk)
    return train(
        model,
        optimiser,
        lambda step: inverse_batch(architecture, tumours, rows(step), np.random.default_rng([seed, 1, step]), error),
        inverse_loss,
        steps,
        key=jax.random.key(seed),
        validation=held,
        **options,
    )


def begin_with_trunk(model: InverseNetwork, other: InverseNetwork) -> None:
    """Give a network the weights of another one; those that predict the targets only where the targets are the same.

    Raises
    ------
    ValueError
        If their layers or their windows differ.
    """
    made, seen = ((a.layers, a.window, a.radii, a.tissue) for a in (model.architecture, other.architecture))
    if made != seen:
        words = "{} layers and a window of {} voxels, {} radii, tissue seen: {}"
        raise ValueError(f"the trunk has {words.format(*seen)}; this network has {words.format(*made)}; give its like")
    made, seen = ((a.targets, a.components) for a in (model.architecture, other.architecture))
    if made == seen:
        nnx.update(model, nnx.state(other))
    else:
        nnx.update(model.trunk, nnx.state(other.trunk))


def _in_batches(
    architecture: InverseArchitecture, tumours: Sequence[Tumours], batch: int, error: float
) -> Callable[[], list[InverseBatch]]:
    """Return a function that returns the tumours in whole batches, which are prepared once."""
    made = [
        inverse_batch(architecture, tumours, np.arange(first, first + batch), None, error)
        for first in range(0, sum(map(len, tumours)) - batch + 1, batch)
    ]
    return lambda: made


def _ends(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    return float(np.min(values)), float(np.max(values))
