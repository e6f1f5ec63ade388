"""Checkpoints: a killed run continues to the same draws."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.targets import Gaussian, Rough, same_stats
from tumorjax.methods.checkpoint import Checkpoint, fingerprint
from tumorjax.methods.sampling import NUTS, TMCMC, Importance, Metropolis, Rejection, Stratified
from tumorjax.methods.sampling.target import Screened
from tumorjax.storage import InUseError, open_arrays, write_arrays

TARGET = Gaussian(2)


class Killed(Exception):
    """An exception in place of anything that ends a process."""


def killer(after):
    """Return a progress that ends the run at its k-th call."""
    calls = iter(range(after))

    def progress(*_):
        if next(calls, None) is None:
            raise Killed

    return progress


def arrays_in(path):
    with open_arrays(path, "state of a calibration", 1) as file:
        return file.read()


def same(first, second):
    """Return whether two runs are bitwise equal, except for their seconds."""
    assert first.log_evidence == second.log_evidence
    assert same_stats(first.stats, second.stats)
    np.testing.assert_array_equal(first.draws, second.draws)
    np.testing.assert_array_equal(first.log_likelihoods, second.log_likelihoods)


@pytest.mark.parametrize(
    ("move", "screen", "life"), (("random-walk", None, 50), ("langevin", None, 50), ("langevin", Rough(TARGET), 130))
)
def test_a_run_that_is_killed_goes_on_to_the_same_draws(tmp_path, move, screen, life):
    key, told = jax.random.key(0), []
    settings = {"particles": 64, "steps": 2, "move": move}
    target = TARGET if screen is None else Screened(TARGET, screen)
    whole = TMCMC(**settings).draw(target, key, progress=lambda *news: told.append(news))
    resumed = TMCMC(**settings, checkpoint=str(tmp_path / "killed.npz"))
    deaths, seconds = 0, 0.0
    while True:
        try:
            found = resumed.draw(target, key, progress=killer(life))
            break
        except Killed:
            deaths += 1
            # It lived for a step at least.
            kept = arrays_in(tmp_path / "killed.npz")
            assert kept["seconds"] > seconds
            seconds = kept["seconds"]
    assert deaths >= max(3, len(told) // life)
    same(found, whole)
    assert found.stats.cost.seconds > seconds > 0


def test_a_run_from_an_approximation_goes_on_too(tmp_path):
    key, start = jax.random.key(0), {"centre": TARGET.mean + 0.1, "covariance": 2 * TARGET.covariance}
    settings = {"particles": 64, "steps": 3}
    resumed = TMCMC(**settings, checkpoint=str(tmp_path / "killed.npz"))
    with pytest.raises(Killed):
        resumed.draw(TARGET, key, **start, progress=killer(40))
    with pytest.raises(ValueError, match="another calibration"):
        resumed.draw(TARGET, key)
    same(resumed.draw(TARGET, key, **start), TMCMC(**settings).draw(TARGET, key, **start))


def test_a_run_that_is_complete_is_not_run_again(tmp_path):
    method = TMCMC(particles=64, checkpoint=str(tmp_path / "sub" / "complete.npz"))
    found = method.draw(TARGET, jax.random.key(0))
    same(method.draw(TARGET, jax.random.key(0), progress=killer(0)), found)


CHILD = """
import sys, time
import jax
jax.config.update("jax_enable_x64", True)
from tests.targets import Gaussian
from tumorjax.methods.sampling import TMCMC

def progress(stage, share, value):
    if stage == "stage 2" and share > 0.5:
        print("ready", flush=True)
        time.sleep(600)

TMCMC(particles=64, steps=2, checkpoint=sys.argv[1]).draw(Gaussian(2), jax.random.key(0), progress=progress)
"""


def test_a_process_that_is_killed_goes_on_to_the_same_draws(tmp_path):
    path = tmp_path / "killed.npz"
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen([sys.executable, "-c", CHILD, path], cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.kill()
    assert child.returncode == -9
    assert arrays_in(path)["step"] == 1
    settings = {"particles": 64, "steps": 2}
    told = []
    found = TMCMC(**settings, checkpoint=str(path)).draw(
        TARGET, jax.random.key(0), progress=lambda *news: told.append(news[0])
    )
    assert told[0] == "stage 2"
    same(found, TMCMC(**settings).draw(TARGET, jax.random.key(0)))


def test_arrays_come_back(tmp_path):
    store = Checkpoint(tmp_path / "new" / "kept.npz", "who")
    assert store.load() is None
    store.save(numbers=np.arange(3), one=2.5)
    store.save(numbers=np.arange(4), one=3.5)
    assert os.listdir(tmp_path / "new") == ["kept.npz"]
    kept = Checkpoint(tmp_path / "new" / "kept.npz", "who").load()
    np.testing.assert_array_equal(kept["numbers"], np.arange(4))
    assert float(kept["one"]) == 3.5
    assert set(kept) == {"numbers", "one"}


def test_without_a_path_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Checkpoint(None, "who")
    store.save(one=1.0)
    assert store.load() is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", (b"", b"no arrays", b"\x10" + 40 * b"{"))
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "kept.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"kept\.npz is no checkpoint of a calibration .*; remove it to begin anew"):
        Checkpoint(tmp_path / "kept.npz", "who").load()


def test_arrays_of_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "kept.npz", one=1.0)
    with pytest.raises(ValueError, match=r"is no checkpoint of a calibration \(it is of version 0.1\); remove it"):
        Checkpoint(tmp_path / "kept.npz", "who").load()
    write_arrays(tmp_path / "other", "state of a training", 1, {}, {"one": 1.0})
    with pytest.raises(ValueError, match=r"is no checkpoint of a calibration \(it is of state of a training"):
        Checkpoint(tmp_path / "other", "who").load()
    with pytest.raises(ValueError, match="is no checkpoint of a calibration"):
        Checkpoint(tmp_path, "who").load()


def test_a_file_of_another_run_is_refused(tmp_path):
    path = str(tmp_path / "kept.npz")
    TMCMC(particles=64, steps=1, checkpoint=path).draw(TARGET, jax.random.key(0))
    for method, target, key in (
        (TMCMC(particles=64, steps=2, checkpoint=path), TARGET, 0),
        (TMCMC(particles=64, steps=1, checkpoint=path), Gaussian(3), 0),
        (TMCMC(particles=64, steps=1, checkpoint=path), TARGET, 1),
    ):
        with pytest.raises(ValueError, match="is of another calibration"):
            method.draw(target, jax.random.key(key))


def test_fingerprints_are_of_values():
    tree = {"a": jnp.arange(3.0), "b": (TMCMC(), 0.5), "key": jax.random.key(0)}
    same_ = {"a": np.arange(3.0), "b": (TMCMC(), 0.5), "key": jax.random.key(0)}
    assert fingerprint(tree) == fingerprint(same_)
    others = [
        tree | {"a": jnp.arange(3)},
        tree | {"a": jnp.arange(3.0)[:, None]},
        tree | {"a": jnp.arange(3.0).at[1].add(1e-15)},
        tree | {"b": (TMCMC(steps=4), 0.5)},
        tree | {"b": (TMCMC(), 0.25)},
        tree | {"key": jax.random.key(1)},
        tree | {"c": 0},
    ]
    assert len({fingerprint(other) for other in [tree, *others]}) == 8


METHODS = {
    "tmcmc": TMCMC(particles=32, steps=1),
    "langevin": TMCMC(particles=32, steps=1, move="langevin"),
    "nuts": NUTS(chains=2, draws=6, warmup=20, block=8),
    "metropolis": Metropolis(chains=2, draws=20, burn_in=20, block=8),
    "importance": Importance(draws=40),
    "stratified": Stratified(draws=64),
    "rejection": Rejection(draws=4, budget=20_000),
}


def killer_of(path):
    """Return a progress function that ends the run after the first checkpoint."""

    def progress(*_):
        if path.exists():
            raise Killed

    return progress


def drawn(name, path=None, progress=lambda *news: None):
    """Return the numbers of a method's draws."""
    method, key = dataclasses.replace(METHODS[name], checkpoint=None if path is None else str(path)), jax.random.key(3)
    around = {"centre": TARGET.mean + 0.1, "covariance": 2 * TARGET.covariance}
    if name == "rejection":
        around = {"centre": TARGET.mean}
    if name in ("tmcmc", "langevin", "stratified"):
        around = {}
    found = method.draw(TARGET, key, progress=progress, **around)
    return [np.asarray(part) for part in found if isinstance(part, np.ndarray | float)]


@pytest.mark.parametrize("name", METHODS)
def test_a_damaged_checkpoint_is_one_line_or_the_same_draws(tmp_path, name):
    pytest.importorskip("numpyro")
    path, whole = tmp_path / "kept", drawn(name)
    with pytest.raises(Killed):
        drawn(name, path, killer_of(path))
    good, random = path.read_bytes(), np.random.default_rng(0)
    contents = [good[:length] for length in (0, 7, 60, len(good) // 2, len(good) - 1)]
    for position in random.integers(len(good), size=20):
        contents.append(good[:position] + bytes([good[position] ^ 1 << random.integers(8)]) + good[position + 1 :])
    for content in contents:
        path.write_bytes(content)
        try:
            found = drawn(name, path)
        except ValueError as error:
            assert re.fullmatch(
                r".*kept is (no checkpoint|of another calibration).*remove it to begin anew", str(error)
            )
        else:
            for one, other in zip(found, whole, strict=True):
                np.testing.assert_array_equal(one, other)


def test_forged_states_end_and_take_no_memory(tmp_path):
    path = tmp_path / "kept"

    def progress(stage, *_):
        if stage == "stage 2":
            raise Killed

    with pytest.raises(Killed):
        drawn("tmcmc", path, progress)
    with open_arrays(path, "state of a calibration", 1) as file:
        header, arrays = {"fingerprint": file.header["fingerprint"]}, file.read()
    changes = {
        "step": (np.array(2), np.array(-1), np.array(0.0), np.zeros(3, int)),
        "leg": (np.array(5), np.array(-2)),
        "temperature": (np.array(np.nan), np.array(-1.0), np.array(1.5)),
        "points": (
            arrays["points"][:5],
            arrays["points"][:, :1],
            arrays["points"].astype(int),
            arrays["points"] * np.nan,
        ),
        "history": (arrays["history"][:, :4], arrays["history"] + np.inf),
        "scale": (np.array(np.inf),),
        "more": (np.zeros(3),),
        "seconds": (np.array(np.nan),),
    }
    for name, values in changes.items():
        for value in values:
            write_arrays(path, "state of a calibration", 1, header, arrays | {name: value})
            with pytest.raises(ValueError, match="remove it to begin anew"):
                drawn("tmcmc", path)
    for name in arrays:
        write_arrays(path, "state of a calibration", 1, header, {key: arrays[key] for key in arrays if key != name})
        with pytest.raises(ValueError, match="remove it to begin anew"):
            drawn("tmcmc", path)


@pytest.mark.parametrize("name", METHODS)
def test_two_samplers_do_not_share_a_file(tmp_path, name):
    pytest.importorskip("numpyro")

    def progress(*_):
        with pytest.raises(InUseError, match="kept: another command is at work there"):
            drawn(name, tmp_path / "kept")
        raise Killed

    with pytest.raises(Killed):
        drawn(name, tmp_path / "kept", progress)
    # A killed process no longer holds the lock.
    assert sorted(os.listdir(tmp_path)) in ([], ["kept"])
    drawn(name, tmp_path / "kept")
