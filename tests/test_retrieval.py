"""Queries compared with a plain loop over voxels, and folders of indices tested for damage."""

import hashlib
import json
import re
from contextlib import suppress

import numpy as np
import pytest

from tumorjax.retrieval import VARIANTS, Index, PackedMasks, kernels, pack, query, radiomics, search
from tumorjax.retrieval import direct as direct_module
from tumorjax.retrieval import masks as masks_module
from tumorjax.retrieval.direct import dice, dice_bounds, outlines_of
from tumorjax.retrieval.downsampled import downsample
from tumorjax.retrieval.radiomics import shape_features
from tumorjax.storage import InUseError, sealed, unsealed

SHAPE = (18, 16, 15)
SPACING = (2.0, 1.5, 1.8)
WHERE = np.indices(SHAPE).astype(float)
BRAIN = sum(((x - (n - 1) / 2) / (0.47 * n)) ** 2 for x, n in zip(WHERE, SHAPE, strict=True)) < 1
THRESHOLDS = (0.6, 0.2)
# Those that need no weights.
PLAIN = {"direct", "ds64", "ds32", "radiomics", "radiomics-standard"}


def blob(centre, radii, height, steepness):
    distance = np.sqrt(sum(((x - c) / r) ** 2 for x, c, r in zip(WHERE, centre, radii, strict=True)))
    return np.round(255 * height / (1 + np.exp(steepness * (distance - 1)))).astype(np.uint8)


def blobs(count, seed):
    """Smooth blobs, some of them too small or too faint to have a core or any outline at all."""
    random = np.random.default_rng(seed)
    draw = lambda: (random.uniform(0, SHAPE), random.uniform(1, 6, 3), random.uniform(0.1, 1), random.uniform(2, 9))  # noqa: E731
    return np.stack([blob(*draw()) for _ in range(count)])


@pytest.fixture(scope="module")
def densities():
    """Blobs, two of them inside the brain; and noise, nothing, everything, and several of the same."""
    found = blobs(700, seed=0)
    found[11], found[14] = blob((8, 8, 7), (4, 3, 5), 0.9, 6.0), blob((10, 7, 8), (5, 4, 3), 1.0, 4.0)
    noise = found[3::50]
    noise[:] = np.random.default_rng(0).integers(256, size=noise.shape)
    found[7::60], found[9::90] = 0, 255
    found[40:45] = found[11]
    return found


def plain(densities, brain, core, lesion, thresholds=THRESHOLDS):
    """The Dice coefficients of every tumour by a loop in floating point."""
    found = []
    for density in densities:
        for threshold, outline in zip(thresholds, (core, lesion), strict=True):
            own = (density / 255.0 > threshold) & brain
            total = own.sum() + outline.sum()
            found.append(2.0 * (own & outline).sum() / total if total else 1.0)
    return np.reshape(found, (-1, 2))


def ranked(scores, k):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


@pytest.fixture(scope="module")
def queries(densities):
    """Outlines (partly outside the brain, full, of one voxel, empty) and their results from the plain loop."""
    random = np.random.default_rng(5)
    everything, nothing = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    one = nothing.copy()
    one[9, 8, 7] = True
    found = [(density > 153, density > 51) for density in [*densities[[11, 42]], *blobs(9, seed=1)]]
    found += [(random.uniform(size=SHAPE) < p, random.uniform(size=SHAPE) < p) for p in (0.02, 0.5)]
    found += [(everything, everything), (one, everything), (one, one), (nothing, one), (nothing, nothing)]
    found += [(~BRAIN, WHERE[0] < 5)]
    return [(core, lesion, plain(densities, BRAIN, core, lesion)) for core, lesion in found]


@pytest.fixture(scope="module")
def masks(densities, tmp_path_factory):
    return pack(np.split(densities, (1, 300, 300)), BRAIN, THRESHOLDS, tmp_path_factory.mktemp("packed") / "masks")


@pytest.fixture(scope="module")
def index(densities, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    return Index.build([densities[:90]], BRAIN, SPACING, folder, variants=PLAIN, source="these tumours")


@pytest.fixture(params=["numba", "numpy", "jax"])
def masks_of_engine(request, masks, monkeypatch):
    if request.param == "jax":
        monkeypatch.setattr(masks_module, "_SOME", 300)
        return masks.on_device()
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(kernels, "_compiled", lambda: None)
    return masks


def test_the_query_is_the_plain_loop(masks_of_engine, queries, monkeypatch):
    masks = masks_of_engine
    # Small enough that both sums have several parts.
    monkeypatch.setattr(kernels, "_FEW", 150)
    monkeypatch.setattr(kernels, "_MANY", 300)
    for core, lesion, expected in queries:
        outlines, rows = outlines_of(masks, core, lesion), np.arange(len(masks))
        np.testing.assert_array_equal(dice(masks, outlines, rows).T, expected)
        assert (dice_bounds(masks, outlines).sum(axis=0) >= expected.sum(axis=1)).all()
        for k in (1, 7, len(masks)):
            for prune in (False, True):
                rows, scores = search(masks, core, lesion, k, prune=prune)
                assert rows.tolist() == ranked(expected.sum(axis=1), k)
                np.testing.assert_array_equal(scores, expected.sum(axis=1)[rows])


def test_pruning_reads_few_tumours(densities, masks, monkeypatch):
    read = []

    def spy(table, mask, rows, *query):
        read.append(len(rows))
        return kernels.shared_bits(table, mask, rows, *query)

    monkeypatch.setattr(direct_module, "shared_bits", spy)
    rows, scores = search(masks, densities[11] > 153, densities[11] > 51, 3)
    # Equal tumours come in the order of the database.
    assert rows.tolist() == [11, 40, 41]
    assert scores.tolist() == [2.0, 2.0, 2.0]
    assert max(read) < len(masks) / 10


def test_bits_are_the_outlines(densities, masks):
    bits = np.unpackbits(masks.words.view(np.uint8), axis=-1, bitorder="little").astype(bool)
    assert sorted(masks.order) == np.flatnonzero(BRAIN).tolist()
    for i, threshold in enumerate((153, 51)):
        outlines = (densities > threshold).reshape(len(densities), -1)[:, masks.order]
        np.testing.assert_array_equal(bits[:, i, : len(masks.order)], outlines)
        np.testing.assert_array_equal(masks.counts[i], outlines.sum(axis=1))
    assert not bits[:, :, len(masks.order) :].any()
    np.testing.assert_array_equal(masks.blocks.sum(axis=1), masks.counts)
    assert masks.blocks.max() <= 512


def test_words_and_blocks_are_cubes(tmp_path):
    masks = pack([np.zeros((1, 16, 16, 16), np.uint8)], np.ones((16, 16, 16), bool), THRESHOLDS, tmp_path / "masks")
    for edge in (4, 8):
        for cube in masks.order.reshape(-1, edge**3):
            assert np.ptp(np.unravel_index(cube, masks.shape), axis=1).tolist() == [edge - 1] * 3


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_fractions_pack_as_integers(densities, masks, tmp_path, dtype):
    # Half a step below its integer, a fraction is on the same side of the thresholds, however it is rounded.
    fractions = ((densities[:60] - 0.5 * (densities[:60] > 0)) / 255).astype(dtype)
    found = pack([fractions], BRAIN, THRESHOLDS, tmp_path / "masks")
    np.testing.assert_array_equal(found.words, masks.words[:60])


def test_files_do_not_depend_on_blocks(densities, tmp_path):
    pack([densities[:50]], BRAIN, THRESHOLDS, tmp_path / "one")
    pack(densities[:50, None], BRAIN, THRESHOLDS, tmp_path / "many")
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["blocks.npy", "contents.json", "counts.npy", "order.npy", "words.npy"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_nothing_is_left_of_an_interrupted_build(densities, tmp_path):
    def broken():
        yield densities[:5]
        raise KeyboardInterrupt

    folder = tmp_path / "index"
    for _ in range(2):
        before = sorted(tmp_path.rglob("*"))
        with suppress(KeyboardInterrupt):
            Index.build(broken(), BRAIN, SPACING, folder, overwrite=True)
        assert sorted(tmp_path.rglob("*")) == before
        Index.build([densities[:5]], BRAIN, SPACING, folder, overwrite=True)
    assert len(Index.open(folder)) == 5
    with pytest.raises(ValueError, match="exists already"):
        Index.build([densities[:5]], BRAIN, SPACING, folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="was not written by tumorjax"):
        Index.build([densities[:5]], BRAIN, SPACING, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_damage_is_reported(densities, tmp_path):
    folder = tmp_path / "masks"
    pack([densities[:20]], BRAIN, THRESHOLDS, folder)
    words, contents = folder / "words.npy", folder / "contents.json"
    good = words.read_bytes()
    for spoilt in (good[:-8], good[:-1] + bytes([good[-1] ^ 1])):
        words.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"words\.npy is missing or was changed; remove it and build it again"):
            PackedMasks.open(folder)
    # Without verification, headers are still checked before memory is allocated.
    PackedMasks.open(folder, verify=False)
    words.write_bytes(good[:-8])
    np.save(words, np.zeros((20, 2, 8), np.uint64))
    with pytest.raises(ValueError, match="not as listed"):
        PackedMasks.open(folder, verify=False)
    np.save(words, np.array([None]), allow_pickle=True)
    for header in (None, b"{'descr': '<u8', 'shape': (99999999999, 2, 8), 'fortran_order': False}", b"(((", b"\xff"):
        if header is not None:
            words.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        with pytest.raises(ValueError, match="cannot be used"):
            PackedMasks.open(folder, verify=False)
    words.write_bytes(good)
    facts = json.loads(contents.read_text())
    facts["facts"]["thresholds"] = [0.7, 0.2]
    contents.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"contents\.json was changed"):
        PackedMasks.open(folder)
    contents.unlink()
    with pytest.raises(ValueError, match="or only part of one"):
        PackedMasks.open(folder)


@pytest.mark.parametrize(("method", "factor"), [("direct", 1), ("ds64", 2), ("ds32", 4)])
def test_downsampled_queries_are_the_plain_loop(densities, index, method, factor):
    brain, few = downsample(BRAIN, factor), downsample(densities[:90], factor)
    assert brain.shape == tuple(n // factor + (n % factor > factor // 2) for n in SHAPE)
    for density in blobs(4, seed=2):
        core, lesion = density > 153, density > 51
        if not core.any():
            continue
        scores = plain(few, brain, downsample(core, factor), downsample(lesion, factor)).sum(axis=1)
        full = plain(densities[:90], BRAIN, core, lesion)
        found = query(index, core, lesion, 5, method=method)
        assert found.indices.tolist() == ranked(scores, 5)
        np.testing.assert_array_equal(found.scores, scores[found.indices])
        np.testing.assert_array_equal(np.stack([found.dice_core, found.dice_lesion], 1), full[found.indices])
        assert found.thresholds.tolist() == [[0.6, 0.2]] * 5


def test_features_of_an_ellipsoid():
    spacing, centre, radii = np.array([1.0, 0.8, 1.25]), np.array([25.0, 20.0, 26.0]), np.array([20.0, 8.0, 12.0])
    where = np.moveaxis(np.indices((50, 50, 44)), 0, -1) * spacing
    mask = (((where - centre) / radii) ** 2).sum(-1) < 1
    x, y, z, volume, surface, sphericity, major, elongation, flatness = shape_features(mask, spacing)
    np.testing.assert_allclose([x, y, z], centre, atol=0.05)
    exact = 4 / 3 * np.pi * radii.prod()
    # A solid ellipsoid's variance along an axis is a fifth of its radius squared. Surface: Thomsen's formula.
    a, b, c = radii**1.6075
    area = 4 * np.pi * ((a * b + a * c + b * c) / 3) ** (1 / 1.6075)
    np.testing.assert_allclose([volume, major], [exact, 4 * radii[0] / np.sqrt(5)], rtol=0.01)
    np.testing.assert_allclose([elongation, flatness], [12 / 20, 8 / 20], rtol=0.01)
    np.testing.assert_allclose([surface, sphericity], [area, (36 * np.pi * exact**2) ** (1 / 3) / area], rtol=0.05)
    assert not shape_features(np.zeros((3, 3, 3), bool), spacing).any()
    for few in (np.index_exp[4, 5, 6], np.index_exp[2, 1:9, 3], np.index_exp[2, 1:9, 3:7]):
        small = np.zeros((10, 10, 10), bool)
        small[few] = True
        found = shape_features(small, spacing)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[:3], np.argwhere(small).mean(axis=0) * spacing)


def test_radiomics_finds_the_shape_among_the_nearest(densities, index, monkeypatch):
    core, lesion = ((densities[14] > cut) & BRAIN for cut in (153, 51))
    found = query(index, core, lesion, 2, method="radiomics")
    assert found.indices[0] == 14
    assert found.scores[0] == 0 > found.scores[1]
    assert found.dice_core[0] == found.dice_lesion[0] == 1
    # A small tumour in the middle of a large one is nearest to it, but has another's shape.
    small = np.zeros(SHAPE, bool)
    small[tuple(slice(int(c), int(c) + 2) for c in np.argwhere(lesion).mean(axis=0))] = True
    elsewhere = query(index, small, small, method="radiomics").indices[0]
    lesions = [np.argwhere((density > 51) & BRAIN) for density in densities[:90]]
    middles = np.array([where.mean(axis=0) if len(where) else (0, 0, 0) for where in lesions]) * SPACING
    nearest = np.argmin(np.linalg.norm(middles - np.argwhere(small).mean(axis=0) * SPACING, axis=1))
    assert nearest != elsewhere
    monkeypatch.setattr(radiomics, "NEAREST", 1)
    assert query(index, small, small, method="radiomics").indices.tolist() == [nearest]


def test_standardised_features_are_measured_by_their_deviations(densities, index):
    core, lesion = ((densities[14] > cut) & BRAIN for cut in (153, 51))
    found = query(index, core, lesion, 20, method="radiomics-standard")
    every = np.array(
        [[shape_features((density > cut) & BRAIN, SPACING) for cut in (153, 51)] for density in densities[:90]]
    )
    patient = np.array([shape_features(mask, SPACING) for mask in (core, lesion)])
    away = np.abs(every[..., 3:] - patient[:, 3:]) / every[..., 3:].std(axis=0)
    distance = away.sum(axis=(1, 2))
    np.testing.assert_allclose(-found.scores, np.sort(distance)[:20], rtol=1e-9)
    assert query(index, core, lesion, 20, method="radiomics").indices.tolist() != found.indices.tolist()


def test_thresholds_are_the_best_of_all(densities, index):
    core, lesion = (blobs(1, seed=4)[0] > cut for cut in (170, 80))
    grids = np.arange(10, 18) / 20, np.arange(1, 10) / 20
    found = query(index, core, lesion, 4, densities=lambda i: densities[i], candidates=30)
    default = query(index, core, lesion, 30)
    tried = [[plain(densities[:90], BRAIN, core, lesion, (c, le)) for le in grids[1]] for c in grids[0]]
    best = np.max(tried, axis=(0, 1))[default.indices].sum(axis=1)
    assert found.indices.tolist() == [default.indices[i] for i in ranked_by(best, default.indices)][:4]
    np.testing.assert_array_equal(found.scores, found.dice_core + found.dice_lesion)
    for i, thresholds, score in zip(found.indices, found.thresholds, found.scores, strict=True):
        assert plain(densities[[i]], BRAIN, core, lesion, thresholds).sum() == score


def test_of_equal_thresholds_the_nearest_to_the_usual_is_taken(tmp_path):
    core, lesion = (np.linalg.norm(np.moveaxis(WHERE, 0, -1) - (9, 8, 7), axis=-1) < r for r in (3, 5))
    # Not above 0.8 and 0.4, but above every threshold below.
    density = np.where(core, 204, np.where(lesion, 102, 0)).astype(np.uint8)
    for usual, expected in (((0.6, 0.2), (0.6, 0.2)), ((0.8, 0.4), (0.75, 0.35)), ((0.42, 0.38), (0.42, 0.38))):
        index = Index.build([density[None]], BRAIN, 1.0, tmp_path / "index", thresholds=usual, overwrite=True)
        found = query(index, core & BRAIN, lesion & BRAIN, densities=lambda _: density)
        assert found.scores.tolist() == [2.0]
        np.testing.assert_allclose(found.thresholds, [expected])


def ranked_by(scores, indices):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], indices[i]))


def test_bad_queries_are_refused(densities, index, tmp_path):
    core, lesion = (densities[14] > cut for cut in (153, 51))
    nothing = np.zeros(SHAPE, bool)
    with pytest.raises(ValueError, match="the core is empty"):
        query(index, nothing, lesion)
    with pytest.raises(ValueError, match="the lesion is empty"):
        query(index, core, nothing)
    with pytest.raises(ValueError, match=r"the lesion has shape \(18, 16, 14\)"):
        query(index, core, lesion[..., 1:])
    with pytest.raises(ValueError, match="zeros and ones"):
        query(index, 4 * core, lesion)
    for k in (0, 91):
        with pytest.raises(ValueError, match=f"has 90 tumours.*got {k}"):
            query(index, core, lesion, k)
    with pytest.raises(ValueError, match="got 3 of 2"):
        query(index, core, lesion, 3, densities=lambda i: densities[i], candidates=2)
    with pytest.raises(ValueError, match="unknown method 'gan'; there are direct"):
        query(index, core, lesion, method="gan")
    small = Index.build([densities[:5]], BRAIN, 1.0, tmp_path / "small", variants=("ds64",))
    with pytest.raises(ValueError, match="built without 'radiomics', it has direct, ds64"):
        query(small, core, lesion, method="radiomics")
    with pytest.raises(ValueError, match="index of another database"):
        Index.open(tmp_path / "small", source="these tumours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": (0.2, 0.6)}, "0 < lesion < core < 1"),
        ({"thresholds": (1.0, 0.2)}, "0 < lesion < core < 1"),
        ({"variants": ("ds64", "gan")}, "unknown variants gan"),
        ({"spacing": (1.0, 0.0, 1.0)}, "distance in mm"),
        ({"brain": BRAIN.astype(np.uint8)}, "boolean"),
        ({"brain": np.zeros(SHAPE, bool)}, "not empty"),
        ({"blocks": []}, "no tumours"),
        ({"blocks": [np.zeros((2, 18, 16, 14), np.uint8)]}, "resample"),
        ({"blocks": [np.full((1, *SHAPE), 255.0)]}, "got float64"),
        ({"blocks": [np.full((1, *SHAPE), np.nan)]}, "got float64"),
        ({"blocks": [np.zeros((1, *SHAPE), np.int16)]}, "got int16"),
    ],
)
def test_bad_builds_are_refused_and_leave_nothing(change, message, tmp_path):
    given = {"blocks": [np.zeros((1, *SHAPE), np.uint8)], "brain": BRAIN, "spacing": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        Index.build(folder=tmp_path / "index", **given)
    assert not list(tmp_path.iterdir())


def test_every_variant_is_built_and_verified(index, densities, tmp_path):
    assert list(index.variants) == [name for name in VARIANTS if name in PLAIN]
    assert index.source == "these tumours"
    Index.build([densities[:3]], BRAIN, SPACING, tmp_path / "index", variants=["radiomics"])
    file = tmp_path / "index" / "radiomics" / "features.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match=r"features\.npy is missing or was changed"):
        Index.open(tmp_path / "index")


def answers(folder, queries):
    """Return the results of queries of an index."""
    index = Index.open(folder)
    found = [query(index, *outlines[:2], 3, method=name) for name in index.variants for outlines in queries]
    return [number for each in found for number in (each.indices, each.scores, each.dice_core)] + [index.spacing]


def test_no_flipped_bit_gives_other_answers(densities, queries, tmp_path):
    some, random = queries[:2], np.random.default_rng(0)
    Index.build([densities[:40]], BRAIN, SPACING, tmp_path / "index", variants=["ds64", "radiomics"])
    wanted = answers(tmp_path / "index", some)
    files = [path for path in sorted((tmp_path / "index").rglob("*")) if path.is_file()]
    assert len(files) == 13
    refused = 0
    for file in files:
        content = file.read_bytes()
        for position in random.integers(len(content), size=8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << random.integers(8)
            file.write_bytes(flipped)
            try:
                found = answers(tmp_path / "index", some)
            except ValueError as error:
                assert re.fullmatch(r"[^\n]*index[^\n]*; (remove it and )?build it( again)?", str(error))
                refused += 1
            else:
                for one, other in zip(found, wanted, strict=True):
                    np.testing.assert_array_equal(one, other)
        file.write_bytes(content)
    assert refused > 90


FORGED_FACTS = {
    "": ({"spacing": [1, 2]}, {"spacing": "wide"}, {"variants": ["direct", "../direct"]}, {"variants": 7}, {}),
    "direct": ({"shape": [2, 2, 2]}, {"shape": [10**30] * 3}, {"shape": 5}, {"thresholds": [0.2, 0.6]}, {}),
    "radiomics": ({"spacing": None}, {}),
}


@pytest.mark.parametrize(("part", "changes"), FORGED_FACTS.items())
def test_forged_facts_are_one_line(densities, tmp_path, part, changes):
    Index.build([densities[:5]], BRAIN, SPACING, tmp_path / "index", variants=["radiomics"])
    file = tmp_path / "index" / part / "contents.json"
    contents = unsealed(file.read_bytes())
    for change in changes:
        facts = contents["facts"] | change if change else {}
        file.write_bytes(sealed(contents | {"facts": facts}))
        with pytest.raises(ValueError, match=r"^[^\n]*index[^\n]* cannot be used: [^\n]*build it again$"):
            Index.open(tmp_path / "index")
    listed = contents["arrays"] | {"../../order": {"shape": [1], "dtype": "<u8", "sha256": "0"}}
    file.write_bytes(sealed(contents | {"arrays": listed}))
    with pytest.raises(ValueError, match=r"it lists an array '\.\./\.\./order'"):
        Index.open(tmp_path / "index")


def test_an_index_of_version_0_1_is_read(densities, tmp_path):
    pack([densities[:5]], BRAIN, THRESHOLDS, tmp_path / "masks")
    contents = unsealed((tmp_path / "masks" / "contents.json").read_bytes())
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    (tmp_path / "masks" / "contents.json").write_text(json.dumps({"sha256": digest, **contents}, indent=1) + "\n")
    assert len(PackedMasks.open(tmp_path / "masks")) == 5


def test_two_do_not_write_one_folder(densities, tmp_path):
    def blocks():
        with pytest.raises(InUseError):
            Index.build([densities[:5]], BRAIN, SPACING, tmp_path / "index")
        yield densities[:5]

    assert len(Index.build(blocks(), BRAIN, SPACING, tmp_path / "index")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_a_killed_writer_left_is_removed(densities, tmp_path):
    (tmp_path / ".index.partial" / "direct").mkdir(parents=True)
    Index.build([densities[:5]], BRAIN, SPACING, tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
