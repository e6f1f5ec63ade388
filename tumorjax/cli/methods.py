"""The method of calibration that the options ask for."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tumorjax.calibration.calibrate import AbstractMethod
from tumorjax.calibration.neural import NeuralPosterior
from tumorjax.calibration.sampling.nuts import NUTS
from tumorjax.calibration.sampling.tmcmc import TMCMC
from tumorjax.io import InputError
from tumorjax.retrieval import VARIANTS

# What belongs to which methods, as the command names them.
_OPTIONS = {
    "particles": ("tmcmc",),
    "draws": ("nuts", "npe"),
    "chains": ("nuts",),
    "rounds": ("npe",),
    "simulations": ("npe",),
    "seed": ("tmcmc", "nuts", "npe"),
    "checkpoint": ("tmcmc", "nuts", "npe"),
    "database": ("retrieval",),
    "matches": ("retrieval",),
    "variant": ("retrieval",),
    "network": ("lmi",),
}
# Libraries with which draws are made and written, and the extras that have them.
_LIBRARIES = {
    "tmcmc": ("arviz", "h5netcdf"),
    "nuts": ("numpyro", "arviz", "h5netcdf"),
    "npe": ("flax", "arviz", "h5netcdf"),
}
_EXTRAS = {"tmcmc": "bayes", "nuts": "bayes", "npe": "bayes,networks"}
# Up to such voxels (mm) a tumour on coarser ones is still like itself, and tells which particles are worth a solve.
_SCREENED = 3.0


def method_of(options: argparse.Namespace) -> AbstractMethod | None:
    """Return the sampler that the options describe; None for other methods.

    What retrieval and Learn-Morph-Infer need is known only with the patient: see their modules of `tumorjax.pipeline`.

    Raises
    ------
    InputError
        If options do not go together, or a library that the sampler needs is not installed.
    """
    name = options.method
    for option, methods in _OPTIONS.items():
        if getattr(options, option, None) is not None and name not in methods:
            raise InputError(f"{option}: is not for {name}; leave it out or add --method {' or '.join(methods)}")
    if name == "lbfgs":
        return None
    if options.model == "mass-effect":
        raise InputError(f"method: growth with mass effect has its own method, got {name}; leave out --method")
    if name == "retrieval":
        _check_retrieval(options)
        return None
    if name == "lmi":
        return None
    if missing := [library for library in _LIBRARIES[name] if find_spec(library) is None]:
        raise InputError(
            f"method: {name} needs {' and '.join(missing)}, not installed here; pip install 'tumorjax[{_EXTRAS[name]}]'"
        )
    if options.seed is not None and options.seed < 0:
        raise InputError(f"seed: got {options.seed}; give 0 or more")
    numbers = ("particles", "draws", "chains", "rounds", "simulations")
    settings: dict[str, Any] = {key: getattr(options, key, None) for key in numbers}
    settings = {key: value for key, value in settings.items() if value is not None}
    if options.checkpoint is not None:
        settings["checkpoint"] = str(_checkpoint(options))
    if name == "nuts":
        return NUTS(**settings)
    if name == "npe":
        return NeuralPosterior(**settings)
    return TMCMC(**settings, screening=2 if options.resolution <= _SCREENED else 1)


def _check_retrieval(options: argparse.Namespace) -> None:
    if options.database is None:
        raise InputError("database: is missing; give --database with the folder or URL of simulated tumours")
    if options.variant is not None and options.variant not in VARIANTS:
        raise InputError(f"variant: got {options.variant}; give one of {', '.join(VARIANTS)}")
    if options.matches is not None and options.matches < 1:
        raise InputError(f"matches: got {options.matches}; give 1 or more")


def _checkpoint(options: argparse.Namespace) -> Path:
    path: Path = options.checkpoint
    if path.resolve().is_relative_to(options.out.resolve()):
        raise InputError(f"checkpoint: {path} lies in the folder of the results, which appears whole; give another")
    if path.is_dir():
        raise InputError(f"checkpoint: {path} is a folder; give a file")
    return path
