# %% [markdown]
# # Treatment
#
# Surgery, radiation and drugs are arguments of `simulate`, and can be differentiated: what would be the effect of
# one more Gy? The answer is a prediction of the model and not a recommendation. Not for clinical use.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import tumorjax as tj
from tumorjax.atlas import load_atlas

anatomy = load_atlas("icbm152").anatomy(4.0)
origin = jnp.array([28.5, 30.5, 18.5])
model = tj.FisherKolmogorov()
voxel = float(anatomy.grid.voxel_volume) / 1000  # ml

# %% [markdown]
# A year of growth to the diagnosis. Then follow a resection of the dense part after two weeks, six weeks of
# radiation, and a drug meanwhile.

# %%
found = tj.simulate(model, tj.GrowthParams(0.13, 0.03, origin, 365.0), anatomy).density
onwards = tj.GrowthParams(0.13, 0.03, tj.InitialDensity(found), 210.0)
surgery = tj.Surgery(14.0, (found > 0.6).astype(jnp.float32))
radiation = tj.Radiotherapy.course(42.0, 30, 2.0, alpha=0.035)
drug = tj.Chemotherapy(42.0, 84.0, rate=0.02)
plans = {
    "nothing": (),
    "surgery": (surgery,),
    "surgery and radiation": (surgery, radiation),
    "all three": (surgery, radiation, drug),
}
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for name, treatments in plans.items():
    history = tj.simulate(model, onwards, anatomy, treatments=treatments, save_every=14.0)
    cells = history.series.sum(axis=(1, 2, 3)) * voxel
    axes.plot(history.times, cells, label=name)
    print(f"{name}: {float(cells[-1]):.1f} ml of cells after {float(history.times[-1]):.0f} days")
axes.set(xlabel="days after diagnosis", ylabel="cells, ml at carrying capacity", yscale="log")
axes.legend()
axes.grid(alpha=0.25)


# %% [markdown]
# The derivative with respect to the dose of a fraction, through surgery, 30 fractions and the drug.


# %%
def after(dose):
    """Return the cells (ml) at the end for a dose in Gy a fraction."""
    course = tj.Radiotherapy.course(42.0, 30, dose, alpha=0.035)
    return voxel * tj.simulate(model, onwards, anatomy, treatments=(surgery, course, drug)).density.sum()


value, slope = jax.jit(jax.value_and_grad(after))(2.0)
print(f"{float(value):.2f} ml, and {float(slope):+.2f} ml for a further Gy a fraction")
