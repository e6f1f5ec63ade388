"""The healthy brains that a user gets without asking."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tumorjax.io import InputError, Volume, read_volume

KNOWN = ("icbm152",)

# A voxel belongs to the brain where the tissues together fill half of it.
_BRAIN_FRACTION = 0.5


@dataclass(frozen=True, eq=False)
class AtlasImages:
    """A healthy brain: its T1 image, tissue maps and brain mask, all on the same voxels.

    Parameters
    ----------
    name
        What the atlas was asked for by.
    t1
        T1-weighted intensities, without the skull.
    white_matter, grey_matter, csf
        Tissue probabilities in [0, 1], float32.
    brain
        uint8, one in the brain.
    """

    name: str
    t1: Volume
    white_matter: Volume
    grey_matter: Volume
    csf: Volume
    brain: Volume


def load_atlas(name: str | Path) -> AtlasImages:
    """Return a healthy atlas, from an installed package or from a folder; nothing is downloaded.

    Parameters
    ----------
    name
        "icbm152", the ICBM 2009a symmetric average [1]_ that nilearn ships, 1 mm; or a folder with
        `t1`, `wm`, `gm` and `csf`, each `.nii.gz` or `.nii`, on the same voxels.

    Raises
    ------
    InputError
        If the name is neither, or an image of the folder is missing or not usable.

    Notes
    -----
    nilearn's templates hold no cerebrospinal fluid; it is what white and grey matter leave of the
    inside of the T1 image, about 220 ml.

    References
    ----------
    .. [1] V. Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies",
       NeuroImage 54 (2011). doi:10.1016/j.neuroimage.2010.07.033
    """
    if str(name) in KNOWN:
        return _icbm152()
    if not Path(name).is_dir():
        raise InputError(
            f"atlas {name}: unknown; give {' or '.join(KNOWN)}, or a folder with t1, wm, gm and csf as .nii.gz"
        )
    return _from_folder(Path(name))


@cache
def _icbm152() -> AtlasImages:
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    def volume(data: np.ndarray, part: str, dtype: type = np.float32) -> Volume:
        data = np.asarray(data, dtype)
        # The cache hands the same arrays to everyone.
        data.flags.writeable = False
        return Volume(data, affine, template.header.copy(), f"atlas icbm152 {part}")

    template = load_mni152_template(resolution=1)
    affine = np.array(template.affine, float)
    t1 = template.get_fdata(dtype=np.float32, caching="unchanged")
    grey = load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32, caching="unchanged")
    white = load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32, caching="unchanged")
    brain = t1 > 0
    return AtlasImages(
        "icbm152",
        volume(t1, "t1"),
        volume(white, "white matter"),
        volume(grey, "grey matter"),
        volume(np.clip(brain - grey - white, 0, 1), "csf"),
        volume(brain, "brain", np.uint8),
    )


def _from_folder(folder: Path) -> AtlasImages:
    t1, white, grey, csf = (_read(folder, stem) for stem in ("t1", "wm", "gm", "csf"))
    for tissue in (white, grey, csf):
        if tissue.data.shape != t1.data.shape or not np.allclose(tissue.affine, t1.affine, atol=1e-3):
            tissue.fail(f"lies on other voxels than {t1.path}; resample the atlas to one grid")
        low, high = float(tissue.data.min()), float(tissue.data.max())
        if low < -1e-6 or high > 1 + 1e-3 or high <= 0:
            tissue.fail(f"has values from {low:g} to {high:g}; give probabilities in [0, 1]")
    total = white.data + grey.data + csf.data
    brain = Volume((total >= _BRAIN_FRACTION).astype(np.uint8), t1.affine, t1.header, "atlas brain", folder)
    return AtlasImages(str(folder), t1, white, grey, csf, brain)


def _read(folder: Path, stem: str) -> Volume:
    compressed, plain = folder / f"{stem}.nii.gz", folder / f"{stem}.nii"
    return read_volume(plain if plain.is_file() and not compressed.is_file() else compressed, name=f"atlas {stem}")
