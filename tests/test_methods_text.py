"""What the report says of how a result came about: methods with citations, and the tissue that a model grew in."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from tests.problems import ball_brain
from tumorjax.atlas import AtlasImages
from tumorjax.growth import FisherKolmogorov, MassEffect
from tumorjax.io import Volume
from tumorjax.methods import LBFGS
from tumorjax.methods.from_atlas import LearnMorphInfer
from tumorjax.methods.registry import methods, models
from tumorjax.patient.tissue import TissueSource
from tumorjax.registration import Transform
from tumorjax.results.methods_text import methods_text
from tumorjax.results.tissue import tissue_of

ANATOMY = ball_brain()


def volume(data):
    return Volume(np.asarray(data, np.float32), np.asarray(ANATOMY.grid.affine), name="made up")


def atlas():
    brain = np.asarray(ANATOMY.tissue) > 0.5
    maps = [volume(each) for each in (ANATOMY.white_matter, ANATOMY.grey_matter, ANATOMY.csf * brain)]
    return AtlasImages(
        "icbm152", volume(0.2 + maps[0].data), *maps, replace(volume(brain), data=brain.astype(np.uint8))
    )


def moved(steps):
    """The map to an atlas that lies so many voxels further along the first axis."""
    matrix = np.eye(4)
    matrix[0, 3] = steps * ANATOMY.grid.spacing[0]
    return Transform(matrix, measure="correlation", after=0.912)


def patient(source, images=("segmentation", "T1")):
    core = np.zeros(ANATOMY.grid.shape, bool)
    core[8:10, 9:11, 7:9] = True
    outlines = {"core": core, "lesion": core | np.roll(core, 1, axis=0)}
    return SimpleNamespace(
        anatomy=ANATOMY, reference=volume(core), outlines=outlines, images=dict.fromkeys(images), source=source,
        brain=np.asarray(ANATOMY.tissue) > 0.5, earlier=(), visits=(0,), registration="greedy",
    )  # fmt: skip


def calibration(method, begun=None):
    return SimpleNamespace(
        method=method.title, begun=begun, description=f"calibrated by {method.title}", estimate="maximum a posteriori"
    )


def test_methods_cite_what_took_part_once_and_in_order():
    begun = calibration(LearnMorphInfer)
    source = TissueSource.of(atlas(), moved(1))
    result = SimpleNamespace(
        patient=patient(source), model=FisherKolmogorov(), calibration=calibration(LBFGS, begun), plan=None, margin=12.5
    )
    paragraphs, works = methods_text(result, "tumorjax 1, jax 2")
    text = " ".join(paragraphs)
    assert len(works) == len(set(works))
    # Fonov for the atlas, two works for the model, of which the network's is one, that of the search, the guideline.
    assert "icbm152 [1], aligned with the patient by an affine map; correlation 0.91." in text
    assert "the Fisher-Kolmogorov model [2, 3]" in text and "calibrated by adjoint L-BFGS [4, 3]." in text
    assert "Fonov" in works[0] and "Learn-Morph-Infer" in works[2] and "Nocedal" in works[3] and "Niyazi" in works[4]
    assert "margin of 12.5 mm inside the brain [5]. The result has failed" in text and "Software: tumorjax 1" in text
    size = 8 * np.prod(np.asarray(ANATOMY.grid.spacing)) / 1000
    assert f"The tumour core ({size:.1f} ml) and whole lesion" in text and "Further images: T1." in text


def test_titles_stand_inside_a_sentence():
    result = SimpleNamespace(
        patient=patient(TissueSource.of(atlas())), model=MassEffect(), calibration=calibration(LBFGS), plan=1, margin=15
    )
    text = " ".join(methods_text(result, "")[0])
    assert "by the growth with mass effect [" in text and "shares the patient's world" in text
    for kind in (*methods().values(), *models().values()):
        assert all(work.endswith(".") and len(work) > 40 for work in kind.references), kind


def test_tissue_is_where_the_registration_puts_it():
    shown = tissue_of(patient(TissueSource.of(atlas(), moved(2))))
    still = tissue_of(patient(TissueSource.of(atlas())))
    assert still.atlas is None and "as it lies" in still.tissue_of
    inside = np.zeros(ANATOMY.grid.shape, bool)
    inside[5:12, 6:14, 5:11] = True
    np.testing.assert_array_equal(shown.tissue[inside], np.roll(still.tissue, -2, axis=0)[inside])
    image = np.where(atlas().brain.data > 0, atlas().t1.data, 0)
    np.testing.assert_allclose(shown.atlas[inside], np.roll(image, -2, axis=0)[inside], atol=1e-3)
    assert shown.atlas_title == "icbm152" and set(np.unique(still.tissue)) == {0, 1, 2, 3}
    assert tissue_of(patient(TissueSource.of(atlas()), images=("segmentation",))) is None
