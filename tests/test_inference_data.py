"""Draws as ArviZ's InferenceData: correct numbers and names, also after writing to a file."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from tests.problems import patient
from tumorjax.calibration import Calibration, CalibrationResult
from tumorjax.calibration.cost import Cost
from tumorjax.methods.sampling.inference_data import to_inference_data, write_inference_data
from tumorjax.methods.sampling.posterior import posterior_of
from tumorjax.methods.sampling.sample import Sample, SamplerStats

CHAINS, DRAWS = 2, 50


STATS = SamplerStats(
    cost=Cost(solves=100, seconds=1.5),
    ladder={"temperature": (0.0, 0.25, 1.0)},
    details={"length": 0.5, "nested": ((1, 2), (3,))},
)


@pytest.fixture(scope="module")
def problem():
    return patient()


def posterior(problem, log_evidence=np.nan, log_weights=None):
    rng = np.random.default_rng(0)
    draws = 0.3 * rng.normal(size=(CHAINS, DRAWS, problem.prior.size))
    sample = Sample(draws, rng.normal(size=(CHAINS, DRAWS)), log_weights, log_evidence, STATS)
    return posterior_of(problem, sample, method="a made-up sampler")


@pytest.fixture(scope="module")
def equal(problem):
    return posterior(problem, log_evidence=-12.5)


@pytest.fixture(scope="module")
def read(problem, equal, tmp_path_factory):
    arviz = pytest.importorskip("arviz")
    path = tmp_path_factory.mktemp("draws") / "posterior.nc"
    path.write_text("earlier")
    write_inference_data(path, to_inference_data(equal, problem))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return arviz.from_netcdf(path, engine="h5netcdf")


def test_parameters_come_in_their_own_units(equal, read):
    group = read.posterior
    assert set(group.data_vars) == {
        "growth.mu1", "growth.mu2", "growth.origin",
        *(f"observations.{which}.{name}" for which in ("core", "lesion") for name in ("threshold", "sharpness")),
    }  # fmt: skip
    for chain in range(CHAINS):
        for draw in (0, 7, DRAWS - 1):
            params = equal.prior.constrain(equal.draws[chain, draw])
            here = group.sel(chain=chain, draw=draw)
            assert float(here["growth.mu1"]) == pytest.approx(float(params.growth.mu1))
            assert float(here["observations.lesion.threshold"]) == pytest.approx(
                float(params.observations["lesion"].threshold)
            )
            for axis, value in zip("xyz", params.growth.origin, strict=True):
                assert float(here["growth.origin"].sel(axis=axis)) == pytest.approx(float(value))
    assert group["growth.origin"].attrs["units"] == group["growth.mu1"].attrs["units"] == "mm"
    assert group["growth.mu2"].attrs["units"] == ""


def test_coordinates_and_densities(equal, read):
    z = read.unconstrained_posterior["z"]
    np.testing.assert_allclose(z, equal.draws)
    assert list(z.coords["coordinate"].values) == equal.prior.names
    np.testing.assert_allclose(read.sample_stats["log_likelihood"], equal.log_likelihoods)
    np.testing.assert_allclose(
        read.sample_stats["lp"], np.asarray(equal.log_likelihoods) - 0.5 * np.sum(np.asarray(equal.draws) ** 2, axis=-1)
    )


def test_attributes(problem, read):
    attributes = read.posterior.attrs
    assert attributes["method"] == "a made-up sampler"
    assert attributes["log_evidence"] == -12.5
    assert (attributes["seconds"], attributes["solves"], attributes["resampled"]) == (1.5, 100, 0)
    np.testing.assert_array_equal(attributes["temperature"], (0.0, 0.25, 1.0))
    assert attributes["length"] == 0.5
    assert "nested" not in attributes
    np.testing.assert_allclose(attributes["grid_spacing_mm"], problem.anatomy.grid.spacing)
    assert attributes["inference_library"] == "tumorjax"


def test_weighted_draws_are_resampled(problem):
    pytest.importorskip("arviz")
    weights = np.zeros((CHAINS, DRAWS))
    weights[0, 3], weights[1, 8], weights[1, 9] = 1, 2, 1
    with np.errstate(divide="ignore"):
        weighted = posterior(problem, log_weights=np.log(weights))
    data = to_inference_data(weighted)
    found = data.unconstrained_posterior["z"].values
    assert found.shape == (1, CHAINS * DRAWS, problem.prior.size)
    expected = np.repeat(np.stack([weighted.draws[0, 3], weighted.draws[1, 8], weighted.draws[1, 9]]), (25, 50, 25), 0)
    np.testing.assert_allclose(found[0], expected)
    mu1 = jax.vmap(problem.prior.constrain)(expected).growth.mu1
    np.testing.assert_allclose(data.posterior["growth.mu1"].values[0], mu1)
    assert data.posterior.attrs["resampled"] == 1
    assert "log_evidence" not in data.posterior.attrs


def test_a_calibration_without_draws_is_drawn_from(problem):
    pytest.importorskip("arviz")
    z = 0.1 * np.arange(problem.prior.size)
    found = Calibration(
        problem.prior.constrain(z),
        problem.prior,
        z,
        0.04 * np.eye(z.size),
        CalibrationResult.GRADIENT,
        method="made up",
    )
    data = to_inference_data(found, problem, count=4000)
    assert not hasattr(data, "sample_stats")
    drawn = jax.vmap(problem.prior.unconstrain)(found.sample(jax.random.key(0), 4000))
    mu1 = np.asarray(jax.vmap(problem.prior.constrain)(drawn).growth.mu1)
    np.testing.assert_allclose(data.posterior["growth.mu1"].values[0], mu1, rtol=1e-6)
    assert data.posterior.sizes["draw"] == 4000
    unsure = dataclasses.replace(found, covariance=None)
    with pytest.raises(ValueError, match="no uncertainty"):
        to_inference_data(unsure)


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    class Full:
        def to_netcdf(self, path, engine):
            with open(path, "w") as file:
                file.write("half")
            raise OSError("disk full")

    (tmp_path / "posterior.nc").write_text("earlier")
    with pytest.raises(OSError, match="disk full"):
        write_inference_data(tmp_path / "posterior.nc", Full())
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.nc"]
    assert (tmp_path / "posterior.nc").read_text() == "earlier"


def test_without_arviz_the_extra_is_named(equal, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install 'tumorjax\[bayes\]'"):
        to_inference_data(equal)
