"""Symmetric normalization by ANTs, a separate library."""

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tumorjax.registration.inverse import fading, vectors_of
from tumorjax.registration.pair import Pair

MATTES = {"syn_metric": "mattes", "syn_sampling": 32, "reg_iterations": (40, 20, 10)}
"""Mutual information, which takes images of different contrasts."""

PUBLISHED = {
    "syn_metric": "CC",
    "syn_sampling": 4,
    "reg_iterations": (50, 20),
    "grad_step": 0.25,
    "flow_sigma": 3,
    "total_sigma": 0,
}
"""The settings of the multi-atlas papers: cross-correlation in a window of radius 4."""


def syn(pair: Pair, settings: Mapping[str, Any]) -> np.ndarray:
    """Return the displacements found by ANTs' symmetric normalization [1]_, (x, y, z, 3) mm.

    Sums over threads have no fixed order, so runs differ by rounding unless ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS is 1.

    References
    ----------
    .. [1] B. B. Avants et al., "Symmetric diffeomorphic image registration with cross-correlation",
       Med. Image Anal. 12 (2008). doi:10.1016/j.media.2007.06.004
    """
    import ants  # pyright: ignore[reportMissingImports]
    import SimpleITK as sitk

    spacing = np.linalg.norm(pair.affine[:3, :3], axis=0)

    def image(data: np.ndarray) -> Any:
        place = {"origin": pair.affine[:3, 3].tolist(), "spacing": spacing.tolist()}
        return ants.from_numpy(data.astype(np.float32), **place, direction=pair.affine[:3, :3] / spacing)

    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            image(pair.fixed),
            image(pair.moving),
            type_of_transform="SyNOnly",
            initial_transform="Identity",
            outprefix=f"{folder}/syn",
            mask=image(pair.seen),
            mask_all_stages=True,
            random_seed=1,
            **settings,
        )
        (warp,) = [name for name in found["fwdtransforms"] if name.endswith("Warp.nii.gz")]
        return fading(vectors_of(sitk.ReadImage(warp, sitk.sitkVectorFloat64)))
