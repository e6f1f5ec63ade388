"""The training data, the loss and the training of the surrogate."""

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
from tumorjax.networks.surrogate import SIZES, Surrogate, SurrogateArchitecture, hats
from tumorjax.networks.training import Options, Training, train
from tumorjax.networks.tumours import Tumours, Turn, located

PARTS = ("tumour", "csf", "brain", "background")
PUBLISHED_LOSS = (("tumour",), ("csf",))
"""Groups of parts of the window: the mean absolute error of each group is a term of the loss."""
# Number of voxels read in addition to the window, so that the seed can lie between voxels.
_MORE = 3


class SurrogateBatch(NamedTuple):
    """Cubes of tissue and density around seeds, positions of the seeds in their voxels, and growth parameters."""

    tissue: UInt8[Any, "b r r r 3"]
    density: UInt8[Any, "b r r r"]
    offset: Float[Any, "b 3"]
    mu: Float[Any, "b 2"]


def surrogate_batch(
    tumours: Sequence[Tumours], rows: Int[np.ndarray, "b"], window: int, draw: np.random.Generator | None
) -> SurrogateBatch:
    """Return a batch of tumours for the training of the surrogate.

    Parameters
    ----------
    tumours
        Tumours of several anatomies, numbered consecutively.
    rows
        Numbers of the tumours in the batch.
    window
        Voxels along each edge of the surrogate's window.
    draw
        Random generator for one of the 48 symmetries of the voxels for each tumour; None turns nothing.
    """
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for row in rows.tolist():
        own, i = located(tumours, row)
        nearest = np.rint(own.seeds[i]).astype(int)
        first, size = nearest - (window + _MORE) // 2, (window + _MORE,) * 3
        tissue, density, offset = own.anatomy(first, size), own.density(i, first, size), own.seeds[i] - nearest
        if draw is not None:
            turn = Turn(int(draw.integers(48)))
            tissue, density, offset = turn.volume(tissue), turn.volume(density), turn.vector(offset)
        mu = np.array([own.parameters["mu1"][i], own.parameters["mu2"][i]])
        for part, value in zip(parts, (tissue, density, offset, mu), strict=True):
            part.append(value)
    tissue, density, offset, mu = (np.stack(part) for part in parts)
    return SurrogateBatch(tissue, density, offset.astype(np.float32), mu.astype(np.float32))


def centred(cube: Float[Array, "r r r ..."], offset: Float[Array, "3"]) -> Float[Array, "w w w ..."]:
    """Return the window around a seed, `offset` voxels from the middle of a cube, by linear interpolation."""
    read = len(cube)
    places = jnp.arange(read - _MORE, dtype=cube.dtype) - (read - _MORE) // 2 + read // 2
    x, y, z = (hats(places + offset[axis], read) for axis in range(3))
    return jnp.einsum("ui,vj,wk,ijk...->uvw...", x, y, z, cube)


def surrogate_loss(
    groups: Sequence[Sequence[str]] = PUBLISHED_LOSS,
) -> Callable[[Surrogate, SurrogateBatch, PRNGKeyArray], Float[Array, ""]]:
    """Return the loss that sums mean absolute errors over groups of the parts tumour, csf, brain and background.

    The tumour consists of the voxels with non-zero density, CSF of those with more fluid than tissue, and brain of the
    other tissue.

    Raises
    ------
    ValueError
        If a part is unknown.
    """
    if unknown := sorted({part for group in groups for part in group} - set(PARTS)) or not groups:
        raise ValueError(f"a loss has groups of {', '.join(PARTS)}, got {unknown or groups}")

    def loss(model: Surrogate, batch: SurrogateBatch, key: PRNGKeyArray) -> Float[Array, ""]:
        tissue = jax.vmap(centred)(batch.tissue.astype(jnp.float32) / 255, batch.offset)
        density = jax.vmap(centred)(batch.density.astype(jnp.float32) / 255, batch.offset)
        error = jnp.abs(model(tissue, batch.mu) - density)
        tumour = density > 0.5 / 255
        fluid = ~tumour & (tissue[..., 2] > 0.5)
        brain = ~tumour & ~fluid & (tissue[..., 0] + tissue[..., 1] >= 0.1)
        masks = {"tumour": tumour, "csf": fluid, "brain": brain, "background": ~(tumour | fluid | brain)}
        total = jnp.zeros((), jnp.float32)
        for group in groups:
            mask = jnp.stack([masks[part] for part in group]).any(axis=0)
            total = total + jnp.where(mask, error, 0).sum() / jnp.maximum(mask.sum().astype(jnp.float32), 1)
        return total

    return loss


def train_surrogate(
    tumours: Sequence[Tumours],
    steps: int,
    *,
    size: str | SurrogateArchitecture = "small",
    groups: Sequence[Sequence[str]] = PUBLISHED_LOSS,
    validation: Sequence[Tumours] | None = None,
    window: int | None = None,
    batch: int = 16,
    rate: float | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> Training:
    """Train a surrogate by Adam with beta_1 = 0.5 and a learning rate that falls as a cosine to a fortieth [1]_.

    Parameters
    ----------
    tumours
        Tumours to learn from, of several anatomies.
    steps
        Number of steps of the optimiser.
    size
        "small", "published", or an architecture.
    groups
        Groups of the loss; see `surrogate_loss`.
    validation
        Other tumours; the weights with the smallest loss on them are returned.
    window
        Voxels along each edge of the windows to learn from, a multiple of 8; by default that of the network. "patch"
        layers work on windows of any size, and learn faster from smaller ones.
    batch
        Number of tumours in a batch.
    rate
        The highest learning rate: by default 1e-4 for the published size, and 1e-3 for the small one, which reaches it
        after a twentieth of the steps.
    seed
        Seed of the weights, the batches and the symmetries.
    options
        Options of `train`; `settings` can contain whatever else identifies this training, such as its data.

    References
    ----------
    .. [1] I. Ezhov et al., "Geometry-aware neural solver", IEEE Trans. Med. Imaging 2022, section II.4.
    """
    count = sum(map(len, tumours))
    if not 1 <= batch <= count:
        raise ValueError(f"a batch must have 1 to {count} of the tumours to learn from, got {batch}")
    architecture = size if isinstance(size, SurrogateArchitecture) else surrogate_architecture(tumours, size)
    small = architecture.layers == "patch"
    window = window or architecture.window
    if window % 8 or not 8 <= window <= architecture.window or (window < architecture.window and not small):
        raise ValueError(
            f"windows to learn from must be a multiple of 8 voxels, at most the network's {architecture.window}, and "
            f'only "patch" layers can learn from smaller ones; got {window} for "{architecture.layers}" layers'
        )
    highest = rate or (1e-3 if small else 1e-4)
    if small:
        schedule = optax.warmup_cosine_decay_schedule(0.0, highest, max(1, steps // 20), max(2, steps), highest / 40)
    else:
        schedule = optax.cosine_decay_schedule(highest, steps, 1 / 40)
    own = {"architecture": str(architecture), "groups": [list(group) for group in groups]}
    own |= {"window": window, "batch": batch, "rate": highest, "steps": steps}
    options["settings"] = own | dict(options.get("settings") or {})
    rows = shuffled(count, batch, seed)
    held = None if validation is None else _in_batches(validation, batch, window)
    return train(
        Surrogate(architecture, nnx.Rngs(seed)),
        optax.adam(schedule, b1=0.5),
        lambda step: surrogate_batch(tumours, rows(step), window, np.random.default_rng([seed, 1, step])),
        surrogate_loss(groups),
        steps,
        key=jax.random.key(seed),
        validation=held,
        **options,
    )


def surrogate_architecture(
    tumours: Sequence[Tumours], size: str = "small", *, csf_only: bool = False, skips: bool = False
) -> SurrogateArchitecture:
    """Return the architecture of one of `SIZES` for these tumours, whose intervals of mu1 and mu2 become its box.

    Raises
    ------
    ValueError
        If the size is unknown, or the tumours' voxels differ.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(SIZES)}")
    if len(edges := {round(each.spacing, 3) for each in tumours}) != 1:
        raise ValueError(f"tumours to learn from must have voxels of one size, got {sorted(edges)} mm")
    values = {name: np.concatenate([each.parameters[name] for each in tumours]) for name in ("mu1", "mu2")}
    box = TrainingBox(tuple((name, float(each.min()), float(each.max())) for name, each in values.items()))
    return SurrogateArchitecture(**SIZES[size], spacing=tumours[0].spacing, box=box, csf_only=csf_only, skips=skips)


def _in_batches(tumours: Sequence[Tumours], batch: int, window: int) -> Callable[[], list[SurrogateBatch]]:
    """Return a function that returns the tumours in whole batches, which are prepared once."""
    count = sum(map(len, tumours))
    batch = min(batch, count)
    made = [
        surrogate_batch(tumours, np.arange(first, first + batch), window, None)
        for first in range(0, count - batch + 1, batch)
    ]
    return lambda: made
