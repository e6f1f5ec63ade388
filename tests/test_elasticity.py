"""Elasticity: the operator, its order, its solver, and the derivatives of the solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import slope
from tumorjax.operators.elasticity import (
    elastic_force,
    flat_faces,
    free_faces,
    from_flat,
    gradient_on_faces,
    lame,
    stiffness,
    strains,
    strides,
    to_flat,
)
from tumorjax.operators.equilibrium import solve_elasticity
from tumorjax.operators.fourier import Fourier
from tumorjax.operators.multigrid import Multigrid

pytestmark = pytest.mark.usefixtures("compiled_plainly")

SHAPE, SPACING = (6, 5, 7), np.array([1.0, 0.7, 1.6])
PRECONDITIONERS = (Multigrid(smallest=3), Fourier())


def faces_of(shape, spacing):
    """Return the positions (3, 3, x, y, z) of the faces: of each component, its coordinates, from the box's corner."""
    centres = (np.indices(shape) + 0.5) * np.reshape(spacing, (3, 1, 1, 1))
    offset = np.diag(spacing / 2)
    return centres[None] + offset[:, :, None, None, None]


def rough(shape=SHAPE, seed=1, spacing=SPACING, dtype=float):
    """Return a force and rough moduli in a head with holes, the free faces and the spacing."""
    rng = np.random.default_rng(seed)
    head = rng.uniform(size=shape) > 0.15
    first, shear = np.exp(rng.normal(size=(2, *shape))) * np.reshape([4, 1], (2, 1, 1, 1))
    arrays = (rng.normal(size=(3, *shape)), first, shear, np.asarray(free_faces(head)), spacing)
    return tuple(jnp.asarray(a, dtype) for a in arrays)


def dense(function, shape):
    basis = jnp.eye(3 * int(np.prod(shape))).reshape(-1, 3, *shape)
    return np.asarray(jax.jit(jax.vmap(function))(basis)).reshape(len(basis), -1).T


@pytest.fixture(scope="module")
def case():
    """A rough medium, its free faces, and the operator as a dense matrix."""
    _, first, shear, free, spacing = rough()
    medium = stiffness(first, shear, free, spacing)
    return medium, np.asarray(free, bool).ravel(), dense(lambda u: elastic_force(u, medium), SHAPE)


def head_with_tumour(n, dtype=float):
    """Return a force, moduli, free faces and spacing: soft fluid round and inside tissue, and a stiff tumour."""
    shape, spacing = (n, n + n // 4, n + n // 12), np.full(3, 150.0 / n)
    x = (np.indices(shape) + 0.5) * spacing[0]
    x = x - x.mean(axis=(1, 2, 3), keepdims=True)
    radius = np.sqrt(np.sum((x / np.reshape([70, 85, 75], (3, 1, 1, 1))) ** 2, axis=0))
    tissue = (radius < 0.9) & ((x[0] / 15) ** 2 + (x[1] / 30) ** 2 + (x[2] / 12) ** 2 > 1)
    distance = np.linalg.norm(x - np.reshape([-30, 20, 15], (3, 1, 1, 1)), axis=0)
    c = 1 / (1 + np.exp((distance - 20) / 4))
    moduli = [
        np.where(tissue, healthy, fluid) + c * tumour
        for healthy, fluid, tumour in zip(lame(2100, 0.4), lame(100, 0.1), lame(8000, 0.45), strict=True)
    ]
    force = 1e3 * gradient_on_faces(jnp.asarray(c, dtype), spacing)
    return force, *(jnp.asarray(a, dtype) for a in (*moduli, free_faces(radius < 1), spacing))


def solve(force, first, shear, free, spacing, **options):
    return solve_elasticity(force, stiffness(first, shear, free, spacing), **options)


def test_lame_parameters():
    first, shear = lame(np.array([2100.0, 100.0]), np.array([0.4, 0.1]))
    np.testing.assert_allclose(first, [3000, 100 / 8.8], rtol=1e-14)
    np.testing.assert_allclose(shear, [750, 100 / 2.2], rtol=1e-14)
    # Uniaxial tension has a lateral contraction of nu and the stiffness E.
    young, ratio = shear * (3 * first + 2 * shear) / (first + shear), first / (2 * (first + shear))
    np.testing.assert_allclose(young, [2100, 100], rtol=1e-14)
    np.testing.assert_allclose(ratio, [0.4, 0.1], rtol=1e-14)


def test_free_faces_are_those_between_voxels_of_the_head():
    head = np.random.default_rng(0).uniform(size=SHAPE) > 0.3
    free = np.asarray(free_faces(head))
    for a, i, j, k in np.ndindex(3, *SHAPE):
        other = np.add((i, j, k), np.eye(3, dtype=int)[a])
        expected = other[a] < SHAPE[a] and head[i, j, k] and head[tuple(np.minimum(other, np.subtract(SHAPE, 1)))]
        assert free[a, i, j, k] == expected


def test_flattening_keeps_neighbours_and_is_undone():
    values = jnp.asarray(np.random.default_rng(0).uniform(size=SHAPE))
    flat = to_flat(values)
    np.testing.assert_array_equal(from_flat(flat, SHAPE), values)
    for axis, distance in enumerate(strides(SHAPE)):
        ahead = from_flat(jnp.pad(flat, (0, distance))[distance:], SHAPE)
        padded = jnp.pad(values, [(0, int(a == axis)) for a in range(3)])
        np.testing.assert_array_equal(ahead, jnp.delete(padded, 0, axis=axis, assume_unique_indices=True))


def test_gradient_on_faces():
    at = faces_of(SHAPE, SPACING)
    centres = (np.indices(SHAPE) + 0.5) * np.reshape(SPACING, (3, 1, 1, 1))
    # A central difference is exact for a parabola.
    got = np.asarray(gradient_on_faces(jnp.asarray(centres[0] ** 2 + 3 * centres[1] - 2 * centres[2]), SPACING))
    for a, expected in enumerate((2 * at[0, 0], 3 + 0 * at[1, 0], -2 + 0 * at[2, 0])):
        inner = tuple(slice(0, n - int(b == a)) for b, n in enumerate(SHAPE))
        np.testing.assert_allclose(got[a][inner], expected[inner], atol=1e-12)
        np.testing.assert_array_equal(np.take(got[a], -1, axis=a), 0)


def test_affine_displacements_have_exact_strains_and_rigid_ones_none(case):
    medium, _, _ = case
    at = faces_of(SHAPE, SPACING)
    gradient = np.random.default_rng(2).normal(size=(3, 3))
    for matrix in (gradient, gradient - gradient.T):
        u = np.einsum("ab,abxyz->axyz", matrix, at) + 0.3
        normal, shear = strains(flat_faces(jnp.asarray(u)), medium)
        layer = strides(SHAPE)[0]
        for a, (b, c) in enumerate(((1, 2), (0, 2), (0, 1))):
            inner = (slice(1, -1),) * 3
            here = from_flat(normal[a][:-layer], SHAPE)[inner]
            np.testing.assert_allclose(here, matrix[a, a], atol=1e-12)
            here = from_flat(shear[a][layer:], SHAPE)[inner]
            np.testing.assert_allclose(here, matrix[b, c] + matrix[c, b], atol=1e-12)


def test_operator_is_symmetric_and_definite_on_free_faces(case):
    _, free, matrix = case
    np.testing.assert_allclose(matrix[free][:, free], matrix[free][:, free].T, atol=1e-13)
    np.testing.assert_array_equal(matrix[~free], 0)
    assert np.linalg.eigvalsh(-matrix[free][:, free]).min() > 1e-3


def test_operator_is_minus_the_derivative_of_the_energy(case):
    medium, free, matrix = case

    def energy(u):
        normal, shear = strains(flat_faces(u), medium)
        total = jnp.sum(medium.first * sum(normal) ** 2) / 2
        total = total + sum(jnp.sum(medium.shear * strain**2) for strain in normal)
        return total + sum(jnp.sum(m * strain**2) for m, strain in zip(medium.edges, shear, strict=True)) / 2

    u = np.random.default_rng(3).normal(size=free.size) * free
    expected = -np.asarray(jax.grad(energy)(jnp.asarray(u.reshape(3, *SHAPE)))).ravel() * free
    np.testing.assert_allclose(matrix @ u, expected, atol=1e-11)


def test_edges_take_the_harmonic_mean_and_count_twice_on_flat_walls():
    _, _, shear, _, spacing = rough()
    head = np.ones(SHAPE, bool)
    head[2:, 2:] = False
    medium = stiffness(shear, shear, free_faces(head), spacing)
    edges = np.asarray(medium.edges[2]).reshape(SHAPE[0] + 1, SHAPE[1] + 1, SHAPE[2] + 1)[..., 1:]
    flexible = 1 / np.asarray(shear)
    # Edge [i, j] lies before voxel i and, with its layer of zeros, before voxel j.
    np.testing.assert_allclose(edges[1, 1], 1 / flexible[:2, :2].mean(axis=(0, 1)), rtol=1e-13)
    np.testing.assert_allclose(edges[4, 2], 2 / flexible[3:5, 1].mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(edges[0, 1], 2 / flexible[0, :2].mean(axis=0), rtol=1e-13)
    np.testing.assert_array_equal(edges[4, 4], 0)


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
def test_preconditioners_are_symmetric_and_definite(case, preconditioner):
    medium, free, matrix = case
    inverse = preconditioner.inverse(medium)

    def apply(u):
        return jnp.stack([from_flat(c, SHAPE) for c in inverse(flat_faces(u))])

    got = dense(apply, SHAPE)[free][:, free]
    np.testing.assert_allclose(got, got.T, atol=1e-13)
    assert np.linalg.eigvalsh((got + got.T) / 2).min() > 0
    eigenvalues = np.linalg.eigvals(-got @ matrix[free][:, free]).real
    # Moduli and holes that jump from voxel to voxel are the worst case, and still there is a gain.
    own = np.linalg.eigvalsh(-matrix[free][:, free])
    worst = own.max() / own.min() / (20 if isinstance(preconditioner, Multigrid) else 2)
    assert eigenvalues.max() / eigenvalues.min() < worst


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
def test_solution_is_that_of_the_dense_matrix(case, preconditioner):
    medium, free, matrix = case
    force = rough()[0]
    got, convergence = jax.jit(
        lambda f: solve_elasticity(f, medium, preconditioner=preconditioner, rtol=1e-11, max_iterations=300)
    )(force)
    expected = np.zeros(free.size)
    expected[free] = np.linalg.solve(matrix[free][:, free], np.asarray(force).ravel()[free])
    np.testing.assert_allclose(np.asarray(got).ravel(), expected, atol=1e-9 * np.abs(expected).max())
    assert convergence.residual <= 1e-11
    np.testing.assert_array_equal(np.asarray(got).ravel()[~free], 0)


LENGTHS = np.array([1.0, 1.3, 0.8])


def bump(x):
    """A displacement that vanishes on the walls of the box of `LENGTHS`."""
    s, t = jnp.sin(np.pi * x / LENGTHS), jnp.sin(2 * np.pi * x / LENGTHS)
    return jnp.stack([s[0] * s[1] * s[2], t[0] * s[1] * s[2] / 2, s[0] * t[1] * s[2] - s[0] * s[1] * t[2] / 3])


def uniform(ratio):
    first, shear = lame(1.0, ratio)
    return lambda x: (first + 0 * x[0], shear + 0 * x[0])


def smooth_moduli(x):
    return 2 + jnp.sin(3 * x[0] + x[1]), jnp.exp(jnp.cos(2 * x[0] - 3 * x[2]))


def layers(x):
    return jnp.where(x[0] < LENGTHS[0] / 2, 0.5, 40.0), jnp.where(x[0] < LENGTHS[0] / 2, 0.3, 9.0)


def kink(x):
    """A displacement that carries the same traction through the interface of `layers` from both sides."""
    first, shear = layers(x)
    waves = jnp.sin(np.pi * x / LENGTHS * np.array([2.0, 1, 1]))
    wave = waves[0] * waves[1] * waves[2]
    return jnp.stack([wave / (first + 2 * shear), wave / shear, -2 * wave / shear])


SIZES = (8, 12, 20)


def manufactured(displacement, moduli):
    """Return a function of points (3, ...): the displacement there, the force that causes it, and the moduli."""

    def stress(x):
        (first, shear), gradient = moduli(x), jax.jacfwd(displacement)(x)
        return first * jnp.trace(gradient) * jnp.eye(3) + shear * (gradient + gradient.T)

    def body(x):
        # On the interface of two materials, half of the face's volume lies in each.
        aside = np.array([1e-9, 0, 0])
        return sum(jnp.einsum("abb->a", jax.jacfwd(stress)(x + s * aside)) for s in (-1.0, 1.0)) / 2

    everywhere = jax.jit(jax.vmap(lambda x: (displacement(x), body(x), moduli(x)), in_axes=1, out_axes=-1))

    def at(points):
        flat = points.reshape(3, -1)
        count = flat.shape[1]
        # As many points for all sizes, so that one program serves them.
        values = everywhere(np.pad(flat, ((0, 0), (0, SIZES[-1] ** 3 - count)), mode="edge"))
        return jax.tree.map(lambda v: v[..., :count].reshape(*v.shape[:-1], *points.shape[1:]), values)

    return at


def manufactured_error(n, known):
    """Return the relative error of a known displacement on n voxels along each axis, all in the head."""
    spacing = LENGTHS / n
    faces = [known(points)[:2] for points in faces_of((n, n, n), spacing)]
    exact, force = (np.stack([faces[a][i][a] for a in range(3)]) for i in range(2))
    _, _, (first, shear) = known((np.indices((n, n, n)) + 0.5) * np.reshape(spacing, (3, 1, 1, 1)))
    free = free_faces(np.ones((n, n, n), bool)).astype(float)
    options = {"preconditioner": Fourier(), "rtol": 1e-8, "max_iterations": 300}
    got, convergence = jax.jit(solve, static_argnames=tuple(options))(force, first, shear, free, spacing, **options)
    assert convergence.residual <= 1e-8
    return float(np.linalg.norm(got - exact * free) / np.linalg.norm(exact * free))


@pytest.mark.parametrize(
    ("displacement", "moduli"),
    [(bump, uniform(0.3)), (bump, smooth_moduli), (bump, uniform(0.45)), (bump, uniform(0.49)), (kink, layers)],
    ids=["uniform", "smooth", "nu=0.45", "nu=0.49", "layers"],
)
def test_second_order_in_the_spacing(displacement, moduli):
    """The scheme's order is two, also where moduli jump on faces of voxels, since edges take the harmonic mean."""
    known = manufactured(displacement, moduli)
    errors = [manufactured_error(n, known) for n in SIZES]
    assert slope(SIZES, errors) == pytest.approx(-2, abs=0.15)
    assert errors[-1] < 0.02


def test_iterations_do_not_grow_with_the_grid():
    run = jax.jit(solve, static_argnames=("preconditioner",))
    iterations = {}
    for n in (20, 40):
        problem = head_with_tumour(n)
        u, convergence = run(*problem, preconditioner=Multigrid())
        assert convergence.residual <= 1e-4
        iterations[n] = int(convergence.iterations)
        if n == 20:
            other, convergence = run(*problem, preconditioner=Fourier())
            assert convergence.residual <= 1e-4 and convergence.iterations <= 60
            assert jnp.linalg.norm(other - u) < 2e-3 * jnp.linalg.norm(u)
    assert max(iterations.values()) <= 15 and max(iterations.values()) <= 1.5 * min(iterations.values())


@pytest.fixture(scope="module")
def small():
    """A small head, and the solver on it, to a tight tolerance."""
    problem = rough((7, 6, 5), spacing=SPACING, seed=4)

    def displacement(theta):
        force, log_first, log_shear, spacing = theta
        options = {"preconditioner": Multigrid(smallest=5), "rtol": 1e-13, "max_iterations": 200}
        return solve(force, jnp.exp(log_first), jnp.exp(log_shear), problem[3], spacing, **options)[0]

    weights = jnp.asarray(np.random.default_rng(5).normal(size=problem[0].shape))

    def loss(theta):
        u = displacement(theta)
        return jnp.sum(weights * u) + jnp.sum(u**2)

    return (problem[0], jnp.log(problem[1]), jnp.log(problem[2]), problem[4]), loss, jax.jit(jax.value_and_grad(loss))


DIFFERENTIABLE = ("force", "lambda", "mu", "spacing")


def towards(theta, index, seed=6):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=t.shape) * (index in (i, None))) for i, t in enumerate(theta))


@pytest.mark.parametrize("index", range(4), ids=DIFFERENTIABLE)
def test_taylor_remainder_is_of_second_order(small, index):
    theta, _, value_and_grad = small
    direction = towards(theta, index)
    value, gradient = value_and_grad(theta)
    rate = float(jnp.vdot(gradient[index], direction[index]))
    sizes = 0.1 / 4.0 ** np.arange(3, 7)
    remainders = []
    for h in sizes:
        moved = value_and_grad(tuple(t + h * d for t, d in zip(theta, direction, strict=True)))[0]
        remainders.append(abs(float(moved - value) - h * rate))
    assert slope(sizes, remainders) == pytest.approx(2, abs=0.05)


def test_forward_mode_is_reverse_mode(small):
    theta, loss, value_and_grad = small
    direction = towards(theta, None)
    expected = sum(float(jnp.vdot(g, d)) for g, d in zip(value_and_grad(theta)[1], direction, strict=True))
    got = jax.jit(lambda t, d: jax.jvp(loss, (t,), (d,))[1])(theta, direction)
    assert float(got) == pytest.approx(expected, rel=1e-8)


def test_vmap_of_solution_and_gradient_is_the_loop(small):
    theta, _, value_and_grad = small
    several = [tuple(t + 0.1 * d for t, d in zip(theta, towards(theta, None, seed), strict=True)) for seed in (7, 8)]
    together = jax.jit(jax.vmap(value_and_grad))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *several))
    for i, one in enumerate(several):
        expected = value_and_grad(one)
        for got, alone in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got[i], alone, atol=1e-9 * float(jnp.abs(alone).max()))


@pytest.fixture(scope="module")
def run():
    """The solver under `jit`, with Fourier's preconditioner, which compiles fastest."""

    def call(force, first, shear, free, spacing, guess, rtol=1e-4, max_iterations=100):
        options = {"guess": guess, "rtol": rtol, "max_iterations": max_iterations, "preconditioner": Fourier()}
        return solve(force, first, shear, free, spacing, **options)

    return jax.jit(call, static_argnames=("rtol", "max_iterations"))


def test_guess_saves_iterations_and_changes_nothing_else(run):
    problem = rough()
    cold, start = run(*problem, jnp.zeros_like(problem[0]), rtol=1e-8)
    warm, saved = run(*problem, cold + 1e-4 * jnp.abs(cold).max(), rtol=1e-8)
    assert 0 < saved.iterations < start.iterations
    np.testing.assert_allclose(warm, cold, atol=1e-6 * float(jnp.abs(cold).max()))
    # The residual is compared with the force also from a guess, so the solution itself is good enough at once.
    same, convergence = run(*problem, cold, rtol=1e-8)
    assert convergence.iterations == 0
    np.testing.assert_array_equal(same, cold)
    assert float(convergence.residual) == pytest.approx(float(start.residual), rel=1e-3)


def test_guess_carries_no_derivative(run):
    problem = rough()
    slopes = jax.jacfwd(lambda s: jnp.sum(run(*problem, s * problem[0], rtol=1e-8)[0]))(0.01)
    assert slopes == 0


def test_directions_of_a_derivative_are_batched_alone(run):
    """What depends on how a solve ended is not repeated for each direction, which `jacfwd` would refuse."""
    force, first, shear, free, spacing = rough()

    def work(scales):
        medium = (scales[1] * first, scales[1] * shear, free, spacing)
        u, convergence = run(scales[0] * force, *medium, jnp.zeros_like(force), rtol=1e-10)
        return jnp.where(convergence.residual < 1, jnp.sum(u * force), jnp.nan), convergence.residual

    slopes, none = jax.jit(jax.jacfwd(work))(jnp.ones(2))
    # Displacements are linear in the force, and as the inverse of the moduli.
    expected = float(work(jnp.ones(2))[0])
    np.testing.assert_allclose(slopes, [expected, -expected], rtol=1e-7)
    np.testing.assert_array_equal(none, 0)


def test_float32(run):
    for dtype, tolerance in ((jnp.float64, 1e-9), (jnp.float32, 1e-5)):
        problem = rough(dtype=dtype)
        got, convergence = run(*problem, jnp.zeros_like(problem[0]), rtol=tolerance)
        assert got.dtype == convergence.residual.dtype == dtype
        assert convergence.residual <= tolerance
        exact = got if dtype == jnp.float64 else exact
    np.testing.assert_allclose(got, exact, atol=1e-4 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("size", (1e-30, 1e25))
def test_float32_forces_of_any_size(run, size):
    """Cotangents may be so small or large that their squares are not representable."""
    force, *medium = rough(dtype=jnp.float32)
    zero = jnp.zeros_like(force)
    expected, reference = run(force, *medium, zero, rtol=1e-5)
    scale = jnp.float32(size) / jnp.abs(force).max()
    got, convergence = run(scale * force, *medium, zero, rtol=1e-5)
    assert 0 < convergence.residual <= 1e-5
    assert abs(int(convergence.iterations) - int(reference.iterations)) <= 1
    np.testing.assert_allclose(got / scale, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_reflection_and_exchange_of_axes(run):
    force, first, shear, free, spacing = rough()
    zero = jnp.zeros_like(force)
    expected, _ = run(force, first, shear, free, spacing, zero, rtol=1e-11)
    scale = float(jnp.abs(expected).max())

    def reflect(vector):
        # The first component's faces are numbered from the other side, and the wall stays last.
        first = jnp.roll(jnp.flip(vector[0], 0), -1, axis=0)
        return jnp.stack([-first, jnp.flip(vector[1], 0), jnp.flip(vector[2], 0)])

    moduli = (jnp.flip(first, 0), jnp.flip(shear, 0))
    got, _ = run(reflect(force * free), *moduli, jnp.abs(reflect(free)), spacing, zero, rtol=1e-11)
    np.testing.assert_allclose(got, reflect(expected), atol=1e-9 * scale)

    order = (2, 0, 1)

    def exchange(vector):
        return jnp.stack([vector[a].transpose(order) for a in order])

    moduli = (first.transpose(order), shear.transpose(order))
    axes = jnp.asarray(order)
    got, _ = run(exchange(force), *moduli, exchange(free), spacing[axes], exchange(zero), rtol=1e-11)
    np.testing.assert_allclose(got, exchange(expected), atol=1e-9 * scale)


@pytest.mark.parametrize("argument", range(3), ids=DIFFERENTIABLE[:3])
def test_nan_comes_out_and_stops(run, argument):
    problem = list(rough())
    inside = np.argwhere(np.asarray(problem[3][0]) > 0)[3]
    index = tuple(inside) if argument else (0, *inside)
    problem[argument] = problem[argument].at[index].set(jnp.nan)
    u, convergence = run(*problem, jnp.zeros_like(problem[0]))
    assert jnp.isnan(u).any() and jnp.isnan(convergence.residual)
    assert convergence.iterations <= 1


def test_no_force_moves_nothing(run):
    problem = rough()
    zero = jnp.zeros_like(problem[0])
    u, convergence = run(zero, *problem[1:], zero)
    assert not u.any() and convergence.iterations == 0 and convergence.residual == 0


def test_a_failed_solve_reports_its_residual(run):
    problem = rough()
    u, convergence = run(*problem, jnp.zeros_like(problem[0]), rtol=1e-8, max_iterations=3)
    force, first, shear, free, spacing = problem
    rest = elastic_force(u, stiffness(first, shear, free, spacing)) - force * free
    assert convergence.iterations == 3 and convergence.residual > 1e-8
    assert float(convergence.residual) == pytest.approx(float(jnp.linalg.norm(rest) / jnp.linalg.norm(force * free)))


def test_shapes_that_do_not_fit_are_refused():
    _, first, shear, free, spacing = rough()
    for wrong in (
        (first, shear[1:], free, spacing),
        (first, shear, free[0], spacing),
        (first, shear, free, spacing[:2]),
    ):
        with pytest.raises(ValueError, match="of one shape"):
            stiffness(*wrong)
