"""The methods and models that the command offers, those of installed packages among them.

A package adds its own by entry points, in its `pyproject.toml`:

    [project.entry-points."tumorjax.methods"]
    random-search = "my_package:RandomSearch"

The name of the entry point is the `name` of the class.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from tumorjax.calibration.method import AbstractMethod
from tumorjax.growth import AbstractGrowth
from tumorjax.io import InputError
from tumorjax.option import Option

# Group of entry points, the class that all of its members extend, and tumorjax's own members in the order of the help.
_GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "methods": (
        "tumorjax.calibration.method:AbstractMethod",
        {
            "lbfgs": "tumorjax.methods.search:LBFGS",
            "weak-constraint": "tumorjax.methods.search:WeakConstraint",
            "tmcmc": "tumorjax.methods.sampling:TMCMC",
            "nuts": "tumorjax.methods.sampling:NUTS",
            "npe": "tumorjax.methods.neural:NeuralPosterior",
            "amortized": "tumorjax.methods.neural:AmortizedPosterior",
            "metropolis": "tumorjax.methods.sampling:Metropolis",
            "rejection": "tumorjax.methods.sampling:Rejection",
            "importance": "tumorjax.methods.sampling:Importance",
            "stratified": "tumorjax.methods.sampling:Stratified",
            "retrieval": "tumorjax.methods.from_atlas:Retrieval",
            "lmi": "tumorjax.methods.from_atlas:LearnMorphInfer",
            "multi-atlas": "tumorjax.methods.multi_atlas:MultiAtlas",
        },
    ),
    "models": (
        "tumorjax.growth:AbstractGrowth",
        {
            "fisher-kolmogorov": "tumorjax.growth:FisherKolmogorov",
            "mass-effect": "tumorjax.growth:MassEffect",
        },
    ),
}


# Flags of the command itself, which no method or model can have.
COMMAND_FLAGS = frozenset(
    [
        "help",
        "segmentation",
        "bids",
        "subject",
        "session",
        "bids-derivatives",
        "visits",
        "treatments",
        "forecast",
        "hold-out",
        "plan-dose",
        "plan-start",
        "plan-objective",
        "maximum-dose",
        "spare",
        "next-scan",
        "labels",
        "t1",
        "transform",
        "pet",
        "adc",
        "flair",
        "adc-law",
        "brain-mask",
        "wm",
        "gm",
        "csf",
        "tissue",
        "dti",
        "atlas",
        "healthy",
        "model-error",
        "registration",
        "resolution",
        "recurrence",
        "recurrence-labels",
        "margin",
        "plan-despite-failure",
        "animate",
        "model",
        "method",
        "out",
        "overwrite",
        "quiet",
        "json",
        "log-file",
        "scheduler",
    ]
)
# Flags of the commands that grow tumours, besides, which no model can have.
GROWTH_FLAGS = frozenset(
    [
        "diffusivity",
        "proliferation",
        "duration",
        "origin",
        "save-every",
        "count",
        "deformed",
        "box",
        "seed",
        "draws",
        "dtype",
        "workers",
        "repair",
    ]
)
# What options of the same flag have in common.
_FORM = ("type", "choices", "several", "place", "writes")


class BrokenEntryPoint(UserWarning):
    """An installed package announces a method or a model that cannot be used."""


def methods() -> dict[str, type[AbstractMethod]]:
    """Return the inverse methods by name: tumorjax's own, then those of other packages."""
    return _announced("methods")


def models() -> dict[str, type[AbstractGrowth]]:
    """Return the models of growth that can be calibrated to a scan, by name, as `methods` does."""
    return _announced("models")


def default_method(model: AbstractGrowth | type[AbstractGrowth], *, several_visits: bool = False) -> str:
    """Return the name of the method by which a model is calibrated unless another one is chosen.

    A model that displaces the tissue is calibrated in atlases, because the brain before the tumour is unknown; but that
    inversion knows one date only.
    """
    return "multi-atlas" if model.displaces and not several_visits else "lbfgs"


def check_installed(method: type[AbstractMethod]) -> None:
    """Raise an `InputError` where a library that a method needs is not installed."""
    check_libraries(f"method: {method.name}", method.libraries, method.extra)


def check_libraries(who: str, libraries: Iterable[str], extra: str | None) -> None:
    """Raise an `InputError` where one of the libraries that somebody needs is not installed.

    Parameters
    ----------
    who
        Needs them, such as "method: nuts".
    libraries, extra
        Names of modules, and the extra of the installation that has them.
    """
    if missing := [library for library in libraries if find_spec(library) is None]:
        what = " ".join(missing) if extra is None else f"'tumorjax[{extra}]'"
        raise InputError(f"{who} needs {' and '.join(missing)}, not installed here; pip install {what}")


def _announced(group: str) -> dict[str, type[Any]]:
    found, lines = _members(group)
    for line in lines:
        warnings.warn(line, BrokenEntryPoint, stacklevel=3)
    return found


def _members(group: str) -> tuple[dict[str, type[Any]], list[str]]:
    """Return the members of a group by name, and a line for each entry point that cannot be used."""
    base, own = _GROUPS[group]
    found, lines = {name: _loaded(place) for name, place in own.items()}, []
    for point in _points(entry_points, f"tumorjax.{group}"):
        try:
            found[point.name] = _checked(point.name, point.load(), _loaded(base), found)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            lines.append(f"entry point {point.name} = {point.value} of tumorjax.{group} is left out: {reason}")
    return found, lines


@cache
def _points(found_by: Callable[..., Iterable[EntryPoint]], group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group by name; once for a process, since the search reads many files."""
    return tuple(sorted(found_by(group=group), key=lambda point: point.name))


def _loaded(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _checked(name: str, member: Any, base: type[Any], known: Mapping[str, Any]) -> type[Any]:
    """Return a member of a group, or raise a ValueError that says why it cannot be one."""
    if not (isinstance(member, type) and issubclass(member, base)):
        raise ValueError(f"it is no subclass of {base.__name__}")
    if name in known:
        raise ValueError(f"the name {name} is taken; choose another")
    if (own := getattr(member, "name", None)) != name:
        raise ValueError(f"its class has the name {own}; both names must be the same")
    if lacking := [*sorted(member.__abstractmethods__), *(["title"] if not hasattr(member, "title") else [])]:
        raise ValueError(f"its class lacks {' and '.join(lacking)}; define each")
    taken = COMMAND_FLAGS | (GROWTH_FLAGS if base is AbstractGrowth else set())
    options = _by_flag([member])
    shared, given = _by_flag(known.values()), _by_flag(known.values(), "numbers")
    # Commands have the options of all models beside those of all methods, and beside the numbers of all models.
    beside = _by_flag(_other_kinds(base))
    _check_options(member.options, shared, taken | {*given, *beside})
    _check_options(getattr(member, "numbers", ()), given, taken | {*shared, *options})
    return member


def _other_kinds(base: type[Any]) -> list[type[Any]]:
    """Return the models, for methods; for models tumorjax's own methods, for others are compared with the models."""
    if base is AbstractGrowth:
        return [_loaded(place) for place in _GROUPS["methods"][1].values()]
    return list(_members("models")[0].values())


def _by_flag(kinds: Iterable[type[Any]], kept_in: str = "options") -> dict[str, Option]:
    """Return options of methods or models by flag."""
    return {
        option.flag: option for kind in kinds for option in getattr(kind, kept_in, ()) if isinstance(option, Option)
    }


def _check_options(options: Iterable[Any], shared: Mapping[str, Option], taken: Set[str]) -> None:
    """Raise a ValueError where options of a member cannot stand in one command with those of the others."""
    names = {flag.replace("-", "_") for flag in taken}
    for option in options:
        if not isinstance(option, Option):
            raise ValueError(f"it has the option {option!r}; give an Option(...)")
        flag = option.flag
        # Values are kept by name, in which dashes and underscores are the same.
        one_name = [each for each in shared if each != flag and shared[each].name == option.name]
        if flag.startswith("-") or option.name in names or one_name:
            why = "give it without dashes" if flag.startswith("-") else "it is taken; choose another"
            raise ValueError(f"it has the option {flag}: {why}")
        if flag in shared and any(getattr(option, each) != getattr(shared[flag], each) for each in _FORM):
            raise ValueError(f"its option {flag} takes other values than that of another method; choose another name")
        names.add(option.name)
