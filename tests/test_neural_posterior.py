"""Neural posterior estimation: known posteriors for any proposal, and simulated images."""

import dataclasses
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from scipy.special import logsumexp

from tests.problems import OUTLINES, TRUTH, patient
from tumorjax.calibration import CalibrationResult, Parameters, calibrate
from tumorjax.methods import DoubtfulEstimate, NeuralPosterior, Posterior
from tumorjax.methods.neural import method as neural
from tumorjax.methods.neural.gaussians import Gaussians, Region, kernels
from tumorjax.methods.neural.simulations import Predictions, draw_data
from tumorjax.methods.neural.simulator import AbstractSimulator, ProblemSimulator
from tumorjax.methods.neural.summary import LabelMap, Summary, typicality
from tumorjax.methods.sampling.target import AbstractTarget, log_likelihoods
from tumorjax.networks import save_weights
from tumorjax.networks.mixture_density import (
    MixtureArchitecture,
    MixtureDensity,
    flattened,
    load_mixture,
    save_mixture,
    unflattened,
)
from tumorjax.networks.mixture_training import train_mixture
from tumorjax.observation import Outline, OutlineParams, Pet, PetParams, independent_voxels
from tumorjax.pipeline.small_animal import forecast, rat_brain, synthetic_rat, true_volumes
from tumorjax.storage import open_arrays, write_arrays

KEY = jax.random.key(0)


class Linear(AbstractSimulator):
    """Forty numbers, linear in three coordinates, with independent noise; fails where the first is above a bound."""

    bound: float = np.inf
    shift: float = 0.0

    @property
    def size(self) -> int:
        return 3

    @property
    def dtype(self) -> Any:
        return jnp.zeros(()).dtype

    @property
    def matrix(self) -> np.ndarray:
        """Features that determine the difference of the first two coordinates far better than their sum."""
        matrix = np.random.default_rng(0).normal(size=(40, 3)) / np.sqrt(40)
        matrix[:, :2] += 4 * matrix[:, :1] * np.array([1.0, -1.0])
        return matrix

    def observed(self):
        noise = np.random.default_rng(1).normal(size=40)
        return np.zeros(0), self.matrix @ np.array([0.8, 0.3, -0.5]) + noise + self.shift, np.zeros(0)

    def predict(self, z):
        return jnp.where(z[0] > self.bound, jnp.nan, jnp.asarray(self.matrix, z.dtype) @ z)

    def expected(self, prediction):
        return prediction, jnp.ones_like(prediction)

    def draw(self, prediction, key):
        nothing = jnp.zeros(0, prediction.dtype)
        return nothing > 0, prediction + jax.random.normal(key, prediction.shape, prediction.dtype), nothing

    @property
    def covariance(self) -> np.ndarray:
        return np.linalg.inv(np.eye(3) + self.matrix.T @ self.matrix)

    @property
    def mean(self) -> np.ndarray:
        return self.covariance @ self.matrix.T @ self.observed()[1]


class LinearTarget(AbstractTarget):
    """The likelihood of the same."""

    simulator: Linear

    @property
    def size(self) -> int:
        return 3

    @property
    def dtype(self) -> Any:
        return jnp.zeros(()).dtype

    def log_likelihood(self, z):
        away = jnp.asarray(self.simulator.observed()[1] - self.simulator.matrix @ z)
        return -0.5 * jnp.sum(away**2) - 20 * np.log(2 * np.pi)


@pytest.mark.parametrize("proposal", ("truncated", "weighted"))
def test_a_linear_posterior_is_found(proposal):
    toy = Linear()
    assert abs(toy.covariance[0, 1]) > 0.9 * np.sqrt(toy.covariance[0, 0] * toy.covariance[1, 1])
    method = NeuralPosterior(rounds=2, simulations=1000, proposal=proposal, components=2, members=2, images=2)
    learnt = method.learn(toy, KEY)
    mean, covariance = learnt.mixture.moments()
    deviations = np.sqrt(np.diag(toy.covariance))
    assert np.all(np.abs(mean - toy.mean) < 0.25 * deviations)
    factor = np.linalg.inv(np.linalg.cholesky(toy.covariance))
    # Variances along every direction, the narrow ones across the ridge among them.
    assert np.all(np.abs(np.linalg.eigvalsh(factor @ covariance @ factor.T) - 1) < 0.35)
    assert learnt.history[0, 0] == 1000
    assert learnt.history[1, 0] == 2000 if proposal == "weighted" else 1000 < learnt.history[1, 0] < 1900
    assert np.all(learnt.history[:, 2] > 0.9)
    assert np.all(learnt.history[:, 3] > 0.01)

    drawn = method.draw(learnt, LinearTarget(toy), KEY)
    (points,), (values,), (log_weights,), found = drawn.draws, drawn.log_likelihoods, drawn.log_weights, drawn.stats
    assert found.cost.solves == 3000
    assert found.effective > 400
    weights = np.exp(log_weights - logsumexp(log_weights))
    exact = stats.multivariate_normal(np.zeros(40), np.eye(40) + toy.matrix @ toy.matrix.T).logpdf(toy.observed()[1])
    assert drawn.log_evidence == pytest.approx(exact, abs=5 * found.log_evidence_error)
    assert np.all(np.abs(weights @ points - toy.mean) < 0.2 * deviations)
    np.testing.assert_allclose(values, log_likelihoods(LinearTarget(toy), points))

    plain = dataclasses.replace(method, corrected=False).draw(learnt, LinearTarget(toy), KEY)
    assert not plain.log_weights.any() and np.isnan(plain.log_evidence)
    assert plain.stats.cost.solves == 2000
    assert plain.stats.effective is plain.stats.log_evidence_error is None
    np.testing.assert_allclose(
        plain.log_likelihoods[0] + stats.multivariate_normal(np.zeros(3)).logpdf(plain.draws[0]),
        learnt.mixture.log_prob(plain.draws[0]),
    )


SHORT = NeuralPosterior(rounds=2, simulations=100, draws=50, components=1, members=2, images=2, hidden=8, epochs=5)


def test_keys_decide():
    first, again, other = (SHORT.learn(Linear(), jax.random.key(seed)).mixture for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.any(first.means == other.means)


def test_failed_simulations_are_left_out():
    toy = Linear(bound=0.5)
    learnt = SHORT.learn(toy, KEY)
    # About three tenths of the prior.
    assert 15 < learnt.history[0, 4] < 45
    assert len(learnt.kept.z) == learnt.history[1, 0] <= 200 - learnt.history[:, 4].sum()
    assert learnt.kept.z[:, 0].max() <= 0.5
    found = SHORT.draw(learnt, LinearTarget(Linear()), KEY)
    assert found.stats.failed == learnt.history[:, 4].sum()
    with pytest.raises(ValueError, match=r"of 100 simulations failed: .*narrow the prior"):
        SHORT.learn(Linear(bound=-0.3), KEY)


def test_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    file = str(tmp_path / "rounds.npz")
    method = dataclasses.replace(SHORT, checkpoint=file)
    whole = SHORT.learn(Linear(), KEY)
    simulated, draw = [], neural.draw_data

    def dying(*arguments, **settings):
        simulated.append(1)
        if len(simulated) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **settings)

    monkeypatch.setattr(neural, "draw_data", dying)
    with pytest.raises(KeyboardInterrupt):
        method.learn(Linear(), KEY)
    for _ in range(2):
        resumed = method.learn(Linear(), KEY)
        for one, two in zip(whole.mixture, resumed.mixture, strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(whole.history, resumed.history)
    # One round before, one in vain, one after, and none when all were done.
    assert len(simulated) == 3
    refuse_damage(method, tmp_path / "rounds.npz")
    assert len(simulated) == 3


PAPER = NeuralPosterior.published(rounds=2, simulations=100, draws=50, epochs=5)


def test_the_published_configuration():
    assert (PAPER.hidden, PAPER.layers, PAPER.members, PAPER.images) == (100, 1, 1, 1)
    assert (PAPER.proposal, PAPER.seen, PAPER.warm, PAPER.corrected) == ("weighted", "labels", True, False)
    assert (NeuralPosterior.published().rounds, NeuralPosterior.published().simulations) == (4, 1000)
    assert NeuralPosterior.published(hidden=50).hidden == 50


def test_the_published_configuration_finds_a_linear_posterior():
    toy = Linear()
    learnt = NeuralPosterior.published(rounds=3, simulations=1000, components=1).learn(toy, KEY)
    mean, covariance = learnt.mixture.moments()
    deviations = np.sqrt(np.diag(toy.covariance))
    # Without projections, and from images of which each is seen once, it is found less sharply than by ours.
    assert np.all(np.abs(mean - toy.mean) < 1.0 * deviations)
    assert np.all(np.sqrt(np.diag(covariance)) < 2.5 * deviations)
    assert np.all(np.sqrt(np.diag(covariance)) > 0.6 * deviations)
    assert learnt.network.architecture.linear is False and not hasattr(learnt.network, "linear")


def test_a_warm_start_continues_where_it_was_killed(tmp_path, monkeypatch):
    method = dataclasses.replace(PAPER, checkpoint=str(tmp_path / "rounds"))
    whole = PAPER.learn(Linear(), KEY)
    cold = dataclasses.replace(PAPER, warm=False).learn(Linear(), KEY)
    assert not np.array_equal(whole.mixture.means, cold.mixture.means)
    draw, simulated = neural.draw_data, []

    def dying(*arguments, **settings):
        simulated.append(1)
        if len(simulated) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **settings)

    monkeypatch.setattr(neural, "draw_data", dying)
    with pytest.raises(KeyboardInterrupt):
        method.learn(Linear(), KEY)
    path = tmp_path / "rounds"
    good = path.read_bytes()
    with open_arrays(path, "state of a calibration", 1) as file:
        header, arrays = {"fingerprint": file.header["fingerprint"]}, file.read()
    write_arrays(path, "state of a calibration", 1, header, arrays | {"network": arrays["network"][1:]})
    with pytest.raises(ValueError, match="is of another network than this; remove it to begin anew"):
        method.learn(Linear(), KEY)
    path.write_bytes(good)
    resumed = method.learn(Linear(), KEY)
    for one, two in zip(whole.mixture, resumed.mixture, strict=True):
        np.testing.assert_array_equal(one, two)


def refuse_damage(method, path):
    """Assert that damaged or manipulated files are refused."""
    good, random = path.read_bytes(), np.random.default_rng(0)
    contents = [good[:length] for length in (0, 9, len(good) // 2)]
    for position in random.integers(len(good), size=20):
        contents.append(good[:position] + bytes([good[position] ^ 1 << random.integers(8)]) + good[position + 1 :])
    with open_arrays(path, "state of a calibration", 1) as file:
        header, arrays = {"fingerprint": file.header["fingerprint"]}, file.read()
    forged = [
        {"seen": arrays["seen"] + 1000},
        {"seen": -1 - arrays["seen"]},
        {"bits": np.zeros((*arrays["bits"].shape[:2], 99), np.uint8)},
        {"values": np.zeros((*arrays["values"].shape[:2], 99))},
        {"z": arrays["z"][1:]},
        {"history": arrays["history"][1:]},
        {"mixture_means": arrays["mixture_means"][..., None]},
        {"seconds": np.zeros(2)},
    ]
    for content in (*contents, *forged):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            write_arrays(path, "state of a calibration", 1, header, arrays | content)
        with pytest.raises(ValueError, match=r"rounds.npz is .*remove it to begin anew$"):
            method.learn(Linear(), KEY)
    with pytest.raises(ValueError, match="of another calibration"):
        dataclasses.replace(method, simulations=101).learn(Linear(), KEY)


def test_a_wrong_network_is_reported():
    learnt = SHORT.learn(Linear(), KEY)
    with pytest.warns(DoubtfulEstimate, match="draws are worth .* independent ones; take more rounds"):
        far = learnt.mixture._replace(means=learnt.mixture.means + 300)
        SHORT.draw(learnt._replace(mixture=far), LinearTarget(Linear()), KEY)
    strange = dataclasses.replace(SHORT, corrected=False)
    with pytest.warns(DoubtfulEstimate, match="hardly any simulation is like this patient's"):
        strange.draw(strange.learn(Linear(shift=30.0), KEY), LinearTarget(Linear()), KEY)
    impossible = eqx.tree_at(lambda t: t.simulator.shift, LinearTarget(Linear()), np.inf)
    with pytest.raises(ValueError, match="none of the 50 draws of the network is possible"):
        SHORT.draw(learnt, impossible, KEY)


@pytest.mark.parametrize("away, narrow", [(2.0, 1.0), (-2.0, 0.5)])
def test_a_network_that_is_wrong_is_led_on(away, narrow):
    toy = Linear()
    learnt = SHORT.learn(toy, KEY)
    factor = np.linalg.cholesky(toy.covariance)
    # Along the ridge and across it.
    means = toy.mean + away * factor.sum(axis=1) + 0 * learnt.mixture.means
    wrong = learnt.mixture._replace(means=means, factors=0 * learnt.mixture.factors + narrow * factor)
    method, stages = dataclasses.replace(SHORT, draws=1000), []
    drawn = method.draw(learnt._replace(mixture=wrong), LinearTarget(toy), KEY, lambda stage, *_: stages.append(stage))
    (points,), (values,), (log_weights,), found = drawn.draws, drawn.log_likelihoods, drawn.log_weights, drawn.stats
    repeats = found.details["repeats"]
    assert repeats >= 1
    assert found.effective > 100
    assert found.cost.solves == 200 + 1000 * (1 + repeats)
    assert stages[-1] == f"correction {1 + repeats}"
    np.testing.assert_allclose(values, log_likelihoods(LinearTarget(toy), points))
    weights = np.exp(log_weights - logsumexp(log_weights))
    mean = weights @ points
    error = 4 / np.sqrt(found.effective)
    whitened = np.linalg.solve(factor, (points - toy.mean).T).T
    assert np.all(np.abs(np.linalg.solve(factor, mean - toy.mean)) < error)
    np.testing.assert_allclose((whitened * weights[:, None]).T @ whitened, np.eye(3), atol=1.5 * error)
    exact = stats.multivariate_normal(np.zeros(40), np.eye(40) + toy.matrix @ toy.matrix.T).logpdf(toy.observed()[1])
    assert drawn.log_evidence == pytest.approx(exact, abs=5 * found.log_evidence_error)


def test_kernels_keep_mean_and_covariance():
    random = np.random.default_rng(0)
    points, log_weights = random.normal(size=(400, 3)) @ [[1, 0.5, 0], [0, 2, 0], [0, 0, 0.1]], random.normal(size=400)
    weights = np.exp(log_weights - logsumexp(log_weights))
    mean, covariance = kernels(points, log_weights).moments()
    np.testing.assert_allclose(mean, weights @ points, atol=1e-3)
    np.testing.assert_allclose(covariance, np.cov(points.T, aweights=weights, bias=True), rtol=0.01, atol=1e-3)


def test_progress_is_reported():
    told = []
    SHORT.learn(Linear(), KEY, lambda *news: told.append(news))
    assert list(dict.fromkeys(name for name, _, _ in told)) == ["round 1", "round 2"]
    for stage in ("round 1", "round 2"):
        shares = [share for name, share, _ in told if name == stage]
        assert np.all(np.diff(shares) >= 0)
        assert 0 < shares[0] < shares[-1] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
        ({"members": 0}, "members must be a whole number of at least 1, got 0"),
        ({"simulations": 10}, "simulations must be a whole number of at least 20, got 10"),
        ({"proposal": "atomic"}, "proposal must be 'truncated' or 'weighted', got 'atomic'"),
        ({"tail": 0.0}, "tail must be between 0 and 0.5, got 0.0"),
        ({"layers": 0}, "layers must be a whole number of at least 1, got 0"),
        ({"seen": "voxels"}, "seen must be 'projections' or 'labels', got 'voxels'"),
        ({"warm": True}, "a warm start needs a network that sees the same in every round; give seen='labels'"),
    ),
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NeuralPosterior(**settings)


def test_a_key_is_needed():
    with pytest.raises(ValueError, match="give calibrate a key"):
        calibrate(patient(), NeuralPosterior())


# The network.


def network(seed=0):
    """Return an untrained network whose output differs for every input."""
    model = MixtureDensity(MixtureArchitecture(3, 2, components=2, members=2, hidden=5), nnx.Rngs(0))
    random = np.random.default_rng(seed)
    for part in (model.head, model.offset, model.linear):
        part[...] = jnp.asarray(0.5 * random.normal(size=part[...].shape), jnp.float32)
    model.feature_mean[...] = jnp.asarray([1.0, 2.0, 3.0], jnp.float32)
    model.target_mean[...] = jnp.asarray([0.5, -0.5], jnp.float32)
    model.target_factor[...] = jnp.asarray([[0.5, 0.0], [0.3, 0.2]], jnp.float32)
    return model


def test_the_density_is_that_of_its_mixture():
    model, random = network(), np.random.default_rng(1)
    features, targets = random.normal(size=(4, 3)) + np.array([1, 2, 3]), random.normal(size=(4, 2))
    told = np.asarray(model.log_prob(jnp.asarray(features), jnp.asarray(targets)))
    for x, z, log_prob in zip(features, targets, told, strict=True):
        log_weights, means, factors = model.given(x)
        parts = [stats.multivariate_normal(m, f @ f.T).logpdf(z) for m, f in zip(means, factors, strict=True)]
        assert logsumexp(log_weights) == pytest.approx(0, abs=1e-6)
        assert logsumexp(log_weights + parts) == pytest.approx(log_prob, rel=1e-4)
        mixture = Gaussians(log_weights, means, factors)
        assert mixture.log_prob(z[None])[0] == pytest.approx(log_prob, rel=1e-4)
    mean, covariance = mixture.moments()
    for drawn in (np.asarray(model.sample(x, KEY, 20000)), mixture.sample(random, 20000)):
        deviations = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.03 * deviations.max())
        np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.05 * deviations.max() ** 2)


def test_weights_go_through_a_file(tmp_path):
    model, file = network(), tmp_path / "network.safetensors"
    save_mixture(file, model)
    again = load_mixture(file)
    assert again.architecture == model.architecture
    for one, two in zip(model.given(np.ones(3)), again.given(np.ones(3)), strict=True):
        np.testing.assert_array_equal(one, two)
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="its numbers are not those that were written"):
        load_mixture(file)
    file.write_bytes(bytes(damaged[: len(damaged) // 2]))
    with pytest.raises(ValueError, match="has no usable weights"):
        load_mixture(file)
    save_weights(file, nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "another network", {})
    with pytest.raises(ValueError, match="it is of another network"):
        load_mixture(file)


def test_a_network_goes_through_one_row():
    model = network()
    again = unflattened(model.architecture, flattened(model))
    for one, two in zip(model.given(np.ones(3)), again.given(np.ones(3)), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"the network has \d+ weights, got 7"):
        unflattened(model.architecture, np.zeros(7))


def test_a_warm_start_begins_with_what_was_learnt():
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 2))
    targets = np.sin(features[:, :1]) + 0.1 * random.normal(size=(400, 1))
    architecture = MixtureArchitecture(2, 1, components=2, members=1, hidden=16, layers=1, linear=False)
    learnt = train_mixture(architecture, features, targets, key=KEY, epochs=60)
    before = flattened(learnt.model)
    cold, warm = (
        train_mixture(architecture, features, targets, key=jax.random.key(1), epochs=1, begin=begin).losses[0]
        for begin in (None, learnt.model)
    )
    assert warm < cold - 0.3
    np.testing.assert_array_equal(flattened(learnt.model), before)
    other = MixtureArchitecture(2, 1, components=2, members=1, hidden=8, layers=1, linear=False)
    with pytest.raises(ValueError, match="a warm start needs a network of the same architecture"):
        train_mixture(other, features, targets, key=KEY, begin=learnt.model)


@pytest.mark.parametrize("wrong", ({"components": 0}, {"features": 1.5}, {"members": -1}))
def test_impossible_networks_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        MixtureArchitecture(**{"features": 3, "size": 2, **wrong})


def test_weights_of_pairs_count():
    # Half of the pairs have their targets reversed, and weigh nothing.
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 1))
    targets = features + 0.1 * random.normal(size=(400, 1))
    targets[::2] *= -1
    weights = np.tile([0.0, 3.0], 200)
    architecture = MixtureArchitecture(1, 1, components=1, members=2, hidden=8, layers=1)
    model = train_mixture(architecture, features, targets, weights, key=KEY, capacity=500).model
    _, means, factors = model.given(np.array([1.0]))
    np.testing.assert_allclose(means, 1.0, atol=0.05)
    np.testing.assert_allclose(factors, 0.1, atol=0.03)
    with pytest.raises(ValueError, match="2 pairs are too few for 1 coordinates"):
        train_mixture(architecture, features[:2], targets[:2], key=KEY)
    with pytest.raises(ValueError, match=r"shapes \(400, 1\) and \(400, 2\)"):
        train_mixture(architecture, features, np.repeat(targets, 2, axis=1), key=KEY)


# Regions.


@pytest.mark.parametrize("width", (0.7, 0.05))
def test_the_prior_is_drawn_within_a_region(width):
    # In the narrow one the prior hardly ever falls, so that chains draw.
    random = np.random.default_rng(0)
    factor = width * np.array([[1.0, 0.0], [0.8, 0.3]])
    mixture = Gaussians(np.zeros(1), np.array([[1.0, 0.5]]), factor[None])
    region = Region.of(mixture, 1e-4, random)
    drawn = region.prior_draws(random, 4000)
    assert region.holds(drawn).all()
    # An ellipse, of the radius that holds all but the tail.
    radius = np.sqrt(stats.chi2(2).ppf(1 - 1e-4))
    disc = random.normal(size=(400_000, 2))
    disc = disc / np.linalg.norm(disc, axis=1, keepdims=True) * radius * np.sqrt(random.uniform(size=(400_000, 1)))
    points = mixture.means[0] + disc @ factor.T
    weights = np.exp(-0.5 * np.sum(points**2, axis=1))
    weights /= weights.sum()
    mean = weights @ points
    covariance = (points - mean).T @ (weights[:, None] * (points - mean))
    deviations = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 0.1 * deviations)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.1 * deviations.max() ** 2)


# Summaries.


def test_a_summary_keeps_the_score():
    toy, random = Linear(), np.random.default_rng(0)
    z = random.normal(size=(50, 3))
    mean = (z @ toy.matrix.T).astype(np.float32)
    summary = Summary.of(Predictions(mean, np.ones_like(mean)), 8)
    assert np.count_nonzero(np.any(summary.directions, axis=0)) == 3
    assert summary.information > 0.999
    # Of any data the score is a function of the projections.
    data = random.normal(size=(20, 40))
    projections = data @ summary.directions[:, :3]
    left = np.linalg.lstsq(projections, data @ toy.matrix, rcond=None)[0]
    np.testing.assert_allclose(projections @ left, data @ toy.matrix, atol=0.05)


def test_typicality_is_a_share():
    random = np.random.default_rng(0)
    features = random.normal(size=(2000, 4)) @ random.normal(size=(4, 4)) + 3
    assert typicality(features, features.mean(axis=0)) == 1
    shares = [typicality(features[200:], each) for each in features[:200]]
    assert stats.kstest(shares, "uniform").pvalue > 0.01
    assert typicality(features, features.mean(axis=0) + 50) < 1e-3


# Images.


def test_images_are_drawn_from_their_likelihood():
    random = np.random.default_rng(0)
    density = jnp.asarray(random.uniform(size=(20, 20, 20)))
    quantile = jnp.asarray(random.uniform(size=(20, 20, 20)))
    everywhere = np.ones((20, 20, 20), bool)
    outline = Outline(np.ones((20, 20, 20)), everywhere, false_positive=0.1, false_negative=0.2, effective_voxels=1e3)
    params = OutlineParams(0.4, 2.0)
    probability = outline.expected(density, params)[0][0]
    labels = outline.drawn(probability, params, quantile)
    assert set(np.unique(labels)) == {0.0, 1.0}
    error = np.sqrt(np.sum(probability * (1 - probability)))
    assert abs(np.sum(labels - probability)) < 4 * error
    signal = np.asarray(random.normal(size=(20, 20, 20)))
    pet, params = Pet(signal, everywhere, effective_voxels=60.0), PetParams(2.0, 0.1)
    signal = pet.drawn(pet.expected(density, params)[0][0], params, quantile)
    np.testing.assert_allclose(signal, 2 * density + 0.1 * stats.norm.ppf(quantile))


@pytest.mark.parametrize("worth", (1e6, 30.0))
def test_simulated_images_are_worth_what_the_likelihood_says(worth):
    problem = patient(pet=(1.0, 0.1))
    observations = {n: dataclasses.replace(o, effective_voxels=worth) for n, o in problem.observations.items()}
    simulator = ProblemSimulator.of(dataclasses.replace(problem, observations=observations))
    z = np.repeat(np.asarray(problem.prior.unconstrain(problem_truth()))[None], 4, axis=0)
    own, measured, extras = simulator.observed()
    everything = np.arange(len(own) + len(measured))
    kept, told, _, failed = draw_data(simulator, z, KEY, images=40, seen=everything, predictions=1)
    assert failed == 0
    assert told.mean.shape == (1, len(everything))
    data, mean = kept.data(len(own)), told.mean[0]
    assert data.shape == (160, len(everything))
    assert set(np.unique(data[:, : len(own)])) == {0, 1}
    assert len(np.unique(data[:, : len(own)].sum(axis=1))) > 20
    assert kept.extras.shape == (4, 40, len(extras))
    # The noise of PET is in its image and in the extras.
    valid = np.asarray(problem.observations["pet"].valid).ravel()
    assert (data - mean)[:, len(own) :][:, valid].std() == pytest.approx(0.1, rel=0.02 if worth > 30 else 0.1)
    # The mean over a region errs by as much as that of so many independent voxels.
    voxels = int(np.prod(problem.anatomy.grid.shape))
    outline = np.flatnonzero(np.asarray(problem.observations["core"].inside).ravel() > 0)
    away = (data - mean)[:, outline].mean(axis=1)
    p = mean[outline]
    independent = np.sqrt(np.mean(p * (1 - p)) / len(outline))
    expected = np.sqrt(max(1, len(outline) / worth))
    # Thresholding correlated noise takes away some of its correlation.
    assert 0.6 * expected < away.std() / independent < 1.3 * expected
    np.testing.assert_array_equal(own[:voxels], np.asarray(problem.observations["core"].inside).ravel())
    if worth == 30:
        counted = np.asarray(problem.observations["core"].inside)
        kernel = simulator.filters["core"][0]
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), 1, rtol=1e-5)
        row = kernel[len(kernel) // 2]
        step = float(problem.anatomy.grid.spacing[0])
        length = step / np.sqrt(-np.log(row[len(row) // 2 + 1] / row[len(row) // 2]))
        assert independent_voxels(counted, problem.anatomy.grid, length) == pytest.approx(worth, rel=0.02)


def problem_truth():
    """Return the parameters of the small patient with PET."""
    return Parameters(TRUTH, OUTLINES | {"pet": PetParams(1.0, 0.1)})


# Rats and patients.


def test_a_rat_is_calibrated_and_predicted():
    rat = synthetic_rat(0, spacing=1.0)
    problem = rat.problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulEstimate)
        found = calibrate(problem, NeuralPosterior(rounds=2, simulations=200, draws=200, images=4), key=KEY)
    assert isinstance(found, Posterior)
    assert found.result is CalibrationResult.COMPLETE
    assert found.draws.shape == (1, 200, 4)
    assert found.stats.details["simulations"] == 400
    assert found.cost.solves == 600
    assert np.isfinite(float(found.log_evidence))
    draws, weights = np.asarray(found.draws[0], float), np.exp(np.asarray(found.log_weights, float))
    mean = weights @ draws
    deviations = np.sqrt(weights @ (draws - mean) ** 2)
    assert np.all(np.abs(mean - rat.z) < 3 * deviations)
    assert deviations[1] < 0.5
    said = found.diagnostics
    assert (said.method, said.solves, said.failed) == ("neural posterior estimation (NPE)", 600, 0)
    assert said.effective == pytest.approx(found.stats.effective, rel=1e-3)
    assert said.typicality == found.stats.details["typicality"][-1]
    assert not any("Hardly any simulation" in note for note in said.notes())
    assert any("Hardly any simulation" in note for note in dataclasses.replace(said, typicality=0.001).notes())
    days = (11.0, 14.0, 16.0)
    told, truth = forecast(problem, found, days, count=40), true_volumes(rat, days)
    assert np.all(np.diff(told.mean, axis=0) > 0)
    assert np.all((told.low <= told.mean) & (told.mean <= told.high))
    assert np.all((told.low - 3 <= truth) & (truth <= told.high + 3))


def test_a_rat_that_begins_at_an_image():
    rat = synthetic_rat(3, start="image", drawn=True, spacing=1.0)
    assert (rat.begun, rat.day) == (9.0, 11.0)
    origin = rat.problem.prior.distributions.growth.origin.density
    assert 0 < origin.max() <= 1
    later = true_volumes(rat, (11.0, 16.0))
    assert np.all(later[1] >= later[0])
    assert later[1].sum() > later[0].sum()
    again = synthetic_rat(3, start="image", drawn=True, spacing=1.0)
    np.testing.assert_array_equal(rat.z, again.z)
    assert not np.allclose(rat.z, synthetic_rat(4, start="image", drawn=True, spacing=1.0).z)
    with pytest.raises(ValueError, match="start must be 'seed' or 'image'"):
        synthetic_rat(0, start="ball")
    with pytest.raises(ValueError, match="outlines come after the growth begins on day 9, got day 8"):
        synthetic_rat(0, start="image", day=8.0)


def test_the_brain_of_a_rat():
    brain = rat_brain()
    extent = np.asarray(brain.box()[1]) * 0.6
    np.testing.assert_allclose(extent, (15, 20, 12), atol=1.3)
    assert np.prod(brain.grid.shape) <= 32**3
    total = np.asarray(brain.white_matter + brain.grey_matter + brain.csf)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    tissue = np.asarray(brain.tissue)
    share = np.asarray(brain.white_matter)[tissue].sum() / tissue.sum()
    assert 0.1 < share < 0.4
    middle = np.linalg.norm(np.moveaxis(np.indices(brain.grid.shape), 0, -1) - np.array([12.5, 17, 10]), axis=-1) < 8
    assert (np.asarray(brain.csf) > 0.5)[middle].sum() > 5


def test_draws_parameters_of_a_patient():
    problem = patient(dtype=np.float32)
    method = NeuralPosterior(rounds=2, simulations=200, draws=100, corrected=False, images=4, epochs=40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulEstimate)
        found = calibrate(problem, method, key=KEY)
    draws = np.asarray(found.draws[0], float)
    truth = np.asarray(problem.prior.unconstrain(Parameters(TRUTH, OUTLINES)))
    # Where and how it grows is known far better than before, and is what it was.
    assert np.all(draws[:, :5].std(axis=0) < 0.7)
    assert np.all(np.abs(draws[:, :5].mean(axis=0) - truth[:5]) < 4 * draws[:, :5].std(axis=0))
    assert np.isnan(found.log_evidence)
    best = int(np.argmax(found.log_likelihoods[0] - 0.5 * np.sum(np.square(found.draws[0]), axis=1)))
    np.testing.assert_array_equal(found.coordinates, found.draws[0, best])


def test_the_published_network_sees_summed_labels():
    problem = patient(dtype=np.float32)
    simulator = ProblemSimulator.of(problem)
    assert simulator.outlines == 2
    points = 0.3 * np.random.default_rng(0).normal(size=(6, problem.prior.size))
    kept, _, seen, _ = draw_data(simulator, points, KEY, images=2, seen=None, predictions=6)
    labels, _, _ = simulator.observed()
    shown = LabelMap.of(seen, len(labels), 2)
    found = shown.features(kept)
    assert found.shape == (12, shown.size) and set(np.unique(found)) == {0.0, 1.0, 2.0}
    # Voxel by voxel, of those that are kept.
    voxels = len(labels) // 2
    whole = np.zeros((12, 2 * voxels))
    whole[:, seen] = kept.data(len(seen))
    summed = whole[:, :voxels] + whole[:, voxels:]
    np.testing.assert_array_equal(found, summed[:, np.unique(seen % voxels)])
    own = np.zeros(2 * voxels)
    own[seen] = labels[seen]
    expected = (own[:voxels] + own[voxels:])[np.unique(seen % voxels)]
    np.testing.assert_allclose(shown.of_patient(labels[seen]), expected)
