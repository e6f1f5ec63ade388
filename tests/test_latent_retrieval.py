"""Queries by codes of outlines: compared with a plain loop, with and without faiss; messages on missing weights."""

import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("flax")

from flax import nnx

from tests.blobs import blob_densities
from tumorjax.networks import (
    Architecture,
    Autoencoder,
    PackedOutlines,
    encode,
    load_autoencoder,
    save_autoencoder,
    train_autoencoder,
)
from tumorjax.retrieval import Index, query
from tumorjax.retrieval.latent import Codes, outlines

SHAPE = (16, 14, 15)
BRAIN = np.ones(SHAPE, bool)
BRAIN[:2] = False
THRESHOLDS = (0.6, 0.2)
KINDS = ("ae", "vae", "bf-hash")
TINY = {"pool": 1, "layers": "patch", "factors": (4, 2), "channels": (16, 16)}


@pytest.fixture(scope="module")
def densities():
    """Blobs, the first of them three times."""
    found = blob_densities(150, SHAPE, 0)
    found[[40, 90]] = found[0]
    return found


@pytest.fixture(scope="module")
def weights(densities, tmp_path_factory):
    """Files of weights: hashing is trained for a few steps; the others distinguish tumours without training."""
    folder, seen = tmp_path_factory.mktemp("weights"), PackedOutlines.of([outlines(densities, BRAIN, THRESHOLDS)])
    for kind in KINDS:
        architecture = Architecture(kind, SHAPE, **TINY, latent=64)
        model = Autoencoder(architecture, nnx.Rngs(0))
        if kind == "bf-hash":
            model = train_autoencoder(kind, seen, 40, size=architecture, batch=25, rate=5e-3).model
        save_autoencoder(folder / f"{kind}.safetensors", model)
    return {kind: folder / f"{kind}.safetensors" for kind in KINDS}


@pytest.fixture(scope="module")
def index(densities, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    return Index.build(np.split(densities, (7, 60)), BRAIN, 2.0, folder, variants=KINDS, weights=weights)


@pytest.fixture(params=("faiss", "numpy"))
def engine(request, monkeypatch):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)


def fresh(searcher):
    """The same codes before any attempt to import faiss."""
    return Codes(searcher.rows, searcher.network)


@pytest.mark.parametrize("kind", KINDS)
def test_the_query_is_the_plain_loop_over_codes(densities, weights, index, kind, engine):
    model = load_autoencoder(weights[kind])
    codes = encode(model, outlines(densities, BRAIN, THRESHOLDS))
    assert (index.variants[kind].rows.dtype == np.uint8) == (kind == "bf-hash") == (codes.dtype == bool)
    if kind != "bf-hash":
        codes = codes.astype(np.float16)
    for patient in blob_densities(4, SHAPE, 5, shift=0.3):
        core, lesion = patient > 153, patient > 51
        (code,) = encode(model, np.stack([core, lesion])[None])
        difference = codes.astype(float) - code.astype(codes.dtype).astype(float)
        distance = np.sqrt((difference**2).sum(axis=2)).sum(axis=1)
        for k in (1, 6, len(densities)):
            rows, scores = fresh(index.variants[kind]).search(core, lesion, k)
            np.testing.assert_allclose(scores, -np.sort(distance)[:k], rtol=1e-5)
            np.testing.assert_allclose(distance[rows], -scores, rtol=1e-5)
            assert len(set(rows.tolist())) == k


@pytest.mark.parametrize("kind", KINDS)
def test_equal_tumours_come_in_the_order_of_the_database(densities, index, kind, engine):
    core, lesion = ((densities[0] > cut) & BRAIN for cut in (153, 51))
    rows, scores = fresh(index.variants[kind]).search(core, lesion, 4)
    assert rows[:3].tolist() == [0, 40, 90]
    assert scores[:3].tolist() == [0, 0, 0]
    if kind != "bf-hash":
        assert scores[3] < 0
    found = query(index, core, lesion, 3, method=kind)
    assert found.indices.tolist() == [0, 40, 90]
    assert found.dice_core.tolist() == found.dice_lesion.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_near_tumours_have_near_codes(densities, index, kind):
    """Most tumours that are moved by half a voxel are found among the first few of 150."""
    moved, ranks = blob_densities(150, SHAPE, 0, shift=0.5), []
    for i in range(100, 130):
        patient = moved[i] * BRAIN
        order = query(index, patient > 153, patient > 51, len(densities), method=kind).indices.tolist()
        ranks.append(order.index(i))
    # By chance the median is 75.
    assert np.median(ranks) <= 3
    assert np.mean(np.array(ranks) < 15) >= 0.8


def test_indices_hold_their_weights(densities, index, weights, tmp_path, monkeypatch):
    core, lesion = densities[5] > 153, densities[5] > 51
    expected = query(index, core, lesion, 3, method="ae").indices
    own = {"ae": tmp_path / "a.safetensors"}
    shutil.copyfile(weights["ae"], own["ae"])
    folder = tmp_path / "index"
    Index.build([densities], BRAIN, 2.0, folder, variants=["ae"], weights=own)
    own["ae"].unlink()
    found = Index.open(folder)
    np.testing.assert_array_equal(query(found, core, lesion, 3, method="ae").indices, expected)
    kept = folder / "ae" / "weights.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1] + b"\x00")
    damaged = Index.open(folder, verify=False)
    # Other variants do without.
    query(damaged, core, lesion)
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing or was changed; remove the index and build"):
        query(damaged, core, lesion, method="ae")
    with pytest.raises(ValueError, match="is missing or was changed"):
        Index.open(folder)


def test_missing_and_other_weights_are_reported(densities, weights, tmp_path):
    def refused(message, variants=("vae",), **given):
        with pytest.raises(ValueError, match=message):
            Index.build([densities[:2]], BRAIN, 2.0, tmp_path / "index", variants=variants, **given)
        assert not (tmp_path / "index").exists()

    command = "tumorjax train autoencoder --database PLACE --kind vae --out vae.safetensors"
    refused(f"no weights for 'vae' at .*nowhere; train them with {command}", weights={"vae": tmp_path / "nowhere"})
    refused(f"are of 'ae' on a grid .* not of 'vae' .*; train others with {command}", weights={"vae": weights["ae"]})
    other = Autoencoder(Architecture("vae", (17, 14, 15), **TINY, latent=64), nnx.Rngs(0))
    save_autoencoder(tmp_path / "other", other)
    refused(r"on a grid \(17, 14, 15\), not of 'vae' on \(16, 14, 15\)", weights={"vae": tmp_path / "other"})
    (tmp_path / "text").write_text("weights")
    refused("has no usable weights", weights={"vae": tmp_path / "text"})
    refused("weights are given for 'ae', which is not built or needs none", weights=weights)
    refused("weights are given for 'ds64'", variants=("ds64",), weights={"ds64": weights["ae"]})
    (tmp_path / "text").unlink()
    (tmp_path / "other").unlink()
    assert not list(tmp_path.iterdir())
