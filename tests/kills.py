"""Work that is killed at random moments, again and again, in processes that are forked before JAX has begun.

`python -m tests.kills FOLDER SEED KILLS TASK...` does tasks of `TASKS` until they are done, however often they are
killed, looks at what each kill leaves, and compares the end with that of a run which nobody disturbed. It prints what
it did.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tumorjax.ensemble.distribute

# Modules that take seconds to import are imported before forking.
import tumorjax.methods.sampling
import tumorjax.networks
import tumorjax.retrieval  # noqa: F401
from tumorjax.cli.ending import exit_code, raised_signals

# The second of them can be prepared for.
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def build(folder: Path) -> None:
    """Build a database, whose tumours take no time to grow."""
    from tests.problems import ball_brain
    from tests.work import Grown
    from tumorjax import FisherKolmogorov, Prior, ScaledGrowthParams, Uniform
    from tumorjax.ensemble import build_database, distribute
    from tumorjax.ensemble.growing import Shard

    def shard(recipe, index):
        rows = recipe.rows(index)
        random, count = np.random.default_rng(index), rows.stop - rows.start
        densities = random.integers(256, size=(count, *recipe.anatomy.grid.shape)).astype(np.uint8)
        numbers = [random.normal(size=(count, n)).astype(np.float32) for n in (len(recipe.names), 5)]
        return Shard(densities, *numbers, random.integers(9, size=4))

    distribute.Grower = lambda recipe: Grown(recipe, shard)
    anatomy = ball_brain((12, 12, 12), 5.0)
    prior = Prior(ScaledGrowthParams(Uniform(2.0, 9.0), Uniform(1.5, 4.5), Uniform(np.zeros(3), np.ones(3)), 0.5))
    build_database(FisherKolmogorov(), prior, anatomy, 46, folder, shard_length=4, workers=2)


def look_at_build(folder: Path) -> None:
    """Open the database that a build has left: it is complete, or refused as incomplete."""
    from tumorjax.ensemble import Database

    try:
        database = Database.open(folder)
    except ValueError as error:
        assert "not finished" in str(error) or "is not a database" in str(error), error
    else:
        assert database.verify() == []


def index(folder: Path) -> None:
    """Build an index of tumours, or find that it is built."""
    from tumorjax.retrieval import Index

    brain = np.ones((12, 13, 14), bool)

    def blocks():
        for number in range(10):
            yield np.random.default_rng(number).integers(256, size=(20, *brain.shape)).astype(np.uint8)
            time.sleep(0.01)

    Index.build(blocks(), brain, 2.0, folder, variants=["ds64"], overwrite=True)


def look_at_index(folder: Path) -> None:
    """Open the index that a build has left: it is complete, or there is none."""
    from tumorjax.retrieval import Index

    if folder.exists():
        assert len(Index.open(folder)) == 200


def train(folder: Path) -> None:
    """Train a small network, and write its weights."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from tumorjax.networks import save_weights
    from tumorjax.networks import train as fit

    def batches(step):
        x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
        time.sleep(0.005)
        return x, x[:, :1] ** 2

    def loss(network, batch, key):
        noise = 0.1 * jax.random.normal(key, batch[0].shape, jnp.float32)
        return jnp.mean((network(batch[0] + noise) - batch[1]) ** 2)

    kept = {"checkpoints": folder / "kept", "log": folder / "log.csv", "every": 3, "ema": 0.9}
    network = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    done = fit(network, optax.adam(0.01), batches, loss, 60, key=jax.random.key(0), **kept)
    save_weights(folder / "weights.safetensors", done.model, "line", {})


def look_at_training(folder: Path) -> None:
    """Read the states that a training has left."""
    from tumorjax.storage import open_arrays

    for path in (folder / "kept").glob("step-*"):
        with open_arrays(path, "state of a training", 1) as file:
            file.read()


def sample(folder: Path, method: str = "tmcmc") -> None:
    """Draw from a normal distribution, and write the draws."""
    import jax

    from tests.targets import Gaussian
    from tumorjax.methods.sampling import NUTS, TMCMC
    from tumorjax.storage import write_arrays

    target, path = Gaussian(2), str(folder / "run")
    if method == "nuts":
        sampler, around = NUTS(chains=2, draws=40, warmup=30, block=5, checkpoint=path), target
    else:
        sampler, around = TMCMC(particles=64, steps=4, move="langevin", checkpoint=path), None
    given = {} if around is None else {"centre": target.mean, "covariance": target.covariance}
    found = sampler.draw(target, jax.random.key(0), **given)
    write_arrays(folder / "draws", "draws", 1, {}, {"points": found.draws, "values": found.log_likelihoods})


def look_at_samples(folder: Path) -> None:
    """Read the state that a sampler has left."""
    from tumorjax.storage import open_arrays

    if (folder / "run").exists():
        with open_arrays(folder / "run", "state of a calibration", 1) as file:
            file.read()


def rounds(folder: Path) -> None:
    """Learn a posterior in rounds, and write it."""
    import jax

    from tests.test_neural_posterior import SHORT, Linear
    from tumorjax.storage import write_arrays

    os.makedirs(folder, exist_ok=True)
    method = SHORT.__class__(**{**SHORT.__dict__, "checkpoint": str(folder / "run")})
    learnt = method.learn(Linear(), jax.random.key(0))
    write_arrays(folder / "draws", "draws", 1, {}, learnt.mixture._asdict())


# A task, what looks at its remains, and the files by which two ends are compared; None: all of them.
TASKS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], tuple[str, ...] | None]] = {
    "build": (build, look_at_build, None),
    "index": (index, look_at_index, None),
    "train": (train, look_at_training, ("weights.safetensors",)),
    "tmcmc": (sample, look_at_samples, ("draws",)),
    "nuts": (lambda folder: sample(folder, "nuts"), look_at_samples, ("draws",)),
    "npe": (rounds, look_at_samples, ("draws",)),
}


def started(function: Callable[[Path], None], folder: Path) -> int:
    """Run a function in a process of its own, and return the number of the process."""
    if pid := os.fork():
        return pid
    try:
        import jax

        jax.config.update("jax_enable_x64", True)
        with raised_signals():
            function(folder)
    except KeyboardInterrupt as interrupt:
        # The command ends like this.
        os._exit(exit_code(interrupt))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def files_of(folder: Path, names: tuple[str, ...] | None) -> dict[str, bytes]:
    """Return the files that a finished task leaves."""
    if names is None:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: (folder / name).read_bytes() for name in names}


def main(task: str, folder: Path, seed: int, kills: int) -> dict[str, int | float]:
    """Kill a task a given number of times, and return a report; raise an AssertionError if anything is wrong."""
    function, look, names = TASKS[task]
    random, begun = np.random.default_rng(seed), time.monotonic()
    assert os.waitpid(started(function, folder / "whole"), 0)[1] == 0
    span, done = time.monotonic() - begun, {"kills": 0, "in time": 0, "runs": 1}
    while done["kills"] < kills:
        pid = started(function, folder / "killed")
        time.sleep(random.uniform(0, span))
        which = SIGNALS[random.integers(len(SIGNALS))]
        os.kill(pid, which)
        status = os.waitpid(pid, 0)[1]
        ended = os.waitstatus_to_exitcode(status)
        # Before and after its work a process is ended by the signal itself.
        assert ended in (0, -which, 128 + which), ended
        done["kills"] += 1
        done["in time"] += status != 0
        assert os.waitpid(started(look, folder / "killed"), 0)[1] == 0
    if not done["in time"]:
        raise AssertionError("nobody was killed at work")
    assert os.waitpid(started(function, folder / "killed"), 0)[1] == 0
    assert files_of(folder / "killed", names) == files_of(folder / "whole", names)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["killed", "whole"], left
    return done | {"seconds": round(time.monotonic() - begun, 1), "span": round(span, 2)}


if __name__ == "__main__":
    for name in sys.argv[4:]:
        place = Path(sys.argv[1]) / name
        place.mkdir()
        print(name, json.dumps(main(name, place, int(sys.argv[2]), int(sys.argv[3]))), flush=True)
