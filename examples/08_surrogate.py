# %% [markdown]
# # A surrogate in place of the solver
#
# `LearnedGrowth` is a network that predicts a tumour in one evaluation. It is a growth model: `simulate` and a
# `Problem` accept it in place of the equation, and it is differentiable.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt "..[networks]"

# %%
import dataclasses

import jax
import jax.numpy as jnp

import tumorjax as tj
from tumorjax.atlas import load_atlas
from tumorjax.networks import load_surrogate
from tumorjax.planning import dice

anatomy = load_atlas("icbm152").anatomy(2.0)
anatomy = anatomy.crop(*anatomy.box())
params = tj.GrowthParams(0.05, 0.02, jnp.array([28.5, 30.5, 18.5]), 500.0)

# %%
solver, surrogate = tj.FisherKolmogorov(), tj.LearnedGrowth.of(load_surrogate())
solved = tj.simulate(solver, params, anatomy).density
predicted = tj.simulate(surrogate, params, anatomy).density
for level in (0.2, 0.4, 0.8):
    print(f"Dice above {level}: {dice(solved > level, predicted > level):.3f}")


# %% [markdown]
# Derivatives of the network are available as those of the solver are.


# %%
def volume(diffusivity, model):
    """Return the cells, ml at carrying capacity."""
    density = tj.simulate(model, dataclasses.replace(params, diffusivity=diffusivity), anatomy).density
    return density.sum() * anatomy.grid.voxel_volume / 1000


for name, model in (("solver", solver), ("surrogate", surrogate)):
    value, slope = jax.jit(lambda d, model=model: jax.value_and_grad(volume)(d, model))(0.05)
    print(f"{name}: {float(value):.2f} ml, {float(slope) * 0.01:+.2f} ml for 0.01 mm²/day more")

# %% [markdown]
# The network stores the range of its training, and warns outside of it.

# %%
try:
    tj.simulate(surrogate, dataclasses.replace(params, diffusivity=1.5), anatomy)
except ValueError as error:
    print(error)
