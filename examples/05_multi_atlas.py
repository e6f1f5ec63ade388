# %% [markdown]
# # Mass effect, and several atlases
#
# A tumour pushes the brain, so that the scan does not show where tissue was before. Atlases stand for that unknown
# brain: growth with mass effect is calibrated in each, and the result is the plain mean of their answers. The weights
# that are printed below say how well each explains the patient; they are not used, since they soon leave all to one
# atlas, which need not be nearest to the truth.

# %%
import numpy as np

from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.pipeline.atlases import align_atlases
from tumorjax.pipeline.multi_atlas import personalize_with_atlases
from tumorjax.pipeline.patient import load_patient
from tumorjax.pipeline.synthetic import synthetic_patient

truth = synthetic_patient(1, mass_effect=6e4, resolution=4.0)
moved = np.linalg.norm(truth.displacement, axis=-1)
print(f"the tumour displaces tissue by up to {moved.max():.1f} mm")

# %% [markdown]
# Two atlases, one of them a random deformation of the other. Voxels of 6 mm and no refinement keep this example short;
# on 2 to 4 mm, and with the refinement, it takes minutes.

# %%
icbm152 = load_atlas("icbm152")
atlases = [icbm152, deformed_atlas(icbm152, 3)[0]]
patient = load_patient(segmentation=truth.segmentation, t1=truth.t1, resolution=6.0)
aligned = align_atlases(patient, atlases)
result = personalize_with_atlases(patient, aligned, refine=False)

# %%
for row in result.estimates:
    if row.name in ("mu1", "mu2", "mass_effect"):
        print(f"{row.name:12} {row.value:10.4g} ± {row.deviation:.2g} {row.unit:4} truth {truth.truth[row.name]:.4g}")
for row in result.atlases:
    print(f"in {row.atlas}: weight {row.weight:.2f}, displacement {row.max_displacement:.1f} mm")
print(f"largest displacement {result.displacement_norm.max():.1f} mm")
