"""Grow a tumour in the ICBM152 atlas, differentiate it, and run a sweep of parameters as one program.

Run with: python examples/01_simulate.py
"""

import jax
import jax.numpy as jnp

import tumorjax as tj
from tumorjax.atlas import load_atlas

# The atlas has voxels of 1 mm; means over blocks of 4 keep this example under a minute.
atlas = load_atlas("icbm152")
maps = (jnp.asarray(image.data, jnp.float32) for image in (atlas.white_matter, atlas.grey_matter, atlas.csf))
anatomy = tj.Anatomy(atlas.t1.grid, *maps).coarsen(4)
anatomy = anatomy.crop(*anatomy.box())
grid = anatomy.grid
print(f"anatomy: {grid.shape} voxels of {float(grid.spacing[0]):g} mm")

# What one scan can determine: mu1 in mm, mu2 without a unit, the origin in RAS world coordinates in mm.
model = tj.FisherKolmogorov()
params = tj.ScaledGrowthParams(mu1=7.0, mu2=3.5, origin=jnp.array([28.5, 30.5, 18.5]))
solution = tj.simulate(model, params, anatomy)
print(f"one tumour: {int(solution.steps)} steps, {float(solution.times[-1]):.0f} days at the assumed speed")


def cells(mu1):
    """The volume (ml) of tumour cells, as if packed at carrying capacity."""
    density = tj.simulate(model, tj.ScaledGrowthParams(mu1, params.mu2, params.origin), anatomy).density
    return density.sum() * grid.voxel_volume / 1000


value, slope = jax.jit(jax.value_and_grad(cells))(7.0)
print(f"cells: {float(value):.1f} ml; derivative with respect to mu1: {float(slope):.2f} ml/mm")

# The derivative above, by differences, for comparison.
step = 0.05
difference = (cells(7.0 + step) - cells(7.0 - step)) / (2 * step)
print(f"the same by central differences: {float(difference):.2f} ml/mm")

lengths = jnp.array([4.0, 6.0, 8.0, 10.0])
for mu1, volume in zip(lengths, jax.jit(jax.vmap(cells))(lengths), strict=True):
    print(f"mu1 = {float(mu1):4.1f} mm: {float(volume):6.1f} ml")
