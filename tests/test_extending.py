"""A method, a growth model and an observation that only this file defines, run through Python and the command."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import tumorjax as tj
from tests.test_cli import RAS, made_up, save
from tumorjax.cli import main
from tumorjax.methods import registry
from tumorjax.sections import Section, Table

pytestmark = pytest.mark.usefixtures("jax_as_installed")


class RandomSearch(tj.AbstractMethod):
    """The best of some draws from the prior."""

    name: ClassVar[str] = "random-search"
    title: ClassVar[str] = "random search"
    summary: ClassVar[str] = "the best of some draws from the prior"
    needs_key: ClassVar[bool] = True
    options: ClassVar[tuple[tj.Option, ...]] = (tj.Option("tries", "draws from the prior (default: 8)", int, "N"),)

    tries: int = eqx.field(static=True, default=8)

    def run(self, problem: tj.Problem, key: Any, progress: Callable[[str, float, float], None]) -> tj.Calibration:
        """Return the draw of highest posterior density."""
        points = jax.random.normal(key, (self.tries, problem.prior.size), problem.anatomy.dtype)
        values = [float(eqx.filter_jit(problem.log_posterior)(point)) for point in points]
        best = points[int(np.argmax(values))]
        return Best(
            params=problem.prior.constrain(best),
            prior=problem.prior,
            coordinates=best,
            covariance=None,
            result=tj.CalibrationResult.COMPLETE,
            method=self.title,
            cost=tj.Cost(solves=self.tries),
            stats=tuple(values),
        )


class Best(tj.Calibration):
    """The outcome of a random search, which says so in the report and among the metrics."""

    def figures(self) -> dict[str, float | int | None]:
        """Return the number of draws."""
        return {"tries": len(self.stats)}

    def sections(self) -> list[Section]:
        """Return a table of the draws."""
        return [
            Section(
                "Random search", [Table(["draw", "log-posterior"], [[str(i), v] for i, v in enumerate(self.stats)])]
            )
        ]


class Richards(tj.AbstractReaction):
    """Generalized logistic growth, dc/dt = rho c (1 - c^n) / n."""

    power: Any

    def __call__(
        self, density: Float[Array, "x y z"], grown: Float[Array, "x y z"], killed: Array | None = None
    ) -> Float[Array, "x y z"]:
        """Return the exact solution over the time in which rho adds up to `grown`."""
        there = density > 0
        shrunk = jnp.where(there, density, 1.0) ** self.power
        grown_density = density / (shrunk + (1 - shrunk) * jnp.exp(-grown)) ** (1 / self.power)
        density = jnp.where(there, grown_density, 0.0)
        return density if killed is None else density * jnp.exp(-killed)


class RichardsParams(tj.ScaledGrowthParams):
    """What one scan determines, with the exponent n."""

    power: Any = 1.0


class RichardsGrowth(tj.FisherKolmogorov):
    """Diffusion and generalized logistic growth with an unknown exponent."""

    name: ClassVar[str] = "richards"
    title: ClassVar[str] = "Richards model"
    summary: ClassVar[str] = "cells crowd each other out with an exponent"
    parameters: ClassVar[tuple[type, ...]] = (RichardsParams,)
    numbers: ClassVar[tuple[tj.Option, ...]] = (tj.Option("power", "exponent of the crowding", float, "N"),)

    def reaction(self, params: Any) -> tj.AbstractReaction:
        """Return the law with this tumour's exponent."""
        return Richards(params.power)

    def default_prior(self, origin: Any, speed: float) -> RichardsParams:
        """Return the prior of the parameters, with the exponent about one."""
        return RichardsParams(tj.LogNormal(7.0, 0.7), tj.LogNormal(3.5, 0.35), origin, speed, tj.LogNormal(1.0, 0.3))

    def with_growth(self, growth: Any) -> RichardsParams:
        """Return parameters with this growth and an unknown exponent."""
        known = growth.scaled()
        return RichardsParams(known.mu1, known.mu2, known.origin, known.speed, tj.LogNormal(1.0, 0.3))


class AdcParams(eqx.Module):
    """What is unknown of a diffusion coefficient: its value without cells, by how much cells lower it, the noise."""

    healthy: Any
    drop: Any
    noise: Any


class Adc(tj.AbstractGaussian):
    """An apparent diffusion coefficient, 1e-3 mm²/s: the more cells, the lower."""

    title: ClassVar[str] = "apparent diffusion coefficient"

    signal: Any
    valid: Any
    effective_voxels: float = 60.0

    @property
    def image(self) -> Float[Any, "x y z"]:
        """The coefficient."""
        return self.signal

    def mean(self, field: Float[Array, "x y z"], params: AdcParams) -> Float[Array, "x y z"]:
        """Return what is expected of a density."""
        return params.healthy - params.drop * field

    def default_prior(self, name: str, anatomy: tj.Anatomy, observations: Mapping[str, Any]) -> AdcParams:
        """Return the prior of the three numbers."""
        return AdcParams(tj.LogNormal(0.8, 0.2), tj.LogNormal(0.4, 0.5), tj.LogNormal(0.1, 0.5))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ball")
    return {name: save(folder / f"{name}.nii.gz", data, RAS) for name, data in made_up().items()}


@pytest.fixture(scope="module")
def patient(files):
    names = {"segmentation": "segmentation", "white_matter": "wm", "grey_matter": "gm", "csf": "csf"}
    return tj.load_patient(**{role: files[name] for role, name in names.items()}, resolution=5.0)


@pytest.fixture
def installed(monkeypatch):
    """The toys, as a package of a user would install them."""
    found = {
        "tumorjax.methods": [EntryPoint("random-search", f"{__name__}:RandomSearch", "tumorjax.methods")],
        "tumorjax.models": [EntryPoint("richards", f"{__name__}:RichardsGrowth", "tumorjax.models")],
    }
    monkeypatch.setattr(registry, "entry_points", lambda group: found[group])


def adc_of(patient):
    density = patient.lesion_fraction * 0.5
    return Adc(signal=np.float32(0.8) - np.float32(0.4) * density, valid=np.asarray(patient.anatomy.tissue))


def test_all_three_together_in_python(patient, tmp_path):
    result = tj.personalize(
        patient,
        model=RichardsGrowth(),
        method=RandomSearch(4),
        observations={"adc": adc_of(patient)},
        key=jax.random.key(0),
    )
    rows = {row.name: row for row in result.estimates}
    assert {"mu1", "mu2", "origin_x", "threshold_core", "threshold_lesion"} <= set(rows)
    # What nobody describes has a row all the same.
    assert {"power", "adc_healthy", "adc_drop", "adc_noise"} <= set(rows)
    assert rows["power"].value == pytest.approx(float(result.calibration.params.growth.power), rel=1e-5)
    assert rows["speed"].fixed
    assert result.metrics["tries"] == 4 and result.metrics["forward_solves"] == 4 + 1
    unknown = result.calibration.params.observations["adc"]
    expected = float(unknown.healthy) - float(unknown.drop) * result.density
    np.testing.assert_allclose(result.predicted["adc"], expected, rtol=1e-5)
    assert "adc_noise" in str(result.calibration) and "random search" in str(result.calibration)
    metrics = result.save(tmp_path / "out")
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    kept = json.loads((tmp_path / "out" / "parameters.json").read_text())["parameters"]
    assert kept["power"]["value"] == rows["power"].value
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("Richards model", "random search", "Random search", "log-posterior", "adc_drop"):
        assert words in page
    result.report(tmp_path / "page")
    assert (tmp_path / "page" / "report.html").is_file() and (tmp_path / "page" / "report.png").is_file()
    # A notebook shows the page in a frame, and the result at a glance.
    frame = result.view(height=500)._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and "height: 500px" in frame and "<html" not in frame
    glance = result._repr_html_()
    assert glance.count("<img") == 3 and "adc_noise" in glance and f"quality {result.quality}" in glance
    with pytest.raises(ValueError, match=r"^report .*metrics\.json: is a file; give a folder$"):
        result.report(tmp_path / "out" / "metrics.json")
    result.calibration.save(tmp_path / "found.safetensors")
    again = tj.load_calibration(tmp_path / "found.safetensors")
    assert isinstance(again, Best) and again.figures() == {"tries": 4}
    assert eqx.tree_equal(again.params, result.calibration.params)


def test_names_of_observations_that_hold_other_names_lose_no_row(patient):
    observations = {name: adc_of(patient) for name in ("origin", "original")}
    result = tj.personalize(patient, method=RandomSearch(2), observations=observations, key=jax.random.key(0))
    assert {"origin_x", "origin_healthy", "original_noise"} <= {row.name for row in result.estimates}


def test_what_cannot_be_calibrated_is_refused_before_any_work(patient, monkeypatch):
    monkeypatch.setattr(tj.MultiAtlas, "prepare", lambda *_, **__: pytest.fail("it has begun"))
    monkeypatch.setattr(tj.LBFGS, "prepare", lambda *_, **__: pytest.fail("it has begun"))
    adc = adc_of(patient)
    fluid = tj.FluidMap(fluid=patient.lesion_fraction, valid=adc.valid)
    refused: list[tuple[dict[str, Any], str]] = [
        (
            {"method": tj.LBFGS},
            r"^method must be an object such as LBFGS\(\), got the class LBFGS; give LBFGS\(\.\.\.\)$",
        ),
        ({"method": "lbfgs"}, "^method must be an object such as .*, got 'lbfgs'$"),
        ({"model": tj.MassEffect}, "^model must be an object such as .*, got the class MassEffect"),
        ({"observations": [adc]}, "^observations have names, .*; got list, give a dictionary$"),
        ({"observations": {7: adc}}, "^observations: got the name 7; give a word"),
        ({"observations": {"adc.x": adc}}, "^observations: got the name 'adc.x'; give a word"),
        ({"observations": {"adc": 3}}, "^the observation 'adc' is int; give an image"),
        ({"observations": {"adc": Adc}}, "^the observation 'adc' is the class Adc; give an image"),
        (
            {"observations": {"core": adc}},
            "^the observation 'core' comes from the patient's images; give yours another",
        ),
        ({"observations": {"csf": fluid}}, "^the observation 'csf' shows the csf, which FisherKolmogorov leaves as it"),
        (
            {
                "model": tj.MassEffect.published(),
                "observations": {"adc": Adc(signal=adc.signal[1:], valid=adc.valid[1:])},
            },
            "has shape .*; resample it",
        ),
    ]
    for more, words in refused:
        with pytest.raises(ValueError, match=words):
            tj.personalize(patient, **more)


@pytest.mark.parametrize("method", [RandomSearch(3), tj.LBFGS(starts=1, budget=3, coarsening=1)])
@pytest.mark.parametrize("model", [RichardsGrowth(), tj.FisherKolmogorov()])
def test_any_model_with_any_method(patient, model, method):
    result = tj.personalize(patient, model=model, method=method, key=jax.random.key(1))
    assert np.isfinite(result.density).all() and result.density.max() > 0
    assert ("power" in [row.name for row in result.estimates]) == isinstance(model, RichardsGrowth)


def test_the_command_offers_and_runs_them(files, installed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["personalize", "--help"])
    help_ = capsys.readouterr().out
    assert "random-search" in help_ and "richards" in help_ and "--tries N" in help_
    maps = [f"--{name}={files[name]}" for name in ("wm", "gm", "csf")]
    common = [f"--segmentation={files['segmentation']}", *maps, "--resolution=5", "--quiet"]
    chosen = ["--model=richards", "--method=random-search", "--tries=3", "--seed=5"]
    assert main(["personalize", *common, *chosen, f"--out={tmp_path / 'out'}"]) in (0, 3)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["tries"] == 3
    assert "power" in json.loads((tmp_path / "out" / "parameters.json").read_text())["parameters"]
    assert "Random search" in (tmp_path / "out" / "report.html").read_text()
    assert main(["personalize", *common, "--tries=3", f"--out={tmp_path / 'other'}"]) == 2
    assert "tries: is not for lbfgs" in capsys.readouterr().err


def test_the_command_grows_a_tumour_of_another_model(files, installed, tmp_path, capsys):
    maps, origin = [f"--{name}={files[name]}" for name in ("wm", "gm", "csf")], ("25", "0", "10")
    numbers = ["--diffusivity=0.1", "--proliferation=0.03", "--duration=200", "--origin", *origin]
    command = ["simulate", "--model=richards", *maps, *numbers, "--resolution=5", "--quiet"]
    assert main([*command, f"--out={tmp_path / 'none'}"]) == 2
    assert "power: is missing; give --power N: exponent of the crowding" in capsys.readouterr().err
    cells = {}
    for power in (1, 3):
        out = tmp_path / f"out{power}"
        assert main([*command, f"--power={power}", f"--out={out}"]) == 0
        cells[power] = json.loads((out / "simulation.json").read_text())["cells_ml"]
    # dc/dt = rho c (1 - c^n) / n: far below the capacity cells divide n times as slowly.
    assert cells[3] < cells[1] / 2
    assert main([*command, "--model=fisher-kolmogorov", "--power=2", f"--out={tmp_path / 'other'}"]) == 2
    assert "power: is not for fisher-kolmogorov; leave it out or add --model richards" in capsys.readouterr().err
