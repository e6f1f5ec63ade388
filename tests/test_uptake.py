"""The PET signal of lesion and healthy tissue: any noise, any unit, with a background or without."""

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import small_brain
from tumorjax.calibration import Problem, calibrate, default_prior, published_prior
from tumorjax.calibration.priors import published_observations
from tumorjax.growth import FisherKolmogorov, ScaledGrowthParams
from tumorjax.integrate import simulate
from tumorjax.methods import LBFGS
from tumorjax.methods.search.starts import observation_starts
from tumorjax.observation import Outline, Pet, PetParams, healthy_uptake
from tumorjax.pipeline.problems import notes_on_pet, problem_of

SCALE = 2.0


@pytest.fixture(scope="module")
def anatomy():
    return small_brain()


@pytest.fixture(scope="module")
def density(anatomy):
    # Small, so that there is healthy tissue.
    growth = ScaledGrowthParams(mu1=4.0, mu2=2.8, origin=np.array([-14.0, -8.0, 5.0]))
    return np.asarray(simulate(FisherKolmogorov(), growth, anatomy).density)


def outlines(anatomy, density):
    tissue, levels = np.asarray(anatomy.tissue), {"core": 0.65, "lesion": 0.25}
    return {name: Outline((density > level).astype(np.float32), tissue) for name, level in levels.items()}


def image(density, noise, unit=1.0, background=0.0):
    drawn = np.random.default_rng(0).normal(size=density.shape)
    return ((background + SCALE * density.astype(float) + noise * drawn) * unit).astype(np.float32)


def problem(anatomy, density, pet):
    observations = outlines(anatomy, density) | {"pet": pet}
    return Problem(FisherKolmogorov(), anatomy, observations, default_prior(anatomy, observations))


@pytest.mark.parametrize(("noise", "unit", "background"), ((0.01, 1e-30, 0.0), (0.02, 1.0, 1.0), (0.05, 1e30, 0.0)))
def test_scale_is_found_at_every_noise_in_every_unit(anatomy, density, noise, unit, background):
    signal, tissue = image(density, noise, unit, background), np.asarray(anatomy.tissue)
    healthy = healthy_uptake(signal, tissue, density > 0.25, anatomy.grid)
    assert healthy == pytest.approx(background * unit, rel=0.02)
    asked = problem(anatomy, density, Pet(signal, tissue, 60.0, healthy))
    found = calibrate(asked, LBFGS(starts=1, coarsening=1))
    scale, spread = (
        found.params.observations["pet"].scale / unit,
        found.standard_deviations().observations["pet"].scale / unit,
    )
    assert float(scale) == pytest.approx(SCALE, rel=0.1)
    assert 0.001 < float(spread) < 0.2
    assert np.isfinite(found.covariance).all()


def test_patients_with_pet_differ_in_arrays_alone(anatomy, density):
    # Anything else is part of a compiled program, which then serves no other patient.
    tissue, asked = np.asarray(anatomy.tissue), []
    for background in (0.0, 1.5):
        pet = Pet(image(density, 0.05, 1.0, background), tissue, background=background)
        asked.append(problem(anatomy, density, pet.crop((0, 0, 0), tissue.shape)))
    assert eqx.tree_equal(*(eqx.partition(each, eqx.is_array)[1] for each in asked))


def test_in_extreme_units_likelihood_and_information_are_those_of_ordinary_ones(density):
    valid = np.ones(density.shape, bool)
    plain = image(density, 0.05)

    def figures(unit):
        pet = Pet(plain * np.float32(unit), valid, effective_voxels=60.0)

        def log_prob(logarithms):
            scale, noise = jnp.exp(logarithms) * jnp.float32(unit)
            return pet.log_prob(jnp.asarray(density), PetParams(scale, noise))

        at = jnp.log(jnp.asarray([1.9, 0.07], jnp.float32))
        params = PetParams(*(jnp.exp(at) * jnp.float32(unit)))
        mean, precision = pet.expected(jnp.asarray(density), params)[0]
        quantile = jnp.full(density.shape, 0.8, jnp.float32)
        return log_prob(at), jax.grad(log_prob)(at), mean**2 * precision, pet.drawn(mean, params, quantile) * pet.unit

    value, slope, information, drawn = figures(1.0)
    for unit in (2.0**-99, 2.0**99):
        other = figures(unit)
        # Of a density, which has the reciprocal unit: as much for each voxel that counts.
        assert float(other[0]) == pytest.approx(float(value) - 60 * np.log(unit), rel=1e-5)
        np.testing.assert_allclose(other[1], slope, rtol=1e-4)
        np.testing.assert_allclose(other[2], information, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(other[3], drawn * np.float32(unit), rtol=1e-5)


def test_prior_and_start_follow_the_lesion_and_not_the_noise_around_it(anatomy, density):
    tissue = np.asarray(anatomy.tissue)
    asked = problem(anatomy, density, Pet(image(density, 0.01), tissue))
    top = np.percentile(image(density, 0.01)[tissue & (density > 0.25)], 95)
    prior = asked.prior.constrain(jnp.zeros(asked.prior.size)).observations["pet"]
    assert top == pytest.approx(SCALE, rel=0.2)
    assert float(prior.scale) == pytest.approx(top)
    assert float(prior.noise) == pytest.approx(top / 4)
    start = observation_starts(asked)["pet"]
    assert (float(start.scale), float(start.noise)) == (pytest.approx(top), pytest.approx(top / 4))
    # Above the background, where there is one.
    raised = problem(anatomy, density, Pet(image(density, 0.01, 1.0, 3.0), tissue, background=3.0))
    assert float(raised.prior.distributions.observations["pet"].scale.median) == pytest.approx(top, rel=1e-4)


@pytest.mark.parametrize("prior", (default_prior, published_prior))
def test_healthy_tissue_that_is_not_at_the_background_is_refused(anatomy, density, prior):
    tissue = np.asarray(anatomy.tissue)
    pet = Pet(image(density, 0.05, 1.0, 1.0), tissue)
    observations = published_observations(outlines(anatomy, density) | {"pet": pet})
    with pytest.raises(ValueError, match=r"signal of healthy tissue, .*, is (1|1\.0\d*|0\.99\d*), but its background"):
        prior(anatomy, observations)
    prior(anatomy, observations | {"pet": dataclasses.replace(observations["pet"], background=1.0)})


def test_healthy_uptake_is_estimated_only_where_it_is_seen(anatomy, density):
    tissue, lesion = np.asarray(anatomy.tissue), density > 0.25
    signal = image(density, 0.5, 1.0, 0.05)
    # Less than its error, and next to nothing; hardly any healthy tissue was measured.
    assert healthy_uptake(signal, tissue, lesion, anatomy.grid) == 0
    assert healthy_uptake(signal + 1, tissue & lesion, lesion, anatomy.grid) is None
    low = image(density, 0.05, 1.0, -2.0)
    assert healthy_uptake(low, tissue, lesion, anatomy.grid) == pytest.approx(-2, abs=0.02)


def outlined(anatomy, density, pet=None, pet_mask=None):
    """A stub of a patient of one date, with what a problem is made from."""
    parts = {name: (density > level).astype(np.float32) for name, level in (("core", 0.65), ("lesion", 0.25))}
    seen = {"pet": pet, "pet_mask": pet_mask, "adc": None, "adc_mask": None, "outlines": parts}
    patient: Any = SimpleNamespace(
        anatomy=anatomy, core_fraction=parts["core"], lesion_fraction=parts["lesion"], day=0.0, **seen
    )
    patient.visits = (patient,)
    return patient


def test_a_patient_says_what_healthy_tissue_takes_up(anatomy, density):
    lesion = density > 0.25

    def problem_and_notes(signal, measured):
        patient = outlined(anatomy, density, signal, measured)
        return problem_of(patient), notes_on_pet(patient)

    everywhere = np.ones(density.shape, bool)
    raised, (told,) = problem_and_notes(image(density, 0.05, 1.0, 1.0), everywhere)
    assert raised.observations["pet"].background == pytest.approx(1, abs=0.01)
    assert re.match(r"The PET signal of healthy tissue is (1|1\.0\d*|0\.99\d*); the model's comes on top of that", told)
    assert float(raised.observations["pet"].mean(jnp.ones(()), PetParams(2.0, 0.1))) == pytest.approx(3, abs=0.01)
    plain, none = problem_and_notes(image(density, 0.05), everywhere)
    assert (plain.observations["pet"].background, none) == (0.0, [])
    # Zero outside the lesion, as some images are published.
    masked, (unknown,) = problem_and_notes(image(density, 0.05), lesion)
    assert masked.observations["pet"].background == 0.0
    assert "the signal of healthy tissue is unknown; it is taken to be zero" in unknown


def test_pet_that_shows_no_lesion_is_refused(anatomy, density):
    tissue = np.asarray(anatomy.tissue)
    observations = outlines(anatomy, density)
    elsewhere = Pet(image(density, 0.05), tissue & (density < 0.01))
    with pytest.raises(ValueError, match="the PET image shows nothing in the lesion; give"):
        default_prior(anatomy, observations | {"pet": elsewhere})
    with pytest.raises(ValueError, match="signal of healthy tissue must be a number, got nan"):
        Pet(image(density, 0.05), tissue, background=float("nan"))


def test_a_further_image_of_a_user_joins_the_problem(anatomy, density):
    tissue = np.asarray(anatomy.tissue)
    patient = outlined(anatomy, density)
    further = problem_of(patient, observations={"met": Pet(image(density, 0.05), tissue)})
    assert list(further.observations) == ["core", "lesion", "met"]
    assert further.prior.names[-2:] == ["observations.met.scale", "observations.met.noise"]
    coarse = Pet(image(density, 0.05), tissue).coarsen(2)
    with pytest.raises(
        ValueError, match=r"'met' has shape .*, the patient's computing grid .*; resample it to patient"
    ):
        problem_of(patient, observations={"met": coarse})
