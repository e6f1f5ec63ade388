"""Small cases with known answers, as pure functions."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.calibration import Parameters, Problem
from tumorjax.grid import Grid
from tumorjax.growth import FisherKolmogorov, ScaledGrowthParams
from tumorjax.integrate import CheckpointedAdjoint, Interval, simulate
from tumorjax.observation import Outline, OutlineParams, Pet, PetParams
from tumorjax.prior import LogNormal, Normal, Prior, Uniform


def box(shape, spacing=1.0) -> Anatomy:
    """Return a box full of white matter: constant coefficients and reflecting walls."""
    grid = Grid.from_spacing(shape, spacing)
    return Anatomy(grid, np.ones(grid.shape), np.zeros(grid.shape), np.zeros(grid.shape))


def ball_brain(shape=(18, 20, 16), spacing=(2.0, 1.8, 2.2)) -> Anatomy:
    """Return a ball of white matter in a shell of grey, with CSF around it and in a hole off the centre.

    The maps are smooth across the borders, like those of a real atlas. The ball reaches three quarters of the
    way to the nearest side of the box.
    """
    grid = Grid.from_spacing(shape, spacing)
    world = np.asarray(grid.to_world(np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)))
    size = float(min(np.asarray(grid.shape) * np.asarray(grid.spacing)) / 2)

    def within(radius, middle=(0.0, 0.0, 0.0)):
        distance = np.linalg.norm(world - size * np.asarray(middle), axis=-1)
        return 1 / (1 + np.exp((distance - radius * size) / (0.05 * size)))

    brain, inner, hole = within(0.75), within(0.45), within(0.3, (0.25, 0.1, -0.15))
    white = inner * (1 - hole)
    grey = (brain - inner) * (1 - hole)
    return Anatomy(grid, white, grey, 1 - white - grey)


def small_brain(dtype=np.float32) -> Anatomy:
    """Return the tissue of a ball of brain in voxels of 4 mm, in which a tumour can be calibrated quickly."""
    anatomy = ball_brain((24, 24, 24), 4.0)
    return anatomy.crop(*anatomy.box()).astype(dtype)


def cosine_mode(shape, orders):
    """Return a product of cosines that satisfies reflecting walls, with `orders` half waves along each axis."""
    waves = [np.cos(np.pi * k * (np.arange(n) + 0.5) / n) for n, k in zip(shape, orders, strict=True)]
    return waves[0][:, None, None] * waves[1][None, :, None] * waves[2][None, None, :]


def cosine_eigenvalue(shape, orders, spacing):
    """Return the eigenvalue of minus the discrete Laplacian for a cosine mode, 1/mm^2."""
    waves = zip(shape, orders, np.broadcast_to(spacing, 3), strict=True)
    return float(sum((2 / h * np.sin(np.pi * k / (2 * n))) ** 2 for n, k, h in waves))


@eqx.filter_jit
def advance(stepper, terms, state, interval=Interval()):  # noqa: B008
    """Return the state after an interval of unit length, from any initial state; and the steps it took."""
    return CheckpointedAdjoint().advance(stepper, terms, state, interval), stepper.schedule(terms, interval).steps


def slope(sizes, errors) -> float:
    """Return the slope of log(error) over log(size), by least squares."""
    return float(np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(errors, float)), 1)[0])


TRUTH = ScaledGrowthParams(mu1=8.0, mu2=3.0, origin=np.array([-12.0, -6.0, 5.0]))
OUTLINES = {"core": OutlineParams(0.65, 4.0), "lesion": OutlineParams(0.25, 4.0)}


def patient(labels="drawn", *, pet=None, dtype=float) -> Problem:
    """Return the calibration problem of a patient whose tumour was simulated by the model with the parameters `TRUTH`.

    Every number that the package might tune is given here.

    Parameters
    ----------
    labels
        "drawn": each voxel is labelled with its probability at `OUTLINES`, all independently. "shares": its
        label is that probability, so that the likelihood is largest at the truth. "isolines": outlines follow
        the isolines of the density.
    pet
        Scale and noise of an image of the tracer, if there is one.
    """
    anatomy = small_brain(dtype)
    model = FisherKolmogorov()
    density = simulate(model, TRUTH, anatomy).density
    # Every voxel counts as independent.
    settings = {"false_positive": 0.01, "false_negative": 0.02, "effective_voxels": 1e6}
    rng = np.random.default_rng(0)
    observations, unknown = {}, {}
    for name, bounds in (("core", (0.5, 0.85)), ("lesion", (0.05, 0.5))):
        params = OUTLINES[name]
        sure = (density > params.threshold).astype(dtype)
        probability = Outline(sure, anatomy.tissue, **settings).probability(density, params)
        drawn = (rng.uniform(size=density.shape) < np.asarray(probability)) & np.asarray(anatomy.tissue)
        inside = {"isolines": sure, "shares": probability, "drawn": jnp.asarray(drawn, dtype)}[labels]
        observations[name] = Outline(inside, anatomy.tissue, **settings)
        unknown[name] = OutlineParams(Uniform(*bounds), LogNormal(3.0, 0.7))
    if pet is not None:
        scale, noise = pet
        signal = scale * np.asarray(density) + noise * rng.normal(size=density.shape)
        observations["pet"] = Pet(jnp.asarray(signal, dtype), anatomy.tissue, effective_voxels=1e6)
        unknown["pet"] = PetParams(LogNormal(1.5 * scale, 0.5), LogNormal(2.0 * noise, 0.7))
    growth = ScaledGrowthParams(LogNormal(7.0, 0.7), LogNormal(3.5, 0.35), Normal(np.array([-9.0, -8.0, 3.0]), 8.0))
    return Problem(model, anatomy, observations, Prior(Parameters(growth, unknown)))
