"""Smooth blobs in place of tumours, for tests in which growing tumours would take too long."""

import numpy as np


def blob_densities(count, shape, seed, shift=0.0):
    """Return ellipsoids as stored densities (count, x, y, z), all with a core, moved by `shift` voxels along x."""
    random, found = np.random.default_rng(seed), []
    where = np.moveaxis(np.indices(shape).astype(float), 0, -1)
    for _ in range(count):
        centre, radii = random.uniform(0.3, 0.7, 3) * shape, random.uniform(2.0, 4.5, 3)
        distance = np.linalg.norm((where - centre - (shift, 0, 0)) / radii, axis=-1)
        found.append(np.round(255 / (1 + np.exp(random.uniform(2, 4) * (distance - 1)))))
    return np.stack(found).astype(np.uint8)
