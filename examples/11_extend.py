# %% [markdown]
# # Write your own growth law and your own observation
#
# A model is a class, and everything else (the schemes, the adjoint, the calibration) uses its methods. In this
# example growth is limited by Richards' law, whose exponent is unknown and calibrated, and the tumour is observed
# in an image that the package does not contain: an ADC map, which is darker where there are more cells. Neither
# needs a change in the package.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tumorjax as tj
from tumorjax.atlas import load_atlas

# %% [markdown]
# The law: dc/dt = ρ c (1 - cⁿ) / n, which for n = 1 is logistic growth and for n → 0 that of Gompertz. A reaction
# returns the density after a time over which the integral of ρ is `grown`; here the solution is known in closed form.


# %%
class Richards(tj.AbstractReaction):
    """Generalized logistic growth."""

    power: Any

    def __call__(self, density, grown, killed=None):
        there = density > 0
        shrunk = jnp.where(there, density, 1.0) ** self.power
        density = jnp.where(there, density / (shrunk + (1 - shrunk) * jnp.exp(-grown)) ** (1 / self.power), 0.0)
        return density if killed is None else density * jnp.exp(-killed)


class RichardsParams(tj.ScaledGrowthParams):
    """With the exponent n."""

    power: Any = 1.0


class RichardsGrowth(tj.FisherKolmogorov):
    """Diffusion as ever, and the law above."""

    def reaction(self, params):
        """Return the law with this tumour's exponent."""
        return Richards(params.power)


# %% [markdown]
# The model can be simulated, and has an exact gradient, also with respect to its new parameter.

# %%
anatomy = load_atlas("icbm152").anatomy(5.0)
anatomy = anatomy.crop(*anatomy.box())
model, origin = RichardsGrowth(), jnp.array([28.5, 30.5, 18.5])


def cells(power):
    """Return the cells, ml at carrying capacity."""
    params = RichardsParams(7.0, 3.5, origin, power=power)
    return tj.simulate(model, params, anatomy).density.sum() * anatomy.grid.voxel_volume / 1000


value, slope = jax.jit(jax.value_and_grad(cells))(1.5)
step = 0.01
differences = float(cells(1.5 + step) - cells(1.5 - step)) / (2 * step)
print(f"{float(value):.1f} ml, {float(slope):+.2f} ml for n, by differences {differences:+.2f}")


# %% [markdown]
# The observation: an image with Gaussian noise needs its mean as a function of the density.


# %%
class AdcParams(eqx.Module):
    """Of tissue without tumour, by how much cells lower it, and of the noise."""

    healthy: Any
    slope: Any
    noise: Any


class Adc(tj.AbstractGaussian):
    """An apparent diffusion coefficient, 1e-3 mm²/s: the more cells, the lower."""

    signal: Any
    valid: Any
    effective_voxels: float = float("inf")  # the noise below is independent in every voxel

    def mean(self, field, params):
        """Return what is expected."""
        return params.healthy - params.slope * field


# %% [markdown]
# A patient with known parameters, and the calibration from outline and ADC map.

# %%
true = RichardsParams(7.0, 3.5, origin, power=2.0)
density = tj.simulate(model, true, anatomy).density
noise = 0.05 * np.random.default_rng(0).standard_normal(density.shape)
adc = Adc(jnp.asarray(0.8 - 0.4 * density + noise, jnp.float32), anatomy.tissue)
outline = tj.Outline((density > 0.25).astype(jnp.float32), anatomy.tissue)
prior = tj.Prior(
    tj.Parameters(
        RichardsParams(
            tj.LogNormal(6.0, 0.5), tj.LogNormal(3.0, 0.3), tj.Normal(np.asarray(origin) + 6, 8.0),
            power=tj.LogNormal(1.0, 0.5),
        ),
        {
            "lesion": tj.OutlineParams(tj.Uniform(0.05, 0.5), tj.LogNormal(3.0, 0.5)),
            "adc": AdcParams(tj.Normal(0.8, 0.1), tj.LogNormal(0.4, 0.3), tj.LogNormal(0.05, 0.5)),
        },
    )
)  # fmt: skip
found = tj.calibrate(tj.Problem(model, anatomy, {"lesion": outline, "adc": adc}, prior), tj.LBFGS())
deviations = found.standard_deviations()
for name in ("mu1", "mu2", "power"):
    estimate, deviation = (float(getattr(each.growth, name)) for each in (found.params, deviations))
    print(f"{name:6} {estimate:6.2f} ± {deviation:.2f}   truth {float(getattr(true, name)):.2f}")
