"""The images that a personalization leaves, in the patient's world and in the atlas'."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from tumorjax.atlas import AtlasImages
from tumorjax.grid import Grid, tissue_box
from tumorjax.io import Volume, write_volume
from tumorjax.patient.patient import Patient
from tumorjax.registration import Transform, save_transform, warp
from tumorjax.results.personalization import Personalization

# Transform of the atlas from which the patient's tissue comes.
_TRANSFORM = "atlas_transform.tfm"
# Voxels around a brain in which images are warped.
_MARGIN = 4
# A thousandth (of a millimetre) is enough for displacements and probabilities, and other digits do not compress.
_DECIMALS = 3

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""First voxel and shape of a box of a grid."""


def write_maps(out: Path, result: Personalization, tissue: np.ndarray) -> None:
    """Write density, plan, what draws add, what mass effect has displaced, and a registered atlas' transform.

    A result that has failed has no plan.

    Parameters
    ----------
    out
        The folder; it exists.
    result
        From `personalize`.
    tissue
        The patient's `tissue_labels`.
    """
    patient, like = result.patient, result.patient.reference
    write_volume(out / "density.nii.gz", result.density, like=like)
    write_volume(out / "density_std.nii.gz", result.density_std, like=like)
    if result.plan is not None:
        write_volume(out / "plan.nii.gz", result.plan.astype(np.uint8), like=like)
    for threshold, probability in result.probabilities.items():
        write_volume(out / f"probability_{threshold:g}.nii.gz", probability.round(_DECIMALS), like=like)
    for level, volume in result.credible.items():
        write_volume(out / f"credible_{100 * level:.0f}.nii.gz", volume.astype(np.uint8), like=like)
    if result.displacement is not None:
        write_vectors(out / "displacement.nii.gz", result.displacement.round(_DECIMALS), like=like)
    moved = {
        "displacement_norm": result.displacement_norm,
        "displacement_norm_std": result.displacement_std,
        "jacobian": result.jacobian,
    }
    for name, image in moved.items():
        if image is not None:
            write_volume(out / f"{name}.nii.gz", image.round(_DECIMALS), like=like)
    if patient.source.transform is not None:
        save_transform(out / _TRANSFORM, patient.source.transform)
        if patient.source.atlas is not None and not patient.source.transform.failure:
            write_volume(out / "tissue.nii.gz", tissue, like=like)
            _write_in_atlas(out, patient, result.density, patient.source.atlas, patient.source.transform)


def _write_in_atlas(out: Path, patient: Patient, density: np.ndarray, atlas: AtlasImages, transform: Transform) -> None:
    """Write density and tumour in the atlas' geometry."""
    grid, like, back = atlas.t1.grid, patient.reference, transform.inverse()
    box = tissue_box(atlas.brain.data > 0, margin=_MARGIN)
    density = np.clip(_warp_in(box, replace(like, data=density), back, grid, "linear"), 0, 1)
    write_volume(out / "density_atlas.nii.gz", density, like=atlas.t1)
    # As in BraTS: 1 is the core, 2 the oedema.
    tumour = replace(like, data=np.select([patient.core, patient.lesion], [1, 2]).astype(np.uint8))
    box = _where(patient.lesion, like.grid, transform, grid)
    write_volume(out / "tumour_atlas.nii.gz", _warp_in(box, tumour, back, grid, "label"), like=atlas.t1)


def _where(mask: np.ndarray, own: Grid, transform: Transform, grid: Grid) -> Box:
    """Return the box of a grid in which a mask on another one lies after a transform, with a margin."""
    if transform.field is not None and transform.inverse_error == (0.0, 0.0):
        # Nobody measured how far the field back is from the inverse, as where another program made both.
        return (0, 0, 0), grid.shape
    index = grid.to_index(transform.apply(own.to_world(np.argwhere(mask))))
    # The field back is its inverse only so far, and the border of a voxel is away from its centre.
    margin = _MARGIN + (transform.inverse_error[1] + np.max(own.spacing)) / np.asarray(grid.spacing)
    last = np.array(grid.shape) - 1
    low, high = (np.clip(ends, 0, last).astype(int) for ends in (index.min(0) - margin, index.max(0) + margin))
    return tuple(low.tolist()), tuple((high + 1 - low).tolist())


def _warp_in(
    box: Box, volume: Volume, transform: Transform, grid: Grid, kind: Literal["linear", "label"]
) -> np.ndarray:
    """Return an image through a transform in a box of a grid, zero elsewhere: a brain is a third of its image."""
    start, shape = box
    inside = warp(volume, transform, grid.crop(start, shape), kind=kind)
    result = np.zeros(grid.shape, inside.dtype)
    result[tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))] = inside
    return result


def write_vectors(path: Path, vectors: np.ndarray, like: Volume) -> None:
    """Write a displacement field as NIfTI has it: five dimensions, the intent of displacement vectors, RAS mm.

    The header says the unit and the axes in its description, and that lengths are in mm where the image does not.

    Parameters
    ----------
    path
        A `.nii.gz` file.
    vectors
        (x, y, z, 3), mm along the world's axes.
    like
        The image whose geometry the vectors have.
    """
    # An image written with the other one's geometry has the header to keep.
    write_volume(path, np.zeros(like.data.shape, np.float32), like=like)
    header: Any = nib.load(path).header.copy()
    header.set_intent("displacement vector")
    header["descrip"] = b"displacement of the tissue, mm along the axes of RAS"
    if header.get_xyzt_units()[0] == "unknown":
        header.set_xyzt_units("mm")
    data = np.asarray(vectors, np.float32)[:, :, :, None]
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    nib.save(kind(data, like.affine, header), path)
