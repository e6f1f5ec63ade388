"""The built-in atlas, ICBM 2009a."""

from functools import cache

import numpy as np

from tumorjax.atlas.images import AtlasImages
from tumorjax.io import Volume


@cache
def icbm152() -> AtlasImages:
    """Return the ICBM 2009a symmetric average at 1 mm, from nilearn's wheel; see `load_atlas`."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    def volume(data: np.ndarray, part: str, dtype: type = np.float32) -> Volume:
        data = np.asarray(data, dtype)
        # The cache returns the same arrays to all callers.
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
