"""A posterior from a database: likelihoods of all its tumours, their bounds, tempering, and what is said of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_retrieval import BRAIN, SPACING, blobs
from tests.test_retrieval_method import database, index, isolines, outlined  # noqa: F401
from tumorjax import LBFGS, TMCMC, DensityMap, LogNormal, Outline, OutlineParams, Prior, Retrieval, calibrate
from tumorjax.calibration import Parameters
from tumorjax.methods.from_atlas import weighted
from tumorjax.observation import DensityMapParams
from tumorjax.quality import Status, status_of
from tumorjax.retrieval import LEVELS, Index, Labels, OutlineLikelihood

NODES = 32


@pytest.fixture(scope="module")
def blobs_and_index(tmp_path_factory):
    densities = blobs(300, seed=0)
    return densities, Index.build([densities], BRAIN, SPACING, tmp_path_factory.mktemp("index") / "index")


def labels_of(densities, weight, seed=0):
    """Outlines of a blob, and tables of a likelihood that rises with the density inside them."""
    random, found = np.random.default_rng(seed), []
    for threshold in (0.6, 0.2):
        u, kappa = random.uniform(0.7 * threshold, 1.3 * threshold, NODES), random.lognormal(1, 0.5, NODES)
        c = np.clip(LEVELS, 1e-3, 1 - 1e-3)[:, None]
        p = 0.1 + 0.6 / (1 + np.exp(-kappa * (np.log(c / (1 - c)) - np.log(u / (1 - u)))))
        found.append(Labels(densities > 255 * threshold, weight * np.log(p), weight * np.log1p(-p)))
    return found


def plain(densities, labels):
    """(n, m): the log-likelihoods by a loop over tumours."""
    found = []
    for density in densities:
        each = [
            table[density[mask & BRAIN]].sum(axis=0)
            for label in labels
            for mask, table in ((label.inside, label.log_inside), (~label.inside, label.log_outside))
        ]
        found.append(sum(each))
    return np.array(found)


@pytest.mark.parametrize("stored", ("uint8", "float16"))
def test_likelihoods_are_those_of_a_loop(blobs_and_index, stored, tmp_path):
    densities, packed = blobs_and_index
    kept = densities
    if stored == "float16":
        kept = (densities / 255).astype(np.float16)
        packed = Index.build([kept], BRAIN, SPACING, tmp_path / "index")
    labels = labels_of(blobs(1, seed=1)[0], 0.2)
    likelihood = OutlineLikelihood(packed.masks, lambda row: kept[row], labels)
    every = likelihood.evaluate(neglected=0.0)
    assert sorted(every.rows) == list(range(300))
    wanted = plain(densities, labels)
    means = np.logaddexp.reduce(wanted, axis=1) - np.log(NODES)
    np.testing.assert_allclose(every.log_means, means[every.rows], rtol=1e-9)
    np.testing.assert_allclose(every.log_values, wanted[every.rows, every.nodes], rtol=1e-9)
    # Upper bounds, which decide what is read.
    assert np.all(likelihood._bounds(1.0) >= means - 1e-9)
    tempered = likelihood.evaluate(0.25, neglected=0.0)
    means = np.logaddexp.reduce(0.25 * wanted, axis=1) - np.log(NODES)
    np.testing.assert_allclose(tempered.log_means, means[tempered.rows], rtol=1e-9)


def test_what_is_not_read_has_no_share(blobs_and_index):
    densities, packed = blobs_and_index
    # Steep enough that most tumours are out of the question.
    labels, read = labels_of(densities[14], 1.0), []
    found = OutlineLikelihood(packed.masks, lambda row: read.append(row) or densities[row], labels).evaluate()
    means = np.logaddexp.reduce(plain(densities, labels), axis=1) - np.log(NODES)
    assert sorted(read) == sorted(found.rows) and len(read) < 200
    share = np.exp(np.logaddexp.reduce(found.log_means) - np.logaddexp.reduce(means))
    assert 1 - 1e-3 <= share <= 1 + 1e-9


def test_nodes_follow_the_likelihood(blobs_and_index):
    densities, packed = blobs_and_index
    # The same tumour in every row, so that the nodes are many draws from one distribution.
    same = lambda row: densities[11]  # noqa: E731
    labels = labels_of(blobs(1, seed=1)[0], 0.02)
    found = OutlineLikelihood(packed.masks, same, labels).evaluate(neglected=0.0)
    (likelihood,) = plain(densities[11:12], labels)
    wanted = np.exp(likelihood - np.logaddexp.reduce(likelihood))
    drawn = np.bincount(found.nodes, minlength=NODES) / len(found.nodes)
    # Evenly spread numbers, not random ones.
    np.testing.assert_allclose(np.cumsum(drawn), np.cumsum(wanted), atol=0.02)


def softened(problem, voxels=1.0):
    """The problem with outlines that are worth so many voxels."""
    images = {name: dataclasses.replace(o, effective_voxels=voxels) for name, o in problem.observations.items()}
    return dataclasses.replace(problem, observations=images)


def test_the_posterior_is_that_of_prior_draws(database, index, monkeypatch):  # noqa: F811
    monkeypatch.setattr(weighted, "_LEAST", 1.0)
    problem = softened(outlined(database, isolines(database, 5)), 0.3)
    found = calibrate(problem, Retrieval(database, index, weighted=True))
    # Tumours of the database with thresholds from their prior, weighted one by one.
    prior, random = problem.prior, np.random.default_rng(0)
    observed = np.array([name.startswith("observations") for name in prior.names])
    z = np.zeros((20_000, prior.size))
    z[:, observed] = random.normal(size=(len(z), observed.sum()))
    params = jax.vmap(prior.constrain)(jnp.asarray(z)).observations
    densities, logs = database.densities() / 255.0, []
    for density in densities:
        each = lambda some, c=density: sum(  # noqa: E731
            o.log_prob(jnp.asarray(c), some[name]) for name, o in problem.observations.items()
        )
        logs.append(np.asarray(jax.lax.map(each, params, batch_size=200)))
    logs = np.array(logs)
    means = np.logaddexp.reduce(logs, axis=1) - np.log(len(z))
    weights = np.exp(means - np.logaddexp.reduce(means))
    assert float(found.log_evidence) == pytest.approx(np.logaddexp.reduce(means) - np.log(len(means)), abs=0.01)
    assert found.stats.effective == pytest.approx(1 / np.sum(weights**2), rel=0.02)
    np.testing.assert_allclose(float(found.mean().growth.mu1), weights @ database.table[:, 0], rtol=0.01)
    np.testing.assert_allclose(
        float(found.standard_deviations().growth.mu1),
        np.sqrt(weights @ (database.table[:, 0] - weights @ database.table[:, 0]) ** 2),
        rtol=0.03,
    )
    shares = np.exp(logs - logs.max())
    threshold = np.sum(shares * np.asarray(params["core"].threshold)) / shares.sum()
    # Ten draws of a threshold that the outline hardly determines.
    assert float(found.mean().observations["core"].threshold) == pytest.approx(threshold, abs=0.05)


def test_few_tumours_are_tempered_and_it_is_said(database, index):  # noqa: F811
    problem = outlined(database, isolines(database, 5))
    found = calibrate(problem, Retrieval(database, index, weighted=True))
    assert found.stats.effective < 1.5 and found.stats.details["match"] == 5
    assert 0 < found.stats.details["exponent"] < 1
    notes = found.notes(problem)
    assert status_of(notes) is Status.DOUBTFUL
    (tempered,) = [note for note in notes if "to the power of" in note]
    assert f"{found.stats.details['exponent']:.2g}" in tempered
    # A single tumour would have no spread at all.
    assert float(found.standard_deviations().growth.mu1) > 0.5
    # The evidence is not tempered.
    assert float(found.log_evidence) < -20
    figures = found.figures()
    assert figures["likelihood_exponent"] < 1 and figures["effective_draws"] < 1.5
    # The same draws every time, since there are no random numbers.
    again = calibrate(problem, Retrieval(database, index, weighted=True))
    np.testing.assert_array_equal(found.draws, again.draws)


def test_many_draws_are_resampled(monkeypatch):
    random = np.random.default_rng(0)
    weights = random.normal(size=300)
    every, logs = weighted._draws(weights)
    assert len(every) > 250 and np.exp(logs).sum() == pytest.approx(1)
    monkeypatch.setattr(weighted, "_MOST", 100)
    some, logs = weighted._draws(weights)
    assert len(some) <= 100 and np.exp(logs).sum() == pytest.approx(1)
    value, shares = random.uniform(size=300), np.exp(weights) / np.exp(weights).sum()
    assert np.exp(logs) @ value[some] == pytest.approx(shares @ value, abs=0.05)


def test_other_images_and_other_methods(database, index):  # noqa: F811
    problem = outlined(database, isolines(database, 5))
    query = Retrieval(database, index, weighted=True)
    # An outline alone counts once.
    core = {"core": problem.observations["core"]}
    unknown = problem.prior.distributions
    alone = Prior(Parameters(unknown.growth, {"core": unknown.observations["core"]}))
    found = calibrate(dataclasses.replace(problem, observations=core, prior=alone), query)
    assert found.stats.details["outlines"] == ("core",)
    # An unreadable image has to be left out.
    image = DensityMap(np.full(problem.anatomy.grid.shape, 0.5), problem.anatomy.tissue)
    numbers = DensityMapParams(LogNormal(1.0, 0.1), 0.1, 0.1)
    prior = Prior(Parameters(unknown.growth, {**unknown.observations, "map": numbers}))
    more = dataclasses.replace(problem, observations={**problem.observations, "map": image}, prior=prior)
    assert any("What map show" in note for note in calibrate(more, query).notes(more))
    # Samplers and searches begin with it.
    assert calibrate(problem, LBFGS(init=query, coarsening=1, budget=3)).begun.stats.details["match"] == 5
    run = calibrate(problem, TMCMC(particles=32, steps=1, start=query), key=jax.random.key(0))
    assert np.isfinite(np.asarray(run.draws)).all()


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"k": 2}, "leave out weighted, or k"),
        ({"variant": "ds64"}, "or variant"),
        ({"optimise_thresholds": True, "morph": True}, "or optimise_thresholds, morph"),
    ],
)
def test_what_does_not_go_together(database, index, settings, got):  # noqa: F811
    with pytest.raises(ValueError, match=got):
        Retrieval(database, index, weighted=True, **settings)


def test_an_outline_counts_as_much_on_any_voxels(database, index):  # noqa: F811
    problem = outlined(database, isolines(database, 5))
    every = softened(problem, np.inf)
    found = calibrate(every, Retrieval(database, index, weighted=True))
    sizes = {name: float(o.size) for name, o in problem.observations.items()}
    as_many = {name: dataclasses.replace(o, effective_voxels=sizes[name]) for name, o in problem.observations.items()}
    same = calibrate(dataclasses.replace(problem, observations=as_many), Retrieval(database, index, weighted=True))
    assert float(found.log_evidence) == pytest.approx(float(same.log_evidence), rel=1e-6)


def test_known_thresholds_need_no_nodes(database, index):  # noqa: F811
    problem = outlined(database, isolines(database, 5))
    known = {"core": OutlineParams(0.6, 4.0), "lesion": OutlineParams(0.2, 4.0)}
    prior = Prior(Parameters(problem.prior.distributions.growth, known))
    problem = dataclasses.replace(softened(problem), prior=prior)
    found = calibrate(problem, Retrieval(database, index, weighted=True))
    best = np.argmax(np.asarray(found.log_likelihoods))
    density = jnp.asarray(database.densities()[found.stats.details["match"]] / 255.0)
    value = sum(Outline.log_prob(o, density, known[name]) for name, o in problem.observations.items())
    assert float(found.log_likelihoods.reshape(-1)[best]) == pytest.approx(float(value), rel=1e-6)
