"""Calibrate a synthetic rat's tumour by a network of its own, and predict how large it becomes.

Run with: python examples/04_rat.py
"""

import jax
import numpy as np

import tumorjax as tj
from tumorjax.pipeline.small_animal import forecast, synthetic_rat, true_volumes

# Cells implanted on day 0, outlines of T1 and T2 on day 9. Voxels of 0.8 mm keep this example under a minute.
rat = synthetic_rat(1, spacing=0.8)
problem = rat.problem
print(f"anatomy: {problem.anatomy.grid.shape} voxels of 0.8 mm, outlines on day {rat.day:g}")

# Rounds of simulations, each nearer to this rat than the one before; 4 rounds of 1000 are the default.
method = tj.NeuralPosterior(rounds=3, simulations=250, draws=500, images=8)
posterior = tj.calibrate(problem, method, key=jax.random.key(0))
stats = posterior.stats
print(
    f"{stats.solves} solves in {stats.seconds:.0f} s; {method.draws} draws are worth {stats.ess:.0f} independent ones"
)

weights = np.exp(np.asarray(posterior.log_weights))


def told(name, values, truth):
    """Print mean and standard deviation over the draws beside the truth."""
    mean = weights @ np.asarray(values)
    deviation = np.sqrt(weights @ (np.asarray(values) - mean) ** 2)
    print(f"{name:14} {mean:8.4f} ± {deviation:.4f}   truth {truth:.4f}")


told("D_w, mm2/day", posterior.samples.growth.diffusivity, rat.truth.growth.diffusivity)
told("rho, 1/day", posterior.samples.growth.proliferation, rat.truth.growth.proliferation)
for name, outline, truth in zip(("u_T1", "u_T2"), posterior.samples.observations, rat.truth.observations, strict=True):
    told(name, outline.threshold, truth.threshold)

days = (11.0, 14.0, 16.0)
volumes = forecast(problem, posterior, days)
for i, (day, truth) in enumerate(zip(days, true_volumes(rat, days), strict=True)):
    low, high = volumes.low[i, 1], volumes.high[i, 1]
    print(
        f"day {day:.0f}: T2 volume {volumes.mean[i, 1]:5.1f} mm3, 90 % in {low:.1f} to {high:.1f}; truth {truth[1]:.1f}"
    )
