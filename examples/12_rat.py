# %% [markdown]
# # A network for one rat
#
# Cells are implanted in a (synthetic) rat's brain on day 0, and outlined in two images on day 9. Neural posterior
# estimation learns this rat's parameters from simulations of its images, and predicts the volumes of later days.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt "..[networks]"

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import tumorjax as tj
from tumorjax.pipeline.small_animal import forecast, synthetic_rat, true_volumes

rat = synthetic_rat(1, spacing=0.8)
problem = rat.problem
print(f"{problem.anatomy.grid.shape} voxels of 0.8 mm, outlines on day {rat.day:g}")

# %% [markdown]
# The rounds of simulations approach this rat's parameters one after another. The default is 4 rounds of 1000.

# %%
method = tj.NeuralPosterior(rounds=3, simulations=250, draws=500, images=8)
posterior = tj.calibrate(problem, method, key=jax.random.key(0))
effective = posterior.diagnostics.effective
print(f"{posterior.cost.solves} solves; {method.draws} draws are worth {effective:.0f} independent ones")

# %%
weights = np.exp(np.asarray(posterior.log_weights))
outlines = {"u_T1": "core", "u_T2": "lesion"}
quantities = {
    "D_w, mm²/day": (posterior.samples.growth.diffusivity, rat.truth.growth.diffusivity),
    "rho, 1/day": (posterior.samples.growth.proliferation, rat.truth.growth.proliferation),
    **{
        symbol: (posterior.samples.observations[name].threshold, rat.truth.observations[name].threshold)
        for symbol, name in outlines.items()
    },
}
for name, (values, truth) in quantities.items():
    mean = weights @ np.asarray(values)
    deviation = np.sqrt(weights @ (np.asarray(values) - mean) ** 2)
    print(f"{name:14} {mean:8.4f} ± {deviation:.4f}   truth {truth:.4f}")

# %% [markdown]
# Volumes on days without images, with 90 % bands; crosses are the true values.

# %%
days = (9.0, 11.0, 14.0, 16.0)
volumes, truth = forecast(problem, posterior, days), true_volumes(rat, days)
figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
for i, name in enumerate(("T1", "T2")):
    axes.fill_between(days, volumes.low[:, i], volumes.high[:, i], alpha=0.3)
    axes.plot(days, volumes.mean[:, i], label=name)
    axes.plot(days, truth[:, i], "kx")
axes.set(xlabel="day", ylabel="volume, mm³")
axes.legend()
axes.grid(alpha=0.25)
