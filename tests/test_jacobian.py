"""The Jacobian determinant of displacements."""

import jax.numpy as jnp
import numpy as np

from tumorjax.operators import jacobian_determinant

INNER = (slice(1, -1),) * 3


def linear(matrix):
    """Return the displacement x -> matrix x in voxels."""
    return jnp.asarray(np.einsum("ij,j...->i...", matrix, np.indices((5, 6, 7)).astype(float)))


def test_the_determinant_of_a_linear_map_is_that_of_its_matrix():
    matrix = np.array([[0.2, -0.3, 0.1], [0.4, -0.1, 0.2], [0.0, 0.3, 0.5]])
    found = jacobian_determinant(linear(matrix))[INNER]
    np.testing.assert_allclose(found, np.linalg.det(np.eye(3) + matrix), rtol=1e-12)


def test_a_map_that_turns_an_axis_round_folds():
    assert (jacobian_determinant(linear(np.diag([-1.5, 0.0, 0.0])))[INNER] < 0).all()
    assert (jacobian_determinant(linear(np.diag([-0.5, 0.0, 0.0])))[INNER] > 0).all()
