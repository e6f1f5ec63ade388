"""A smooth field by which the rate of division departs from that of the model."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import TRUTH, small_brain
from tumorjax.ensemble.description import describe
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, Forcing, MassEffect
from tumorjax.integrate import simulate

pytestmark = pytest.mark.usefixtures("compiled_plainly")


def oblique(shape, spacing):
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned * spacing, (5.0, -3.0, 8.0)
    return Grid(shape, affine)


@pytest.fixture(scope="module")
def grid():
    return oblique((24, 20, 16), np.array([2.0, 2.5, 3.0]))


@pytest.fixture(scope="module")
def forcing(grid):
    region = np.zeros(grid.shape, bool)
    region[4:20, 3:17, 3:13] = True
    flat = Forcing.around(region, grid, 9.0)
    weights = np.random.default_rng(0).normal(size=flat.lattice.shape)
    return dataclasses.replace(flat, weights=weights)


def test_a_field_without_weights_changes_nothing(grid, forcing):
    flat = dataclasses.replace(forcing, weights=np.zeros_like(forcing.weights))
    np.testing.assert_array_equal(flat.rates(grid, float), 1.0)


def test_the_field_has_the_deviation_of_its_weights(grid, forcing):
    draws = np.random.default_rng(1).normal(size=(300, *forcing.lattice.shape))
    fields = jax.vmap(lambda weights: dataclasses.replace(forcing, weights=weights).field(grid, float))(draws)
    inside = np.asarray(fields.std(axis=0))[4:20, 3:17, 3:13]
    # The sum of squares of the splines varies by 4 % along each axis, and 300 draws by as much.
    np.testing.assert_allclose(inside, 1.0, atol=0.25)
    assert inside.mean() == pytest.approx(1.0, abs=0.03)


def test_the_field_belongs_to_the_world_and_not_to_the_voxels(grid, forcing):
    whole = np.asarray(forcing.field(grid, float))
    part = Grid((10, 8, 6), np.asarray(grid.affine) @ np.block([[np.eye(3), np.array([[5], [6], [4]])], [0, 0, 0, 1]]))
    np.testing.assert_allclose(forcing.field(part, float), whole[5:15, 6:14, 4:10], atol=1e-12)


def test_beyond_its_lattice_the_field_is_zero(grid, forcing):
    far = Grid((4, 4, 4), np.asarray(grid.affine) + np.eye(4, k=3) * 500)
    np.testing.assert_array_equal(forcing.field(far, float), 0.0)


@pytest.mark.parametrize(
    "region, length, words", ((False, 9.0, "a voxel"), (True, 0.0, "length must be finite and positive"))
)
def test_a_lattice_needs_a_region_and_a_length(grid, region, length, words):
    with pytest.raises(ValueError, match=words):
        Forcing.around(np.full(grid.shape, region), grid, length)


def test_weights_need_the_shape_of_the_lattice(forcing):
    with pytest.raises(ValueError, match="a weight for each"):
        Forcing(np.zeros((2, 2, 2)), forcing.lattice)


@eqx.filter_jit
def _cells(model, anatomy):
    return simulate(model, TRUTH, anatomy).density.sum()


def test_cells_divide_as_the_field_says():
    anatomy = small_brain(float)
    flat = Forcing.around(np.asarray(anatomy.tissue), anatomy.grid, 16.0)
    everywhere = dataclasses.replace(flat, weights=jnp.full(flat.lattice.shape, 0.2))
    # Within the lattice the splines add up to one, and a normalises their squares.
    rate = float(jnp.exp(everywhere.field(anatomy.grid, float))[10, 10, 10])
    twice = _cells(FisherKolmogorov().forced(everywhere), anatomy)
    same = simulate(FisherKolmogorov(), dataclasses.replace(TRUTH, mu2=TRUTH.mu2 * np.sqrt(rate)), anatomy)
    assert float(twice) == pytest.approx(float(same.density.sum()), rel=0.02)


def test_the_derivative_by_its_weights_is_exact():
    anatomy = small_brain(float)
    flat = Forcing.around(np.asarray(anatomy.tissue), anatomy.grid, 24.0)

    def cells(weights):
        return _cells(FisherKolmogorov().forced(dataclasses.replace(flat, weights=weights)), anatomy)

    zero, direction = jnp.zeros(flat.lattice.shape), np.random.default_rng(2).normal(size=flat.lattice.shape)
    slope = float(jnp.vdot(jax.grad(cells)(zero), direction))
    step = 1e-3
    difference = float(cells(step * direction) - cells(-step * direction)) / (2 * step)
    assert slope == pytest.approx(difference, rel=1e-4)


def test_mass_effect_has_the_forcing_of_its_cells(forcing):
    assert MassEffect().forced(forcing).growth.forcing is forcing


def test_a_model_without_forcing_is_described_as_ever():
    """Databases and weights that were made before the field existed keep their descriptions."""
    assert "forcing" not in json.dumps(describe(FisherKolmogorov()))
    with pytest.raises(ValueError, match="cannot keep a Forcing"):
        describe(FisherKolmogorov().forced(Forcing(np.zeros((1, 1, 1)), Grid((1, 1, 1), np.eye(4)))))
