"""Tumours of several foci: a seed in each, found together with the growth."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import OUTLINES, ball_brain, patient, small_brain
from tumorjax.calibration import Problem, calibrate, default_prior
from tumorjax.calibration.estimates import correlation_of
from tumorjax.calibration.foci import foci_of
from tumorjax.calibration.method import AbstractMethod
from tumorjax.growth import FisherKolmogorov, Foci, ScaledGrowthParams, Seeds
from tumorjax.integrate import simulate
from tumorjax.methods import LBFGS, NUTS, LearnMorphInfer, Retrieval
from tumorjax.methods.from_atlas.morphing import incomparable
from tumorjax.methods.search.starts import geometric_starts, prior_points, starting_points
from tumorjax.observation import Outline
from tumorjax.pipeline.problems import notes_on_foci
from tumorjax.planning import dice
from tumorjax.prior import LogNormal, Normal
from tumorjax.quality import Status, status_of

TWO = np.array([[-14.0, -12.0, 10.0], [-8.0, 20.0, -6.0]])
# The second is half as old as it would be with a share of one.
TRUTH = ScaledGrowthParams(3.6, 3.0, Foci(TWO, np.array([0.1])))
MODEL = FisherKolmogorov()


@pytest.fixture(scope="module")
def anatomy():
    return small_brain()


@pytest.fixture(scope="module")
def density(anatomy):
    return np.asarray(simulate(MODEL, TRUTH, anatomy).density)


@pytest.fixture(scope="module")
def problem(anatomy, density):
    tissue = np.asarray(anatomy.tissue)
    outlines = {name: Outline((density > p.threshold).astype(np.float32), tissue) for name, p in OUTLINES.items()}
    return Problem(MODEL, anatomy, outlines, default_prior(anatomy, outlines))


@pytest.fixture(scope="module")
def found(problem):
    return calibrate(problem, LBFGS(starts=1, coarsening=1, value_tolerance=0.02))


def test_each_focus_has_a_seed(problem, found, density):
    assert problem.prior.size == 9 + 4
    points = np.asarray(found.params.growth.origin.points)
    assert np.linalg.norm(points - TWO, axis=1).max() < 2.5
    assert float(found.params.growth.origin.shares[0]) < 0.5
    # In each focus the model's outlines are those of the truth.
    estimate = np.asarray(problem.density(found.params))
    side = np.argmin([np.linalg.norm(_world(problem.anatomy) - point, axis=-1) for point in TWO], axis=0)
    for name, outline in OUTLINES.items():
        params = found.params.observations[name]
        for focus in range(2):
            here = side == focus
            assert dice((estimate > float(params.threshold)) & here, (density > outline.threshold) & here) > 0.75


def test_estimates_name_every_focus(found):
    rows = {row.name: row for row in found.estimates()}
    names = list(rows)
    assert names[:9] == [
        "mu1", "mu2", "origin_x", "origin_y", "origin_z", "origin_2_x", "origin_2_y", "origin_2_z", "share_2"
    ]  # fmt: skip
    origin = found.params.growth.origin
    np.testing.assert_allclose([rows[f"origin_2_{axis}"].value for axis in "xyz"], origin.points[1])
    assert rows["share_2"].value == pytest.approx(float(origin.shares[0]))
    assert all(0 < row.deviation < np.inf for row in list(rows.values())[:9])
    assert rows["origin_y"].symbol == "y_0" and rows["origin_2_y"].symbol == "y_0,2"
    labels, matrix = correlation_of(found, list(rows.values()))
    assert labels[:9] == names[:9]
    np.testing.assert_allclose(np.diag(matrix), 1, rtol=1e-5)


def test_seeds_of_unequal_mass_are_the_sum_of_each(anatomy):
    masses = np.array([12.0, 1.2], np.float32)
    both = Seeds(TWO, masses, 2.0).initial(anatomy)
    each = [Seeds(point, mass, 2.0).initial(anatomy) for point, mass in zip(TWO, masses, strict=True)]
    np.testing.assert_allclose(both, each[0] + each[1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(MODEL.initial(TRUTH, anatomy), both, rtol=1e-6)
    equal = dataclasses.replace(TRUTH, origin=Foci(TWO, np.ones(1)))
    plain = dataclasses.replace(TRUTH, origin=TWO)
    np.testing.assert_allclose(MODEL.initial(equal, anatomy), MODEL.initial(plain, anatomy), rtol=1e-6)


def test_foci_under_transformations(anatomy):
    def cells(shares):
        growth = ScaledGrowthParams(3.6, 3.0, Foci(jnp.asarray(TWO, jnp.float32), shares))
        return simulate(MODEL, growth, anatomy).density.sum()

    shares = jnp.asarray([0.1], jnp.float32)
    slope = jax.jit(jax.grad(cells))(shares)
    step = jnp.float32(0.01)
    middle = (cells(shares + step) - cells(shares - step)) / (2 * step)
    assert float(slope[0]) == pytest.approx(float(middle), rel=0.02)
    batch = jax.vmap(cells)(jnp.asarray([[0.1], [0.5]], jnp.float32))
    np.testing.assert_allclose(batch, [float(cells(shares)), float(cells(5 * shares))], rtol=1e-4)


@pytest.mark.parametrize(
    ("points", "shares", "message"),
    (
        (TWO, np.ones(2), r"points \(n, 3\) and the shares \(n - 1,\).*got shapes \(2, 3\) and \(2,\)"),
        (TWO[0], np.ones(0), r"got shapes \(3,\) and \(0,\)"),
        (TWO, np.zeros(1), "shares must be finite and positive"),
        (TWO[:, :2], np.ones(1), "origin must be three finite world coordinates"),
    ),
)
def test_bad_foci_are_refused(points, shares, message):
    with pytest.raises(ValueError, match=message):
        Foci(points, shares)


def test_foci_are_taken_from_lists():
    listed, made = Foci(TWO.tolist(), [0.1]), Foci(TWO, np.array([0.1]))
    np.testing.assert_array_equal(listed.points, made.points)
    np.testing.assert_array_equal(listed.shares, made.shares)


def outlines_of(core, lesion):
    valid = np.ones(core.shape, bool)
    return {"core": Outline(core.astype(float), valid), "lesion": Outline(lesion.astype(float), valid)}


def test_parts_of_a_core_are_foci_where_they_are_large_and_apart():
    grid = ball_brain((40, 30, 30), 2.0).grid
    core, lesion = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    core[4:10, 4:10, 4:10] = core[14:18, 4:10, 4:10] = core[25:33, 10:18, 10:18] = True
    core[25, 25, 25] = True
    lesion[2:20, 2:12, 2:12] = lesion[23:35, 8:20, 8:20] = True
    foci = foci_of(outlines_of(core, lesion), grid)
    # Four voxels are 10 mm from centre to centre; a single voxel is no focus.
    assert [int(focus.core.sum()) for focus in foci] == [512, 216, 144]
    assert int(sum(focus.lesion.sum() for focus in foci)) == lesion.sum()
    assert foci[0].lesion[23:35, 8:20, 8:20].all()
    # Two voxels nearer they are one.
    core[10:12, 4:10, 4:10] = True
    assert [int(focus.core.sum()) for focus in foci_of(outlines_of(core, lesion), grid)] == [512, 216 + 144 + 72]
    # Of a core that is outlined alone each part is its own lesion.
    alone = foci_of({"core": outlines_of(core, lesion)["core"]}, grid)
    assert [int(focus.lesion.sum()) for focus in alone] == [512 + 1, 216 + 144 + 72]
    assert foci_of({"lesion": outlines_of(core, lesion)["lesion"]}, grid) == []


def test_one_focus_has_the_prior_and_starts_of_one_seed():
    asked = patient("isolines")
    one, several = (default_prior(asked.anatomy, asked.observations, several=each) for each in (False, True))
    assert eqx.tree_equal(one, several)
    assert isinstance(one.distributions.growth.origin, Normal)
    assert one.distributions.growth.origin.shape == (3,)


def test_starts_lie_in_each_focus(problem, density):
    starts = geometric_starts(problem, 3)
    parts = foci_of(problem.observations, problem.anatomy.grid)
    for start in starts:
        origin = start.growth.origin
        voxels = np.round(problem.anatomy.grid.to_index(origin.points)).astype(int)
        assert all(part.core[tuple(voxel)] for part, voxel in zip(parts, voxels, strict=True))
        # A smaller focus appeared later.
        assert 0.005 < float(origin.shares[0]) < 0.9
    assert len({tuple(np.ravel(start.growth.origin.points)) for start in starts}) == 3
    # With seeds of a user's own, starts come from the prior.
    three = Foci(Normal(np.zeros((3, 3)), 10.0), LogNormal(np.ones(2), 1.0))
    unknown = problem.prior.distributions
    growth = dataclasses.replace(unknown.growth, origin=three)
    own = dataclasses.replace(problem, prior=type(problem.prior)(dataclasses.replace(unknown, growth=growth)))
    np.testing.assert_array_equal(starting_points(own, 2), prior_points(own.prior.size, 2))
    with pytest.raises(ValueError, match="need a part of the core for each seed"):
        geometric_starts(own, 2)


def test_methods_that_know_one_seed_say_so(problem):
    class Answers(AbstractMethod):
        @property
        def single_seed(self):
            return True

        def run(self, problem, key, progress):
            raise NotImplementedError

    assert not LBFGS().single_seed and not NUTS().single_seed
    assert LBFGS(init=Answers()).single_seed and NUTS(start=LBFGS(init=Answers())).single_seed
    assert all("single_seed" in vars(method) for method in (Retrieval, LearnMorphInfer))
    reason = incomparable(problem, "retrieval")
    assert reason is not None and re.search(r"retrieval knows tumours of one seed, .*; give .* several=False", reason)


def test_notes_on_foci(problem):
    (plain,) = notes_on_foci(problem)
    assert plain.startswith("The core has 2 parts that lie apart, of ")
    assert status_of([plain]) is Status.GOOD
    single = default_prior(problem.anatomy, problem.observations, several=False)
    assert single.size == 9
    (doubt,) = notes_on_foci(dataclasses.replace(problem, prior=single))
    assert "knows tumours of a single seed only" in doubt
    assert status_of([doubt]) is Status.DOUBTFUL
    assert notes_on_foci(patient("isolines")) == []


def _world(anatomy):
    grid = anatomy.grid
    return np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
