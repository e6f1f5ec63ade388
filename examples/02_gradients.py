# %% [markdown]
# # Gradients and sensitivity
#
# `simulate` is a function of its parameters, of the tissue and of the treatment, and JAX differentiates it: in
# reverse mode by an exact discrete adjoint, which costs a few solves for any number of parameters, or in forward
# mode.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import tumorjax as tj
from tumorjax.atlas import load_atlas

anatomy = load_atlas("icbm152").anatomy(4.0)
anatomy = anatomy.crop(*anatomy.box())
model, params = tj.FisherKolmogorov(), tj.ScaledGrowthParams(7.0, 3.5, jnp.array([28.5, 30.5, 18.5]))
voxel = float(anatomy.grid.voxel_volume) / 1000  # ml


def visible(params, anatomy):
    """Return the volume (ml) with more than a quarter of the cells that tissue holds, with a soft edge."""
    density = tj.simulate(model, params, anatomy).density
    return voxel * jnp.sum(jax.nn.sigmoid((density - 0.25) / 0.05))


# %% [markdown]
# One call gives the value and all derivatives with respect to the parameters.

# %%
value, gradient = jax.jit(jax.value_and_grad(visible))(params, anatomy)
print(f"visible volume {float(value):.1f} ml")
print(f"by mu1 {float(gradient.mu1):+.2f} ml/mm, by mu2 {float(gradient.mu2):+.2f} ml")
print("by the origin", [f"{float(x):+.2f}" for x in gradient.origin], "ml/mm")

# %% [markdown]
# They are the derivatives of the discrete solution that `simulate` computes, as finite differences confirm.

# %%
step = 0.02
values = [visible(dataclasses.replace(params, mu1=params.mu1 + sign * step), anatomy) for sign in (-1, 1)]
print(f"by differences {float(values[1] - values[0]) / (2 * step):+.2f} ml/mm")

# %% [markdown]
# The cost of the adjoint does not depend on the number of unknowns; here there is one for each voxel. Where would
# more white matter make the lesion larger?

# %%
by_tissue = jax.jit(jax.grad(visible, argnums=1))(params, anatomy).white_matter
level = int(anatomy.grid.to_index(params.origin)[2])
largest = float(jnp.abs(by_tissue[:, :, level]).max())
figure, axes = plt.subplots(figsize=(5, 5.5))
axes.imshow(anatomy.white_matter[:, :, level].T, origin="lower", cmap="gray")
shown = jnp.where(jnp.abs(by_tissue) > 0.02 * largest, by_tissue, jnp.nan)[:, :, level]
image = axes.imshow(shown.T, origin="lower", cmap="RdBu_r", vmin=-largest, vmax=largest)
figure.colorbar(image, label="ml for white matter in place of nothing", shrink=0.6)
axes.set_axis_off()

# %% [markdown]
# Forward mode gives the derivative of all outputs with respect to one parameter: a map of the change per millimetre
# of `mu1`.


# %%
def density(mu1):
    """Return the density as a function of mu1 alone."""
    moved = dataclasses.replace(params, mu1=mu1)
    return tj.simulate(model, moved, anatomy, adjoint=tj.ForwardMode()).density


_, change = jax.jit(lambda mu1: jax.jvp(density, (mu1,), (jnp.ones(()),)))(jnp.asarray(7.0))
print(f"a millimetre changes the density by at most {float(jnp.abs(change).max()):.2f}")
