"""Draws as ArviZ's InferenceData, and in the netCDF files that hold it."""

import os
import shutil
import tempfile
import warnings
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from tumorjax.calibration.calibration import Calibration
from tumorjax.calibration.problem import Problem
from tumorjax.checks import check_count
from tumorjax.methods.sampling.sample import SamplerStats
from tumorjax.storage import new_file

# By the last name of a parameter's path; others are pure numbers, or have the unit of an image.
_UNITS = {
    "mu1": "mm",
    "origin": "mm",
    "speed": "mm/day",
    "mass_effect": "Pa",
    "diffusivity": "mm2/day",
    "proliferation": "1/day",
    "duration": "day",
}


def to_inference_data(
    posterior: Calibration,
    problem: Problem | None = None,
    *,
    count: int = 1000,
    key: Key[Array, ""] | None = None,
) -> Any:
    """Return draws as ArviZ's InferenceData.

    ArviZ assumes that all draws weigh the same. Weighted draws are resampled systematically, without random numbers,
    to as many draws as before, in one chain in which copies of a draw follow each other. From a calibration without
    draws, such as that of a search, draws are taken (`Calibration.sample`); they have no log-likelihoods, and no
    coordinates of the prior.

    Parameters
    ----------
    posterior
        Draws of a sampler, or a calibration that has a covariance.
    problem
        The problem that was sampled; adds its grid and its model to the attributes.
    count, key
        Number of draws, and random key, where draws are to be taken; without a key it is `jax.random.key(0)`.

    Returns
    -------
    arviz.InferenceData
        `posterior`: the parameters in their own units, named by their paths (`growth.mu1`), an origin along the axes
        x, y and z of the RAS world. `unconstrained_posterior`: the prior's coordinates `z`. `sample_stats`:
        `log_likelihood`, nat, and `lp`, the log-density of the posterior in the prior's coordinates up to a constant.
        Attributes: the method, its numbers, the version, the log-evidence if there is one.

    Raises
    ------
    ImportError
        If ArviZ is not installed.
    ValueError
        If nothing is known of the uncertainty.
    """
    az = _arviz()
    if (drawn := getattr(posterior, "draws", None)) is None:
        check_count("count", count)
        samples, chosen = posterior.sample(jax.random.key(0) if key is None else key, count), None
        shape: tuple[int, ...] = (1, count)
    else:
        samples, chosen, shape = posterior.samples, _equally_weighted(posterior), np.shape(drawn)[:2]

    def pick(leaf: np.ndarray) -> np.ndarray:
        return leaf.reshape(*shape, *leaf.shape[1:]) if chosen is None else leaf[chosen][None]

    values, dims, units = {}, {}, {}
    for name, leaf in posterior.prior.unknown(samples).items():
        leaf = np.asarray(leaf)
        values[name] = pick(leaf)
        units[name] = _UNITS.get(name.rsplit(".", 1)[-1], "")
        if leaf.shape[1:] == (3,):
            dims[name] = ["axis"]
    coords = {"axis": ["x", "y", "z"], "coordinate": posterior.prior.names}
    attributes = _attributes(posterior, problem) | {"resampled": int(chosen is not None)}
    groups = {"posterior": values}
    if drawn is not None:
        z = pick(np.asarray(drawn).reshape(-1, np.shape(drawn)[-1]))
        log_likelihood = pick(np.asarray(getattr(posterior, "log_likelihoods", None)).reshape(-1))
        lp = log_likelihood - 0.5 * np.sum(z.astype(float) ** 2, axis=-1)
        groups |= {"unconstrained_posterior": {"z": z}, "sample_stats": {"lp": lp, "log_likelihood": log_likelihood}}
    dims["z"] = ["coordinate"]
    data = az.InferenceData(
        **{
            group: az.dict_to_dataset(arrays, coords=coords, dims=dims, attrs=attributes)
            for group, arrays in groups.items()
        }
    )
    for name, unit in units.items():
        data.posterior[name].attrs["units"] = unit
    return data


def write_inference_data(path: str | os.PathLike, data: Any) -> None:
    """Write InferenceData as netCDF, the file whole or not at all.

    Parameters
    ----------
    path
        The file; an earlier one is replaced.
    data
        From `to_inference_data`; `arviz.from_netcdf` reads it again.
    """
    with new_file(path) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as folder:
        # HDF5 takes a lock of its own, which the one on the partial file refuses.
        own = os.path.join(folder, "draws.nc")
        data.to_netcdf(own, engine="h5netcdf")
        shutil.copyfile(own, partial)


def _arviz() -> Any:
    try:
        with warnings.catch_warnings():
            # It announces its next version on import.
            warnings.simplefilter("ignore")
            import arviz
    except ImportError as error:
        raise ImportError("this needs ArviZ; install it with: pip install 'tumorjax[bayes]'") from error
    return arviz


def _equally_weighted(posterior: Calibration) -> np.ndarray | None:
    """Return the numbers of draws that weigh the same, copies of heavy ones; None where all draws do already."""
    weights = np.exp(np.asarray(posterior.log_weights, float))
    weights /= weights.sum()
    count = weights.size
    if np.allclose(weights, 1 / count, rtol=1e-3):
        return None
    places = (np.arange(count) + 0.5) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), places), count - 1)


def _attributes(posterior: Calibration, problem: Problem | None) -> dict[str, Any]:
    """Return what netCDF can hold of a sampler's run: numbers, words, and rows of numbers."""
    found: dict[str, Any] = {
        "method": posterior.method,
        "result": posterior.result.value,
        "inference_library": "tumorjax",
        "inference_library_version": version("tumorjax"),
    }
    evidence = getattr(posterior, "log_evidence", None)
    if evidence is not None and jnp.isfinite(evidence):
        found["log_evidence"] = float(evidence)
    numbers = posterior.stats.numbers() if isinstance(posterior.stats, SamplerStats) else {}
    for name, value in numbers.items():
        array = np.asarray(value) if not isinstance(value, (tuple, list)) or _row(value) else None
        if array is not None and array.dtype.kind in "iufb" and array.ndim < 2 and array.size:
            found[name] = array.astype(float if array.dtype.kind == "f" else int)[()]
    if problem is not None:
        grid = problem.anatomy.grid
        found["model"] = type(problem.model).__name__
        found["grid_shape"] = np.array(grid.shape)
        found["grid_spacing_mm"] = np.asarray(grid.spacing, float)
    return found


def _row(value: Any) -> bool:
    return all(isinstance(each, (int, float, np.number)) for each in value)
