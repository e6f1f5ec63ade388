"""A calibration shows itself as a table and a figure, and comes back from a file as it was."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tumorjax as tj
from tumorjax.calibration.estimates import quantities_seen
from tumorjax.calibration.saving import save_calibration
from tumorjax.quantity import Quantity
from tumorjax.storage import write_arrays


def prior_of(origin=None):
    origin = tj.Normal(np.array([1.0, 2.0, 3.0]), np.full(3, 4.0)) if origin is None else origin
    growth = tj.ScaledGrowthParams(tj.LogNormal(7.0, 0.7), tj.LogNormal(3.5, 0.35), origin)
    unknown = {
        "core": tj.OutlineParams(tj.Uniform(0.5, 0.85), tj.LogNormal(3.0, 0.7)),
        "lesion": tj.OutlineParams(tj.Uniform(0.05, 0.5), tj.LogNormal(3.0, 0.7)),
        "pet": tj.PetParams(tj.LogNormal(2.0, 0.5), tj.LogNormal(0.5, 0.7)),
    }
    return tj.Prior(tj.Parameters(growth, unknown))


def calibration_of(covariance=0.09, **more):
    prior = prior_of()
    z = 0.1 * jnp.arange(prior.size, dtype=float)
    spread = None if covariance is None else covariance * jnp.eye(prior.size)
    return tj.Calibration(
        prior.constrain(z), prior, z, spread, tj.CalibrationResult.VALUE, method="adjoint L-BFGS", **more
    )


def test_the_summary_gives_intervals_and_what_the_data_add():
    found = calibration_of()
    rows = {row.estimate.name: row for row in found.summary().rows}
    assert {"mu1", "mu2", "origin_x", "threshold_core", "pet_scale", "speed", "diffusivity"} <= set(rows)
    place = found.prior.names.index("growth.mu1")
    low, high = (
        float(found.prior.constrain(found.coordinates.at[place].add(side * 1.6448536 * 0.3)).growth.mu1)
        for side in (-1, 1)
    )
    np.testing.assert_allclose(rows["mu1"].interval, (low, high), rtol=1e-6)
    assert rows["mu1"].spread_left == pytest.approx(0.3)
    assert rows["speed"].spread_left is None and rows["speed"].estimate.fixed
    # A number that only follows from others is no coordinate.
    assert rows["diffusivity"].spread_left is None and rows["diffusivity"].estimate.deviation > 0


def test_print_and_notebook_show_the_table():
    found = calibration_of()
    text = str(found)
    assert text.startswith("Calibrated by adjoint L-BFGS (converged")
    (line,) = [line for line in text.splitlines() if line.startswith("mu1 ")]
    assert "mm" in line and "30%" in line and " to " in line
    page = found._repr_html_()
    assert page.count("<tr") == 1 + len(found.summary().rows) and "mu1" in page
    unsure = calibration_of(covariance=None)
    assert "mu1" in str(unsure) and unsure.summary().rows[0].interval is None
    # Inside of a transformation numbers are not known.
    assert jax.jit(lambda c: repr(c) and c.coordinates)(found).shape == found.coordinates.shape


@pytest.mark.parametrize(
    "change",
    [
        lambda found: jax.eval_shape(lambda: found),
        lambda found: eqx.filter(found, eqx.is_array),
        lambda found: eqx.partition(found, eqx.is_array)[1],
        lambda found: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), found),
    ],
    ids=["shapes", "arrays", "rest", "batch"],
)
def test_what_is_not_one_calibration_shows_its_fields(change):
    found = change(calibration_of())
    assert repr(found).startswith("Calibration(") and found._repr_html_() is None


def test_the_figure_has_a_panel_for_each_unknown(tmp_path):
    found = calibration_of()
    figure = found.plot()
    assert len(figure.axes) == found.prior.size - 2  # the two sharpnesses have no row
    figure.savefig(tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 10_000


def test_a_file_keeps_everything(tmp_path):
    begun = calibration_of(covariance=None)
    found = calibration_of(histories=((3.0, 1.0),), cost=tj.Cost(3, 2, seconds=0.1), stats=(1, {"a": 2.5}), begun=begun)
    path = tmp_path / "found.safetensors"
    found.save(path)
    again = tj.load_calibration(path)
    assert type(again) is tj.Calibration and again.result is found.result and again.begun.covariance is None
    assert eqx.tree_equal(again, found)
    assert again.prior.names == found.prior.names and str(again) == str(found)
    assert jax.tree.structure(again) == jax.tree.structure(found)


def test_numbers_that_json_lacks_are_kept(tmp_path):
    found = calibration_of(stats=(float("inf"), 0.1 + 0.2, np.float32(1.5)))
    found.save(tmp_path / "found.safetensors")
    assert tj.load_calibration(tmp_path / "found.safetensors").stats == found.stats


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "found.safetensors"
    calibration_of().save(path)
    whole = path.read_bytes()
    for place in (4, 60, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="holds no calibration that can be used"):
            tj.load_calibration(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="holds no calibration"):
        tj.load_calibration(path)
    with pytest.raises(ValueError, match="holds no calibration"):
        tj.load_calibration(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "tree",
    [
        {"class": "os:system", "fields": {}},
        {"class": "subprocess:Popen", "fields": {}},
        {"class": "tumorjax.prior:Normal", "fields": {"mean": 0.0}},
        {"class": "tumorjax.nowhere:Thing", "fields": {}},
        {"class": "tumorjax.nowhere.deeper:Thing", "fields": {}},
        {"class": "tumorjax.quality.deeper:Thing", "fields": {}},
        {"class": "tumorjax.cli.__main__:Thing", "fields": {}},
        {"class": "antigravity:Thing", "fields": {}},
        {"tuple": [1, 2]},
        {"array": "none", "device": False},
    ],
    ids=json.dumps,
)
def test_a_file_makes_nothing_but_calibrations(tmp_path, tree):
    path = tmp_path / "forged.safetensors"
    write_arrays(path, "calibration", 1, {"tree": tree}, {})
    with pytest.raises(ValueError, match="holds no calibration"):
        tj.load_calibration(path)


def test_what_cannot_be_kept_is_named(tmp_path):
    found = dataclasses.replace(calibration_of(), stats=(lambda: 0,))
    with pytest.raises(ValueError, match=r"calibration\.stats\.0 is of function, which cannot be kept"):
        save_calibration(tmp_path / "found.safetensors", found)
    assert not list(tmp_path.iterdir())


def test_numbers_of_one_name_are_told_apart():
    class Shade:
        """The parameters of an image, whose numbers have one name whatever that of the image."""

        def quantities(self, name):
            return [Quantity("shade", "s", "", "how dark the image is", lambda params: params, "shade")]

    found = quantities_seen({"first": Shade(), "second": Shade()})
    assert [each.name for each in found] == ["shade", "shade_second"]
    assert [each.coordinate for each in found] == ["observations.first.shade", "observations.second.shade"]


def test_a_folder_is_no_file_of_a_calibration(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; give a file, such as .*calibration\.safetensors"):
        save_calibration(tmp_path, None)
