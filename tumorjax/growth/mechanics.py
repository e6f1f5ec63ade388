"""The elastic constants of tissue and tumour."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tumorjax.checks import check_numbers, check_positive, concrete
from tumorjax.operators import lame


class Mechanics(eqx.Module):
    """Elastic constants of white matter, grey matter, CSF and tumour, in this order.

    Parameters
    ----------
    young
        E, Pa.
    poisson
        nu, dimensionless, below one half.

    Raises
    ------
    ValueError
        If a concrete modulus is not positive, or a ratio not between -1 and 1/2.

    References
    ----------
    Subramanian et al., "Multiatlas calibration of biophysical brain tumor growth models with mass effect",
    MICCAI 2020, table S1.
    """

    young: tuple[Float[Any, ""], ...] = eqx.field(converter=tuple, default=(2100.0, 2100.0, 100.0, 8000.0))
    poisson: tuple[Float[Any, ""], ...] = eqx.field(converter=tuple, default=(0.4, 0.4, 0.1, 0.45))

    def __check_init__(self) -> None:
        if len(self.young) != 4 or len(self.poisson) != 4:
            raise ValueError(f"give young and poisson of four materials each, got {self.young} and {self.poisson}")
        for modulus, ratio in zip(self.young, self.poisson, strict=True):
            check_positive("Young's modulus", modulus)
            check_numbers("Poisson's ratio", ratio)
            known = concrete(ratio)
            if known is not None and not np.all((known > -1) & (known < 0.5)):
                raise ValueError(f"Poisson's ratio must lie between -1 and 1/2, got {known}")

    def moduli(self, dtype: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return lambda and mu of each material, Pa."""
        pairs = [
            lame(jnp.asarray(modulus, dtype), jnp.asarray(ratio, dtype))
            for modulus, ratio in zip(self.young, self.poisson, strict=True)
        ]
        return tuple(first for first, _ in pairs), tuple(shear for _, shear in pairs)
