"""Problems of several visits: their days, solves, gradients and posteriors."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, box, patient
from tests.visits import DAYS, TRUTH, patient_of_visits, radiation, volumes_of_treated_visits, volumes_of_visits
from tumorjax.calibration import Parameters, Problem, Visit, calibrate, default_prior
from tumorjax.calibration.evaluation import evaluate, value_and_gradient
from tumorjax.growth import (
    Chemotherapy,
    FisherKolmogorov,
    GompertzGrowth,
    GrowthParams,
    InitialDensity,
    MassEffect,
    MassEffectParams,
    Radiotherapy,
    Surgery,
    VolumeParams,
)
from tumorjax.integrate import Calendar, ForwardMode, Result, simulate
from tumorjax.methods import LBFGS, NUTS, TMCMC, Retrieval
from tumorjax.methods.neural.simulator import ProblemSimulator
from tumorjax.observation import OutlineParams
from tumorjax.prior import LogNormal, Prior

MODEL = FisherKolmogorov()
EMPTY = np.zeros((2, 2, 2))


@pytest.fixture(scope="module")
def problem():
    return patient_of_visits()


def test_a_calendar_is_in_days_since_the_seed():
    treatments = (Surgery(12, EMPTY), Radiotherapy((11, 13), 2.0, 0.1), Chemotherapy(13, 99, 0.1))
    calendar = Calendar.of((10, 12, 20), treatments)
    first, second = calendar.since_seed(jnp.asarray(30.0))
    np.testing.assert_allclose(first.days, [0, 30, 31, 32])
    np.testing.assert_allclose(second.days, [32, 33, 40])
    # The images of day 12 are from before its surgery.
    assert (calendar.positions, second.surgeries) == ((1, 3, 5), (0,))
    np.testing.assert_array_equal(first.fractions[:, 0], [0, 0, 1])
    np.testing.assert_array_equal(second.drugs[:, 0], [0, 1])
    np.testing.assert_allclose(calendar.kept(jnp.asarray(30.0)).days, [30, 32])
    assert float(calendar.span) == 10


def test_a_treatment_may_come_before_the_first_visit_and_after_the_seed():
    calendar = Calendar.of((10, 20), (Radiotherapy((4,), 2.0, 0.1),))
    (phase,) = calendar.since_seed(jnp.asarray(8.0))
    np.testing.assert_allclose(phase.days, [0, 2, 8, 18])
    assert [bool(calendar.possible(jnp.asarray(age))) for age in (8.0, 6.0, 5.0)] == [True, True, False]


@pytest.mark.parametrize(
    ("days", "treatments", "message"),
    [
        ((), (), "visits need days that are finite numbers, got \\[\\]"),
        ((0, np.nan), (), "visits need days that are finite numbers"),
        ((60, 0), (), "in the order of their days, each on a day of its own; got day 0 after day 60"),
        ((0, 60, 60), (), "got two on day 60"),
        ((0, 60), (Radiotherapy((30, 60), 2.0, 0.1),), "on day 60, but the last visit is on day 60 and shows nothing"),
    ],
)
def test_days_that_make_no_calendar(days, treatments, message):
    with pytest.raises(ValueError, match=message):
        Calendar.of(days, treatments)


def test_one_solve_shows_what_a_solve_for_each_day_does(problem):
    shown = problem.predict(Parameters(TRUTH, {}, {"radiation": {"alpha": 0.03}}))
    for fields, day in zip(shown, DAYS, strict=True):
        age = TRUTH.duration + day - DAYS[0]
        done = [radiation(0.03, tuple(d - DAYS[0] + TRUTH.duration for d in (105, 106, 107)))] if day > DAYS[0] else []
        alone = simulate(MODEL, dataclasses.replace(TRUTH, duration=age), problem.anatomy, treatments=done).density
        # Both err in time by about as much.
        np.testing.assert_allclose(fields.density, alone, atol=2e-3)
        assert float(alone.max()) > 0.3


def test_scaled_and_physical_parameters_are_one_tumour():
    anatomy, calendar = box((8, 8, 8), 4.0), Calendar.of((0, 40))
    physical = GrowthParams(0.3, 0.06, np.array([1.0, 2.0, 0.0]), 60.0)
    first, second = (simulate(MODEL, each, anatomy, calendar=calendar) for each in (physical, physical.scaled()))
    np.testing.assert_allclose(first.series, second.series, rtol=1e-9)
    np.testing.assert_allclose(first.times, [60, 100])


def test_a_known_state_on_the_day_of_the_first_visit():
    # Without diffusion growth is logistic, which the scheme solves exactly.
    anatomy, first = box((4, 4, 4)), np.full((4, 4, 4), 0.1)
    params = GrowthParams(0.0, 0.05, InitialDensity(first), 0.0)
    calendar = Calendar.of((7, 27, 47), (radiation(0.1, (27,)), Surgery(27, 0.5 * np.ones((4, 4, 4)), 0.4)))
    solution = simulate(
        MODEL, params, anatomy, calendar=calendar, treatments=(radiation(0.1), Surgery(0, np.full((4, 4, 4), 0.5), 0.4))
    )
    grown = lambda c, t, rate=0.05: c / (c + (1 - c) * np.exp(-rate * t))  # noqa: E731
    second = grown(0.1, 20)
    # Of the halves of the voxels that surgery was to take, two fifths stayed: cells grow in 0.7 of each voxel.
    left = second * 0.7 * np.exp(-0.1 * 6 * (1 + 0.6))
    expected = [0.1, second, grown(left, 20, 0.05 * 0.7)]
    np.testing.assert_allclose(solution.series[:, 2, 2, 2], expected, rtol=1e-9)


def test_a_treatment_before_the_seed_is_no_likely_one(problem):
    young = dataclasses.replace(TRUTH, duration=jnp.asarray(2.0))
    early = Problem(
        MODEL,
        problem.anatomy,
        list(problem.visits),
        problem.prior,
        treatments={"radiation": radiation(LogNormal(0.05, 0.7), (95.0,))},
    )
    params = Parameters(young, {}, {"radiation": {"alpha": jnp.asarray(0.03)}})
    solution = early.solve(params)
    assert int(solution.result) == Result.TREATMENT_BEFORE_SEED
    assert np.isnan(solution.series).all()


def test_taylor_remainder_of_the_posterior_is_of_second_order(problem):
    z = jnp.asarray(problem.prior.unconstrain(_truth(problem))) + 0.1
    # Another parameter each, the age of the tumour and the radiosensitivity among them, and all together.
    assert "growth.duration" in problem.prior.names and "treatments.radiation.alpha" in problem.prior.names
    value, gradient = evaluate(value_and_gradient, problem, z)
    value_at = eqx.filter_jit(lambda p, z: -p.log_posterior(z))
    directions = [*np.eye(z.size), np.random.default_rng(0).normal(size=z.size)]
    for name, direction in zip([*problem.prior.names, "all"], directions, strict=True):
        sizes = [2e-3, 1e-3]
        remainders = [
            abs(float(value_at(problem, z + h * direction) - value - h * gradient @ direction)) for h in sizes
        ]
        assert remainders[0] / remainders[1] == pytest.approx(4, abs=0.4), (name, remainders)


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_forward_and_reverse_mode_agree(problem):
    params = _truth(problem)

    def total(alpha, adjoint):
        given = dataclasses.replace(params, treatments={"radiation": {"alpha": alpha}})
        return sum(jnp.sum(fields.density**2) for fields in problem.predict(given, adjoint))

    alpha = jnp.asarray(0.03)
    forward = jax.jvp(lambda a: total(a, ForwardMode()), (alpha,), (jnp.ones(()),))[1]
    assert float(jax.grad(lambda a: total(a, None))(alpha)) == pytest.approx(float(forward), rel=1e-9)


def test_days_are_not_compiled_in():
    traced = []

    class Counting(FisherKolmogorov):
        def terms(self, params, anatomy):
            traced.append(1)
            return super().terms(params, anatomy)

    problem = patient_of_visits(model=Counting())
    z = np.zeros(problem.prior.size)
    first = evaluate(value_and_gradient, problem, z)[0]
    count = len(traced)
    later = [Visit(day, visit.observations) for day, visit in zip((3.0, 40.0, 61.0), problem.visits, strict=True)]
    moved = Problem(
        Counting(),
        problem.anatomy,
        later,
        problem.prior,
        treatments={"radiation": radiation(0.03, (13.0, 14.0, 20.0))},
    )
    assert float(evaluate(value_and_gradient, moved, z)[0]) != pytest.approx(float(first))
    assert len(traced) == count


def test_one_visit_is_the_problem_of_one_date():
    plain = patient("shares")
    visited = Problem(plain.model, plain.anatomy, [Visit(42.0, plain.observations)], plain.prior)
    assert bool(eqx.tree_equal(plain, visited))
    assert (visited.earlier, visited.calendar) == ((), None)
    assert (
        default_prior(plain.anatomy, [Visit(42.0, plain.observations)]).names
        == default_prior(plain.anatomy, plain.observations).names
    )


def test_images_of_one_name_share_their_unknowns_and_the_speed_is_one():
    problem = patient_of_visits(treated=False)
    prior = default_prior(problem.anatomy, problem.visits, treatments={"radiation": radiation(LogNormal(0.05, 0.7))})
    assert prior.names == [
        "growth.mu1",
        "growth.mu2",
        *(f"growth.origin[{axis}]" for axis in range(3)),
        "growth.speed",
        "observations.core.threshold",
        "observations.core.sharpness",
        "observations.lesion.threshold",
        "observations.lesion.sharpness",
        "treatments.radiation.alpha",
    ]
    whole = Problem(problem.model, problem.anatomy, problem.visits, prior, treatments={"radiation": radiation(0.03)})
    assert [name for name, *_ in whole.seen(whole.predict(prior.constrain(jnp.zeros(prior.size))))] == [
        f"{name}_{i}" for i in (1, 2, 3) for name in ("core", "lesion")
    ]


def test_a_search_finds_the_truth_and_tables_have_the_speed(one_test_as_installed):
    problem = patient_of_visits((100.0, 160.0), treated=False, dtype=np.float32)
    prior = default_prior(problem.anatomy, problem.visits)
    sharp = {name: dataclasses.replace(each, sharpness=4.0) for name, each in prior.distributions.observations.items()}
    prior = Prior(dataclasses.replace(prior.distributions, observations=sharp))
    found = calibrate(Problem(MODEL, problem.anatomy, problem.visits, prior), LBFGS(starts=1, coarsening=1, budget=30))
    truth = TRUTH.scaled()
    for name in ("mu1", "mu2", "speed"):
        assert float(getattr(found.params.growth, name)) == pytest.approx(float(getattr(truth, name)), rel=0.1), name
    rows = {row.name: row for row in found.estimates()}
    assert not rows["speed"].fixed and rows["speed"].deviation < 0.5 * rows["speed"].value
    assert rows["speed"].meaning == "front speed" and "assumed" not in rows["duration"].meaning
    assert rows["duration"].value == pytest.approx(80, rel=0.15)


def test_a_posterior_of_volumes_is_known():
    problem, mean, covariance = volumes_of_visits((5.0, 25.0, 55.0, 95.0))
    found = calibrate(problem, LBFGS(gradient_tolerance=1e-6, value_tolerance=0.0))
    np.testing.assert_allclose(found.coordinates, mean, atol=1e-6)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-6)


def test_the_effects_of_treatments_have_a_known_posterior():
    problem, mean, covariance = volumes_of_treated_visits()
    assert problem.prior.names[2:] == ["treatments.drug.rate", "treatments.radiation.alpha"]
    found = calibrate(problem, LBFGS(starts=1, gradient_tolerance=1e-6, value_tolerance=0.0))
    np.testing.assert_allclose(found.coordinates, mean, atol=1e-6)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-6)
    rows = {row.name: row for row in found.estimates()}
    assert rows["radiation_alpha"].unit == "1/Gy" and rows["drug_rate"].unit == "1/day"
    assert rows["radiation_alpha"].deviation == pytest.approx(0.02 * np.sqrt(covariance[3, 3]), rel=1e-6)


def test_a_visit_more_never_widens_an_interval():
    days, before = (0.0, 10.0, 30.0, 31.0, 80.0), np.ones(2)
    for count in range(1, len(days) + 1):
        problem, mean, _ = volumes_of_visits(days[:count])
        found = calibrate(problem, LBFGS(starts=1, gradient_tolerance=1e-6, value_tolerance=0.0))
        np.testing.assert_allclose(found.coordinates, mean, atol=1e-6)
        spread = np.sqrt(np.diagonal(found.covariance))
        assert np.all(spread <= before * (1 + 1e-9))
        before = spread
    assert before[1] < 0.05


@pytest.mark.parametrize(
    "method", [TMCMC(particles=256), NUTS(chains=2, draws=300, warmup=150)], ids=lambda each: each.name
)
def test_samplers_draw_from_the_known_posterior(method):
    problem, mean, covariance = volumes_of_visits((5.0, 25.0, 55.0, 95.0))
    found = calibrate(problem, method, key=jax.random.key(1))
    spread = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose((np.asarray(found.coordinates) - mean) / spread, 0, atol=0.3)
    np.testing.assert_allclose(np.sqrt(np.diagonal(found.covariance)) / spread, 1, atol=0.2)


def test_a_drug_and_surgery_act_on_a_law_of_a_volume():
    # Without growth the drug alone acts; a third of what surgery was to take remained.
    params = VolumeParams(1000.0, 0.0, 0.0, 5000.0)
    treatments = (Chemotherapy(10, 20, 0.03), Surgery(30, 0.6, 1 / 3))
    solution = simulate(GompertzGrowth(), params, treatments=treatments, calendar=Calendar.of((5, 15, 40), treatments))
    np.testing.assert_allclose(solution.series, [1000, 1000 * np.exp(-0.15), 600 * np.exp(-0.3)], rtol=1e-12)


def test_methods_for_one_date_refuse_several(problem):
    for method in (Retrieval.__new__(Retrieval), LBFGS(init=Retrieval.__new__(Retrieval))):
        with pytest.raises(ValueError, match=r"for images of one date, without treatment, got 3 visits .* use LBFGS"):
            calibrate(problem, method)


def _truth(problem):
    observations = {name: OutlineParams(u, 4.0) for name, u in (("core", 0.65), ("lesion", 0.25))}
    truth = Parameters(TRUTH, observations, {"radiation": {"alpha": 0.03}})
    return jax.tree.map(jnp.asarray, truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"treatments": {"surgery": Surgery(120.0, np.zeros((20, 20, 20)))}},
            "the prior has the treatment 'radiation'",
        ),
        ({"treatments": {"radiation": radiation(0.1, (180.0,))}}, "a treatment takes place on day 180, but the last"),
        ({"observations": 1.0, "treatments": {}}, "observations have names"),
        ({"observations": [Visit(0.0, {"core": 1.0}), 1.0]}, re.escape("[Visit(day, observations), ...], got float")),
        ({"observations": [1.0], "treatments": {}}, "observations have names, as in .* got list"),
        ({"prior": "alpha"}, "alpha of the treatment 'radiation' is a distribution, which the prior lacks"),
        ({"prior": "dose"}, "of the treatment 'radiation' alpha and ratio can be calibrated, got dose"),
        ({"anatomy": None}, "a model of cells in space"),
    ],
)
def test_problems_that_cannot_be(problem, change, message):
    given = {
        "anatomy": problem.anatomy,
        "observations": problem.visits,
        "prior": problem.prior,
        "treatments": {"radiation": radiation(LogNormal(0.05, 0.7))},
    }
    given |= change
    if isinstance(given["prior"], str):
        wrong = {} if given["prior"] == "alpha" else {"radiation": {"alpha": 0.03, "dose": LogNormal(1.0, 1.0)}}
        given["prior"] = Prior(dataclasses.replace(problem.prior.distributions, treatments=wrong))
    with pytest.raises(ValueError, match=message):
        Problem(MODEL, **given)


def test_visits_and_treatments_come_along_to_other_grids(problem):
    shape = problem.anatomy.grid.shape
    cavity = np.zeros(shape)
    cavity[8:12, 8:12, 8:12] = 1
    dose = np.full(shape, 2.0)
    dose[10:] = 4.0
    treatments = {"radiation": Radiotherapy((110.0,), dose, 0.03), "surgery": Surgery(120.0, cavity, 0.1)}
    unknown = dataclasses.replace(problem.prior.distributions, treatments={})
    whole = Problem(MODEL, problem.anatomy, problem.visits, Prior(unknown), treatments=treatments)
    coarse, near = whole.coarsen(2), whole.around(4.0)
    for each in (coarse, near):
        assert {o.valid.shape for visit in each.visits for o in visit.observations.values()} == {
            each.anatomy.grid.shape
        }
        assert each.treatments["radiation"].dose.shape == each.treatments["surgery"].cavity.shape
        assert each.treatments["surgery"].cavity.shape == each.anatomy.grid.shape
        assert eqx.tree_equal(each.calendar, whole.calendar)
    assert float(coarse.treatments["surgery"].cavity.sum()) == pytest.approx(8.0)
    assert {float(dose) for dose in np.unique(coarse.treatments["radiation"].dose)} == {2.0, 4.0}
    # What was given is known again with its days.
    assert [(name, each.when) for name, each in near.dated.items()] == [("radiation", (110.0,)), ("surgery", (120.0,))]


def test_treatments_without_a_visit_have_no_day(problem):
    with pytest.raises(ValueError, match=r"observations need one: give \[Visit\(day, observations\)\]"):
        Problem(MODEL, problem.anatomy, problem.observations, problem.prior, treatments={"radiation": radiation(0.1)})


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_visits_of_a_tumour_that_pushes():
    """Each visit shows what a solve to its day does."""
    truth = MassEffectParams(GrowthParams(0.3, 0.1, np.array([-12.0, -6.0, 5.0]), 80.0), 3e4)
    anatomy = ball_brain((10, 10, 10), 9.0)
    problem = patient_of_visits((0.0, 30.0), treated=False, model=MassEffect(), growth=truth, anatomy=anatomy)
    fluid = problem.anatomy.csf
    shown = problem.predict(Parameters(truth, {}))
    for fields, age in zip(shown, (80.0, 110.0), strict=True):
        alone = simulate(MassEffect(), MassEffectParams(truth.growth.lasting(age), 3e4), problem.anatomy)
        np.testing.assert_allclose(fields.density, alone.density, atol=0.01)
        np.testing.assert_allclose(fields.displacement, alone.displacement, atol=0.05)
        np.testing.assert_allclose(fields.csf, alone.anatomy.csf, atol=0.01)
    moved = [float(np.abs(np.asarray(fields.displacement)).max()) for fields in shown]
    assert 0.5 < moved[0] < moved[1]
    assert np.abs(np.asarray(shown[1].csf) - fluid).max() > 0.02


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_images_of_all_visits_are_drawn(problem):
    simulator = ProblemSimulator.of(problem)
    labels, values, extras = simulator.observed()
    voxels = problem.anatomy.tissue.size
    assert (labels.shape, values.size, extras.size) == ((6 * voxels,), 0, 0)
    z = jnp.asarray(problem.prior.unconstrain(_truth(problem)))
    mean, _ = simulator.expected(simulator.predict(z))
    # The labels are the probabilities at the truth.
    valid = np.tile(np.asarray(problem.anatomy.tissue).ravel(), 6)
    np.testing.assert_allclose(np.asarray(mean)[valid], labels[valid], atol=1e-9)
    drawn, _, _ = simulator.draw(simulator.predict(z), jax.random.key(0))
    assert float(np.mean(np.asarray(drawn)[valid])) == pytest.approx(float(labels[valid].mean()), rel=0.2)
