"""Arguments of the wrong kind cause one clear ValueError each, or are understood as intended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import box
from tumorjax import (
    CheckpointedAdjoint,
    FisherKolmogorov,
    Grid,
    GrowthParams,
    ScaledGrowthParams,
    SplitEuler,
    StrangRKL2,
    simulate,
)
from tumorjax.growth import (
    Chemotherapy,
    GaussianBasis,
    InitialDensity,
    LogisticGrowth,
    MassEffect,
    MassEffectParams,
    Mechanics,
    Radiotherapy,
    Seeds,
    Surgery,
    VolumeParams,
)
from tumorjax.integrate import FlowSplitting
from tumorjax.observation import FluidMapParams, Outline, OutlineParams, PetParams
from tumorjax.prior import LogNormal, Normal, Reciprocal, Uniform

ANATOMY = box((5, 6, 5), 3.0)
SHAPE = ANATOMY.grid.shape
PARAMS = GrowthParams(0.1, 0.02, np.zeros(3), 30.0)
SCALED = ScaledGrowthParams(2.0, 1.0, np.zeros(3))
IMAGE = np.full(SHAPE, 0.5)
NUMBER = "must be a real number or an array of them, got"

REFUSED = {
    # Parameters.
    "text": (lambda: GrowthParams("0.1", 0.02, np.zeros(3), 30.0), f"diffusivity {NUMBER} '0.1'"),
    "none": (lambda: GrowthParams(0.1, None, np.zeros(3), 30.0), f"proliferation {NUMBER} None"),
    "complex": (lambda: GrowthParams(0.1, 0.02, np.zeros(3), 30j), f"duration {NUMBER} 30j"),
    "complex array": (lambda: ScaledGrowthParams(jnp.asarray(1j), 1.0, np.zeros(3)), "mu1 .* an array of complex"),
    "list": (lambda: ScaledGrowthParams([2.0], 1.0, np.zeros(3)), rf"mu1 {NUMBER} \[2\.0\]"),
    "no origin": (lambda: GrowthParams(0.1, 0.02, None, 30.0), f"origin {NUMBER} None"),
    "ragged origin": (lambda: GrowthParams(0.1, 0.02, [[1, 2, 3], [4]], 30.0), f"origin {NUMBER}"),
    "two coordinates": (lambda: GrowthParams(0.1, 0.02, [1, 2], 30.0), "origin must be three finite"),
    "no speed": (lambda: ScaledGrowthParams(2.0, 1.0, np.zeros(3), 0.0), "speed must be finite and positive, got 0"),
    "physical": (lambda: ScaledGrowthParams(2.0, 0.0, np.zeros(3)).physical(), "mu2 must be finite and positive"),
    "scaled": (lambda: GrowthParams(0.0, 0.02, np.zeros(3), 30.0).scaled(), "diffusivity must be finite and positive"),
    "growth": (lambda: MassEffectParams(0.1, 1e4), "growth must be GrowthParams or ScaledGrowthParams, got float"),
    "seeds": (lambda: Seeds(np.zeros(2), 12.0, 2.0), "origin must be three finite"),
    "seed's mass": (lambda: Seeds(np.zeros(3), -1.0, 2.0), "mass must be finite and positive, got -1"),
    "gaussians": (lambda: GaussianBasis(np.zeros((2, 3)), "ab", 2.0), f"weights {NUMBER} 'ab'"),
    "density": (lambda: InitialDensity(None), f"density {NUMBER} None"),
    "volume": (lambda: VolumeParams("40", 0.1, 3.0), f"initial {NUMBER} '40'"),
    # Models.
    "ratio": (lambda: FisherKolmogorov("ten"), f"ratio {NUMBER} 'ten'"),
    "ratio is NaN": (lambda: FisherKolmogorov(np.nan), "ratio must be positive, got nan"),
    "reach": (lambda: FisherKolmogorov(reach=3), "reach must be 1 or 2, got 3"),
    "mass of seeds": (lambda: FisherKolmogorov(seed_mass=None), "seed_mass must be a number, got None"),
    "materials": (lambda: Mechanics(young=(1.0, 2.0)), "young and poisson of four materials"),
    "coarsening": (lambda: MassEffect(coarsening=2.0), r"coarsening must be a whole number of at least 1, got 2\.0"),
    "cells": (lambda: MassEffect(PARAMS), "growth must be FisherKolmogorov .* got GrowthParams"),
    # Combinations that do not belong together.
    "gamma for none": (
        lambda: simulate(FisherKolmogorov(), MassEffectParams(PARAMS, 1e4), ANATOMY),
        "FisherKolmogorov takes GrowthParams or ScaledGrowthParams, got MassEffectParams",
    ),
    "no gamma": (lambda: simulate(MassEffect(), SCALED, ANATOMY), "takes MassEffectParams, got ScaledGrowthParams"),
    "volume in space": (lambda: simulate(FisherKolmogorov(), VolumeParams(1.0, 1.0, 1.0), ANATOMY), "got VolumeParams"),
    "space in volume": (lambda: simulate(LogisticGrowth(), PARAMS), "LogisticGrowth takes VolumeParams"),
    "class": (lambda: simulate(FisherKolmogorov, PARAMS, ANATOMY), "the model must be a growth model such as"),
    "grid": (lambda: simulate(FisherKolmogorov(), PARAMS, ANATOMY.grid), "must be an Anatomy, got Grid"),
    "stepper": (lambda: simulate(FisherKolmogorov(), PARAMS, ANATOMY, stepper=StrangRKL2), "give a stepper such as"),
    "flow": (
        lambda: simulate(FisherKolmogorov(), PARAMS, ANATOMY, stepper=FlowSplitting()),
        "FlowSplitting advances ReactionAdvectionDiffusion, but the equations of FisherKolmogorov are "
        "ReactionDiffusion; leave out the stepper",
    ),
    "no flow": (
        lambda: simulate(MassEffect(), MassEffectParams(PARAMS, 0.0), ANATOMY, stepper=SplitEuler()),
        "SplitEuler advances ReactionDiffusion, but the equations of MassEffect are ReactionAdvectionDiffusion",
    ),
    "batch": (
        lambda: simulate(FisherKolmogorov(), ScaledGrowthParams(np.ones(3), np.ones(3), np.zeros((3, 3))), ANATOMY),
        r"a batch of shape \(3,\), not one tumour; use simulate_many, or jax\.vmap",
    ),
    "treatment": (
        lambda: simulate(FisherKolmogorov(), PARAMS, ANATOMY, treatments=(3,)),
        "treatments are Surgery, .* 3",
    ),
    "share in space": (
        lambda: simulate(FisherKolmogorov(), PARAMS, ANATOMY, treatments=Surgery(10, 0.5)),
        r"in an anatomy a cavity must be an image \(x, y, z\), got shape \(\)",
    ),
    "save": (lambda: simulate(FisherKolmogorov(), PARAMS, ANATOMY, save_every="1"), "save_every must be a number"),
    # Treatments.
    "NaN day": (lambda: Radiotherapy((1, np.nan), 2.0, 0.1), "radiotherapy needs days from 0 on"),
    "negative day": (lambda: Surgery(-1, IMAGE), "surgery needs days from 0 on"),
    "a day": (lambda: Radiotherapy(3, 2.0, 0.1), "days of a treatment must be numbers in a row, .* got 3"),
    "no day": (lambda: Chemotherapy(None, 3, 0.1), "a day of a treatment must be a known number, got None"),
    "NaN dose": (lambda: Radiotherapy((1,), np.nan, 0.1), "dose must be finite and not negative, got nan"),
    "negative dose": (lambda: Radiotherapy((1,), -2.0, 0.1), "dose must be finite and not negative, got -2"),
    "no dose": (lambda: Radiotherapy((1,), None, 0.1), f"dose {NUMBER} None"),
    "NaN rate": (lambda: Chemotherapy(1, 3, np.nan), "rate must be finite and not negative, got nan"),
    "no cavity": (lambda: Surgery(3, None), f"cavity {NUMBER} None"),
    # Schemes.
    "segment": (lambda: CheckpointedAdjoint(2.5), r"segment must be a whole number of at least 1, got 2\.5"),
    "first steps": (lambda: StrangRKL2(first_steps=1.5), r"first_steps must be a whole number of at least 1, got 1\.5"),
    "stages": (lambda: StrangRKL2(max_stages="31"), "max_stages must be a whole number of at least 1, got '31'"),
    "exponent": (lambda: StrangRKL2(exponent=np.inf), "exponent finite and at least 1"),
    "safety": (lambda: SplitEuler(safety=None), "safety must be a number, got None"),
    "growth of flow": (lambda: FlowSplitting(SplitEuler()), "those of StrangRKL2, got SplitEuler"),
    # Grids.
    "sizes": (lambda: Grid((3.5, 4, 4), np.eye(4)), r"three whole numbers, got \(3\.5, 4, 4\)"),
    "no sizes": (lambda: Grid(None, np.eye(4)), "three whole numbers, got None"),
    "affine": (lambda: Grid((3, 4, 4), [[1, 2], [3]]), f"an affine {NUMBER}"),
    "affine of JAX": (lambda: Grid((3, 4, 4), jnp.zeros((4, 4))), "affine is not invertible"),
    "spacing": (lambda: Grid.from_spacing((3, 4, 4), 0.0), "spacing must be finite and positive, got 0"),
    "spacings": (lambda: Grid.from_spacing((3, 4, 4), (1.0, 2.0)), "spacing is one number or three"),
    "new spacing": (lambda: ANATOMY.grid.with_spacing(-1.0), "spacing must be finite and positive, got -1"),
    # Observations and priors.
    "outline": (lambda: Outline("lesion", np.ones(SHAPE, bool)), f"an image {NUMBER} 'lesion'"),
    "valid": (lambda: Outline(IMAGE, 2 * IMAGE + 1), "a mask must hold truth values, or zeros and ones"),
    "rate": (lambda: Outline(IMAGE, IMAGE > 0, false_positive=1), r"false_positive must be in \[0, 0\.5\), got 1"),
    "voxels": (lambda: Outline(IMAGE, IMAGE > 0, effective_voxels=np.float32(-1)), "effective_voxels must be positive"),
    "threshold": (lambda: OutlineParams(np.nan, 3.0), "threshold must be finite and positive, got nan"),
    "noise": (lambda: PetParams(1.0, 0.0), "noise must be finite and positive, got 0"),
    "fluid": (lambda: FluidMapParams("0.1"), f"noise {NUMBER} '0.1'"),
    "scale": (lambda: Normal(np.zeros(3), np.array([1.0, 0.0, 1.0])), "scale must be finite and positive"),
    "loc": (lambda: Normal(np.nan, 1.0), "loc must be finite, got nan"),
    "median": (lambda: LogNormal("7", 0.5), f"median {NUMBER} '7'"),
    "bounds": (lambda: Uniform(np.array([0.0, 2.0]), np.ones(2)), "high - low must be finite and positive"),
    "reciprocal": (lambda: Reciprocal(3.0), "Reciprocal is of a distribution, got 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_of_the_wrong_kind_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_lists_and_whole_numbers_are_numbers():
    expected = simulate(FisherKolmogorov(), PARAMS, ANATOMY).density
    listed = GrowthParams(np.float32(0.1), 0.02, [0, 0, 0], 30)
    np.testing.assert_allclose(simulate(FisherKolmogorov(10), listed, ANATOMY).density, expected, rtol=1e-6, atol=1e-9)
    assert Grid([5, 6, 5], ANATOMY.grid.affine.tolist()).shape == SHAPE
    assert Outline(np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8)).valid.dtype == bool
    whole = Outline(np.ones(SHAPE, int), np.ones(SHAPE, bool), effective_voxels=60)
    assert float(whole.weight) == pytest.approx(60 / 150)


def test_two_fractions_on_a_day_are_two():
    twice = Radiotherapy((10, 10), 2.0, 0.1)
    once = Radiotherapy((10,), 2.0, 0.1)
    got, expected = (
        simulate(LogisticGrowth(), VolumeParams(40.0, 0.0, 20.0, 9e4), treatments=treatments).volume
        for treatments in ((twice,), (once, once))
    )
    assert float(got) == pytest.approx(float(expected)) == pytest.approx(40 * float(once.survival(1.0)) ** 2)


def test_wrong_kinds_are_refused_under_transformations_too():
    with pytest.raises(ValueError, match="MassEffect takes MassEffectParams, got GrowthParams"):
        jax.eval_shape(lambda d: simulate(MassEffect(), GrowthParams(d, 0.02, np.zeros(3), 30.0), ANATOMY), 0.1)
    with pytest.raises(ValueError, match=r"origin must be three finite .* got shape \(2,\)"):
        jax.eval_shape(lambda o: simulate(FisherKolmogorov(), GrowthParams(0.1, 0.02, o, 30.0), ANATOMY), np.zeros(2))
