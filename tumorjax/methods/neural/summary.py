"""Summaries of images: a few numbers that distinguish parameters, or the images themselves as one map."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tumorjax.methods.neural.simulations import Kept, Predictions

# Directions whose signal has less than this share of the noise's variance are left out.
_FAINT = 0.02
# Simulations that are read at once.
_ROWS = 64


class Summary(NamedTuple):
    """Projections of data on directions along which predictions differ most, in units of the noise.

    Locally these are the directions of the score, the sufficient statistics of a likelihood that is Gaussian or
    Bernoulli: with predictions m and noise C, the log-likelihood's derivative is (dm / dz)^T C^-1 (y - m). Here m and C
    are those of simulations, so that the directions hold the derivatives wherever these simulations are.

    Parameters
    ----------
    centre
        (w,): mean prediction.
    directions
        (w, d), in units of one over the data's.
    information
        Share of 1/2 sum log(1 + signal / noise) over all directions that these directions have: of the information in
        the data, in the linear-Gaussian approximation.
    """

    centre: Float[np.ndarray, "w"]
    directions: Float[np.ndarray, "w d"]
    information: float

    @classmethod
    def of(cls, predictions: Predictions, most: int) -> "Summary":
        """Return the summary with `most` directions; faint directions are zero."""
        count = len(predictions.mean)
        centre = predictions.mean.mean(axis=0)
        away = predictions.mean - centre
        # A thousandth of the signal guards data without noise, such as isolines.
        variance = predictions.variance.mean(axis=0) + 1e-3 * away.var(axis=0)
        scale = 1 / np.sqrt(variance)
        signal = away * scale
        strength, axes = np.linalg.eigh(signal.astype(np.float64) @ signal.T / count)
        strength, axes = np.maximum(strength[::-1], 0), axes[:, ::-1]
        used = min(most, int(np.sum(strength > _FAINT)))
        directions = np.zeros((len(centre), most), np.float32)
        directions[:, :used] = signal.T @ (axes[:, :used] / np.sqrt(count * strength[:used])) * scale[:, None]
        content = np.log1p(strength)
        return cls(centre, directions, float(content[:used].sum() / max(content.sum(), 1e-300)))

    def features(self, kept: Kept, labels: int) -> Float[np.ndarray, "si f"]:
        """Return the features of all images of simulations, one after another: projections, and the extras."""
        parts = []
        for first in range(0, len(kept.z), _ROWS):
            some = kept.rows(slice(first, first + _ROWS))
            projections = (some.data(labels) - self.centre) @ self.directions
            parts.append(
                np.concatenate([projections, some.extras.reshape(len(projections), some.extras.shape[2])], axis=1)
            )
        return np.concatenate(parts).astype(float)

    def of_patient(self, data: Float[np.ndarray, "w"], extras: Float[np.ndarray, "f"]) -> Float[np.ndarray, "f"]:
        """Return the features of the patient."""
        return np.concatenate([(data.astype(np.float32) - self.centre) @ self.directions, extras]).astype(float)


class LabelMap(NamedTuple):
    """The sum of the outlines' labels in each voxel, and the values of other images as they are: the published input.

    Parameters
    ----------
    voxels
        (l,): for each label that is kept, the number of its voxel among those that have one.
    size
        Number of these voxels.
    """

    voxels: Int[np.ndarray, "l"]
    size: int

    @classmethod
    def of(cls, seen: Int[np.ndarray, "w"], labels: int, outlines: int) -> "LabelMap":
        """Return the map of the data that are kept, the first of which are labels of outlines of the same voxels."""
        own, voxels = np.unique(seen[seen < labels] % (labels // max(outlines, 1)), return_inverse=True)
        return cls(voxels.ravel(), len(own))

    def features(self, kept: Kept) -> Float[np.ndarray, "si f"]:
        """Return the maps of all images of simulations, one after another, in single precision."""
        parts = []
        for first in range(0, len(kept.z), _ROWS):
            some = kept.rows(slice(first, first + _ROWS))
            parts.append(self._summed(some.data(len(self.voxels))))
        return np.concatenate(parts)

    def of_patient(self, data: Float[np.ndarray, "w"]) -> Float[np.ndarray, "f"]:
        """Return the map of the patient."""
        return self._summed(data.astype(np.float32)[None])[0]

    def _summed(self, data: Float[np.ndarray, "m w"]) -> Float[np.ndarray, "m f"]:
        labels, values = data[:, : len(self.voxels)], data[:, len(self.voxels) :]
        found = np.zeros((self.size, len(data)), np.float32)
        np.add.at(found, self.voxels, labels.T)
        return np.concatenate([found.T, values], axis=1)


def typicality(features: Float[np.ndarray, "s f"], patient: Float[np.ndarray, "f"]) -> float:
    """Return the share of simulations that are farther from the mean of all than the patient, by Mahalanobis distance.

    Near zero no simulation is like the patient, so that a network has to extrapolate.
    """
    middle, spread = features.mean(axis=0), features.std(axis=0)
    varies = spread > 1e-6 * (1 + np.abs(middle))
    rows = ((features - middle) / np.where(varies, spread, 1))[:, varies]
    correlation = rows.T @ rows / len(rows) + 1e-3 * np.eye(rows.shape[1])
    factor = np.linalg.inv(np.linalg.cholesky(correlation))
    distance = np.sum((rows @ factor.T) ** 2, axis=1)
    own = np.sum((factor @ ((patient - middle) / np.where(varies, spread, 1))[varies]) ** 2)
    return float((np.sum(distance >= own) + 1) / (len(rows) + 1))
