"""What is left between two images after a registration: sharpness, and a flow."""

import numpy as np
from scipy import ndimage

from tumorjax.patient.optical_flow import equally_sharp, flow

SPACING = np.array([2.0, 2.0, 2.0])
WORLD = 2.0 * np.moveaxis(np.indices((32, 30, 28)), 0, -1)


def bright(places):
    """Brightness with edges in all directions, on the scale of gyri."""
    x, y, z = np.moveaxis(places, -1, 0)
    return np.sin(x / 4 + 0.3) * np.cos(y / 5) + np.sin(z / 4.5 + y / 7) + np.cos((x - z) / 6)


def gradient_of(image):
    return np.stack(np.gradient(image, 2.0), axis=-1)


def test_flows_lead_to_the_displacement_of_a_moved_image():
    d = np.array([1.5, -1.2, 0.9])
    own, found = bright(WORLD + d), np.zeros((*WORLD.shape[:3], 3))
    for _ in range(4):
        other = bright(WORLD + found)
        found += flow((gradient_of(own) + gradient_of(other)) / 2, own - other, np.ones(own.shape, bool), SPACING)
    middle = found[8:-8, 8:-8, 8:-8]
    np.testing.assert_allclose(middle, np.broadcast_to(d, middle.shape), atol=0.12)


def test_voxels_that_do_not_count_have_no_say_in_the_flow():
    own, other = bright(WORLD + 0.4), bright(WORLD)
    where = np.ones(own.shape, bool)
    where[:, :, 14:] = False
    spoilt = own.copy()
    spoilt[~where] = 100.0
    gradient = gradient_of(other)
    np.testing.assert_array_equal(
        flow(gradient, own - other, where, SPACING), flow(gradient, spoilt - other, where, SPACING)
    )


def test_the_sharper_image_is_smoothed():
    random = np.random.default_rng(0)
    image = ndimage.gaussian_filter(random.standard_normal((32, 30, 28)), 1.0)
    blurred, inside = ndimage.gaussian_filter(image, 1.4 / SPACING), np.ones(image.shape, bool)
    own, other = equally_sharp(image, blurred, inside, SPACING)
    np.testing.assert_allclose(own, blurred, atol=1e-12)
    assert other is blurred
    own, other = equally_sharp(blurred, image, inside, SPACING)
    np.testing.assert_allclose(other, blurred, atol=1e-12)
    assert own is blurred
