"""The error with which the state at time zero is carried from an atlas back to the patient."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tumorjax.calibration.calibration import Calibration

_CENTRES = "growth.growth.origin.centres["


def with_place_error(member: Calibration, error: float) -> Calibration:
    """Return the calibration in an atlas with the error of carrying its places added to the covariance.

    It moves all Gaussians by the same vector, whose numbers are independent and normal with this standard deviation,
    so that every place that they have together, such as their centre of mass, has that much more variance. The scan
    says nothing of it.

    Parameters
    ----------
    member
        The calibration in an atlas, with the Gaussians' places about where they lie in the patient.
    error
        mm, along each axis.
    """
    if not error or member.covariance is None:
        return member
    spread = np.broadcast_to(
        np.asarray(member.prior.distributions.growth.growth.origin.centres.scale, float),
        np.shape(member.params.growth.growth.origin.centres),
    )
    moved = np.zeros((3, len(member.prior.names)))
    for i, name in enumerate(member.prior.names):
        if name.startswith(_CENTRES):
            number, axis = divmod(int(name.removeprefix(_CENTRES).removesuffix("]")), 3)
            moved[axis, i] = error / spread[number, axis]
    added = jnp.asarray(moved.T @ moved, member.covariance.dtype)
    return dataclasses.replace(member, covariance=member.covariance + added)
