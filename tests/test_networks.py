"""Networks: training that resumes, stops and reports progress; files of weights; autoencoders of outlines."""

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("flax")

from flax import nnx

import tumorjax.ensemble
from tests.blobs import blob_densities
from tumorjax.cli import main
from tumorjax.networks import (
    Architecture,
    Autoencoder,
    InverseArchitecture,
    InverseNetwork,
    PackedOutlines,
    ShortOfMemory,
    Surrogate,
    SurrogateArchitecture,
    TrainingBox,
    TrainingProgress,
    TrainingResult,
    autoencoder_loss,
    encode,
    load_autoencoder,
    load_weights,
    save_autoencoder,
    save_weights,
    shuffled,
    train,
    train_autoencoder,
)
from tumorjax.networks.autoencoder_training import bi_half
from tumorjax.networks.checkpoints import Checkpoints, DamagedCheckpoint
from tumorjax.networks.journal import Journal
from tumorjax.storage import InUseError, exclusive, new_file, write_arrays

pytestmark = pytest.mark.usefixtures("compiled_plainly")

SHAPE = (15, 14, 16)
TINY = {"pool": 1, "layers": "patch", "factors": (4, 2), "channels": (16, 16), "latent": 32}


def outlines(count, seed):
    densities = blob_densities(count, SHAPE, seed)
    return np.stack([densities > 153, densities > 51], axis=1)


@pytest.fixture(scope="module")
def packed():
    return PackedOutlines.of([outlines(5, 0), outlines(19, 1)])


@pytest.fixture(scope="module")
def model():
    return Autoencoder(Architecture("ae", SHAPE, **TINY), nnx.Rngs(0))


def weights_of(network):
    return {str(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(nnx.state(network))}


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


class Line(nnx.Module):
    """y = a x, and a factor that is not trained."""

    def __init__(self, a=0.0):
        self.a = nnx.Param(jnp.asarray(a, jnp.float32))
        self.factor = nnx.Variable(jnp.asarray(2.0, jnp.float32))


def squares(line, batch, key):
    return jnp.mean((line.factor[...] * line.a[...] * batch[0] - batch[1]) ** 2)


def slope_of_three(step):
    x = np.random.default_rng(step).normal(size=8).astype(np.float32)
    return x, 3 * x


def fit(steps=40, batches=slope_of_three, loss=squares, line=None, **more):
    return train(line or Line(), optax.adam(0.1), batches, loss, steps, key=jax.random.key(0), **more)


def test_training_minimises_and_leaves_the_rest():
    line = Line()
    done = fit(200, line=line)
    np.testing.assert_allclose(done.model.a[...], 1.5, atol=1e-3)
    assert done.model.factor[...] == 2
    assert (done.step, done.validation, done.result) == (200, None, TrainingResult.FINISHED)
    assert line.a[...] == 0


def test_an_average_of_the_weights_is_returned():
    average = 0.0
    for steps in range(1, 5):
        average = 0.75 * average + 0.25 * float(fit(steps).model.a[...])
    np.testing.assert_allclose(fit(4, ema=0.75).model.a[...], average, rtol=1e-5)


@pytest.mark.parametrize("case", ("loss", "gradient"))
def test_what_is_not_finite_ends_the_training(tmp_path, case):
    def batches(step):
        x, y = slope_of_three(step)
        return (x * np.nan if case == "loss" and step == 7 else x, y, step == 7)

    def loss(line, batch, key):
        # The root of zero is zero, and has no finite slope.
        value, a = squares(line, batch, key), line.a[...]
        rooted = lambda: value + jnp.sqrt(a - jax.lax.stop_gradient(a))  # noqa: E731
        return jax.lax.cond(batch[2], rooted, lambda: value) if case == "gradient" else value

    done = fit(20, batches, loss, every=3, checkpoints=tmp_path / "kept")
    assert (done.step, done.result) == (7, TrainingResult.DIVERGED)
    np.testing.assert_array_equal(done.model.a[...], fit(7).model.a[...])
    # What was kept is from before: to resume meets the same end.
    again = fit(20, batches, loss, every=3, checkpoints=tmp_path / "kept")
    assert (again.step, again.result) == (7, TrainingResult.DIVERGED)
    np.testing.assert_array_equal(again.model.a[...], done.model.a[...])


def test_validation_chooses_the_weights_and_ends_the_training(tmp_path):
    # The slope of those to validate on is passed on the way to 1.5.
    x = np.ones(4, np.float32)
    validation = lambda: [(x, 1.6 * x), (x, 1.8 * x)]  # noqa: E731
    settings = {"validation": validation, "every": 1, "log": tmp_path / "log.csv"}
    whole = fit(60, **settings)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    checked = [float(row["validation"]) for row in rows]
    best = int(np.argmin(checked))
    assert len(rows) == 60
    assert 0 < best < 40
    np.testing.assert_allclose(whole.validation, checked[best], rtol=1e-5)
    np.testing.assert_array_equal(whole.model.a[...], fit(best + 1).model.a[...])
    short = fit(60, **settings, patience=5)
    assert (short.step, short.result) == (best + 1 + 5, TrainingResult.STOPPED)
    np.testing.assert_array_equal(short.model.a[...], whole.model.a[...])


def test_batches_hold_every_row_once_before_any_comes_again():
    rows = shuffled(10, 4, seed=3)
    drawn = np.concatenate([rows(step) for step in range(15)])
    for epoch in drawn.reshape(6, 10):
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in drawn.reshape(6, 10)}) == 6
    np.testing.assert_array_equal(shuffled(10, 4, seed=3)(7), drawn[28:32])
    assert not np.array_equal(shuffled(10, 4, seed=4)(0), rows(0))


class Layers(nnx.Module):
    """Two of them."""

    def __init__(self):
        self.layers = nnx.List([nnx.Linear(8, 5, rngs=nnx.Rngs(0)), nnx.Linear(5, 8, rngs=nnx.Rngs(1))])


def noisy_squares(network, batch, key):
    first, second = network.layers
    x = batch[0] + 0.1 * jax.random.normal(key, (8,), jnp.float32)
    return jnp.mean((second(jnp.tanh(first(x))) - batch[1]) ** 2)


def test_what_is_interrupted_goes_on_to_the_same_weights(tmp_path):
    def fitted(name, **more):
        given = {"every": 3, "ema": 0.9, "validation": lambda: [slope_of_three(98)], "settings": {"data": 1, "rate": 2}}
        given |= {"checkpoints": tmp_path / name, "log": tmp_path / f"{name}.csv", "key": jax.random.key(4)}
        return train(Layers(), optax.adam(0.01), slope_of_three, noisy_squares, 8, **(given | more))

    def interrupt(state):
        if state.step == 5:
            raise KeyboardInterrupt

    whole = fitted("whole")
    with pytest.raises(KeyboardInterrupt):
        fitted("parts", progress=interrupt)
    told = []
    parts = fitted("parts", progress=told.append)
    assert [state.step for state in told] == [4, 5, 6, 7, 8]
    assert_same_weights(whole.model, parts.model)
    logs = [(tmp_path / f"{name}.csv").read_text().splitlines() for name in ("whole", "parts")]
    # All but the seconds.
    assert [row.rpartition(",")[0] for row in logs[0]] == [row.rpartition(",")[0] for row in logs[1]]
    assert len(logs[0]) == 9
    assert fitted("whole").step == 8
    assert_same_weights(fitted("whole").model, whole.model)
    with pytest.raises(ValueError, match="another training \\(it differs in rate\\)"):
        fitted("parts", settings={"data": 1, "rate": 3})
    with pytest.raises(ValueError, match="another training \\(it differs in ema, key\\)"):
        fitted("parts", ema=0.8, key=jax.random.key(5))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="is not a folder of checkpoints"):
        fitted("mine")


def kept_line(folder):
    """Train a line to its sixth step, with states after the third and the sixth."""
    return fit(6, checkpoints=folder, every=3, log=folder.with_suffix(".csv"))


def test_a_damaged_state_is_never_gone_on_with(tmp_path):
    state = {"weights": {"a": jnp.linspace(0, 1, 40, dtype=jnp.float32)}, "step": jnp.asarray(3)}
    other = jax.tree.map(jnp.zeros_like, state)
    keeper, random = Checkpoints(tmp_path / "kept", {"rate": 1}), np.random.default_rng(0)
    for step in (3, 6, 9):
        keeper.save(step, jax.tree.map(lambda leaf, step=step: leaf + jnp.asarray(step, leaf.dtype), state))
    first, last = sorted((tmp_path / "kept").glob("step-*"))
    assert (first.name, last.name) == ("step-00000006.safetensors", "step-00000009.safetensors")
    content = last.read_bytes()
    for position in random.choice(len(content), 40, replace=False):
        flipped = bytearray(content)
        flipped[position] ^= 1 << random.integers(8)
        last.write_bytes(flipped)
        with pytest.warns(DamagedCheckpoint, match=r"9.safetensors cannot be read .*continues from step 6"):
            step, found = keeper.load(other)
        assert (step, int(found["step"])) == (6, 9)
        np.testing.assert_array_equal(found["weights"]["a"], state["weights"]["a"] + 6)
    for path in (first, last):
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        ValueError, match=r"step-00000009.safetensors cannot be read .*; remove .*kept to train from the beginning"
    ):
        keeper.load(other)
    keeper.close()


def test_a_training_goes_on_from_the_state_before_a_damaged_one(tmp_path):
    kept_line(tmp_path / "kept")
    (tmp_path / "kept" / "step-00000006.safetensors").write_bytes(b"half")
    with pytest.warns(DamagedCheckpoint):
        found = fit(9, checkpoints=tmp_path / "kept", every=3)
    assert_same_weights(found.model, fit(9).model)
    assert sorted(path.name[5:13] for path in (tmp_path / "kept").glob("step-*")) == ["00000006", "00000009"]


def test_damaged_settings_of_a_training_are_one_line(tmp_path):
    kept_line(tmp_path / "kept")
    file = tmp_path / "kept" / "settings.json"
    good = file.read_bytes()
    for content in (good.replace(b"full", b"fill"), b"", good[:40], b"{}", b"[" * 100_000, b"\xff"):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"settings.json cannot be used: .*remove .*kept to train from the beginning$"
        ):
            fit(9, checkpoints=tmp_path / "kept")


def test_two_trainings_do_not_share_a_folder(tmp_path):
    second = []

    def progress(state):
        with pytest.raises(InUseError, match="kept: another command is at work there"):
            fit(6, checkpoints=tmp_path / "kept")
        second.append(state.step)

    fit(2, checkpoints=tmp_path / "kept", progress=progress)
    assert second == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_a_damaged_log_is_gone_on_with(tmp_path):
    kept_line(tmp_path / "kept")
    log = tmp_path / "kept.csv"
    rows = log.read_text().splitlines()
    log.write_bytes("\n".join([rows[0], rows[1], "2,\0,1,,3", "3,nan", *rows[4:6], "6,0.1,0."]).encode() + b"\xff")
    fit(8, checkpoints=tmp_path / "kept", every=3, log=log)
    assert [row.split(",")[0] for row in log.read_text().splitlines()] == ["step", "1", "4", "5", "7", "8"]


def test_a_training_that_a_full_disk_ended_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    def full(path, *contents):
        with new_file(path) as partial:
            partial.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    def full_after_one(path, *contents):
        (write_arrays if path.name < "step-00000006" else full)(path, *contents)

    with monkeypatch.context() as patch:
        patch.setattr("tumorjax.networks.checkpoints.write_arrays", full_after_one)
        with pytest.raises(OSError, match=r"No space left on device: '.*step-00000006.safetensors'"):
            fit(8, checkpoints=tmp_path / "kept", every=3)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["settings.json", "step-00000003.safetensors"]
    told = []
    again = fit(8, checkpoints=tmp_path / "kept", every=3, progress=told.append)
    assert [state.step for state in told] == [4, 5, 6, 7, 8]
    assert_same_weights(again.model, fit(8).model)


def test_a_log_on_a_full_disk_is_named(tmp_path):
    journal = Journal(tmp_path / "log.csv", 0)
    journal.close()
    with Path("/dev/full").open("w") as journal._file:
        journal._rows = csv.writer(journal._file)
        with pytest.raises(OSError, match=r"No space left on device: '.*log.csv'"):
            journal.write(1, 0.5, 0.1, None, 1.0)
        journal.close()


@pytest.mark.parametrize("more", ({"steps": 0}, {"every": 0}, {"patience": 1}, {"patience": 0, "validation": list}))
def test_bad_numbers_of_a_training_are_refused(more):
    with pytest.raises(ValueError, match="must be at least 1, and patience needs a validation set"):
        fit(**more)


def test_a_batch_that_memory_does_not_hold_is_computed_in_pieces():
    whole, told = fit(12), []

    def exhausted(line, batch, key):
        if len(batch[0]) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return squares(line, batch, key)

    validation = {"validation": lambda: [slope_of_three(98)], "every": 12}
    with pytest.warns(ShortOfMemory) as caught:
        done = fit(12, loss=exhausted, progress=told.append, **validation)
    assert [str(each.message).partition("in ")[2][:8] for each in caught] == ["2 pieces", "4 pieces"]
    assert (done.step, done.pieces, whole.pieces) == (12, 4, 1)
    assert {state.pieces for state in told} == {4}
    # Means of halves average to the mean of the whole.
    np.testing.assert_allclose(done.model.a[...], whole.model.a[...], rtol=1e-5)
    np.testing.assert_allclose(done.validation, fit(12, **validation).validation, rtol=1e-5)


def test_other_errors_and_batches_that_cannot_be_halved_are_reported():
    def failing(message, most):
        def loss(line, batch, key):
            if len(batch[0]) > most:
                raise jax.errors.JaxRuntimeError(message)
            return squares(line, batch, key)

        return loss

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fit(2, loss=failing("INTERNAL: no such luck", 0))
    with pytest.warns(ShortOfMemory), pytest.raises(MemoryError, match="not enough memory for 1 rows of a batch of 8"):
        fit(2, loss=failing("RESOURCE_EXHAUSTED: Out of memory", 0))
    of_six = lambda step: tuple(each[:6] for each in slope_of_three(step))  # noqa: E731
    with pytest.warns(ShortOfMemory), pytest.raises(MemoryError, match="not enough memory for 3 rows of a batch of 6"):
        fit(2, of_six, failing("RESOURCE_EXHAUSTED: Out of memory", 2))


def test_mixed_precision_computes_in_half_and_keeps_precise_weights():
    seen = []

    def loss(line, batch, key):
        seen.append(str(line.a[...].dtype))
        return jnp.mean((2 * line.a[...].astype(jnp.float32) * batch[0] - batch[1]) ** 2)

    mixed, full = (fit(30, loss=loss, precision=precision) for precision in ("mixed", "full"))
    assert set(seen) == {"bfloat16", "float32"}
    a, b = (done.model.a[...] for done in (mixed, full))
    assert a.dtype == jnp.float32
    # Slopes at rounded weights differ a little, and only a little.
    assert 0 < abs(float(a / b) - 1) < 0.02
    with pytest.raises(ValueError, match="precision is 'full' or 'mixed', got 'half'"):
        fit(precision="half")


BOX = TrainingBox(tuple((name, 0.5, 9.0) for name in ("mu1", "mu2", "x", "y", "z")))


class Embedding(nnx.Module):
    """There and back again."""

    def __init__(self, network):
        self.network = network

    def __call__(self, outlines):
        return self.network.decode(self.network.embed(outlines))


INVERSE = InverseArchitecture("patch", 16, 4.0, True, 2.0, ("mu1",), BOX)
SURROGATES = [SurrogateArchitecture(layers, (4, 4), 2.0, BOX, 16) for layers in ("patch", "convolution")]


@pytest.mark.parametrize(
    ("network", "asked"),
    (
        (lambda rngs: Embedding(Autoencoder(Architecture("ae", SHAPE, **TINY), rngs)), [(2, 2, 16, 16, 16)]),
        (lambda rngs: InverseNetwork(INVERSE, rngs), [(2, 16, 16, 16, 5), (2,)]),
        (lambda rngs: Surrogate(SURROGATES[0], rngs), [(2, 16, 16, 16, 3), (2, 2)]),
        (lambda rngs: Surrogate(SURROGATES[1], rngs), [(2, 16, 16, 16, 3), (2, 2)]),
    ),
)
def test_networks_compute_as_precisely_as_their_weights(network, asked):
    graph, weights = nnx.split(nnx.eval_shape(lambda: network(nnx.Rngs(0))))
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in asked]

    def products(kind):
        cast = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, kind), weights)
        program = jax.make_jaxpr(lambda weights, *given: nnx.merge(graph, weights)(*given))(cast, *given)
        assert [str(each.dtype) for each in program.out_avals] == ["float32"]
        return {
            str(equation.outvars[0].aval.dtype)
            for equation in program.eqns
            if equation.primitive.name in ("dot_general", "conv_general_dilated")
        }

    assert products(jnp.bfloat16) == {"bfloat16"}
    assert products(jnp.float32) == {"float32"}


def test_weights_return_from_a_file(model, tmp_path):
    save_autoencoder(tmp_path / "w.safetensors", model, {"tumours": 5})
    save_autoencoder(tmp_path / "w.safetensors", model, {"tumours": 6})
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    found = load_autoencoder(tmp_path / "w.safetensors")
    assert found.architecture == model.architecture
    assert_same_weights(found, model)
    _, header = load_weights(
        tmp_path / "w.safetensors",
        "autoencoder of outlines",
        lambda config, rngs: Autoencoder(Architecture(**config), rngs),
    )
    assert header["about"] == {"tumours": 6}


def test_files_that_are_no_such_weights_are_refused(model, tmp_path):
    file = tmp_path / "w.safetensors"
    save_autoencoder(file, model)
    good = file.read_bytes()
    config = dataclasses.asdict(model.architecture)

    def refused(message, content=None):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=f"w.safetensors has no usable weights: .*{message}"):
            load_autoencoder(file)

    refused("", good[:-10])
    refused("", good[: len(good) // 2])
    refused("", b"")
    refused("", b"PK\x03\x04" + good)
    refused("", (2**62).to_bytes(8, "little") + good[8:])
    refused("numbers are not those that were written", good[:-1] + bytes([good[-1] ^ 1]))
    save_weights(file, model, "surrogate", config)
    refused("it is of surrogate, version 1, not autoencoder of outlines, 1")
    # A size that the file does not have: refused before it is taken.
    for change in ({"latent": 10**12}, {"channels": [16, 8]}, {"kind": "vae"}):
        save_weights(file, model, "autoencoder of outlines", config | change)
        refused("arrays are not those of the network that it describes")
    for change in ({"latent": "many"}, {"kind": "gan"}, {"shape": [3, 4]}, {"colour": 1}):
        save_weights(file, model, "autoencoder of outlines", config | change)
        refused("")
    many = {"factors": [2] * 10**6, "channels": [16] * 10**6}
    save_weights(file, model, "autoencoder of outlines", config | many)
    refused("its network has too many layers")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"a": np.zeros(3)}, file)
    refused("it has no tumorjax header")
    save_file({"a": np.zeros(3)}, file, metadata={"tumorjax": json.dumps([1])})
    refused("")
    file.unlink()
    refused("")


def test_outlines_are_kept_as_bits(packed):
    np.testing.assert_array_equal(packed[np.array([20, 2])], [outlines(19, 1)[15], outlines(5, 0)[2]])
    assert packed.bits.nbytes == 24 * 2 * -(-np.prod(SHAPE) // 8)
    assert len(packed.part(slice(4, 9))) == 5
    with pytest.raises(ValueError, match="one grid, got none"):
        PackedOutlines.of([])
    with pytest.raises(ValueError, match="one grid"):
        PackedOutlines.of([outlines(1, 0), np.zeros((1, 2, 3, 3, 3), bool)])


def test_an_autoencoder_reconstructs_what_it_learns(packed):
    few = packed.part(slice(6, 14))
    done = train_autoencoder("ae", few, 250, size=Architecture("ae", SHAPE, **TINY), batch=8, rate=1e-2)
    codes = encode(done.model, few[:])
    assert codes.shape == (8, 2, 32)
    found = np.asarray(done.model.decode(codes))[:, :, :15, :14] > 0
    dice = 2 * (found & few[:]).sum((2, 3, 4)) / (found.sum((2, 3, 4)) + few[:].sum((2, 3, 4)))
    assert dice.min() > 0.9


@pytest.mark.parametrize(("kind", "layers"), (("ae", "patch"), ("vae", "convolution"), ("bf-hash", "patch")))
def test_grids_of_any_size_are_encoded_and_decoded(kind, layers):
    architecture = Architecture(
        kind, (7, 9, 6), **(TINY | {"layers": layers, "factors": (2,), "channels": (3,), "pool": 2})
    )
    assert architecture.coarse == (2, 3, 2)
    network = Autoencoder(architecture, nnx.Rngs(0))
    some = np.random.default_rng(0).random((3, 2, 7, 9, 6)) < 0.3
    shares = np.pad(some, [(0, 0)] * 2 + [(0, 1), (0, 3), (0, 2)]).reshape(3, 2, 4, 2, 6, 2, 4, 2).mean(axis=(3, 5, 7))
    np.testing.assert_array_equal(network.pool(some), shares)
    codes = encode(network, some, batch=2)
    assert codes.shape == (3, 2, 32)
    assert codes.dtype == (bool if kind == "bf-hash" else np.float32)
    # Each outline has a network of its own.
    swapped = encode(network, some[:, ::-1])
    assert not np.allclose(swapped[:, 0], codes[:, 1])
    assert network.decode(codes.astype(np.float32)).shape == (3, 2, 4, 6, 4)
    with pytest.raises(ValueError, match=r"on a grid \(7, 9, 6\), got \(3, 2, 6, 9, 6\)"):
        encode(network, some[:, :, 1:])


def test_the_likelihood_and_the_divergence_are_those_of_the_textbook(packed):
    some = packed[:4]
    network = Autoencoder(Architecture("vae", SHAPE, **(TINY | {"pool": 2, "factors": (2, 2)})), nnx.Rngs(1))
    mean, scale = np.split(np.asarray(network.embed(network.pool(some)), float), 2, axis=-1)
    scale = np.exp(0.5 * scale)
    divergence = (-np.log(scale) + (scale**2 + mean**2) / 2 - 0.5).sum(axis=-1).mean()
    codes = mean + scale * np.asarray(jax.random.normal(jax.random.key(5), mean.shape, np.float32))
    logits = np.asarray(network.decode(codes.astype(np.float32)), float)
    for axis in (2, 3, 4):
        logits = logits.repeat(2, axis)
    inside = np.pad(some, [(0, 0)] * 2 + [(0, n - m) for n, m in zip(logits.shape[2:], SHAPE, strict=True)])
    chance = 1 / (1 + np.exp(-logits))
    entropy = -np.where(inside, np.log(chance), np.log1p(-chance)).sum(axis=(2, 3, 4)).mean()
    value = autoencoder_loss(network, some, jax.random.key(5))
    np.testing.assert_allclose(value, entropy + divergence, rtol=1e-5)


def test_bits_are_half_and_half_and_let_gradients_pass():
    values = np.random.default_rng(0).normal(size=(7, 2, 5)).astype(np.float32)
    bits = np.asarray(bi_half(values))
    assert set(np.unique(bits)) == {-1, 1}
    assert ((bits == 1).sum(axis=0) == 3).all()
    assert (np.where(bits == 1, values, np.inf).min(axis=0) > np.where(bits == -1, values, -np.inf).max(axis=0)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"kind": "gan"}, "there are ae, vae, bf-hash"),
        ({"kind": "bf-hash", "latent": 12}, "fills whole bytes, got 12 bits"),
        ({"pool": 7}, "pool must be at most 6"),
        ({"channels": (3,)}, "each layer needs a factor and channels"),
        ({"latent": 0}, "whole numbers from 1"),
    ),
)
def test_bad_architectures_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**({"kind": "ae", "shape": SHAPE} | TINY | change))
    with pytest.raises(ValueError, match="unknown size 'huge'; there are small, published"):
        Architecture.of("ae", SHAPE, "huge")


DENSITIES = blob_densities(24, SHAPE, 2)


class Held:
    """A stub with the attributes of a database that the command reads."""

    fingerprint, anatomy = "f" * 64, SimpleNamespace(tissue=np.ones(SHAPE, bool))

    def __len__(self):
        return len(DENSITIES)

    def blocks(self, count, progress):
        progress(0.0)
        yield DENSITIES[:7]
        yield DENSITIES[7:count]


@pytest.fixture
def database(monkeypatch):
    monkeypatch.setattr(tumorjax.ensemble.Database, "open", lambda place: Held())


def run_train(out, *more, quiet=True):
    given = [
        "--database",
        "there",
        "--kind",
        "ae",
        "--tumours",
        "18",
        "--validation",
        "5",
        "--batch",
        "4",
        "--steps",
        "3",
    ]
    return main(["train", "autoencoder", "--out", str(out), *given, *(["--quiet"] if quiet else []), *more])


def test_the_command_trains_and_writes_weights(database, tmp_path, capsys):
    out = tmp_path / "ae.safetensors"
    assert run_train(out, "--json", "--checkpoints", str(tmp_path / "kept")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["steps"] == 3
    assert figures["validation_loss"] > 0
    assert load_autoencoder(out).architecture == Architecture.of("ae", SHAPE)
    assert len((tmp_path / "ae.csv").read_text().splitlines()) == 4
    assert run_train(out) == 2
    assert "ae.safetensors exists already; give another file, or --overwrite" in capsys.readouterr().err
    assert run_train(out, "--overwrite", "--checkpoints", str(tmp_path / "kept"), "--tumours", "17") == 2
    assert "(it differs in tumours)" in capsys.readouterr().err
    assert run_train(tmp_path / "b", "--validation", "7") == 2
    assert "has 24 tumours" in capsys.readouterr().err
    assert run_train(tmp_path / "b", "--rate", "-1") == 2
    assert "the learning rate must be positive, got -1" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_the_command_says_that_a_state_was_damaged(database, tmp_path, capsys):
    kept = ["--checkpoints", str(tmp_path / "kept"), "--json"]
    assert run_train(tmp_path / "a", *kept) == 0
    (state,) = (tmp_path / "kept").glob("step-*")
    state.rename(state.with_name("step-00000002.safetensors"))
    assert run_train(tmp_path / "b", *kept) == 2
    told = capsys.readouterr().err
    assert "step-00000002.safetensors cannot be read (it contains another state); remove " in told
    assert told.count("\n") == 1 and not (tmp_path / "b").exists()


def test_a_second_training_is_one_line(database, tmp_path, capsys):
    with exclusive(tmp_path / "ae.safetensors"):
        assert run_train(tmp_path / "ae.safetensors", "--overwrite") == 2
    assert "ae.safetensors: another command is at work there (process " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_reports_how_a_training_ended(database, model, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    kept = ["--checkpoints", str(tmp_path / "kept")]
    monkeypatch.setattr("tumorjax.networks.train_autoencoder", interrupted)
    with pytest.raises(SystemExit) as stopped:
        run_train(tmp_path / "a", *kept)
    assert stopped.value.code == 130
    assert "kept keeps the progress, and the same command continues from there" in capsys.readouterr().err

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / "kept" / "step-00000003.safetensors"))

    monkeypatch.setattr("tumorjax.networks.train_autoencoder", full)
    for more, left in ((kept, "kept keeps the progress, and the same command"), ([], "no checkpoints were asked for")):
        assert run_train(tmp_path / "a", *more) == 2
        text = capsys.readouterr().err
        assert "3.safetensors: cannot be written (No space left on device); make space there; " in text
        assert left in text and text.count("\n") == 1

    def went_on(*args, progress, **kwargs):
        progress(TrainingProgress(5, 9, 1.0, None, 1.0, 4.0))
        return SimpleNamespace(result=TrainingResult.DIVERGED, step=6, model=model)

    monkeypatch.setattr("tumorjax.networks.train_autoencoder", went_on)
    assert run_train(tmp_path / "a.safetensors", *kept, quiet=False) == 2
    note, text = capsys.readouterr().err.splitlines()
    assert note.endswith("kept keeps 4 steps already; this run goes on from there.")
    assert text.startswith("tumorjax train: error: step 7: the loss or its gradient was not finite")
    assert "a-unfinished.safetensors has the last good weights; try a lower --rate and another folder" in text
    assert_same_weights(load_autoencoder(tmp_path / "a-unfinished.safetensors"), model)
    assert not (tmp_path / "a.safetensors").exists()
