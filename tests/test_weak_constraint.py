"""Calibration in which the density may leave the equation of growth at a price."""

import dataclasses

import jax
import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from tests.problems import OUTLINES, TRUTH, patient
from tumorjax.calibration import calibrate
from tumorjax.calibration.draws import draws_of
from tumorjax.growth import FisherKolmogorov, Forcing, GompertzGrowth
from tumorjax.integrate import simulate
from tumorjax.methods import LBFGS, WeakConstraint
from tumorjax.methods.search.cross_validation import folds
from tumorjax.methods.search.weakened import doubted, weaken
from tumorjax.observation import SurfaceErrors
from tumorjax.quality import Status

SEARCH = LBFGS(starts=1, coarsening=1, budget=20)
SETTINGS = {"length": 20.0, "coarsening": 1, "budget": 60, "draws": 16, "start": SEARCH}


def without_draws(found):
    """Return a calibration that knows its normal approximation alone."""
    return dataclasses.replace(found, steps=None, acceptance=None)


@pytest.fixture(scope="module")
def problem():
    return patient("shares")


@pytest.fixture(scope="module")
def lopsided(problem):
    """A tumour that divides faster on its right, its outlines, and its density."""
    flat = Forcing.around(np.asarray(problem.anatomy.tissue), problem.anatomy.grid, 20.0)
    side = np.linspace(-0.9, 0.9, flat.lattice.shape[0])[:, None, None]
    truth = dataclasses.replace(flat, weights=np.broadcast_to(side, flat.lattice.shape))
    density = simulate(FisherKolmogorov().forced(truth), TRUTH, problem.anatomy).density
    images = {
        name: dataclasses.replace(image, inside=image.probability(density, OUTLINES[name]))
        for name, image in problem.observations.items()
    }
    return dataclasses.replace(problem, observations=images), np.asarray(density)


@pytest.fixture(scope="module")
def found(lopsided):
    return calibrate(lopsided[0], WeakConstraint(**SETTINGS))


def test_it_follows_a_tumour_that_no_parameters_explain(lopsided, found):
    problem, truth = lopsided
    weak = np.asarray(found.maps(problem).density)
    strong = np.asarray(problem.density(found.begun.params))
    assert found.deviation > 0
    # The outlines say where the density is at their thresholds, and little of how it falls beyond them.
    assert np.linalg.norm(weak - truth) < np.linalg.norm(strong - truth)

    def missed(density, params):
        images = problem.observations.items()
        labels = [np.asarray(image.probability(density, params.observations[name])) for name, image in images]
        return np.linalg.norm(
            [label - np.asarray(image.inside) for label, (_, image) in zip(labels, images, strict=True)]
        )

    assert missed(weak, found.params) < 0.4 * missed(strong, found.begun.params)
    # The seed and the mean rate explain a part of the lopsided growth, so that the field itself is not the true one.
    assert np.ptp(found.departure) > 0.2
    notes = found.notes(problem)
    assert any("the rate of division departs" in note for note in notes)
    (narrow,) = [note for note in notes if "deviations" in note]
    assert "no part of them" in narrow and narrow.status is Status.GOOD
    normal = without_draws(found).notes(problem)
    assert any("rely there on the density alone" in note and note.status is Status.DOUBTFUL for note in normal)
    stuck = dataclasses.replace(found, acceptance=0.1).notes(problem)
    assert any("Only 10% of the trajectories" in note and note.status is Status.DOUBTFUL for note in stuck)


def test_what_is_held_out_is_predicted_by_the_equation_where_that_holds(problem):
    found = calibrate(problem, WeakConstraint(**SETTINGS))
    assert found.deviation == 0
    assert len(found.prices) > 1
    assert found.figures()["held_out_gained_by_forcing"] == 0
    assert any("no reason to leave" in note for note in found.notes(problem))
    np.testing.assert_allclose(found.departure, 1.0)


def test_either_half_is_held_out(problem):
    first, second = folds(problem, 12.0)
    for name, image in problem.observations.items():
        one, other = (np.asarray(fold.learned.observations[name].valid) for fold in (first, second))
        assert not (one & other).any()
        np.testing.assert_array_equal(one | other, image.valid)
        np.testing.assert_array_equal(first.held_out.observations[name].valid, other)
        # A voxel counts in its half for as much as before.
        for fold in (first, second):
            assert float(fold.learned.observations[name].weight) == pytest.approx(float(image.weight))
    # A cube of 12 mm has as many voxels along each edge as fit into it.
    edge = np.flatnonzero(np.diff(np.asarray(first.learned.observations["core"].valid)[:, 10, 10].astype(int)))
    assert np.all(np.diff(edge) == round(12 / float(problem.anatomy.grid.spacing[0])))


def test_of_a_tumour_in_one_cube_nothing_can_be_held_out(problem):
    assert folds(problem, 1e3) == ()
    found = calibrate(problem, WeakConstraint(**SETTINGS | {"length": 900.0}))
    assert (found.deviation, found.prices) == (0.0, ())
    assert any("too small to hold a part of it out" in note for note in found.notes(problem))


def test_a_high_price_gives_the_physical_limit(problem):
    sure = LBFGS(starts=1, coarsening=1, value_tolerance=1e-4)
    found = calibrate(problem, WeakConstraint(1e8, **SETTINGS | {"start": sure}))
    np.testing.assert_allclose(found.coordinates, found.begun.coordinates, atol=0.02)
    np.testing.assert_allclose(found.departure, 1.0, atol=1e-3)


def test_draws_have_the_forcing_of_their_own(lopsided, found):
    problem, _ = lopsided
    draws = draws_of(problem, found, jax.random.key(0), 2)
    assert [len(each.params) for each in draws] == [1, 1]
    first, second = (each.problem.model.forcing.weights for each in draws)
    assert not np.allclose(first, second)
    assert np.isfinite(np.asarray(draws[0].problem.density(draws[0].params[0]))).all()


def test_the_maps_have_deviations(lopsided, found):
    maps = found.maps(lopsided[0], (0.25,))
    assert 0 < maps.deviation.max() < 0.5
    assert set(maps.probabilities) == {0.25}


def test_draws_keep_cells_where_the_outlines_allow_them(lopsided, found):
    problem, _ = lopsided
    lesion = np.asarray(problem.observations["lesion"].inside) > 0.5
    beyond = ~binary_dilation(lesion, iterations=1) & (np.asarray(problem.anatomy.tissue) > 0.5)
    walked, normal = (each.maps(problem).deviation[beyond].mean() for each in (found, without_draws(found)))
    assert walked < 0.5 * normal
    # Those that there are come once before any comes again.
    count = len(found.steps)
    distinct = len(np.unique(found.steps, axis=0))
    weights = [each.problem.model.forcing.weights for each in draws_of(problem, found, jax.random.key(1), count)]
    assert len(np.unique(np.reshape(weights, (count, -1)), axis=0)) == distinct > count / 2


def test_what_a_doubted_outline_is_worth(problem):
    images = {name: dataclasses.replace(o, effective_voxels=None) for name, o in problem.observations.items()}
    weakened, vague = (
        weaken(dataclasses.replace(problem, observations=images), 20.0, 10.0, 1.0),
        SurfaceErrors(1.1, 8.6, 3.0),
    )
    once = doubted(weakened, 3.0)
    for name, image in once.problem.observations.items():
        anew = dataclasses.replace(image, errors=vague, effective_voxels=None).placed(problem.anatomy.grid)
        assert float(image.weight) == pytest.approx(float(anew.weight), rel=1e-5)
        assert float(image.weight) < float(weakened.problem.observations[name].weight)
    # On voxels so coarse that each of them counts, too.
    fine = dataclasses.replace(problem.observations["core"], effective_voxels=20.0 * 8)
    coarse = dataclasses.replace(problem, observations={**images, "core": fine}).coarsen(2)
    assert float(coarse.observations["core"].weight) == 1
    less = doubted(weaken(coarse, 20.0, 10.0, 1.0), 3.0).problem.observations["core"]
    assert float(less.effective_voxels) < 0.8 * 160
    # A number of the user's own beside errors by which every voxel would count is worth what the model's error leaves.
    own = dataclasses.replace(images["core"], errors=SurfaceErrors(0.0), effective_voxels=60.0)
    own = dataclasses.replace(problem, observations={**images, "core": own})
    left = doubted(weaken(own, 20.0, 10.0, 1.0), 3.0).problem.observations["core"].effective_voxels
    assert 1 < float(left) <= 60
    # Whose errors are as large already is not doubted further, and every voxel counts where it did.
    again = doubted(once, 2.0).problem.observations["core"]
    assert float(again.weight) == float(once.problem.observations["core"].weight)
    certain = doubted(weaken(problem, 20.0, 10.0, 1.0), 3.0)
    assert float(certain.problem.observations["core"].weight) == 1


def test_an_error_of_the_model_widens_deviations_and_nothing_else(lopsided, found):
    every = lopsided[0]
    images = {name: dataclasses.replace(o, effective_voxels=None) for name, o in every.observations.items()}
    problem = dataclasses.replace(every, observations=images)
    methods = (WeakConstraint(found.deviation**-2, **SETTINGS, model_error=error) for error in (0.0, 3.0))
    sure, vague = (calibrate(problem, method) for method in methods)
    np.testing.assert_array_equal(sure.coordinates, vague.coordinates)
    assert sure.evidence == vague.evidence
    assert np.all(np.diag(np.asarray(sure.covariance)) < np.diag(np.asarray(vague.covariance)))
    narrow, wide = (each.maps(problem).deviation.mean() for each in (sure, vague))
    assert narrow < 0.9 * wide


def test_draws_are_left_out_where_none_are_wanted(lopsided, found):
    again = calibrate(lopsided[0], WeakConstraint(found.deviation**-2, **SETTINGS | {"draws": 0}))
    assert again.steps is None and again.cost.coarse_gradients < found.cost.coarse_gradients


def test_the_field_is_written_with_its_place(found, tmp_path):
    ((name, write),) = found.files().items()
    write(tmp_path / name)
    image = nib.load(tmp_path / name)
    np.testing.assert_allclose(image.get_fdata(), found.departure, rtol=1e-6)
    np.testing.assert_allclose(image.affine, found.grid.affine, atol=1e-5)


def test_the_report_and_the_tables_tell_the_prices(found):
    section = next(each for each in found.sections() if each.title == "Departure from the model")
    table = section.blocks[1]
    assert len(table.rows) == len(found.prices)
    assert table.rows[0][0] is None
    assert found.tables()["prices"][0]["deviation"] == 0
    assert found.figures()["forcing_deviation"] == found.deviation


def test_a_run_goes_on_from_its_checkpoint(lopsided, found, tmp_path, monkeypatch):
    method = WeakConstraint(found.deviation**-2, **SETTINGS | {"draws": 2}, checkpoint=str(tmp_path / "checkpoint"))
    first = calibrate(lopsided[0], method)
    for name in ("minimise", "trajectories"):
        monkeypatch.setattr(f"tumorjax.methods.search.weak_constraint.{name}", None)
    again = calibrate(lopsided[0], method)
    np.testing.assert_array_equal(first.coordinates, again.coordinates)
    np.testing.assert_array_equal(first.forcing.weights, again.forcing.weights)
    np.testing.assert_array_equal(first.steps, again.steps)


@pytest.mark.parametrize(
    "price, words", ((0.0, "positive price"), (np.inf, "take LBFGS, which keeps to the equation"), (-1.0, "positive"))
)
def test_a_price_is_positive_and_finite(price, words):
    with pytest.raises(ValueError, match=words):
        WeakConstraint(price)


@pytest.mark.parametrize(
    "settings",
    (
        {"length": 0.0},
        {"length": "10"},
        {"reach": -1.0},
        {"coarsening": 0},
        {"coarsening": 1.5},
        {"budget": 1},
        {"budget": np.nan},
        {"draws": -1},
        {"draws": 2.5},
        {"start": "lbfgs"},
        {"price": "4"},
        {"price": 1e-300},
        {"model_error": -1.0},
    ),
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        WeakConstraint(**settings)


def test_what_cannot_depart_is_refused():
    assert "no rate of division" in WeakConstraint().refuses_model(GompertzGrowth())


def test_a_lattice_of_too_many_knots_is_refused(problem):
    with pytest.raises(ValueError, match="give a larger length"):
        calibrate(problem, WeakConstraint(**{**SETTINGS, "length": 4.0}))
