"""A patient made of images and tissue: all on the voxels of the segmentation, and on the computing grid."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import TensorVolume, Volume, fill_holes, resample
from tumorjax.patient.fibres import with_fibres
from tumorjax.patient.findings import Finding, findings_of
from tumorjax.patient.frame import frame_of, notes_on_borders, tissue_extent
from tumorjax.patient.images import Brain, Images, adc_on, check_shared, uptake_on
from tumorjax.patient.patient import Patient, with_cavity
from tumorjax.patient.tissue import Maps, TissueSource, as_t1, fill_lesion

# Number of voxels around the brain, so that no operator reaches the border of the grid.
_MARGIN = 2
_ALONG_FIBRES = (
    "Cells in white matter diffuse along the fibres that the DTI image shows; in the core, where its tensors are those "
    "of the tumour, along those of the white matter around it."
)
# Filling less than this share of the lesion does not need a note.
_WORTH_A_NOTE = 0.005


class Scans(NamedTuple):
    """What a patient's files show, before it is known which tissue lies where.

    Parameters
    ----------
    images
        By role, such as "T1".
    hashes
        SHA-256 of each file, by role.
    segmentation
        The label image of the tumour.
    core, lesion, cavity
        (x, y, z) on its voxels, boolean; the cavity is None if there is none.
    shown
        The brain that the images show; None if tissue has to define it.
    has_skull
        Whether the T1 image shows a head with its skull.
    tensor
        The diffusion tensors; None without an image of them.
    adc_law, resolution, registration
        See `load_patient`.
    """

    images: Images
    hashes: dict[str, str]
    segmentation: Volume
    core: np.ndarray
    lesion: np.ndarray
    cavity: np.ndarray | None
    shown: Brain | None
    has_skull: bool
    tensor: TensorVolume | None
    adc_law: str
    resolution: float
    registration: str

    @property
    def affected(self) -> Volume:
        """Mask of the whole lesion and the resection cavity."""
        return replace(self.segmentation, data=with_cavity(self.lesion, self.cavity), name="lesion")

    @property
    def tells_frame(self) -> bool:
        """Whether the images tell the voxels of the patient before its tissue is known."""
        return self.shown is not None and "T1" in self.images


class Framed(NamedTuple):
    """The voxels of a patient's results and of the simulation, and what the images show on them.

    Parameters
    ----------
    reference
        The segmentation, extended to cover the brain: its voxels are those of the results.
    core, lesion, brain
        (x, y, z) on them, boolean; the lesion is a part of the brain.
    cavity
        Likewise; None if there is none.
    background
        (x, y, z) on them: the image behind figures.
    findings
        What is wrong with the masks.
    grid
        The computing grid.
    core_fraction, lesion_fraction, brain_fraction
        (x, y, z) on it: the share of each voxel.
    notes
        For readers of the results.
    """

    reference: Volume
    core: np.ndarray
    lesion: np.ndarray
    brain: np.ndarray
    cavity: np.ndarray | None
    background: np.ndarray
    findings: tuple[Finding, ...]
    grid: Grid
    core_fraction: np.ndarray
    lesion_fraction: np.ndarray
    brain_fraction: np.ndarray
    notes: tuple[str, ...]


def framed(scans: Scans, source: TissueSource | None = None) -> Framed:
    """Return the voxels of a patient; without tissue only where the images tell (`Scans.tells_frame`)."""
    images, outlined, shown, notes = scans.images, scans.segmentation, scans.shown, []
    core, lesion, cavity = scans.core, scans.lesion, scans.cavity
    if shown is not None:
        extent = shown
    elif source is not None:
        extent = tissue_extent(source)
    else:
        raise ValueError("where the images do not show the brain, its tissue is needed")
    notes += notes_on_borders(outlined, core, lesion, extent)
    reference, box = frame_of(outlined, scans.affected.data, extent, notes)
    core, lesion = _within(core, reference, box), _within(lesion, reference, box)
    cavity = None if cavity is None else _within(cavity, reference, box)
    # The tissue is needed on the patient's voxels only as background or to define the brain.
    fine_maps = None if source is None or scans.tells_frame else source.on(reference.grid)
    background = _background(images, fine_maps, reference.grid)
    brain = _filled_brain(fine_maps) if shown is None else shown.on(reference.grid)
    found = findings_of(
        reference,
        with_cavity(lesion, cavity),
        None if shown is None else brain,
        "" if shown is None else shown.image.name,
        background if "T1" in images else None,
    )
    notes += [finding.note for finding in found]
    brain = brain | with_cavity(lesion, cavity)
    grid = _computing_grid(brain, reference, scans.resolution)
    inside, outlined_share, within = (_share(mask, reference, grid) for mask in (core, lesion, brain))
    return Framed(
        reference, core, lesion, brain, cavity, background, tuple(found), grid, inside, outlined_share, within,
        tuple(notes),
    )  # fmt: skip


def without_tissue(scans: Scans, frame: Framed | None = None) -> Patient | None:
    """Return the patient as if all of the brain were white matter; None if the images do not show the brain.

    Its grids are those of the patient, and are known before an atlas is aligned, which takes most of the time: enough
    to compile what the patient's calibration will need.
    """
    if scans.shown is None:
        return None
    brain = scans.shown.image
    none = replace(brain, data=np.zeros_like(brain.data))
    return assembled(scans, TissueSource(brain, none, none, own=True), [], frame)


def assembled(scans: Scans, source: TissueSource, notes: list[str], frame: Framed | None = None) -> Patient:
    """Return the patient that images show, with the tissue of a source.

    Parameters
    ----------
    scans
        What the files show.
    source
        The tissue.
    notes
        Those on the files, to which others are appended.
    frame
        The voxels, where they are known.
    """
    images, shown = scans.images, scans.shown
    frame = framed(scans, source) if frame is None else frame
    notes += frame.notes
    reference, grid, core, cavity = frame.reference, frame.grid, frame.core, frame.cavity
    maps = source.on(grid)
    check_shared(source, maps, frame.lesion_fraction, None if shown is None else frame.brain_fraction)
    if source.csf is None:
        maps = (maps[0], maps[1], np.clip(frame.brain_fraction - maps[0] - maps[1], 0, 1))
    if shown is not None:
        inside = (frame.brain_fraction >= 0.5) | (frame.lesion_fraction > 0)
        maps = (maps[0] * inside, maps[1] * inside, maps[2] * inside)
    anatomy = _anatomy(maps, frame.lesion_fraction, grid, notes)
    if cavity is not None:
        anatomy = _with_fluid(anatomy, _share(cavity, reference, grid))
    if scans.tensor is not None:
        altered = _share(with_cavity(core, cavity), reference, grid)
        anatomy = with_fibres(anatomy, scans.tensor, notes, lesion=frame.lesion_fraction, altered=altered)
        notes.append(_ALONG_FIBRES)
    uptake, measured = uptake_on(images["PET"], grid, frame.lesion_fraction, notes) if "PET" in images else (None, None)
    water, cells = adc_on(images["ADC"], grid, frame.core_fraction, notes) if "ADC" in images else (None, None)
    return Patient(
        reference=reference,
        core=core,
        lesion=frame.lesion,
        brain=frame.brain,
        background=frame.background,
        anatomy=anatomy,
        core_fraction=frame.core_fraction,
        lesion_fraction=frame.lesion_fraction,
        pet=uptake,
        pet_mask=measured,
        adc=water,
        adc_mask=cells,
        adc_law=scans.adc_law,
        source=source,
        images=images,
        has_skull=scans.has_skull,
        notes=notes,
        hashes=scans.hashes,
        cavity=cavity,
        registration=scans.registration,
        findings=frame.findings,
    )


def _within(mask: np.ndarray, frame: Volume, box: tuple[slice, ...]) -> np.ndarray:
    if mask.shape == frame.data.shape:
        return mask
    whole = np.zeros(frame.data.shape, bool)
    whole[box] = mask
    return whole


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
