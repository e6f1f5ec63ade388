"""Models compared by their evidence, where that is known in closed form."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import patient
from tumorjax.calibration import Calibration, CalibrationResult, compare_evidence
from tumorjax.calibration.model_evidence import Evidence, checksum_of_images
from tumorjax.methods.sampling.posterior import posterior_of
from tumorjax.methods.sampling.sample import Sample, SamplerStats
from tumorjax.methods.search.lbfgs import LBFGSStats
from tumorjax.prior import Normal, Prior


def found(precision, data, name="observations.x", mean=0.0):
    """Return the calibration of x, standard normal, from data with normal errors of this precision."""
    prior = Prior({"observations": {name.rsplit(".", 1)[-1]: Normal(mean, 1.0)}})
    variance = 1 / (1 + precision)
    z = jnp.array([variance * precision * data])
    log_likelihood = 0.5 * np.log(precision / (2 * np.pi)) - 0.5 * precision * (data - float(z[0])) ** 2
    objective = 0.5 * float(z[0]) ** 2 - log_likelihood
    stats = LBFGSStats(3, 0.0, objective)
    covariance = jnp.array([[variance]])
    return Calibration(prior.constrain(z), prior, z, covariance, CalibrationResult.GRADIENT, stats, method="L-BFGS")


def exact(precision, data):
    variance = 1 + 1 / precision
    return -0.5 * np.log(2 * np.pi * variance) - 0.5 * data**2 / variance


def test_the_laplace_approximation_of_a_gaussian_is_exact():
    for precision, data in ((1.0, 0.3), (50.0, 2.0)):
        assert found(precision, data).evidence.value == pytest.approx(exact(precision, data), abs=1e-5)


def test_models_are_ordered_by_their_evidence():
    table = compare_evidence({"blurred": found(0.1, 0.1), "sharp": found(100.0, 0.1)})
    assert [row.name for row in table.rows] == ["sharp", "blurred"]
    apart = exact(100.0, 0.1) - exact(0.1, 0.1)
    assert table.rows[0].probability == pytest.approx(1 / (1 + np.exp(-apart)), rel=1e-5)
    assert (table.rows[0].grade, table.rows[1].grade) == ("best", "somewhat worse" if apart > 1 else "no worse")
    assert "sharp" in str(table).splitlines()[1]


def test_names_cannot_break_the_page():
    hostile = compare_evidence({"<b>": found(1.0, 0.0), "plain": found(2.0, 0.0)})
    assert "&lt;b&gt;" in hostile._repr_html_() and "<b>" not in hostile._repr_html_()


def test_the_table_is_a_data_frame():
    pytest.importorskip("pandas")
    frame = compare_evidence({"a": found(1.0, 0.0), "b": found(2.0, 0.0)}).to_dataframe()
    assert list(frame.index) == ["a", "b"] or list(frame.index) == ["b", "a"]
    assert frame["probability"].sum() == pytest.approx(1.0)


def test_a_sampler_tells_its_error():
    problem = patient()
    stats = SamplerStats(log_evidence_error=0.2)
    sample = Sample(np.zeros((1, 4, problem.prior.size)), np.zeros((1, 4)), None, -7.0, stats)
    posterior = posterior_of(problem, sample)
    assert posterior.evidence == (-7.0, 0.2, "draws")
    assert posterior.figures()["log_evidence"] == -7.0
    assert posterior_of(problem, sample._replace(log_evidence=np.nan)).evidence is None


@pytest.mark.parametrize(
    "others, words",
    (
        ({}, "two models or more"),
        ({"b": found(1.0, 0.0, "observations.y")}, "other observations"),
        ({"b": found(1.0, 0.0, mean=0.5)}, "other priors of thresholds"),
        ({"b": dataclasses.replace(found(1.0, 0.0), images="other")}, "on the same voxels, each with the same weight"),
        ({"b": dataclasses.replace(found(1.0, 0.0), covariance=None)}, "'b' by L-BFGS has no evidence; take TMCMC"),
    ),
)
def test_what_cannot_be_compared_is_refused(others, words):
    with pytest.raises(ValueError, match=words):
        compare_evidence({"a": dataclasses.replace(found(1.0, 0.0), images="one"), **others})


class Sampled(Calibration):
    """A calibration whose evidence is that of draws."""

    @property
    def evidence(self):
        return Evidence(-1.0, np.nan)


def test_evidence_of_draws_and_of_an_approximation_do_not_compare():
    drawn = Sampled(**vars(found(1.0, 0.0)))
    assert len(compare_evidence({"a": drawn, "b": drawn}).rows) == 2
    with pytest.raises(ValueError, match=r"evidence of 'a' is that of a Laplace approximation, .* all by one method"):
        compare_evidence({"a": found(1.0, 0.0), "b": drawn})


@pytest.mark.parametrize("wrong", ([], None, {"a": 5, "b": 6}))
def test_what_is_no_mapping_of_calibrations_is_refused(wrong):
    with pytest.raises(ValueError, match="takes calibrations by the name of their model, got"):
        compare_evidence(wrong)


def test_a_problem_is_known_by_its_images_and_their_weights():
    problem = patient(dtype=np.float32)
    own = checksum_of_images(problem)
    assert own and own == checksum_of_images(patient(dtype=np.float64))

    def changed(**change):
        core = dataclasses.replace(problem.observations["core"], **change)
        return checksum_of_images(dataclasses.replace(problem, observations={**problem.observations, "core": core}))

    core = problem.observations["core"]
    assert changed(inside=1 - np.asarray(core.inside)) != own
    assert changed(effective_voxels=10.0) != own
    # What leads from a density to an outline belongs to the model.
    assert changed(false_positive=0.05) == own
