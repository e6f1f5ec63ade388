"""Retrieval as a method: matches, their mapping to the patient, uncertainty, and refused input."""

import dataclasses
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain
from tumorjax import (
    LBFGS,
    FisherKolmogorov,
    Grid,
    GrowthParams,
    MassEffect,
    Outline,
    Prior,
    Problem,
    Retrieval,
    ScaledGrowthParams,
    Uniform,
    build_database,
    calibrate,
    default_prior,
    index_of,
    published_box,
    simulate,
)
from tumorjax.calibration import CalibrationResult, Parameters
from tumorjax.ensemble import Database, Size
from tumorjax.methods.from_atlas.index import DamagedIndex
from tumorjax.planning import dice
from tumorjax.quality import Status, status_of
from tumorjax.retrieval import Index

COUNT = 10
MODEL = FisherKolmogorov()
SETTINGS = {"sizes": (Size(0.6, 0.5, 12.0), Size(0.2, 2.0, 25.0)), "shard_length": 4, "seed": 3, "screening": 1}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Ten tumours in a ball of tissue of 58 ml."""
    anatomy = ball_brain((16, 18, 15), 4.0)
    origin = published_box(anatomy, box="surrogate").distributions.origin
    prior = Prior(ScaledGrowthParams(Uniform(2.0, 9.0), Uniform(1.5, 4.5), origin, 0.5))
    return build_database(MODEL, prior, anatomy, COUNT, tmp_path_factory.mktemp("database") / "ten", **SETTINGS)


@pytest.fixture(scope="module")
def index(database, tmp_path_factory):
    return index_of(database, tmp_path_factory.mktemp("index") / "ten")


def outlined(database, cuts, affine=None, hole=None):
    """The problem of a patient with these outlines on the database's voxels, wherever these lie in the world."""
    anatomy = database.anatomy.astype(float)
    if hole is not None:
        keep = 1.0 - hole
        anatomy = dataclasses.replace(
            anatomy, white_matter=anatomy.white_matter * keep, grey_matter=anatomy.grey_matter * keep
        )
    if affine is not None:
        anatomy = dataclasses.replace(anatomy, grid=Grid(anatomy.grid.shape, affine))
    core, lesion = (Outline(np.asarray(inside, float), anatomy.tissue) for inside in cuts)
    observations = {"core": core, "lesion": lesion}
    return Problem(MODEL, anatomy, observations, default_prior(anatomy, observations))


def isolines(database, i, core=0.6, lesion=0.2):
    density = database.densities(slice(i, i + 1))[0] / 255
    return density > core + 1e-9, density > lesion + 1e-9


def core_alone(problem):
    """Return the problem of the same patient, of whom the core alone is outlined."""
    core = {"core": problem.observations["core"]}
    return dataclasses.replace(problem, observations=core, prior=default_prior(problem.anatomy, core))


def number(leaf):
    return np.asarray(leaf, float)


def test_a_tumour_of_the_database_is_found_with_its_parameters(database, index):
    whole = 0
    for i in range(COUNT):
        found = calibrate(outlined(database, isolines(database, i)), Retrieval(database, index))
        assert found.result is CalibrationResult.COMPLETE and not found.fitted
        matches, truth = found.stats.matches, database.parameters(i)
        assert (matches.indices.tolist(), matches.dice_core.tolist(), matches.dice_lesion.tolist()) == ([i], [1], [1])
        assert found.stats.tumours == COUNT and found.cost.solves == 0 and matches.seconds > 0
        np.testing.assert_allclose(number(found.params.growth.mu1), truth.mu1, rtol=1e-5)
        np.testing.assert_allclose(number(found.params.growth.mu2), truth.mu2, rtol=1e-5)
        # A single scan does not determine it: it varies by 0.5 in the database.
        assert float(found.params.growth.speed) == pytest.approx(ScaledGrowthParams(1.0, 1.0, np.zeros(3)).speed)
        assert [float(found.params.observations[name].threshold) for name in ("core", "lesion")] == pytest.approx(
            [0.6, 0.2]
        )
        voxel = tuple(np.rint(database.grid.to_index(number(truth.origin))).astype(int))
        if np.asarray(database.anatomy.tissue)[voxel]:
            whole += 1
            np.testing.assert_allclose(found.params.growth.origin, truth.origin, atol=1e-4)
    assert whole >= COUNT // 2
    # A single match has no uncertainty.
    assert found.covariance is None and found.samples is None and found.log_weights is None
    with pytest.raises(ValueError, match="no uncertainty: a single match"):
        found.standard_deviations()


def turned(database):
    """A quarter turn about an axis, and a shift: from the atlas' world to the patient's."""
    turn = np.eye(4)
    turn[:2, :2], turn[:3, 3] = [[0, -1], [1, 0]], [30, -70, 11]
    return turn @ np.asarray(database.grid.affine, float), lambda world: world @ turn[:3, :3].T + turn[:3, 3]


def test_a_patient_elsewhere_is_found_where_the_carry_says(database, index):
    affine, carry = turned(database)
    cuts = isolines(database, 4)
    here = calibrate(outlined(database, cuts), Retrieval(database, index))
    there = calibrate(outlined(database, cuts, affine), Retrieval(database, index, carry=carry))
    assert there.stats.matches.indices[0] == 4 and there.stats.matches.scores[0] == 2
    np.testing.assert_allclose(there.params.growth.origin, carry(number(here.params.growth.origin)), atol=1e-6)
    assert float(there.params.growth.mu1) == float(here.params.growth.mu1)
    with pytest.raises(ValueError, match="core lies outside the tissue of the database's brain"):
        calibrate(outlined(database, cuts, affine), Retrieval(database, index))
    with pytest.raises(ValueError, match=r"carry must map places \(\d+, 3\) to finite ones, got shape \(3,\)"):
        calibrate(outlined(database, cuts), Retrieval(database, index, carry=lambda world: world[0]))


def test_a_core_that_is_outlined_alone_stands_for_the_lesion(database, index):
    problem = core_alone(outlined(database, isolines(database, 3)))
    found = calibrate(problem, Retrieval(database, index))
    (core, lesion), matches = (isolines(database, int(found.stats.matches.indices[0])), found.stats.matches)
    wanted = np.asarray(problem.observations["core"].inside) > 0.5
    # Among all tumours the one of which both outlines resemble the core.
    assert [matches.dice_core[0], matches.dice_lesion[0]] == pytest.approx([dice(core, wanted), dice(lesion, wanted)])
    assert list(found.params.observations) == ["core"]
    figures = found.figures()
    assert figures["match_dice_core"] == matches.dice_core[0]
    assert figures["match_dice_lesion"] is None and figures["match_dice_sum"] is None
    (note,) = [each for each in found.notes(problem) if "stands for both" in each]
    assert status_of([note]) is Status.DOUBTFUL and status_of(found.notes(problem, alone=False)) is Status.GOOD
    assert not any("whole lesion)" in each for each in found.notes(problem))


def test_finer_voxels_are_the_same_patient(database, index):
    problem = outlined(database, isolines(database, 7))
    fine = lambda image: np.repeat(np.repeat(np.repeat(np.asarray(image, float), 2, 0), 2, 1), 2, 2)  # noqa: E731
    affine = np.asarray(database.grid.affine, float) @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = database.grid.to_world(np.full(3, -0.25))
    anatomy = problem.anatomy
    maps = (fine(tissue) for tissue in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf))
    anatomy = type(anatomy)(Grid(tuple(2 * n for n in anatomy.grid.shape), affine), *maps)
    outlines = {name: Outline(fine(o.inside), anatomy.tissue) for name, o in problem.observations.items()}
    problem = Problem(MODEL, anatomy, outlines, default_prior(anatomy, outlines))
    matches = calibrate(problem, Retrieval(database, index)).stats.matches
    assert (matches.indices[0], matches.scores[0]) == (7, 2)


def test_an_origin_outside_the_tissue_goes_to_the_nearest(database, index):
    cuts, grid = isolines(database, 2), database.grid
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape, float), 0, -1)))
    seed = number(database.parameters(2).origin)
    hole = np.linalg.norm(world - seed, axis=-1) < 9
    problem = outlined(database, cuts, hole=hole)
    origin = number(calibrate(problem, Retrieval(database, index)).params.growth.origin)
    tissue = world[np.asarray(problem.anatomy.tissue)]
    np.testing.assert_allclose(origin, tissue[np.argmin(np.linalg.norm(tissue - seed, axis=1))], atol=1e-6)
    assert np.linalg.norm(origin - seed) >= 9


def test_physical_parameters_for_a_prior_of_them(database, index):
    problem = outlined(database, isolines(database, 1))
    unknown = problem.prior.distributions
    growth = GrowthParams(Uniform(0.01, 3.0), Uniform(0.001, 1.0), unknown.growth.origin, Uniform(1.0, 3000.0))
    problem = dataclasses.replace(problem, prior=Prior(Parameters(growth, unknown.observations)))
    found, truth = calibrate(problem, Retrieval(database, index)).params.growth, database.parameters(1)
    assert isinstance(found, GrowthParams)
    assert float(found.diffusivity * found.duration) == pytest.approx(float(truth.mu1) ** 2, rel=1e-4)
    assert float(found.proliferation * found.duration) == pytest.approx(float(truth.mu2) ** 2, rel=1e-4)
    assert float(2 * jnp.sqrt(found.diffusivity * found.proliferation)) == pytest.approx(0.5, rel=1e-4)


def test_what_the_prior_forbids_is_moved_to_its_nearest_value(database, index):
    problem = outlined(database, isolines(database, 3))
    mu2 = float(database.parameters(3).mu2)
    unknown = problem.prior.distributions
    growth = dataclasses.replace(unknown.growth, mu2=Uniform(mu2 + 1.0, mu2 + 2.0))
    problem = dataclasses.replace(problem, prior=Prior(Parameters(growth, unknown.observations)))
    found = calibrate(problem, Retrieval(database, index))
    assert found.stats.moved == ("growth.mu2",)
    assert mu2 + 1 < float(found.params.growth.mu2) < mu2 + 1.01
    assert np.abs(found.coordinates).max() <= 3 + 1e-6


def test_several_matches_are_samples_with_a_spread(database, index):
    problem = outlined(database, isolines(database, 5))
    found = calibrate(problem, Retrieval(database, index, k=3))
    indices = found.stats.matches.indices
    assert indices[0] == 5 and len(set(indices.tolist())) == 3
    assert found.samples.growth.origin.shape == (3, 3)
    np.testing.assert_allclose(found.samples.growth.mu1, database.table[indices][:, 0], rtol=1e-5)
    for each, best in zip(jax.tree.leaves(found.samples), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_array_equal(each[0], best)
    np.testing.assert_allclose(np.exp(found.log_weights), [1 / 3] * 3)
    # The origin is linear in its coordinates.
    spread = found.standard_deviations().growth.origin
    np.testing.assert_allclose(spread, np.std(found.samples.growth.origin, axis=0), rtol=1e-6)
    assert np.linalg.matrix_rank(number(found.covariance), tol=1e-8) == 2
    draws = found.sample(jax.random.key(0), 2000).growth.origin
    np.testing.assert_allclose(np.std(draws, axis=0), spread, rtol=0.1)


def test_thresholds_can_be_optimised(database, index):
    problem = outlined(database, isolines(database, 6, core=0.7, lesion=0.35))
    plain = calibrate(problem, Retrieval(database, index)).stats.matches
    found = calibrate(problem, Retrieval(database, index, optimise_thresholds=True))
    assert found.stats.matches.scores[0] == 2 > plain.scores[0]
    assert found.stats.matches.indices[0] == 6
    assert [float(found.params.observations[name].threshold) for name in ("core", "lesion")] == pytest.approx(
        [0.7, 0.35]
    )


@pytest.fixture(scope="module")
def held_out(database):
    """A patient whose tumour is near one of the database."""
    truth = database.parameters(5)
    origin = number(truth.origin) + np.array([2.0, -1.0, 1.5])
    truth = ScaledGrowthParams(float(truth.mu1) * 1.15, float(truth.mu2) * 0.97, origin)
    anatomy = database.anatomy.astype(float)
    density = np.asarray(simulate(MODEL, truth, anatomy).density)
    return outlined(database, (density > 0.65, density > 0.3))


def test_searches_begin_at_the_matches_and_improve_on_them(database, index, held_out):
    query, told = Retrieval(database, index, k=2), []
    match = calibrate(held_out, query)
    found = calibrate(held_out, LBFGS(init=query, coarsening=1, budget=8), progress=lambda *news: told.append(news[0]))
    assert match.stats.matches.indices[0] == 5
    starts = [-float(held_out.log_posterior(held_out.prior.unconstrain(p))) for p in unstacked(match.samples)]
    assert [history[0] for history in found.histories] == pytest.approx(starts)
    assert found.stats.objective < min(starts) - 0.1
    assert found.begun.stats.matches.indices.tolist() == match.stats.matches.indices.tolist()
    assert found.covariance.shape == (9, 9) and found.samples is None
    assert list(dict.fromkeys(told)) == ["query", "search", "uncertainty"]


def unstacked(samples):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], samples) for i in range(len(samples.growth.mu1))]


# --- the index of a database -------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tumorjax" / "indices"


def test_the_index_is_built_once_and_kept_in_the_cache(database, cache, monkeypatch):
    told = []
    problem = outlined(database, isolines(database, 8))
    found = calibrate(problem, Retrieval(database), progress=lambda stage, share, _: told.append((stage, share)))
    assert found.stats.matches.indices[0] == 8
    assert [share for stage, share in told if stage == "index"] == [0, 0.4, 0.8, 1]
    (kept,) = cache.iterdir()
    assert kept.name == f"{database.fingerprint}-0.6-0.2"
    # What the tissue leaves out holds no tumour.
    densities = database.densities()
    expected = [np.count_nonzero(densities > cut, axis=(1, 2, 3)).tolist() for cut in (153, 51)]
    assert Index.open(kept).masks.counts.tolist() == expected
    with monkeypatch.context() as patch:
        patch.setattr(Database, "densities", None)
        assert calibrate(problem, Retrieval(database)).stats.matches.indices[0] == 8
    # With another variant it is built anew, and keeps those it had.
    assert set(index_of(database, variants=["ds64"]).variants) == {"direct", "ds64"}
    assert set(index_of(database, variants=["ds32"]).variants) == {"direct", "ds64", "ds32"}
    assert set(index_of(database, thresholds=(0.7, 0.3)).variants) == {"direct"}
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ("missing", "flipped", "no contents", "empty contents", "a file", "empty"))
def test_a_damaged_index_of_the_cache_is_built_anew_and_says_so(database, cache, damage):
    index_of(database)
    (kept,) = cache.iterdir()
    match damage:
        case "missing":
            (kept / "direct" / "counts.npy").unlink()
        case "flipped":
            words = (kept / "direct" / "words.npy").read_bytes()
            (kept / "direct" / "words.npy").write_bytes(words[:-9] + bytes([words[-9] ^ 4]) + words[-8:])
        case "no contents":
            (kept / "contents.json").unlink()
        case "empty contents":
            (kept / "direct" / "contents.json").write_bytes(b"")
        case "empty" | "a file":
            shutil.rmtree(kept)
            kept.mkdir() if damage == "empty" else kept.touch()
    with pytest.warns(DamagedIndex, match="index of simulated tumours in the cache is damaged, and is built anew: "):
        assert len(index_of(database)) == COUNT
    assert len(Index.open(kept)) == COUNT
    assert [path.name for path in cache.iterdir()] == [kept.name]


def test_who_comes_second_waits_for_the_index(database, cache, monkeypatch):
    built, build = [], Index.build

    def slowly(*args, **settings):
        built.append(1)
        time.sleep(0.2)
        return build(*args, **settings)

    monkeypatch.setattr(Index, "build", slowly)
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(index_of(database)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (found, built) == ([COUNT] * 4, [1])


def test_a_folder_with_something_else_is_left_alone(database, index, tmp_path):
    densities = [database.densities()]
    tissue, place = np.asarray(database.anatomy.tissue), tmp_path / "other"
    Index.build(densities, tissue, 4.0, place, source="other tumours")
    with pytest.raises(ValueError, match=r"index of another database \('other tumours'\)"):
        index_of(database, place)
    Index.build(densities, tissue, 4.0, place, source=database.fingerprint, thresholds=(0.7, 0.3), overwrite=True)
    with pytest.raises(ValueError, match=r"outlines at densities of \(0.7, 0.3\), asked for were \(0.6, 0.2\)"):
        index_of(database, place)
    with pytest.raises(ValueError, match="unknown variants hash"):
        index_of(database, tmp_path / "new", variants=["hash"])
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


# --- what it refuses -----------------------------------------------------------------------------------------------


def test_methods_that_cannot_be_used(database, index):
    for settings, message in (
        ({"k": 0}, "the database has 10 tumours, so k is between 1 and that, got 0"),
        ({"k": 11}, "so k is between 1 and that, got 11"),
        ({"variant": "hash"}, "unknown variant 'hash'; there are direct"),
    ):
        with pytest.raises(ValueError, match=message):
            Retrieval(database, index, **settings)
    with pytest.raises(ValueError, match="the index is of another database"):
        Retrieval(database, dataclasses.replace(index, source="other tumours"))


def test_problems_that_cannot_be_looked_up(database, index):
    problem = outlined(database, isolines(database, 0))
    unknown = problem.prior.distributions
    two = dataclasses.replace(unknown.growth, origin=Uniform(np.full((2, 3), -5.0), np.full((2, 3), 5.0)))
    lesion, known = ({"lesion": every["lesion"]} for every in (problem.observations, unknown.observations))
    alone = {"observations": lesion, "prior": Prior(Parameters(unknown.growth, known))}
    for other, message in (
        ({"model": MassEffect(MODEL)}, "without mass effect, got MassEffect"),
        ({"model": FisherKolmogorov(ratio=5.0)}, "grew with ratio = 10, got ratio = 5; give both one model"),
        (alone, "needs an outline of the core"),
        ({"prior": Prior(Parameters(two, unknown.observations))}, r"shape \(3,\), the prior \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate(dataclasses.replace(problem, **other), Retrieval(database, index))
    with pytest.raises(ValueError, match="the index was built without 'ds64'"):
        calibrate(problem, Retrieval(database, index, variant="ds64"))
