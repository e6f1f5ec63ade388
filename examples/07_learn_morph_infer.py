# %% [markdown]
# # Learn-Morph-Infer
#
# A network that has seen thousands of simulated tumours reads the parameters off the outlines. What it says is checked
# by one solve, and an adjoint search in the patient's own anatomy can begin there. The weights ship with the package.

# %%
import time

import jax

from tumorjax.pipeline.learn_morph_infer import inference_in, open_network
from tumorjax.pipeline.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice

truth = synthetic_patient(1, resolution=2.0)
patient = load_patient(segmentation=truth.segmentation, resolution=4.0)
learnt = open_network()

# %%
for refine in (False, True):
    begun = time.perf_counter()
    result = personalize(patient, method=inference_in(patient, learnt, refine=refine), key=jax.random.key(0))
    seconds = time.perf_counter() - begun
    found = {row.name: row.value for row in result.estimates}
    print("refined" if refine else "the network", f"({seconds:.0f} s with compilation)")
    print("  " + ", ".join(f"{name} {found[name]:.2f} (truth {truth.truth[name]:.2f})" for name in ("mu1", "mu2")))
    print(f"  Dice with the outlines {result.metrics['dice_sum']:.3f} of 2")
    print(f"  Dice with the true density above 0.1: {dice(result.density > 0.1, truth.density > 0.1):.3f}")
