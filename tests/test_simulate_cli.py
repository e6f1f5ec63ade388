"""The command `tumorjax simulate` with mass effect: what it writes, and what it refuses."""

import json

import nibabel as nib
import numpy as np
import pytest

from tumorjax.anatomy import Anatomy
from tumorjax.cli import main
from tumorjax.grid import Grid
from tumorjax.growth import GrowthParams, MassEffect, MassEffectParams
from tumorjax.integrate import simulate

pytestmark = pytest.mark.usefixtures("jax_as_installed")

ORIGIN = (-25.0, -10.0, 15.0)


def growth(atlas, out, *more):
    numbers = ["--diffusivity=0.15", "--proliferation=0.03", "--duration=300", "--origin", *map(str, ORIGIN)]
    model = ["--model=mass-effect", "--mass-effect=40000"]
    return ["simulate", *numbers, *model, f"--atlas={atlas}", "--resolution=8", f"--out={out}", *more]


def read(path):
    return nib.load(path).get_fdata()


@pytest.mark.parametrize(
    ("more", "model"),
    [([], MassEffect()), (["--growth-in=white-matter"], MassEffect.published())],
    ids=("tissue", "white matter"),
)
def test_displacement_and_displaced_tissue_are_written(atlas, tmp_path, capsys, more, model):
    out = tmp_path / "out"
    assert main(growth(atlas, out, "--json", "--save-every=200", *more)) == 0
    names = {path.name for path in out.iterdir()}
    frames = {f"density_{i:03d}.nii.gz" for i in range(3)}
    maps = {"wm.nii.gz", "gm.nii.gz", "csf.nii.gz", "displacement.nii.gz", "density.nii.gz"}
    assert names == {*maps, *frames, "simulation.json", "SHA256SUMS"}
    before = [nib.load(atlas / f"{name}.nii.gz") for name in ("wm", "gm", "csf")]
    image = nib.load(out / "displacement.nii.gz")
    assert image.shape == (*before[0].shape, 1, 3)
    assert image.header.get_intent()[0] == "displacement vector"
    assert image.header.get_xyzt_units()[0] == "mm"
    assert b"mm along the axes of RAS" in image.header["descrip"].item()
    np.testing.assert_allclose(image.affine, before[0].affine)
    moved = image.get_fdata()[:, :, :, 0]
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["max_displacement_mm"] == pytest.approx(np.linalg.norm(moved, axis=-1).max(), rel=1e-4)
    assert metrics["max_displacement_mm"] > 0.3
    # Away from the origin, along the axes of the world.
    back = np.linalg.inv(image.affine)
    for axis in range(3):
        for sign in (-1, 1):
            index = back @ [*(np.array(ORIGIN) + sign * 20 * np.eye(3)[axis]), 1]
            assert sign * moved[(*np.rint(index[:3]).astype(int), axis)] > 0
    # The tissue has moved, and is there still.
    for name, old in zip(("wm", "gm", "csf"), before, strict=True):
        now = read(out / f"{name}.nii.gz")
        assert now.min() >= 0 and now.max() <= 1
        assert not np.allclose(now, old.get_fdata(), atol=0.02)
    # These are the numbers of the solver.
    maps = [np.asarray(each.get_fdata(), np.float32) for each in before]
    own = Anatomy(Grid(before[0].shape, before[0].affine), *maps)
    params = MassEffectParams(GrowthParams(0.15, 0.03, np.array(ORIGIN), 300.0), 40000.0)
    known = simulate(model, params, own)
    np.testing.assert_allclose(moved, known.displacement, atol=0.01)
    np.testing.assert_allclose(read(out / "density.nii.gz"), known.density, atol=1e-3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mass-effect=-1"], "mass_effect must be finite and not negative, got -1"),
        (["--mass-effect=nan"], "argument --mass-effect: got nan; give a finite number"),
        (["--mass-effect=1e9"], "the tissue moves too far in one step"),
        (["--mass-effect=1e9", "--growth-in=white-matter"], "the displacement folds"),
        (["--ratio=5", "--growth-in=white-matter"], "ratio: is not for growth in white matter alone; leave it out"),
        (["--ratio=0"], "ratio must be positive, got 0"),
        (["--growth-in=csf"], "argument --growth-in: invalid choice: 'csf'"),
        (["--model=fisher-kolmogorov"], "mass-effect: is not for fisher-kolmogorov; leave it out or add --model"),
        (["--origin", "300", "0", "0"], "outside white and grey matter"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_bad_numbers_are_one_line_and_leave_nothing(atlas, tmp_path, capsys, more, message):
    out = tmp_path / "out"
    try:
        code = main(growth(atlas, out, "--quiet", *more))
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and message in text
    assert not out.exists()


def test_mass_effect_needs_its_number(atlas, tmp_path, capsys):
    command = [each for each in growth(atlas, tmp_path / "out", "--quiet") if not each.startswith("--mass-effect")]
    assert main(command) == 2
    assert "mass-effect: is missing; give --mass-effect PA: how strongly the tumour pushes" in capsys.readouterr().err
