"""The option `--dti`: an image of diffusion tensors, along whose fibres cells grow, and how it stores them."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tumorjax.io import TensorVolume

_WORDS = {"order": ("upper", "lower", "diagonal"), "frame": ("image", "world")}
_USAGE = " ".join(f"[{name}={'|'.join(choices)}]" for name, choices in _WORDS.items())


def add_dti(group: argparse._ArgumentGroup | argparse.ArgumentParser, world: str) -> None:
    """Add the option to a group of options; `world` names the one in which the image must lie."""
    group.add_argument(
        "--dti",
        nargs="+",
        metavar=("FILE", "NAME=WORD"),
        help=f"image of diffusion tensors in the {world}, along whose fibres cells in white matter diffuse. Its "
        "components are, by order=upper, xx, xy, xz, yy, yz, zz (default; FSL), by order=lower, xx, xy, yy, xz, yz, zz "
        "(default if the header says so; ANTs, ITK), by order=diagonal, xx, yy, zz, xy, xz, yz (MRtrix3); they are "
        "along the axes of the voxels by frame=image (default; FSL), along those of RAS by frame=world (MRtrix3)",
    )


def read_dti(words: Sequence[str] | None) -> "TensorVolume | None":
    """Return the image that the words of the option name; None where it was not given.

    Raises
    ------
    InputError
        If a word is none of the option's, or the image cannot be used; see `tumorjax.io.read_tensor`.
    """
    from tumorjax.io import read_tensor

    return None if words is None else read_tensor(words[0], name="DTI", **check_dti(words))


def check_dti(words: Sequence[str] | None) -> dict[str, Any]:
    """Return the settings of `read_tensor` among the words of the option; an InputError where one is something else."""
    from tumorjax.io import InputError

    found: dict[str, Any] = {}
    for word in () if words is None else words[1:]:
        name, _, value = word.partition("=")
        if value not in _WORDS.get(name, ()):
            raise InputError(f"dti: got {word!r}; write FILE {_USAGE}")
        if name in found:
            raise InputError(f"dti: got the {name} twice; give it once")
        found[name] = value
    return found
