"""Conversion of a database to training data for networks."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tumorjax.ensemble.database import Database
from tumorjax.ensemble.description import described
from tumorjax.growth import MassEffectParams

if TYPE_CHECKING:
    from tumorjax.networks import Tumours


def tumours_of(
    database: Database, count: int | None = None, progress: Callable[[float], None] = lambda share: None
) -> "Tumours":
    """Read the first tumours of a database into memory, with their parameters and anatomy.

    Parameters
    ----------
    database
        A database of tumours that grew from seeds.
    count
        Number of tumours; by default all.
    progress
        Function that is called with the share that has been read.

    Returns
    -------
    Tumours
        The tumours, with the parameters D (mm^2/day), rho (1/day), T (day), mu1 (mm) and mu2, and with mass effect also
        gamma (Pa).
    """
    from tumorjax.networks import Tumours

    if database.anatomy.fibres is not None:
        raise ValueError(
            f"the tumours of {database.url} grew along fibres, which no network sees; give a database without them"
        )
    growth, own = database.parameters(slice(count)), database.anatomy
    physical = growth.physical()
    values = {"D": physical.diffusivity, "rho": physical.proliferation, "T": physical.duration}
    numbers = {name: np.asarray(value, float) for name, value in values.items()}
    numbers["mu1"], numbers["mu2"] = (np.sqrt(numbers[name] * numbers["T"]) for name in ("D", "rho"))
    if isinstance(growth, MassEffectParams):
        numbers["gamma"] = np.asarray(growth.mass_effect, float)
    return Tumours.of(
        database.blocks(count, progress),
        np.asarray(own.grid.to_index(np.asarray(growth.origin, float))),
        numbers,
        np.stack([np.asarray(each) for each in (own.white_matter, own.grey_matter, own.csf)], axis=-1),
        np.asarray(own.grid.spacing),
        np.asarray(own.grid.affine, float),
        described(database.recipe.model),
    )
