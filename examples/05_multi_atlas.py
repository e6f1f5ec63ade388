# %% [markdown]
# # Mass effect, and several atlases
#
# A growing tumour displaces the brain, so the scan does not show where the tissue was before. Atlases stand for
# that unknown brain: growth with mass effect is calibrated in each, and the result is the plain mean of their
# answers. The posterior weights that are printed below show how well each atlas explains the patient. They are
# reported but not used for averaging, because they soon give all weight to one atlas, which need not be nearest to
# the truth.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import numpy as np

import tumorjax as tj
from tumorjax.atlas import deformed_atlas, load_atlas
from tumorjax.pipeline.synthetic import synthetic_patient

truth = synthetic_patient(1, mass_effect=6e4, resolution=4.0)
moved = np.linalg.norm(truth.displacement, axis=-1)
print(f"the tumour displaces tissue by up to {moved.max():.1f} mm")

# %% [markdown]
# Two atlases, one of them a random deformation of the other. Voxels of 6 mm and no refinement keep this example
# short; on 2 to 4 mm, and with the refinement, it takes minutes.

# %%
icbm152 = load_atlas("icbm152")
atlases = [icbm152, deformed_atlas(icbm152, 3)[0]]
patient = tj.load_patient(segmentation=truth.segmentation, t1=truth.t1, resolution=6.0)
method = tj.MultiAtlas(tuple(atlases), refine=False)
result = tj.personalize(patient, model=tj.MassEffect(), method=method)

# %%
for row in result.estimates:
    if row.name in ("mu1", "mu2", "mass_effect"):
        print(f"{row.name:12} {row.value:10.4g} ± {row.deviation:.2g} {row.unit:4} truth {truth.truth[row.name]:.4g}")
for row in result.calibration.rows:
    print(f"in {row.atlas}: weight {row.weight:.2f}, displacement {row.max_displacement:.1f} mm")
print(f"largest displacement {result.displacement_norm.max():.1f} mm")
