# %% [markdown]
# # Simulate a tumour
#
# Grow a tumour in the ICBM152 atlas and look at it. Not for clinical use.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt

import tumorjax as tj
from tumorjax.atlas import load_atlas

# %% [markdown]
# An anatomy is three maps of tissue on a grid. The atlas has voxels of 1 mm; those of 4 mm keep this example short.

# %%
anatomy = load_atlas("icbm152").anatomy(4.0)
voxel = float(anatomy.grid.voxel_volume) / 1000  # ml
print(f"{anatomy.grid.shape} voxels of {float(anatomy.grid.spacing[0]):g} mm")

# %% [markdown]
# One scan determines three properties of the growth: `mu1` (mm), the distance over which cells spread, `mu2`, which
# measures how often they divided, and the origin, in the world coordinates of the atlas (RAS, mm).

# %%
params = tj.ScaledGrowthParams(mu1=7.0, mu2=3.5, origin=jnp.array([28.5, 30.5, 18.5]))
solution = tj.simulate(tj.FisherKolmogorov(), params, anatomy)
print(f"{int(solution.steps)} steps, {float(solution.density.sum()) * voxel:.1f} ml if cells were packed without gaps")

# %% [markdown]
# A scanner shows a lesion where the density of cells is high, inside the two inner lines. The density extends
# beyond them.

# %%
level = int(anatomy.grid.to_index(params.origin)[2])
figure, axes = plt.subplots(figsize=(5, 5.5))
axes.imshow(anatomy.white_matter[:, :, level].T, origin="lower", cmap="gray")
density = solution.density[:, :, level].T
axes.imshow(jnp.where(density > 1e-3, density, jnp.nan), origin="lower", cmap="magma", alpha=0.7, vmin=0, vmax=1)
axes.contour(density, levels=[0.01, 0.25, 0.7], colors="white", linewidths=[0.5, 1.0, 1.5])
axes.set_axis_off()

# %% [markdown]
# Time in days requires physical parameters, or an assumed speed of the front. `save_every` stores the density at
# intermediate times.

# %%
growth = tj.GrowthParams(diffusivity=0.13, proliferation=0.025, origin=params.origin, duration=300.0)
history = tj.simulate(tj.FisherKolmogorov(), growth, anatomy, save_every=60.0)
for day, density in zip(history.times, history.series, strict=True):
    print(f"day {float(day):3.0f}: {float(density.sum()) * voxel:6.2f} ml")
