"""Treat a tumour in the ICBM152 atlas, ask what a gray more would do, and let the tumour displace the brain.

Run with: python examples/03_treatment.py
"""

import jax
import jax.numpy as jnp

import tumorjax as tj
from tumorjax.atlas import load_atlas

atlas = load_atlas("icbm152")
maps = (jnp.asarray(image.data, jnp.float32) for image in (atlas.white_matter, atlas.grey_matter, atlas.csf))
anatomy = tj.Anatomy(atlas.t1.grid, *maps).coarsen(4)
origin = jnp.array([28.5, 30.5, 18.5])
model = tj.FisherKolmogorov()
litres = float(anatomy.grid.voxel_volume) / 1e6

# A year of growth to the diagnosis.
found = tj.simulate(model, tj.GrowthParams(0.13, 0.03, origin, 365.0), anatomy).density
print(f"at diagnosis: {1000 * float(found.sum()) * litres:.1f} ml of tumour cells")

# From there on: resection of the dense part after two weeks, six weeks of radiation, and a drug meanwhile.
onwards = tj.GrowthParams(0.13, 0.03, tj.InitialDensity(found), 200.0)
surgery = tj.Surgery(14.0, (found > 0.6).astype(jnp.float32))
drug = tj.Chemotherapy(42.0, 84.0, rate=0.02)


def after(dose):
    """The volume (ml) of tumour cells 200 days after diagnosis, for a dose in Gy a fraction."""
    radiation = tj.Radiotherapy.course(42.0, 30, dose, alpha=0.035)
    treated = tj.simulate(model, onwards, anatomy, treatments=(surgery, radiation, drug)).density
    return 1000 * treated.sum() * litres


value, slope = jax.jit(jax.value_and_grad(after))(2.0)
print(f"after treatment with 30 x 2 Gy: {float(value):.1f} ml, and {float(slope):+.1f} ml for a further Gy a fraction")
print(f"untreated: {1000 * float(tj.simulate(model, onwards, anatomy).density.sum()) * litres:.1f} ml")

# The same growth to the diagnosis, in tissue that gives way.
params = tj.MassEffectParams(tj.GrowthParams(0.13, 0.03, origin, 365.0), mass_effect=4e4)
pushed = tj.simulate(tj.MassEffect(model, force="tanh"), params, anatomy)
moved = jnp.linalg.norm(pushed.displacement, axis=-1)
print(f"with mass effect the brain moves by up to {float(moved.max()):.1f} mm")
