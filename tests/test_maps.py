"""The images that a personalization leaves in the atlas' geometry."""

import numpy as np
import pytest
from scipy import ndimage

from tumorjax.grid import Grid
from tumorjax.io import Volume
from tumorjax.registration import Field, Transform
from tumorjax.results.maps import _warp_in, _where

OWN = Grid((30, 28, 26), np.diag([2.0, 2.0, 2.0, 1.0]))


def crooked():
    """A rotated map with a deformation of a few millimetres, from the patient's world to another one."""
    noise = np.random.default_rng(0).normal(size=(15, 14, 13, 3))
    field = np.stack([ndimage.gaussian_filter(part, 2.0) for part in np.moveaxis(noise, -1, 0)], axis=-1)
    field *= 3.0 / np.abs(field).max()
    angle, matrix = 0.3, np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = 12.0, -5.0, 3.0
    lattice = np.diag([4.0, 4.0, 4.0, 1.0])
    return Transform(matrix, field=Field(lattice, field, -field), inverse_error=(0.3, 2.0))


@pytest.mark.parametrize("middle", ((15, 14, 13), (2, 3, 24), (28, 2, 2)))
def test_a_tumour_is_warped_as_a_whole_in_its_own_box(middle):
    other = Grid((64, 60, 50), np.diag([1.5, 1.5, 1.5, 1.0]))
    away = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(np.indices(OWN.shape), middle, strict=True)))
    labels = np.select([away < 2, away < 4], [1, 2]).astype(np.uint8)
    volume, transform = Volume(labels, np.asarray(OWN.affine), None, "tumour"), crooked()
    box = _where(labels > 0, OWN, transform, other)
    found, whole = (
        _warp_in(each, volume, transform.inverse(), other, "label") for each in (box, ((0, 0, 0), other.shape))
    )
    np.testing.assert_array_equal(found, whole)
    assert np.prod(box[1]) < 0.25 * np.prod(other.shape)
