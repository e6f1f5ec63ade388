"""One simulation on several devices: the grid cut into parts, of which each device has one."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def spread(tree: T, shape: tuple[int, int, int], mesh: Mesh) -> T:
    """Return a tree whose maps on a grid are cut along the axes of a mesh, and of which every device has the rest.

    The compiler does what remains to be done: every stage of a scheme exchanges the layers of voxels beside the cuts,
    and of the coarse levels of elasticity it gathers those that are too small to be cut.

    Parameters
    ----------
    tree
        Arrays, some of which are maps (x, y, z, ...).
    shape
        Of the grid.
    mesh
        Devices; its first axis cuts x, its second y, its third z.

    Raises
    ------
    ValueError
        If the mesh has more than three axes, or the devices along one cannot share the grid's voxels evenly.
    """
    if len(mesh.axis_names) > 3:
        raise ValueError(f"a grid has three axes to cut, the mesh has {len(mesh.axis_names)}: {mesh.axis_names}")
    parts = [mesh.shape[name] for name in mesh.axis_names]
    if any(n % by for n, by in zip(shape, parts, strict=False)):
        whole = tuple(-(-n // by) * by for n, by in zip(shape, (*parts, 1, 1, 1), strict=False))
        raise ValueError(
            f"a grid of shape {shape} cannot be shared evenly by {' x '.join(map(str, parts))} devices; enlarge it by "
            f"anatomy.pad({whole})"
        )
    cut, each = NamedSharding(mesh, PartitionSpec(*mesh.axis_names)), NamedSharding(mesh, PartitionSpec())

    def placed(leaf: Any) -> Any:
        return jax.lax.with_sharding_constraint(jnp.asarray(leaf), cut if jnp.shape(leaf)[:3] == shape else each)

    return jax.tree.map(placed, tree)
