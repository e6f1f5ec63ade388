# %% [markdown]
# # Draw from the posterior
#
# Many tumours are consistent with one scan. A sampler returns draws from all of them, and the draws give
# probabilities: of cells in a voxel, or of any quantity that you can compute from a tumour.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import tumorjax as tj
from tumorjax.patient import load_patient
from tumorjax.pipeline.problems import problem_of
from tumorjax.pipeline.synthetic import synthetic_patient

truth = synthetic_patient(1, resolution=2.0)
patient = load_patient(segmentation=truth.segmentation, resolution=4.0)

# %% [markdown]
# A problem is a model, an anatomy, observations and a prior. Sampling needs many solves, so only the lesion and 20
# mm around it are simulated.

# %%
problem = problem_of(patient).around(20.0)
print(f"{problem.anatomy.grid.shape} voxels, {problem.prior.size} unknown: {', '.join(problem.prior.names)}")

# %% [markdown]
# TMCMC moves particles from the prior to the posterior. Published runs use 2048; 128 keep this example short.

# %%
posterior = tj.calibrate(problem, tj.TMCMC(128), key=jax.random.key(0))
growth = posterior.samples.growth
print(f"{posterior.cost.solves} solves; log-evidence {float(posterior.log_evidence):.1f} nat")
for name, values in (("mu1", growth.mu1), ("mu2", growth.mu2)):
    low, middle, high = np.quantile(np.asarray(values), (0.05, 0.5, 0.95))
    print(f"{name}: {middle:.2f}, 90 % between {low:.2f} and {high:.2f}; truth {truth.truth[name]:.2f}")

# %% [markdown]
# One scan determines mostly one combination of the two: the distance that the front has travelled.

# %%
figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
axes.scatter(growth.mu1, growth.mu2, s=8)
axes.plot(truth.truth["mu1"], truth.truth["mu2"], "k*", markersize=12, label="truth")
axes.set(xlabel="mu1, mm", ylabel="mu2")
axes.legend()
axes.grid(alpha=0.25)

# %% [markdown]
# Maps over the draws: mean, standard deviation, and the probability that the density exceeds a tenth of the
# carrying capacity.

# %%
maps = tj.posterior_maps(problem, posterior, thresholds=(0.1,))
probability = maps.probabilities[0.1]
level = int(np.argmax(probability.sum(axis=(0, 1))))
figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
axes.imshow(np.asarray(problem.anatomy.white_matter)[:, :, level].T, origin="lower", cmap="gray")
image = axes.imshow(
    np.where(probability > 0.01, probability, np.nan)[:, :, level].T, origin="lower", cmap="viridis", vmin=0, vmax=1
)
figure.colorbar(image, label="P(c > 0.1)", shrink=0.7)
axes.set_axis_off()
