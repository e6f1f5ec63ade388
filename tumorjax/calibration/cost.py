"""The cost of a calculation."""

import equinox as eqx


class Cost(eqx.Module):
    """Solves of the growth model and the time that a calibration took; costs add up.

    Parameters
    ----------
    solves
        Forward solves on the problem's own voxels, those within gradients among them.
    gradients
        Evaluations of value and gradient on the problem's own voxels.
    coarse_solves, coarse_gradients
        The same on coarser voxels, or by another screen, such as a surrogate in place of a solve.
    seconds
        Elapsed time, s.
    """

    solves: int = 0
    gradients: int = 0
    coarse_solves: int = 0
    coarse_gradients: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of both."""
        return Cost(
            self.solves + other.solves,
            self.gradients + other.gradients,
            self.coarse_solves + other.coarse_solves,
            self.coarse_gradients + other.coarse_gradients,
            self.seconds + other.seconds,
        )

    def figures(self) -> dict[str, int]:
        """Return the numbers of solves and gradients by name, without those that are zero."""
        found = {"forward_solves": self.solves + self.coarse_solves}
        # A solve that belongs to a gradient is counted with it.
        more = {"gradients": self.gradients, "coarse_gradients": self.coarse_gradients}
        if self.coarse_solves > self.coarse_gradients:
            more["coarse_solves"] = self.coarse_solves
        return found | {name: count for name, count in more.items() if count}
