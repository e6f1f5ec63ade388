# %% [markdown]
# # Find a patient's tumour among simulated tumours
#
# A cohort of tumours is simulated once. For the outlines of a new patient the most similar tumours are found in
# milliseconds, and a gradient search that starts from them needs fewer gradients.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt "..[ensemble]"

# %%
import tempfile

import tumorjax as tj
from tumorjax.atlas import load_atlas
from tumorjax.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient

# %% [markdown]
# 300 tumours on 5 mm voxels keep this example short; a practical database has 50,000 on 2 mm, and much closer
# matches. A build that was interrupted continues when it is called again.

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
# This patient is already in the world coordinates of the atlas; other patients are aligned by their T1 image.

# %%
truth = synthetic_patient(1, resolution=2.0)
patient = load_patient(segmentation=truth.segmentation, resolution=4.0)
query = tj.Retrieval(cohort, atlas=atlas)
for what, method in (("the match itself", query), ("with a search from there", tj.LBFGS(init=query))):
    result = personalize(patient, method=method)
    print(f"{what}: Dice sum {result.metrics['dice_sum']:.3f}, {result.metrics['forward_solves']} solves")
folder.cleanup()
