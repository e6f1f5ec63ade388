"""A patient made from the ICBM152 average: the anatomy, and refused input."""

import re
from dataclasses import replace

import jax
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tumorjax.atlas import load_atlas
from tumorjax.cellularity import ADC_LAWS
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, MassEffect
from tumorjax.io import InputError, Volume, fill_holes, read_volume, resample, sha256, write_volume
from tumorjax.methods import LBFGS
from tumorjax.patient import load_patient
from tumorjax.patient.alignment import align_atlas
from tumorjax.patient.frame import frame_of, notes_on_borders
from tumorjax.patient.head import brain_in_head
from tumorjax.patient.images import Brain
from tumorjax.patient.tissue import fill_lesion, stripped_brain
from tumorjax.pipeline.problems import notes_on_adc, notes_on_size, observations_of, problem_of, solved_by
from tumorjax.pipeline.rehearsal import Rehearsal
from tumorjax.planning import dice
from tumorjax.quality import Status, status_of
from tumorjax.registration import Transform, register, save_transform

SPACING = 3.0
# In the white matter of the left hemisphere, and of the size of a walnut, mm.
CENTRE, CORE, WHOLE = np.array([-30.0, -5.0, 35.0]), 9.0, 16.0


def save(folder, name, data, affine):
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.float32) if data.dtype.kind == "f" else data, affine), path)
    return path


@pytest.fixture(scope="module")
def healthy():
    """Maps of the average brain on coarse voxels, and the distance from a tumour's centre."""
    atlas = load_atlas("icbm152")
    grid = atlas.t1.grid.with_spacing(SPACING)
    images = {
        "t1": atlas.t1,
        "white_matter": atlas.white_matter,
        "grey_matter": atlas.grey_matter,
        "csf": atlas.csf,
    }
    maps = {name: resample(image.data, image.affine, grid) for name, image in images.items()}
    maps["brain_mask"] = (resample(atlas.brain.data, atlas.brain.affine, grid) >= 0.5).astype(np.uint8)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    maps["distance"] = np.linalg.norm(grid.to_world(index.astype(float)) - CENTRE, axis=-1)
    maps["affine"] = np.asarray(grid.affine)
    return maps


def labelled(distance, core=1, edema=2):
    return np.select([distance <= CORE, distance <= WHOLE], [core, edema], 0).astype(np.uint8)


@pytest.fixture(scope="module")
def files(healthy, tmp_path_factory):
    """Paths of a complete patient, by the arguments' names."""
    folder, affine, distance = tmp_path_factory.mktemp("patient"), healthy["affine"], healthy["distance"]
    names = ("t1", "white_matter", "grey_matter", "csf", "brain_mask")
    paths = {name: save(folder, name, healthy[name], affine) for name in names}
    paths["segmentation"] = save(folder, "segmentation", labelled(distance), affine)
    paths["pet"] = save(folder, "pet", np.where(distance <= WHOLE, 1000.0 + distance, 0.0), affine)
    tissue = np.select([healthy[name] > 0.5 for name in ("csf", "grey_matter", "white_matter")], [1, 2, 3], 0)
    paths["tissue"] = save(folder, "tissue", tissue.astype(np.uint8), affine)
    return paths


def given(files, *names, **other):
    known = {"segmentation": files["segmentation"], "labels": "brats2021", "resolution": SPACING}
    return known | {n: files[n] for n in names} | other


MAPS = ("white_matter", "grey_matter", "csf")


def test_an_atlas_behind_an_affine_map_covers_the_patient_with_sheared_voxels():
    sheared = np.diag([4.0, 4.0, 4.0, 1.0])
    sheared[0, 1] = 0.6
    brain = Brain(Volume(np.ones((10, 10, 10), bool), sheared, name="brain"))
    lesion = np.zeros((8, 8, 8), bool)
    lesion[3:5, 3:5, 3:5] = True
    outlined = Volume(lesion.astype(np.uint8), np.diag([4.0, 4.0, 4.0, 1.0]), name="segmentation")
    frame, box = frame_of(outlined, lesion, brain, [])
    np.testing.assert_array_equal(frame.data[box], outlined.data)
    # The last corner of the brain, half a voxel beyond its centre, lies in the image.
    last = np.linalg.inv(frame.affine) @ sheared @ [9.5, 9.5, 9.5, 1]
    assert (last[:3] < np.array(frame.data.shape)).all()
    (note,) = notes_on_borders(outlined, lesion, lesion, brain)
    assert "ends 10 mm from the core" in note


def assert_tissue_of_the_maps(patient, white, atol):
    """The anatomy's white matter is that of the maps: the tumour above touches fluid at its rim alone."""
    np.testing.assert_allclose(patient.anatomy.white_matter, white, atol=atol)


def test_everything_given(files, healthy):
    said = []
    patient = load_patient(**given(files, *MAPS, "t1", "pet", "brain_mask"), progress=said.append)
    grid = patient.anatomy.grid
    assert patient.core.sum() == (healthy["distance"] <= CORE).sum()
    assert patient.lesion.sum() == (healthy["distance"] <= WHOLE).sum()
    np.testing.assert_array_equal(patient.brain, healthy["brain_mask"] > 0)
    np.testing.assert_allclose(patient.background, healthy["t1"], atol=1e-6)
    # The computing grid is the patient's, cut down to the brain.
    offset = np.asarray(patient.reference.grid.to_index(grid.to_world(np.zeros(3))))
    np.testing.assert_allclose(offset, np.round(offset), atol=1e-9)
    box = tuple(slice(int(first), int(first) + n) for first, n in zip(np.round(offset), grid.shape, strict=True))
    inside = np.where(healthy["brain_mask"][box] > 0, healthy["white_matter"][box], 0)
    assert_tissue_of_the_maps(patient, inside, atol=1e-6)
    assert healthy["brain_mask"][box].sum() == healthy["brain_mask"].sum()
    np.testing.assert_allclose(patient.lesion_fraction, patient.lesion[box], atol=1e-6)
    assert patient.anatomy.dtype == patient.core_fraction.dtype == patient.lesion_fraction.dtype == np.float32
    np.testing.assert_array_equal(patient.pet_mask, patient.lesion[box])
    np.testing.assert_allclose(
        patient.pet[patient.pet_mask], 1000 + healthy["distance"][box][patient.pet_mask], rtol=1e-6
    )
    assert patient.notes == []
    assert patient.transform is None
    assert patient.hashes["segmentation"] == sha256(files["segmentation"])
    assert set(patient.hashes) == {"segmentation", "T1", "PET", "white matter", "grey matter", "CSF", "brain mask"}
    assert said == ["reading images", "resampling the images to one grid"]


def test_a_calibration_can_be_compiled_before_the_tissue_is_known(files):
    given, early = {name: files[name] for name in ("segmentation", "white_matter", "grey_matter", "csf")}, []
    patient = load_patient(**given, brain_mask=files["brain_mask"], resolution=8.0, early=early.append)
    (known,) = early
    before, after = (problem_of(each) for each in (known(), patient))
    # A program is compiled once for all problems of one structure and these shapes.
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert [np.shape(leaf) for leaf in jax.tree.leaves(before)] == [np.shape(leaf) for leaf in jax.tree.leaves(after)]
    assert np.asarray(before.anatomy.white_matter).sum() > np.asarray(after.anatomy.white_matter).sum()


def test_nothing_is_known_early_of_a_brain_that_the_tissue_defines(files):
    early = []
    given = {name: files[name] for name in ("segmentation", "white_matter", "grey_matter")}
    load_patient(**given, resolution=8.0, early=early.append)
    assert early[0]() is None


def test_a_rehearsal_compiles_what_the_search_needs_and_keeps_its_errors_to_itself(files):
    patient = load_patient(**{name: files[name] for name in ("segmentation", "white_matter", "grey_matter")})
    seen = []

    class Rehearsed(LBFGS):
        def rehearse(self, problem):
            seen.append(problem.anatomy.grid.shape)
            raise ValueError("cannot be compiled")

    with Rehearsal(FisherKolmogorov(), Rehearsed()) as rehearsal:
        rehearsal.begin(lambda: patient)
        rehearsal.begin(lambda: None)
    # The search is rehearsed where it will be: near the lesion.
    near = solved_by(Rehearsed(), problem_of(patient)).anatomy.grid.shape
    assert seen == [near] and np.prod(near) < np.prod(patient.anatomy.grid.shape)
    with Rehearsal(MassEffect(), Rehearsed()) as rehearsal:
        rehearsal.begin(lambda: patient)
    assert len(seen) == 1


@pytest.mark.parametrize("resolution", [2.0, 4.0, 6.0])
def test_volumes_do_not_depend_on_the_resolution(files, healthy, resolution):
    patient = load_patient(**given(files, "tissue", resolution=resolution))
    voxel = float(patient.anatomy.grid.voxel_volume)
    for fraction, mask in ((patient.core_fraction, patient.core), (patient.lesion_fraction, patient.lesion)):
        assert fraction.sum() * voxel == pytest.approx(mask.sum() * SPACING**3, rel=1e-3)
    white = (healthy["white_matter"] > 0.5).sum() * SPACING**3
    assert patient.anatomy.white_matter.sum() * voxel == pytest.approx(white, rel=0.01)
    # A share of a label, not a vote.
    if resolution == 6.0:
        assert ((patient.anatomy.white_matter > 0.05) & (patient.anatomy.white_matter < 0.95)).sum() > 1000


def test_storage_order_does_not_matter(files, healthy, tmp_path):
    flip = np.diag([-1.0, -1, 1, 1])
    flip[:2, 3] = np.array(healthy["distance"].shape[:2]) - 1.0
    affine = healthy["affine"] @ flip
    # The segmentation alone is stored the other way round.
    turned = save(tmp_path, "segmentation", labelled(healthy["distance"])[::-1, ::-1], affine)
    there = load_patient(**given(files, *MAPS, "pet"))
    back = load_patient(**given(files, *MAPS, "pet", segmentation=turned))
    np.testing.assert_array_equal(back.lesion[::-1, ::-1], there.lesion)
    grid = back.anatomy.grid
    for name in ("white_matter", "csf"):
        moved = resample(getattr(there.anatomy, name), np.asarray(there.anatomy.grid.affine), grid)
        np.testing.assert_allclose(getattr(back.anatomy, name), moved, atol=1e-5)
    moved = resample(there.pet, np.asarray(there.anatomy.grid.affine), grid)
    np.testing.assert_allclose(back.pet, moved, rtol=1e-5, atol=1e-2)


def test_labels_of_another_convention(files, healthy, tmp_path):
    other = save(tmp_path, "segmentation", labelled(healthy["distance"], core=3, edema=1), healthy["affine"])
    patient = load_patient(**given(files, *MAPS, segmentation=other, labels={"core": (3,), "edema": (1,)}))
    assert patient.core.sum() == (healthy["distance"] <= CORE).sum()
    alone = load_patient(**given(files, *MAPS, segmentation=other, labels={"core": (3,)}))
    assert alone.lesion.sum() == alone.core.sum() == patient.core.sum()
    assert alone.notes[0].startswith("Label 1 of the segmentation (")


@pytest.mark.parametrize(
    ("labels", "core", "edema", "message"),
    [
        (
            None,
            2,
            3,
            r"segmentation .*: has labels that fit no convention; present are 2 \(\d+ voxels\), 3 \(\d+ voxels",
        ),
        (None, 0, 2, r"has no core label 1,4; present are 2 \(\d+ voxels\); give their meaning with --labels core=N,N"),
        (
            None,
            1,
            3,
            "has the labels 1, 3, which fit several conventions; give --labels brats2023 for .* or enhancing-f",
        ),
        (None, 2, 1, "which look like those of HD-GLIO .*: give --labels hd-glio"),
        ("brats22", 1, 2, "labels: got 'brats22'; give core=N,N edema=N, perhaps cavity=N, or one of brats2021,"),
        ({"core": (1,), "edema": (7,)}, 1, 2, "has no edema label 7"),
        ({"edema": (2,)}, 1, 2, "labels: got edema; give core and edema, as core=1,4 edema=2"),
        ({"core": (1,), "necrosis": (2,)}, 1, 2, "labels: got core, necrosis"),
        (None, 0, 0, "is empty"),
        (None, 1.5, 2, "has values such as 1.5 in 121 voxels that are no labels"),
        (None, -1, 2, "has values such as -1 that are no labels"),
    ],
)
def test_refuses_labels(files, healthy, tmp_path, labels, core, edema, message):
    distance = healthy["distance"]
    data = np.select([distance <= CORE, distance <= WHOLE], [float(core), float(edema)], 0.0)
    path = save(tmp_path, "other", data, healthy["affine"])
    with pytest.raises(InputError, match=message) as caught:
        load_patient(**given(files, *MAPS, segmentation=path, labels=labels))
    assert "\n" not in str(caught.value)


def test_a_convention_that_is_not_named_is_recognised(files, healthy, tmp_path):
    data = labelled(healthy["distance"])
    data[(healthy["distance"] <= CORE) & (healthy["distance"] > 4)] = 3
    path = save(tmp_path, "other", data, healthy["affine"])
    patient = load_patient(**given(files, *MAPS, segmentation=path, labels=None))
    assert patient.core.sum() == (healthy["distance"] <= CORE).sum()
    assert patient.notes[0].startswith("The labels are taken for those of BraTS 2023 (1 necrotic,")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"resolution": 0.4}, "resolution: got 0.4 mm; give 0.5 to 8"),
        ({"resolution": float("nan")}, "resolution: got nan mm"),
        ({"grey_matter": None, "csf": None}, "white and grey matter come together"),
        ({"white_matter": None, "grey_matter": None}, "white and grey matter come together"),
        ({"atlas": "icbm152"}, "tissue: got maps and an atlas; give one of them"),
        ({"white_matter": None, "grey_matter": None, "csf": None, "atlas": "colin"}, "atlas colin: unknown"),
        ({"segmentation": "nowhere.nii.gz"}, "segmentation nowhere.nii.gz: does not exist"),
    ],
)
def test_refuses_arguments(files, other, message):
    with pytest.raises(InputError, match=message):
        load_patient(**(given(files, *MAPS) | other))


@pytest.mark.parametrize("name", ["t1", "brain_mask", "pet", "tissue"])
def test_refuses_an_image_of_another_place(files, healthy, tmp_path, name):
    affine = np.array(healthy["affine"])
    affine[1, 3] += 300
    image = nib.load(files[name])
    moved = save(tmp_path, name, np.asanyarray(image.dataobj), affine)
    source = () if name == "tissue" else MAPS
    with pytest.raises(InputError, match=f"{re.escape(str(moved))}: .*world space"):
        load_patient(**given(files, *source, **{name: moved}))


def test_refuses_maps_in_another_unit(files, healthy, tmp_path):
    percent = save(tmp_path, "percent", healthy["white_matter"] * 100, healthy["affine"])
    with pytest.raises(InputError, match=r"white matter .*from 0 to 1.*; give probabilities"):
        load_patient(**given(files, "grey_matter", white_matter=percent))
    with pytest.raises(InputError, match=r"tissue .*: has no voxel with the gm label 7; present are 0, 1, 2, 3"):
        load_patient(**given(files, "tissue", tissue_labels={"csf": (1,), "gm": (7,), "wm": (3,)}))
    with pytest.raises(InputError, match="tissue labels: got wm; give all of"):
        load_patient(**given(files, "tissue", tissue_labels={"wm": (3,)}))
    full = save(tmp_path, "full", np.ones((160, 160, 160), np.uint8), np.diag([1.0, 1, 1, 1]) - 80 * np.eye(4, k=3))
    with pytest.raises(InputError, match=r"brain mask .*: has 4096 ml, more than a brain"):
        load_patient(**given(files, *MAPS, brain_mask=full))


def test_fluid_that_is_not_given_is_what_is_left(files, healthy):
    patient = load_patient(**given(files, "white_matter", "grey_matter", "brain_mask"))
    assert patient.anatomy.csf.sum() == pytest.approx(healthy["csf"].sum(), rel=0.1)


def test_a_hole_under_the_tumour_is_filled(files, healthy, tmp_path):
    hole = healthy["distance"] <= WHOLE - 2
    maps = {name: save(tmp_path, name, np.where(hole, 0, healthy[name]), healthy["affine"]) for name in MAPS}
    patient = load_patient(**given(files), **maps)
    anatomy = patient.anatomy
    assert np.asarray(anatomy.tissue)[patient.lesion_fraction > 0].all()
    whole = load_patient(**given(files, *MAPS)).anatomy
    lesion = patient.lesion_fraction > 0.5
    # The surroundings are white matter, and so was the place itself.
    assert abs(anatomy.white_matter[lesion].mean() - whole.white_matter[lesion].mean()) < 0.15
    np.testing.assert_array_equal(anatomy.white_matter[~lesion], whole.white_matter[~lesion])
    assert "had no tissue in the maps" in patient.notes[0]


def test_fill_puts_tissue_deep_in_the_tumour_and_leaves_the_rest():
    shape = (30, 30, 30)
    white, grey, csf = np.full(shape, 0.75), np.full(shape, 0.25), np.zeros(shape)
    lesion = np.zeros(shape)
    lesion[8:22, 8:22, 8:22] = 1
    lesion[22, 8:22, 8:22] = 0.4
    ventricle, empty = np.zeros(shape, bool), np.zeros(shape, bool)
    ventricle[18:28, 14:18, 14:18] = True
    empty[22, 8:10, 8:10] = True
    for tissue, value in ((white, 0.0), (grey, 0.0), (csf, 1.0)):
        tissue[ventricle] = value
        tissue[empty] = 0
    # A gyrus' share of fluid is none of the tumour's.
    white[10:12, 10:12, 10:12], csf[10:12, 10:12, 10:12] = 0.35, 0.4
    maps, filled = fill_lesion((white, grey, csf), lesion, 2.0)
    # The outermost voxel, within 3 mm of the border, may be the ventricle's after all.
    deep = ventricle & (np.arange(30) < 21)[:, None, None]
    assert filled == pytest.approx((deep.sum() + 0.4 * empty.sum()) / lesion.sum())
    # The surroundings are three quarters white matter.
    for tissue, share, fluid in zip(maps, (0.75, 0.25, 0), (0.3, 0.1, 0), strict=True):
        np.testing.assert_allclose(tissue[deep], share, atol=1e-6)
        np.testing.assert_allclose(tissue[empty], fluid, atol=1e-6)
    for before, after in zip((white, grey, csf), maps, strict=True):
        np.testing.assert_array_equal(after[~deep & ~empty], before[~deep & ~empty])
    nothing = np.zeros(shape)
    with pytest.raises(InputError, match="no white or grey matter outside the lesion"):
        fill_lesion((nothing, nothing, nothing), np.ones(shape), 2.0)


def test_mask_restricts_tissue_but_not_under_the_lesion(files, healthy, tmp_path):
    half = healthy["brain_mask"].copy()
    # The mask ends in the lesion.
    x = np.arange(half.shape[0]) * SPACING + healthy["affine"][0, 3]
    half[x < CENTRE[0] - 8] = 0
    mask = save(tmp_path, "half", half, healthy["affine"])
    patient = load_patient(**given(files, *MAPS, brain_mask=mask))
    anatomy = patient.anatomy
    tissue = np.asarray(anatomy.tissue)
    world = anatomy.grid.to_world(np.argwhere(tissue & (patient.lesion_fraction == 0)).astype(float))
    assert world[:, 0].min() >= CENTRE[0] - 8 - SPACING
    assert tissue[patient.lesion_fraction > 0.5].all()
    assert "lie outside the brain; they are added" in patient.notes[0]
    assert patient.brain[patient.lesion].all()


def test_atlas_in_the_same_world_and_not(files, healthy, tmp_path):
    patient = load_patient(**given(files))
    white = resample(healthy["white_matter"], healthy["affine"], patient.anatomy.grid)
    assert_tissue_of_the_maps(patient, white, atol=0.02)
    aligned = "The atlas icbm152 is assumed to share the patient's world; give a T1 image to align it."
    assert patient.notes == [aligned]
    affine = np.array(healthy["affine"])
    affine[:3, 3] += [-60, -50, 20]
    moved = save(tmp_path, "moved", labelled(healthy["distance"]), affine)
    with pytest.raises(InputError, match=r"contains .* of the lesion; give a T1 image or a brain mask to align it"):
        load_patient(**given(files, segmentation=moved))


@pytest.mark.parametrize("name", ["t1", "brain_mask"])
def test_atlas_is_aligned(files, healthy, tmp_path, name):
    there = np.eye(4)
    there[:3, :3] *= [0.92, 1.04, 0.95]
    there[:3, 3] = [15, 140, 60]
    affine = there @ healthy["affine"]
    sick = np.where(healthy["distance"] <= WHOLE, 0.3, healthy[name]) if name == "t1" else healthy[name]
    segmentation = save(tmp_path, "segmentation", labelled(healthy["distance"]), affine)
    patient = load_patient(**given(files, segmentation=segmentation, **{name: save(tmp_path, name, sick, affine)}))
    assert patient.transform is not None
    assert patient.transform.measure == ("correlation" if name == "t1" else "Dice")
    np.testing.assert_allclose(patient.transform.matrix, np.linalg.inv(there), atol=1.0)
    grid = Grid(patient.anatomy.grid.shape, np.asarray(patient.anatomy.grid.affine))
    white = resample(healthy["white_matter"], affine, grid)
    assert dice(patient.anatomy.white_matter > 0.5, white > 0.5) > 0.93
    # A mask shows nothing by which to deform.
    assert (patient.transform.field is None) == (name == "brain_mask")
    assert any(f"aligned with the {'T1 image' if name == 't1' else 'brain mask'}" in note for note in patient.notes)


def test_a_map_to_the_atlas_is_taken_instead_of_a_registration(files, healthy, tmp_path, monkeypatch):
    monkeypatch.setattr("tumorjax.patient.tissue.align_atlas", lambda *_, **__: pytest.fail("registers"))
    shift = np.array([12.0, -6.0, 3.0])
    elsewhere = healthy["affine"].copy()
    elsewhere[:3, 3] += shift
    outlines = save(tmp_path, "segmentation", labelled(healthy["distance"]), elsewhere)
    back = np.eye(4)
    back[:3, 3] = -shift
    place = tmp_path / "atlas_transform.tfm"
    save_transform(place, Transform(back))
    there = load_patient(segmentation=outlines, transform=place, resolution=6.0)
    here = load_patient(**given(files, resolution=6.0))
    # Without a T1 image both tissues are the atlas', at the same voxels of the segmentation.
    np.testing.assert_allclose(there.anatomy.white_matter, here.anatomy.white_matter, atol=0.02)
    assert any("aligned by a map that was given" in note for note in there.notes)
    assert there.hashes["transform"] == sha256(place)
    np.testing.assert_array_equal(there.source.transform.matrix, back)
    loaded = load_patient(segmentation=outlines, transform=Transform(back), resolution=6.0)
    np.testing.assert_array_equal(loaded.anatomy.white_matter, there.anatomy.white_matter)
    far = np.eye(4)
    far[:3, 3] = 300.0
    with pytest.raises(InputError, match="places 0% of the lesion in the brain of the atlas"):
        load_patient(segmentation=outlines, transform=Transform(far))
    with pytest.raises(InputError, match="the registration that found the map failed: too far; give another"):
        load_patient(segmentation=outlines, transform=Transform(back, failure="too far"))
    with pytest.raises(InputError, match="transform: leads to an atlas, but the tissue is given by maps"):
        load_patient(**given(files, "white_matter", "grey_matter", transform=place))
    with pytest.raises(InputError, match="does not exist"):
        load_patient(segmentation=outlines, transform=tmp_path / "missing.tfm")


def test_an_affine_map_stands_in_for_a_deformation(files, healthy, tmp_path):
    # Fluid is bright and white matter dark, but weakly, so that the outline still correlates.
    brain = healthy["brain_mask"] > 0
    other = np.where(brain, 1.0 - 0.2 * healthy["t1"], 0)
    patient = load_patient(**given(files, t1=save(tmp_path, "t1", other, healthy["affine"])))
    assert patient.transform is not None
    assert patient.transform.field is None
    assert not patient.transform.failure
    assert "is not deformed to the T1 image: intensities deep inside correlate by" in patient.notes[0]
    assert "by an affine map, correlation" in patient.notes[1]


def test_skull(healthy, tmp_path):
    rng = np.random.default_rng(0)
    ringing = np.where(healthy["brain_mask"] > 0, healthy["t1"], rng.normal(0, 1e-3, healthy["t1"].shape))
    brain = stripped_brain(read_volume(save(tmp_path, "brain", ringing, healthy["affine"]), name="T1"))
    assert dice(brain, healthy["brain_mask"]) > 0.99
    beyond = SPACING * ndimage.distance_transform_edt(healthy["brain_mask"] == 0)
    head = np.where((beyond > 6) & (beyond < 18), 0.9, healthy["t1"]) + abs(ringing)
    assert stripped_brain(read_volume(save(tmp_path, "head", head, healthy["affine"]), name="T1")) is None
    nothing = save(tmp_path, "nothing", -np.ones((5, 5, 5)), np.eye(4))
    with pytest.raises(InputError, match=r"T1 .*: shows nothing above zero"):
        stripped_brain(read_volume(nothing, name="T1"))


def test_a_head_is_aligned_by_the_brain_in_it(healthy, monkeypatch):
    there = np.eye(4)
    there[:3, :3] *= [0.92, 1.04, 0.95]
    there[:3, 3] = [15, 140, 60]
    beyond = SPACING * ndimage.distance_transform_edt(healthy["brain_mask"] == 0)
    # Fat beyond a dark skull, through which a nerve as bright as the brain leads.
    head = np.where((beyond > 6) & (beyond < 18), 1.8, healthy["t1"])
    across = np.argwhere(healthy["brain_mask"]).mean(axis=0).astype(int)
    head[:, across[1], across[2]] = np.where(beyond[:, across[1], across[2]] < 7, 0.8, head[:, across[1], across[2]])
    t1 = Volume(head.astype(np.float32), there @ healthy["affine"], name="T1")
    assert dice(brain_in_head(t1), healthy["brain_mask"] > 0) > 0.93

    def undeformed(moving, fixed, *, mask, engine):
        return 2 * (register(moving, fixed, mask=mask),)

    # A deformation would add nothing but time.
    monkeypatch.setattr("tumorjax.patient.alignment.register_in_steps", undeformed)
    lesion = replace(t1, data=healthy["distance"] <= WHOLE)
    found = align_atlas(load_atlas("icbm152"), t1, None, lesion, True, [])
    assert not found.failure
    np.testing.assert_allclose(found.matrix, np.linalg.inv(there), atol=2.0)
    # Air, and something far smaller than a head.
    assert brain_in_head(replace(t1, data=np.zeros_like(head))) is None
    assert brain_in_head(replace(t1, data=(healthy["distance"] < 40).astype(np.float32))) is None


def test_fill_holes_is_scipys():
    mask = np.random.default_rng(0).random((20, 20, 20)) < 0.8
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_pet_beside_its_field_of_view(files, healthy, tmp_path):
    seen = (healthy["distance"] <= WHOLE) & (np.arange(healthy["distance"].shape[2]) * SPACING < 35 + 72)
    # A constant would be refused.
    signal = np.where(healthy["distance"] < CORE, 500.0, 500.001)
    pet = save(tmp_path, "pet", np.where(seen, signal, 0.0), healthy["affine"])
    patient = load_patient(**given(files, *MAPS, pet=pet, resolution=5.0))
    assert patient.notes[-1].startswith("The PET image covers ")
    # Voxels at the rim are not darker for being half outside.
    np.testing.assert_allclose(patient.pet[patient.pet_mask], 500, rtol=1e-5)
    assert patient.pet[~patient.pet_mask].max() == 0


def test_a_flair_image_is_kept_for_the_report(files, healthy, tmp_path):
    shown = np.where(healthy["distance"] < CORE, 700.0, 200.0)
    shown[0, 0, 0] = np.nan
    flair = save(tmp_path, "flair", shown, healthy["affine"])
    patient = load_patient(**given(files, *MAPS, flair=flair))
    assert "FLAIR" in patient.hashes
    np.testing.assert_allclose(patient.images["FLAIR"].data, np.nan_to_num(shown))
    with pytest.raises(InputError, match="FLAIR"):
        load_patient(**given(files, *MAPS, flair=tmp_path / "none.nii.gz"))


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e-6, 1e6])
def test_the_unit_of_an_adc_is_recognised_by_its_values_in_the_core(files, healthy, tmp_path, unit):
    true = np.where(healthy["distance"] <= CORE, 1.1e-3, 1.9e-3)
    # Voxels of the core in which nothing was measured are no cells.
    true[np.unravel_index(healthy["distance"].argmin(), true.shape)] = 0
    adc = save(tmp_path, "adc", (true / unit).astype(np.float32), healthy["affine"])
    patient = load_patient(**given(files, *MAPS, adc=adc))
    np.testing.assert_allclose(patient.adc[patient.adc_mask], 1.1e-3, rtol=1e-5)
    assert patient.adc_mask.sum() == (patient.core_fraction >= 0.5).sum() - 1
    assert "ADC" in patient.hashes and patient.notes[-1].startswith("The ADC image is taken to be in ")


def test_an_adc_that_cannot_be_used(files, healthy, tmp_path):
    for values, message in {
        0.0: "shows nothing in the core; give an image in the segmentation's world space",
        0.1: r"has a median of 0.1 in the core, which is plausible in none of the units 1e-6 mm\^2/s",
        30.0: "has a median of 30 in the core",
    }.items():
        adc = save(tmp_path, "adc", np.full(healthy["distance"].shape, values, np.float32), healthy["affine"])
        with pytest.raises(InputError, match=message):
            load_patient(**given(files, *MAPS, adc=adc))
    with pytest.raises(InputError, match="adc_law: got 'cubic'; give linear or inverse"):
        load_patient(**given(files, *MAPS, adc=adc), adc_law="cubic")


def test_the_law_of_the_adc_reaches_observation_and_notes(files, healthy, tmp_path):
    true = np.where(healthy["distance"] <= CORE, 1.1e-3, 1.9e-3)
    adc = save(tmp_path, "adc", true.astype(np.float32), healthy["affine"])
    for law, value, words in (("linear", 1900.0, "3e-3 mm^2/s"), ("inverse", 1 / 1.1, "proportional to its inverse")):
        patient = load_patient(**given(files, *MAPS, adc=adc), adc_law=law)
        seen = observations_of(patient)["adc"]
        np.testing.assert_allclose(np.asarray(seen.values)[np.asarray(seen.valid)], value, rtol=1e-4)
        assert seen.law is ADC_LAWS[law] and words in notes_on_adc(patient)[0]


def test_patient_with_pet(data):
    patient = load_patient(
        segmentation=data / "patient_fet" / "segmentation.nii.gz",
        labels={"core": (1, 4), "edema": (3,)},
        pet=data / "patient_fet" / "fet.nii.gz",
        brain_mask=data / "patient_fet" / "brain_mask.nii.gz",
        tissue=data / "atlas_sri24" / "tissue_labels.nii.gz",
    )
    assert (patient.core.sum(), patient.lesion.sum(), patient.brain.sum()) == (68417, 127375, 1678872)
    assert patient.lesion_fraction.sum() * 8 == pytest.approx(127375, rel=1e-5)
    assert (patient.pet_mask & (patient.lesion_fraction < 0.3)).mean() < 0.001
    assert np.asarray(patient.anatomy.tissue)[patient.lesion_fraction > 0.5].mean() > 0.93
    with pytest.raises(InputError, match=r"3 \(58958 voxels\), .*, enhancing-first$"):
        load_patient(
            segmentation=data / "patient_fet" / "segmentation.nii.gz",
            tissue=data / "atlas_sri24" / "tissue_labels.nii.gz",
        )


@pytest.mark.parametrize("masked", [False, True])
def test_scores_show_the_brain_that_intensities_show(files, healthy, tmp_path, masked):
    brain = healthy["brain_mask"] > 0
    tissue = healthy["t1"][brain]
    scores = np.where(brain, (healthy["t1"] - tissue.mean()) / tissue.std(), 0)
    path = save(tmp_path, "scores", scores, healthy["affine"])
    patient = load_patient(**given(files, *MAPS, *(["brain_mask"] if masked else []), t1=path))
    sound = load_patient(**given(files, *MAPS, t1=save(tmp_path, "t1", healthy["t1"] * brain, healthy["affine"])))
    assert patient.brain.sum() == pytest.approx(sound.brain.sum(), rel=0.03)
    assert float(patient.anatomy.white_matter.sum()) == pytest.approx(float(sound.anatomy.white_matter.sum()), rel=0.01)
    assert "has tissue below its background" in patient.notes[0]
    # What is drawn has a dark background.
    assert np.median(patient.background[~patient.brain]) == 0
    assert patient.background[brain].min() > 0
    assert patient.background_of == "the patient's T1 image"


def test_nan_is_background_outside_and_an_error_inside(files, healthy, tmp_path):
    brain = healthy["brain_mask"] > 0
    outside = save(tmp_path, "outside", np.where(brain, healthy["t1"], np.nan), healthy["affine"])
    patient = load_patient(**given(files, *MAPS, t1=outside))
    assert patient.brain.sum() == pytest.approx(brain.sum(), rel=0.03)
    assert np.isfinite(patient.background).all()
    deep = healthy["distance"] < 4
    inside = save(tmp_path, "inside", np.where(deep, np.nan, healthy["t1"]), healthy["affine"])
    with pytest.raises(InputError, match=r"T1 .*: has \d+ NaN or infinite voxels in its foreground"):
        load_patient(**given(files, *MAPS, t1=inside))


def cut(healthy, box):
    affine = np.array(healthy["affine"])
    affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in box]
    return affine


@pytest.mark.parametrize("source", ["t1", "brain_mask", None])
def test_a_cropped_segmentation_has_the_whole_brain(files, healthy, tmp_path, source):
    data = labelled(healthy["distance"])
    found = np.argwhere(data > 0)
    box = tuple(slice(low, high) for low, high in zip(found.min(0), found.max(0) + 1, strict=True))
    path = save(tmp_path, "cropped", data[box], cut(healthy, box))
    names = MAPS if source is None else (*MAPS, source)
    patient, whole = load_patient(**given(files, *names, segmentation=path)), load_patient(**given(files, *names))
    assert patient.brain.sum() == whole.brain.sum()
    assert float(patient.anatomy.white_matter.sum()) == pytest.approx(float(whole.anatomy.white_matter.sum()), rel=1e-4)
    # The voxels are those of the whole image, and hold the same.
    assert patient.reference.data.shape == patient.core.shape == patient.background.shape
    offset = np.asarray(whole.reference.grid.to_index(patient.reference.grid.to_world(np.zeros(3))))
    np.testing.assert_allclose(offset, np.round(offset), atol=1e-4)
    for name in ("core", "lesion", "brain"):
        there = np.argwhere(getattr(patient, name)) + np.round(offset)
        np.testing.assert_array_equal(there, np.argwhere(getattr(whole, name)))
    note = next(note for note in patient.notes if "extended to the whole brain" in note)
    assert note.startswith("The segmentation's image covers 1% of the brain")
    # A ball that just fits its box is whole, though as large as two brains.
    assert status_of([note for note in patient.notes if "skull" not in note]) is Status.GOOD
    write_volume(tmp_path / "core.nii.gz", patient.core, like=patient.reference)
    kept = nib.load(tmp_path / "core.nii.gz")
    np.testing.assert_allclose(kept.affine, patient.reference.affine, atol=1e-4)
    assert kept.header["qform_code"] == nib.load(path).header["qform_code"]


def test_an_image_that_ends_in_the_brainstem_keeps_its_voxels(files, healthy, tmp_path):
    data = labelled(healthy["distance"])
    lowest = int(np.argwhere(healthy["brain_mask"])[:, 2].min())
    box = (slice(None), slice(None), slice(lowest + 2, None))
    path = save(tmp_path, "high", data[box], cut(healthy, box))
    patient = load_patient(**given(files, *MAPS, "brain_mask", segmentation=path))
    assert patient.reference.data.shape == data[box].shape
    assert 0.98 < patient.brain.sum() / healthy["brain_mask"].sum() < 1
    assert patient.notes == []


def test_what_an_images_border_cuts_off_is_doubtful(files, healthy, tmp_path):
    data = labelled(healthy["distance"])
    # Through the lesion's centre.
    x = int(np.argwhere(data > 0)[:, 0].mean())
    box = (slice(x, None), slice(None), slice(None))
    half = save(tmp_path, "half", data[box], cut(healthy, box))
    patient = load_patient(**given(files, *MAPS, "t1", segmentation=half))
    assert any("seems to be cut off there" in note for note in patient.notes)
    assert status_of(patient.notes) is Status.DOUBTFUL
    # The T1 image ends two centimetres above the lesion's centre, a margin's width from its core.
    top = int(np.argwhere(data > 0)[:, 2].mean() + 20 / SPACING)
    box = (slice(None), slice(None), slice(None, top))
    slab = save(tmp_path, "slab", healthy["t1"][box], healthy["affine"])
    patient = load_patient(**given(files, *MAPS, t1=slab))
    (note,) = (note for note in patient.notes if "the growth are cut off there" in note)
    assert re.match(r"The image that shows the brain \(T1\) ends \d+ mm from the core", note)
    assert status_of(patient.notes) is Status.DOUBTFUL


def test_labels_off_by_rounding(files, healthy, tmp_path):
    resaved = save(tmp_path, "resaved", labelled(healthy["distance"]) * np.float32(1.00001), healthy["affine"])
    patient = load_patient(**given(files, *MAPS, segmentation=resaved))
    assert patient.core.sum() == (healthy["distance"] <= CORE).sum()
    assert patient.notes[0].startswith("The values of the segmentation differ from whole numbers by up to 2e-05")
    blurred = ndimage.shift(labelled(healthy["distance"]).astype(float), 0.5, order=1)
    with pytest.raises(InputError, match=r"segmentation .*that are no labels; .*resample it again by nearest"):
        load_patient(**given(files, *MAPS, segmentation=save(tmp_path, "blurred", blurred, healthy["affine"])))


def test_tissue_labels_are_labels(files, healthy, tmp_path):
    labels = np.asanyarray(nib.load(files["tissue"]).dataobj)
    blurred = save(tmp_path, "blurred", ndimage.shift(labels.astype(float), 0.5, order=1), healthy["affine"])
    with pytest.raises(InputError, match=r"tissue .*that are no labels; .*resample it again by nearest neighbours"):
        load_patient(**given(files, tissue=blurred))
    six = labels.copy()
    low = np.arange(six.shape[2]) < six.shape[2] // 4
    six[(six > 1) & low] = 6
    path = save(tmp_path, "six", six, healthy["affine"])
    patient = load_patient(**given(files, tissue=path))
    left = (six == 6).sum() * SPACING**3 / 1000
    assert patient.notes[0] == (
        f"The labels 6 ({left:.1f} ml) of the tissue image are not among csf=1 gm=2 wm=3: {left:.1f} ml are left out "
        "of the brain."
    )
    assert status_of(patient.notes) is Status.DOUBTFUL
    named = load_patient(**given(files, tissue=path, tissue_labels={"csf": (1,), "gm": (2, 6), "wm": (3,)}))
    assert not any("left out" in note for note in named.notes)
    assert named.background_of == "the tissue that was given"


def test_a_cavity_holds_no_cells_and_is_fluid(files, healthy, tmp_path):
    data, hole = labelled(healthy["distance"]), healthy["distance"] < 6
    data[hole] = 4
    path = save(tmp_path, "cavity", data, healthy["affine"])
    patient = load_patient(**given(files, *MAPS, "brain_mask", segmentation=path, labels="brats2024"))
    assert not (patient.core & hole).any()
    np.testing.assert_array_equal(patient.cavity, hole)
    np.testing.assert_array_equal(patient.affected.data, patient.lesion | hole)
    assert patient.brain[hole].all()
    share = resample(hole, healthy["affine"], patient.anatomy.grid, kind="mean")
    assert not np.asarray(patient.anatomy.tissue)[share > 0.95].any()
    assert np.asarray(patient.anatomy.csf)[share > 0.95].min() > 0.95
    assert any("contains no cells and is treated as fluid" in note for note in patient.notes)


def test_a_lesion_smaller_than_the_seed_is_doubtful(files, healthy, tmp_path):
    speck = (healthy["distance"] <= 3).astype(np.uint8)
    path = save(tmp_path, "speck", speck, healthy["affine"])
    patient = load_patient(**given(files, *MAPS, segmentation=path, labels={"core": (1,)}))
    volume = speck.sum() * SPACING**3 / 1000
    (note,) = notes = notes_on_size(patient, FisherKolmogorov())
    assert note.startswith(f"The lesion ({volume:.3g} ml) is smaller than the seed that growth starts from (0.905 ml)")
    assert status_of(notes) is Status.DOUBTFUL


def test_an_alignment_that_failed_fails_the_result(files, monkeypatch):
    def fail(*args, **kwargs):
        return Transform(np.eye(4), "correlation", 0.1, 0.2, failure="correlation is 0.20 after registration")

    monkeypatch.setattr("tumorjax.patient.tissue.align_atlas", fail)
    patient = load_patient(**given(files, "t1"))
    (note,) = [note for note in patient.notes if "alignment" in note]
    assert note.startswith("The alignment of the atlas icbm152 with the T1 image FAILED: correlation is 0.20")
    assert "upright" in note and "--wm" in note
    assert status_of(patient.notes) is Status.FAILED


def test_the_background_is_named(files):
    atlas = load_patient(**given(files))
    assert atlas.background_of == "the atlas icbm152, as it lies: not the patient's own brain"


def test_the_background_is_named_without_the_folder_of_its_atlas(files):
    place = "/home/someone/data/of/a/study/healthy brains/the third one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tumorjax.patient.tissue.read_atlas", lambda name, notes: replace(load_atlas("icbm152"), name=place)
        )
        patient = load_patient(**given(files), atlas=place)
    assert patient.background_of == "the atlas the third one, as it lies: not the patient's own brain"
    assert patient.source.atlas.name == place
    assert not any("/home" in note for note in patient.notes)


def test_an_empty_atlas_is_none_by_name(files):
    with pytest.raises(InputError, match="atlas '': unknown"):
        load_patient(**given(files), atlas="")
