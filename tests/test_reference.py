"""Solutions of TumorGrowthToolkit (explicit Euler, unsplit) on ICBM152 at 2 mm, from the same initial state."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.problems import advance
from tumorjax import Anatomy, FisherKolmogorov, Grid, GrowthParams, StrangRKL2
from tumorjax.operators import diffuse


@jax.jit
def explicit_euler(terms, state, steps):
    """Advance by the simplest scheme: explicit, unsplit, with equal steps."""

    def step(_, c):
        rate = terms.diffusivity * diffuse(c, terms.conductance) + terms.proliferation * terms.growth * c * (1 - c)
        return c + rate / steps

    return jax.lax.fori_loop(0, steps.astype(int), step, state)


@pytest.fixture(scope="module", params=(("fk_A", 126), ("fk_B", 350)), ids=("A", "B"))
def case(request, data):
    """Terms, initial and final state on the box of the tissue, and the number of their steps."""
    name, steps = request.param
    with np.load(data / "reference" / "anatomy_icbm152_2mm.npz") as maps:
        white, grey, affine = (maps[key] for key in ("wm", "gm", "affine"))
    anatomy = Anatomy(Grid(white.shape, affine), white.astype(float), grey.astype(float), np.zeros(white.shape))
    start, shape = anatomy.box()
    box = tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))
    with np.load(data / "reference" / f"{name}.npz") as solution:
        given = json.loads(str(solution["params"]))
        initial, final = solution["initial"], solution["final"]
    assert given["ratio"] == 10
    assert given["tissue_threshold"] == 0.1
    # Nothing grows outside the box, so that the comparison inside is the whole.
    assert np.count_nonzero(final) == np.count_nonzero(final[box])
    params = GrowthParams(given["D_w_mm2_per_day"], given["rho_per_day"], np.zeros(3), given["days"])
    terms = FisherKolmogorov(ratio=10.0).terms(params, anatomy.crop(start, shape))
    return terms, jnp.asarray(initial[box], float), final[box].astype(float), steps


def test_same_scheme_gives_the_same_voxels(case):
    terms, initial, final, steps = case
    got = np.asarray(explicit_euler(terms, initial, jnp.asarray(float(steps))))
    # Theirs is stored in float32, and its conductances were computed in it.
    assert np.abs(got - final).max() < 1e-7
    assert np.linalg.norm(got - final) < 1e-7 * np.linalg.norm(final)


def test_difference_from_ours_is_their_error_in_time(case):
    terms, initial, final, steps = case
    fine = StrangRKL2(reaction_step=0.1, first_steps=64)
    exact, ours = (np.asarray(advance(s, terms, initial)[0]) for s in (fine, StrangRKL2()))
    # Their scheme is of first order: extrapolated to steps of zero it should meet ours.
    extrapolated = 2 * np.asarray(explicit_euler(terms, initial, jnp.asarray(2.0 * steps))) - final
    theirs, limit, default = (np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (final, extrapolated, ours))
    print(f"relative L2 difference: theirs {theirs:.2e}, theirs extrapolated {limit:.2e}, our default {default:.2e}")
    assert 5e-3 < theirs < 0.1
    assert limit < theirs / 20
    assert default < theirs / 4
    assert default < 4e-3
