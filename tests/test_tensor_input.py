"""Tensors from files: every order and frame is read correctly, and noise is repaired."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from tumorjax.grid import Grid
from tumorjax.io import InputError, read_tensor, relative_tensor

SHAPE = (6, 7, 5)
# As the programs document them, independent of the reader's own table.
ORDERS = {
    "upper": ("xx", "xy", "xz", "yy", "yz", "zz"),
    "lower": ("xx", "xy", "yy", "xz", "yz", "zz"),
    "diagonal": ("xx", "yy", "zz", "xy", "xz", "yz"),
}
ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
ROTATION = ROTATION * np.linalg.det(ROTATION)


def placed(axes):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, (-3, 5, 1)
    return affine


AFFINES = {
    "RAS": placed(np.diag([1.5, 2.0, 1.2])),
    "LAS": placed(np.diag([-1.5, 2.0, 1.2])),
    "oblique": placed(ROTATION * np.array([1.5, 2.0, 1.2])),
    "oblique, mirrored": placed(ROTATION * np.array([1.5, -2.0, 1.2])),
    "permuted": placed(np.array([[0, -1.0, 0], [0, 0, 1.2], [0.9, 0, 0]])),
}


def centred(shape, axes, centre):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, centre - axes @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def components(matrices, order="upper"):
    return np.stack([matrices[..., "xyz".index(a), "xyz".index(b)] for a, b in ORDERS[order]], axis=-1)


def matrices(seed=0, shape=SHAPE):
    root = np.random.default_rng(seed).normal(size=(*shape, 3, 3))
    return root @ np.swapaxes(root, -1, -2) + 0.1 * np.eye(3)


def save(path, data, affine=None, intent=None):
    image = nib.Nifti1Image(np.asarray(data, np.float32), AFFINES["RAS"] if affine is None else affine)
    if intent:
        image.header.set_intent(intent)
    nib.save(image, path)
    return path


def along(direction, ratio=5.0):
    v = np.asarray(direction, float) / np.linalg.norm(direction)
    return np.eye(3) + (ratio - 1) * np.outer(v, v)


@pytest.mark.parametrize("where", AFFINES)
@pytest.mark.parametrize("frame", ["image", "world"])
@pytest.mark.parametrize("order", ORDERS)
def test_round_trip(tmp_path, order, frame, where):
    world, affine = matrices(), AFFINES[where]
    stored = world
    if frame == "image":
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        # FSL stores the first component against the voxels where these are right-handed.
        columns = [axes[:, 0] * (-1 if np.linalg.det(axes) > 0 else 1), axes[:, 1], axes[:, 2]]
        stored = np.stack([np.einsum("...ab,a,b->...", world, u, v) for u in columns for v in columns], -1)
        stored = stored.reshape(*SHAPE, 3, 3)
    path = save(tmp_path / "dti.nii.gz", components(stored, order), affine)
    volume = read_tensor(path, order=order, frame=frame)
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data, components(world), atol=1e-5)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.grid.shape == SHAPE


def test_frame_of_a_known_direction(tmp_path):
    # Right-handed voxels along RAS: a fibre to the right and the front is to the left and the front for FSL.
    path = save(tmp_path / "fsl.nii", components(np.broadcast_to(along([-1, 1, 0]), (*SHAPE, 3, 3))), AFFINES["RAS"])
    np.testing.assert_allclose(read_tensor(path).data[2, 3, 1], components(along([1, 1, 0])), atol=1e-6)
    # Left-handed ones store x against the world's, and FSL takes it as it is.
    path = save(tmp_path / "las.nii", components(np.broadcast_to(along([-1, 1, 0]), (*SHAPE, 3, 3))), AFFINES["LAS"])
    np.testing.assert_allclose(read_tensor(path).data[2, 3, 1], components(along([1, 1, 0])), atol=1e-6)


def test_order_follows_the_intent(tmp_path):
    world = matrices()
    lower = components(world, "lower")[..., None, :]
    path = save(tmp_path / "ants.nii.gz", lower, intent="symmetric matrix")
    np.testing.assert_allclose(read_tensor(path, frame="world").data, components(world), atol=1e-5)
    path = save(tmp_path / "fsl.nii.gz", components(world))
    np.testing.assert_allclose(read_tensor(path, frame="world").data, components(world), atol=1e-5)
    path = save(tmp_path / "unknown.nii.gz", lower)
    with pytest.raises(InputError, match="does not state the order"):
        read_tensor(path)
    np.testing.assert_allclose(read_tensor(path, order="lower", frame="world").data, components(world), atol=1e-5)


def test_whole_matrices_are_read(tmp_path):
    world = matrices()
    path = save(tmp_path / "dipy.nii.gz", world)
    np.testing.assert_allclose(read_tensor(path, frame="world").data, components(world), atol=1e-5)
    upper = read_tensor(save(tmp_path / "upper.nii.gz", components(world)))
    np.testing.assert_allclose(read_tensor(path).data, upper.data, atol=1e-5)
    with pytest.raises(InputError, match="whole matrices"):
        read_tensor(path, order="upper")
    with pytest.raises(InputError, match=r"differ by up to .* from symmetric ones"):
        read_tensor(save(tmp_path / "skew.nii.gz", world + np.triu(np.ones((3, 3)), 1)))


def test_scaled_integers_are_read(tmp_path):
    image = nib.Nifti1Image(np.round(components(matrices()) * 1000).astype(np.int16), AFFINES["LAS"])
    image.header.set_slope_inter(1e-3, 0)
    nib.save(image, tmp_path / "dti.nii.gz")
    expected = components(matrices())
    np.testing.assert_allclose(read_tensor(tmp_path / "dti.nii.gz", frame="world").data, expected, atol=6e-4)


@pytest.mark.parametrize(("order", "stored"), [("upper", "lower"), ("upper", "diagonal"), ("lower", "diagonal")])
def test_another_order_is_noticed(tmp_path, order, stored):
    path = save(tmp_path / "dti.nii", components(matrices(), stored))
    with pytest.raises(InputError, match="give the order of its components"):
        read_tensor(path, order=order)


def damaged(tmp_path, what):
    good, path = components(matrices()), tmp_path / "dti.nii.gz"
    match what:
        case "missing":
            return path
        case "folder":
            path.mkdir()
        case "pickle":
            path = tmp_path / "dti.nii"
            path.write_bytes(b"\x80\x05cos\nsystem\n" + b"." * 500)
        case "other format":
            path = tmp_path / "dti.mgz"
            nib.save(nib.MGHImage(good[..., 0].astype(np.float32), np.eye(4)), path)
        case "scalar":
            save(path, good[..., 0])
        case "nine components":
            save(path, np.ones((*SHAPE, 9)))
        case "slice":
            save(path, good[:, :, :1])
        case "two sets":
            save(path, np.stack([good, good], axis=3))
        case "complex":
            nib.save(nib.Nifti1Image(good.astype(np.complex64), np.eye(4)), path)
        case "NaN":
            good[1, 2, 3, 4] = np.nan
            save(path, good)
        case "zero":
            save(path, 0 * good)
        case "negative":
            save(path, -good)
        case "shear":
            affine = np.eye(4)
            affine[0, 1] = 0.3
            save(path, good, affine)
        case "cut off":
            save(tmp_path / "whole.nii", good)
            path = tmp_path / "dti.nii"
            path.write_bytes((tmp_path / "whole.nii").read_bytes()[:-1000])
        case "cut stream":
            save(path, good)
            path.write_bytes(path.read_bytes()[:-500])
        case "huge":
            save(tmp_path / "whole.nii", good)
            content = bytearray((tmp_path / "whole.nii").read_bytes())
            header = nib.Nifti1Header(bytes(content[:348]), check=False)
            header["dim"][1:4] = 3000
            path.write_bytes(gzip.compress(header.binaryblock + bytes(content[348:])))
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "does not exist; check the path"),
        ("folder", "is a folder"),
        ("pickle", "is not a readable NIfTI image"),
        ("other format", "is not a .nii or .nii.gz file"),
        ("scalar", r"has dimensions \(6, 7, 5\); give one image \(x, y, z, 6\)"),
        ("nine components", r"has dimensions \(6, 7, 5, 9\)"),
        ("slice", r"has dimensions \(6, 7, 1, 6\)"),
        ("two sets", r"has dimensions \(6, 7, 5, 2, 6\)"),
        ("complex", "complex64"),
        ("NaN", "has 1 NaN or infinite values of 1260"),
        ("zero", "is zero everywhere"),
        ("negative", "has mean diagonal entries -"),
        ("shear", "sheared"),
        ("cut off", "too few for the 5392"),
        ("cut stream", "is damaged"),
        ("huge", "has 162000000000 voxels"),
    ],
)
def test_refuses(tmp_path, what, message):
    path = damaged(tmp_path, what)
    with pytest.raises(InputError, match=message) as caught:
        read_tensor(path, name="diffusion tensors")
    assert str(caught.value).startswith(f"diffusion tensors {path}: ")
    assert "\n" not in str(caught.value)


def test_refuses_unknown_orders_and_frames(tmp_path):
    path = save(tmp_path / "dti.nii", components(matrices()))
    with pytest.raises(ValueError, match="got 'rows', 'image'"):
        read_tensor(path, order="rows")
    with pytest.raises(ValueError, match="got None, 'scanner'"):
        read_tensor(path, frame="scanner")
    with pytest.raises(ValueError, match=r"at least one, got 0\.5"):
        relative_tensor(components(matrices()), largest_ratio=0.5)


@pytest.mark.parametrize("where", ["RAS", "oblique"])
def test_resampling_keeps_the_world_and_definiteness(tmp_path, where):
    # A field that is linear in the world is interpolated exactly.
    grid = Grid((12, 12, 12), AFFINES[where])
    points = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    first, slopes = along([1, 2, 3]), 0.02 * np.stack([along([0, 1, 1]), along([1, 0, 2]), along([1, -1, 0])])
    centre = grid.to_world(np.full(3, 5.5))
    path = save(tmp_path / "dti.nii.gz", components(first + np.tensordot(points - centre, slopes, 1)), grid.affine)
    volume = read_tensor(path, frame="world")
    aim = centred((5, 6, 4), 0.8 * np.eye(3), centre)
    new = aim.to_world(np.moveaxis(np.indices(aim.shape), 0, -1).astype(float))
    np.testing.assert_allclose(volume.on(aim), components(first + np.tensordot(new - centre, slopes, 1)), atol=1e-4)
    rough = read_tensor(save(tmp_path / "rough.nii.gz", components(matrices(1, grid.shape)), grid.affine))
    resampled = rough.on(centred((9, 9, 9), ROTATION.T * [1.1, 1.3, 0.9], centre))
    full = resampled[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*resampled.shape[:3], 3, 3)
    inside = resampled.any(axis=-1)
    assert inside.sum() > 50
    assert np.linalg.eigvalsh(full[inside]).min() > 0
    # Outside the image there is nothing.
    assert not volume.on(centred((2, 2, 2), np.eye(3), centre + 500)).any()


def test_relative_tensors():
    turn = ROTATION
    given = np.array([[6.0, 2, 1], [3, 1, 0.01], [2, 1, -5], [0, 0, 0], [-1, -2, -3]]) * 1e-3
    tensors = components(np.einsum("ab,nb,cb->nac", turn, given, turn))
    wanted = np.array([[6, 2, 1], [3, 1, 0.3], [2, 1, 0.2], [1, 1, 1], [1, 1, 1]])
    wanted = 3 * wanted / wanted.sum(axis=1, keepdims=True)
    expected = components(np.einsum("ab,nb,cb->nac", turn, wanted, turn))
    np.testing.assert_allclose(relative_tensor(tensors), expected, atol=1e-12)
    single = relative_tensor(tensors.astype(np.float32).reshape(5, 1, 1, 6))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.reshape(5, 6), expected, atol=1e-5)
    # What is relative already stays.
    np.testing.assert_allclose(relative_tensor(expected), expected, atol=1e-12)
    np.testing.assert_allclose(
        relative_tensor(tensors, largest_ratio=1), np.tile([1, 0, 0, 1, 0, 1], (5, 1)), atol=1e-12
    )
