# %% [markdown]
# # Personalize a patient
#
# From a segmentation and a T1 image to a calibrated map of tumour cells, its uncertainty and a target volume. The
# patient is synthetic, so that the truth is known: a tumour grown on finer voxels and by another scheme than the
# calibration's, with outlines that vary as those of a human reader do. Not for clinical use.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import matplotlib.pyplot as plt
import numpy as np

from tumorjax.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice

truth = synthetic_patient(1, resolution=2.0)

# %% [markdown]
# `load_patient` takes files or, as here, images in memory. Without maps of the tissue, the ICBM152 atlas is
# deformed to the T1 image. Your own patient is `load_patient(segmentation="seg.nii.gz", t1="t1.nii.gz")`.

# %%
patient = load_patient(segmentation=truth.segmentation, t1=truth.t1, resolution=4.0)
for note in patient.notes:
    print(note)

# %% [markdown]
# One call calibrates the model, by a gradient search from several starting points, and computes maps, plan and
# quality.

# %%
result = personalize(patient)
for row in result.calibration.estimates(truth.truth):
    deviation = "given" if row.deviation is None else f"± {row.deviation:.3g}"
    known = "" if row.truth is None else f"truth {row.truth:.3g}"
    print(f"{row.name:16} {row.value:9.3g} {deviation:9} {row.unit:9} {known}")

# %% [markdown]
# The model fits the outlines, and the map agrees with the hidden truth also where there are few cells.

# %%
print(f"Dice with the core {result.metrics['dice_core']:.3f}, with the lesion {result.metrics['dice_lesion']:.3f}")
for level in (0.5, 0.1, 0.01):
    print(f"Dice with the true density above {level:g}: {dice(result.density > level, truth.density > level):.3f}")

# %%
level = int(np.argmax(truth.density.sum(axis=(0, 1))))
figure, panels = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
for axes, (title, image) in zip(
    panels,
    {"truth": truth.density, "calibrated": result.density, "standard deviation": result.density_std}.items(),
    strict=True,
):
    axes.imshow(patient.background[:, :, level].T, origin="lower", cmap="gray")
    shown = np.where(image > 0.005, image, np.nan)[:, :, level]
    axes.imshow(shown.T, origin="lower", cmap="magma", vmin=0, vmax=float(image.max()), alpha=0.8)
    axes.contour(result.plan[:, :, level].T, levels=[0.5], colors="cyan", linewidths=1)
    axes.set(title=title)
    axes.set_axis_off()

# %% [markdown]
# The cyan line is the target volume: as many voxels as the guidelines' 15 mm margin has, where the model expects
# most cells. How many of the true cells does each contain?

# %%
for name, plan in (("model's plan", result.plan), ("15 mm margin", result.standard_plan)):
    print(f"{name}: {truth.density[plan].sum() / truth.density.sum():.1%} of the cells")
