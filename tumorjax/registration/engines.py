"""The methods of deformable registration, by name."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorjax.io import InputError
from tumorjax.registration.demons import demons
from tumorjax.registration.greedy import greedy
from tumorjax.registration.linear import correlation
from tumorjax.registration.pair import Pair
from tumorjax.registration.syn import MATTES, PUBLISHED, syn

DEFAULT_ENGINE = "greedy"

# Brightness of one image must rise with that of the other. At this depth (mm) inside the brain, where the outline has
# no influence, two people's T1 images correlate by 0.5 to 0.85 (0.35 if one has a large tumour), T1 and FLAIR images by
# 0.17 to 0.24, and inverted images negatively.
_DEEP = 9.0
_SAME_CONTRAST = 0.3


@dataclass(frozen=True)
class Engine:
    """A method of deformable registration.

    Parameters
    ----------
    summary
        What it is, in a line.
    deform
        Returns the displacements, (x, y, z, 3) mm, of a pair of images.
    compares_intensities
        Whether images must have the same contrast.
    library
        Name of the module that it needs beside the package's own requirements; empty if there is none.
    extra
        The extra of the package that installs the library.
    references
        Works that a publication should cite for it.
    """

    summary: str
    deform: Callable[[Pair], np.ndarray]
    compares_intensities: bool = True
    library: str = ""
    extra: str = ""
    references: tuple[str, ...] = ()


_DEMONS = (
    "T. Vercauteren et al., Diffeomorphic demons: efficient non-parametric image registration, NeuroImage 45 (2009) "
    "S61-S72."
)
_KINEMATICS = (
    "G. E. Christensen, R. D. Rabbitt, M. I. Miller, Deformable templates using large deformation kinematics, IEEE "
    "Trans. Image Processing 5 (1996)."
)
_SYN = (
    "B. B. Avants et al., Symmetric diffeomorphic image registration with cross-correlation, Medical Image Analysis 12 "
    "(2008)."
)

ENGINES = {
    "greedy": Engine(
        "small smooth steps, composed, by local and global differences; cannot fold",
        greedy,
        references=(_KINEMATICS, _DEMONS),
    ),
    "demons": Engine("diffeomorphic demons of SimpleITK", demons, references=(_DEMONS,)),
    "ants": Engine(
        "ANTs' SyN with mutual information",
        lambda pair: syn(pair, MATTES),
        False,
        library="ants",
        extra="ants",
        references=(_SYN,),
    ),
    "ants-published": Engine(
        "ANTs' SyN with the published settings: cross-correlation of radius 4, steps of 0.25, 50 and 20 iterations, "
        "sigma 3",
        lambda pair: syn(pair, PUBLISHED),
        False,
        library="ants",
        extra="ants",
        references=(_SYN,),
    ),
}
"""The engines by the names that `register` and the command take."""


def check_engine(name: str) -> None:
    """Check that there is an engine of this name, and that its library is installed.

    Raises
    ------
    InputError
        If not.
    """
    if name not in ENGINES:
        raise InputError(f"registration: got {name!r}; give {', '.join(ENGINES)}")
    engine = ENGINES[name]
    if engine.library and importlib.util.find_spec(engine.library) is None:
        raise InputError(
            f"registration: {name} needs antspyx, which is not installed: "
            f"pip install 'tumorjax[{engine.extra}]', or choose {DEFAULT_ENGINE}"
        )


def contrast_failure(pair: Pair) -> str:
    """Return why the contrasts of two images are too different for engines that compare intensities; empty if not."""
    spacing = float(np.linalg.norm(pair.affine[:3, 0]))
    deep = np.asarray(ndimage.distance_transform_edt(pair.brain)) * spacing > _DEEP
    inside = deep if deep.any() else pair.brain
    found = correlation(pair.fixed[inside], pair.moving[inside])
    # A NaN must not pass.
    if found >= _SAME_CONTRAST:
        return ""
    return (
        f"intensities deep inside correlate by {found:.2f}, so their contrasts differ; give two T1 images, or "
        "engine='ants' (--registration ants)"
    )
