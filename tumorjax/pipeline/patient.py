"""A patient's images, checked and brought to one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import (
    InputError,
    Volume,
    above_background,
    as_background,
    as_labels,
    as_volume,
    check_worlds,
    fill_holes,
    resample,
    sha256,
)
from tumorjax.pipeline.frame import frame_of, notes_on_borders, tissue_extent
from tumorjax.pipeline.images import Images, check_shared, known_brain, notes_on_size, uptake_on
from tumorjax.pipeline.labels import Labels, lesion_of
from tumorjax.pipeline.tissue import Maps, TissueSource, as_t1, fill_lesion, tissue_source
from tumorjax.registration import Transform

DEFAULT_ATLAS = "icbm152"
Image = str | Path | Volume
"""The path of a NIfTI file, or an image at hand."""

# Voxels kept around the brain, so that no operator meets the border.
_MARGIN = 2
# Images whose voxels may be NaN wherever nothing was measured; those of labels and maps, at the border alone.
_NAN_OUTSIDE = ("T1", "PET")
# Less than this share of the lesion is not worth a note.
_TOLD = 0.005


@dataclass(frozen=True, eq=False)
class Patient:
    """What is known of a patient, in the geometry of the segmentation and on the computing grid.

    Parameters
    ----------
    reference
        The segmentation, continued over the whole brain where its image ends before; its voxels are the patient's
        geometry.
    core, flair
        (x, y, z) in the patient's geometry, boolean: the tumour core, and the whole lesion (core and oedema).
    brain
        The same, boolean; holds the lesion.
    background
        The same, float32: the T1 image, or tissue where there is none, to draw on.
    anatomy
        Healthy tissue on the computing grid, float32.
    core_fraction, flair_fraction
        (x, y, z) of the computing grid, float32: share of each voxel in the core and in the whole lesion.
    pet, pet_mask
        The same: the PET signal in its own unit (zero where not measured), and where it was measured
        (not zero, boolean). None without PET.
    source
        Where the tissue comes from.
    images
        The images that were given, by role ("T1", "brain mask").
    has_skull
        The T1 image shows a head.
    notes
        What a reader of the results should know about the inputs.
    hashes
        SHA-256 of each file, by its role.
    cavity
        (x, y, z) in the patient's geometry, boolean: what was resected, which holds no cells; None without.
    """

    reference: Volume
    core: np.ndarray
    flair: np.ndarray
    brain: np.ndarray
    background: np.ndarray
    anatomy: Anatomy
    core_fraction: np.ndarray
    flair_fraction: np.ndarray
    pet: np.ndarray | None
    pet_mask: np.ndarray | None
    source: TissueSource
    images: Images
    has_skull: bool
    notes: list[str]
    hashes: dict[str, str]
    cavity: np.ndarray | None = None

    @property
    def background_of(self) -> str:
        """The brain that the background shows, in words."""
        if "T1" in self.images:
            return "the patient's T1 image"
        if self.source.atlas is None:
            return "the tissue that was given"
        placed = "as it lies" if self.source.transform is None else "aligned with the patient"
        return f"the atlas {self.source.atlas.name}, {placed}: not the patient's own brain"

    @property
    def transform(self) -> Transform | None:
        """The registration of the atlas that the tissue comes from; None without one."""
        return self.source.transform

    @property
    def shows_fluid(self) -> bool:
        """Whether the anatomy has fluid where the patient has it, and not merely where an atlas does."""
        map_ = self.source.transform
        return self.source.own or (map_ is not None and map_.field is not None and not map_.failure)

    @property
    def lesion(self) -> Volume:
        """Mask of the whole lesion and of what was resected of it."""
        return replace(self.reference, data=_with_cavity(self.flair, self.cavity), name="lesion")


def load_patient(
    *,
    segmentation: Image,
    labels: Labels | str | None = None,
    t1: Image | None = None,
    pet: Image | None = None,
    white_matter: Image | None = None,
    grey_matter: Image | None = None,
    csf: Image | None = None,
    tissue: Image | None = None,
    tissue_labels: Mapping[str, tuple[int, ...]] | None = None,
    atlas: str | Path | None = None,
    brain_mask: Image | None = None,
    resolution: float = 2.0,
    progress: Callable[[str], None] = lambda message: None,
) -> Patient:
    """Read a patient's images and make the anatomy in which a tumour can be computed.

    Images are files, or at hand as a `Volume`.

    Parameters
    ----------
    segmentation
        Label map of the tumour; its voxels are the geometry of everything that is returned, continued over the brain
        where the image is smaller.
    labels
        Labels of "core", "edema" and "cavity" (resected), or the name of a convention (`tumorjax.pipeline.labels`);
        by default those of BraTS to 2022. Without "edema" the lesion is the core.
    t1, pet
        T1-weighted image, PET image.
    white_matter, grey_matter, csf
        Probability maps of the patient's tissue.
    tissue, tissue_labels
        Or a label map of it, with the labels of "csf", "gm" and "wm" (1, 2 and 3).
    atlas
        Or an atlas (see `tumorjax.atlas.load_atlas`), aligned with the T1 image or else with the
        brain mask; with neither, it must share the patient's world. Tissue comes from "icbm152"
        if nothing else is given.
    brain_mask
        Where tissue may be. By default the T1 image without its skull, or where there is tissue.
    resolution
        Voxel size of the computing grid, mm.
    progress
        Told what is done.

    Raises
    ------
    InputError
        If an input is unusable, or the images do not share a world; the message is one line.

    Warns
    -----
    RegistrationWarning
        If the atlas could not be aligned well.
    """
    if not 0.5 <= resolution <= 8:
        raise InputError(f"resolution: got {resolution} mm; give 0.5 to 8")
    if (white_matter is None) != (grey_matter is None) or (csf is not None and white_matter is None):
        raise InputError("tissue: white and grey matter come together; give both maps")
    given = [name for name, one in (("maps", white_matter), ("a label map", tissue), ("an atlas", atlas)) if one]
    if len(given) > 1:
        raise InputError(f"tissue: got {' and '.join(given)}; give one of them")
    progress("reading images")
    given_images = {
        "segmentation": segmentation,
        "T1": t1,
        "PET": pet,
        "white matter": white_matter,
        "grey matter": grey_matter,
        "CSF": csf,
        "tissue": tissue,
        "brain mask": brain_mask,
    }
    images = {
        name: as_volume(image, name=name, background_nan=True)
        for name, image in given_images.items()
        if image is not None
    }
    images = {name: each if name in _NAN_OUTSIDE else as_background(each) for name, each in images.items()}
    hashes = {name: sha256(image) for name, image in given_images.items() if isinstance(image, (str, Path))}
    # Without any of these, the atlas is brought to the patient by where both lie.
    placed = not images.keys() & {"T1", "brain mask", "white matter", "tissue"}
    notes = [*check_worlds(images, needed=placed), *(note for image in images.values() for note in image.notes)]
    outlined = images["segmentation"] = as_labels(images["segmentation"], notes)
    core, flair, cavity = lesion_of(outlined, labels, notes)
    if "T1" in images:
        images["T1"] = above_background(images["T1"], notes, inside=_mask_on(images, images["T1"].grid))
    lesion = replace(outlined, data=_with_cavity(flair, cavity), name="lesion")
    shown, has_skull = known_brain(images, lesion, notes)
    source = tissue_source(
        images,
        lesion,
        notes,
        atlas=atlas or DEFAULT_ATLAS,
        labels=tissue_labels,
        has_skull=has_skull,
        progress=progress,
    )
    if placed:
        check_worlds({"segmentation": outlined, "atlas": source.white_matter}, needed=True)

    progress("bringing the images to one grid")
    extent = tissue_extent(source) if shown is None else shown
    notes += notes_on_borders(outlined, core, flair, extent)
    reference, box = frame_of(outlined, lesion.data, extent, notes)
    core, flair = _within(core, reference, box), _within(flair, reference, box)
    cavity = None if cavity is None else _within(cavity, reference, box)
    # At the patient's own voxels only what is shown or bounds the brain.
    fine_maps = None if shown is not None and "T1" in images else source.on(reference.grid)
    background = _background(images, fine_maps, reference.grid)
    brain = _filled_brain(fine_maps) if shown is None else shown.on(reference.grid)
    if shown is not None and (lost := int((flair & ~brain).sum())):
        notes.append(f"{lost} voxels of the lesion lie outside the brain; they are added to it.")
    brain |= _with_cavity(flair, cavity)
    grid = _computing_grid(brain, reference, resolution)
    core_fraction, flair_fraction, brain_fraction = (_share(mask, reference, grid) for mask in (core, flair, brain))
    maps = source.on(grid)
    check_shared(source, maps, flair_fraction, None if shown is None else brain_fraction)
    if source.csf is None:
        maps = (maps[0], maps[1], np.clip(brain_fraction - maps[0] - maps[1], 0, 1))
    if shown is not None:
        inside = (brain_fraction >= 0.5) | (flair_fraction > 0)
        maps = (maps[0] * inside, maps[1] * inside, maps[2] * inside)
    anatomy = _anatomy(maps, flair_fraction, grid, notes)
    if cavity is not None:
        anatomy = _with_fluid(anatomy, _share(cavity, reference, grid))
    notes += notes_on_size(anatomy, core_fraction, flair_fraction)
    uptake, measured = uptake_on(images["PET"], grid, flair_fraction, notes) if "PET" in images else (None, None)
    return Patient(
        reference=reference,
        core=core,
        flair=flair,
        brain=brain,
        background=background,
        anatomy=anatomy,
        core_fraction=core_fraction,
        flair_fraction=flair_fraction,
        pet=uptake,
        pet_mask=measured,
        source=source,
        images=images,
        has_skull=has_skull,
        notes=notes,
        hashes=hashes,
        cavity=cavity,
    )


def _with_cavity(flair: np.ndarray, cavity: np.ndarray | None) -> np.ndarray:
    return flair if cavity is None else flair | cavity


def _within(mask: np.ndarray, frame: Volume, box: tuple[slice, ...]) -> np.ndarray:
    if mask.shape == frame.data.shape:
        return mask
    whole = np.zeros(frame.data.shape, bool)
    whole[box] = mask
    return whole


def _mask_on(images: Images, grid: Grid) -> np.ndarray | None:
    if "brain mask" not in images:
        return None
    mask = images["brain mask"]
    return resample(mask.data > 0.5, mask.affine, grid, kind="mean") >= 0.5


def _with_fluid(anatomy: Anatomy, share: np.ndarray) -> Anatomy:
    """Return tissue with fluid instead in a share of each voxel."""
    white, grey, csf = (
        np.asarray(each) * (1 - share) for each in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf)
    )
    return Anatomy(anatomy.grid, white, grey, csf + share)


def _filled_brain(maps: Maps | None) -> np.ndarray:
    if maps is None:
        raise ValueError("a brain needs tissue maps where no image shows it")
    return fill_holes(np.sum(maps, axis=0) >= 0.5)


def _background(images: Images, maps: Maps | None, grid: Grid) -> np.ndarray:
    if "T1" in images:
        return resample(images["T1"].data, images["T1"].affine, grid)
    if maps is None:
        raise ValueError("a background needs a T1 image or tissue maps")
    return as_t1(maps)


def _computing_grid(brain: np.ndarray, reference: Volume, resolution: float) -> Grid:
    # Whole blocks of the patient's voxels, where the resolution is a multiple of theirs.
    grid = reference.grid.with_spacing(resolution)
    return grid.crop(*tissue_box(_share(brain, reference, grid) > 0, margin=_MARGIN))


def _share(mask: np.ndarray, reference: Volume, grid: Grid) -> np.ndarray:
    return np.clip(resample(mask, reference.affine, grid, kind="mean"), 0, 1)


def _anatomy(maps: Maps, flair_fraction: np.ndarray, grid: Grid, notes: list[str]) -> Anatomy:
    (white, grey, csf), filled = fill_lesion(maps, flair_fraction, float(np.asarray(grid.spacing)[0]))
    if filled > _TOLD:
        notes.append(f"{filled:.1%} of the lesion had no tissue in the maps and was given that of its surroundings.")
    return Anatomy(grid, white, grey, csf)
