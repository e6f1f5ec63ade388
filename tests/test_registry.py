"""The registry: tumorjax's own methods and models, those of other packages, and what the command asks of a method."""

from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.problems import patient
from tumorjax.calibration import calibrate
from tumorjax.calibration.method import AbstractMethod
from tumorjax.cli import main
from tumorjax.cli.parser import command_parser
from tumorjax.growth import AbstractGrowth, FisherKolmogorov
from tumorjax.io import InputError
from tumorjax.methods import NUTS, TMCMC, Metropolis, NeuralPosterior, Rejection, registry
from tumorjax.methods.sampling.sampler import AbstractSampler
from tumorjax.option import Option

SAMPLERS = ("tmcmc", "nuts", "npe", "metropolis", "rejection", "importance", "stratified")


class Guess(AbstractMethod):
    """A method of another package."""

    name = "guess"
    title = "a guess"

    def run(self, problem, key, progress):
        raise NotImplementedError


class Unnamed(AbstractMethod):
    """A method without a title."""

    name = "guess"

    def run(self, problem, key, progress):
        raise NotImplementedError


class Idle(AbstractMethod):
    """A method that does nothing."""

    name = "guess"
    title = "a guess"


class Grasping(Guess):
    """A method with an option of the command itself."""

    name = "guess"
    options = (Option("resolution", "voxels", float),)


class Doubled(Guess):
    """A method with an option that it has twice."""

    name = "guess"
    options = (Option("tries", "tries", int), Option("tries", "tries", int))


class Dashed(Guess):
    """A method with dashes in front of its option."""

    name = "guess"
    options = (Option("--tries", "tries", int),)


class Other(Guess):
    """A method whose option takes other values than the others' of this name."""

    name = "guess"
    options = (Option("particles", "tries", None),)


class Crossing(Guess):
    """A method with an option of a model, which stands in the same command."""

    name = "guess"
    options = (Option("ratio", "tries", float, "R"),)


class Underscored(Guess):
    """A method whose option is kept under the name of another one."""

    name = "guess"
    options = (Option("no_refine", "tries", None),)


class Growing(FisherKolmogorov):
    """A model of another package, with an option of a method."""

    name = "growing"
    options = (Option("particles", "cells", int, "N"),)


class Numbered(FisherKolmogorov):
    """A model of another package whose option is a number of another model."""

    name = "growing"
    options = (Option("mass-effect", "how strongly the tumour pushes", float, "PA"),)


class Counted(FisherKolmogorov):
    """A model of another package whose number is an option of another model."""

    name = "growing"
    options = ()
    numbers = (Option("ratio", "tries", float, "R"),)


class Thief(Guess):
    """A method by the name of another one."""

    name = "lbfgs"


def announced(monkeypatch, *names):
    """Let a package announce attributes of this module as methods."""
    points = [EntryPoint(name, f"{__name__}:{attribute}", "tumorjax.methods") for name, attribute in names]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "tumorjax.methods" else [])


def test_own_methods_and_models_have_their_names():
    for group, base in ((registry.methods(), AbstractMethod), (registry.models(), AbstractGrowth)):
        for name, member in group.items():
            assert issubclass(member, base) and member.name == name, name
            assert member.title and not member.summary.endswith("."), name
    assert list(registry.methods())[:3] == ["lbfgs", "weak-constraint", "tmcmc"]
    assert list(registry.models()) == ["fisher-kolmogorov", "mass-effect"]


def test_a_method_of_another_package_joins(monkeypatch):
    own = list(registry.methods())
    announced(monkeypatch, ("guess", "Guess"))
    found = registry.methods()
    assert list(found) == [*own, "guess"] and found["guess"] is Guess


@pytest.mark.parametrize(
    ("name", "attribute", "reason"),
    (
        ("guess", "Missing", "AttributeError: .*Missing"),
        ("guess", "announced", "ValueError: it is no subclass of AbstractMethod"),
        ("lbfgs", "Thief", "ValueError: the name lbfgs is taken; choose another"),
        ("guess", "Unnamed", "ValueError: its class lacks title; define each"),
        ("guess", "Idle", "ValueError: its class lacks run; define each"),
        ("guess", "Grasping", "ValueError: it has the option resolution: it is taken; choose another"),
        ("guess", "Doubled", "ValueError: it has the option tries: it is taken; choose another"),
        ("guess", "Crossing", "ValueError: it has the option ratio: it is taken; choose another"),
        ("guess", "Underscored", "ValueError: it has the option no_refine: it is taken; choose another"),
        ("guess", "Dashed", "ValueError: it has the option --tries: give it without dashes"),
        ("guess", "Other", "ValueError: its option particles takes other values than that of another method"),
        ("other", "Guess", "ValueError: its class has the name guess; both names must be the same"),
    ),
)
def test_a_broken_entry_point_is_one_line_and_breaks_no_other(monkeypatch, name, attribute, reason):
    announced(monkeypatch, (name, attribute), ("guess" if name != "guess" else "guess-2", "Guess"))
    monkeypatch.setattr(Guess, "name", "guess" if name != "guess" else "guess-2")
    line = rf"^entry point {name} = {__name__}:{attribute} of tumorjax.methods is left out: {reason}"
    with pytest.warns(registry.BrokenEntryPoint, match=line) as told:
        found = registry.methods()
    assert "\n" not in str(told[0].message)
    assert Guess in found.values() and Thief not in found.values()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("attribute", "flag"), [("Growing", "particles"), ("Numbered", "mass-effect"), ("Counted", "ratio")]
)
def test_an_option_of_a_model_that_clashes_is_one_line_and_no_traceback(monkeypatch, capsys, attribute, flag):
    points = [EntryPoint("growing", f"{__name__}:{attribute}", "tumorjax.models")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "tumorjax.models" else [])
    with pytest.warns(registry.BrokenEntryPoint, match=f"it has the option {flag}: it is taken; choose another"):
        assert "growing" not in registry.models()
    for command in ("personalize", "simulate"):
        with pytest.raises(SystemExit, match="2"):
            main([command])
        assert f"it has the option {flag}" in capsys.readouterr().err


def test_flags_of_the_command_are_known():
    (commands,) = (each.choices for each in command_parser()._actions if isinstance(each.choices, dict))
    kinds = [*registry.models().values(), *registry.methods().values()]
    flags = set()
    for name in ("personalize", "personalize-cohort"):
        for action in commands[name]._actions:
            flags |= {word.removeprefix("--") for word in action.option_strings if word.startswith("--")}
    assert flags - {option.flag for kind in kinds for option in kind.options} == registry.COMMAND_FLAGS


def test_libraries_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for method, words in (
        (TMCMC, r"^method: tmcmc needs arviz and h5netcdf, not installed here; pip install 'tumorjax\[bayes\]'$"),
        (NeuralPosterior, r"flax and arviz and h5netcdf, .*'tumorjax\[bayes,networks\]'$"),
    ):
        with pytest.raises(InputError, match=words):
            registry.check_installed(method)
    registry.check_installed(registry.methods()["lbfgs"])
    monkeypatch.setattr(registry, "find_spec", lambda name: SimpleNamespace())
    registry.check_installed(NUTS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_come_from_options(name, tmp_path):
    method = registry.methods()[name]
    assert issubclass(method, AbstractSampler) and method.needs_key
    sampler = method.from_options({"seed": 3, "checkpoint": tmp_path / "kept", "out": tmp_path / "out"})
    assert isinstance(sampler, method)
    assert sampler.checkpoint == str(tmp_path / "kept") and sampler.region == "lesion"
    for options, words in (
        ({"seed": -1}, "seed: got -1; give 0 or more"),
        ({"checkpoint": tmp_path}, "checkpoint: .* is a folder; give a file"),
        ({"checkpoint": tmp_path / "out" / "kept", "out": tmp_path / "out"}, "lies in the folder of the results"),
    ):
        with pytest.raises(InputError, match=words):
            method.from_options(options)


def test_options_set_what_they_are_named_after():
    for method in registry.methods().values():
        names = [option.name for option in method.options]
        assert len(set(names)) == len(names)
        assert all(option.help and not option.help.endswith(".") for option in method.options)
    assert TMCMC.from_options({"particles": 64, "resolution": 2.0}) == TMCMC(particles=64, screen=2)
    assert TMCMC.from_options({"resolution": 4.0}) == TMCMC()
    assert NUTS.from_options({"draws": 20, "chains": 2}) == NUTS(draws=20, chains=2)
    assert Rejection.from_options({"draws": 5, "budget": 50}) == Rejection(draws=5, budget=50)
    assert NeuralPosterior.from_options({"rounds": 1, "simulations": 30}) == NeuralPosterior(rounds=1, simulations=30)
    with pytest.raises(ValueError, match="draws must be a whole number of at least 4, got 1"):
        Metropolis.from_options({"draws": 1})
    assert Path not in {option.type for option in TMCMC.options if option.flag != "checkpoint"}


def test_too_few_particles_are_refused_through_the_method_that_begins_with_them():
    problem = patient()
    nested = NUTS(start=TMCMC(particles=9))
    assert nested.refuses(problem) == "9 particles do not span 5 coordinates; take at least 10"
    with pytest.raises(ValueError, match="9 particles do not span 5"):
        calibrate(problem, nested)
    assert TMCMC(particles=10).refuses(problem) is None
