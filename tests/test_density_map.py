"""Maps of the density, and volumes without images: their likelihoods, and what they determine."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.problems import box, small_brain
from tumorjax.calibration import Parameters, Problem, Visit, calibrate, default_prior
from tumorjax.calibration.laplace import _moving
from tumorjax.cellularity import InverseAdcLaw, LinearAdcLaw
from tumorjax.growth import FisherKolmogorov, GompertzGrowth, GrowthParams, InitialDensity, LogisticGrowth, VolumeParams
from tumorjax.integrate import Calendar, simulate
from tumorjax.methods import LBFGS
from tumorjax.observation import DensityMap, DensityMapParams, Outline, TumourVolume, TumourVolumeParams
from tumorjax.prior import LogNormal, Prior

SHAPE = (4, 5, 6)


def field():
    return jnp.asarray(np.random.default_rng(0).uniform(0, 1, SHAPE))


def test_the_likelihood_has_noise_of_two_kinds():
    density, params = field(), DensityMapParams(30.0, 0.2, 4000.0)
    values = 4000 * np.asarray(density) + 100
    valid = np.asarray(density) > 0.2
    deviation = np.hypot(30, 0.2 * 4000 * np.asarray(density))
    each = stats.norm(4000 * np.asarray(density), deviation).logpdf(values)
    seen = DensityMap(values, valid)
    assert float(seen.log_prob(density, params)) == pytest.approx(each[valid].sum(), rel=1e-12)
    # Correlated voxels count for less.
    less = dataclasses.replace(seen, effective_voxels=valid.sum() / 4)
    assert float(less.log_prob(density, params)) == pytest.approx(each[valid].sum() / 4, rel=1e-12)


def test_the_information_is_the_spread_of_the_score():
    """The Fisher information by `expected` is the covariance of the score over images drawn from the likelihood."""
    density, valid = field(), np.ones(SHAPE, bool)
    point = jnp.asarray([0.9, 0.05, 0.3])
    seen = DensityMap(np.ones(SHAPE), valid)

    def params(x):
        return DensityMapParams(x[1], x[2], x[0])

    def score(key):
        mean = seen.expected(density, params(point))[0][0]
        drawn = seen.drawn(mean, params(point), jax.random.uniform(key, SHAPE))
        image = dataclasses.replace(seen, values=drawn)
        return jax.grad(lambda x: image.log_prob(density, params(x)))(point)

    scores = jax.jit(jax.vmap(score))(jax.random.split(jax.random.key(0), 4000))
    slopes = jax.jacfwd(lambda x: [m for m, _ in seen.expected(density, params(x))])(point)
    weights = [jnp.broadcast_to(p, SHAPE).ravel() for _, p in seen.expected(density, params(point))]
    pairs = zip(slopes, weights, strict=True)
    information = sum(np.asarray(s).reshape(-1, 3).T * np.asarray(w) @ np.asarray(s).reshape(-1, 3) for s, w in pairs)
    scale = np.sqrt(np.diagonal(information))
    np.testing.assert_allclose(
        np.cov(scores.T) / np.outer(scale, scale), information / np.outer(scale, scale), atol=0.1
    )
    np.testing.assert_allclose(np.asarray(scores.mean(axis=0)) / scale, 0, atol=0.06)


@pytest.mark.parametrize(
    ("values", "message"),
    [(-np.ones(SHAPE), "positive somewhere"), (np.full(SHAPE, np.nan), "finite"), (np.ones((2, 2, 2)), "has shape")],
)
def test_maps_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        DensityMap(values, np.ones(SHAPE, bool))


def test_counts_have_a_capacity_and_fractions_none():
    anatomy, valid = box(SHAPE), np.ones(SHAPE, bool)
    counts = DensityMap(4000 * np.asarray(field()), valid)
    assert default_prior(anatomy, {"cells": counts}).names[-2:] == [
        "observations.cells.noise",
        "observations.cells.capacity",
    ]
    fractions = DensityMap(np.asarray(field()), valid)
    assert default_prior(anatomy, {"cells": fractions}).names[-1] == "observations.cells.noise"


@pytest.mark.parametrize("law", (LinearAdcLaw(), InverseAdcLaw()))
def test_the_diffusion_of_water_shows_the_density_by_a_law(law):
    density, least = np.asarray(field()), 0.8e-3
    adc = np.asarray(law.coefficient(law.signal(least) * np.maximum(density, 0.3)))
    valid = density > 0.5
    seen = DensityMap.from_adc(adc, valid, law=law)
    capacity = law.signal(least)
    np.testing.assert_allclose(np.asarray(seen.values)[valid], capacity * density[valid], rtol=1e-6)
    assert not np.asarray(seen.values)[~valid].any()
    # Back on the scale of radiology.
    assert seen.scale == ("ADC", "1e-3 mm²/s")
    np.testing.assert_allclose(seen.reading(np.asarray(seen.values))[valid], 1e3 * adc[valid], rtol=1e-6)
    # However large the numbers: what is read off water has a capacity.
    unknown = seen.default_prior("adc", box(SHAPE), {})
    assert unknown.unit == law.unit
    assert float(unknown.capacity.median) == pytest.approx(capacity * density[valid].max(), rel=0.05)
    assert np.isfinite(seen.reading(np.zeros(SHAPE))).all()


def test_an_outline_alone_has_a_default_prior():
    anatomy = box((8, 8, 8))
    inside = np.zeros((8, 8, 8))
    inside[2:5, 2:5, 2:5] = 1
    prior = default_prior(anatomy, {"enhancing": Outline(inside, anatomy.tissue)})
    np.testing.assert_allclose(prior.distributions.growth.origin.loc, anatomy.grid.to_world(np.full(3, 3.0)))
    assert prior.names[-2:] == ["observations.enhancing.threshold", "observations.enhancing.sharpness"]


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_maps_of_cells_on_three_days_determine_both_rates():
    """A tumour that begins as the map of the first day: the search finds its rates, and their errors are honest."""
    anatomy, random = box((10, 9, 8), 2.0).astype(np.float32), np.random.default_rng(0)
    model, days = FisherKolmogorov(), (10.0, 12.0, 14.0, 16.0)
    seed = GrowthParams(0.4, 0.3, np.array([1.0, -2.0, 1.0], np.float32), 12.0)
    first = np.asarray(simulate(model, seed, anatomy).density)
    truth = GrowthParams(2.0, 0.4, InitialDensity(first), 2.0)
    series = simulate(model, truth, anatomy, calendar=Calendar.of(days[1:])).series
    noise = 40.0
    images = [4000 * np.asarray(c) + noise * random.normal(size=c.shape) for c in series]
    prior = Prior(
        Parameters(
            GrowthParams(LogNormal(1.0, 1.0), LogNormal(0.2, 1.0), truth.origin, truth.duration),
            {"cells": DensityMapParams(LogNormal(100.0, 1.0), 0.0, LogNormal(3000.0, 0.5))},
        )
    )
    visits = [
        Visit(day, {"cells": DensityMap(image.astype(np.float32), anatomy.tissue)})
        for day, image in zip(days[1:], images, strict=True)
    ]
    found = calibrate(Problem(model, anatomy, visits, prior), LBFGS(starts=1, coarsening=1, budget=40))
    names = ("diffusivity", "proliferation", "cells_noise", "cells_capacity")
    rows = {row.name: row for row in found.estimates({"diffusivity": 2.0, "proliferation": 0.4})}
    for name, true in zip(names, (2.0, 0.4, noise, 4000.0), strict=True):
        assert rows[name].value == pytest.approx(true, rel=0.05), name
    assert all(abs(rows[name].z) < 4 for name in names[:2])
    # The density at time zero is known: no tangent is carried for any of its voxels.
    assert set(_moving(prior, found.params)) == {"growth.diffusivity", "growth.proliferation"}


def test_a_volume_is_that_of_the_tissue_above_a_threshold():
    anatomy = small_brain(float)
    truth = GrowthParams(0.3, 0.1, np.array([-12.0, -6.0, 5.0]), 110.0)
    density = simulate(FisherKolmogorov(), truth, anatomy).density
    counted = float(jnp.sum(density > 0.3)) * float(anatomy.grid.voxel_volume)
    seen, params = TumourVolume.above(counted, anatomy), TumourVolumeParams(0.1, 0.3)
    assert float(seen.log_volume(density, params)) == pytest.approx(np.log(counted), abs=0.03)
    expected = stats.norm(seen.log_volume(density, params), 0.1).logpdf(np.log(counted))
    assert float(seen.log_prob(density, params)) == pytest.approx(float(expected))
    rough = anatomy.coarsen(2)
    coarse = seen.coarsen(2)
    assert coarse.valid.shape == rough.grid.shape
    assert float(coarse.voxel) == pytest.approx(8 * float(seen.voxel))
    assert (seen.shows, TumourVolume(1.0).shows) == ("density", "volume")
    with pytest.raises(ValueError, match="volume must be finite and positive, got 0"):
        TumourVolume(0.0)


@pytest.mark.parametrize("law", [LogisticGrowth(), GompertzGrowth()], ids=lambda law: type(law).__name__)
def test_laws_of_a_volume_are_calibrated_by_the_same_verb(law):
    """Volumes without noise lead back to the law, up to the prior."""
    truth = VolumeParams(1500.0, 0.05, 0.0, 40000.0)
    days = (0.0, 20.0, 40.0, 60.0, 90.0, 150.0)
    volumes = simulate(law, truth, calendar=Calendar.of(days)).series
    growth = VolumeParams(LogNormal(2000.0, 1.0), LogNormal(0.03, 1.0), 0.0, LogNormal(3e4, 1.0))
    prior = Prior(Parameters(growth, {"volume": TumourVolumeParams(0.01)}))
    visits = [Visit(day, {"volume": TumourVolume(float(v))}) for day, v in zip(days, volumes, strict=True)]
    found = calibrate(Problem(law, None, visits, prior), LBFGS(starts=2, gradient_tolerance=1e-4, value_tolerance=0.0))
    for name in ("initial", "rate", "capacity"):
        assert float(getattr(found.params.growth, name)) == pytest.approx(getattr(truth, name), rel=2e-3), name
    with pytest.raises(ValueError, match="has no maps"):
        found.maps(Problem(law, None, visits, prior))
