# %% [markdown]
# # Compare the inverse methods
#
# Every method answers the same question, so a comparison is a loop: here five of them on one synthetic patient whose
# cells are known, and then the figures of the full comparison, drawn from its record.

# %% tags=["skip-execution"]
# In a checkout of the repository, this installs tumorjax and what the example needs:
# %pip install -q -c ../constraints.txt "..[networks]"

# %%
import json
import time
import warnings
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import tumorjax as tj
from tumorjax.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice

truth = synthetic_patient(1, resolution=2.0)
patient = load_patient(segmentation=truth.segmentation, resolution=4.0)

# %% [markdown]
# `LBFGS` searches with gradients, and `WeakConstraint` lets the density leave the equation where the outlines ask for
# it. The network `LearnMorphInfer` needs no search at all, but a search may start from its answer. `Importance` draws
# from the posterior. All five take a few minutes on a laptop, most of them `WeakConstraint`. The first search also
# compiles its programs, which the later ones find ready, so that the seconds of one run do not compare methods.

# %%
methods = {
    "LBFGS": tj.LBFGS(),
    "WeakConstraint": tj.WeakConstraint(),
    "LearnMorphInfer": tj.LearnMorphInfer.open(),
    "LearnMorphInfer+LBFGS": tj.LBFGS(init=tj.LearnMorphInfer.open()),
    "Importance": tj.Importance(500),
}
found, seconds = {}, {}
for name, method in methods.items():
    begun = time.perf_counter()
    with warnings.catch_warnings():
        # Few of the draws of `Importance` count where the posterior is bent, and it says so.
        warnings.simplefilter("ignore")
        found[name] = personalize(patient, method=method, key=jax.random.key(0))
    seconds[name] = time.perf_counter() - begun

# %% [markdown]
# How well does each explain the outlines that it was given, and the cells that it never saw? And what does it say of
# the diffusion length mu1, with which standard deviation?

# %%
print(f"{'':22} {'seconds':>7} {'outlines':>8} {'cells':>6}   mu1 (truth {truth.truth['mu1']:.2f})")
for name, result in found.items():
    cells = dice(result.density > 0.1, truth.density > 0.1)
    mu1 = next(row for row in result.estimates if row.name == "mu1")
    width = "" if mu1.deviation is None else f" ± {mu1.deviation:.2f}"
    print(f"{name:22} {seconds[name]:7.1f} {result.metrics['dice_sum']:8.3f} {cells:6.3f}   {mu1.value:.2f}{width}")

# %% [markdown]
# The same as pictures: the true cells, and what each method makes of the outlines (white: core and lesion).

# %%
level = int(np.argmax(truth.density.sum(axis=(0, 1))))
labels = np.asarray(truth.segmentation.data)[:, :, level]
there = np.argwhere(labels > 0)
(left, low), (right, high) = there.min(axis=0) - 12, there.max(axis=0) + 12
figure, axes = plt.subplots(2, 3, figsize=(7.5, 5.4), layout="constrained")
pictures = {"truth": truth.density} | {name: result.density for name, result in found.items()}
for place, (name, density) in zip(axes.flat, pictures.items(), strict=True):
    cells = place.imshow(
        np.asarray(density)[left:right, low:high, level].T, origin="lower", cmap="magma", vmin=0, vmax=1
    )
    for inside in (np.isin(labels, (1, 3, 4)), labels > 0):
        if inside.any():
            place.contour(inside[left:right, low:high].T, levels=[0.5], colors="white", linewidths=0.8)
    place.set(title=name, xticks=[], yticks=[])
figure.colorbar(cells, ax=axes, label="cells, share of the capacity", shrink=0.6)

# %% [markdown]
# ## The full comparison
#
# One patient proves little. `python -m benchmarks compare` runs all methods on twenty synthetic and several real
# patients, and its record holds the figures of each patient. Only a checkout of the repository has it.

# %%
record = Path("../benchmarks/results/compare.json")
records = {}
if record.exists():
    records = {each["name"]: each for each in json.loads(record.read_text(encoding="utf-8"))["records"]}
names = sorted(
    (name.removesuffix("_plain_dice_0.1") for name in records if name.endswith("_plain_dice_0.1")),
    key=lambda name: -records[f"{name}_plain_dice_0.1"]["value"],
)
if not names:
    print(f"no record in {record}")

# %% [markdown]
# Accuracy over time. Each mark is the median of ten patients, and lines reach to the quartiles. Tumours that push the
# brain aside are harder for models that leave it in place.

# %%
if names:
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for group, mark, told in (("plain", "o", "tissue stays in place"), ("displaced", "^", "tumour pushes")):
        for index, name in enumerate(names):
            score, time_taken = (records[f"{name}_{group}_{key}"] for key in ("dice_0.1", "seconds"))
            reach = np.abs(np.array(score["details"]["quartiles"]) - score["value"])[:, None]
            label = name if group == "plain" else None
            style = {"color": plt.colormaps["tab20"](index), "elinewidth": 0.8, "label": label}
            axes.errorbar(time_taken["value"], score["value"], yerr=reach, fmt=mark, **style)
        axes.plot([], [], mark, color="0.4", label=told)
    axes.set(xscale="log", xlabel="seconds a patient, compilation included", ylabel="Dice of the true cells above 0.1")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right center", frameon=False)

# %% [markdown]
# And how honest are the uncertainties? A 90 % interval should hold nine truths of ten.

# %%
if names:
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    told = [name for name in names if f"{name}_plain_coverage_90" in records]
    for shift, (group, label) in enumerate((("plain", "tissue stays in place"), ("displaced", "tumour pushes"))):
        covered = [records[f"{name}_{group}_coverage_90"]["value"] for name in told]
        axes.barh(np.arange(len(told)) + 0.38 * shift, covered, height=0.36, label=label)
    axes.axvline(0.9, color="0.3", linewidth=1, linestyle="--")
    axes.set(
        yticks=np.arange(len(told)) + 0.19,
        yticklabels=told,
        xlim=(0, 1),
        xlabel="true values inside 90 % intervals",
    )
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
