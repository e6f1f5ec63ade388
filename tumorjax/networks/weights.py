"""Weights of networks in files: safetensors, whose header says which network they are of.

The header is JSON: the kind of the network, its configuration, from which it can be built, a version, and a checksum of
all numbers. Nothing in a file is run.
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
# Those of the networks here have some hundred characters.
_LONGEST_CONFIG = 4000


def named(state: Any) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Any]]:
    """Return the leaves of a tree by their names, such as `encoder.0.kernel`, and what makes the tree of leaves."""
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
    """Write the weights of a network; the file is replaced whole.

    Parameters
    ----------
    path
        A `.safetensors` file.
    model
        Its whole state is written.
    kind
        Of the network.
    config
        From which the network can be built; JSON.
    about
        What else a reader may want to know, such as the data of the training; JSON.
    """
    leaves, _ = named(nnx.state(model))
    write_arrays(path, kind, _VERSION, {"config": dict(config), "about": dict(about or {})}, leaves)


def load_weights(
    path: str | os.PathLike, kind: str, build: Callable[[dict[str, Any], nnx.Rngs], Network]
) -> tuple[Network, dict[str, Any]]:
    """Return a network with the weights of a file, and what the file says of itself.

    Parameters
    ----------
    path
        Written by `save_weights`.
    kind
        Of the network that is expected.
    build
        Makes a network from its configuration. It is traced, so that names, shapes and dtypes are compared before
        memory is taken.

    Raises
    ------
    ValueError
        If the file is missing, damaged, cut short, of another network or version, or no file of weights.
    """
    try:
        with open_arrays(path, kind, _VERSION) as file:
            # Layers are made one by one, before the numbers are compared with their checksum.
            if len(json.dumps(file.header["config"])) > _LONGEST_CONFIG:
                raise ValueError("its network has more layers than any of ours")
            graph, state = nnx.split(nnx.eval_shape(lambda: build(file.header["config"], nnx.Rngs(0))))
            expected, rebuilt = named(state)
            if file.table != table_of(expected):
                raise ValueError("its arrays are not those of the network that it describes")
            arrays = file.read()
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        said = "its header is damaged" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} holds no weights that can be used: {said}; take another copy of it, or train anew"
        ) from None
    return nnx.merge(graph, rebuilt({name: jax.numpy.asarray(array) for name, array in arrays.items()})), file.header


def table_of(leaves: Mapping[str, Any]) -> Table:
    """Return dtypes and shapes of arrays by name, as a file of arrays lists them."""
    return {name: (np.dtype(leaf.dtype).name, tuple(leaf.shape)) for name, leaf in leaves.items()}
