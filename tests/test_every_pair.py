"""Every model with every method, from a small patient whose tumour pushes to files of results."""

import dataclasses
import json
import re
import warnings

import jax
import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("numpyro")
pytest.importorskip("arviz")
pytest.importorskip("zarr")

import tumorjax.results.files as results
from tumorjax.atlas import load_atlas
from tumorjax.calibration import calibrate
from tumorjax.cli import main
from tumorjax.ensemble import Database, Size, build_database, published_box, tumours_of
from tumorjax.growth import FisherKolmogorov, GrowthParams, MassEffect, MassEffectParams
from tumorjax.integrate import simulate
from tumorjax.io import InputError
from tumorjax.methods import (
    LBFGS,
    NUTS,
    TMCMC,
    AmortizedPosterior,
    Importance,
    LearnMorphInfer,
    Metropolis,
    MultiAtlas,
    NeuralPosterior,
    Rejection,
    Retrieval,
    Stratified,
    WeakConstraint,
)
from tumorjax.methods.registry import methods, models
from tumorjax.methods.sampling import rejection
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.networks import save_inverse, train_inverse
from tumorjax.networks.inverse_windows import SIZES, THRESHOLDS
from tumorjax.patient import load_patient
from tumorjax.pipeline import personalize
from tumorjax.pipeline.problems import problem_of
from tumorjax.prior import Prior, Uniform
from tumorjax.quality import Status
from tumorjax.storage import open_arrays

pytestmark = pytest.mark.usefixtures("jax_as_installed")

SPACING, GAMMA = 8.0, 4e4
TRUTH = GrowthParams(0.15, 0.03, np.array([-25.0, -10.0, 15.0]), 300.0)
SIZE = (Size(0.2, 5.0, 200.0),)
SEARCH = LBFGS(starts=1, coarsening=1, budget=2)
# Nearly all of the time is compilation. These make so many solves that optimised programs are worth theirs.
MANY_SOLVES = {("mass-effect", name) for name, kind in methods().items() if kind.needs_key}


@pytest.fixture(scope="module")
def brain(atlas):
    # The hole in the ball of tissue is no pair of ventricles, which are looked for elsewhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tumorjax.patient.atlases.ventricle_volume", lambda atlas: 20.0)
        yield load_atlas(atlas)


@pytest.fixture(scope="module")
def patient(atlas, brain, jax_as_installed, tmp_path_factory):
    """A tumour that pushes the tissue of the atlas, outlined in the atlas' world."""
    params = MassEffectParams(TRUTH, GAMMA)
    density = np.asarray(simulate(MassEffect(), params, brain.anatomy(SPACING)).density)
    labels = np.select([density > 0.5, density > 0.15], [1, 2], 0).astype(np.uint8)
    path = tmp_path_factory.mktemp("patient") / "segmentation.nii.gz"
    nib.save(nib.Nifti1Image(labels, np.asarray(brain.anatomy(SPACING).grid.affine)), path)
    return load_patient(segmentation=path, atlas=atlas, resolution=SPACING)


@pytest.fixture(scope="module")
def places(brain, jax_as_installed, plainly, tmp_path_factory):
    """For each model a database of four tumours, and networks that have learnt a little of them.

    A second network of tumours that push has to be given the force, and a third one learnt in two brains.
    """
    folder, anatomy, found = tmp_path_factory.mktemp("learnt"), brain.anatomy(SPACING), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setitem(SIZES, "small", SIZES["small"] | {"window": 16})
        with plainly():
            for name, kind in models().items():
                model = kind.from_options({})
                near = Uniform(TRUTH.origin - 12, TRUTH.origin + 12)
                growth = GrowthParams(Uniform(0.1, 0.2), Uniform(0.02, 0.04), near, Uniform(250.0, 350.0))
                unknown = published_box(anatomy, model=model).distributions
                prior = Prior(growth if name == "fisher-kolmogorov" else dataclasses.replace(unknown, growth=growth))
                settings = {"sizes": SIZE, "screening": 1, "workers": 1}
                database = build_database(model, prior, anatomy, 4, folder / name, **settings)
                tumours = tumours_of(database)
                told = [*(["gamma"] if model.displaces else []), "mu1", "mu2", "x", "y", "z"]
                wanted = {name: told} | ({f"{name}-given": told[-5:]} if model.displaces else {})
                for file, targets in wanted.items():
                    network = train_inverse([tumours], 2, batch=2, targets=targets).model
                    save_inverse(folder / f"{file}.safetensors", network)
                network = train_inverse([tumours, tumours], 2, batch=2, targets=[*told, *THRESHOLDS]).model
                save_inverse(folder / f"{name}-brains.safetensors", network)
                found[name] = (
                    database.url,
                    *(folder / f"{name}{kind}.safetensors" for kind in ("", "-given", "-brains")),
                )
        yield found


def small(name, model, atlas, places):
    """Return a method with the smallest budget that it takes."""
    database, network, *_ = places[model]
    brains = places[model][3]
    return {
        "lbfgs": lambda: SEARCH,
        "weak-constraint": lambda: WeakConstraint(1.0, length=100.0, coarsening=1, budget=2, draws=0, start=SEARCH),
        "tmcmc": lambda: TMCMC(particles=24, steps=1, variation=3.0),
        "nuts": lambda: NUTS(chains=1, draws=4, warmup=20, max_tree_depth=1, start=SEARCH, block=4),
        "npe": lambda: NeuralPosterior(rounds=1, simulations=32, draws=8, images=4, epochs=3, members=1, components=2),
        "metropolis": lambda: Metropolis(chains=2, draws=8, burn_in=8, start=SEARCH, block=8),
        "rejection": lambda: Rejection(draws=2, budget=16, start=SEARCH),
        "importance": lambda: Importance(draws=16, start=SEARCH),
        "stratified": lambda: Stratified(draws=32),
        "retrieval": lambda: Retrieval.open(database, atlas=atlas, k=2),
        "amortized": lambda: AmortizedPosterior.open(brains, draws=8),
        "lmi": lambda: LearnMorphInfer.open(network, atlas=atlas),
        "multi-atlas": lambda: MultiAtlas((str(atlas),), sparsity=1, refine=False),
    }[name]()


REFUSED = {
    ("fisher-kolmogorov", "multi-atlas"): "multi-atlas calibration is for MassEffect, got FisherKolmogorov",
}


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("model", models())
def test_a_model_is_calibrated_by_a_method(model, name, patient, atlas, places, tmp_path, monkeypatch, request):
    if (model, name) not in MANY_SOLVES:
        request.getfixturevalue("one_test_compiled_plainly")
    grows, method = models()[model].from_options({}), small(name, model, atlas, places)
    if reason := method.refuses_model(grows):
        assert reason == REFUSED[model, name]
        return
    # Drawing takes most of the time, and is tested elsewhere.
    monkeypatch.setattr(results, "write_report", lambda folder, page: None)
    # Deviations of maps of many draws are tested elsewhere, too.
    monkeypatch.setattr("tumorjax.methods.search.departed._DRAWS", 2)
    if name == "rejection":
        # Exact draws from so narrow a posterior take more solves than anyone has, as they would with a better bound.
        search = rejection.minimise
        monkeypatch.setattr(rejection, "minimise", lambda *given, **more: search(*given, **more | {"budget": 2}))
        with pytest.raises(ValueError, match=r"0 of the 2 draws .* much narrower than the prior"):
            personalize(patient, model=grows, method=method, key=jax.random.key(0))
        return
    with warnings.catch_warnings():
        # So few draws say nothing, which is what the warnings are about.
        warnings.simplefilter("ignore")
        result = personalize(patient, model=grows, method=method, key=jax.random.key(0))
    result.save(tmp_path / "out")
    density = nib.load(tmp_path / "out" / "density.nii.gz").get_fdata()
    assert np.isfinite(density).all() and 0.01 < density.max() <= 1
    rows = json.loads((tmp_path / "out" / "parameters.json").read_text(encoding="utf-8"))["parameters"]
    assert rows["mu1"]["value"] > 0
    # A network and a match alone have no uncertainty.
    assert name == "lmi" or rows["mu1"]["standard_deviation"] > 0
    moved = tmp_path / "out" / "displacement.nii.gz"
    assert moved.exists() == ("mass_effect" in rows) == grows.displaces
    if grows.displaces:
        assert rows["mass_effect"]["value"] > 0
        assert 0 < np.abs(nib.load(moved).get_fdata()).max() < 60
    assert result.quality in set(Status)


@pytest.mark.parametrize("begins", ("match", "matches", "network"))
def test_searches_and_samplers_begin_at_an_answer_from_the_atlas(
    begins, patient, atlas, places, tmp_path, monkeypatch, one_test_compiled_plainly
):
    """Neither a single match nor a network has a covariance, and that of two matches has rank one."""
    database, network, *_ = places["fisher-kolmogorov"]
    start = {
        "match": lambda: Retrieval.open(database, atlas=atlas),
        "matches": lambda: Retrieval.open(database, atlas=atlas, k=2),
        # It has learnt next to nothing; a search goes on from its answer all the same.
        "network": lambda: LearnMorphInfer.open(network, atlas=atlas, least_dice=0.0),
    }[begins]()
    problem, key = problem_of(patient, FisherKolmogorov(), start), jax.random.key(0)
    search = rejection.minimise
    monkeypatch.setattr(rejection, "minimise", lambda *given, **more: search(*given, **more | {"budget": 2}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = calibrate(problem, start)
        # Samplers draw what no image has of its own.
        middle = np.asarray(answer.coordinates)[MarginalTarget(problem).kept]
        assert (answer.covariance is None) == (begins != "matches")
        found = calibrate(problem, dataclasses.replace(SEARCH, init=start))
        assert found.histories[0][0] == pytest.approx(-float(problem.log_posterior(answer.coordinates)), rel=1e-3)
        for kind in (TMCMC, NUTS, Metropolis, Importance, Rejection):
            path = tmp_path / f"{kind.name}.state"
            method = small(kind.name, "fisher-kolmogorov", atlas, places)
            method = dataclasses.replace(method, start=start, checkpoint=str(path))
            if kind is Rejection:
                # The best draw is accepted where it is better than the answer, and no second one.
                with pytest.raises(ValueError, match=r"[01] of the 2 draws .* much narrower than the prior"):
                    calibrate(problem, method, key=key)
            else:
                drawn = calibrate(problem, method, key=key)
                assert np.isfinite(drawn.draws).all() and np.isfinite(drawn.log_likelihoods).any()
            with open_arrays(path, "state of a calibration", 1) as kept:
                stored = kept.read()
            np.testing.assert_allclose(stored["centre"], middle, rtol=1e-6)
            # Where nothing is known of the answer's uncertainty, it is the prior's.
            widths = np.linalg.eigvalsh(stored["covariance"]) * method.dispersion**2
            np.testing.assert_allclose(widths[:-1], 1, rtol=1e-4)
            assert widths[-1] > 1.001 if begins == "matches" else widths[-1] == pytest.approx(1)


def test_a_tumour_of_a_database_is_grown_again(places):
    database = Database.open(places["mass-effect"][0])
    gammas = database.parameters(slice(None)).mass_effect
    assert len(set(gammas.tolist())) == 4 and 0 < gammas.min() < gammas.max() < 2e5
    solution = database.grow(1)
    np.testing.assert_allclose(solution.density, database.density(1), atol=0.004)
    assert np.abs(solution.displacement).max() > 0.05


@pytest.mark.usefixtures("one_test_compiled_plainly")
def test_the_answer_may_be_the_tumour_of_the_atlas(patient, atlas, places, tmp_path):
    place, _, given, _ = places["mass-effect"]
    found = personalize(patient, model=MassEffect(), method=Retrieval.open(place, atlas=atlas, morph=True))
    database, row = Database.open(place), int(found.metrics["match"])
    # Patient and atlas share one world, and one grid but for its margin.
    own = database.grow(row)
    assert found.density.sum() == pytest.approx(float(own.density.sum()), rel=0.02)
    assert found.displacement_norm.max() == pytest.approx(
        float(np.linalg.norm(own.displacement, axis=-1).max()), rel=0.05
    )
    assert any("morphed into the patient" in note for note in found.notes)
    assert found.metrics["forward_solves"] == 1
    method = LearnMorphInfer.open(given, atlas=atlas, mass_effect=GAMMA, morph=True)
    with warnings.catch_warnings():
        # The network has learnt next to nothing.
        warnings.simplefilter("ignore")
        told = personalize(patient, model=MassEffect(), method=method)
    # Where it would have no fibres, it is refused before the alignment.
    fibres = np.broadcast_to(np.float32([1, 0, 0, 1, 0, 1]), (*patient.anatomy.grid.shape, 6))
    fibred = dataclasses.replace(patient, anatomy=dataclasses.replace(patient.anatomy, fibres=fibres))
    for each in (method, Retrieval.open(place, atlas=atlas, morph=True)):
        with pytest.raises(InputError, match="leave out --morph"):
            each.prepare(fibred, MassEffect(), notes=[], progress=lambda *news: None)
    (force,) = (row for row in told.estimates if row.name == "mass_effect")
    assert force.value == pytest.approx(GAMMA, rel=1e-3)
    assert any("grown in the atlas and morphed into the patient" in note for note in told.notes)


@pytest.mark.usefixtures("without_progress")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--method=lmi", "--network=FK"],
            "method: this network is for growth without mass effect, got MassEffect; give",
        ),
        (["--method=lmi", "--network=GIVEN"], "does not tell how strongly a tumour pushes; give the mass effect"),
        (
            ["--method=lmi", "--network=GIVEN", "--mass-effect=-1"],
            "the mass effect must be finite and not negative, got -1",
        ),
        (
            ["--method=lmi", "--network=FK", "--mass-effect=1"],
            "it learnt growth without mass effect; leave out the mass",
        ),
        (
            ["--method=retrieval", "--database=FK"],
            "method: this database is for growth without mass effect, got MassEffect",
        ),
        (
            ["--model=fisher-kolmogorov", "--method=retrieval", "--database=ME"],
            "this database is for growth with mass effect",
        ),
        (["--method=lbfgs", "--mass-effect=1"], "mass-effect: is not for lbfgs; leave it out or add --method lmi"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_was_made_for_another_model_is_one_line(patient, atlas, places, tmp_path, capsys, options, message):
    still, pushing = places["fisher-kolmogorov"], places["mass-effect"]
    names = {
        "--network=FK": still[1],
        "--network=GIVEN": pushing[2],
        "--database=FK": still[0],
        "--database=ME": pushing[0],
    }
    given = [f"{each.partition('=')[0]}={names[each]}" if each in names else each for each in options]
    segmentation = patient.images["segmentation"].path
    command = ["personalize", f"--segmentation={segmentation}", "--model=mass-effect", f"--atlas={atlas}"]
    command.append("--resolution=8")
    assert main([*command, f"--out={tmp_path / 'out'}", *given]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and re.search(message, text), text
    assert not (tmp_path / "out").exists()
