"""The training data and the training of the inverse network of Learn-Morph-Infer."""

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
from tumorjax.networks.inverse_windows import SIZES, TARGETS, InverseArchitecture, middle_of, tissue_volumes, volumes
from tumorjax.networks.training import Options, Training, train
from tumorjax.networks.tumours import Tumours, Turn

CORE, LESION = (0.5, 0.85), (0.05, 0.5)
"""Intervals of the densities at the outlines, from the paper; they are drawn again each time a tumour is used."""
_AXES = "xyz"


class InverseBatch(NamedTuple):
    """Windows of outlines, the radii of the lesions, mm, and the targets in the network's coordinates."""

    windows: UInt8[Any, "b w w w c"]
    radius: Float[Any, "b"]
    targets: Float[Any, "b t"]


def inverse_batch(
    architecture: InverseArchitecture, tumours: Tumours, rows: Int[np.ndarray, "b"], draw: np.random.Generator | None
) -> InverseBatch:
    """Return a batch of tumours as the network sees them.

    Parameters
    ----------
    architecture
        Architecture of the network.
    tumours
        Tumours to choose from.
    rows
        Indices of the tumours in the batch.
    draw
        Random generator for the thresholds and, if the network sees tissue, for one of the 48 symmetries of the voxels
        (a turned window is then a tumour in a turned brain). Without it, thresholds are spread evenly and nothing is
        turned.
    """
    windows, radii, targets = [], [], []
    for row in rows.tolist():
        core, lesion = outlined(tumours.boxes[row], row if draw is None else draw)
        window, middle, radius = architecture.view(core, lesion, tumours.tissue, tumours.starts[row])
        seed = (tumours.seeds[row] - middle) * tumours.spacing / architecture.unit(radius)
        if draw is not None and architecture.tissue:
            turn = Turn(int(draw.integers(48)))
            window, seed = turn.volume(window), turn.vector(seed)
        values = {name: float(tumours.parameters[name][row]) for name in architecture.targets if name not in _AXES}
        values |= dict(zip(_AXES, seed.tolist(), strict=True))
        windows.append(window)
        radii.append(radius)
        targets.append(architecture.coordinates(values, radius))
    return InverseBatch(np.stack(windows), np.array(radii, np.float32), np.array(targets, np.float32))


def outlined(density: UInt8[np.ndarray, "u v w"], draw: int | np.random.Generator) -> tuple[Any, Any]:
    """Return the core and the lesion of a tumour at random thresholds, or, for a number, at evenly spread ones.

    For a small tumour without such densities, the thresholds are slightly below its highest density.
    """
    shares = (draw * 0.7548776662 % 1, draw * 0.5698402910 % 1) if isinstance(draw, int) else draw.uniform(size=2)
    highest = 0.9 * float(density.max())
    core, lesion = (
        density > min(255 * (low + share * (high - low)), highest)
        for share, (low, high) in zip(shares, (CORE, LESION), strict=True)
    )
    return core, lesion


def inverse_loss(model: InverseNetwork, batch: InverseBatch, key: PRNGKeyArray) -> Float[Array, ""]:
    """Return the mean squared error of the targets in the network's coordinates."""
    return jnp.mean((model(batch.windows, batch.radius) - batch.targets) ** 2)


def inverse_architecture(
    tumours: Tumours, size: str = "small", targets: Sequence[str] = TARGETS
) -> InverseArchitecture:
    """Return the architecture of one of `SIZES` for training on these tumours.

    The grid, and the intervals of the targets and of the outlines' volumes, are those of the tumours. A window that is
    as wide as the lesion may be turned, so that the interval of its seeds is that of the lesion's radius on all axes.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
    if unknown := sorted({*targets} - {*_AXES, *tumours.parameters}):
        raise ValueError(f"unknown targets {', '.join(unknown)}; there are {', '.join([*tumours.parameters, *_AXES])}")
    if "gamma" in targets and np.ptp(tumours.parameters["gamma"]) == 0:
        raise ValueError(
            "gamma is the same in all tumours, so that nothing can be learnt of it; leave it out of the targets"
        )
    settings = dict(SIZES[size])
    if settings["radii"] is None:
        settings["window"] = max(settings["window"], -(-max(tumours.tissue.shape[:3]) // 16) * 16)
        away = tumours.spacing * (tumours.seeds - middle_of(tumours.tissue.shape[:3], settings["window"]))
        sides = [(axis, *_ends(values)) for axis, values in zip(_AXES, away.T, strict=True)]
    else:
        sides = [(axis, -1.0, 1.0) for axis in _AXES]
    sides += [(name, *_ends(values)) for name, values in tumours.parameters.items() if name in targets]
    if (gamma := tumours.parameters.get("gamma")) is not None and "gamma" not in targets:
        # Its interval says that the tumours had mass effect, and of which strength.
        low, high = _ends(gamma)
        sides.append(("gamma", low, high if low < high else 1.01 * low + 1.0))
    seen = [volumes(*outlined(box, row), tumours.spacing) for row, box in enumerate(tumours.boxes)]
    sides += [(name, *_ends(np.array([each[name] for each in seen]))) for name in seen[0]]
    return InverseArchitecture(
        **settings,
        spacing=tumours.spacing,
        targets=tuple(targets),
        box=TrainingBox(tuple(sides)),
        shape=tumours.tissue.shape[:3],
        affine=None if tumours.affine is None else tuple(map(tuple, tumours.affine.tolist())),
        brain=tissue_volumes(tumours.tissue, tumours.spacing),
        growth=tumours.growth,
    )


def train_inverse(
    tumours: Tumours,
    steps: int,
    *,
    size: str | InverseArchitecture = "small",
    targets: Sequence[str] = TARGETS,
    validation: Tumours | None = None,
    batch: int = 32,
    rate: float | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> Training:
    """Train the network of Learn-Morph-Infer by AdamW.

    The learning rate of the small network rises for a twentieth of the steps, then falls as a cosine. That of the
    published network is 6e-5, multiplied by 0.999997 at each step, with a weight decay of 0.05 [1]_.

    Parameters
    ----------
    tumours
        Tumours to learn from.
    steps
        Number of steps of the optimiser.
    size
        "small", "published", or an architecture.
    targets
        The predicted quantities; see `InverseArchitecture`. The ablations of the paper are
        ("D", "rho", "T", "x", "y", "z"), and two networks with ("mu1", "mu2") and ("x", "y", "z").
    validation
        Other tumours; the weights with the smallest loss on them are returned.
    batch
        Number of tumours in a batch.
    rate
        The highest learning rate; by default 1e-3 for the small network.
    seed
        Seed of the weights, the batches, the thresholds and the symmetries.
    options
        Options of `train`; `settings` can contain whatever else identifies this training, such as its data.

    References
    ----------
    .. [1] I. Ezhov et al., "Learn-Morph-Infer", Medical Image Analysis 2023, section 3.
    """
    architecture = size if isinstance(size, InverseArchitecture) else inverse_architecture(tumours, size, targets)
    if not 1 <= batch <= len(tumours):
        raise ValueError(f"a batch must have 1 to {len(tumours)} of the tumours to learn from, got {batch}")
    if rate is not None and not 0 < rate < 1e9:
        raise ValueError(f"the learning rate must be positive, got {rate:g}")
    if architecture.layers == "patch":
        highest = rate or 1e-3
        schedule = optax.warmup_cosine_decay_schedule(0.0, highest, max(1, steps // 20), max(2, steps))
        optimiser = optax.adamw(schedule, weight_decay=1e-4)
    else:
        highest = rate or 6e-5
        optimiser = optax.adamw(optax.exponential_decay(highest, 1, 0.999997), weight_decay=0.05)
    own = {"architecture": str(architecture), "batch": batch, "rate": highest, "steps": steps}
    options["settings"] = own | dict(options.get("settings") or {})
    rows = shuffled(len(tumours), batch, seed)
    return train(
        InverseNetwork(architecture, nnx.Rngs(seed)),
        optimiser,
        lambda step: inverse_batch(architecture, tumours, rows(step), np.random.default_rng([seed, 1, step])),
        inverse_loss,
        steps,
        key=jax.random.key(seed),
        validation=None if validation is None else _in_batches(architecture, validation, min(batch, len(validation))),
        **options,
    )


def _in_batches(architecture: InverseArchitecture, tumours: Tumours, batch: int) -> Callable[[], list[InverseBatch]]:
    """Return a function that returns the tumours in whole batches, which are prepared once."""
    made = [
        inverse_batch(architecture, tumours, np.arange(first, first + batch), None)
        for first in range(0, len(tumours) - batch + 1, batch)
    ]
    return lambda: made


def _ends(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    return float(np.min(values)), float(np.max(values))
