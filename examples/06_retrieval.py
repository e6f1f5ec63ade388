# %% [markdown]
# # Look a patient up among simulated tumours
#
# A cohort of tumours is simulated once. Of a new patient's outlines the most similar tumours are found in milliseconds,
# and an adjoint search that begins at them needs fewer gradients.

# %%
import tempfile

import jax

import tumorjax as tj
from tumorjax.atlas import load_atlas
from tumorjax.pipeline.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.retrieval import Simulated, retrieval_in
from tumorjax.pipeline.synthetic import synthetic_patient

# %% [markdown]
# 300 tumours on 5 mm voxels keep this example short; a database for use has 50,000 on 2 mm, and much nearer matches.
# A build that is interrupted goes on when it is called again.

# %%
atlas = load_atlas("icbm152")
anatomy = atlas.anatomy(5.0)
folder = tempfile.TemporaryDirectory()
cohort = tj.build_database(
    tj.FisherKolmogorov(), tj.published_box(anatomy), anatomy, 300, f"{folder.name}/tumours", seed=0
)
first = cohort.parameters(0)
print(f"{len(cohort)} tumours; the first has D {first.diffusivity:.2f} mm²/day and rho {first.proliferation:.3f} /day")

# %% [markdown]
# The patient lies in the atlas' world already; one who does not would be aligned by the T1 image.

# %%
truth = synthetic_patient(1, resolution=2.0)
patient = load_patient(segmentation=truth.segmentation, resolution=4.0)
simulated = Simulated(cohort, atlas)
for refine in (False, True):
    result = personalize(patient, method=retrieval_in(patient, simulated, refine=refine), key=jax.random.key(0))
    what = "with a search from there" if refine else "the match itself"
    print(f"{what}: Dice sum {result.metrics['dice_sum']:.3f}, {result.metrics['forward_solves']} solves")
folder.cleanup()
