"""Diffusion of tensors: the decomposition is exact, the operator symmetric and positive, cells follow fibres."""

from functools import partial
from itertools import combinations, permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import slope
from tumorjax.operators.diffusion import Conductance, diffuse, face_conductance, largest_eigenvalue_bound
from tumorjax.operators.tensors import anisotropy_kept, isotropic, offsets_within, tensor_conductance

pytestmark = pytest.mark.usefixtures("compiled_plainly")

# One shape for all that is small: every other one compiles anew.
SHAPE = (5, 5, 5)
SPACINGS = (np.ones(3), np.array([1.0, 1.3, 0.8]), np.array([1.0, 1.0, 2.0]))
# Below these ratios of eigenvalues every direction is exact, as the docstring says for cubes.
EXACT = {1: 5.82, 2: 9.89}

conductance_of = jax.jit(tensor_conductance, static_argnames="reach")
kept_of = jax.jit(anisotropy_kept, static_argnames="reach")


@partial(jax.jit, static_argnames="reach")
def divergence(tensor, domain, axes, state, reach=1):
    return diffuse(state, tensor_conductance(tensor, domain, axes, reach=reach))


def loss(tensor, domain, axes, state):
    """A smooth functional of the tensors."""
    return jnp.sum(jnp.sin(diffuse(state, tensor_conductance(tensor, domain, axes))))


value_of, gradient_of = jax.jit(loss), jax.jit(jax.value_and_grad(loss))


def rotations(count, seed=0):
    """Random rotations, (count, 3, 3)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))
    q = q * np.sign(np.einsum("naa->na", r))[:, None]
    return q * np.sign(np.linalg.det(q))[:, None, None]


def packed(tensors):
    return np.stack([tensors[..., a, b] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))], -1)


def unpacked(tensor):
    return np.asarray(tensor)[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*tensor.shape[:-1], 3, 3)


def along(directions, ratio, mean=1.0):
    """Tensors of a mean diffusivity with the largest eigenvalue along a direction, `ratio` times the two others."""
    v = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    small = 3 * mean / (ratio + 2)
    return packed(small * (np.eye(3) + (ratio - 1) * v[..., :, None] * v[..., None, :]))


def random_tensors(count, largest_ratio, seed=0):
    """Tensors in random directions with eigenvalues that differ by at most a factor, (count, 6)."""
    rng, turn = np.random.default_rng(seed), rotations(count, seed + 1)
    values = np.exp(rng.uniform(0, np.log(largest_ratio), (count, 3)))
    return packed(np.einsum("nab,nb,ncb->nac", turn, values, turn))


@partial(jax.jit, static_argnames="reach")
@partial(jax.vmap, in_axes=(0, None, None))
def _weights_of(tensor, spacing, reach):
    n = 2 * reach + 1
    field = jnp.broadcast_to(tensor, (n, n, n, 6))
    conductance = tensor_conductance(field, jnp.ones((n, n, n)), jnp.diag(spacing), reach=reach)
    return jnp.stack([edges.ravel()[0] for edges in conductance.edges])


def weights_of(tensors, spacing, reach):
    """The weight of every offset in a uniform field of each tensor, (count, offsets)."""
    return np.asarray(_weights_of(jnp.asarray(tensors), jnp.asarray(spacing), reach))


def selling(tensor):
    """Selling's algorithm as in the literature: offsets (6, 3) and weights (6,)."""
    base = np.concatenate([np.eye(3, dtype=int), -np.ones((1, 3), int)])
    pairs = [(i, j, *(k for k in range(4) if k not in (i, j))) for i, j in combinations(range(4), 2)]
    while True:
        weights = np.array([-base[i] @ tensor @ base[j] for i, j, _, _ in pairs])
        if weights.min() >= -1e-13 * np.trace(tensor):
            return np.array([np.cross(base[m], base[n]) for _, _, m, n in pairs]), weights
        i, _, m, n = pairs[int(weights.argmin())]
        base[m], base[n], base[i] = base[m] + base[i], base[n] + base[i], -base[i]


def matrix_of(conductance: Conductance):
    basis = jnp.eye(int(np.prod(SHAPE))).reshape(-1, *SHAPE)
    return np.asarray(jax.jit(jax.vmap(lambda c: diffuse(c, conductance)))(basis)).reshape(len(basis), -1).T


def oblique(spacing):
    turn = rotations(1, seed=8)[0]
    return turn * np.asarray(spacing) * np.array([-1.0, 1, 1])


@pytest.mark.parametrize(("reach", "count"), [(1, 13), (2, 49)])
def test_offsets_are_the_directions_up_to_sign(reach, count):
    offsets = offsets_within(reach)
    assert len(offsets) == count
    assert offsets[:3] == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    both = {*offsets, *(tuple(-n for n in e) for e in offsets)}
    assert len(both) == 2 * count
    assert both == {e for e in product(range(-reach, reach + 1), repeat=3) if np.gcd.reduce(e) == 1}


@pytest.mark.parametrize("reach", [1, 2])
def test_decomposition_is_exact_below_the_published_ratio(reach):
    tensors = np.concatenate([random_tensors(3000, EXACT[reach]), along(rotations(3000, 5)[:, 0], EXACT[reach])])
    weights, offsets = weights_of(tensors, np.ones(3), reach), np.array(offsets_within(reach), float)
    assert weights.min() >= 0
    assert ((weights > 1e-12).sum(axis=1) <= 6).all()
    np.testing.assert_allclose(np.einsum("no,oa,ob->nab", weights, offsets, offsets), unpacked(tensors), atol=1e-13)
    assert (np.asarray(kept_of(jnp.asarray(tensors[:, None, None]), np.eye(3), reach=reach)) == 1).all()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("reach", [1, 2])
def test_weights_are_those_of_selling_or_of_the_blended_tensor(reach, spacing):
    tensors = random_tensors(400, 60)
    weights, offsets = weights_of(tensors, spacing, reach), offsets_within(reach)
    kept = np.asarray(kept_of(jnp.asarray(tensors[:, None, None]), np.diag(spacing), reach=reach)).ravel()
    index = unpacked(tensors) / spacing[:, None] / spacing
    assert 0.1 < (kept == 1).mean() < 1
    assert weights.min() >= 0
    for tensor, found, share in zip(index, weights, kept, strict=True):
        mean = np.trace(tensor * spacing[:, None] * spacing) / 3 * np.diag(1 / spacing**2)
        blended = mean + share * (tensor - mean)
        vectors, values = selling(blended)
        if share < 1:
            # Just enough: a little more would need an offset beyond the reach.
            beyond, more = selling(mean + (share + 1e-5) * (tensor - mean))
            assert np.abs(beyond[more > 1e-12]).max() > reach
        expected = np.zeros(len(offsets))
        for vector, value in zip(vectors, values, strict=True):
            sign = next((np.sign(n) for n in vector if n), 1)
            if value > 1e-11:
                expected[offsets.index(tuple(sign * vector))] += value
        np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("axes", [np.diag([1.0, 0.7, 1.9]), oblique([1.0, 0.7, 1.9])])
def test_isotropic_tensors_are_isotropic_diffusion(axes):
    rng = np.random.default_rng(1)
    diffusivity, domain = jnp.asarray(rng.uniform(0.1, 3, SHAPE)), jnp.asarray(rng.uniform(size=SHAPE) > 0.25)
    got = conductance_of(isotropic(diffusivity), domain, axes)
    expected = face_conductance(diffusivity, domain, np.array([1.0, 0.7, 1.9]))
    for n, edges in enumerate(got.edges):
        reference = expected.edges[n] if n < 3 else np.zeros(edges.shape)
        np.testing.assert_allclose(edges, reference, rtol=1e-14, atol=1e-14)


@pytest.fixture(scope="module", params=[1, 2])
def rough(request):
    """A rough field of strong tensors with holes in the domain, and its operator as a dense matrix."""
    reach = request.param
    tensor = random_tensors(np.prod(SHAPE), 100, seed=3).reshape(*SHAPE, 6)
    # Noise: some tensors have negative eigenvalues, or none at all.
    tensor[0, 0], tensor[1, 1, 1], tensor[2, 2, 2] = 0, along(np.ones(3), -0.5), -tensor[2, 2, 2]
    domain = np.random.default_rng(4).uniform(size=SHAPE) > 0.25
    conductance = conductance_of(jnp.asarray(tensor), jnp.asarray(domain), oblique([1.0, 0.8, 1.4]), reach=reach)
    return conductance, domain, matrix_of(conductance)


def test_operator_is_symmetric_negative_and_conservative(rough):
    conductance, domain, matrix = rough
    assert min(float(edges.min()) for edges in conductance.edges) >= 0
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-13)
    np.testing.assert_allclose(matrix.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_array_equal(matrix[~domain.ravel()], 0)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.max() < 1e-12
    assert -eigenvalues.min() <= float(largest_eigenvalue_bound(conductance))


def test_explicit_steps_at_the_bound_stay_non_negative(rough):
    conductance, domain, _ = rough
    # The bound is twice the largest row, and each row times the step must not pass one.
    step = 2 / largest_eigenvalue_bound(conductance)
    rng, euler = np.random.default_rng(5), jax.jit(lambda c: c + step * diffuse(c, conductance))
    for state in (rng.uniform(size=domain.shape) ** 8, (rng.uniform(size=domain.shape) > 0.9) * 1.0):
        state = jnp.asarray(state * domain)
        for _ in range(5):
            state = euler(state)
            assert float(state.min()) > -1e-15
    beyond = np.eye(domain.size) + 1.2 * float(step) * rough[2]
    assert beyond.min() < -0.1


def rotating_tensor(point, ratio=4.0):
    """A smooth tensor whose main direction turns about two axes in space, (6,)."""
    x, y, z = point
    polar, azimuth = 0.9 + 0.5 * jnp.sin(2 * x + 0.6 * y), 1.6 * z + y
    v = jnp.stack([jnp.sin(polar) * jnp.cos(azimuth), jnp.sin(polar) * jnp.sin(azimuth), jnp.cos(polar)])
    matrix = (1 + 0.3 * jnp.sin(2 * x + z)) * 3 / (ratio + 2) * (jnp.eye(3) + (ratio - 1) * v[:, None] * v)
    return jnp.stack([matrix[a, b] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))])


def bump(point):
    """A density whose value and slope vanish on the walls of the ball of radius one, and outside."""
    return jnp.maximum(1 - jnp.sum(point**2), 0) ** 4


@jax.jit
def manufactured(points):
    """The tensors, the density and c - div(D grad c) at points, exactly."""

    def flux(point):
        xx, xy, xz, yy, yz, zz = rotating_tensor(point)
        return jnp.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ jax.grad(bump)(point)

    def one(point):
        return rotating_tensor(point), bump(point), bump(point) - jnp.trace(jax.jacfwd(flux)(point))

    return jax.tree.map(lambda f: f.reshape(*points.shape[:-1], *f.shape[1:]), jax.vmap(one)(points.reshape(-1, 3)))


@partial(jax.jit, static_argnames="reach")
def solved(tensor, axes, source, reach):
    """The solution of c - div(D grad c) = source on the grid."""
    conductance = tensor_conductance(tensor, jnp.ones(source.shape), axes, reach=reach)
    return jax.scipy.sparse.linalg.cg(lambda c: c - diffuse(c, conductance), source, tol=1e-8)[0]


@pytest.mark.parametrize(("reach", "turned"), [(1, True), (2, False)])
def test_second_order_for_tensors_that_turn_in_space(reach, turned):
    # The residual would not do: where the superbase changes, the conductances have kinks, which the energy and so the
    # solution do not feel.
    sizes, errors = ((12, 18, 27) if reach == 2 else (16, 24, 36)), []
    for n in sizes:
        axes = (oblique if turned else np.diag)(2.4 / n * np.array([1.0, 1.1, 0.9]))
        points = (np.moveaxis(np.indices((n, n, n)), 0, -1) - (n - 1) / 2) @ axes.T
        tensor, density, source = manufactured(points)
        if n == sizes[0]:
            assert (np.asarray(kept_of(tensor, axes, reach=reach)) == 1).all()
        errors.append(np.linalg.norm(solved(tensor, axes, source, reach) - density) / np.linalg.norm(density))
    assert errors[-1] < 0.02
    assert slope(sizes, errors) == pytest.approx(-2, abs=0.15)


@partial(jax.jit, static_argnames=("steps", "reach"))
def spread_out(tensor, domain, axes, state, duration, *, steps, reach=1):
    """Explicit Euler steps over a duration."""
    conductance = tensor_conductance(tensor, domain, axes, reach=reach)
    return jax.lax.fori_loop(0, steps, lambda _, c: c + duration / steps * diffuse(c, conductance), state)


def moments(state, axes):
    """Second central moments of a density along the axes of the world, mm^2."""
    points = np.moveaxis(np.indices(state.shape), 0, -1).reshape(-1, 3) @ np.asarray(axes).T
    mass = np.asarray(state).ravel()
    centred = points - mass @ points / mass.sum()
    return np.einsum("n,na,nb->ab", mass, centred, centred) / mass.sum()


@pytest.mark.parametrize("turned", [False, True])
def test_moments_grow_as_those_of_the_heat_kernel(turned):
    shape, spacing = (31, 31, 31), np.array([1.0, 1.1, 0.9])
    axes = (oblique if turned else np.diag)(spacing)
    uniform = along(np.array([1.0, -0.7, 0.4]), 4.0)
    tensor = jnp.broadcast_to(jnp.asarray(uniform), (*shape, 6))
    start = np.zeros(shape)
    start[15, 15, 15] = 1
    end = spread_out(tensor, jnp.ones(shape), axes, start, 2.0, steps=40)
    # Exact for the scheme as well, while nothing reaches the walls.
    np.testing.assert_allclose(moments(end, axes), 2 * 2.0 * unpacked(uniform), atol=1e-6)
    assert float(end.sum()) == pytest.approx(1, rel=1e-13)


def test_a_turned_grid_gives_the_same_density():
    shape = (40, 40, 40)
    ends = []
    for axes in (0.5 * np.eye(3), 0.5 * oblique(np.ones(3))):
        points = (np.moveaxis(np.indices(shape), 0, -1) - 19.5) @ axes.T
        start = np.exp(-np.sum(points**2, -1) / (2 * 1.5**2))
        tensor = manufactured(points / 8)[0]
        end = np.asarray(spread_out(tensor, jnp.ones(shape), axes, start, 2.0, steps=60))
        ends.append((end.sum(), moments(end, axes), np.linalg.norm(end)))
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(other, one, rtol=0.01, atol=0.01 * np.abs(one).max())
    # The field matters: along other axes the moments differ by much more.
    assert np.ptp(np.linalg.eigvalsh(ends[0][1])) > 0.3 * ends[0][1].max()


@pytest.mark.parametrize("reach", [1, 2])
def test_reflections_and_permutations_of_the_axes_commute(reach):
    rng, spacing = np.random.default_rng(6), np.array([1.0, 1.2, 0.9])
    tensor = random_tensors(np.prod(SHAPE), 30, seed=7).reshape(*SHAPE, 6)
    domain, state = rng.uniform(size=SHAPE) > 0.2, rng.uniform(size=SHAPE)
    expected = np.asarray(divergence(tensor, domain, np.diag(spacing), state, reach=reach))
    for order, flipped in (((1, 2, 0), (0,)), ((0, 2, 1), (1, 2)), ((2, 1, 0), (0, 1, 2))):
        # The world stays; the voxels are stored in another order.
        def stored(field, order=order, flipped=flipped):
            field = np.transpose(field, (*order, 3)) if field.ndim == 4 else np.transpose(field, order)
            return jnp.asarray(np.flip(field, flipped))

        signs = np.where(np.isin(np.arange(3), flipped), -1, 1)
        axes = np.diag(spacing)[:, list(order)] * signs
        got = divergence(stored(tensor), stored(domain), axes, stored(state), reach=reach)
        np.testing.assert_allclose(got, stored(expected), atol=1e-12 * np.abs(expected).max())


def bent_bundle(shape, radius, width):
    """A bundle of fibres along a quarter circle around the first corner, in the plane of the first two axes."""
    x, y, z = np.indices(shape).astype(float)
    distance = np.hypot(x, y)
    inside = np.exp(-((distance - radius) ** 2 + (z - (shape[2] - 1) / 2) ** 2) / (2 * width**2))
    direction = np.stack([-y, x, np.zeros(shape)], -1) + 1e-9
    fibres = along(direction, 1 + 9 * inside[..., None, None])
    return fibres, distance, np.arctan2(y, x)


def test_cells_travel_along_a_bundle_that_bends():
    shape, radius = (44, 44, 13), 30.0
    tensor, distance, angle = bent_bundle(shape, radius, 4.0)
    assert unpacked(tensor)[30, 0, 6, 1, 1] > 4 * unpacked(tensor)[30, 0, 6, 0, 0]
    start = np.exp(
        -((distance - radius) ** 2 + (radius * (angle - np.pi / 4)) ** 2 + (np.indices(shape)[2] - 6) ** 2) / 8
    )
    fibres = np.asarray(spread_out(jnp.asarray(tensor), jnp.ones(shape), np.eye(3), start, 18.0, steps=180))
    alike = np.asarray(spread_out(isotropic(jnp.ones(shape)), jnp.ones(shape), np.eye(3), start, 18.0, steps=180))

    def widths(state):
        mass = state / state.sum()
        across, along_arc = distance - radius, radius * (angle - np.pi / 4)
        return [np.sqrt((mass * (s - (mass * s).sum()) ** 2).sum()) for s in (across, along_arc)]

    (across, travelled), (across_alike, travelled_alike) = widths(fibres), widths(alike)
    assert travelled > 1.3 * travelled_alike
    assert across < 0.85 * across_alike
    # The bend is followed: the mass stays on the arc, where a straight line would leave it by 5 voxels.
    assert abs((fibres * distance).sum() / fibres.sum() - radius) < 1.5


def test_gradient_is_of_second_order_and_both_modes_agree():
    rng, axes = np.random.default_rng(9), np.diag([1.0, 0.8, 1.4])
    state, domain = rng.uniform(size=SHAPE), rng.uniform(size=SHAPE) > 0.2
    # In general position, many of them blended.
    tensor = random_tensors(np.prod(SHAPE), 60, seed=10).reshape(*SHAPE, 6)
    assert 0.1 < (np.asarray(kept_of(tensor, axes)) < 1).mean() < 0.9
    direction = rng.normal(size=tensor.shape)
    value, gradient = gradient_of(tensor, domain, axes, state)
    along_direction = float(jnp.sum(gradient * direction))
    push = jax.jit(lambda t, d: jax.jvp(lambda x: loss(x, domain, axes, state), (t,), (d,))[1])
    assert float(push(tensor, direction)) == pytest.approx(along_direction, rel=1e-8)
    sizes = 2.0 ** -np.arange(12, 17)
    values = [float(value_of(tensor + size * direction, domain, axes, state)) for size in sizes]
    rests = np.abs(np.array(values) - float(value) - sizes * along_direction)
    assert slope(sizes, rests) == pytest.approx(2, abs=0.05)


def test_gradient_where_isotropic_tensors_have_kinks():
    state, domain = np.random.default_rng(11).uniform(size=SHAPE), np.ones(SHAPE, bool)
    tensor, step = isotropic(jnp.ones(SHAPE)), 1e-6
    _, gradient = gradient_of(tensor, domain, np.eye(3), state)
    assert np.isfinite(gradient).all()
    # Along the tensors that stay diagonal there is no kink.
    direction = np.random.default_rng(12).normal(size=tensor.shape) * np.array([1, 0, 0, 1, 0, 1])
    high, low = (float(value_of(tensor + s * direction, domain, np.eye(3), state)) for s in (step, -step))
    assert float(jnp.sum(gradient * direction)) == pytest.approx((high - low) / (2 * step), rel=1e-7)


def test_batches_and_single_precision():
    tensors = random_tensors(2 * np.prod(SHAPE), 20, seed=12).reshape(2, *SHAPE, 6)
    domain, state = np.ones(SHAPE, bool), np.random.default_rng(13).uniform(size=SHAPE)
    values, gradients = jax.jit(jax.vmap(lambda t: jax.value_and_grad(loss)(t, domain, np.eye(3), state)))(tensors)
    for n in range(2):
        value, gradient = gradient_of(tensors[n], domain, np.eye(3), state)
        assert float(values[n]) == pytest.approx(float(value), rel=1e-12)
        np.testing.assert_allclose(gradients[n], gradient, atol=1e-11)
    single = conductance_of(jnp.asarray(tensors[0], jnp.float32), domain, np.eye(3))
    double = conductance_of(tensors[0], domain, np.eye(3))
    for one, two in zip(single.edges, double.edges, strict=True):
        assert one.dtype == jnp.float32
        assert float(one.min()) >= 0
        np.testing.assert_allclose(one, two, atol=3e-5)


def test_refuses():
    with pytest.raises(ValueError, match="reach is 1 or 2, got 3"):
        tensor_conductance(jnp.zeros((3, 3, 3, 6)), jnp.ones((3, 3, 3)), np.eye(3), reach=3)
    with pytest.raises(ValueError, match=r"shape \(x, y, z, 6\), got \(3, 3, 3, 9\)"):
        tensor_conductance(jnp.zeros((3, 3, 3, 9)), jnp.ones((3, 3, 3)), np.eye(3))


def test_permutations_of_a_cube_leave_its_weights():
    # A tensor along the diagonal of the cube treats the three axes alike.
    weights = weights_of(along(np.ones(3), 5.0)[None], np.ones(3), 1)[0]
    offsets = offsets_within(1)
    for order in permutations(range(3)):
        turned = [weights[offsets.index(tuple(e[n] for n in order))] for e in offsets if min(e) >= 0]
        expected = [w for w, e in zip(weights, offsets, strict=True) if min(e) >= 0]
        np.testing.assert_allclose(turned, expected, atol=1e-14)
