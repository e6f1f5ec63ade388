"""Personalize a synthetic patient, and compare the estimates with the truth that made it.

Run with: python examples/02_personalize.py
"""

import tempfile
from pathlib import Path

from tumorjax.io import write_volume
from tumorjax.pipeline.patient import load_patient
from tumorjax.pipeline.personalize import personalize
from tumorjax.pipeline.synthetic import synthetic_patient
from tumorjax.planning import dice

# A tumour grown on finer voxels and by another scheme than the calibration's, with imperfect outlines.
synthetic = synthetic_patient(1, resolution=2.0)

with tempfile.TemporaryDirectory() as folder:
    segmentation, t1 = Path(folder) / "segmentation.nii.gz", Path(folder) / "t1.nii.gz"
    write_volume(segmentation, synthetic.segmentation.data, like=synthetic.segmentation)
    write_volume(t1, synthetic.t1.data, like=synthetic.t1)
    # Without labels the segmentation is read as core=1,4 edema=2; without tissue, the atlas is aligned with the T1.
    patient = load_patient(segmentation=segmentation, t1=t1, resolution=4.0)

for note in patient.notes:
    print(note)

result = personalize(patient)

print(f"{'':16} {'estimate':>9}   {'deviation':>9} {'truth':>8}")
for row in result.estimates:
    deviation = "fixed" if row.deviation is None else f"{row.deviation:.3g}"
    truth = synthetic.truth.get(row.name)
    print(f"{row.name:16} {row.value:9.3f} ± {deviation:>9} {'' if truth is None else f'{truth:8.3f}'} {row.unit}")

metrics = result.metrics
print(f"Dice of the core {metrics['dice_core']:.3f}, of the whole lesion {metrics['dice_flair']:.3f}")
print(f"Dice of the density above 0.1: {dice(result.density > 0.1, synthetic.density > 0.1):.3f}")
