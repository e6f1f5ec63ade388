"""Cells at the patient's voxels: they fill the tissue up to its walls, and no fluid."""

import numpy as np

from tumorjax.grid import Grid
from tumorjax.io import Volume, to_voxels
from tumorjax.pipeline.volumes import in_tissue

COARSE = Grid.from_spacing((6, 6, 6), 4.0)
FINE = COARSE.with_spacing(1.0)
LIKE = Volume(np.zeros(FINE.shape, np.float32), np.asarray(FINE.affine))


def fine(values):
    return to_voxels(values, COARSE, LIKE)


def test_a_constant_density_is_constant_up_to_the_walls_and_zero_in_fluid():
    domain = np.zeros(COARSE.shape, bool)
    domain[1:5, 1:5, 1:4] = True
    # A sulcus thinner than a voxel of the computing grid, in the middle of the domain.
    tissue = np.kron(domain, np.ones((4, 4, 4))).astype(bool)
    tissue[10:12] = False
    density = np.where(domain, 0.6, 0.0)
    found = in_tissue(fine, domain, tissue)(density)
    np.testing.assert_allclose(found[tissue], 0.6, atol=1e-6)
    assert not found[~tissue].any()
    # Which a mere interpolation is not.
    assert fine(density)[tissue].min() < 0.3 and fine(density)[~tissue].max() > 0.5


def test_inside_the_domain_the_density_is_interpolated_linearly():
    domain = np.ones(COARSE.shape, bool)
    slope = np.broadcast_to(np.linspace(0, 1, 6)[:, None, None], COARSE.shape)
    everywhere = np.ones(FINE.shape, bool)
    np.testing.assert_allclose(in_tissue(fine, domain, everywhere)(slope), fine(slope), atol=1e-6)
