"""The built-in atlas, ICBM 2009a."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from tumorjax.atlas.images import AtlasImages
from tumorjax.io import Volume


@cache
def icbm152() -> AtlasImages:
    """Return the ICBM 2009a symmetric average at 1 mm, from nilearn's wheel; see `load_atlas`.

    The images are those of `nilearn.datasets.load_mni152_template` and its like, read from the same files: to import
    that module takes longer than to read them.
    """
    spec = find_spec("nilearn")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "data"

    def scaled(what: str) -> tuple[np.ndarray, nib.Nifti1Image]:
        image = nib.Nifti1Image.from_filename(folder / f"mni_icbm152_{what}_tal_nlin_sym_09a_converted.nii.gz")
        data = np.asarray(image.dataobj, np.float32)
        return data / data.max(), image

    def volume(data: np.ndarray, part: str, dtype: type = np.float32) -> Volume:
        data = np.asarray(data, dtype)
        # The cache returns the same arrays to all callers.
        data.flags.writeable = False
        header = template.header.copy()
        header.set_data_dtype(dtype)
        return Volume(data, affine, header, f"atlas icbm152 {part}")

    t1, template = scaled("t1")
    affine = np.array(template.affine, float)
    grey, white = scaled("gm")[0], scaled("wm")[0]
    brain = t1 > 0
    return AtlasImages(
        "icbm152",
        volume(t1, "t1"),
        volume(white, "white matter"),
        volume(grey, "grey matter"),
        volume(np.clip(brain - grey - white, 0, 1), "csf"),
        volume(brain, "brain", np.uint8),
    )
