"""What a network of the inverse problem has learnt: which voxels of its atlas it sees, and whether tumours pushed."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.ensemble import disagreement
from tumorjax.growth import AbstractGrowth


def seen_by(network: Any, anatomy: Anatomy) -> tuple[dict[str, int], tuple[slice, ...]]:
    """Return where the grid of a network's tumours begins in the atlas, by axis, and the voxels that it has there.

    Raises
    ------
    ValueError
        If the atlas has no such voxels, tissue elsewhere, or another brain.
    """
    from tumorjax.networks.tumours import as_bytes

    made, whole = network.architecture, anatomy.grid.in_double()
    shape, start = made.shape or whole.shape, np.zeros(3, int)
    if made.affine is None:
        made.check_grid(whole.shape)
    else:
        own, affine = np.asarray(whole.affine), np.asarray(made.affine)
        first = whole.to_index(affine[:3, 3])
        start = np.rint(first).astype(int)
        aligned = np.allclose(affine[:3, :3], own[:3, :3], atol=1e-3 * made.spacing)
        inside = (start >= 0).all() and (start + shape <= whole.shape).all()
        if not (aligned and inside and np.allclose(first, start, atol=0.05)):
            first, begun = (np.round(each[:3, 3], 3).tolist() for each in (affine, own))
            raise ValueError(
                f"the network learnt on a grid of {tuple(shape)} voxels from {first} mm on, which is no part of "
                f"the anatomy's {whole.shape} from {begun} mm on; give the atlas in which its tumours grew"
            )
    box = tuple(slice(first, first + n) for first, n in zip(start.tolist(), shape, strict=True))
    tissue = np.asarray(anatomy.tissue)
    if tissue.sum() > tissue[box].sum():
        raise ValueError(
            f"the anatomy has tissue outside the grid of {tuple(shape)} voxels on which the network learnt; give "
            "the atlas in which its tumours grew"
        )
    made.check_brain(as_bytes(shares_of(anatomy)[box]))
    return dict(zip("xyz", start.tolist(), strict=True)), box


def heard(
    networks: Sequence[Any],
    anatomy: Anatomy,
    core: Bool[np.ndarray, "x y z"],
    lesion: Bool[np.ndarray, "x y z"],
    *,
    mass_effect: float | None = None,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return what networks say of outlines in their atlas, and in words what they have not learnt of these.

    x, y and z are voxel indices of the anatomy. Outlines count in tissue alone. `mass_effect` is gamma, Pa, where it is
    known.
    """
    from tumorjax.networks import OutsideTraining, infer

    shares, inside = shares_of(anatomy), np.asarray(anatomy.tissue)
    said: dict[str, float] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", OutsideTraining)
        for network in networks:
            start, box = seen_by(network, anatomy)
            seen = [(outline & inside)[box] for outline in (core, lesion)]
            known = mass_effect if "gamma" in network.architecture.targets else None
            found = infer(network, seen[0], seen[1], shares[box], mass_effect=known)
            said |= {name: value + start.get(name, 0) for name, value in found.items()}
            if mass_effect is not None:
                network.architecture.box.warn("the network", {"gamma": mass_effect}, tolerance=0.02)
    return said, tuple(dict.fromkeys(str(each.message) for each in told))


def intervals(networks: Sequence[Any]) -> dict[str, tuple[float, float]]:
    """Return the intervals of what networks have learnt, but for the seed's place, which depends on the lesion's."""
    sides = [side for network in networks for side in network.architecture.box.sides]
    return {name: (low, high) for name, low, high in sides if name not in "xyz"}


def shares_of(anatomy: Anatomy) -> Float[np.ndarray, "x y z 3"]:
    """Return white matter, grey matter and CSF of an anatomy, as networks see them."""
    maps = (anatomy.white_matter, anatomy.grey_matter, anatomy.csf)
    return np.stack([np.asarray(each) for each in maps], axis=-1)


def learnt_mass_effect(network: Any) -> bool:
    """Return whether the tumours from which a network has learnt had mass effect."""
    made = network.architecture
    return "gamma" in made.targets or any(name == "gamma" for name, *_ in made.box.sides)


def grown_otherwise(networks: Sequence[Any], model: AbstractGrowth) -> str | None:
    """Return in one line that networks have learnt tumours that grew otherwise than by a model; None if by this one.

    A network of tumours of which nothing is known is taken as one of this model.
    """
    grown = (network.architecture.growth for network in networks)
    told = (disagreement(known, model) for known in grown if known is not None)
    return next((f"this network learnt growth with {words}; give both one model" for words in told if words), None)


def unfit(networks: Sequence[Any], mass_effect: float | None) -> str | None:
    """Return in one line why a mass effect, or none, cannot be given with networks; None if it can."""
    telling = [network.architecture for network in networks if "gamma" in network.architecture.targets]
    pushes = any(learnt_mass_effect(network) for network in networks)
    if mass_effect is None:
        missing = (
            "it learnt growth with mass effect and does not tell how strongly a tumour pushes; give the mass effect"
        )
        return f"{missing} (--mass-effect PA)" if pushes and not telling else None
    if not (np.isfinite(mass_effect) and mass_effect >= 0):
        return f"the mass effect must be finite and not negative, got {mass_effect:g} Pa"
    if not all(made.components for made in telling):
        return "it estimates the mass effect itself, with no distribution; leave out what is given (--mass-effect)"
    return None if pushes else "it learnt growth without mass effect; leave out the mass effect (--mass-effect)"
