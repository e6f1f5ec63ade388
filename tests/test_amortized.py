"""The amortised posterior: what a network says, corrected by the likelihood."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("arviz")

from flax import nnx

from tests.problems import TRUTH, patient
from tumorjax import TMCMC, AmortizedPosterior, Anatomy, Grid, MassEffect, calibrate
from tumorjax.calibration import default_prior
from tumorjax.io import InputError
from tumorjax.methods import DoubtfulEstimate
from tumorjax.methods.from_atlas.learnt import shares_of
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.networks import (
    Distribution,
    InverseArchitecture,
    InverseNetwork,
    TrainingBox,
    infer,
    infer_distribution,
    save_inverse,
)
from tumorjax.networks.inverse_windows import THRESHOLDS
from tumorjax.quality import Status

SPACING = 8.0
TARGETS = ("mu1", "mu2", "x", "y", "z")
BOX = TrainingBox(
    (
        *((axis, -1.0, 1.0) for axis in "xyz"),
        ("mu1", 2.0, 14.0),
        ("mu2", 1.0, 6.0),
        ("threshold_core", 0.5, 0.85),
        ("threshold_lesion", 0.05, 0.5),
        ("core_ml", 0.0, 200.0),
        ("lesion_ml", 0.0, 300.0),
    )
)
MADE = InverseArchitecture("patch", 16, 4.0, True, SPACING, (*TARGETS, *THRESHOLDS), BOX, components=1)
# Standard deviations of its answer: front, steepness, seed in radii, thresholds.
WIDTHS = np.array([0.1, 0.15, 0.05, 0.05, 0.05, 0.8, 0.8])


@pytest.fixture(scope="module")
def problem():
    """A patient whose tumour is outlined at 0.65 and 0.25, with the default likelihood."""
    found = patient("isolines", dtype=np.float32)
    images = {
        name: dataclasses.replace(each, effective_voxels=60.0, false_positive=0.1, false_negative=0.3)
        for name, each in found.observations.items()
    }
    return dataclasses.replace(found, observations=images).coarsen(2)


def knowing(problem, away=0.0, **changes):
    """Return a network without tissue that gives the truth with `WIDTHS`, and errs by some of these."""
    made = dataclasses.replace(MADE, tissue=False, **changes)
    network = InverseNetwork(made, nnx.Rngs(0))
    core, lesion = (np.asarray(problem.observations[name].inside) >= 0.5 for name in ("core", "lesion"))
    view = made.view(core, lesion, np.zeros((*core.shape, 3), np.uint8))
    seed = (np.asarray(problem.anatomy.grid.to_index(TRUTH.origin)) - view.middle) * SPACING / view.radius
    values = {"mu1": TRUTH.mu1, "mu2": TRUTH.mu2, **dict(zip("xyz", seed, strict=True))}
    values |= {"threshold_core": 0.65, "threshold_lesion": 0.25}
    head, count = network.head, len(WIDTHS)
    target = made.coordinates(values, view.radius) + away * WIDTHS
    # The mixture's parts: weight, means, logarithms of the inverse widths, and entries below the diagonal.
    steep = 9.0 * np.arctanh(-np.log(WIDTHS) / 9.0)
    offset = np.concatenate([[0.0], target, steep, np.zeros(count * (count - 1) // 2)])
    head.offset.set_value(jnp.asarray(offset[None], jnp.float32))
    head.linear.set_value(jnp.zeros_like(head.linear[...]))
    return network


def test_the_distribution_is_that_of_the_network_on_voxels_of_any_edge(problem):
    network = knowing(problem)
    core, lesion = (np.asarray(problem.observations[name].inside) >= 0.5 for name in ("core", "lesion"))
    found = infer_distribution(network, core, lesion, shares_of(problem.anatomy))
    with pytest.raises(ValueError, match="predicts no distribution of gamma"):
        infer(network, core, lesion, shares_of(problem.anatomy), mass_effect=1e4)
    np.testing.assert_allclose(found.factors[0], np.diag(WIDTHS), rtol=1e-4, atol=1e-5)
    values = found.values(found.means)
    assert values["mu1"] == pytest.approx(TRUTH.mu1, rel=1e-3)
    assert values["threshold_lesion"] == pytest.approx(0.25, abs=1e-3)
    voxel = [float(values[axis][0]) for axis in "xyz"]
    np.testing.assert_allclose(problem.anatomy.grid.to_world(np.array(voxel)), TRUTH.origin, atol=0.01)
    # Every voxel divided into eight: the same lesion, seen on voxels of half the edge.
    halves = [np.repeat(np.repeat(np.repeat(each, 2, 0), 2, 1), 2, 2) for each in (core, lesion)]
    fine = infer_distribution(network, *halves, np.ones((*halves[0].shape, 3)) / 3, SPACING / 2)
    assert fine.view.radius == pytest.approx(found.view.radius)
    there = fine.values(fine.means)
    np.testing.assert_allclose([there[axis][0] for axis in "xyz"], 2 * np.array(voxel) + 0.5, atol=0.01)
    assert there["mu1"] == pytest.approx(values["mu1"])


def test_reflections_turn_means_and_covariances(problem):
    """A network that sees tissue is asked about all reflections."""
    network = InverseNetwork(MADE, nnx.Rngs(1))
    core, lesion = (np.asarray(problem.observations[name].inside) >= 0.5 for name in ("core", "lesion"))
    tissue = shares_of(problem.anatomy)
    one = infer_distribution(network, core, lesion, tissue)
    other = infer_distribution(network, core[::-1], lesion[::-1], tissue[::-1])
    assert np.exp(one.log_weights).sum() == pytest.approx(1)

    def moments(found):
        weights = np.exp(found.log_weights)
        mean = weights @ found.means
        inside = np.einsum("m,mij,mkj->ik", weights, found.factors, found.factors)
        return mean, inside + np.einsum("m,mi,mj->ij", weights, found.means - mean, found.means - mean)

    signs = np.array([1, 1, -1, 1, 1, 1, 1])
    (mean, covariance), (mirrored, turned) = moments(one), moments(other)
    np.testing.assert_allclose(mirrored, signs * mean, atol=2e-4)
    np.testing.assert_allclose(turned, signs[:, None] * signs * covariance, atol=2e-4)


def test_the_mean_given_the_mass_effect_is_that_of_the_draws_that_have_it():
    draw = np.random.default_rng(0)
    box = TrainingBox((*BOX.sides, ("gamma", 1e4, 9e4)))
    made = dataclasses.replace(MADE, targets=("mu1", "mu2", "gamma"), box=box, components=2)
    factors = np.tril(draw.normal(size=(2, 3, 3)) / 3) + 0.4 * np.eye(3)
    known = Distribution(np.log([0.3, 0.7]), draw.normal(size=(2, 3)) / 2, factors, made, None, SPACING)
    parts = draw.choice(2, size=2_000_000, p=[0.3, 0.7])
    points = known.means[parts] + np.einsum("nij,nj->ni", factors[parts], draw.normal(size=(len(parts), 3)))
    np.testing.assert_allclose(known.mean(), points.mean(axis=0), atol=2e-3)
    # 60 kPa is a quarter of the half width above the middle of the interval.
    near = np.abs(points[:, 2] - 0.25) < 0.02
    np.testing.assert_allclose(known.mean(6e4), [*points[near, :2].mean(axis=0), 0.25], atol=0.01)
    assert np.abs(known.mean(6e4) - known.mean()).max() > 0.05


def test_draws_without_correction_are_the_networks(problem):
    found = calibrate(problem, AmortizedPosterior(knowing(problem), corrected=False, draws=4000), key=jax.random.key(0))
    rows = {row.name: row for row in found.estimates()}
    # The mean of a log-normal; fronts and steepness err independently.
    spread = np.sqrt((WIDTHS[0] / 2) ** 2 + WIDTHS[1] ** 2)
    assert rows["mu1"].value == pytest.approx(TRUTH.mu1 * np.exp(spread**2 / 2), rel=0.02)
    assert rows["mu1"].deviation == pytest.approx(TRUTH.mu1 * spread, rel=0.1)
    assert found.cost.solves == 0 and np.isnan(found.log_evidence)
    assert any("no solve has checked them" in note and note.status == Status.DOUBTFUL for note in found.notes(problem))


@pytest.fixture(scope="module")
def reference(problem):
    """Draws and evidence of the posterior of growth, without a network."""
    return TMCMC(particles=400).draw(MarginalTarget(problem), jax.random.key(5))


@pytest.mark.parametrize("away", (0.0, 2.0))
def test_corrected_draws_are_those_of_the_posterior(problem, reference, away):
    """Whether the network is right or errs by two standard deviations in each number."""
    network = knowing(problem, away)
    found = calibrate(problem, AmortizedPosterior(network, draws=300), key=jax.random.key(0))
    assert found.stats.effective > 30
    draws, weights = np.asarray(found.draws[0], float)[:, :5], np.exp(np.asarray(found.log_weights, float))
    mean, deviation = reference.draws[0].mean(axis=0), reference.draws[0].std(axis=0)
    error = 4 * np.sqrt(1 / found.stats.effective + 1 / 200)
    np.testing.assert_allclose((weights @ draws - mean) / deviation, 0, atol=error)
    own = np.sqrt(weights @ (draws - weights @ draws) ** 2)
    np.testing.assert_allclose(own / deviation, 1, atol=error)
    assert float(found.log_evidence) == pytest.approx(reference.log_evidence, abs=0.5)
    # A posterior like any other: thresholds have been drawn.
    rows = {row.name: row for row in found.estimates()}
    assert 0.5 < rows["threshold_core"].value < 0.85 and rows["threshold_core"].deviation > 0.02
    again = calibrate(problem, AmortizedPosterior(network, draws=300), key=jax.random.key(0))
    np.testing.assert_array_equal(again.draws, found.draws)


def test_a_network_that_is_far_off_is_doubted(problem, monkeypatch):
    """Where the proposal is not improved; and where all draws fill the brain, and are equally unlikely."""
    monkeypatch.setattr("tumorjax.methods.neural.correction._REPEATS", 0)
    network = knowing(problem, np.array([-5.0, 0, 0, 0, 0, 0, 0]))
    with pytest.warns(DoubtfulEstimate, match="the network's posterior is not that of the likelihood"):
        found = calibrate(problem, AmortizedPosterior(network, draws=100), key=jax.random.key(0))
    assert any("worth" in note for note in found.notes(problem))
    network = knowing(problem, np.array([40.0, 0, 0, 0, 0, 0, 0]))
    with pytest.warns(DoubtfulEstimate) as told:
        found = calibrate(problem, AmortizedPosterior(network, draws=100), key=jax.random.key(0))
    assert any("the tumour of the draws is not the patient's" in str(each.message) for each in told)
    notes = found.notes(problem)
    assert not found.plausible and any("not the patient's (Dice 0." in note for note in notes)
    assert any("was not trained for mu1" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": 0}, "estimates no distribution; train one with components"),
        ({"targets": TARGETS[1:]}, "does not estimate mu1"),
        ({"shape": (20, 20, 20)}, "learnt in one brain, and here it sees the patient's"),
        (
            {"box": TrainingBox((*BOX.sides, ("gamma", 0.0, 1e5)))},
            "does not tell how strongly a tumour pushes; train one with gamma",
        ),
    ],
)
def test_a_network_that_cannot_tell_is_refused(changes, message, tmp_path):
    network = InverseNetwork(dataclasses.replace(MADE, **changes), nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        AmortizedPosterior(network)
    save_inverse(tmp_path / "network.safetensors", network)
    with pytest.raises(InputError, match=f"^network: .*{message}"):
        AmortizedPosterior.open(tmp_path / "network.safetensors")


def test_problems_that_the_network_does_not_know_are_refused(problem):
    method = AmortizedPosterior(InverseNetwork(MADE, nnx.Rngs(0)))
    assert "is for growth without mass effect, got MassEffect" in method.refuses_model(MassEffect())
    grid = problem.anatomy.grid
    long = Anatomy(
        Grid(grid.shape, np.asarray(grid.affine) @ np.diag([1, 1, 1.5, 1])),
        *(np.asarray(getattr(problem.anatomy, name)) for name in ("white_matter", "grey_matter", "csf")),
    )
    prior = default_prior(long, problem.observations)
    assert "sees cubic voxels" in method.refuses(dataclasses.replace(problem, anatomy=long, prior=prior))
    images = {"other": problem.observations["core"]}
    unknown = {"other": problem.prior.distributions.observations["core"]}
    prior = dataclasses.replace(
        problem.prior, distributions=dataclasses.replace(problem.prior.distributions, observations=unknown)
    )
    assert "needs an outline of the core" in method.refuses(
        dataclasses.replace(problem, observations=images, prior=prior)
    )
    with pytest.raises(ValueError, match="give calibrate a key"):
        calibrate(problem, method)
