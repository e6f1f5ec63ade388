"""Known deformations are recovered, inverted, composed and stored in files; impossible ones are refused."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from tests.test_registration import affine_map, shrunk
from tumorjax.atlas import load_atlas
from tumorjax.grid import Grid
from tumorjax.io import InputError, Volume
from tumorjax.registration import (
    ENGINES,
    Field,
    RegistrationWarning,
    Transform,
    check_engine,
    compose,
    invert,
    jacobian_determinant,
    load_transform,
    register,
    save_transform,
    warp,
    warp_all,
)
from tumorjax.registration.inverse import fading, with_inverse
from tumorjax.registration.transform import count_folds

SPACING = 3.0
COARSE = 4.0


@pytest.fixture(scope="module")
def t1():
    return shrunk(load_atlas("icbm152").t1, SPACING)


def known_field(grid, amplitude=6.0):
    """Waves of 100 mm with a gradient below one half, so one to one."""
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    waves = np.stack([np.sin(world[..., (i + 1) % 3] / 16 + i) * np.cos(world[..., i] / 20) for i in range(3)], axis=-1)
    return with_inverse(fading(amplitude / np.sqrt(3) * waves), np.asarray(grid.affine))


@pytest.fixture(scope="module")
def known(t1):
    return Transform(np.eye(4), field=known_field(t1.grid))


@pytest.fixture(scope="module")
def deformed(t1, known):
    """The average brain, deformed like another person's."""
    return replace(t1, data=warp(t1, known, t1.grid), name="patient")


@pytest.fixture(scope="module")
def found(t1, deformed, known):
    labels = tissue_labels(load_atlas("icbm152"))
    fixed = replace(labels, data=warp(labels, known, labels.grid, kind="label"))
    return register(t1, deformed, kind="deformable", resolution=COARSE, labels=(labels, fixed))


def tissue_labels(atlas):
    maps = [shrunk(v, SPACING) for v in (atlas.csf, atlas.grey_matter, atlas.white_matter)]
    data = np.select([m.data > 0.5 for m in maps], [1, 2, 3], 0).astype(np.uint8)
    return Volume(data, maps[0].affine, name="tissue")


def bright(volume):
    return volume.grid.to_world(np.argwhere(volume.data > 0.3).astype(float)[::7])


def some_points(field, number=500):
    """Points of the lattice's interior."""
    rng = np.random.default_rng(0)
    index = (0.2 + 0.6 * rng.random((number, 3))) * np.array(field.shape)
    return index @ field.affine[:3, :3].T + field.affine[:3, 3]


def test_recovers_a_known_deformation(t1, deformed, known, found):
    points = bright(deformed)
    truth = known.apply(points)
    before = np.linalg.norm(truth - points, axis=1).mean()
    after = np.linalg.norm(truth - found.apply(points), axis=1).mean()
    assert before > 2.5
    # A quarter of a voxel.
    assert after < 1.2
    assert found.after > 0.99 > found.before
    assert not found.failure
    assert found.folds == 0
    assert found.inverse_error[0] < 0.05


def test_bitwise_the_same_again(t1, deformed, found):
    again = register(t1, deformed, kind="deformable", resolution=COARSE, initial=found)
    np.testing.assert_array_equal(again.matrix, found.matrix)
    np.testing.assert_array_equal(again.field.forward, found.field.forward)
    np.testing.assert_array_equal(again.field.backward, found.field.backward)
    assert again.after == found.after


def test_a_tumour_outside_the_mask_does_no_harm(t1, deformed, known):
    centre = np.array([-30.0, -5.0, 35.0])
    index = np.moveaxis(np.indices(deformed.data.shape), 0, -1).astype(float)
    distance = np.linalg.norm(deformed.grid.to_world(index) - centre, axis=-1)
    tumour = distance < 18
    sick = replace(deformed, data=np.where(tumour, 0.05, deformed.data).astype(np.float32))
    near = deformed.grid.to_world(np.argwhere(distance < 25).astype(float))
    wrong = {}
    for name, mask in (("masked", ~tumour), ("seen", None)):
        found = register(t1, sick, kind="deformable", resolution=COARSE, mask=mask, initial=Transform(np.eye(4)))
        wrong[name] = np.linalg.norm(found.apply(near) - known.apply(near), axis=1).mean()
    assert wrong["masked"] < 2.0
    assert wrong["masked"] < 0.6 * wrong["seen"]


@pytest.fixture(scope="module")
def pushed(t1):
    """A tumour of 24 mm that has pushed tissue aside, in a brain whose lower part its mask cuts off; and the truth."""
    world = t1.grid.to_world(np.moveaxis(np.indices(t1.data.shape), 0, -1).astype(float))
    away = world - np.array([-30.0, -5.0, 25.0])
    distance = np.linalg.norm(away, axis=-1)
    push = -away * (0.55 * np.exp(-((distance / 28) ** 2) / 2))[..., None]
    known = Transform(np.eye(4), field=with_inverse(fading(push), np.asarray(t1.grid.affine)))
    cut = world[..., 2] < -25
    seen = np.where(distance < 24, 0.05, np.where(cut, 0, warp(t1, known, t1.grid)))
    near = world[(distance > 30) & (t1.data > 0.3) & (world[..., 2] > -15)]
    return replace(t1, data=seen.astype(np.float32), name="patient"), distance >= 28, known, near


@pytest.mark.parametrize(("engine", "accuracy"), [("greedy", 0.35), ("demons", 0.6)])
def test_no_deformation_folds_beside_a_large_tumour(t1, pushed, engine, accuracy, monkeypatch):
    fixed, mask, known, points = pushed
    raw = []

    def deform(pair, own=ENGINES[engine].deform):
        raw.append(own(pair))
        return raw[-1]

    monkeypatch.setitem(ENGINES, engine, replace(ENGINES[engine], deform=deform))
    start = Transform(np.eye(4))
    found = register(t1, fixed, kind="deformable", engine=engine, mask=mask, resolution=COARSE, initial=start)
    lattice = np.diag([COARSE, COARSE, COARSE, 1.0])
    folds = count_folds(Field(lattice, raw[0], np.zeros_like(raw[0])))
    # The case is one in which demons folds, so its deformation is weakened.
    assert (folds > 0) == (found.weakened > 0) == (engine == "demons")
    assert not found.failure
    assert found.folds == 0
    assert count_folds(found.field) == 0
    grid = Grid(found.field.shape, found.field.affine)
    assert jacobian_determinant(found, grid).min() > 0.05
    assert found.inverse_error[0] < 0.01 and found.inverse_error[1] < 0.1
    there = found.apply(points)
    # Between the points of the lattice both are interpolated.
    np.testing.assert_allclose(found.inverse().apply(there), points, atol=COARSE / 8)
    error, before = (np.linalg.norm(each - known.apply(points), axis=1).mean() for each in (there, points))
    assert error < accuracy * before


def test_engines_are_chosen_by_name(t1):
    for name in ("elastix", "simpleitk"):
        with pytest.raises(InputError, match=f"registration: got '{name}'; give greedy, demons, ants, ants-published"):
            check_engine(name)
    check_engine("greedy")
    check_engine("demons")
    if importlib.util.find_spec("ants") is None:
        for name in ("ants", "ants-published"):
            with pytest.raises(InputError, match=r"which is not installed: pip install 'tumorjax\[ants\]'") as caught:
                check_engine(name)
            assert "\n" not in str(caught.value)


def test_labels_come_closer(found):
    assert set(found.dice_before) == set(found.dice_after) == {1, 2, 3}
    assert all(found.dice_after[label] > found.dice_before[label] + 0.05 for label in (1, 2, 3))
    assert min(found.dice_after[label] for label in (2, 3)) > 0.85


def test_other_contrasts_are_refused(t1, deformed):
    inverted = np.where(deformed.data > 0.1, 1.2 - deformed.data, 0).clip(0).astype(np.float32)
    start = Transform(np.eye(4))
    with pytest.warns(RegistrationWarning):
        found = register(t1, replace(deformed, data=inverted), kind="deformable", resolution=COARSE, initial=start)
    assert found.failure
    assert found.field is None
    # The outline of the brain correlates whatever is inside.
    rng = np.random.default_rng(0)
    noise = np.where(deformed.data > 0.1, 0.8 + 0.1 * rng.random(deformed.data.shape), 0).astype(np.float32)
    with pytest.warns(RegistrationWarning, match=r"deep inside correlate by .*, so their contrasts differ"):
        found = register(t1, replace(deformed, data=noise), kind="deformable", resolution=COARSE, initial=start)
    assert found.field is None
    np.testing.assert_array_equal(found.matrix, np.eye(4))


def test_inverse(known):
    points = some_points(known.field)
    there = known.apply(points)
    assert np.linalg.norm(there - points, axis=1).max() > 3
    np.testing.assert_allclose(known.inverse().apply(there), points, atol=0.05)
    tilted = compose(Transform(affine_map()), known)
    np.testing.assert_allclose(invert(tilted).apply(tilted.apply(points)), points, atol=0.05)
    again = invert(invert(tilted))
    np.testing.assert_allclose(again.apply(points), tilted.apply(points), atol=1e-3)


def test_composition_is_one_map_after_the_other(known):
    points = some_points(known.field)
    a, linear = Transform(affine_map(shift=(1.0, 2.0, -3.0)), field=known.field), Transform(affine_map())
    b = Transform(
        np.linalg.inv(affine_map(angles=(0.05, 0.02, 0.0))),
        field=known_field(Grid((70, 80, 60), np.asarray(Grid.from_spacing((70, 80, 60), 3.5).affine)), amplitude=3.0),
    )
    for first, last in ((linear, a), (a, linear), (linear, linear)):
        np.testing.assert_allclose(compose(last, first).apply(points), last.apply(first.apply(points)), atol=1e-3)
    both = compose(a, b)
    np.testing.assert_allclose(both.apply(points), a.apply(b.apply(points)), atol=0.3)
    np.testing.assert_allclose(invert(both).apply(both.apply(points)), points, atol=0.3)


def test_jacobian_of_known_maps():
    grid = Grid.from_spacing((20, 22, 24), 4.0)
    matrix = affine_map()
    np.testing.assert_allclose(jacobian_determinant(Transform(matrix), grid), np.linalg.det(matrix[:3, :3]), rtol=1e-10)
    # x -> x (1 + a x / 2) along the first axis, whose determinant is 1 + a x.
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    forward = np.zeros((*grid.shape, 3))
    forward[..., 0] = 0.01 * world[..., 0] ** 2 / 2
    bent = Transform(np.eye(4), field=Field(np.asarray(grid.affine), forward, -forward))
    inner = jacobian_determinant(bent, grid)[1:-1]
    np.testing.assert_allclose(inner, 1 + 0.01 * world[1:-1, ..., 0], atol=1e-4)
    forward[..., 0] = -1.5 * world[..., 0]
    folded = Transform(np.eye(4), field=Field(np.asarray(grid.affine), forward, -forward))
    np.testing.assert_allclose(jacobian_determinant(folded, grid), -0.5, atol=1e-4)


@pytest.mark.parametrize("oblique", [False, True])
def test_files(tmp_path, known, oblique):
    transform = replace(known, before=0.5, after=0.9, seconds=2.0, dice_after={1: 0.5, 2: 0.7}, failure="perhaps")
    if oblique:
        transform = invert(compose(Transform(affine_map()), transform))
    path = tmp_path / "there.tfm"
    save_transform(path, transform)
    again = load_transform(path)
    np.testing.assert_array_equal(again.matrix, transform.matrix)
    np.testing.assert_array_equal(again.field.forward, transform.field.forward)
    np.testing.assert_allclose(again.field.affine, transform.field.affine, atol=1e-9)
    if not oblique:
        np.testing.assert_array_equal(again.field.backward, transform.field.backward)
    points = some_points(transform.field)
    np.testing.assert_allclose(invert(again).apply(again.apply(points)), points, atol=0.05)
    assert (again.dice_after, again.failure) == (transform.dice_after, transform.failure)
    assert again.after == pytest.approx(transform.after, nan_ok=True)
    # ITK's world is LPS.
    itk, lps = sitk.ReadTransform(str(path)), np.array([-1.0, -1.0, 1.0])
    points = some_points(transform.field, 50)
    theirs = [itk.TransformPoint((point * lps).tolist()) for point in points]
    np.testing.assert_allclose(np.array(theirs) * lps, transform.apply(points), atol=1e-4)
    assert [each.name for each in tmp_path.iterdir()] == ["there.tfm"]


def test_reads_what_itk_writes(tmp_path):
    matrix = affine_map()
    lps = np.diag([-1.0, -1.0, 1.0])
    theirs = sitk.AffineTransform(3)
    theirs.SetCenter((10.0, 20.0, 30.0))
    theirs.SetMatrix((lps @ matrix[:3, :3] @ lps).ravel().tolist())
    theirs.SetTranslation((1.0, 2.0, 3.0))
    sitk.WriteTransform(theirs, str(tmp_path / "affine.tfm"))
    point = np.array([5.0, -7.0, 9.0])
    expected = lps @ theirs.TransformPoint((lps @ point).tolist())
    np.testing.assert_allclose(load_transform(tmp_path / "affine.tfm").apply(point), expected, atol=1e-9)


def test_bad_files(tmp_path, known):
    path = tmp_path / "t.tfm"
    with pytest.raises(InputError, match="does not exist"):
        load_transform(path)
    with pytest.raises(ValueError, match=r"does not end in .tfm or .txt"):
        save_transform(tmp_path / "t.h5", known)
    save_transform(path, known)
    written = path.read_text().splitlines(keepends=True)
    # As another program's, without the checksum.
    good = "".join([written[0], *written[2:]])
    path.write_text(good)
    np.testing.assert_array_equal(load_transform(path).field.forward, known.field.forward)
    sizes = "FixedParameters: " + " ".join(map(repr, map(float, known.field.shape)))
    assert sizes in good
    for bad, why in (
        ("", "does not begin with"),
        ("\x89HDF", "does not begin with"),
        ("#Insight Transform File V1.0\n", "holds nothing"),
        (good[: len(good) // 2], "FixedParameters"),
        (good.replace(sizes, "FixedParameters: 1e9 1e9 1e9"), "numbers, expected 3000000000000000000000000000"),
        (good.replace(sizes, "FixedParameters: 2.5 1e9 1e9"), "a field of"),
        (good.replace("AffineTransform", "BSplineTransform"), "holds BSplineTransform"),
        (good.replace("Parameters: 1.0 0.0 0.0", "Parameters: 0.0 0.0 0.0", 1), "singular"),
        (good.replace("Parameters: 1.0 0.0 0.0", "Parameters: nan 0.0 0.0", 1), "NaN or infinite"),
        (good.replace('"before"', '"behind"'), "measured values"),
        (good.replace("#Measured: ", "#Measured: [1] "), "is not a usable transform"),
        (good.replace("#Measured: ", "#Measured: " + 50_000 * "["), "nested too deeply"),
        (good.replace('"dice_before": null', '"dice_before": [1]'), r"measured dice_before is \[1\]"),
        (good.replace('"folds": 0', '"folds": 1e400'), "measured folds is inf"),
        (good.replace('"inverse_error": [', '"inverse_error": [3, '), "is not a usable transform"),
        (good.replace('"measure": "', '"measure": 7, "failure": "'), "measured measure is 7"),
        ("".join(written).replace("Parameters: 1.0 0.0 0.0", "Parameters: 1.0 0.0 0.1", 1), "not as it was written"),
        ("".join(written[:2]) + "x", "not as it was written"),
    ):
        path.write_text(bad, encoding="latin1")
        with pytest.raises(InputError, match=why) as caught:
            load_transform(path)
        assert "\n" not in str(caught.value)


def test_no_flipped_bit_gives_another_map(tmp_path, known):
    path, random = tmp_path / "t.tfm", np.random.default_rng(0)
    save_transform(path, known)
    content, points = path.read_bytes(), some_points(known.field)
    assert content.startswith(b"#Insight Transform File V1.0\n#SHA256: ")
    # The header's bytes, and some of the numbers.
    places = [*range(0, 300, 11), *random.integers(len(content), size=20)]
    refused = 0
    for position in places:
        flipped = bytearray(content)
        flipped[position] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            found = load_transform(path)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(found.apply(points), known.apply(points))
    # Of one whose mark of the checksum is hit, nothing else is.
    assert refused >= len(places) - 3


def test_warped_labels_are_those_that_were_there():
    labels = np.zeros((24, 24, 24), np.int16)
    labels[4:20, 4:20, 4:20], labels[12] = 7, 300
    volume = Volume(labels, np.eye(4), name="labels")
    grid = Grid.from_spacing((30, 30, 30), 1.0)
    turned = Transform(affine_map(scales=(1, 1, 1), shift=(11.5, 11.5, 11.5)))
    new = warp(volume, turned, grid, kind="label")
    assert new.dtype == np.int16
    assert set(np.unique(new)) == {0, 7, 300}
    same = Grid(labels.shape, np.eye(4))
    np.testing.assert_array_equal(warp(volume, Transform(np.eye(4)), same, kind="label"), labels)
    with pytest.raises(ValueError, match="no labels"):
        warp(replace(volume, data=labels + 0.5), turned, grid, kind="label")
    with pytest.raises(ValueError, match="'label', got 'cubic'"):
        warp(volume, replace(turned, field=known_field(grid, 0.5)), grid, kind="cubic")


def test_thin_layers_survive_in_labels():
    # Two layers of one voxel each, brought to voxels twice as large, of which each fills half.
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[15], labels[16] = 1, 2
    volume = Volume(labels, np.eye(4), name="layers")
    grid = volume.grid.with_spacing(2.0).crop((0, 0, 0), (16, 16, 16))
    shifted = np.eye(4)
    shifted[0, 3] = 0.75
    kept = warp(volume, Transform(shifted), grid, kind="label")
    assert (kept != 0).sum() * 8 == pytest.approx((labels != 0).sum(), rel=0.01)
    assert set(np.unique(kept)) <= {0, 1, 2}


def test_images_warped_together_are_those_warped_one_by_one(t1, known):
    images = [t1, replace(t1, data=t1.data**2), replace(t1, data=(t1.data > 0.3).astype(np.uint8))]
    for kind in ("linear", "mean", "nearest"):
        for one, other in zip(images, warp_all(images, known, t1.grid, kind=kind), strict=True):
            np.testing.assert_array_equal(warp(one, known, t1.grid, kind=kind), other)
            assert other.dtype == (one.data.dtype if kind == "nearest" else np.float32)
    with pytest.raises(ValueError, match="on the same voxels; warp them one by one"):
        warp_all([t1, replace(t1, affine=2 * t1.affine)], known, t1.grid)


def test_warp_through_a_field_is_interpolation_at_the_mapped_points(t1, known):
    tilted = Transform(affine_map(scales=(1, 1, 1), shift=(2, 3, -4)), field=known.field)
    grid = Grid((20, 22, 18), np.array(shrunk(t1, 4.0).affine) + np.array([[0, 0, 0, 50.0]] * 3 + [[0] * 4]))
    fine = Grid(grid.shape, grid.affine @ np.diag([0.5, 0.5, 0.5, 1.0]))
    points = fine.to_world(np.moveaxis(np.indices(fine.shape), 0, -1).astype(float))
    index = np.moveaxis(t1.grid.to_index(tilted.apply(points)), -1, 0)
    from scipy import ndimage

    expected = ndimage.map_coordinates(t1.data, index, order=1)
    np.testing.assert_allclose(warp(t1, tilted, fine), expected, atol=2e-3)
    # A mask's volume changes by the Jacobian determinant of the inverse.
    ball = (np.linalg.norm(np.moveaxis(np.indices(t1.data.shape), 0, -1) - 32, axis=-1) < 12).astype(np.uint8)
    shown = warp(Volume(ball, t1.affine), known, t1.grid, kind="mean")
    growth = jacobian_determinant(known.inverse(), t1.grid)[ball > 0].mean()
    assert shown.sum() == pytest.approx(ball.sum() * growth, rel=0.01)
    assert abs(growth - 1) > 0.02
    assert set(np.unique(warp(Volume(ball * 9, t1.affine), known, t1.grid, kind="nearest"))) == {0, 9}


@pytest.mark.parametrize("angle", (0.0, 0.3))
def test_a_field_is_taken_at_points_where_voxels_are_larger_than_its_own(angle):
    random = np.random.default_rng(0)
    forward = np.zeros((32, 32, 32, 3))
    forward[2:-2, 2:-2, 2:-2] = random.uniform(-1.5, 1.5, (28, 28, 28, 3))
    map_ = Transform(np.eye(4), field=Field(np.eye(4), forward, -forward))
    turned = np.diag([4.0, 4.0, 4.0, 1.0])
    turned[:2, :2] = 4 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned[:3, 3] = [9.0, 2.0, 3.0]
    grid = Grid((5, 5, 7), turned)
    # Brightness that is linear in the place, so that it says where a point has been mapped to.
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -8.0
    places = np.moveaxis(np.indices((12, 12, 12)), 0, -1) * 4.0 - 8.0
    wanted = map_.apply(np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))))
    for axis in range(3):
        image = Volume(places[..., axis].astype(np.float32), affine)
        np.testing.assert_allclose(warp(image, map_, grid), wanted[..., axis], atol=1e-3)
    labels = Volume(np.arange(12**3).reshape(12, 12, 12), affine)
    index = np.round((wanted + 8) / 4).astype(int)
    np.testing.assert_array_equal(
        warp(labels, map_, grid, kind="nearest"), labels.data[tuple(np.moveaxis(index, -1, 0))]
    )


def test_refuses(t1, monkeypatch):
    mask = replace(t1, data=t1.data > 0.1)
    with pytest.raises(ValueError, match="no structure inside a brain to deform it by"):
        register(mask, mask, kind="deformable", fixed_is_mask=True)
    if importlib.util.find_spec("ants") is None:
        with pytest.raises(ValueError, match=r"pip install 'tumorjax\[ants\]'"):
            register(t1, t1, kind="deformable", engine="ants", initial=Transform(np.eye(4)), resolution=6.0)
    for forward in (np.zeros((3, 3, 3)), np.full((3, 3, 3, 3), np.nan)):
        with pytest.raises(ValueError, match="displacement field has"):
            Field(np.eye(4), forward, forward)
    with pytest.raises(ValueError, match="points have three coordinates"):
        Transform(np.eye(4)).apply(np.zeros((5, 2)))


def test_syn(t1, deformed, known):
    pytest.importorskip("ants", reason="needs antspyx: pip install 'tumorjax[ants]'")
    start = Transform(np.eye(4))
    found = register(t1, deformed, kind="deformable", engine="ants", resolution=COARSE, initial=start)
    points = bright(deformed)
    error = np.linalg.norm(known.apply(points) - found.apply(points), axis=1).mean()
    assert error < 0.5 * np.linalg.norm(known.apply(points) - points, axis=1).mean()
    assert not found.failure
