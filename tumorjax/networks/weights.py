"""Files of weights: safetensors, with a header that describes the network.

The header is JSON: the kind of the network, the configuration from which it can be built, a version, and a checksum of
all numbers. No code in a file is ever executed.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from tumorjax.storage import Table, open_arrays, write_arrays

Network = TypeVar("Network", bound=nnx.Module)
_VERSION = 1
# Largest configuration, characters; those of the networks here have some hundred.
_LONGEST_CONFIG = 4000


def named(state: Any) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Any]]:
    """Return the leaves of a tree by name, such as `encoder.0.kernel`, and a function that rebuilds the tree."""
    leaves, structure = jax.tree.flatten_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") for path, _ in leaves]

    def rebuilt(values: Mapping[str, Any]) -> Any:
        return structure.unflatten([values[name] for name in names])

    return dict(zip(names, [leaf for _, leaf in leaves], strict=True)), rebuilt


def save_weights(
    path: str | os.PathLike,
    model: nnx.Module,
    kind: str,
    config: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights of a network to a file, which is replaced atomically.

    Parameters
    ----------
    path
        A `.safetensors` file.
    model
        The network, whose whole state is written.
    kind
        Kind of the network.
    config
        Configuration from which the network can be built, as JSON can hold it.
    about
        Further facts for readers, such as the training data, as JSON can hold them.
    """
    leaves, _ = named(nnx.state(model))
    write_arrays(path, kind, _VERSION, {"config": dict(config), "about": dict(about or {})}, leaves)


def load_weights(
    path: str | os.PathLike, kind: str, build: Callable[[dict[str, Any], nnx.Rngs], Network]
) -> tuple[Network, dict[str, Any]]:
    """Return a network with the weights in a file, and the header of the file.

    Parameters
    ----------
    path
        A file that `save_weights` wrote.
    kind
        Kind of network that is expected.
    build
        Function that makes a network from its configuration. It is traced, so that names, shapes and dtypes are
        compared before memory is allocated.

    Raises
    ------
    ValueError
        If the file is missing, damaged, cut short, of another network or version, or not a file of weights.
    """
    try:
        with open_arrays(path, kind, _VERSION) as file:
            # The network is built before the checksum is verified, so its size must be limited.
            if len(json.dumps(file.header["config"])) > _LONGEST_CONFIG:
                raise ValueError("its network has too many layers")
            graph, state = nnx.split(nnx.eval_shape(lambda: build(file.header["config"], nnx.Rngs(0))))
            expected, rebuilt = named(state)
            if file.table != table_of(expected):
                raise ValueError("its arrays are not those of the network that it describes")
            arrays = file.read()
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = "its header is damaged" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} has no usable weights: {reason}; use another copy of it, or train again") from None
    return nnx.merge(graph, rebuilt({name: jax.numpy.asarray(array) for name, array in arrays.items()})), file.header


def table_of(leaves: Mapping[str, Any]) -> Table:
    """Return the dtypes and shapes of arrays by name, as a file of arrays lists them."""
    return {name: (np.dtype(leaf.dtype).name, tuple(leaf.shape)) for name, leaf in leaves.items()}
