"""Checkpoints: who is killed goes on to the same draws."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.targets import Gaussian, Rough
from tumorjax.calibration.sampling import TMCMC
from tumorjax.calibration.sampling.checkpoint import Checkpoint, fingerprint

TARGET = Gaussian(2)


class Killed(Exception):
    """Stands for whatever ends a process."""


def killer(after):
    """Return a progress that ends the run at its k-th call."""
    calls = iter(range(after))

    def progress(*_):
        if next(calls, None) is None:
            raise Killed

    return progress


def same(first, second):
    """Tell whether two runs are the same bit for bit; they may take their time."""
    assert first.log_evidence == second.log_evidence
    assert first.stats._replace(seconds=0.0) == second.stats._replace(seconds=0.0)
    np.testing.assert_array_equal(first.points, second.points)
    np.testing.assert_array_equal(first.log_likelihoods, second.log_likelihoods)


@pytest.mark.parametrize(
    ("move", "screen", "life"), (("random-walk", None, 50), ("langevin", None, 50), ("langevin", Rough(TARGET), 130))
)
def test_a_run_that_is_killed_goes_on_to_the_same_draws(tmp_path, move, screen, life):
    key, told = jax.random.key(0), []
    settings = {"particles": 64, "steps": 2, "move": move}
    whole = TMCMC(**settings).draw(TARGET, key, lambda *news: told.append(news), screen=screen)
    resumed = TMCMC(**settings, checkpoint=str(tmp_path / "killed.npz"))
    deaths, seconds = 0, 0.0
    while True:
        try:
            found = resumed.draw(TARGET, key, killer(life), screen=screen)
            break
        except Killed:
            deaths += 1
            # It lived for a step at least.
            with np.load(tmp_path / "killed.npz") as kept:
                assert kept["seconds"] > seconds
                seconds = kept["seconds"]
    assert deaths >= max(3, len(told) // life)
    same(found, whole)
    assert found.stats.seconds > seconds > 0


def test_a_run_from_an_approximation_goes_on_too(tmp_path):
    key, start = jax.random.key(0), {"centre": TARGET.mean + 0.1, "covariance": 2 * TARGET.covariance}
    settings = {"particles": 64, "steps": 3}
    resumed = TMCMC(**settings, checkpoint=str(tmp_path / "killed.npz"))
    with pytest.raises(Killed):
        resumed.draw(TARGET, key, killer(40), **start)
    with pytest.raises(ValueError, match="another calibration"):
        resumed.draw(TARGET, key)
    same(resumed.draw(TARGET, key, **start), TMCMC(**settings).draw(TARGET, key, **start))


def test_a_run_that_is_complete_is_not_run_again(tmp_path):
    method = TMCMC(particles=64, checkpoint=str(tmp_path / "sub" / "complete.npz"))
    found = method.draw(TARGET, jax.random.key(0))
    same(method.draw(TARGET, jax.random.key(0), killer(0)), found)


CHILD = """
import sys, time
import jax
jax.config.update("jax_enable_x64", True)
from tests.targets import Gaussian
from tumorjax.calibration.sampling import TMCMC

def progress(stage, share, value):
    if stage == "stage 2" and share > 0.5:
        print("ready", flush=True)
        time.sleep(600)

TMCMC(particles=64, steps=2, checkpoint=sys.argv[1]).draw(Gaussian(2), jax.random.key(0), progress)
"""


def test_a_process_that_is_killed_goes_on_to_the_same_draws(tmp_path):
    path = tmp_path / "killed.npz"
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen([sys.executable, "-c", CHILD, path], cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.kill()
    assert child.returncode == -9
    with np.load(path) as kept:
        assert kept["step"] == 1
    settings = {"particles": 64, "steps": 2}
    told = []
    found = TMCMC(**settings, checkpoint=str(path)).draw(TARGET, jax.random.key(0), lambda *news: told.append(news[0]))
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


def test_who_dies_while_saving_leaves_the_file_before(tmp_path, monkeypatch):
    store = Checkpoint(tmp_path / "kept.npz", "who")
    store.save(one=1.0)

    def half(file, **arrays):
        file.write(b"half of it")
        raise Killed

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(Killed):
        store.save(one=2.0)
    assert float(store.load()["one"]) == 1.0


@pytest.mark.parametrize("content", (b"", b"no arrays", b"PK\x03\x04broken"))
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "kept.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"kept\.npz is no checkpoint of a sampler .*; remove it to begin anew"):
        Checkpoint(tmp_path / "kept.npz", "who").load()


def test_arrays_of_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "kept.npz", one=1.0)
    np.save(tmp_path / "one.npy", 1.0)
    for name in ("kept.npz", "one.npy"):
        with pytest.raises(ValueError, match="is no checkpoint of a sampler"):
            Checkpoint(tmp_path / name, "who").load()


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
