"""Growth with mass effect for a patient: alignment of atlases, calibration in them, and results."""

import dataclasses
import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from tests.problems import ball_brain
from tumorjax.atlas import AtlasWarning, deformed_atlas, load_atlas, ventricle_volume
from tumorjax.atlas.images import from_maps
from tumorjax.calibration import Parameters
from tumorjax.calibration.estimates import correlation_of
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, GaussianBasis, MassEffect, MassEffectParams
from tumorjax.io import InputError, Volume, read_volume, resample, write_volume
from tumorjax.methods import LBFGS, AtlasMixture, MultiAtlas
from tumorjax.methods.multi_atlas.candidates import with_candidates
from tumorjax.methods.multi_atlas.in_atlases import AtlasEstimate, Grown, averages, deviation_of, notes_on
from tumorjax.observation import FluidMap, Outline, Pet, PetParams
from tumorjax.patient import load_patient
from tumorjax.patient.atlases import _PLACE_ERRORS, align_atlases, as_asked, brain_before, load_atlases
from tumorjax.patient.ventricles import patient_ventricles
from tumorjax.pipeline.growth import growth_of
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.problems import problem_of
from tumorjax.pipeline.volumes import jacobian_determinant
from tumorjax.quality import Status, status_of
from tumorjax.registration import Transform, load_transform
from tumorjax.results.files import write_personalization

pytestmark = pytest.mark.usefixtures("jax_as_installed")

VOXEL, RESOLUTION = 3.0, 8.0
# In the white matter of the left hemisphere, mm.
CENTRE = np.array([-30.0, -5.0, 35.0])
GROUPS = ("white_matter", "grey_matter", "csf")


def coarse(atlas, name, maps=None):
    """The atlas on voxels that these tests can afford."""
    grid = atlas.t1.grid.with_spacing(VOXEL)
    t1 = Volume(resample(atlas.t1.data, atlas.t1.affine, grid), np.asarray(grid.affine), name="t1")
    found = [resample(getattr(atlas, m).data, atlas.t1.affine, grid) for m in GROUPS] if maps is None else maps
    return from_maps(name, t1, np.stack(found))


@pytest.fixture(scope="module")
def healthy():
    return coarse(load_atlas("icbm152"), "average")


@pytest.fixture(scope="module")
def other(healthy):
    """Another brain, and the map from it to the average."""
    brain, truth = deformed_atlas(healthy, 1, magnitude=3.0, smoothness=15.0)
    return brain, truth


@pytest.fixture(scope="module")
def files(healthy, tmp_path_factory):
    """A patient: the average brain with a tumour in it."""
    folder, grid = tmp_path_factory.mktemp("patient"), healthy.t1.grid
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    distance = np.linalg.norm(grid.to_world(index.astype(float)) - CENTRE, axis=-1)
    tumour = np.select([distance <= 14, distance <= 22], [1, 2], 0).astype(np.uint8)
    images = {"segmentation": tumour, "t1": healthy.t1.data, **{m: getattr(healthy, m).data for m in GROUPS}}
    for name, data in images.items():
        write_volume(folder / f"{name}.nii.gz", data, like=healthy.t1)
    return {name: folder / f"{name}.nii.gz" for name in images}


@pytest.fixture(scope="module")
def with_maps(files):
    return load_patient(
        **{m: files[m] for m in GROUPS}, segmentation=files["segmentation"], t1=files["t1"], resolution=RESOLUTION
    )


@pytest.fixture(scope="module")
def aligned(with_maps, healthy, other):
    notes = []
    return align_atlases(with_maps, [healthy, other[0]], notes), notes


def problem_in(patient):
    """The problem that several atlases share."""
    return problem_of(patient, MassEffect(), MultiAtlas())


def made_up(weight, value):
    return AtlasEstimate("made up", weight, *([value] * 9), gaussians=1)


def test_atlases_are_aligned_affinely_and_carried_deformably(with_maps, aligned, other):
    atlases, notes = aligned
    assert [atlas.name for atlas in atlases] == ["average", other[0].name]
    for atlas in atlases:
        assert atlas.anatomy.grid.shape == with_maps.anatomy.grid.shape
        np.testing.assert_array_equal(atlas.anatomy.grid.affine, with_maps.anatomy.grid.affine)
        assert atlas.anatomy.dtype == np.float32
        assert sum(f"The atlas {atlas.name} is aligned with the T1 image by an affine map" in n for n in notes) == 1
        assert 5 < atlas.ventricles < 60
        assert atlas.transform.field is not None and atlas.place_error == _PLACE_ERRORS["deformable"]
    # The same brain comes back, and another one is not bent to fit.
    same, different = (atlas.anatomy.white_matter - with_maps.anatomy.white_matter for atlas in atlases)
    healthy_part = with_maps.lesion_fraction == 0
    assert np.abs(same[healthy_part]).mean() < 0.5 * np.abs(different[healthy_part]).mean()
    # Carried to the aligned atlas and on by its affine map, a place is where the deformation has it.
    inside = np.argwhere(with_maps.brain & ~with_maps.lesion)
    points = with_maps.reference.grid.to_world(inside[::500].astype(float))
    carried = atlases[1].carry(points)
    matrix = atlases[1].transform.matrix
    there = carried @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(there, atlases[1].transform.apply(points), atol=1e-9)
    truth = other[1].inverse().apply(points)
    assert np.linalg.norm(there - truth, axis=1).mean() < 0.7 * np.linalg.norm(points - truth, axis=1).mean()


def test_an_atlas_that_cannot_be_aligned_is_left_out(with_maps, healthy):
    # Left and right of a brain that is turned upside down.
    turned = from_maps(
        "upside down",
        Volume(healthy.t1.data[:, :, ::-1].copy(), healthy.t1.affine),
        np.stack([getattr(healthy, m).data[:, :, ::-1] for m in GROUPS]),
    )
    notes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tumorjax.patient.atlases.ventricle_volume", lambda atlas: 20.0)
        with pytest.warns(UserWarning, match="registration"):
            found = align_atlases(with_maps, [turned, healthy], notes)
        assert [atlas.name for atlas in found] == ["average"]
        assert any("upside down FAILED: " in note and "left out" in note for note in notes)
        # The other atlas still represents the patient's brain.
        assert status_of(notes) is Status.DOUBTFUL
        with pytest.raises(InputError, match=r"none can be aligned .* \(upside down: "), pytest.warns(UserWarning):
            align_atlases(with_maps, [turned], [])


def test_atlases_lie_as_they_are_where_nothing_shows_the_brain(files, healthy):
    patient = load_patient(segmentation=files["segmentation"], resolution=RESOLUTION)
    notes = []
    (atlas,) = align_atlases(patient, [healthy], notes)
    assert atlas.transform is None
    assert any("assumed to share the patient's world" in note for note in notes)
    assert status_of(notes) is Status.GOOD
    align_atlases(dataclasses.replace(patient, cavity=patient.core), [healthy], notes)
    assert "as if nothing had been resected" in notes[-1]
    assert status_of(notes) is Status.DOUBTFUL
    points = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(atlas.carry(points), points)
    problem = problem_in(patient)
    assert list(problem.observations) == ["core", "lesion"]
    (told,) = notes_on(problem, [made_up(0.5, 1.0)] * 2)
    assert "No image shows the patient's own ventricles" in told
    away = from_maps(
        "far away", Volume(healthy.t1.data, np.diag([3.0, 3, 3, 1])), np.stack([healthy.white_matter.data] * 3) / 3
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match=r"far away: contains .* of the lesion"):
        patch.setattr("tumorjax.patient.atlases.ventricle_volume", lambda atlas: 20.0)
        align_atlases(patient, [away], [])


def test_atlases_are_checked(healthy, tmp_path):
    folder = tmp_path / "dry"
    folder.mkdir()
    for name, data in (
        ("t1", healthy.t1.data),
        ("wm", healthy.white_matter.data),
        ("gm", healthy.grey_matter.data),
        ("csf", 0.4 * healthy.csf.data),
    ):
        write_volume(folder / f"{name}.nii.gz", data, like=healthy.t1)
    with pytest.raises(InputError, match="dry: has no fluid, so no ventricles"):
        load_atlases([folder])
    with pytest.raises(InputError, match="is given twice"):
        load_atlases(["icbm152", "icbm152"])
    with pytest.raises(InputError, match="is given twice"):
        load_atlases([folder, tmp_path / "." / "dry"])
    with pytest.raises(InputError, match="unknown"):
        load_atlases(["unheard-of"])


def test_the_patient_is_no_atlas(healthy, tmp_path):
    same, other = tmp_path / "t1.nii.gz", tmp_path / "healthy.nii.gz"
    own = replace(healthy, name=str(same), t1=replace(healthy.t1, path=tmp_path / "." / "t1.nii.gz"))
    patient = SimpleNamespace(images={"T1": replace(healthy.t1, path=same)})
    with pytest.raises(InputError, match="is the patient's own T1 image, in which the tumour has displaced"):
        align_atlases(patient, [own], [])
    # The next check.
    healthy = replace(own, name=str(other), t1=replace(healthy.t1, path=other))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match=r"has ventricles of 0\.0 ml"):
        patch.setattr("tumorjax.patient.atlases.ventricle_volume", lambda atlas: 0.0)
        align_atlases(patient, [healthy], [])


def test_a_repaired_atlas_is_noted(with_maps, healthy, monkeypatch):
    def repair(name):
        warnings.warn(f"{name} is too small", AtlasWarning, stacklevel=2)
        warnings.warn("something else", RuntimeWarning, stacklevel=2)
        return healthy

    monkeypatch.setattr("tumorjax.patient.alignment.load_atlas", repair)
    with pytest.warns(RuntimeWarning, match="something else"):
        (atlas,) = load_atlases(["small"])
    assert atlas.t1 is healthy.t1 and atlas.notes == ("small is too small.",)
    notes = []
    monkeypatch.setattr("tumorjax.patient.transforms.align_atlas", lambda *arguments: Transform(np.eye(4)))
    align_atlases(with_maps, [atlas], notes)
    assert notes[0] == "small is too small."


def test_an_atlas_without_ventricles_is_refused_before_any_is_aligned(with_maps, healthy, monkeypatch):
    middle = np.zeros(healthy.csf.data.shape, bool)
    middle[20:45, 20:55, 20:40] = True
    solid = from_maps(
        "solid",
        healthy.t1,
        np.stack(
            [
                np.where(middle, healthy.white_matter.data + healthy.csf.data, healthy.white_matter.data),
                healthy.grey_matter.data,
                np.where(middle, 0, healthy.csf.data),
            ]
        ),
    )
    monkeypatch.setattr("tumorjax.patient.atlases.transform_to", lambda *given: pytest.fail("an atlas is aligned"))
    with pytest.raises(InputError, match=r"solid: has ventricles of 0\.\d ml"):
        align_atlases(with_maps, [healthy, solid], [])


def test_ventricles_outside_the_rule_are_noted(with_maps, healthy, monkeypatch):
    assert patient_ventricles(with_maps) == pytest.approx(ventricle_volume(healthy), rel=0.25)
    for factor, told in ((1.2, False), (0.97, False), (0.8, True), (1.6, True)):
        monkeypatch.setattr("tumorjax.patient.ventricles.patient_ventricles", lambda patient, f=factor: 20.0 / f)
        monkeypatch.setattr("tumorjax.patient.atlases.ventricle_volume", lambda atlas: 20.0)
        monkeypatch.setattr("tumorjax.patient.atlases.transform_to", lambda *arguments: None)
        notes = []
        align_atlases(with_maps, [healthy], notes)
        assert any("suitable atlases" in note for note in notes) == told


def test_the_problem(with_maps):
    problem = with_candidates(problem_in(with_maps))
    assert list(problem.observations) == ["core", "fluid", "lesion"]
    assert all(isinstance(problem.observations[name], Outline) for name in ("core", "lesion"))
    fluid = problem.observations["fluid"]
    assert isinstance(fluid, FluidMap)
    np.testing.assert_allclose(fluid.fluid, with_maps.anatomy.csf, atol=1e-6)
    assert not fluid.valid[with_maps.lesion_fraction > 0].any()
    assert fluid.valid.sum() > 1000
    growth = problem.prior.distributions.growth
    assert isinstance(growth, MassEffectParams)
    basis = growth.growth.origin
    assert isinstance(basis, GaussianBasis)
    assert basis.width == pytest.approx(RESOLUTION)
    assert 2 <= len(basis.weights) <= 30
    assert np.linalg.norm(basis.centres - CENTRE, axis=1).max() <= 14 + RESOLUTION


def test_methods_without_atlases_begin_in_one_that_is_aligned(with_maps, healthy, monkeypatch):
    monkeypatch.setattr("tumorjax.patient.transforms.align_atlas", lambda *arguments: Transform(np.eye(4)))
    before = brain_before(with_maps, healthy)
    monkeypatch.setattr("tumorjax.methods.before_tumour.brain_before", lambda *arguments, **settings: before)
    notes = []
    problem = problem_of(with_maps, MassEffect(), LBFGS(), notes=notes)
    np.testing.assert_array_equal(problem.anatomy.white_matter, before.anatomy.white_matter)
    assert "fluid" in problem.observations
    assert "The atlas average stands for the patient's brain before the tumour" in notes[-1]
    # It is behind an affine map alone here, which is doubtful only where something else was asked for.
    assert status_of(notes) is Status.GOOD
    # Several atlases stand for it themselves.
    np.testing.assert_array_equal(problem_in(with_maps).anatomy.white_matter, with_maps.anatomy.white_matter)


def test_registration_and_growth_take_turns_where_they_can(with_maps, aligned, monkeypatch):
    atlas, turns = aligned[0][0], []
    assert all(each.can_couple for each in aligned[0])
    monkeypatch.setattr("tumorjax.patient.atlases.load_atlases", lambda names: names)

    def align(patient, atlases, notes, *, healthy, progress):
        return as_asked(patient, [atlas], healthy, notes)

    def coupled(problem, atlas, progress):
        turns.append(problem.anatomy)
        return atlas.deformed, {name: problem.observations[name] for name in ("core", "lesion")}, ["It took turns."]

    monkeypatch.setattr("tumorjax.patient.atlases.align_atlases", align)
    monkeypatch.setattr("tumorjax.methods.before_tumour.coupled_brain", coupled)
    for healthy in (None, "coupled"):
        notes = []
        problem = problem_of(with_maps, MassEffect(), LBFGS(), healthy=healthy, notes=notes)
        assert problem.anatomy is atlas.deformed and list(problem.observations) == ["core", "lesion"]
        assert notes[-1] == "It took turns."
    assert len(turns) == 2 and turns[0] is with_maps.anatomy
    # Nothing is prepared for turns that are not wanted.
    monkeypatch.setattr("tumorjax.methods.before_tumour.default_prior", lambda *_, **__: pytest.fail("not needed"))
    problem = problem_of(with_maps, MassEffect(), LBFGS(), healthy="affine")
    assert problem.anatomy is atlas.anatomy and list(problem.observations) == ["core", "fluid", "lesion"]
    # Other observations have their names.
    fluid = {"shift": problem.observations["fluid"]}
    with pytest.raises(ValueError, match="'shift' comes from the patient's images"):
        problem_of(with_maps, MassEffect(), LBFGS(), observations=fluid)
    assert "shift" in problem_of(with_maps, MassEffect(), LBFGS(), observations=fluid, healthy="affine").observations


def test_what_is_wrong_with_an_atlas_is_not_said_of_the_images(with_maps, monkeypatch):
    def refuse(*given, **more):
        raise InputError("atlas average: has no ventricles")

    monkeypatch.setattr("tumorjax.methods.before_tumour.brain_before", refuse)
    with pytest.raises(InputError, match=r"^atlas average: has no ventricles$"):
        problem_of(with_maps, MassEffect(), LBFGS())


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        (MassEffect(), "deformed", 'healthy must be "affine" or "coupled", got \'deformed\''),
        (FisherKolmogorov(), "affine", "healthy: is not for fisher-kolmogorov, which leaves tissue where it is"),
    ],
)
def test_what_stands_for_no_brain_is_refused(with_maps, model, asked, message):
    for work in (problem_of, personalize):
        with pytest.raises(ValueError, match=message):
            work(with_maps, model=model, healthy=asked)


def test_turns_that_were_asked_for_need_a_t1_image(files, healthy, monkeypatch):
    monkeypatch.setattr("tumorjax.patient.atlases.load_atlases", lambda names: [healthy])
    patient = load_patient(segmentation=files["segmentation"], resolution=RESOLUTION)
    for asked, status in ((None, Status.GOOD), ("coupled", Status.DOUBTFUL)):
        notes = []
        problem_of(patient, MassEffect(), LBFGS(), healthy=asked, notes=notes)
        assert status_of(notes) is status
    (told,) = (note for note in notes if status_of([note]) is Status.DOUBTFUL)
    assert told.startswith("Registration and growth do not take turns, because there is no T1 image: ")


@pytest.fixture(scope="module")
def found(with_maps, aligned):
    # The last stage, whose gradient alone takes a minute to compile, is among the tests of `MultiAtlas`.
    said = []
    result = personalize(
        with_maps,
        model=MassEffect(),
        method=MultiAtlas(tuple(aligned[0]), sparsity=2, refine=False),
        # Turns of registration and growth are calibrated in `test_coupling`, and take twice as long.
        healthy="affine",
        progress=lambda stage, share: said.append((stage, share)),
    )
    return result, said


def test_a_patient_with_mass_effect(with_maps, found):
    result, said = found
    shape = with_maps.reference.data.shape
    for volume in (result.density, result.density_std, result.displacement_std, result.jacobian, result.plan):
        assert volume.shape == shape
    assert result.displacement.shape == (*shape, 3)
    assert result.metrics["dice_sum"] > 1.3
    assert result.metrics["atlases"] == 2
    assert result.metrics["origin_gradients"] >= 4
    assert all(share is None or 0 <= share <= 1 for _, share in said)
    assert [name for name, _ in result.stages] == ["preparation", "calibration", "maps", "plan"]
    # Nothing moves outside the head, and most moves at the tumour.
    assert np.abs(result.displacement[0]).max() == 0
    assert result.jacobian[0, 0, 0] == 1
    moved = result.displacement_norm
    assert moved.max() > 0.05
    grid = with_maps.reference.grid
    place = grid.to_world(np.array(np.unravel_index(moved.argmax(), shape), float))
    assert np.linalg.norm(place - CENTRE) < 40
    # Away from the tumour, along the axes of the world.
    outward = []
    for axis in range(3):
        for sign in (-1, 1):
            point = CENTRE + sign * 20 * np.eye(3)[axis]
            index = tuple(np.round(grid.to_index(point)).astype(int))
            outward.append(sign * result.displacement[index][axis])
    assert np.mean(outward) > 0.3 * np.mean(np.abs(outward)) > 0


def test_tissue_moves_while_the_tumour_grows(with_maps, found, monkeypatch):
    result, _ = found
    mixture, times = result.calibration, np.arange(1, 4) / 3

    def solved(problem, params):
        """A tumour that grows in proportion to the time, in the place of a solve, which takes long to compile."""
        (own,) = (
            grown
            for grown, each in zip(mixture.grown, mixture.problems, strict=True)
            if each.anatomy.white_matter is problem.anatomy.white_matter
        )
        assert len(problem.calendar.visits) == 3 and float(params.growth.duration) > 0
        series = times[:, None, None, None] * own.density
        return SimpleNamespace(
            series=series, moved={"displacement": times[:, None, None, None, None] * own.displacement}
        )

    monkeypatch.setattr("tumorjax.pipeline.growth._TIMES", 3)
    monkeypatch.setattr("tumorjax.calibration.retraced._solved", solved)
    growth = growth_of(with_maps, problem_in(with_maps), result.calibration)
    # At the end the mean over atlases is that of the result.
    assert growth.largest == pytest.approx(sorted(growth.largest))
    assert growth.largest[-1] == pytest.approx(result.displacement_norm.max(), rel=0.1)
    for plane in growth.planes:
        density, shown = result.density[plane.box], with_maps.background[plane.box]
        # At walls of fluid the density of the result is continued.
        assert np.percentile(np.abs(plane.density[-1] - density), 98) < 0.02
        away = np.abs(plane.background - shown).mean(axis=(1, 2, 3))
        assert away[0] > away[1] > away[2] and away[2] < 0.2 * away[0]


def test_estimates_and_spread(found):
    result, _ = found
    weights = [row.weight for row in result.calibration.rows]
    assert sum(weights) == pytest.approx(1)
    # The tumour was put into the average brain.
    rows = {row.name: row for row in result.estimates}
    for name in ("mass_effect", "mu1", "mu2", "threshold_core", "threshold_lesion", "fluid_noise", "diffusivity"):
        assert rows[name].value > 0
        assert rows[name].deviation is not None and rows[name].deviation > 0
    assert rows["gaussians"].value <= 2
    # What is uncertain within the atlases is in the map, and that of the seed among the numbers.
    within = np.sqrt(np.mean(result.calibration.stats.deviations**2, axis=0))
    assert 0.5 * within.max() < result.density_std.max() < 0.6
    assert all(rows[f"origin_{axis}"].deviation > 0 for axis in "xyz")
    centre = [rows[f"origin_{axis}"].value for axis in "xyz"]
    assert np.linalg.norm(np.subtract(centre, CENTRE)) < 14
    names, matrix = correlation_of(result.calibration, result.estimates)
    assert "mass_effect" in names
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-4)
    table = averages(result.calibration.rows)
    gamma = [row.mass_effect for row in result.calibration.rows]
    assert table["mass_effect"]["mean"] == pytest.approx(np.mean(gamma))
    assert table["mass_effect"]["standard_deviation"] == pytest.approx(np.std(gamma))
    assert table["mass_effect"]["weighted_mean"] == pytest.approx(np.dot(weights, gamma))
    # One number, wherever it stands.
    for name in ("mass_effect", "mu1", "mu2", "diffusivity", "proliferation", "gaussians"):
        assert rows[name].value == pytest.approx(table[name]["mean"], rel=1e-5)


def test_an_atlas_without_a_tumour_counts_in_no_mean(with_maps):
    barren = dataclasses.replace(made_up(0.9, 100.0), atlas="barren", grows=False)
    rows = [made_up(0.05, 1.0), barren, made_up(0.05, 2.0)]
    assert averages(rows)["mu1"]["mean"] == averages(rows)["mu1"]["weighted_mean"] == 1.5
    notes = notes_on(problem_in(with_maps), rows)
    assert "No tumour grows in barren" in notes[0]
    assert status_of(notes) is Status.DOUBTFUL


def test_displacements_as_long_that_point_elsewhere_do_not_agree():
    left = np.broadcast_to([3.0, 4.0, 0.0], (2, 2, 2, 3))
    np.testing.assert_allclose(deviation_of(np.stack([left, -left])), 5.0)
    np.testing.assert_array_equal(deviation_of(np.stack([left, left])), 0.0)


def test_the_uptake_of_atlases_that_explain_it_alike_is_theirs():
    anatomy = ball_brain((6, 6, 6), 4.0)
    density, still = np.full((6, 6, 6), 0.8), np.zeros((6, 6, 6, 3))
    pet = Pet(np.arange(216.0).reshape(6, 6, 6), np.ones((6, 6, 6), bool), background=0.5)
    scales = [Parameters(None, {"pet": PetParams(scale, 0.1)}) for scale in (1.0, 4.0)]
    mixture = SimpleNamespace(
        rows=[made_up(0.5, 1.0)] * 2,
        grown=[Grown(density, still), Grown(density / 4, still)],
        members=[SimpleNamespace(params=params) for params in scales],
        stats=SimpleNamespace(coarsening=1, deviations=np.zeros((2, 6, 6, 6))),
        atlases=(None, None),
        shares=np.array([0.5, 0.5]),
    )
    maps = AtlasMixture.maps(mixture, SimpleNamespace(anatomy=anatomy, observations={"pet": pet}))
    np.testing.assert_allclose(maps.predicted["pet"], 1.3)
    np.testing.assert_allclose(maps.density, 0.5)


def test_a_single_atlas_has_no_spread(with_maps):
    (told,) = notes_on(problem_in(with_maps), [made_up(1.0, 2.0)])
    assert "With a single atlas there is no spread" in told
    assert averages([made_up(1.0, 2.0)])["mu1"]["standard_deviation"] == 0


def test_results_are_written(with_maps, found, tmp_path):
    result, _ = found
    write_personalization(tmp_path, dataclasses.replace(result, title="<b>"), command="tumorjax")
    assert {path.name for path in tmp_path.iterdir()} >= {
        "density.nii.gz", "density_std.nii.gz", "displacement.nii.gz", "displacement_norm.nii.gz",
        "displacement_norm_std.nii.gz", "jacobian.nii.gz", "atlas_transform_1.tfm", "atlas_transform_2.tfm",
    }  # fmt: skip
    # As ITK reads it: three components, along its own axes to the left, to the back and up.
    image = sitk.ReadImage(tmp_path / "displacement.nii.gz")
    assert image.GetNumberOfComponentsPerPixel() == 3
    index = tuple(int(i) for i in np.unravel_index(result.displacement_norm.argmax(), result.density.shape))
    np.testing.assert_allclose(image.GetPixel(index), result.displacement[index] * [-1, -1, 1], atol=1e-3)
    assert image.TransformIndexToPhysicalPoint(index) == pytest.approx(
        tuple(with_maps.reference.grid.to_world(np.array(index, float)) * [-1, -1, 1])
    )
    norm = read_volume(tmp_path / "displacement_norm.nii.gz", name="norm")
    np.testing.assert_allclose(norm.data, result.displacement_norm, atol=1e-3)
    written = json.loads((tmp_path / "parameters.json").read_text(encoding="utf-8"))
    assert [row["transform"] for row in written["atlases"]] == ["atlas_transform_1.tfm", "atlas_transform_2.tfm"]
    assert {row["place_error"] for row in written["atlases"]} == {_PLACE_ERRORS["deformable"]}
    assert [row["mass_effect"] for row in written["atlases"]] == [row.mass_effect for row in result.calibration.rows]
    assert written["averages"] == averages(result.calibration.rows)
    assert set(written["units"]) == {*written["averages"], "place_error"}
    loaded = load_transform(tmp_path / "atlas_transform_2.tfm")
    points = CENTRE + np.zeros((1, 3))
    np.testing.assert_allclose(loaded.apply(points), result.calibration.atlases[1].transform.apply(points), atol=1e-3)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    # The ball of this patient is as large as two brains, of which the check of the masks has a section before.
    assert 'id="displacement"' in page and 'id="method-2-spread-over-atlases"' in page
    assert "Growth with mass effect, calibrated in 2 atlases" in page
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    largest = [row.max_displacement for row in result.calibration.rows]
    assert metrics["max_displacement_mm"] == pytest.approx(np.mean(largest))
    assert metrics["volume_above_2mm_ml"] >= 0


def test_averages_by_weight():
    table = averages([made_up(0.25, 0.0), made_up(0.75, 4.0)])["mu1"]
    assert table == pytest.approx(
        {"weighted_mean": 3.0, "weighted_standard_deviation": np.sqrt(3.0), "mean": 2.0, "standard_deviation": 2.0}
    )


def test_jacobian_of_a_linear_map_on_turned_voxels():
    axes = np.array([[0.0, -2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.5]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, [4, 5, 6]
    grid = Grid((5, 6, 7), affine)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1).astype(float)
    gradient = np.array([[0.1, 0.02, 0.0], [0.0, -0.2, 0.05], [0.3, 0.0, 0.15]])
    found = jacobian_determinant(grid.to_world(index) @ gradient.T, grid)
    np.testing.assert_allclose(found, np.linalg.det(np.eye(3) + gradient), rtol=1e-10)
