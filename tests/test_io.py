"""Files and voxel grids: refused input, preserved data, and known values."""

import gzip
import re

import nibabel as nib
import numpy as np
import pytest

from tumorjax.grid import Grid
from tumorjax.io import (
    InputError,
    Volume,
    as_background,
    as_volume,
    parse_labels,
    read_volume,
    resample,
    sha256,
    to_voxels,
    world_overlap,
    write_volume,
)

SHAPE = (12, 14, 10)
FLIPPED = np.array([[-1.0, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 2.0, -4], [0, 0, 0, 1]])
# The first axis of the voxels runs along the world's z, the second along -x.
PERMUTED = np.array([[0, -1.0, 0, 8], [0, 0, 1.2, -5], [0.9, 0, 0, 3], [0, 0, 0, 1]])


def oblique(spacing=(1.0, 1.0, 1.0), angles=(0.4, -0.25)):
    a, b = angles
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * np.asarray(spacing)
    return affine


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def ramp(grid):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    return grid.to_world(index.astype(float)) @ np.array([1.0, -2.0, 0.5]) + 3.0


def ball(grid, centre, radius):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    return ((grid.to_world(index.astype(float)) - np.asarray(centre)) ** 2).sum(-1) <= radius**2


def test_reads_what_was_written(tmp_path):
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    volume = read_volume(save(tmp_path / "a.nii.gz", data, FLIPPED), name="segmentation")
    np.testing.assert_array_equal(volume.data, data)
    assert volume.data.dtype == np.int16
    np.testing.assert_array_equal(volume.affine, FLIPPED)
    plain = read_volume(save(tmp_path / "a.nii", data[..., None], FLIPPED), name="segmentation")
    np.testing.assert_array_equal(plain.data, data)


def test_scaled_integers_become_float32(tmp_path):
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), np.eye(4))
    image.header.set_slope_inter(0.5, -1)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz", name="T1")
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data, stored.get_fdata(), rtol=1e-6)


def damaged(tmp_path, what):
    ones, path = np.ones(SHAPE, np.float32), tmp_path / "image.nii.gz"
    noise = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
    match what:
        case "missing":
            return path
        case "folder":
            path.mkdir()
        case "other format":
            path = tmp_path / "image.nrrd"
            path.write_bytes(b"NRRD0004\n")
        case "no image":
            path = tmp_path / "image.nii"
            path.write_text("patient, sex, age\n" * 100)
        case "empty":
            path.write_bytes(b"")
        case "pickle":
            path = tmp_path / "image.nii"
            path.write_bytes(b"\x80\x05cos\nsystem\n" + b"." * 500)
        case "truncated stream":
            save(path, noise)
            path.write_bytes(path.read_bytes()[:50000])
        case "flipped bits":
            save(path, noise)
            content = bytearray(path.read_bytes())
            content[-6] ^= 0xFF  # in the checksum
            path.write_bytes(bytes(content))
        case "truncated file":
            path = save(tmp_path / "image.nii", noise)
            path.write_bytes(path.read_bytes()[:50000])
        case "four dimensions":
            save(path, np.ones((*SHAPE, 3), np.float32))
        case "a slice":
            save(path, np.ones((12, 14), np.float32))
        case "one slice":
            save(path, np.ones((12, 14, 1), np.float32))
        case "colour":
            save(path, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))
        case "complex":
            save(path, ones.astype(np.complex64))
        case "NaN":
            ones[3, 4, 5] = np.nan
            save(path, ones)
        case "infinity":
            ones[3, 4, 5] = -np.inf
            save(path, ones)
        case "too large for float32":
            save(path, ones.astype(np.float64) * 1e300)
        case "shear":
            affine = np.eye(4)
            affine[0, 1] = 0.3
            save(path, ones, affine)
        case "no volume" | "NaN affine" | "metres" | "huge" | "cut off":
            image = nib.Nifti1Image(ones, np.eye(4))
            nib.save(image, tmp_path / "whole.nii")
            content = bytearray((tmp_path / "whole.nii").read_bytes())
            header = nib.Nifti1Header(bytes(content[:348]), check=False)
            if what == "no volume":
                header["srow_x"] = 0
            elif what == "NaN affine":
                header["srow_y"] = np.nan
            elif what == "metres":
                header.set_sform(np.diag([1e-3, 1e-3, 1e-3, 1]), code=1)
            elif what == "huge":
                header["dim"][1:4] = 30000
            else:
                header["dim"][1:4] = 600
            content[:348] = header.binaryblock
            path.write_bytes(gzip.compress(bytes(content)))
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "does not exist; check the path"),
        ("folder", "is a folder without DICOM files; give one NIfTI file"),
        ("other format", "is not a .nii or .nii.gz file"),
        ("no image", "is not a readable NIfTI image"),
        ("empty", "is not a readable NIfTI image"),
        ("pickle", "is not a readable NIfTI image"),
        ("truncated stream", "is damaged"),
        ("flipped bits", "is damaged .*CRC"),
        ("truncated file", "has 50000 bytes, too few for the 108352"),
        ("four dimensions", r"has dimensions \(12, 14, 10, 3\); give one 3-D image"),
        ("a slice", r"has dimensions \(12, 14\)"),
        ("one slice", r"has dimensions \(12, 14, 1\)"),
        ("colour", "complex or colour"),
        ("complex", "complex64"),
        ("NaN", "has 1 NaN or infinite voxels of 1680"),
        ("infinity", "has 1 NaN or infinite voxels"),
        ("too large for float32", "NaN or infinite"),
        ("shear", "sheared"),
        ("no volume", "not invertible"),
        ("NaN affine", "finite"),
        ("metres", "voxels of .*0.001.* mm in its sform"),
        ("huge", "has 27000000000000 voxels"),
        ("cut off", "too few for the 864000352"),
    ],
)
def test_refuses(tmp_path, what, message):
    path = damaged(tmp_path, what)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path, name="segmentation")
    text = str(caught.value)
    assert text.startswith(f"segmentation {path}: ")
    assert "\n" not in text


def test_an_image_at_hand_is_checked_as_a_file_is(tmp_path):
    data = np.random.default_rng(0).normal(size=SHAPE)
    kept = as_volume(Volume(data, FLIPPED), name="T1")
    assert (kept.data.dtype, kept.name) == (np.float32, "T1")
    np.testing.assert_array_equal(kept.data, data.astype(np.float32))
    mask = as_volume(Volume(data > 0, FLIPPED), name="segmentation")
    assert mask.data.dtype == np.uint8 and mask.data.sum() == (data > 0).sum()
    path = save(tmp_path / "a.nii.gz", data.astype(np.float32), FLIPPED)
    np.testing.assert_array_equal(as_volume(path, name="T1").data, kept.data)
    spoilt = data.copy()
    spoilt[1, 2, 3] = np.nan
    for volume, message in (
        (Volume(spoilt, FLIPPED), "T1: has 1 NaN or infinite voxels"),
        (Volume(data[..., None, None], FLIPPED), r"T1: has dimensions \(12, 14, 10, 1, 1\)"),
        (Volume(data + 1j, FLIPPED), "T1: has voxels of type complex128"),
        (Volume(data, 1e-3 * FLIPPED), "T1: has voxels of .* mm; correct"),
        (Volume(data, np.zeros((4, 4))), "T1: "),
    ):
        with pytest.raises(InputError, match=message):
            as_volume(volume, name="T1")


def test_voxels_that_are_not_finite_are_recorded_on_request(tmp_path):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    spoilt = data.copy()
    spoilt[:3], spoilt[4, 5, 6] = np.nan, np.inf
    path = save(tmp_path / "a.nii.gz", spoilt, FLIPPED)
    for image in (path, Volume(spoilt, FLIPPED)):
        kept = as_volume(image, name="T1", background_nan=True)
        np.testing.assert_array_equal(kept.missing, ~np.isfinite(spoilt))
        np.testing.assert_array_equal(kept.data, np.where(np.isfinite(spoilt), data, 0))
        # The mask of missing voxels survives another check.
        np.testing.assert_array_equal(as_volume(kept, name="T1").missing, kept.missing)
    assert as_volume(Volume(data, FLIPPED), name="T1", background_nan=True).missing is None
    with pytest.raises(InputError, match="NaN or infinite voxels"):
        as_volume(Volume(np.full(SHAPE, np.nan), FLIPPED), name="T1", background_nan=True)


def test_labels_that_are_not_a_number_are_background_at_the_border_alone():
    labels = np.zeros(SHAPE, np.float32)
    labels[:, :, :3] = np.nan
    labels[5:8, 5:8, 5:8] = 1
    outside = as_background(as_volume(Volume(labels, FLIPPED), name="segmentation", background_nan=True))
    assert outside.data.sum() == 27 and np.isfinite(outside.data).all()
    labels[6, 6, 6] = np.nan
    with pytest.raises(InputError, match="segmentation: has 1 NaN or infinite voxels in its foreground"):
        as_background(as_volume(Volume(labels, FLIPPED), name="segmentation", background_nan=True))


def test_written_image_keeps_the_header(tmp_path):
    image = nib.Nifti1Image(np.ones(SHAPE, np.int16), FLIPPED)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_sform(FLIPPED, code=4)
    image.header.set_qform(FLIPPED, code=1)
    image.header["descrip"] = b"Jane Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "like.nii.gz")
    like = read_volume(tmp_path / "like.nii.gz", name="segmentation")
    density = np.random.default_rng(0).random(SHAPE)
    write_volume(tmp_path / "density.nii.gz", density, like)
    written = nib.load(tmp_path / "density.nii.gz")
    np.testing.assert_array_equal(written.affine, FLIPPED)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (4, 1)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(written.get_fdata(), density.astype(np.float32))
    assert b"Jane" not in gzip.decompress((tmp_path / "density.nii.gz").read_bytes())
    write_volume(tmp_path / "plan.nii.gz", density > 0.5, like)
    assert nib.load(tmp_path / "plan.nii.gz").get_data_dtype() == np.uint8
    # The same content is the same file, wherever and whenever it is written.
    write_volume(tmp_path / "again.nii.gz", density > 0.5, like)
    assert sha256(tmp_path / "again.nii.gz") == sha256(tmp_path / "plan.nii.gz")


def test_writing_is_atomic_and_checked(tmp_path, monkeypatch):
    like = Volume(np.zeros(SHAPE, np.uint8), FLIPPED)
    write_volume(tmp_path / "a.nii.gz", np.ones(SHAPE, bool), like)
    before = sha256(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"shape \(3, 3, 3\)"):
        write_volume(tmp_path / "a.nii.gz", np.ones((3, 3, 3)), like)
    with pytest.raises(ValueError, match="do not fit uint8"):
        write_volume(tmp_path / "a.nii.gz", np.full(SHAPE, 300), like)
    with pytest.raises(ValueError, match="does not end in"):
        write_volume(tmp_path / "a.mha", np.ones(SHAPE), like)

    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write_volume(tmp_path / "a.nii.gz", np.zeros(SHAPE), like)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert sha256(tmp_path / "a.nii.gz") == before


def test_labels():
    assert parse_labels(["core=1,4", " edema = 2 "]) == {"core": (1, 4), "edema": (2,)}
    assert parse_labels([]) == {}
    for item in ("core", "core=", "=1", "core=1,", "core=a", "core=0", "core=-1", "core=1.5", "core=\u0662"):
        with pytest.raises(InputError, match=f"got '{re.escape(item)}'; write NAME=LABEL"):
            parse_labels([item])
    for items in (["core=1", "core=2"], ["core=1", "edema=1"], ["core=1,1"]):
        with pytest.raises(InputError, match="repeats"):
            parse_labels(items)
    with pytest.raises(InputError, match="got the name 'tumor'; known are core, edema"):
        parse_labels(["tumor=1"], allowed=("core", "edema"))


@pytest.mark.parametrize("source", [FLIPPED, PERMUTED, oblique(), oblique((0.8, 1.1, 1.4))])
@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        (np.diag([0.8, 0.8, 0.8, 1.0]), ["linear"]),
        (FLIPPED @ np.diag([0.5, 0.5, 0.4, 1]), ["linear"]),
        (oblique((1.5, 1.0, 0.7), (0.9, 0.3)), ["linear"]),
        # On parallel axes the averages that coarser voxels need are exact for whole blocks only.
        (oblique((2.0, 2.0, 2.0), (0.9, 0.3)), ["linear", "mean"]),
    ],
)
def test_linear_ramp_is_exact_in_any_orientation(source, target, kinds):
    grid = Grid((40, 36, 30), source)
    aim = Grid((5, 6, 4), target)
    shift = grid.to_world((np.array(grid.shape) - 1) / 2) - aim.to_world((np.array(aim.shape) - 1) / 2)
    affine = np.array(target)
    affine[:3, 3] += shift
    aim = Grid(aim.shape, affine)
    for kind in kinds:
        image = resample(ramp(grid), grid.affine, aim, kind=kind)
        assert image.dtype == np.float32
        np.testing.assert_allclose(image, ramp(aim), atol=2e-4)


def test_block_mean_is_exact():
    source = Grid(SHAPE, FLIPPED @ np.diag([1, 1 / 1.5, 0.5, 1]))
    data = np.random.default_rng(0).integers(0, 2, SHAPE)
    aim = source.with_spacing(2.0)
    expected = data.reshape(6, 2, 7, 2, 5, 2).mean((1, 3, 5))
    for kind in ("linear", "mean"):
        np.testing.assert_array_equal(resample(data, source.affine, aim, kind=kind), expected)
    # Nine layers are no multiple: the last new one lies half outside, where there is nothing.
    odd = resample(data[:, :, :9], source.affine, Grid((SHAPE[0], SHAPE[1], 9), source.affine).with_spacing(2.0))
    np.testing.assert_array_equal(odd[..., 4], data[:, :, 8].reshape(6, 2, 7, 2).mean((1, 3)) / 2)


@pytest.mark.parametrize("affine", [FLIPPED, PERMUTED, oblique((1.0, 1.2, 0.9))])
@pytest.mark.parametrize("spacing", [1.6, 2.0, 3.7])
def test_volume_of_a_mask_is_conserved(affine, spacing):
    grid = Grid((60, 50, 56), affine)
    centre = grid.to_world((np.array(grid.shape) - 1) / 2)
    mask = ball(grid, centre, 14.3)
    for target in (np.diag([spacing, spacing, spacing, 1.0]), oblique((spacing, spacing, spacing))):
        count = int(72 / spacing)
        target[:3, 3] = centre - target[:3, :3] @ np.full(3, (count - 1) / 2)
        aim = Grid((count, count, count), target)
        fraction = resample(mask, grid.affine, aim, kind="mean")
        assert fraction.min() >= 0
        assert fraction.max() <= 1 + 1e-6
        volume = mask.sum() * grid.voxel_volume
        assert fraction.sum() * aim.voxel_volume == pytest.approx(volume, rel=0.005)
        back = to_voxels(fraction, aim, Volume(mask, grid.affine))
        assert back.sum() * grid.voxel_volume == pytest.approx(volume, rel=0.01)


@pytest.mark.parametrize("target", [np.eye(4), oblique()])
def test_nearest_keeps_labels_and_outside_is_zero(target):
    labels = np.full(SHAPE, 7, np.uint16)
    labels[4:8, 5:9, 3:7] = 300
    affine = np.array(target)
    affine[:3, 3] -= affine[:3, :3] @ np.array([3.0, 3.0, 3.0])
    aim = Grid((24, 24, 20), affine)
    image = resample(labels, target, aim, kind="nearest")
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[3:15, 3:17, 3:13], labels)
    assert image.sum() == labels.sum(dtype=int)
    assert resample(labels > 7, target, aim, kind="nearest").dtype == bool
    smooth = resample(labels, target, aim, kind="linear")
    np.testing.assert_allclose(smooth[3:15, 3:17, 3:13], labels, rtol=1e-5)
    assert smooth[:2].max() == 0


def test_resample_refuses():
    with pytest.raises(ValueError, match="got 'cubic'"):
        resample(np.ones(SHAPE), np.eye(4), Grid(SHAPE, np.eye(4)), kind="cubic")
    with pytest.raises(ValueError, match=r"got shape \(3, 3\)"):
        resample(np.ones((3, 3)), np.eye(4), Grid(SHAPE, np.eye(4)))


def test_overlap_in_the_world():
    data = np.zeros((20, 20, 20))
    data[5:15, 5:15, 5:15] = 1
    image = Volume(data, np.eye(4))
    assert world_overlap(image, image) == 1
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 19
    assert world_overlap(image, Volume(data, flipped)) == 1
    shifted = np.eye(4)
    shifted[1, 3] = 5
    assert world_overlap(image, Volume(data, shifted)) == pytest.approx(0.5)
    shifted[1, 3] = 100
    assert world_overlap(image, Volume(data, shifted)) == 0
    with pytest.raises(InputError, match="is zero everywhere"):
        world_overlap(image, Volume(0 * data, np.eye(4)))


def test_real_images_share_the_world(data):
    atlas = read_volume(data / "atlas_sri24" / "t1.nii.gz", name="atlas")
    assert atlas.data.shape == (240, 240, 155)
    patient = read_volume(data / "patient_mri" / "segmentation.nii.gz", name="segmentation")
    assert world_overlap(patient, atlas) == 1
    grid = patient.grid.with_spacing(2.0)
    fraction = resample(patient.data > 0, patient.affine, grid, kind="mean")
    assert fraction.sum() * 8 == pytest.approx((patient.data > 0).sum(), rel=1e-6)
    assert to_voxels(fraction, grid, patient).sum() == pytest.approx((patient.data > 0).sum(), rel=1e-3)
