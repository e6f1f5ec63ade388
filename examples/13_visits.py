# %% [markdown]
# # Two scans and a forecast
#
# One scan says nothing of time. Two scans of one patient show how fast the tumour grows, so that its diffusivity, its
# proliferation rate and the day on which it began follow, and what it will be like on later days. The patient is
# synthetic: the truth was grown on finer voxels and by another scheme than the calibration's, and its later days are
# kept from the calibration. The answer is a prediction of the model and not a prognosis. Not for clinical use.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt ".."

# %%
import matplotlib.pyplot as plt
import numpy as np

import tumorjax as tj
from tumorjax.atlas import load_atlas
from tumorjax.io import Volume

fine = load_atlas("icbm152").anatomy(4.0)
voxel = float(fine.grid.voxel_volume)
true = tj.GrowthParams(diffusivity=0.15, proliferation=0.03, origin=np.array([28.5, 30.5, 18.5]), duration=300.0)
days = [0, 40, 80, 120]
history = tj.simulate(tj.FisherKolmogorov(), true, fine, calendar=tj.Calendar.of(days), stepper=tj.SplitEuler())
density = dict(zip(days, np.asarray(history.series), strict=True))
thresholds = {"core": 0.65, "lesion": 0.25}

# %% [markdown]
# The scanner sees the first two days, on each of which a reader outlines the core (label 1) and the oedema (label 2).
# `load_visits` takes a table (`visits.csv`, with a row for each day) or, as here, images in memory.


# %%
def image(values):
    """Return an image on the voxels of the truth."""
    return Volume(np.asarray(values), np.asarray(fine.grid.affine))


def outlined(day):
    """Return the labels that a reader gives to the tumour of a day."""
    inside = {name: density[day] > threshold for name, threshold in thresholds.items()}
    return image(np.select([inside["core"], inside["lesion"]], [1, 2]).astype(np.uint8))


patient = tj.load_visits(
    [{"day": day, "segmentation": outlined(day)} for day in days[:2]],
    white_matter=image(fine.white_matter),
    grey_matter=image(fine.grey_matter),
    csf=image(fine.csf),
    resolution=8.0,
)
print(patient)

# %% [markdown]
# One call fits both days together and follows draws from the posterior to the later ones. Treatments between the days
# would be `treatments=tj.load_treatments("treatments.csv")`.

# %%
result = tj.personalize(patient, forecast=days[2:])
known = {"diffusivity": true.diffusivity, "proliferation": true.proliferation, "seed_day": -true.duration}
for row in result.estimates:
    if row.name in known:
        low, high = row.interval
        print(
            f"{row.name:14} {row.value:8.3g} (90 %: {low:.3g} to {high:.3g}) {row.unit:9} truth {known[row.name]:.3g}"
        )

# %% [markdown]
# The volumes over time: the band holds 90 % of the draws. It has the uncertainty of the parameters in it, but not the
# error of the model; here the model is right, but for its voxels, which are twice as long as those of the truth.

# %%
forecast = result.forecast
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, colour in (("lesion", "tab:green"), ("core", "tab:blue")):
    volume = forecast.volume(name)
    axes.fill_between(forecast.days, volume.low / 1000, volume.high / 1000, color=colour, alpha=0.2)
    axes.plot(forecast.days, volume.mode / 1000, color=colour, label=f"{name}: median and 90 % band")
    true_volumes = [(density[day] > thresholds[name]).sum() * voxel / 1000 for day in days]
    axes.plot(days[:2], true_volumes[:2], "o", color=colour, label=f"{name}: outlined")
    axes.plot(days[2:], true_volumes[2:], "x", color=colour, markersize=9, label=f"{name}: truth, kept back")
axes.axvspan(days[1], days[-1], color="0.95", zorder=-1)
axes.set(xlabel="day", ylabel="volume, ml", ylim=(0, None))
axes.legend(fontsize=8)

# %% [markdown]
# `result.save("folder")` writes the volumes by day (`forecast.csv`), the density of each day, and a report.

# %%
level = int(np.argmax(density[days[-1]].sum(axis=(0, 1))))
figure, panels = plt.subplots(2, len(days), figsize=(10, 5.5), layout="constrained")
for column, day in enumerate(days):
    place = forecast.mapped.tolist().index(day)
    for axes, (title, values) in zip(
        panels[:, column], {"truth": density[day], "model": forecast.density[place]}.items(), strict=True
    ):
        axes.imshow(patient.background[:, :, level].T, origin="lower", cmap="gray")
        shown = np.where(values > 0.01, values, np.nan)[:, :, level]
        axes.imshow(shown.T, origin="lower", cmap="magma", vmin=0, vmax=1, alpha=0.8)
        axes.set(title=f"day {day}, {title}")
        axes.set_axis_off()
