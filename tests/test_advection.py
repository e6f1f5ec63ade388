"""Transport by a displacement: known solutions, conservation, bounds, and derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import slope
from tumorjax.operators import Material, advect, advect_pullback, advection, face_flow, slabs
from tumorjax.operators.advection import SAFE_COURANT

pytestmark = pytest.mark.usefixtures("compiled_plainly")

SHAPE, SPACING = (7, 6, 5), np.array([1.0, 0.7, 1.9])
UNIT = np.ones(3)


@partial(jax.jit, static_argnames=("max_substeps", "courant"))
def moved(flow, density, material, spacing=UNIT, max_substeps=8, courant=SAFE_COURANT, turn=0):
    return advect(flow, density, material, spacing, max_substeps=max_substeps, courant=courant, turn=turn)


def courant_number(flow, spacing):
    """The largest share of a voxel that passes a face."""
    return np.max(np.abs(closed(flow)) / np.reshape(spacing, (3, 1, 1, 1)))


def closed(flow):
    flow = np.array(flow)
    for axis in range(3):
        np.moveaxis(flow[axis], axis, 0)[-1] = 0
    return flow


def rough(seed=0, *, courant=2.99 * SAFE_COURANT, shape=SHAPE, spacing=SPACING):
    """A flow of this Courant number and fields without any smoothness; every fourth voxel is of one tissue."""
    rng = np.random.default_rng(seed)
    flow = closed(rng.normal(size=(3, *shape)))
    flow *= courant / courant_number(flow, spacing)
    shares = rng.dirichlet(np.full(3, 0.5), size=shape)
    shares = np.where(rng.uniform(size=(*shape, 1)) < 0.25, np.round(shares == shares.max(-1, keepdims=True)), shares)
    theta, marker = rng.uniform(0.01, 3, shape), rng.integers(0, 2, shape).astype(float)
    density = rng.uniform(size=shape) ** 4 * rng.integers(0, 2, shape)
    return flow, density, Material(theta, tuple(np.moveaxis(shares, -1, 0)), (marker,))


def smooth(seed=0, *, shape=SHAPE, courant=1.0):
    """Generic fields: no two neighbours alike, fractions that do not fill a voxel, and a flow that is never zero."""
    rng = np.random.default_rng(seed)
    flow = closed(rng.uniform(0.2, 1, (3, *shape)) * rng.choice([-1, 1], (3, *shape)))
    flow *= courant / courant_number(flow, SPACING)
    fields = rng.uniform(0.1, 0.3, (6, *shape))
    return jnp.asarray(flow), jnp.asarray(fields[0]), Material(1 + fields[1], tuple(fields[2:5]), (fields[5],))


def axes(shape):
    """Coordinates of the centres and of the upper faces along each axis of the unit box, ready to broadcast."""
    centres, faces = [], []
    for axis, n in enumerate(shape):
        place = [1, 1, 1]
        place[axis] = n
        centres.append(((np.arange(n) + 0.5) / n).reshape(place))
        faces.append(((np.arange(n) + 1) / n).reshape(place))
    return centres, faces


# Known solutions in the unit box. Each returns the flow, where the material at each centre came from, and by how much
# it was compressed.


def translation(shape):
    """A flow that is uniform except at the walls, where theta accumulates; fields away from them are unaffected."""
    (x, y, z), _ = axes(shape)
    flow = np.zeros((3, *shape))
    flow[0] = 0.2
    return closed(flow), np.broadcast_arrays(x - 0.2, y, z), None


def swirl(shape):
    """A flow from a stream function, whose discrete divergence is zero in every voxel."""
    (x, y, z), (right, top, _) = axes(shape)

    def stream(x, y):
        return 0.06 * np.sin(np.pi * x) ** 2 * np.sin(np.pi * y) ** 2

    n, k = shape[:2]
    flow = np.zeros((3, *shape))
    flow[0] = (stream(right, top) - stream(right, top - 1 / k)) * k
    flow[1] = -(stream(right, top) - stream(right - 1 / n, top)) * n

    def velocity(at):
        (sx, cx), (sy, cy) = ((np.sin(np.pi * p), np.cos(np.pi * p)) for p in at)
        return 0.12 * np.pi * np.array([sx**2 * sy * cy, -sx * cx * sy**2])

    at, h = np.array(np.broadcast_arrays(x, y)[:2]), -1 / 32
    for _ in range(32):
        k1 = velocity(at)
        k2 = velocity(at + h / 2 * k1)
        k3 = velocity(at + h / 2 * k2)
        at = at + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(at + h * k3))
    return closed(flow), [*at, np.broadcast_to(z, at[0].shape)], 1.0


def compression(shape):
    """v = A sin(pi x) along two axes: tan(pi x / 2) grows by exp(pi A) in a unit of time."""
    centres, faces = axes(shape)
    rates = (0.12, -0.16, 0.0)
    flow = np.stack([np.broadcast_to(a * np.sin(np.pi * x), shape) for a, x in zip(rates, faces, strict=True)])
    origins, compressed = [], 1.0
    for rate, x in zip(rates, centres, strict=True):
        shrink, tangent = np.exp(-np.pi * rate), np.tan(np.pi * x / 2)
        origins.append(2 / np.pi * np.arctan(shrink * tangent))
        compressed = compressed * shrink * (1 + tangent**2) / (1 + (shrink * tangent) ** 2)
    return closed(flow), np.broadcast_arrays(*origins), compressed


def bump(x, y, z):
    return np.cos(np.pi / 2 * np.minimum(np.hypot(x - 0.45, y - 0.5) / 0.3, 1)) ** 4


def waves(x, y, z):
    return (2 + np.cos(np.pi * x)) * (2 - np.cos(np.pi * y)) / 9


def front(x, y, z):
    return 1 / (1 + np.exp((1 - x - y) / 0.15))


@pytest.mark.parametrize(
    ("solution", "profile", "shapes"),
    (
        (translation, bump, [(n, 1, 1) for n in (64, 128, 256)]),
        (swirl, waves, [(n, n, 1) for n in (24, 48, 96)]),
        (compression, front, [(n, n, 1) for n in (24, 48, 96)]),
    ),
)
def test_second_order_on_known_solutions(solution, profile, shapes):
    """The mean error, because the limiter clips extrema, which are a few voxels."""
    errors = []
    for shape in shapes:
        flow, origin, compressed = solution(shape)
        start, end = profile(*np.broadcast_arrays(*axes(shape)[0])), profile(*origin)
        # The third tissue is what the two leave.
        material = Material(np.ones(shape), (0.6 * start, 0.3 - 0.2 * start, 0.7 - 0.4 * start), (start,))
        density, mixed, needed = moved(flow, start, material, 1 / np.asarray(shape), max_substeps=128)
        assert 8 < needed <= 128
        got = [*mixed.fractions, *mixed.markers, density]
        expected = [0.6 * end, 0.3 - 0.2 * end, 0.7 - 0.4 * end, end, end]
        if compressed is not None:
            got, expected = [*got, mixed.density], [*expected[:-1], end * compressed, compressed]
        errors.append([np.abs(one - other).mean() for one, other in zip(got, expected, strict=True)])
    for error in np.transpose(errors):
        # In the swirl, too, each sweep compresses theta, and the others expand it again.
        assert slope([shape[0] for shape in shapes], error) == pytest.approx(-2, abs=0.15)
        assert error[-1] < 3e-4


@pytest.mark.parametrize("seed", range(4))
def test_amounts_are_conserved_and_fractions_bounded(seed):
    flow, density, material = rough(seed)
    after, mixed, needed = moved(flow, density, material, SPACING)
    assert needed == 3
    assert after.min() >= 0
    assert mixed.density.min() > 0
    np.testing.assert_allclose(after.sum(), density.sum(), rtol=1e-12)
    np.testing.assert_allclose(mixed.density.sum(), material.density.sum(), rtol=1e-12)
    before = (*material.fractions, *material.markers)
    for old, new in zip(before, (*mixed.fractions, *mixed.markers), strict=True):
        np.testing.assert_allclose((mixed.density * new).sum(), (material.density * old).sum(), rtol=1e-12)
        assert new.min() > -1e-13
        assert new.max() < 1 + 1e-13
        assert np.abs(new - old).max() > 0.1
    np.testing.assert_allclose(sum(mixed.fractions), 1, atol=1e-13)


def test_sums_below_one_stay_below_one():
    flow, density, material = rough(5)
    shares = tuple(share * np.random.default_rng(6).uniform(size=SHAPE) for share in material.fractions)
    _, mixed, _ = moved(flow, density, Material(material.density, shares), SPACING)
    total = sum(mixed.fractions)
    assert total.max() < 1 + 1e-13
    assert total.min() < 0.9
    assert min(share.min() for share in mixed.fractions) > -1e-13


def test_a_constant_fraction_stays_constant():
    flow, density, material = rough(2)
    constant = tuple(np.full(SHAPE, share) for share in (0.2, 0.7))
    _, mixed, _ = moved(
        flow, density, Material(material.density, constant, (np.ones(SHAPE), np.full(SHAPE, 0.3))), SPACING
    )
    for share, value in zip((*mixed.fractions, *mixed.markers), (0.2, 0.7, 1.0, 0.3), strict=True):
        np.testing.assert_allclose(share, value, rtol=1e-13)


def test_nothing_passes_closed_faces_and_walls():
    flow, density, material = rough(3)
    flow[1][:, 2] = 0
    after, mixed, _ = moved(flow, density, material, SPACING)
    halves = (slice(None), slice(0, 3)), (slice(None), slice(3, None))
    for half in halves:
        np.testing.assert_allclose(after[half].sum(), density[half].sum(), rtol=1e-13)
        np.testing.assert_allclose(mixed.density[half].sum(), material.density[half].sum(), rtol=1e-13)
    leaky = flow.copy()
    for axis in range(3):
        np.moveaxis(leaky[axis], axis, 0)[-1] = 0.3
    for one, other in zip(
        jax.tree.leaves(moved(leaky, density, material, SPACING)), jax.tree.leaves((after, mixed)), strict=False
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_no_flow_changes_no_bit(dtype):
    flow, density, material = jax.tree.map(lambda a: jnp.asarray(a, dtype), rough(4))
    *after, needed = moved(0 * flow, density, material, jnp.asarray(SPACING, dtype))
    assert needed == 1
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves((density, material)), strict=True):
        assert new.dtype == dtype
        np.testing.assert_array_equal(new, old)


def test_reflections_and_the_reverse_order_of_axes_commute():
    flow, density, material = rough(7)
    expected = moved(flow, density, material, SPACING)[:2]

    def compare(turned, flow, spacing, turn=0):
        got = moved(flow, turned(density), jax.tree.map(turned, material), spacing, turn=turn)[:2]
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, turned(other), atol=2e-13)

    for axis in range(3):
        mirrored = np.flip(flow, 1 + axis)
        # The face above a voxel was below it: the wall comes to the front, and goes to the end.
        mirrored = np.stack([-np.roll(f, -1, axis) if a == axis else f for a, f in enumerate(mirrored)])
        compare(partial(np.flip, axis=axis), mirrored, SPACING)
    # The sweeps then take the axes in the same order.
    order = (2, 1, 0)
    turned = np.stack([np.transpose(flow[a], order) for a in order])
    compare(partial(np.transpose, axes=order), turned, SPACING[list(order)], 1)


def test_densities_are_any_tree():
    flow, density, material = rough(8)
    tree, _, _ = moved(flow, {"a": density, "b": (2 * density,)}, material, SPACING)
    expected = moved(flow, density, material, SPACING)[0]
    np.testing.assert_allclose(tree["a"], expected, rtol=1e-14)
    np.testing.assert_allclose(tree["b"][0], 2 * expected, rtol=1e-13)
    assert moved(flow, (), material, SPACING)[0] == ()


@pytest.fixture(scope="module")
def derivatives():
    """An objective of moved fields, its arguments and gradient, and directions in which to test that."""
    args = smooth(11)
    rng = np.random.default_rng(12)
    weights = [jnp.asarray(w) for w in rng.normal(size=(6, *SHAPE))]

    def value(args):
        density, material, _ = advect(*args, SPACING, max_substeps=4)
        fields = jax.tree.leaves((density, material))
        return sum(jnp.vdot(w, jnp.sin(3 * f)) for w, f in zip(weights, fields, strict=True))

    def with_gradient(args):
        density, material, _ = advect(*args, SPACING, max_substeps=4)
        weighted = jax.tree.unflatten(jax.tree.structure((density, material)), weights)
        cotangent = jax.tree.map(lambda w, f: 3 * w * jnp.cos(3 * f), weighted, (density, material))
        return value(args), advect_pullback(*args, SPACING, cotangent, max_substeps=4)

    random = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)) * a, args)
    zero = jax.tree.map(jnp.zeros_like, args)
    directions = [tuple(random[i] if i == k else zero[i] for i in range(3)) for k in range(3)]
    return value, args, jax.jit(with_gradient), directions


def along(gradient, direction):
    return sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))


def test_taylor_remainders_are_of_second_order(derivatives):
    value, args, with_gradient, directions = derivatives
    start, gradient = with_gradient(args)
    # Larger steps meet kinks of the limiter.
    steps = np.array([1e-5, 3e-6, 1e-6])
    at = jax.jit(lambda step, d: value(jax.tree.map(lambda a, b: a + step * b, args, d)))
    for direction in directions:
        derivative = along(gradient, direction)
        assert abs(float(derivative)) > 1e-2
        remainders = [abs(at(step, direction) - start - step * derivative) for step in steps]
        assert slope(steps, remainders) == pytest.approx(2, abs=0.05)


def test_forward_and_reverse_mode_agree(derivatives):
    value, args, with_gradient, directions = derivatives
    forward = jax.jit(lambda d: jax.jvp(value, (args,), (d,))[1])
    for direction in directions:
        np.testing.assert_allclose(forward(direction), along(with_gradient(args)[1], direction), rtol=1e-8)


def test_the_pullback_is_the_transpose_of_the_derivative():
    """With several markers; for one substep, two, three, four, and more than permitted."""
    _, density, material = smooth(17)
    material = Material(material.density, material.fractions, (*material.markers, 1 - material.markers[0]))
    cotangent = jax.tree.map(lambda field: jnp.cos(9 * field), (density, material))
    rng = np.random.default_rng(3)

    def tangents(args):
        """Two directions for each field, in which that alone changes."""
        leaves, tree = jax.tree.flatten(args)
        directions = [np.zeros((2 * len(leaves), *leaf.shape)) for leaf in leaves]
        for k, direction in enumerate(directions):
            direction[2 * k : 2 * k + 2] = rng.normal(size=direction[:2].shape)
        return jax.tree.unflatten(tree, [jnp.asarray(d) for d in directions])

    @jax.jit
    def both(args, directions, turn):
        forward = partial(advect, spacing=SPACING, max_substeps=4, turn=turn)
        bars = advect_pullback(*args, SPACING, cotangent, max_substeps=4, turn=turn)
        derivative = jax.vmap(lambda d: along(cotangent, jax.jvp(lambda *a: forward(*a)[:2], args, d)[1]))
        return derivative(directions), jax.vmap(lambda d: along(bars, d))(directions)

    for courant in (0.3, 0.7, 1.1, 1.5, 2.0):
        args = smooth(17, courant=courant)[0], density, material
        for turn in (0, 1):
            expected, got = both(args, tangents(args), turn)
            # Where nothing is moved, the flow has no effect.
            assert (np.abs(expected) > 0).tolist() == [courant < 4 * SAFE_COURANT] * 2 + [True] * (len(expected) - 2)
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


def swept():
    """Return moved fields and cotangents, by a function of its own each time, for JAX keeps what it traced."""
    args = smooth(23)
    cotangent = jax.tree.map(lambda field: jnp.cos(9 * field), args[1:])

    def both(*args):
        return advect(*args, SPACING, max_substeps=4), advect_pullback(*args, SPACING, cotangent, max_substeps=4)

    return jax.tree.leaves(jax.jit(both)(*args))


@pytest.fixture(scope="module")
def at_once():
    return swept()


@pytest.mark.parametrize("most", (1, 70))
def test_slabs_of_any_thickness_give_the_same(monkeypatch, at_once, most):
    """The grid is swept at once, layer by layer, and in slabs of two layers, of which the last reaches beyond it."""
    for module in (slabs, advection):
        monkeypatch.setattr(module, "SLAB", most)
    assert slabs.slabs(SHAPE, 0, most)[0] == (1 if most == 1 else 2)
    for one, other in zip(swept(), at_once, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_flows_of_a_batch_take_their_own_numbers_of_substeps(derivatives):
    _, (flow, *fields), with_gradient, _ = derivatives
    scales = jnp.asarray([0.3, 1.0])
    flows = scales[:, None, None, None, None] * flow
    many = jax.jit(jax.vmap(lambda flow: with_gradient((flow, *fields))))(flows)
    for k, flow in enumerate(flows):
        got = jax.tree.leaves(jax.tree.map(lambda a: a[k], many))  # noqa: B023
        for one, other in zip(got, jax.tree.leaves(with_gradient((flow, *fields))), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_gradients_of_empty_voxels_and_single_precision_are_finite():
    flow, density, material = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), rough(9))
    # Down to numbers whose squares are not representable.
    density = density * jnp.float32(1e-20)

    @jax.jit
    def gradient_of_squares(*args):
        *after, _ = advect(*args, SPACING)
        return advect_pullback(*args, SPACING, tuple(jax.tree.map(lambda field: 2 * field, after)))

    gradient = gradient_of_squares(flow, density, material)
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()
    assert float(jnp.abs(gradient[0]).max()) > 0.1


def test_single_precision_is_near_double():
    args = rough(10)
    single = moved(*jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), args), SPACING.astype(np.float32))[:2]
    for low, high in zip(jax.tree.leaves(single), jax.tree.leaves(moved(*args, SPACING)[:2]), strict=True):
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, high, atol=3e-5)
    np.testing.assert_allclose(sum(single[1].fractions), 1, atol=1e-5)


@pytest.mark.parametrize(("courant", "expected"), ((0.39, 1), (0.41, 2), (1.19, 3), (3.1, 8), (3.3, 9)))
def test_the_number_of_substeps_is_reported(courant, expected):
    flow, density, material = rough(13, courant=courant)
    *after, needed = moved(flow, density, material, SPACING)
    assert needed == expected
    unmoved = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (after, (density, material))), strict=True)]
    assert all(unmoved) if expected > 8 else not any(unmoved)


@pytest.mark.parametrize("bad", (np.nan, np.inf, 1e300))
def test_a_flow_that_is_not_finite_is_reported(bad):
    flow, density, material = rough(14)
    flow[1, 2, 2, 2] = bad
    after, mixed, needed = moved(flow, density, material, SPACING)
    assert needed > 8
    np.testing.assert_array_equal(after, density)
    np.testing.assert_array_equal(mixed.density, material.density)


def test_bad_arguments_are_refused():
    flow, density, material = rough()
    with pytest.raises(ValueError, match="one grid"):
        advect(flow[:2], density, material, SPACING)
    with pytest.raises(ValueError, match="one grid"):
        advect(flow, density[1:], material, SPACING)
    with pytest.raises(ValueError, match="Courant"):
        advect(flow, density, material, SPACING, courant=0.5)
    with pytest.raises(ValueError, match="substep"):
        advect(flow, density, material, SPACING, max_substeps=0)
    with pytest.raises(ValueError, match="takes"):
        face_flow(jnp.zeros((3, 4, 4, 4)), 2, (9, 8, 8))


def staggered(shape, box):
    """A smooth flow that is zero on the walls of a box, on the faces of a grid of voxels that begins at its corner."""
    components = []
    for axis in range(3):
        waves = []
        for a, n in enumerate(shape):
            at = np.pi * (np.arange(n) + (1 if a == axis else 0.5)) / n * box[a]
            waves.append(np.sin(at) if a == axis else np.cos(at))
        components.append((axis + 1) * np.einsum("x,y,z->xyz", *waves))
    return closed(np.stack(components))


@pytest.mark.parametrize("factor", (2, 3))
def test_prolongation_is_of_second_order(factor):
    errors, sizes = [], (8, 16, 32)
    for n in sizes:
        coarse = jnp.asarray(staggered((n, n + 1, n + 2), UNIT))
        fine = (factor * n, factor * (n + 1), factor * (n + 2))
        errors.append(np.abs(face_flow(coarse, factor, fine) - staggered(fine, UNIT)).max())
    assert slope(sizes, errors) == pytest.approx(-2, abs=0.15)


def test_prolongation_is_linear_between_faces_and_between_centres():
    rng = np.random.default_rng(15)
    coarse = jnp.asarray(closed(rng.normal(size=(3, 3, 2, 2))))
    fine = np.asarray(face_flow(coarse, 2, (5, 4, 3)))
    np.testing.assert_array_equal(fine, closed(fine))
    normal = coarse[0, :, 0, 0]
    # Half way between the wall and the first face, on it, between two; the fine wall ends the row.
    expected = [normal[0] / 2, normal[0], (normal[0] + normal[1]) / 2, normal[1], 0]
    np.testing.assert_allclose(fine[0, :, 0, 0], expected, rtol=1e-14)
    across = coarse[0, 1, :, 0]
    expected = [across[0], 0.75 * across[0] + 0.25 * across[1], 0.25 * across[0] + 0.75 * across[1], across[1]]
    np.testing.assert_allclose(fine[0, 3, :, 0], expected, rtol=1e-14)


def test_prolongation_by_one_is_the_identity():
    flow = rough(16)[0]
    np.testing.assert_array_equal(face_flow(jnp.asarray(flow), 1, SHAPE), flow)
