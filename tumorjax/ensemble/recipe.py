"""The recipe of a database: model, prior, anatomy, and the number and sizes of its tumours."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.ensemble.description import describe, restore
from tumorjax.grid import Grid
from tumorjax.growth import AbstractOrigin, Foci
from tumorjax.prior import Prior

# Libraries whose versions, besides the numbers of a recipe, determine the bytes of a database.
_LIBRARIES = ("tumorjax", "jax", "jaxlib", "numpy", "scipy", "zarr", "numcodecs")
# Settings of a recipe that its description contains unchanged.
_PLAIN = ("count", "seed", "draws", "sizes", "dtype", "shard_length", "screening")
_UNITS = {
    "diffusivity": "mm^2/day",
    "proliferation": "1/day",
    "duration": "day",
    "origin": "mm, RAS world",
    "mu1": "mm",
    "mu2": "1",
    "speed": "mm/day",
    "mass_effect": "Pa",
}


class Size(NamedTuple):
    """Range of the volumes of accepted tumours.

    Parameters
    ----------
    threshold
        The volume is measured where the density exceeds this fraction of the carrying capacity.
    least, most
        Smallest and largest volume of accepted tumours, ml.
    """

    threshold: float
    least: float
    most: float


BRATS_SIZES = (Size(0.6, 0.5, 200.0), Size(0.2, 5.0, 300.0))
"""Sizes of core (T1Gd) and whole lesion (FLAIR). The papers reject tumours outside the sizes in BraTS without stating
them; these are round numbers that cover preoperative gliomas."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """All settings that determine the bytes of a database; use `Recipe.of` to make it.

    Parameters
    ----------
    model
        Growth model: `FisherKolmogorov` or `MassEffect`.
    prior
        Prior over the model's parameters alone: `Prior(GrowthParams(...))`, `Prior(ScaledGrowthParams(...))` or, with
        mass effect, `Prior(MassEffectParams(...))`, with a distribution in place of each unknown.
    anatomy
        Anatomy on the box in which tumours can grow, with NumPy maps in float32, the precision of all computations.
    atlas
        The grid of the whole atlas, from which the box was cut.
    start
        The first voxel of the box in the atlas' grid.
    count
        Number of tumours.
    seed
        Seed of the random numbers.
    draws
        "sobol" spreads the candidates of a shard evenly over the prior, by a scrambled Sobol sequence of its own;
        "random" draws them independently.
    sizes
        Ranges of volumes, all of which a tumour must meet as it is stored (rounded to `dtype`) to be accepted.
    dtype
        "uint8" stores densities in steps of 1/255, "float16" with 11 binary digits.
    shard_length
        Number of tumours in a shard, which is grown, stored and repaired as a unit.
    screening
        1, 2, 4 or 8. Candidates are first grown on voxels this many times as long, then on voxels half as long and so
        on; a candidate is rejected early if it exceeds the largest size by more than that factor or, with mass effect,
        if its solve fails there. With 1, all candidates are grown on the anatomy's own voxels at once.

    Raises
    ------
    ValueError
        If a number is out of range, or the prior is not a prior over the model's parameters.
    """

    model: Any
    prior: Prior
    anatomy: Anatomy
    atlas: Grid
    start: tuple[int, int, int]
    count: int
    seed: int = 0
    draws: Literal["sobol", "random"] = "sobol"
    sizes: tuple[Size, ...] = BRATS_SIZES
    dtype: Literal["uint8", "float16"] = "uint8"
    shard_length: int = 64
    screening: int = 4

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("seed", 0), ("shard_length", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")
        for name, allowed in (
            ("draws", ("sobol", "random")),
            ("dtype", ("uint8", "float16")),
            ("screening", (1, 2, 4, 8)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for size in self.sizes:
            if not (0 < size.threshold < 1 and 0 <= size.least < size.most < math.inf):
                raise ValueError(f"a size is a threshold in (0, 1) and the least and most ml, got {tuple(size)}")
        if not self.sizes:
            raise ValueError("sizes must have at least one, such as Size(0.2, 5.0, 300.0)")
        _check_prior(self.model, self.prior)
        (seeds,) = (shape for name, shape in self.shapes.items() if name.rsplit(".", 1)[-1] == "origin")
        if seeds[-1:] != (3,):
            raise ValueError(f"the prior's origin must have three coordinates a seed, in mm, got shape {seeds}")

    @classmethod
    def of(cls, model: Any, prior: Prior, anatomy: Anatomy, count: int, **settings: Any) -> "Recipe":
        """Return the recipe for an atlas, which needs concrete maps; `settings` are the other parameters."""
        start, shape = model.box(anatomy)
        if "sizes" in settings:
            settings["sizes"] = tuple(Size(*size) for size in settings["sizes"])
        return cls(
            model, prior, _single(anatomy.crop(start, shape)), anatomy.grid.in_double(), start, count, **settings
        )

    @property
    def shards(self) -> int:
        """Number of shards; the last may be shorter than the others."""
        return -(-self.count // self.shard_length)

    def rows(self, index: int) -> slice:
        """Return the indices of the tumours in a shard."""
        first = index * self.shard_length
        return slice(first, min(first + self.shard_length, self.count))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each of the model's parameters by its path, in their order."""
        leaves = jax.tree_util.tree_leaves_with_path(self._tree)
        return {jax.tree_util.keystr(path).lstrip("."): leaf.shape for path, leaf in leaves}

    @cached_property
    def _tree(self) -> Any:
        """The model's parameters as abstract shapes."""
        return jax.eval_shape(self.prior.constrain, jax.ShapeDtypeStruct((self.prior.size,), np.float32))

    @property
    def names(self) -> list[str]:
        """A name for each column of the table of parameters."""
        indices = {name: range(int(np.prod(shape))) for name, shape in self.shapes.items()}
        return [f"{name}[{i}]" if self.shapes[name] else name for name, places in indices.items() for i in places]

    @property
    def units(self) -> list[str]:
        """The unit of each column of the table of parameters."""
        return [_UNITS[name.split("[")[0].rsplit(".", 1)[-1]] for name in self.names]

    def params(self, rows: np.ndarray) -> Any:
        """Return the model's parameters of one row of the table, (p,), or of several, (n, p), along a leading axis."""
        fields, begin = [], 0
        for shape in self.shapes.values():
            end = begin + int(np.prod(shape))
            fields.append(rows[..., begin:end].reshape(rows.shape[:-1] + shape))
            begin = end
        return jax.tree.unflatten(jax.tree.structure(self._tree), fields)

    @cached_property
    def description(self) -> dict[str, Any]:
        """All settings in a form that JSON can hold; the maps of the anatomy are represented by their hash."""
        grid = self.anatomy.grid
        maps = {"sha256": anatomy_hash(self.anatomy), "maps": list(map_arrays(self.anatomy))}
        atlas = {"shape": self.atlas.shape, "affine": np.asarray(self.atlas.affine).tolist(), "start": self.start}
        described = {
            "model": describe(self.model),
            "prior": describe(self.prior),
            "anatomy": {**maps, "shape": grid.shape, "affine": np.asarray(grid.affine).tolist(), "atlas": atlas},
            "code": {library: version(library) for library in _LIBRARIES},
            **{name: getattr(self, name) for name in _PLAIN},
        }
        return json.loads(json.dumps(described))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the description, in hexadecimal."""
        return fingerprint(self.description)

    @classmethod
    def restored(cls, description: dict[str, Any], maps: dict[str, np.ndarray]) -> "Recipe":
        """Return the recipe of a description and the maps of its anatomy; a ValueError if they do not agree."""
        try:
            there = description["anatomy"]
            anatomy = Anatomy(Grid(there["shape"], np.array(there["affine"], float)), **maps)
            if anatomy_hash(anatomy) != there["sha256"]:
                raise ValueError("its anatomy is not the one that it was made in")
            settings = {name: description[name] for name in _PLAIN}
            settings["sizes"] = tuple(Size(*size) for size in settings["sizes"])
            atlas = Grid(there["atlas"]["shape"], np.array(there["atlas"]["affine"], float))
            model, prior = restore(description["model"]), restore(description["prior"])
            return cls(model, prior, anatomy, atlas, tuple(there["atlas"]["start"]), **settings)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its description is damaged ({type(error).__name__}: {error})") from None


def anatomy_hash(anatomy: Anatomy) -> str:
    """Return the SHA-256 of an anatomy's grid and of its maps in single precision, in hexadecimal."""
    digest = hashlib.sha256(repr((anatomy.grid.shape, np.asarray(anatomy.grid.affine, float).tolist())).encode())
    for values in map_arrays(anatomy).values():
        digest.update(values.tobytes())
    return digest.hexdigest()


def map_arrays(anatomy: Anatomy) -> dict[str, np.ndarray]:
    """Return the maps of an anatomy by name, in single precision."""
    named = {name: getattr(anatomy, name) for name in ("white_matter", "grey_matter", "csf", "fibres")}
    return {name: np.ascontiguousarray(m, np.float32) for name, m in named.items() if m is not None}


def fingerprint(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _single(anatomy: Anatomy) -> Anatomy:
    return replace(anatomy, grid=anatomy.grid.in_double(), **map_arrays(anatomy))


def _check_prior(model: Any, prior: Any) -> None:
    kinds = model.parameters
    if not isinstance(prior, Prior) or not isinstance(prior.distributions, kinds):
        wanted = " or ".join(f"Prior({kind.__name__}(...))" for kind in kinds)
        raise ValueError(f"the prior of {type(model).__name__} must be {wanted}, got {prior!r:.80}")
    if isinstance(prior.distributions.origin, (AbstractOrigin, Foci)):
        raise ValueError(
            "the prior's origin must be a distribution of the coordinates of seeds, or their values, in mm"
        )
    if prior.size == 0:
        raise ValueError("the prior has no unknown, so that all tumours would be one; give it distributions")
