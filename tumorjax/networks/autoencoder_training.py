"""The loss and the training of autoencoders of outlines."""

from collections.abc import Callable, Iterator
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tumorjax.networks.autoencoder import Architecture, Autoencoder
from tumorjax.networks.batches import shuffled
from tumorjax.networks.outlines import PackedOutlines
from tumorjax.networks.training import Options, Training, train

# Weight of the penalty that pulls the encoders' outputs towards their bits; the value of the reference.
_GAMMA = 6.0


def autoencoder_loss(model: Autoencoder, outlines: Bool[Array, "b 2 x y z"], key: PRNGKeyArray) -> Float[Array, ""]:
    """Return the loss of a batch of outlines: the mean negative log-likelihood plus a term of the kind, nats.

    The likelihood is a Bernoulli distribution: the binary cross-entropy, summed over voxels. "vae" decodes a draw and
    adds the Kullback-Leibler divergence from the standard normal distribution, which gives the negative evidence lower
    bound. "bf-hash" decodes the bits of a bi-half layer [1]_, and adds gamma / 2 times the squared distance of the
    outputs from their bits; its weight relative to the likelihood is our choice, since the reference has another loss.

    References
    ----------
    .. [1] Y. Li and J. van Gemert, "Deep unsupervised image hashing by maximizing bit entropy", AAAI 2021.
    """
    fractions = model.pool(outlines)
    codes, added = model.embed(fractions), jnp.zeros((), jnp.float32)
    if model.architecture.kind == "vae":
        mean, log_variance = jnp.split(codes, 2, axis=-1)
        added = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=-1).mean()
        codes = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape, mean.dtype)
    elif model.architecture.kind == "bf-hash":
        bits = bi_half(codes)
        added = 0.5 * _GAMMA * ((codes - bits) ** 2).sum(axis=-1).mean()
        # Straight-through estimator: the gradient treats the bits as the encoders' outputs.
        codes = codes + jax.lax.stop_gradient(bits - codes)
    logits = model.decode(codes)
    # Several times faster than `jax.nn.softplus`, which handles special cases that cannot occur here.
    softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    # All voxels of a cube have the same logit, so their likelihood follows from the share of them that is inside.
    entropy = model.architecture.pool**3 * (softplus - logits * fractions)
    return entropy.sum(axis=(2, 3, 4)).mean() + added


def bi_half(values: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Return 1 for the larger half of each column and -1 for the others, the bits with the largest entropy."""
    ranks = jnp.argsort(jnp.argsort(jax.lax.stop_gradient(values), axis=0), axis=0)
    return jnp.where(ranks >= (len(values) + 1) // 2, 1, -1).astype(values.dtype)


def train_autoencoder(
    kind: str,
    outlines: PackedOutlines,
    steps: int,
    *,
    size: str | Architecture = "small",
    validation: PackedOutlines | None = None,
    batch: int = 16,
    rate: float = 5e-3,
    seed: int = 0,
    **options: Unpack[Options],
) -> Training:
    """Train an autoencoder by Adam; the learning rate rises for a twentieth of the steps, then falls as a cosine.

    Parameters
    ----------
    kind
        "ae", "vae" or "bf-hash".
    outlines
        Outlines of the tumours to learn from.
    steps
        Number of steps of the optimiser.
    size
        "small", "published" [1]_, or an architecture of this kind and grid.
    validation
        Outlines of other tumours, used in whole batches; the weights with the smallest loss on them are returned.
    batch
        Number of tumours in a batch.
    rate
        The highest learning rate.
    seed
        Seed of the weights, the batches and the noise.
    options
        Options of `train`; `settings` can contain whatever else identifies this training, such as its data.

    References
    ----------
    .. [1] I. Ezhov et al., "Casting the inverse problem as a database query", section 2.4.
    """
    architecture = size if isinstance(size, Architecture) else Architecture.of(kind, outlines.shape, size)
    if (architecture.kind, architecture.shape) != (kind, outlines.shape):
        raise ValueError(
            f"the architecture is of {architecture.kind} on {architecture.shape}, not {kind} on {outlines.shape}"
        )
    if not 2 <= batch <= len(outlines):
        raise ValueError(f"a batch must have 2 to {len(outlines)} of the tumours to learn from, got {batch}")
    if not 0 < rate < 1e9:
        raise ValueError(f"the learning rate must be positive, got {rate:g}")
    own = {"architecture": str(architecture), "batch": batch, "rate": rate, "steps": steps}
    options["settings"] = own | dict(options.get("settings") or {})
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), max(2, steps))
    rows = shuffled(len(outlines), batch, seed)
    held = None if validation is None else _whole_batches(validation, min(batch, len(validation)))
    return train(
        Autoencoder(architecture, nnx.Rngs(seed)),
        optax.adam(schedule),
        lambda step: outlines[rows(step)],
        autoencoder_loss,
        steps,
        key=jax.random.key(seed),
        validation=held,
        **options,
    )


def _whole_batches(outlines: PackedOutlines, batch: int) -> Callable[[], Iterator[Bool[np.ndarray, "b 2 x y z"]]]:
    return lambda: (outlines[i : i + batch] for i in range(0, len(outlines) - batch + 1, batch))
