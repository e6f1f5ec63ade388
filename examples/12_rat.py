# %% [markdown]
# # A network for one rat
#
# Cells are implanted in a (synthetic) rat's brain on day 0, and outlined in two images on day 9. Neural posterior
# estimation learns this rat's parameters from simulations of its images, and predicts the volumes of later days.

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
# Rounds of simulations, each nearer to this rat than the one before. The default is 4 rounds of 1000.

# %%
method = tj.NeuralPosterior(rounds=3, simulations=250, draws=500, images=8)
posterior = tj.calibrate(problem, method, key=jax.random.key(0))
print(f"{posterior.stats.solves} solves; {method.draws} draws are worth {posterior.stats.ess:.0f} independent ones")

# %%
weights = np.exp(np.asarray(posterior.log_weights))
outlines = zip(("u_T1", "u_T2"), posterior.samples.observations, rat.truth.observations, strict=True)
quantities = {
    "D_w, mm²/day": (posterior.samples.growth.diffusivity, rat.truth.growth.diffusivity),
    "rho, 1/day": (posterior.samples.growth.proliferation, rat.truth.growth.proliferation),
    **{name: (outline.threshold, truth.threshold) for name, outline, truth in outlines},
}
for name, (values, truth) in quantities.items():
    mean = weights @ np.asarray(values)
    deviation = np.sqrt(weights @ (np.asarray(values) - mean) ** 2)
    print(f"{name:14} {mean:8.4f} ± {deviation:.4f}   truth {truth:.4f}")

# %% [markdown]
# Volumes of days that were not seen, with 90 % bands; crosses are the truth.

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
