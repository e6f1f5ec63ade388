"""The diffusion operator: symmetric, conservative, bounded, and of second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import ball_brain, box, cosine_eigenvalue, cosine_mode, slope
from tumorjax.operators import diffuse, face_conductance, largest_eigenvalue_bound
from tumorjax.operators.diffusion import difference

SHAPE, SPACING = (5, 6, 4), np.array([1.0, 0.7, 1.9])


@jax.jit
def apply(diffusivity, domain, spacing, state):
    return diffuse(state, face_conductance(diffusivity, domain, spacing))


@pytest.fixture(scope="module")
def case():
    """A rough medium with a hole, its conductance, and the operator as a dense matrix."""
    rng = np.random.default_rng(1)
    diffusivity, domain = rng.uniform(0.1, 3, SHAPE), rng.uniform(size=SHAPE) > 0.25
    conductance = face_conductance(jnp.asarray(diffusivity), jnp.asarray(domain), jnp.asarray(SPACING))
    basis = jnp.eye(np.prod(SHAPE)).reshape(-1, *SHAPE)
    columns = jax.jit(jax.vmap(lambda c: diffuse(c, conductance)))(basis)
    return diffusivity, domain, conductance, np.asarray(columns).reshape(len(basis), -1).T


def test_matrix_is_that_of_finite_volumes(case):
    diffusivity, domain, _, matrix = case
    expected = np.zeros_like(matrix)
    for voxel in np.ndindex(*SHAPE):
        for axis in range(3):
            other = tuple(np.asarray(voxel) + np.eye(3, dtype=int)[axis])
            if other[axis] == SHAPE[axis] or not (domain[voxel] and domain[other]):
                continue
            face = (diffusivity[voxel] + diffusivity[other]) / 2 / SPACING[axis] ** 2
            i, j = (np.ravel_multi_index(v, SHAPE) for v in (voxel, other))
            expected[[i, j, i, j], [j, i, i, j]] += face * np.array([1, 1, -1, -1])
    np.testing.assert_allclose(matrix, expected, atol=1e-13)


def test_symmetric_negative_and_conservative(case):
    _, domain, conductance, matrix = case
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-13)
    np.testing.assert_allclose(matrix.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_array_equal(matrix[~domain.ravel()], 0)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.max() < 1e-12
    bound = float(largest_eigenvalue_bound(conductance))
    assert -eigenvalues.min() <= bound
    # Gershgorin: twice the largest diagonal entry.
    np.testing.assert_allclose(bound, 2 * np.abs(np.diagonal(matrix)).max(), rtol=1e-14)


def test_bound_is_nearly_reached_in_a_uniform_box():
    anatomy = box((12, 10, 11), (1.0, 1.5, 0.8))
    conductance = face_conductance(jnp.asarray(anatomy.white_matter), anatomy.tissue, jnp.asarray(anatomy.grid.spacing))
    largest = cosine_eigenvalue((12, 10, 11), (11, 9, 10), anatomy.grid.spacing)
    bound = float(largest_eigenvalue_bound(conductance))
    assert largest < bound < 1.05 * largest
    np.testing.assert_allclose(bound, 4 * np.sum(1 / anatomy.grid.spacing**2), rtol=1e-14)


def test_mass_is_conserved_in_a_brain():
    anatomy = ball_brain()
    state = np.random.default_rng(2).uniform(size=anatomy.grid.shape)
    relative = jnp.asarray(anatomy.white_matter + anatomy.grey_matter / 10)
    change = diffuse(jnp.asarray(state), face_conductance(relative, anatomy.tissue, jnp.asarray(anatomy.grid.spacing)))
    assert abs(float(change.sum())) < 1e-12 * float(jnp.abs(change).sum())
    np.testing.assert_array_equal(np.asarray(change)[~np.asarray(anatomy.tissue)], 0)


@pytest.mark.parametrize("orders", ((1, 0, 0), (0, 2, 0), (0, 0, 3), (2, 1, 3)))
def test_cosine_modes_are_eigenvectors(orders):
    anatomy = box((8, 9, 10), SPACING)
    conductance = face_conductance(jnp.full((8, 9, 10), 0.3), anatomy.tissue, jnp.asarray(SPACING))
    mode = cosine_mode((8, 9, 10), orders)
    expected = -0.3 * cosine_eigenvalue((8, 9, 10), orders, SPACING) * mode
    np.testing.assert_allclose(diffuse(jnp.asarray(mode), conductance), expected, atol=1e-13)


def test_second_order_in_the_spacing():
    lengths, sizes = np.array([20.0, 30.0, 25.0]), (8, 12, 24)
    wave = np.pi / lengths
    uniform, variable = [], []
    for n in sizes:
        spacing = lengths / n
        x, y, z = ((np.indices((n, n, n))[axis] + 0.5) * spacing[axis] * wave[axis] for axis in range(3))
        c = np.cos(x) * np.cos(y) * np.cos(z)
        domain = jnp.ones((n, n, n), bool)
        got = apply(jnp.ones((n, n, n)), domain, spacing, c)
        uniform.append(np.linalg.norm(got + np.sum(wave**2) * c) / np.linalg.norm(c))
        # D = 2 + cos(x): div(D grad c) = D lap c - sin(x) dc/dx, in units of the wave numbers.
        got = apply(2 + np.cos(x), domain, spacing, c)
        exact = -(2 + np.cos(x)) * np.sum(wave**2) * c + wave[0] ** 2 * np.sin(x) ** 2 * np.cos(y) * np.cos(z)
        variable.append(np.linalg.norm(got - exact) / np.linalg.norm(c))
    assert slope(sizes, uniform) == pytest.approx(-2, abs=0.05)
    assert slope(sizes, variable) == pytest.approx(-2, abs=0.05)


def test_minus_the_energy_is_the_potential_of_the_operator(case):
    _, _, conductance, _ = case
    state = jnp.asarray(np.random.default_rng(3).uniform(size=SHAPE))

    def energy(c):
        pairs = zip(conductance.offsets, conductance.edges, strict=True)
        return sum(jnp.sum(k * difference(c, e) ** 2) for e, k in pairs) / 2

    np.testing.assert_allclose(-jax.jit(jax.grad(energy))(state), diffuse(state, conductance), atol=1e-12)


def test_axes_of_one_voxel_carry_no_flux():
    anatomy = box((6, 1, 1))
    conductance = face_conductance(jnp.ones((6, 1, 1)), anatomy.tissue, jnp.ones(3))
    mode = cosine_mode((6, 1, 1), (2, 0, 0))
    expected = -cosine_eigenvalue((6, 1, 1), (2, 0, 0), 1.0) * mode
    np.testing.assert_allclose(diffuse(jnp.asarray(mode), conductance), expected, atol=1e-14)
