# %% [markdown]
# # Learn-Morph-Infer
#
# A network that was trained on thousands of simulated tumours infers the parameters from the outlines. Three
# solves in the atlas correct its answer, one in the patient's own anatomy checks it, and a gradient search can start
# there. The weights are part of the package.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt "..[networks]"

# %%
import time

import tumorjax as tj
from tumorjax.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice

truth = synthetic_patient(1, resolution=2.0)
patient = load_patient(segmentation=truth.segmentation, resolution=4.0)
network = tj.LearnMorphInfer.open()

# %%
for what, method in (("the network", network), ("refined", tj.LBFGS(init=network))):
    begun = time.perf_counter()
    result = personalize(patient, method=method)
    seconds = time.perf_counter() - begun
    found = {row.name: row.value for row in result.estimates}
    print(what, f"({seconds:.0f} s with compilation)")
    print("  " + ", ".join(f"{name} {found[name]:.2f} (truth {truth.truth[name]:.2f})" for name in ("mu1", "mu2")))
    print(f"  Dice with the outlines {result.metrics['dice_sum']:.3f} of 2")
    print(f"  Dice with the true density above 0.1: {dice(result.density > 0.1, truth.density > 0.1):.3f}")
