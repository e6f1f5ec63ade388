"""Loading an atlas and aligning it with a patient outside the tumour."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorjax.atlas import AtlasImages, AtlasWarning, load_atlas
from tumorjax.grid import Grid
from tumorjax.io import Volume, resample
from tumorjax.patient.head import brain_in_head
from tumorjax.patient.kept_alignment import kept_alignment
from tumorjax.registration import DEFAULT_ENGINE, RegistrationWarning, Transform, register, register_in_steps, warp

# Registration ignores this rim (mm) around the lesion, because it may contain oedema that the segmentation misses.
LESION_RIM = 4.0
# Typical thickness (mm) of the fluid between brain and skull.
_BRAIN_RIM = 3.0


def read_atlas(name: str | Path, notes: list[str] | None = None) -> AtlasImages:
    """Load an atlas by `tumorjax.atlas.load_atlas`; warnings become its notes, which are also appended to `notes`."""
    found: list[str] = []
    with noting(AtlasWarning, found):
        atlas = load_atlas(name)
    if notes is not None:
        notes += found
    return replace(atlas, notes=tuple(found))


@contextmanager
def noting(kind: type[Warning], notes: list[str]) -> Iterator[None]:
    """Turn warnings of one kind into notes; other warnings are issued as usual."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", kind)
        yield
    for each in caught:
        if issubclass(each.category, kind):
            notes.append(f"{each.message}.")
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def align_atlas(
    atlas: AtlasImages,
    t1: Volume | None,
    brain: Volume | None,
    lesion: Volume,
    has_skull: bool,
    notes: list[str],
    engine: str = DEFAULT_ENGINE,
    meanwhile: Callable[[], None] | None = None,
) -> Transform:
    """Return the map from a patient's world to an atlas', registered outside the tumour.

    The same images are registered once; see `tumorjax.patient.kept_alignment`.

    Parameters
    ----------
    atlas
        The healthy brain.
    t1
        The patient's T1 image, from which an affine map and a deformation are found.
    brain
        Mask of the brain; without a T1 image, an affine map is found from it.
    lesion
        Mask of the tumour, which registration ignores because the atlas has none.
    has_skull
        Whether the T1 image shows a head with its skull.
    notes
        List to which a note is appended if no deformation could be found, or only a weaker one could be used.
    engine
        Method of the deformation, see `tumorjax.registration.register`.
    meanwhile
        Is called before images are registered that were not before, so that other work begins.
    """
    if t1 is None and brain is None:
        raise ValueError("registration needs a T1 image or a brain mask")

    def find() -> tuple[Transform, list[str]]:
        told: list[str] = []
        if meanwhile is not None:
            meanwhile()
        return _aligned(atlas, t1, brain, lesion, has_skull, told, engine), told

    given = (atlas.title, atlas.t1, atlas.brain, t1, brain, lesion, has_skull, engine)
    transform, told = kept_alignment(find, *given)
    notes += told
    return transform


def _aligned(
    atlas: AtlasImages,
    t1: Volume | None,
    brain: Volume | None,
    lesion: Volume,
    has_skull: bool,
    notes: list[str],
    engine: str,
) -> Transform:
    if t1 is None:
        assert brain is not None
        return register(atlas.brain, replace(brain, data=brain.data > 0.5), fixed_is_mask=True)
    grid = t1.grid
    tumour = resample(lesion.data, lesion.affine, grid, kind="mean") > 0
    healthy = ~grow(tumour, grid, LESION_RIM)
    if brain is not None:
        inside = resample(brain.data > 0.5, brain.affine, grid, kind="mean") >= 0.5
        t1 = replace(t1, data=np.where(inside, t1.data, 0))
    if brain is not None or not has_skull:
        return _best(atlas, *register_in_steps(atlas.t1, t1, mask=healthy, engine=engine), notes, engine)
    if (found := brain_in_head(t1)) is not None:
        bare = replace(t1, data=np.where(found, t1.data, 0))
        with warnings.catch_warnings():
            # An alignment of the whole head may still succeed.
            warnings.simplefilter("ignore", RegistrationWarning)
            steps = register_in_steps(atlas.t1, bare, mask=healthy, engine=engine)
        if not steps[0].failure:
            return _best(atlas, *steps, notes, engine)
    with warnings.catch_warnings():
        # Only the second alignment is checked, because the correlation is low as long as the skull is in the image.
        warnings.simplefilter("ignore", RegistrationWarning)
        rough = register(atlas.t1, t1, mask=healthy)
    near = grow(warp(atlas.brain, rough, grid, kind="mean") >= 0.5, grid, _BRAIN_RIM)
    affine = register(atlas.t1, t1, mask=healthy & near, initial=rough)
    near = grow(warp(atlas.brain, affine, grid, kind="mean") >= 0.5, grid, _BRAIN_RIM)
    if affine.failure:
        return affine
    bare = replace(t1, data=np.where(near, t1.data, 0))
    _, found = register_in_steps(atlas.t1, bare, mask=healthy & near, initial=affine, engine=engine)
    return _best(atlas, affine, found, notes, engine)


def _best(atlas: AtlasImages, affine: Transform, found: Transform, notes: list[str], engine: str) -> Transform:
    """Return the deformation, or the affine map where there is none, and note what is wrong with it."""
    if affine.failure:
        return affine
    if found.failure:
        notes.append(
            f"The atlas {atlas.title} is not deformed to the T1 image: {found.failure}; its affine map is kept."
        )
        return affine
    if found.weakened:
        notes.append(
            f"The deformation of the atlas {atlas.title} by the engine {engine} folds or does not align; it is "
            f"smoothed by {found.weakened:g} mm."
        )
    return found


def quality(transform: Transform) -> str:
    """Return a description of the kind and the quality of an alignment."""
    how = "an affine map" if transform.field is None else "an affine map and a deformation"
    return f"{how}, {transform.measure} {transform.after:.2f}"


def grow(mask: np.ndarray, grid: Grid, distance: float) -> np.ndarray:
    """Return a mask grown by a distance, mm."""
    # A cube approximates the ball well enough, and its filter is separable.
    return np.asarray(ndimage.maximum_filter(mask, [2 * int(np.ceil(distance / h)) + 1 for h in grid.spacing]))
