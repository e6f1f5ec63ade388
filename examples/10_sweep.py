# %% [markdown]
# # Sweep parameters in one program
#
# `vmap` runs many tumours as one compiled program, which fills a GPU or TPU. `simulate_many` does so in batches that
# fit the memory, and keeps the part of each result that you select; on a CPU it runs one at a time, which is faster
# there.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import tumorjax as tj
from tumorjax.atlas import load_atlas

anatomy = load_atlas("icbm152").anatomy(6.0)
anatomy = anatomy.crop(*anatomy.box())
model, origin = tj.FisherKolmogorov(), jnp.array([28.5, 30.5, 18.5])
voxel = float(anatomy.grid.voxel_volume) / 1000  # ml

# %% [markdown]
# All parameters get a leading axis, as `vmap` produces it; all tumours share one anatomy.

# %%
mu1, mu2 = jnp.meshgrid(jnp.linspace(3, 12, 10), jnp.linspace(2.5, 4.5, 9), indexing="ij")
params = jax.vmap(lambda mu1, mu2: tj.ScaledGrowthParams(mu1, mu2, origin))(mu1.ravel(), mu2.ravel())


def volumes(solution):
    """Return the volumes (ml) above the densities that two images show."""
    return voxel * jnp.array([(solution.density > 0.7).sum(), (solution.density > 0.25).sum()])


core, lesion = tj.simulate_many(model, params, anatomy, summary=volumes).T

# %% [markdown]
# Lesions of one size lie along a curve: one outline cannot determine both `mu1` and `mu2`. The curve of a second
# outline crosses it.

# %%
figure, axes = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
for image, colour, name in ((core, "tab:red", "core"), (lesion, "tab:blue", "lesion")):
    lines = axes.contour(mu1, mu2, image.reshape(mu1.shape), levels=[10, 20, 40, 80, 160], colors=colour)
    axes.clabel(lines, fmt="%g ml", fontsize=8)
    axes.plot([], [], color=colour, label=name)
axes.set(xlabel="mu1, mm", ylabel="mu2")
axes.legend()
axes.grid(alpha=0.25)

# %% [markdown]
# Plain `vmap` composes with `grad` and `jit`, on any device.


# %%
def cells(mu1):
    """Return the cells, ml at carrying capacity."""
    return voxel * tj.simulate(model, tj.ScaledGrowthParams(mu1, 3.5, origin), anatomy).density.sum()


lengths = jnp.array([4.0, 6.0, 8.0, 10.0])
for length, value, slope in zip(lengths, *jax.jit(jax.vmap(jax.value_and_grad(cells)))(lengths), strict=True):
    print(f"mu1 = {float(length):4.1f} mm: {float(value):6.1f} ml, {float(slope):+6.1f} ml/mm")
