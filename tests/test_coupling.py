"""Registration and growth by turns find the push of a tumour in a brain that is a deformation of the atlas."""

import dataclasses
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from tests.test_multi_atlas import TRUTH, WIDTH, quiet
from tumorjax import (
    Anatomy,
    FisherKolmogorov,
    GaussianBasis,
    Grid,
    LogNormal,
    MassEffect,
    MassEffectParams,
    MultiAtlas,
    Parameters,
    Prior,
    Problem,
    ScaledGrowthParams,
    Uniform,
    default_prior,
    simulate,
)
from tumorjax.methods.multi_atlas import coupled_brain
from tumorjax.methods.multi_atlas.coupling import NAME, can_couple, notes_on_push, notes_on_turns
from tumorjax.methods.multi_atlas.sparse import SparseOrigin
from tumorjax.methods.multi_atlas.stages import without_mass_effect
from tumorjax.methods.multi_atlas.stats import Turn
from tumorjax.observation import FluidMap, Outline, ShiftMap
from tumorjax.observation.shift import ShiftParams
from tumorjax.patient.atlases import AlignedAtlas
from tumorjax.patient.shift import Shift, carried_back
from tumorjax.quality import Status, status_of

SPACING, GAMMA = 6.0, 4e4
MODEL = MassEffect(FisherKolmogorov(math.inf, dividing="white matter"), coarsening=1, force="tanh")
GRID = Grid.from_spacing((16, 16, 16), SPACING)
WORLD = np.asarray(GRID.to_world(np.moveaxis(np.indices(GRID.shape).astype(float), 0, -1)))


def difference(places):
    """By how much the patient's anatomy differs from the atlas', mm: more than the tumour pushes."""
    x, y, z = np.moveaxis(places, -1, 0)
    return np.stack([4 * np.sin(y / 22 + 0.4), 3 * np.cos(z / 25) - 2, 4 * np.sin((x + y) / 30 + 1)], axis=-1)


def tissue(places):
    """A ball of white matter in a shell of fluid, with two ventricles."""
    r = np.linalg.norm(places, axis=-1)
    hole = sum(
        1 / (1 + np.exp((np.linalg.norm(places - np.asarray(middle), axis=-1) - 7) / 2))
        for middle in ((-16.0, 10.0, 0.0), (10.0, 16.0, 12.0))
    )
    brain, skull = (1 / (1 + np.exp((r - radius) / 2)) for radius in (36, 42))
    white = brain * np.clip(1 - hole, 0, 1)
    return 0.9 * white, 0.1 * white, np.clip(skull - white, 0, 1)


ATLAS = Anatomy(GRID, *tissue(WORLD))


@pytest.fixture(scope="module")
def patient():
    """The tumour in the patient's own brain, and the problem."""
    healthy = Anatomy(GRID, *tissue(WORLD + difference(WORLD)))
    solution = simulate(MODEL, MassEffectParams(TRUTH, GAMMA), healthy)
    density = np.asarray(solution.density)
    valid = np.asarray(solution.anatomy.tissue) | (density > 0.01)
    inside = {name: 1 / (1 + np.exp(-(density - level) / 0.03)) for name, level in (("core", 0.7), ("lesion", 0.25))}
    # They are as exact as the voxels are.
    seen = {name: Outline(share, valid, effective_voxels=60.0) for name, share in inside.items()}
    seen["fluid"] = FluidMap(np.asarray(solution.anatomy.csf), density < 0.05)
    candidates = GaussianBasis.from_outline(density > 0.5, GRID, width=WIDTH)
    unknown = default_prior(solution.anatomy, seen, model=MODEL).distributions
    growth = ScaledGrowthParams(LogNormal(7.0, 0.7), LogNormal(3.5, 0.35), candidates, 0.5)
    prior = Prior(Parameters(MassEffectParams(growth, Uniform(0.0, 2e5)), unknown.observations))
    return solution, Problem(MODEL, solution.anatomy, seen, prior)


@pytest.fixture(scope="module")
def atlas(patient):
    """The atlas, and the image beside it: brightness along edges outside the tumour, with noise."""
    solution, _ = patient
    u, random = np.asarray(solution.displacement, float), np.random.default_rng(0)
    places = random.uniform(-38, 38, (4000, 3))
    now = carried_back(u, GRID, places)
    # d = -u(x) + w(x - u(x)).
    d = now - places + difference(now)

    def bright(at):
        white, _, csf = tissue(at)
        return 4 * (white + 0.2 * csf)

    step = 1.0
    gradient = np.stack(
        [(bright(places + d + e) - bright(places + d - e)) / (2 * step) for e in step * np.eye(3)], axis=-1
    )
    dense = np.asarray(solution.density)[tuple(np.round(np.asarray(GRID.to_index(places))).astype(int).T)]
    kept = (np.linalg.norm(gradient, axis=1) > 0.05) & (dense < 0.05)
    y = np.sum(gradient * d, axis=1) + 0.05 * random.standard_normal(len(places))
    shift = Shift(places[kept], gradient[kept], y[kept])
    return AlignedAtlas("atlas", ATLAS, deformed=solution.anatomy, shift=shift)


@pytest.fixture(scope="module")
def coupled(patient, atlas):
    _, problem = patient
    return MultiAtlas((atlas,), sparsity=2, coarsening=1, refine=False).fit(problem, [true_origin(problem)], 0, quiet)


def true_origin(problem):
    """The state at time zero, which S.1 would find; of the rest it knows nothing."""
    basis = GaussianBasis(np.repeat(TRUTH.origin.centres, 2, axis=0), np.array([1.0, 1e-3]), WIDTH, unit_peak=True)
    rest = [name for name in without_mass_effect(problem).prior.names if not name.startswith("growth.origin")]
    return SparseOrigin(basis, np.zeros(len(rest)), 0.0)


def field_error(found, solution):
    u = np.asarray(solution.displacement, float)
    return float(np.linalg.norm(found.grown[0].displacement - u) / np.linalg.norm(u))


def test_the_fixed_point_has_the_push_and_the_displacement(patient, coupled):
    solution, problem = patient
    assert float(coupled.params.growth.mass_effect) == pytest.approx(GAMMA, rel=0.15)
    assert field_error(coupled, solution) < 0.2
    turns = coupled.stats.turns
    assert turns[0].change == (1.0,)
    assert turns[-1].change[0] < 0.25
    # The affine scheme takes the difference between people for a push, or for the lack of one.
    behind = MultiAtlas((ATLAS,), sparsity=2, coarsening=1, refine=False).fit(problem, [true_origin(problem)], 0, quiet)
    assert field_error(behind, solution) > 1.5 * field_error(coupled, solution)
    assert behind.stats.turns == ()


def test_the_tumour_meets_the_outlines(patient, coupled):
    solution, _ = patient
    found, truth = coupled.grown[0].density, np.asarray(solution.density)
    assert 2 * np.minimum(found, truth).sum() / (found + truth).sum() > 0.9


def test_members_have_the_brain_before_the_tumour(patient, coupled):
    solution, _ = patient
    healthy = tissue(WORLD + difference(WORLD))
    found, now = (np.asarray(each.csf) for each in (coupled.atlases[0].anatomy, solution.anatomy))
    near = np.asarray(solution.density) < 0.05
    # Interpolation, twice, leaves a part of the difference.
    assert np.linalg.norm((found - healthy[2])[near]) < 0.8 * np.linalg.norm((now - healthy[2])[near])
    # What the fluid shows is part of that brain.
    assert "observations.fluid.noise" not in coupled.prior.names
    assert any(name.startswith("observations.shift") for name in coupled.prior.names)
    # What the image shows has its numbers, and no map of its own.
    assert {"shift_noise", "shift_spread", "mass_effect"} <= {row.name for row in coupled.estimates()}
    maps = coupled.maps(patient[1])
    assert maps.predicted == {} and np.isfinite(maps.density).all()


def test_other_methods_begin_in_that_brain(patient, atlas):
    _, problem = patient
    anatomy, seen, notes = coupled_brain(problem, atlas, quiet)
    assert set(seen) == {"core", "lesion", "shift"}
    assert "turns" in notes[0]
    prior = default_prior(anatomy, seen, model=MODEL)
    assert {name.split(".")[1] for name in prior.names if name.startswith("observations")} == set(seen)
    now, healthy = (np.asarray(each) for each in (problem.anatomy.csf, tissue(WORLD + difference(WORLD))[2]))
    assert 0 < np.linalg.norm(np.asarray(anatomy.csf) - healthy) < np.linalg.norm(now - healthy)


def test_an_atlas_that_is_not_deformed_cannot_be_coupled(patient, atlas):
    _, problem = patient
    assert can_couple([atlas])
    assert not can_couple([atlas, dataclasses.replace(atlas, shift=None)])
    with pytest.raises(ValueError, match="T1 image"):
        MultiAtlas((ATLAS,)).couple(problem, quiet)
    with pytest.raises(ValueError, match="no deformation"):
        AlignedAtlas("atlas", ATLAS).behind(np.zeros((*GRID.shape, 3)))


@pytest.mark.parametrize(
    ("healthy", "lacking", "couples", "reason"),
    [
        (None, {}, True, None),
        ("coupled", {}, True, None),
        ("affine", {}, False, None),
        (None, {"shift": None}, False, None),
        ("coupled", {"shift": None}, False, "the T1 image shows nothing of the displacement beside atlas"),
        ("coupled", {"deformed": None}, False, "atlas could not be deformed to the T1 image"),
    ],
)
def test_aligned_atlases_are_coupled_as_asked(patient, atlas, healthy, lacking, couples, reason):
    _, problem = patient
    notes, asked = [], dataclasses.replace(atlas, **lacking)
    for images in ({"T1": None}, {}):
        method = MultiAtlas((asked,)).prepare(
            SimpleNamespace(images=images, anatomy=ATLAS),
            MODEL,
            healthy=healthy,
            notes=notes,
            progress=lambda stage, share: None,
        )
        assert can_couple(method.atlases) == couples
        assert method.atlases[0].name == "atlas" and method.refuses(problem) is None
    if reason is None:
        assert notes == []
    else:
        assert reason in notes[0] and "there is no T1 image" in notes[1]
        assert [status_of([note]) for note in notes] == [Status.DOUBTFUL] * 2
        assert all(note.endswith("atlases lie behind affine maps instead.") for note in notes)


def test_a_displacement_that_has_not_settled_is_doubtful(atlas):
    settled, restless = (
        notes_on_turns([Turn((5.0,), (1.0,), (5.0,)), Turn((5.0,), (by / 5,), (by,))], [atlas]) for by in (0.1, 2.0)
    )
    assert (status_of(settled), status_of(restless)) == (Status.GOOD, Status.DOUBTFUL)
    assert "not settled in atlas" in restless[0]


@pytest.mark.parametrize(("length", "doubted"), ((0.001, True), (0.4, True), (1.0, False), (1.8, True)))
def test_a_push_that_the_borders_contradict_is_doubtful(patient, atlas, length, doubted):
    solution, _ = patient
    u = np.asarray(solution.displacement, float)
    problem = SimpleNamespace(observations={NAME: ShiftMap.of(GRID, *atlas.shift)})
    params = SimpleNamespace(observations={NAME: ShiftParams(0.3, 1.0)})
    notes = notes_on_push([problem], [params], [length * u], [atlas])
    assert len(notes) == doubted
    if doubted:
        assert status_of(notes) == Status.DOUBTFUL
        shown, found = (float(word) for word in re.findall(r"([\d.]+) mm", notes[0]))
        largest = np.linalg.norm(u, axis=-1).max()
        assert shown == pytest.approx(largest, rel=0.3) and found == pytest.approx(length * largest, abs=0.06)
    # Where nothing moves, or without a T1 image, there is nothing to compare.
    assert notes_on_push([problem], [params], [0 * u], [atlas]) == []
    assert notes_on_push([SimpleNamespace(observations={})], [params], [u], [atlas]) == []
