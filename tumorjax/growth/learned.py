"""Growth as a network has learnt it from the solver."""

from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import TISSUE_THRESHOLD, Anatomy
from tumorjax.growth.model import AbstractGrowth
from tumorjax.growth.outcome import Outcome
from tumorjax.growth.parameters import GrowthParams, ScaledGrowthParams

if TYPE_CHECKING:
    from tumorjax.networks import Surrogate

# Distance from the intervals that the network has seen, in their widths: farther out its answer means nothing.
_MEANINGLESS = 0.5


class LearnedGrowth(AbstractGrowth):
    """The tumour at the scan as a surrogate of the solver predicts it: one evaluation of a network, no steps in time.

    It stands where a growth model does, in `simulate` and in a `Problem`. It sees the tissue in a cube about the seed,
    on voxels of its own size whatever those of the anatomy, and nothing grows outside of it. It has one seed, no
    treatment, no mass effect and no fibres, and is differentiable in mu_1, mu_2 and the seed.

    Parameters
    ----------
    weights
        Weights of the network; see `of`.
    graph
        Static: its structure.
    architecture
        Static: its architecture, with the intervals that it has seen.

    References
    ----------
    Ezhov et al., "Geometry-aware neural solver for fast Bayesian calibration of brain tumor models", IEEE Trans. Med.
    Imaging 2022.
    """

    name: ClassVar[str] = "learned"
    title: ClassVar[str] = "Surrogate of the Fisher-Kolmogorov model"
    references: ClassVar[tuple[str, ...]] = (
        "I. Ezhov et al., Geometry-aware neural solver for fast Bayesian calibration of brain tumor models, IEEE "
        "Trans. Medical Imaging (2022).",
    )
    summary: ClassVar[str] = "a network that has learnt growth without mass effect from the solver"
    parameters: ClassVar[tuple[type, ...]] = (GrowthParams, ScaledGrowthParams)

    weights: Any
    graph: Any = eqx.field(static=True)
    architecture: Any = eqx.field(static=True)

    @classmethod
    def of(cls, surrogate: "Surrogate") -> "LearnedGrowth":
        """Return the growth that a trained network predicts, such as `load_surrogate` returns it."""
        from flax import nnx

        graph, weights = nnx.split(surrogate)
        return cls(weights, graph, surrogate.architecture)

    def warn(self, params: GrowthParams | ScaledGrowthParams) -> None:
        """Warn where the parameters are known, and lie outside the intervals that the network has seen.

        Warns
        -----
        OutsideTraining
            With the distances.
        """
        values = _identifiable(params)
        if any(isinstance(value, Tracer) or jnp.ndim(value) for value in values):
            return
        with jax.ensure_compile_time_eval():
            numbers = {name: float(value) for name, value in zip(("mu1", "mu2"), values, strict=True)}
        self.architecture.box.warn("the surrogate", numbers)

    def known(self, params: GrowthParams | ScaledGrowthParams) -> Bool[Array, ""]:
        """Return whether the parameters are near what the network has seen: farther out its answer means nothing."""
        near = []
        for name, value in zip(("mu1", "mu2"), _identifiable(params), strict=True):
            low, high = self.architecture.box.bounds(name)
            room = _MEANINGLESS * (high - low)
            near.append((value >= low - room) & (value <= high + room))
        return jnp.stack(near).all()

    def seeded(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Bool[Array, ""]:
        """Return whether the seed lies in tissue."""
        white, grey = (
            jax.scipy.ndimage.map_coordinates(jnp.asarray(tissue), list(self._seed(params, anatomy)), order=1)
            for tissue in (anatomy.white_matter, anatomy.grey_matter)
        )
        return white + grey >= TISSUE_THRESHOLD

    def predict(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Outcome:
        """Return the density at the end; see `warn` for parameters that the network has not seen."""
        self.warn(params)
        return _predicted(self, params, anatomy)

    def initial(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Any:
        """Raise a ValueError, because a network predicts the end alone."""
        raise ValueError("a surrogate predicts the density at the end alone; call `predict`, or use the solver")

    def terms(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Any:
        """Raise a ValueError, because a network has no equation."""
        raise ValueError("a surrogate has no equation; call `predict`, or use the solver")

    def density(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Float[Array, "x y z"]:
        """Return the density on the anatomy's grid, (x, y, z), of its dtype; a ValueError where it has fibres."""
        from flax import nnx

        from tumorjax.networks.surrogate import hats

        if anatomy.fibres is not None:
            raise ValueError(
                "a surrogate has learnt growth without fibres, and the anatomy has some; leave these out "
                "(dataclasses.replace(anatomy, fibres=None)), or use the solver"
            )
        size = self.architecture.window
        seed, shape, dtype = self._seed(params, anatomy), anatomy.grid.shape, anatomy.dtype
        ratio = jnp.asarray(self.architecture.spacing / anatomy.grid.spacing, dtype)
        maps = jnp.stack([jnp.asarray(each) for each in (anatomy.white_matter, anatomy.grey_matter, anatomy.csf)], -1)
        steps = jnp.arange(size, dtype=dtype) - size // 2
        there = [hats(seed[axis] + steps * ratio[axis], shape[axis]) for axis in range(3)]
        tissue = jnp.einsum("ui,vj,wk,ijkm->uvwm", *there, maps)
        mu = jnp.stack([jnp.asarray(value, jnp.float32) for value in _identifiable(params)])
        network = nnx.merge(self.graph, self.weights)
        found = network(tissue.astype(jnp.float32)[None], mu[None])[0].astype(dtype)
        back = [
            hats((jnp.arange(shape[axis], dtype=dtype) - seed[axis]) / ratio[axis] + size // 2, size)
            for axis in range(3)
        ]
        return jnp.where(anatomy.tissue, jnp.einsum("iu,jv,kw,uvw->ijk", *back, found), 0)

    def _seed(self, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Float[Array, "3"]:
        """Return the seed as fractional voxel indices."""
        origin: Any = params.origin
        shape = getattr(origin, "shape", None) if isinstance(origin, eqx.Module) else jnp.shape(origin)
        if shape != (3,):
            raise ValueError(f"a surrogate grows one seed, (3,) mm, got an origin of {shape or type(origin).__name__}")
        grid = jax.tree.map(lambda leaf: jnp.asarray(leaf, anatomy.dtype), anatomy.grid)
        return grid.to_index(jnp.asarray(origin, anatomy.dtype))


@eqx.filter_jit
def _predicted(model: LearnedGrowth, params: GrowthParams | ScaledGrowthParams, anatomy: Anatomy) -> Outcome:
    return Outcome(model.density(params, anatomy), unknown=~model.known(params))


def _identifiable(params: GrowthParams | ScaledGrowthParams) -> tuple[Any, Any]:
    """Return mu_1 = sqrt(D T), mm, and mu_2 = sqrt(rho T)."""
    if isinstance(params, ScaledGrowthParams):
        return params.mu1, params.mu2
    return jnp.sqrt(params.diffusivity * params.duration), jnp.sqrt(params.proliferation * params.duration)
