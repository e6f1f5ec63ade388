"""Databases of simulated tumours: contents, interruptions without any effect, and detection of damage."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import islice, pairwise
from pathlib import Path

import fsspec
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import tumorjax.ensemble.distribute as distribute
import tumorjax.ensemble.growing as growing
import tumorjax.ensemble.window as window
from tests.problems import ball_brain
from tests.work import Grown
from tumorjax import (
    Anatomy,
    FisherKolmogorov,
    GrowthParams,
    MassEffect,
    MassEffectParams,
    Prior,
    ScaledGrowthParams,
    Uniform,
    UniformSteps,
)
from tumorjax.ensemble import Database, Recipe, Size, anatomy_hash, as_density, build_database, published_box
from tumorjax.ensemble.description import describe, restore
from tumorjax.ensemble.files import Files, checksum, require
from tumorjax.ensemble.growing import REASONS, Grower
from tumorjax.ensemble.recipe import fingerprint
from tumorjax.grid import Grid
from tumorjax.integrate import simulate
from tumorjax.storage import InUseError, sealed

ROOT = Path(__file__).resolve().parent.parent
COUNT = 11
SETTINGS = {"sizes": (Size(0.6, 0.5, 12.0), Size(0.2, 2.0, 25.0)), "shard_length": 4, "seed": 3, "screening": 1}
MODEL = FisherKolmogorov()


def brain():
    """Return a ball of tissue of 58 ml, off the centre of a grid with margins."""
    return ball_brain((16, 18, 15), 4.0)


def prior(anatomy):
    origin = published_box(anatomy, box="surrogate").distributions.origin
    return Prior(ScaledGrowthParams(Uniform(2.0, 9.0), Uniform(1.5, 4.5), origin, 0.5))


def build(url, count=COUNT, **settings):
    anatomy = brain()
    return build_database(MODEL, prior(anatomy), anatomy, count, url, **(SETTINGS | settings))


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def times_of(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a database that was built without interruption, in one thread."""
    folder = tmp_path_factory.mktemp("ensemble") / "whole"
    build(folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def shards(whole):
    """The shards of that database."""
    grower = Grower(Database.open(whole).recipe)
    return [grower.shard(index) for index in range(3)]


@pytest.fixture
def grown_before(monkeypatch, shards):
    """Replace growing by a stub, and list the shards that are requested."""
    asked = []

    def shard(recipe, index):
        asked.append(index)
        return shards[index]

    monkeypatch.setattr(distribute, "Grower", lambda recipe: Grown(recipe, shard))
    distribute._compiled.cache_clear()
    yield asked
    distribute._compiled.cache_clear()


# --- contents ------------------------------------------------------------------------------------------------------


def test_tumours_are_those_of_a_plain_loop_over_the_draws(whole):
    database = Database.open(whole)
    recipe, millilitre = database.recipe, 4.0**3 / 1000
    anatomy = recipe.anatomy.astype(np.float32)
    tried = dict.fromkeys(REASONS, 0)
    for index in range(2):
        points, found = growing._points(recipe, index), []
        while len(found) < 4:
            z = next(points)
            solution = simulate(MODEL, recipe.prior.constrain(z), anatomy, throw=False)
            stored = np.round(255 * np.clip(np.asarray(solution.density), 0, 1)) / 255
            core, lesion = (np.count_nonzero(stored > u) * millilitre for u in (0.6, 0.2))
            if solution.result:
                tried["outside tissue"] += 1
            elif core > 12 or lesion > 25:
                tried["too large"] += 1
            elif core < 0.5 or lesion < 2:
                tried["too small"] += 1
            else:
                found.append((z, stored))
        rows = slice(4 * index, 4 * index + 4)
        np.testing.assert_array_equal(database.coordinates[rows], [z for z, _ in found])
        for i, (_, stored) in enumerate(found):
            # Rounding may carry a voxel over the middle between two steps.
            np.testing.assert_allclose(database.density(rows.start + i), stored, atol=1.01 / 255)
    counted = database._arrays["rejected"][:2].sum(axis=0)
    assert dict(zip(REASONS, counted.tolist(), strict=True)) == tried
    assert min(tried["outside tissue"], tried["too large"], tried["too small"]) > 0
    assert sum(database.rejected.values()) > sum(tried.values())


def test_all_stored_tumours_have_the_given_sizes(whole):
    database = Database.open(whole)
    assert len(database) == COUNT
    for i in range(COUNT):
        for size in SETTINGS["sizes"]:
            volume = np.count_nonzero(database.density(i) > size.threshold) * 0.064
            assert size.least <= volume <= size.most
        # Solves that went wrong are not among them.
        assert 0.6 < database.density(i).max() <= 1


def test_parameters_are_a_tree_with_names_and_units(whole):
    database = Database.open(whole)
    recipe = database.recipe
    assert recipe.names == ["mu1", "mu2", "origin[0]", "origin[1]", "origin[2]", "speed"]
    assert recipe.units == ["mm", "1", *["mm, RAS world"] * 3, "mm/day"]
    one, several = database.parameters(-1), database.parameters(slice(2, 5))
    assert isinstance(one, ScaledGrowthParams)
    assert one.speed == 0.5
    np.testing.assert_allclose(one.origin, database.table[10, 2:5])
    np.testing.assert_allclose(one.mu1, recipe.prior.constrain(database.coordinates[10]).mu1, rtol=1e-6)
    assert several.origin.shape == (3, 3)
    assert database.densities(slice(2, 5)).dtype == np.uint8
    np.testing.assert_array_equal(as_density(database.densities(slice(10, 11))[0]), database.density(10))
    with pytest.raises(IndexError):
        database.density(COUNT)


def test_the_box_keeps_its_place_in_the_atlas(whole):
    database, atlas = Database.open(whole), brain()
    start, shape = atlas.box()
    assert (database.recipe.start, database.grid.shape) == (start, shape)
    assert min(start) > 0
    assert anatomy_hash(database.anatomy) == anatomy_hash(atlas.crop(start, shape)) != anatomy_hash(atlas)
    np.testing.assert_allclose(database.grid.to_world(np.zeros(3)), atlas.grid.to_world(np.asarray(start, float)))
    np.testing.assert_allclose(database.recipe.atlas.affine, atlas.grid.affine)


def test_halves_are_finer_than_bytes(tmp_path, whole):
    database, coarse = build(tmp_path / "halves", dtype="float16"), Database.open(whole)
    anatomy = database.anatomy.astype(np.float32)
    for i in range(2):
        truth = np.asarray(simulate(MODEL, database.parameters(i), anatomy).density)
        assert np.abs(database.density(i) - truth).max() < 1e-3
        truth = np.asarray(simulate(MODEL, coarse.parameters(i), anatomy).density)
        assert 1e-3 < np.abs(coarse.density(i) - truth).max() < 0.51 / 255


# --- draws ---------------------------------------------------------------------------------------------------------


def test_sobol_draws_of_a_shard_are_evenly_spread_and_random_ones_are_not():
    anatomy = brain()
    drawn = {}
    for draws in ("sobol", "random"):
        recipe = Recipe.of(MODEL, prior(anatomy), anatomy, 9, draws=draws)
        shares = ndtr(np.stack(list(islice(growing._points(recipe, 1), 64))).astype(float))
        drawn[draws] = [len(set((column * 64).astype(int))) for column in shares.T]
    assert drawn["sobol"] == [64] * 5
    assert max(drawn["random"]) < 52


def test_shards_seeds_and_kinds_of_draws_have_streams_of_their_own():
    anatomy = brain()
    streams = [({"seed": 0}, 0), ({"seed": 0}, 1), ({"seed": 1}, 0), ({"draws": "random"}, 0)]
    first = [
        next(growing._points(Recipe.of(MODEL, prior(anatomy), anatomy, 9, **settings), index))
        for settings, index in streams
    ]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in pairwise([*first, first[0]]))


def test_the_published_box_holds_the_tissue():
    turned = np.array([[0.0, -3.0, 0.0, 5.0], [3.0, 0.0, 0.0, -7.0], [0.0, 0.0, 4.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
    straight = brain()
    anatomy = type(straight)(
        Grid(straight.grid.shape, turned), straight.white_matter, straight.grey_matter, straight.csf
    )
    box = published_box(anatomy, box="surrogate").distributions
    assert (box.diffusivity.low, box.diffusivity.high) == (0.01, 0.08)
    drawn = {float(box.duration.transport(jnp.asarray(z))) for z in np.linspace(-3, 3, 400)}
    assert drawn == set(np.arange(50.0, 1001.0, 50.0))
    inside = anatomy.grid.to_world(np.argwhere(np.asarray(anatomy.tissue)).astype(float))
    # Half a voxel around the centres, along the axes of the world.
    np.testing.assert_allclose(box.origin.low, inside.min(axis=0) - np.array([1.5, 1.5, 2.0]))
    np.testing.assert_allclose(box.origin.high, inside.max(axis=0) + np.array([1.5, 1.5, 2.0]))


def test_seeds_are_drawn_from_the_published_part_of_the_atlas():
    """A cube as long as the longest edge of the image, in which x and z are 0.15 to 0.7, and y 0.2 to 0.8."""
    voxels = np.ones((193, 229, 193), np.float32)
    world = np.array([[-1.0, 0, 0, 96.0], [0, 1.0, 0, -132.0], [0, 0, 1.0, -78.0], [0, 0, 0, 1.0]])
    whole = Anatomy(Grid(voxels.shape, world), voxels, 0 * voxels, 0 * voxels)
    origin = published_box(whole).distributions.origin
    corner = np.array([-96.5, -132.5, -78.5])
    np.testing.assert_allclose(origin.low, corner + 229 * np.array([0.15, 0.2, 0.15]))
    np.testing.assert_allclose(origin.high, corner + 229 * np.array([0.7, 0.8, 0.7]))
    # The brain is in the middle of any image.
    cube = published_box(brain()).distributions.origin
    middle = np.asarray(brain().grid.to_world((np.array(brain().grid.shape) - 1) / 2))
    assert np.abs((cube.low + cube.high) / 2 - middle).max() < 0.01 * 72


def test_a_prior_of_steps_is_described_and_restored():
    steps = UniformSteps(50.0, 1000.0, 50.0)
    assert restore(json.loads(json.dumps(describe(steps)))) == steps


# --- the same bytes ------------------------------------------------------------------------------------------------


def test_threads_and_place_do_not_matter(whole):
    wanted = files_of(whole)
    build("memory://ensemble/two", workers=2)
    fs = fsspec.filesystem("memory")
    there = {name.removeprefix("/ensemble/two/"): fs.cat_file(name) for name in fs.find("/ensemble/two")}
    assert there == wanted
    database = Database.open("memory://ensemble/two")
    np.testing.assert_array_equal(database.density(7), Database.open(whole).density(7))
    assert database.verify() == []
    # Four files a shard, metadata and maps; no time of day, no path.
    assert sum(name.startswith("density/c/") for name in wanted) == 3
    assert str(whole).encode() not in b"".join(wanted.values())


def test_batches_grow_the_same_tumours(monkeypatch, whole, shards):
    grower = Grower(Database.open(whole).recipe)
    monkeypatch.setattr(grower, "_batch", 3)
    for index, single in enumerate(shards):
        batch = grower.shard(index)
        np.testing.assert_array_equal(batch.coordinates, single.coordinates)
        np.testing.assert_array_equal(batch.rejected, single.rejected)
        np.testing.assert_allclose(batch.parameters, single.parameters, rtol=1e-6)
        np.testing.assert_allclose(as_density(batch.densities), as_density(single.densities), atol=1.01 / 255)


def test_screening_on_coarse_voxels_saves_solves_and_changes_nothing(monkeypatch):
    anatomy = brain()
    wide = dataclasses.replace(prior(anatomy).distributions, mu1=Uniform(5.0, 9.0), mu2=Uniform(2.0, 8.0))
    solves, found = {}, {}
    for screening in (1, 2):
        grower = Grower(Recipe.of(MODEL, Prior(wide), anatomy, 4, **(SETTINGS | {"screening": screening})))
        grow = grower._grown
        solves[screening] = []
        monkeypatch.setattr(
            grower,
            "_grown",
            lambda params, level, grow=grow, n=screening: solves[n].append(level.factor) or grow(params, level),
        )
        found[screening] = grower.shard(0)
    np.testing.assert_array_equal(found[1].densities, found[2].densities)
    np.testing.assert_array_equal(found[1].rejected, found[2].rejected)
    assert solves[2].count(1) < 0.7 * len(solves[1])
    # Each is grown on coarse voxels once, for its window if not for its size.
    assert solves[2].count(2) == len(solves[1])


@pytest.mark.parametrize("margin", [2, -4])
def test_tumours_grow_in_windows_as_in_the_whole_brain(monkeypatch, margin):
    anatomy = ball_brain((40, 40, 40), 2.0)
    slow = dataclasses.replace(prior(anatomy).distributions, mu1=Uniform(2.0, 5.0), mu2=Uniform(3.0, 6.0))
    settings = SETTINGS | {"sizes": (Size(0.2, 0.3, 12.0),), "screening": 2}
    monkeypatch.setattr(window, "_MARGIN", margin)
    monkeypatch.setattr(window, "_SIDE", 4)
    grower = Grower(Recipe.of(MODEL, Prior(slow), anatomy, 4, **settings))
    shapes, grow = [], grower._grown

    def watched(params, level):
        shapes.append(level.anatomy.grid.shape)
        return grow(params, level)

    monkeypatch.setattr(grower, "_grown", watched)
    windowed, whole = grower.shard(0), grower.recipe.anatomy.grid.shape
    if margin > 0:
        assert max(np.prod(shape) for shape in shapes) < 0.8 * np.prod(whole)
    else:
        # What reaches the walls of a window that is too small is grown anew.
        assert whole in shapes
    monkeypatch.setattr(grower, "_kept", lambda params, _: grow(params, grower._fine)[:2])
    np.testing.assert_allclose(as_density(windowed.densities), as_density(grower.shard(0).densities), atol=1.01 / 255)


def test_a_build_that_stops_anywhere_goes_on_to_the_same_bytes(tmp_path, monkeypatch, whole, grown_before):
    wanted, stopped = files_of(whole), 0
    write, remove = Files.write, Files.remove
    left = [0]

    def count():
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")

    def failing_write(self, key, content):
        try:
            count()
        except OSError:
            # As one who is killed leaves it.
            write(self, key + ".0.partial", content[: len(content) // 2])
            os.rename(Path(self.url) / f"{key}.0.partial", Path(self.url) / f"{key}.1.partial")
            raise
        write(self, key, content)

    def failing_remove(self, keys):
        for key in list(keys):
            count()
            remove(self, [key])

    for place in range(1, 100):
        folder = tmp_path / str(place)
        with monkeypatch.context() as patch:
            patch.setattr(Files, "write", failing_write)
            patch.setattr(Files, "remove", failing_remove)
            left[0] = place
            try:
                build(folder, workers=1)
                break
            except OSError:
                stopped += 1
        before = len(grown_before)
        finished = len(list((folder / "manifest").glob("*.json")))
        ended = (folder / "manifest.json").is_file()
        if not ended:
            with pytest.raises(ValueError, match=r"not finished|not a database"):
                Database.open(folder)
        assert len(build(folder, workers=1)) == COUNT
        assert len(grown_before) - before == (0 if ended else 3 - finished)
        assert files_of(folder) == wanted
    # Metadata and maps, three shards with four files, an entry and its removal, and the manifest.
    assert stopped > 25


def test_a_build_that_is_killed_while_it_writes_goes_on_to_the_same_bytes(tmp_path, whole):
    folder = tmp_path / "killed"
    code = f"""
import os, time
import tests.test_ensemble as case
import tumorjax.ensemble.files as files

replace = os.replace
def stuck(source, target):
    if "density/c/1/" in str(target):
        os.truncate(source, 100)
        print("writing", flush=True)
        time.sleep(600)
    replace(source, target)
os.replace = stuck
case.build({str(folder)!r}, workers=1)
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "writing\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with pytest.raises(ValueError, match="not finished \\(1 of 3 shards\\)"):
        Database.open(folder)
    assert any(name.endswith(".partial") for name in files_of(folder))
    # The child ran in the precision that JAX has by itself, this process has float64.
    first = times_of(folder)["density/c/0/0/0/0"]
    build(folder, workers=2)
    assert files_of(folder) == files_of(whole)
    assert times_of(folder)["density/c/0/0/0/0"] == first


# --- damage --------------------------------------------------------------------------------------------------------


def copied(whole, folder):
    """Copy a database."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    return folder


def read(folder):
    """Return the contents of all files of a database."""
    database = Database.open(folder)
    return [database.fingerprint, database.table, database.coordinates, database.rejected, database.densities()]


def flips(path, count, random):
    """Yield a file again and again, each time with another flipped bit; restore the file at the end."""
    content = path.read_bytes()
    for position in random.integers(len(content), size=count):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1 << random.integers(8)]) + content[position + 1 :]
        )
        yield position
    path.write_bytes(content)


def test_no_flipped_bit_gives_other_values(tmp_path, whole):
    folder, wanted, random, refused = copied(whole, tmp_path / "copy"), read(whole), np.random.default_rng(0), {}
    for key in files_of(whole):
        for position in flips(folder / key, 12 if key in ("zarr.json", "manifest.json") else 3, random):
            try:
                found = read(folder)
            except ValueError as error:
                assert re.fullmatch(r"[^\n]*copy[^\n]*; (build|replace)[^\n]*", str(error)), (key, position)
                refused[key] = refused.get(key, 0) + 1
            else:
                for one, other in zip(found, wanted, strict=True):
                    np.testing.assert_array_equal(one, other)
    assert refused["density/c/1/0/0/0"] == refused["parameters/c/0/0"] == 3
    assert len(refused) == len(files_of(whole))


def test_a_damaged_shard_is_found_when_it_is_read(tmp_path, whole):
    folder = copied(whole, tmp_path / "copy")
    spoil(folder / "density/c/1/0/0/0", "changed")
    database, sound = Database.open(folder), Database.open(whole)
    np.testing.assert_array_equal(database.density(3), sound.density(3))
    np.testing.assert_array_equal(database.densities(slice(8, None)), sound.densities(slice(8, None)))
    told = r"density/c/1/0/0/0 \(shard 1\) of the database .*copy is damaged; build it again with the same settings"
    for reading in (lambda: database.density(4), lambda: database.densities(), lambda: list(database.blocks())):
        with pytest.raises(ValueError, match=told):
            reading()


def test_a_folder_that_another_thread_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    made = os.makedirs
    removed = []

    def hasty(path, **settings):
        made(path, **settings)
        if path.endswith("manifest") and not removed:
            removed.append(path)
            os.rmdir(path)

    monkeypatch.setattr(os, "makedirs", hasty)
    files = Files(str(tmp_path / "store"))
    files.write("manifest/0", b"content")
    assert removed and (tmp_path / "store/manifest/0").read_bytes() == b"content"


def test_a_folder_around_it_may_be_removed_too(tmp_path, monkeypatch):
    make, removed = os.mkdir, []

    def late(path, *mode):
        if str(path).endswith("c") and not removed:
            removed.append(path)
            os.rmdir(os.path.dirname(path))
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", late)
    files = Files(str(tmp_path / "store"))
    files.write("density/c/0", b"content")
    assert removed and (tmp_path / "store/density/c/0").read_bytes() == b"content"
    with pytest.raises(FileExistsError):
        files.write("density/c/0/1", b"content")


def test_a_build_that_fails_holds_its_store_until_running_shards_are_written(tmp_path, monkeypatch):
    folder, running, held = tmp_path / "store", threading.Event(), []

    def grown(url, fingerprint, index):
        if index == 0:
            assert running.wait(60)
            raise OSError("the disk is full")
        running.set()
        time.sleep(0.3)
        with contextlib.suppress(InUseError), Files(folder).held():
            held.append(False)
            return index
        held.append(True)
        return index

    monkeypatch.setattr("tumorjax.ensemble.distribute.write_shard", grown)
    with pytest.raises(OSError, match="full"):
        build(folder, workers=2)
    assert held and all(held)


def test_each_file_is_compared_once(whole, monkeypatch):
    database, read = Database.open(whole), []
    monkeypatch.setattr(Files, "read", lambda self, key, get=Files.read: read.append(key) or get(self, key))
    for _ in range(2):
        for i in range(COUNT):
            database.density(i)
    assert read == [f"density/c/{shard}/0/0/0" for shard in range(3)]


@pytest.mark.parametrize("damage", (b"", b"{", b"[]", b"{}", b"[" * 100_000, "flip", "cut"))
def test_a_damaged_manifest_rebuilds_nothing_without_repair(tmp_path, whole, grown_before, damage):
    folder = copied(whole, tmp_path / "copy")
    file = folder / "manifest.json"
    good = file.read_bytes()
    file.write_bytes({"flip": good.replace(b"density/c/1", b"density/c/3"), "cut": good[:-30]}.get(damage, damage))
    message = (
        r"manifest.json of the database .*copy, .*checksums, is damaged; replace it by a copy, .* all shards again"
    )
    for reading in (lambda: Database.open(folder), lambda: build(folder)):
        with pytest.raises(ValueError, match=message):
            reading()
    assert grown_before == []
    build(folder, repair=True)
    assert sorted(grown_before) == [0, 1, 2]
    assert files_of(folder) == files_of(whole)


def test_a_store_of_version_0_1_is_read_and_brought_up(tmp_path, whole, grown_before):
    folder = copied(whole, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    np.testing.assert_array_equal(Database.open(folder).densities(), Database.open(whole).densities())
    build(folder)
    assert (grown_before, files_of(folder)) == ([], files_of(whole))


def test_a_damaged_description_is_mended_by_its_own_recipe_alone(tmp_path, whole, grown_before):
    folder = copied(whole, tmp_path / "copy")
    (folder / "zarr.json").write_bytes((folder / "zarr.json").read_bytes().replace(b"shard_length", b"shard_lenght"))
    with pytest.raises(ValueError, match="its description is damaged; build it again with the same settings"):
        Database.open(folder)
    with pytest.raises(ValueError, match="its description is damaged; build it again with the same settings"):
        build(folder, seed=4)
    build(folder)
    assert (grown_before, files_of(folder)) == ([], files_of(whole))


FORGERIES = {
    "density/zarr.json": ('"shape":', '"shape": [1, 2], "was":', '"data_type": "uint8"', '"data_type": "nosuch"'),
    "parameters/zarr.json": ('"node_type": "array"', '"node_type": "group"', '"zarr_format": 3', '"zarr_format": 9'),
    "anatomy/csf/zarr.json": ('"shape":', '"shape": [100000, 100000, 100000], "was":', '"name": "zstd"', '"name": "x"'),
    "coordinates/zarr.json": ('"codecs":', '"codecs": [[[]]], "was":', '"name": "bytes"', '"name": "nosuch"'),
}


@pytest.mark.parametrize("key", FORGERIES)
def test_forged_metadata_are_one_line(tmp_path, whole, key):
    """As of a forger who has adapted the checksums, too."""
    folder = copied(whole, tmp_path / "copy")
    manifest, good = json.loads((folder / "manifest.json").read_text()), (folder / key).read_text()
    del manifest["sha256"]
    for old, new in zip(FORGERIES[key][::2], FORGERIES[key][1::2], strict=True):
        assert old in good
        forged = good.replace(old, new, 1).encode()
        (folder / key).write_bytes(forged)
        manifest["common"][key] = [checksum(forged), len(forged)]
        (folder / "manifest.json").write_bytes(sealed(manifest))
        with pytest.raises(ValueError, match=r"^the database .*copy cannot be used: .*$"):
            read(folder)


@pytest.mark.parametrize("shards", ([], None, [{}] * 3, [[[]]] * 3, {"0": {}}, [None] * 10_000))
def test_forged_manifests_list_nothing(tmp_path, whole, shards):
    folder = copied(whole, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    (folder / "manifest.json").write_bytes(sealed(manifest | {"shards": shards}))
    with pytest.raises(ValueError, match=r"are missing or cut short: 0, 1, 2; |is not finished|is damaged"):
        Database.open(folder)


@pytest.mark.parametrize("change", ({"count": 10**12}, {"count": 10**12, "shard_length": 10**12}, {"shard_length": 1}))
def test_forged_numbers_take_neither_time_nor_memory(tmp_path, whole, change):
    """As of a forger who has adapted the checksums, too."""
    folder = copied(whole, tmp_path / "copy")
    root, manifest = (json.loads((folder / name).read_text()) for name in ("zarr.json", "manifest.json"))
    root["attributes"]["recipe"].update(change)
    root["attributes"]["fingerprint"] = manifest["fingerprint"] = fingerprint(root["attributes"]["recipe"])
    content = json.dumps(root).encode()
    (folder / "zarr.json").write_bytes(content)
    del manifest["sha256"]
    manifest["common"]["zarr.json"] = [checksum(content), len(content)]
    (folder / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(ValueError, match=r"missing or cut short: .*; build it again with repair"):
        Database.open(folder)


def test_a_second_build_is_refused_and_disturbs_nothing(tmp_path, whole, grown_before):
    folder, refused = tmp_path / "first", []

    def progress(state):
        if state.done:
            # Between two shards, with what another writer would leave.
            (folder / "density" / "x.0.partial").touch()
            for other in ({}, {"seed": 4}, {"seed": 4, "overwrite": True}, {"repair": True}):
                with pytest.raises(InUseError, match=r"first: another command is at work there .*; wait for it"):
                    build(folder, **other)
                refused.append((folder / "density" / "x.0.partial").exists())

    build(folder, workers=1, progress=progress)
    assert refused == [True] * 12
    assert files_of(folder) == files_of(whole)


def test_a_refused_build_leaves_what_others_write(tmp_path, whole):
    folder = copied(whole, tmp_path / "copy")
    (folder / "density" / "x.0.partial").touch()
    with pytest.raises(ValueError, match="another database"):
        build(folder, seed=4)
    assert (folder / "density" / "x.0.partial").exists()


def spoil(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    match how:
        case "changed":
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "cut":
            path.write_bytes(content[:middle])
        case "missing":
            path.unlink()


@pytest.mark.parametrize("how", ("changed", "cut", "missing"))
@pytest.mark.parametrize("key", ("density/c/1/0/0/0", "rejected/c/1/0"))
def test_only_a_damaged_shard_is_made_anew(tmp_path, whole, grown_before, how, key):
    folder = tmp_path / "copy"
    build(folder)
    grown_before.clear()
    spoil(folder / key, how)
    if how == "changed":
        assert Database.open(folder).verify() == [1]
    else:
        with pytest.raises(ValueError, match="missing or cut short: 1; build it again with repair"):
            Database.open(folder)
    before = times_of(folder)
    build(folder, repair=True)
    assert grown_before == [1]
    assert files_of(folder) == files_of(whole)
    changed = {name for name, moment in times_of(folder).items() if moment != before.get(name)}
    assert changed == {"density/c/1/0/0/0", "parameters/c/1/0", "coordinates/c/1/0", "rejected/c/1/0"}
    assert Database.open(folder).verify() == []


@pytest.mark.parametrize("key", ("density/zarr.json", "anatomy/white_matter/c/0/0/0"))
def test_damaged_metadata_are_found_and_mended(tmp_path, whole, grown_before, key):
    folder = tmp_path / "copy"
    build(folder)
    grown_before.clear()
    spoil(folder / key, "changed")
    with pytest.raises(ValueError, match=r"metadata of the database .* are damaged"):
        Database.open(folder)
    build(folder)
    assert grown_before == []
    assert files_of(folder) == files_of(whole)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_another_recipe_is_refused_and_replaced_only_if_permitted(tmp_path, whole):
    folder = tmp_path / "copy"
    build(folder)
    before = files_of(folder)
    for changed in ({"seed": 4}, {"count": 12}, {"dtype": "float16"}):
        with pytest.raises(ValueError, match=f"another database \\(it differs in {next(iter(changed))};"):
            build(folder, **changed)
    assert files_of(folder) == before
    assert len(build(folder, count=2, overwrite=True)) == 2
    assert sum(name.startswith("density/c/") for name in files_of(folder)) == 1


def test_a_missing_library_is_named_with_what_installs_it():
    with pytest.raises(ValueError, match=r"need nosuch, which are not installed; pip install 'tumorjax\[ensemble\]'"):
        require("zarr", "nosuch")


def test_places_without_a_database_are_refused(tmp_path, whole):
    with pytest.raises(ValueError, match="is not a database of tumours; build one there"):
        Database.open(tmp_path / "nothing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for permitted in (False, True):
        with pytest.raises(ValueError, match="is not empty and contains no database"):
            build(tmp_path / "mine", overwrite=permitted)
    assert files_of(tmp_path / "mine") == {"notes.txt": b"keep"}
    with pytest.raises(ValueError, match="is a file; give a folder"):
        build(tmp_path / "mine" / "notes.txt")
    with pytest.raises(ValueError, match="cannot be reached"):
        Database.open("nowhere://x")


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda a: a.update(version=2), "its format has version 2"),
        (lambda a: a.update(format="zoo"), "its format is 'zoo'"),
        (lambda a: a["recipe"].update(count=10**12), "its description is damaged"),
        (lambda a: a.pop("recipe"), "cannot|can be read"),
    ),
)
def test_other_formats_are_refused(tmp_path, whole, change, message):
    for name, content in files_of(whole).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    root = json.loads((tmp_path / "zarr.json").read_text())
    change(root["attributes"])
    (tmp_path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(ValueError, match=message):
        Database.open(tmp_path)


def test_arrays_must_be_those_of_the_recipe(tmp_path, whole):
    """As of a forger who has adapted the checksums, too."""
    for name, content in files_of(whole).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    forged = (tmp_path / "density" / "zarr.json").read_text().replace(f"{COUNT},", f"{10**9},", 1).encode()
    (tmp_path / "density" / "zarr.json").write_bytes(forged)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["common"]["density/zarr.json"] = [checksum(forged), len(forged)]
    del manifest["sha256"]
    (tmp_path / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(ValueError, match=r"array density is .*1000000000.* its recipe requires"):
        Database.open(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"count": 0}, "count must be a whole number from 1, got 0"),
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
        ({"draws": "halton"}, "draws must be one of"),
        ({"dtype": "float64"}, "dtype must be one of"),
        ({"sizes": (Size(0.6, 5.0, 1.0),)}, "a size is a threshold"),
        ({"sizes": ()}, "sizes must have at least one"),
        ({"screening": 3}, "screening must be one of"),
        ({"workers": 0}, "workers must be at least 1"),
        (
            {"workers": 1, "scheduler": "tcp://127.0.0.1:1"},
            "workers must be at least 1, and not be given with a scheduler",
        ),
    ),
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "bad", **settings)
    assert not (tmp_path / "bad").exists()


def test_a_prior_that_no_tumour_suits_ends_with_the_reason(tmp_path):
    anatomy = brain()
    far = Prior(ScaledGrowthParams(5.0, 3.0, Uniform(np.full(3, 400.0), np.full(3, 500.0)), 0.5))
    with pytest.raises(ValueError, match=r"only 0 of \d+ draws were accepted; .* rejected as outside tissue"):
        build_database(MODEL, far, anatomy, 1, tmp_path / "far", shard_length=1)


def test_where_no_solve_succeeds_few_are_tried(tmp_path, monkeypatch):
    tried = []

    def fail(grower, params, window):
        tried.append(params)
        return np.zeros((1, 1, 1, 1), np.uint8), np.full((1, len(grower.recipe.sizes)), np.nan)

    monkeypatch.setattr(Grower, "_kept", fail)
    monkeypatch.setattr(growing, "_HOPELESS", 4)
    with pytest.raises(ValueError, match=r"only 0 of .* 4 were rejected as failed: change the prior, so that tissue "):
        build(tmp_path / "fast", count=4, workers=1)
    assert len(tried) == 4


def test_priors_over_other_parameters_are_refused():
    anatomy = brain()
    with pytest.raises(ValueError, match=r"must be Prior\(GrowthParams\(...\)\) or"):
        Recipe.of(MODEL, Prior({"mu1": Uniform(0.0, 1.0)}), anatomy, 1)
    with pytest.raises(ValueError, match=r"the prior of MassEffect must be Prior\(MassEffectParams"):
        Recipe.of(MassEffect(), prior(anatomy), anatomy, 1)
    with pytest.raises(ValueError, match="three coordinates a seed"):
        Recipe.of(MODEL, Prior(GrowthParams(0.1, 0.1, Uniform(0.0, 1.0), 9.0)), anatomy, 1)
    with pytest.raises(ValueError, match="no unknown"):
        Recipe.of(MODEL, Prior(GrowthParams(0.1, 0.1, np.zeros(3), 9.0)), anatomy, 1)


# --- descriptions --------------------------------------------------------------------------------------------------


def test_models_and_priors_come_back_from_their_descriptions():
    anatomy = brain()
    model = MassEffect(FisherKolmogorov(np.inf, dividing="white matter"))
    growth = Prior(MassEffectParams(published_box(anatomy).distributions, Uniform(0.0, 2e5)))
    recipe = Recipe.of(model, growth, anatomy, 5)
    again = restore(json.loads(json.dumps(describe(model), allow_nan=False)))
    assert again == model
    maps = {name: getattr(recipe.anatomy, name) for name in ("white_matter", "grey_matter", "csf")}
    back = Recipe.restored(json.loads(json.dumps(recipe.description, allow_nan=False)), maps)
    assert back.fingerprint == recipe.fingerprint
    assert back.names[-1] == "mass_effect"
    assert back.names[0] == "growth.diffusivity"
    params = back.params(np.arange(14.0).reshape(2, 7))
    assert params.mass_effect.tolist() == [6, 13]
    assert params.growth.origin[1].tolist() == [9, 10, 11]
    with pytest.raises(ValueError, match="not the one that it was made in"):
        Recipe.restored(recipe.description, maps | {"csf": 0.9 * maps["csf"]})


@pytest.mark.parametrize("text", ('{"type": "Popen", "args": "x"}', '{"array": [1], "dtype": "object"}', "[{}]"))
def test_nothing_else_is_made_from_a_description(text):
    with pytest.raises(ValueError, match="describes neither"):
        restore(json.loads(text))
    with pytest.raises(ValueError, match="cannot keep a object"):
        describe([object()])


# --- Dask ----------------------------------------------------------------------------------------------------------


def test_a_cluster_builds_the_same_bytes_though_a_worker_is_killed(tmp_path, whole):
    import cloudpickle
    from distributed import Client, LocalCluster

    def slow_down():
        import tumorjax.ensemble.store as store

        write = store.write_shard
        store.write_shard = lambda *args: (time.sleep(0.5), write(*args))

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    told, folder = [], tmp_path / "cluster"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(slow_down)
        pids = list(client.run(os.getpid).values())

        def progress(state):
            told.append(state.done)
            if len(told) == 2:
                os.kill(pids[0], signal.SIGKILL)

        database = build(folder, scheduler=cluster.scheduler_address, progress=progress)
        assert pids[0] not in client.run(os.getpid).values()
    assert told[0] == 0
    assert told[-1] == COUNT
    assert len(told) == 4
    assert files_of(folder) == files_of(whole)
    assert database.verify() == []
