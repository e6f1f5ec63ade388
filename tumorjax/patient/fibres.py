"""Fibres of white matter from an image of diffusion tensors: on a computing grid, and before a displacement."""

from dataclasses import replace

import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.io import TensorVolume, Volume, relative_tensor, resample
from tumorjax.patient.tissue import sums_around
from tumorjax.quality import Note, Status

# Least share of the white matter that an image of its fibres shows, and the share from which no note is needed.
_LEAST, _ALL = 0.5, 0.98
# Share of a voxel from which it is mostly white matter, or measured.
_MOSTLY = 0.5
# Share of the lesion below which it is doubtful that the tumour grew along the fibres that are shown.
_LESION = 0.8
_ISOTROPIC = np.array([1, 0, 0, 1, 0, 1], np.float32)
_FULL, (_ROWS, _COLUMNS) = [0, 1, 2, 1, 3, 4, 2, 4, 5], np.triu_indices(3)


def where_measured(tensor: TensorVolume) -> Volume:
    """Return the mask of the voxels in which tensors were measured, with the place, name and notes of their image."""
    mask = np.any(tensor.data, axis=-1).astype(np.uint8)
    return Volume(mask, np.asarray(tensor.affine, float), name=tensor.name, path=tensor.path, notes=tensor.notes)


def with_fibres(
    anatomy: Anatomy,
    tensor: TensorVolume,
    notes: list[str],
    *,
    lesion: np.ndarray | None = None,
    altered: np.ndarray | None = None,
) -> Anatomy:
    """Return an anatomy with the tensors of an image, relative to their mean diffusivity, as its fibres.

    They are isotropic where nothing was measured. Where the tissue is not that in which the tumour grew, they are those
    of the white matter around, as `tumorjax.patient.tissue.fill_lesion` fills in tissue.

    Parameters
    ----------
    anatomy
        The tissue, whose grid lies in the world of the image.
    tensor
        The image.
    notes
        Receives what the image does not cover.
    lesion
        (x, y, z), share of each voxel in the lesion; None without a tumour.
    altered
        (x, y, z), share of each voxel in which tensors are not those of the healthy tissue: tumour core and cavity.

    Raises
    ------
    InputError
        If the image shows less than half of the white matter.

    Notes
    -----
    Filling is a heuristic. Where fibres around a core run alike, they run on in it; where they do not, the mean of
    their tensors is nearly isotropic. In a healthy brain, tensors that were cut out are nearer to the filled ones than
    to isotropic ones (`tests/test_fibres.py`). That the tumour has pushed those around is not considered here.
    """
    mask = where_measured(tensor)
    shown = resample(mask.data, mask.affine, anatomy.grid, kind="mean")
    white = np.asarray(anatomy.white_matter)
    share = float((shown * white).sum(dtype=float) / max(float(white.sum(dtype=float)), 1e-12))
    if share < _LEAST:
        mask.fail(f"shows {share:.0%} of the white matter; give an image of the whole brain in the same world space")
    reached = 1.0 if lesion is None else float((shown * lesion).sum() / lesion.sum())
    if min(share, reached) < _ALL:
        which = f"{share:.0%} of the white matter" + ("" if lesion is None else f" and {reached:.0%} of the lesion")
        status = Status.GOOD if reached >= _LESION else Status.DOUBTFUL
        text = f"The {tensor.name} image covers {which}; elsewhere cells diffuse alike in all directions."
        notes.append(Note(text, status))
    fibres = tensor.on(anatomy.grid)
    # Plane by plane, for eigenvectors take many times the room of the tensors.
    for plane in fibres:
        plane[:] = relative_tensor(plane)
    if altered is not None and (altered > 0).any():
        _fill(fibres, altered, white * (shown >= _MOSTLY), float(np.asarray(anatomy.grid.spacing)[0]))
    return replace(anatomy, fibres=fibres)


def _fill(fibres: np.ndarray, altered: np.ndarray, white: np.ndarray, spacing: float) -> None:
    """Replace tensors, in place, by means of those around over white matter, in the altered share of each voxel."""
    inside = altered > 0
    healthy = (white >= _MOSTLY) & ~inside
    found = np.broadcast_to(_ISOTROPIC, fibres.shape).copy()
    if healthy.any():
        parts = [white, *(white * part for part in np.moveaxis(fibres, -1, 0))]
        box, (total, *sums) = sums_around(parts, healthy, inside, spacing)
        for component, each in enumerate(sums):
            found[(*box, component)][inside[box]] = (each / np.where(inside[box], total, 1))[inside[box]]
    fibres += np.asarray(altered, np.float32)[..., None] * (found - fibres)


def fibres_before(tensors: np.ndarray, displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return tensors that were carried back to X from x = X + U(X), with the directions that they had there: R^T D R.

    Parameters
    ----------
    tensors
        (x, y, z, 6), of trace three: at X those that are now at x; the trace is less where x is outside of the image.
    displacement
        U, (x, y, z, 3), mm along the axes of the world.
    affine
        (4, 4), mm. Maps indices of voxels to world coordinates.

    Notes
    -----
    R is the rotation in the polar decomposition of I + grad U (finite strain [1]_), as growth with mass effect turns
    fibres: how a map shears a bundle does not turn it further.

    References
    ----------
    .. [1] D. C. Alexander et al., "Spatial transformations of diffusion tensor magnetic resonance images", IEEE Trans.
       Med. Imaging 20 (2001). doi:10.1109/42.963816
    """
    found, back = np.array(tensors), np.linalg.inv(np.asarray(affine, float)[:3, :3])
    moved = np.asarray(displacement, np.float32)
    slopes = np.stack([np.gradient(moved, axis=axis) for axis in range(3)], axis=-1)
    for plane, steep in zip(found, slopes, strict=True):
        left, _, right = np.linalg.svd(np.eye(3) + steep @ back)
        turn, full = left @ right, plane[..., _FULL].reshape(*plane.shape[:-1], 3, 3)
        plane[:] = (np.swapaxes(turn, -1, -2) @ full @ turn)[..., _ROWS, _COLUMNS]
        plane += (1 - plane[..., [0, 3, 5]].sum(axis=-1, keepdims=True) / 3) * _ISOTROPIC
    return found
