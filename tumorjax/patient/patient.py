"""The class `Patient`, and reading a patient's images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.cellularity import ADC_LAWS, LinearAdcLaw
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import (
    InputError,
    TensorVolume,
    Volume,
    above_background,
    as_background,
    as_labels,
    as_tensor,
    as_volume,
    check_worlds,
    fill_holes,
    resample,
    sha256,
)
from tumorjax.patient.conventions import Labels
from tumorjax.patient.fibres import where_measured, with_fibres
from tumorjax.patient.findings import Finding, findings_of
from tumorjax.patient.frame import frame_of, notes_on_borders, tissue_extent
from tumorjax.patient.images import Images, adc_on, check_shared, known_brain, uptake_on
from tumorjax.patient.labels import lesion_of
from tumorjax.patient.tissue import Maps, TissueSource, as_t1, fill_lesion, tissue_mask, tissue_source
from tumorjax.registration import DEFAULT_ENGINE, Transform, check_engine
from tumorjax.storage import text_digest

DEFAULT_ATLAS = "icbm152"
Image = str | Path | Volume
"""The path of a NIfTI file or of a DICOM series, or an image in memory."""
FRAME = "frame of reference"
"""What digests of the frames of reference of DICOM images are called, each "of" an image."""

# Number of voxels around the brain, so that no operator reaches the border of the grid.
_MARGIN = 2
# Images whose voxels may be NaN anywhere outside the brain; labels and maps may have NaN only towards the border.
_NAN_OUTSIDE = ("T1", "PET", "ADC")
_ALONG_FIBRES = (
    "Cells in white matter diffuse along the fibres that the DTI image shows; in the core, where its tensors are those "
    "of the tumour, along those of the white matter around it."
)
# Filling less than this share of the lesion does not need a note.
_WORTH_A_NOTE = 0.005


@dataclass(frozen=True, eq=False, repr=False)
class Patient:
    """A patient's images and anatomy, on the voxels of the segmentation and on the computing grid.

    Parameters
    ----------
    reference
        The segmentation, extended to the whole brain if its image is smaller; its voxels are the patient's geometry.
    core, lesion
        (x, y, z) in the patient's geometry, boolean: the tumour core, and the whole lesion (core and oedema).
    brain
        (x, y, z) in the patient's geometry, boolean: the brain, including the lesion.
    background
        (x, y, z) in the patient's geometry, float32: the T1 image, or else tissue, as background for figures.
    anatomy
        Healthy tissue on the computing grid, float32; with the fibres of white matter where an image shows them.
    core_fraction, lesion_fraction
        (x, y, z) on the computing grid, float32: share of each voxel in the core and in the whole lesion.
    pet, pet_mask
        (x, y, z) on the computing grid: the PET signal in its own unit (zero where not measured), and the mask
        where it was measured (boolean). None without PET.
    source
        Source of the tissue.
    images
        The given images by role ("T1", "brain mask").
    has_skull
        Whether the T1 image shows a head with its skull.
    notes
        Notes on the inputs for readers of the results.
    hashes
        SHA-256 of each file, by role.
    cavity
        (x, y, z) in the patient's geometry, boolean: the resection cavity, which contains no cells; None if there is
        none.
    registration
        Engine by which atlases are deformed.
    day
        Day on which this was seen, on the patient's own clock.
    adc, adc_mask
        (x, y, z) on the computing grid: the apparent diffusion coefficient of water, mm^2/s, and the mask of the core
        where it was measured (boolean). None without an image of it.
    adc_law
        Name of the law by which the density is read off it: "linear" or "inverse".
    earlier
        The same patient on the days before, in order, all in the geometry and with the anatomy of the first; from
        `load_visits`.
    name
        For titles: the patient's, or that of the folder or the table of the visits; empty where the segmentation's file
        names the patient.
    findings
        What is wrong with the masks of lesion and brain; their notes are among `notes`.
    """

    reference: Volume
    core: np.ndarray
    lesion: np.ndarray
    brain: np.ndarray
    background: np.ndarray
    anatomy: Anatomy
    core_fraction: np.ndarray
    lesion_fraction: np.ndarray
    pet: np.ndarray | None
    pet_mask: np.ndarray | None
    source: TissueSource
    images: Images
    has_skull: bool
    notes: list[str]
    hashes: dict[str, str]
    cavity: np.ndarray | None = None
    registration: str = DEFAULT_ENGINE
    day: float = 0.0
    adc: np.ndarray | None = None
    adc_mask: np.ndarray | None = None
    adc_law: str = LinearAdcLaw.name
    earlier: tuple["Patient", ...] = ()
    name: str = ""
    findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        """Return the images by name and the size of the grids, without their voxels."""
        voxels, grid = " x ".join(map(str, self.core.shape)), self.anatomy.grid
        computed = " x ".join(map(str, grid.shape))
        seen = f"; seen on days {', '.join(f'{each.day:g}' for each in self.visits)}" if self.earlier else ""
        return f"Patient({', '.join(self.images)}; {voxels} voxels, computed on {computed}{seen})"

    @property
    def visits(self) -> tuple["Patient", ...]:
        """The patient on each day, in order; alone where there is one date."""
        return (*self.earlier, self)

    @property
    def outlines(self) -> dict[str, np.ndarray]:
        """What is outlined by name, (x, y, z) boolean: the "core", and the whole "lesion" unless it is the same voxels.

        Without oedema a segmentation has one outline, whose voxels would otherwise count twice.
        """
        alone = np.array_equal(self.core, self.lesion)
        return {"core": self.core} if alone else {"core": self.core, "lesion": self.lesion}

    @property
    def background_of(self) -> str:
        """A description of the brain that the background shows."""
        if "T1" in self.images:
            return "the patient's T1 image"
        if self.source.atlas is None:
            return "the tissue that was given"
        placed = "as it lies" if self.source.transform is None else "aligned with the patient"
        return f"the atlas {self.source.atlas.title}, {placed}: not the patient's own brain"

    @property
    def transform(self) -> Transform | None:
        """The registration of the atlas that the tissue comes from; None if there is none."""
        return self.source.transform

    @property
    def shows_fluid(self) -> bool:
        """Whether the fluid in the anatomy is the patient's, and not that of an atlas behind an affine map."""
        map_ = self.source.transform
        deformed = map_ is not None and map_.field is not None and not map_.failure
        return self.source.own or self.source.segmented is not None or deformed

    @property
    def affected(self) -> Volume:
        """Mask of the whole lesion and the resection cavity."""
        return replace(self.reference, data=_with_cavity(self.lesion, self.cavity), name="lesion")

    @property
    def tissue(self) -> np.ndarray:
        """Where cells can be, (x, y, z) boolean: voxels with tissue in maps of it, and those of the outlined core."""
        grid, affected = self.reference.grid, self.affected.data
        mapped = tissue_mask(self.source.on(grid), affected, float(np.min(np.asarray(grid.spacing))))
        found = (mapped & self.brain) | self.core
        return found if self.cavity is None else found & ~self.cavity


def load_patient(
    *,
    segmentation: Image,
    labels: Labels | str | None = None,
    t1: Image | None = None,
    pet: Image | None = None,
    adc: Image | None = None,
    adc_law: str = LinearAdcLaw.name,
    white_matter: Image | None = None,
    grey_matter: Image | None = None,
    csf: Image | None = None,
    tissue: Image | None = None,
    tissue_labels: Mapping[str, tuple[int, ...]] | None = None,
    atlas: str | Path | None = None,
    brain_mask: Image | None = None,
    dti: str | Path | TensorVolume | None = None,
    resolution: float = 2.0,
    registration: str = DEFAULT_ENGINE,
    progress: Callable[[str], None] = lambda message: None,
) -> Patient:
    """Read a patient's images and make the anatomy in which tumours are simulated.

    Images are paths of files, or a `Volume` in memory.

    Parameters
    ----------
    segmentation
        Label image of the tumour. Its voxels define the geometry of all returned images, extended to the whole brain if
        the image is smaller.
    labels
        Labels of "core", "edema" and "cavity" (resected), or the name of a convention
        (`tumorjax.patient.conventions`); by default the convention of BraTS that the labels fit. Without "edema", the
        core is the only outline, and the lesion is the core.
    t1, pet
        T1-weighted image and PET image.
    adc
        Image of the apparent diffusion coefficient of water, in m^2/s, mm^2/s, 1e-3 mm^2/s or 1e-6 mm^2/s; the
        unit is recognised by its values in the core. There the density is read off it, see
        `tumorjax.DensityMap.from_adc`.
    adc_law
        How: "linear", ADC_w - ADC is proportional to the density, or "inverse", 1 / ADC is.
    white_matter, grey_matter, csf
        Probability maps of the patient's tissue.
    tissue, tissue_labels
        Alternatively, a label image of the tissue, and its labels of "csf", "gm" and "wm" (by default 1, 2 and 3).
    atlas
        Alternatively, an atlas (see `tumorjax.atlas.load_atlas`), which is aligned with the T1 image or else
        with the brain mask; without both, it must share the patient's world. The default, if no tissue is
        given, is "icbm152".
    brain_mask
        Mask of the brain, outside which there is no tissue. By default it is found from the T1 image, if that has no
        skull, or else from the tissue.
    dti
        Image of the diffusion tensors, in the patient's world, along whose fibres cells in white matter diffuse: a file
        that `tumorjax.io.read_tensor` reads without settings, or what it returns with them. Where it shows nothing,
        cells diffuse alike in all directions. In the core and the cavity, where the tensors are those of the tumour and
        not of the tissue that it grew in, they are filled in from the white matter around. In the oedema the directions
        are kept: they are relative to the mean diffusivity, which water raises.
    resolution
        Voxel size of the computing grid, mm.
    registration
        Engine by which atlases are deformed to the T1 image, see `tumorjax.registration.register`.
    progress
        Function that is called with a description of each step.

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
    given = [
        name for name, one in (("maps", white_matter), ("a label map", tissue), ("an atlas", atlas)) if one is not None
    ]
    if len(given) > 1:
        raise InputError(f"tissue: got {' and '.join(given)}; give one of them")
    if adc_law not in ADC_LAWS:
        raise InputError(f"adc_law: got {adc_law!r:.40}; give {' or '.join(ADC_LAWS)}")
    check_engine(registration)
    progress("reading images")
    given_images = {
        "segmentation": segmentation,
        "T1": t1,
        "PET": pet,
        "ADC": adc,
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
    # The identifier itself would name the study.
    hashes |= {f"{FRAME} of {name}": text_digest(each.frame) for name, each in images.items() if each.frame}
    tensor = None if dti is None else as_tensor(dti, name="DTI")
    if tensor is not None:
        images["DTI"] = where_measured(tensor)
        hashes |= {} if tensor.path is None else {"DTI": sha256(tensor.path)}
    # Without any of these, the atlas cannot be aligned and must share the patient's world.
    placed = not images.keys() & {"T1", "brain mask", "white matter", "tissue"}
    notes = [*check_worlds(images, needed=placed), *(note for image in images.values() for note in image.notes)]
    outlined = images["segmentation"] = as_labels(images["segmentation"], notes)
    core, lesion, cavity = lesion_of(outlined, labels, notes)
    if "T1" in images:
        images["T1"] = above_background(images["T1"], notes, inside=_mask_on(images, images["T1"].grid))
    affected = replace(outlined, data=_with_cavity(lesion, cavity), name="lesion")
    shown, has_skull = known_brain(images, affected, notes)
    source = tissue_source(
        images,
        affected,
        notes,
        atlas=DEFAULT_ATLAS if atlas is None else atlas,
        labels=tissue_labels,
        brain=None if shown is None else shown.image,
        has_skull=has_skull,
        resolution=resolution,
        registration=registration,
        progress=progress,
    )
    if placed:
        check_worlds({"segmentation": outlined, "atlas": source.white_matter}, needed=True)

    progress("resampling the images to one grid")
    extent = tissue_extent(source) if shown is None else shown
    notes += notes_on_borders(outlined, core, lesion, extent)
    reference, box = frame_of(outlined, affected.data, extent, notes)
    core, lesion = _within(core, reference, box), _within(lesion, reference, box)
    cavity = None if cavity is None else _within(cavity, reference, box)
    # The tissue is needed on the patient's voxels only as background or to define the brain.
    fine_maps = None if shown is not None and "T1" in images else source.on(reference.grid)
    background = _background(images, fine_maps, reference.grid)
    brain = _filled_brain(fine_maps) if shown is None else shown.on(reference.grid)
    found = findings_of(
        reference,
        _with_cavity(lesion, cavity),
        None if shown is None else brain,
        "" if shown is None else shown.image.name,
        background if "T1" in images else None,
    )
    notes += [finding.note for finding in found]
    brain = brain | _with_cavity(lesion, cavity)
    grid = _computing_grid(brain, reference, resolution)
    core_fraction, lesion_fraction, brain_fraction = (_share(mask, reference, grid) for mask in (core, lesion, brain))
    maps = source.on(grid)
    check_shared(source, maps, lesion_fraction, None if shown is None else brain_fraction)
    if source.csf is None:
        maps = (maps[0], maps[1], np.clip(brain_fraction - maps[0] - maps[1], 0, 1))
    if shown is not None:
        inside = (brain_fraction >= 0.5) | (lesion_fraction > 0)
        maps = (maps[0] * inside, maps[1] * inside, maps[2] * inside)
    anatomy = _anatomy(maps, lesion_fraction, grid, notes)
    if cavity is not None:
        anatomy = _with_fluid(anatomy, _share(cavity, reference, grid))
    if tensor is not None:
        altered = _share(_with_cavity(core, cavity), reference, grid)
        anatomy = with_fibres(anatomy, tensor, notes, lesion=lesion_fraction, altered=altered)
        notes.append(_ALONG_FIBRES)
    uptake, measured = uptake_on(images["PET"], grid, lesion_fraction, notes) if "PET" in images else (None, None)
    water, cells = adc_on(images["ADC"], grid, core_fraction, notes) if "ADC" in images else (None, None)
    return Patient(
        reference=reference,
        core=core,
        lesion=lesion,
        brain=brain,
        background=background,
        anatomy=anatomy,
        core_fraction=core_fraction,
        lesion_fraction=lesion_fraction,
        pet=uptake,
        pet_mask=measured,
        adc=water,
        adc_mask=cells,
        adc_law=adc_law,
        source=source,
        images=images,
        has_skull=has_skull,
        notes=notes,
        hashes=hashes,
        cavity=cavity,
        registration=registration,
        findings=tuple(found),
    )


def _with_cavity(lesion: np.ndarray, cavity: np.ndarray | None) -> np.ndarray:
    return lesion if cavity is None else lesion | cavity


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
    """Return the anatomy with a share of each voxel replaced by fluid."""
    white, grey, csf = (
        np.asarray(each) * (1 - share) for each in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf)
    )
    return replace(anatomy, white_matter=white, grey_matter=grey, csf=csf + share)


def _filled_brain(maps: Maps | None) -> np.ndarray:
    if maps is None:
        raise ValueError("without an image of the brain, tissue maps are needed to define it")
    return fill_holes(np.sum(maps, axis=0) >= 0.5)


def _background(images: Images, maps: Maps | None, grid: Grid) -> np.ndarray:
    if "T1" in images:
        return resample(images["T1"].data, images["T1"].affine, grid)
    if maps is None:
        raise ValueError("a background needs a T1 image or tissue maps")
    return as_t1(maps)


def _computing_grid(brain: np.ndarray, reference: Volume, resolution: float) -> Grid:
    # Computing voxels are whole blocks of the patient's voxels if the resolution is a multiple of their size.
    grid = reference.grid.with_spacing(resolution)
    return grid.crop(*tissue_box(_share(brain, reference, grid) > 0, margin=_MARGIN))


def _share(mask: np.ndarray, reference: Volume, grid: Grid) -> np.ndarray:
    return np.clip(resample(mask, reference.affine, grid, kind="mean"), 0, 1)


def _anatomy(maps: Maps, lesion_fraction: np.ndarray, grid: Grid, notes: list[str]) -> Anatomy:
    (white, grey, csf), filled = fill_lesion(maps, lesion_fraction, float(np.asarray(grid.spacing)[0]))
    if filled > _WORTH_A_NOTE:
        notes.append(
            f"{filled:.1%} of the lesion had no tissue in the maps and was filled with that of its surroundings."
        )
    return Anatomy(grid, white, grey, csf)
