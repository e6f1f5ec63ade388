"""Weights of networks in files: safetensors, whose header says which network they are of.

The header is JSON: the kind of the network, its configuration, from which it can be built, a version, and a checksum of
all numbers. Nothing in a file is run.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

Network = TypeVar("Network", bound=nnx.Module)
# What a file of weights calls its header.
_HEADER = "tumorjax"
_VERSION = 1


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
    path = Path(path)
    leaves, _ = named(nnx.state(model))
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}
    header = {"kind": kind, "version": _VERSION, "config": dict(config), "about": dict(about or {})}
    header["sha256"] = _digest(header, arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # The library's own files can be read by their owner alone.
    partial.write_bytes(save(arrays, metadata={_HEADER: json.dumps(header)}))
    partial.replace(path)


def load_weights(
    path: str | os.PathLike, kind: str, build: Callable[[dict[str, Any], nnx.Rngs], Network]
) -> tuple[Network, dict[str, Any]]:
    """Return a network with the weights of a file, and what the file tells about itself.

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
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            if (header["kind"], header["version"]) != (kind, _VERSION):
                raise ValueError(f"it is of {header['kind']}, version {header['version']}, not {kind}, {_VERSION}")
            graph, state = nnx.split(nnx.eval_shape(lambda: build(header["config"], nnx.Rngs(0))))
            expected, rebuilt = named(state)
            listed = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in listed.items()}
            if found != {name: (leaf.shape, _dtype(leaf.dtype)) for name, leaf in expected.items()}:
                raise ValueError("its arrays are not those of the network that it describes")
            arrays = {name: file.get_tensor(name) for name in expected}
        if header.pop("sha256") != _digest(header, arrays):
            raise ValueError("its numbers are not those that were written")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        said = "it has no header of ours" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} holds no weights that can be used: {said}") from None
    return nnx.merge(graph, rebuilt({name: jax.numpy.asarray(array) for name, array in arrays.items()})), header


def _dtype(dtype: Any) -> str:
    """Return what safetensors calls a dtype."""
    dtype = np.dtype(dtype)
    return f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()
