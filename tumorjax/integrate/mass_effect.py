"""Splitting of growth with mass effect into reaction-diffusion and the flow that it causes."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from tumorjax.checks import check_count, check_real
from tumorjax.growth import DisplacedTissue, ReactionAdvectionDiffusion
from tumorjax.integrate.rkl2 import stages, super_step, super_step_pullback
from tumorjax.integrate.stepper import AbstractStepper, Interval, Schedule, pull
from tumorjax.integrate.strang_rkl2 import StrangRKL2
from tumorjax.operators import (
    Multigrid,
    Preconditioner,
    advect,
    block_mean,
    divergence,
    elastic_force,
    face_flow,
    free_faces,
    gradient_on_faces,
    largest_eigenvalue_bound,
    solve_elasticity,
    stiffness,
)

Terms = ReactionAdvectionDiffusion
State = DisplacedTissue


class FlowSplitting(AbstractStepper):
    """Reaction and diffusion as `StrangRKL2` does them, and after each diffusion the flow, to first order in time.

    The flow of a step carries cells and tissue by how much the displacement grows: from the one that the elasticity
    solve found in the step before to that at the new density. One solve a step, which begins where the last one
    ended. Its derivative is that of the equilibrium (implicit), not of the iterations.

    The flow thins out the cells that drive it. Solved at the density before, displacements would overshoot, and where
    gamma c P'(c) exceeds lambda + 2 mu, with P the density's pressure, the overshoot would grow from step to step,
    whatever their length. So the solve takes into account, to first order, how a displacement thins the cells: it adds
    to lambda what the thinning takes from the force (and from the tumour's own stress, taken as isotropic).

    Parameters
    ----------
    growth
        The scheme of reaction and diffusion, and of the time levels. More even than those of `StrangRKL2` alone: the
        tumour pushes most at the end.
    preconditioner
        Preconditioner of the elasticity solves: `Multigrid` or `Fourier`.
    tolerance
        Relative residual at which an elasticity solve ends.
    max_iterations
        Most iterations of an elasticity solve.
    max_substeps
        Most parts into which the flow of a step may be cut, by the Courant number.

    References
    ----------
    Subramanian, Gholami, Biros, "Simulation of glioblastoma growth using a 3D multispecies tumor model with mass
    effect", J. Math. Biol. 79 (2019), splits in the same order.
    """

    advances: ClassVar[tuple[type, ...]] = (ReactionAdvectionDiffusion,)

    growth: StrangRKL2 = StrangRKL2(exponent=1.25)
    preconditioner: Preconditioner = Multigrid()
    tolerance: float = eqx.field(static=True, default=1e-4)
    max_iterations: int = eqx.field(static=True, default=100)
    max_substeps: int = eqx.field(static=True, default=8)

    def __check_init__(self) -> None:
        check_real("tolerance", self.tolerance)
        for name in ("max_iterations", "max_substeps"):
            check_count(name, getattr(self, name))
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be in (0, 1), got {self.tolerance}")
        if not isinstance(self.growth, StrangRKL2):
            raise ValueError(f"reaction and diffusion are those of StrangRKL2, got {type(self.growth).__name__}")

    def schedule(self, terms: Terms, interval: Interval) -> Schedule:
        """Return the time levels of reaction and diffusion; the last reaction and its flow are a step of their own."""
        levels = self.growth.levels(terms.proliferation, terms.diffusivity * terms.steepest, interval)
        return dataclasses.replace(levels, closing=1)

    def step(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State) -> State:
        """Return the state after reaction k - 1, diffusion k and the flow that they cause."""
        state = lax.optimization_barrier(self._react(terms, schedule, k - 1, state))
        density = super_step(state.density, *self._diffusion(terms, schedule, k, state))
        return self._flow(terms, dataclasses.replace(state, density=density), state.response, self._flows(schedule, k))

    def pullback(
        self,
        terms: Terms,
        schedule: Schedule,
        k: Int[Array, ""],
        before: State,
        after: State,
        cotangent: State,
        *,
        fields: bool,
    ) -> tuple[Terms, State]:
        """Pull back through flow, diffusion and reaction; only the flow is run again for that, from its result."""
        reacted = lax.optimization_barrier(self._react(terms, schedule, k - 1, before))
        conductance, tau, s = self._diffusion(terms, schedule, k, reacted)
        diffused = dataclasses.replace(reacted, density=super_step(reacted.density, conductance, tau, s))
        flow_bar, cotangent = pull(
            lambda terms, state: self._flow(terms, state, after.response, self._flows(schedule, k)),
            terms,
            diffused,
            cotangent,
            fields=fields,
        )
        density_bar, conductance_bar, tau_bar = super_step_pullback(
            reacted.density, conductance, tau, s, cotangent.density
        )
        # The density bypasses the coefficients; the tissue receives their cotangents.
        diffusion_bar, through = pull(
            lambda terms, state: self._diffusion(terms, schedule, k, state)[:2],
            terms,
            reacted,
            (conductance_bar, tau_bar),
            fields=fields,
        )
        around = dataclasses.replace(cotangent, density=density_bar)
        reaction_bar, cotangent = pull(
            lambda terms, state: self._react(terms, schedule, k - 1, state),
            terms,
            before,
            jax.tree.map(jnp.add, around, through),
            fields=fields,
        )
        return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), flow_bar, diffusion_bar, reaction_bar), cotangent

    def _coefficients(self, terms: Terms, state: State) -> tuple[Any, Float[Array, "x y z"]]:
        return terms.growth.coefficients(state.anatomy(terms.grid), state.material.markers[0])

    def _flows(self, schedule: Schedule, k: Int[Array, ""]) -> Bool[Array, ""]:
        """Return whether reaction k - 1 or diffusion k has width."""
        return self.growth.reaction_width(schedule, k - 1) > 0

    def _react(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State) -> State:
        width = self.growth.reaction_width(schedule, k)
        _, growth = self._coefficients(terms, state)
        killed = None if terms.death is None else width * terms.death
        density = terms.reaction(state.density, width * terms.proliferation * growth, killed)
        return dataclasses.replace(state, density=density)

    def _diffusion(
        self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State
    ) -> tuple[Any, Float[Array, ""], Int[Array, ""]]:
        """Return conductance, width times diffusivity, and number of stages of diffusion k in the tissue as it is."""
        conductance, _ = self._coefficients(terms, state)
        tau = terms.diffusivity * schedule.width(k)
        return conductance, tau, stages(tau * largest_eigenvalue_bound(conductance), self.growth.max_stages)

    def _flow(self, terms: Terms, state: State, guess: Float[Array, "3 u v w"], on: Bool[Array, ""]) -> State:
        """Return the state after density and tissue have followed the new equilibrium of forces, unless not `on`."""
        grid, factor = terms.grid, terms.coarsening
        spacing = jnp.asarray(grid.spacing, state.density.dtype)
        white, grey, _ = state.material.fractions
        density, white, grey, head = (block_mean(field, factor) for field in (state.density, white, grey, terms.head))
        # What is in no map counts as CSF.
        shares = jnp.stack([white, grey, jnp.maximum(1 - white - grey, 0), density])
        first, shear = (jnp.tensordot(jnp.stack(moduli), shares, 1) for moduli in (terms.first, terms.shear))
        free, coarse = free_faces(head > 0.5), factor * spacing
        medium = stiffness(first, shear, free, coarse)
        # tanh(c) grad c is the gradient of log cosh c.
        linear = terms.force == "linear"
        pressure = density if linear else jnp.log(jnp.cosh(density))
        slope = jnp.ones_like(density) if linear else jnp.tanh(density)
        # What the flow is about to thin out, at c' = -c div u', pushes less, and is less stiff itself.
        bulk = terms.first[3] + 2 / 3 * terms.shear[3]
        thinning = density * terms.mass_effect * jnp.maximum(slope - bulk * divergence(state.response, coarse), 0)
        stiffer = stiffness(first + thinning, shear, free, coarse)
        response, convergence = solve_elasticity(
            gradient_on_faces(pressure, coarse)
            + elastic_force(state.response, stiffer)
            - elastic_force(state.response, medium),
            stiffer,
            guess=guess,
            preconditioner=self.preconditioner,
            rtol=self.tolerance,
            max_iterations=self.max_iterations,
        )
        # A comparison that NaN fails, too.
        unsolved = ~(convergence.residual <= 10 * self.tolerance)
        response = jnp.where(on, response, state.response)
        direction = face_flow(response - state.response, factor, grid.shape)
        direction = jnp.where(free_faces(terms.head > 0.5), direction, 0)
        cells, material, substeps = advect(
            terms.mass_effect * direction,
            state.density,
            state.material,
            spacing,
            max_substeps=self.max_substeps,
            direction=direction,
        )
        # Nothing was moved by a flow that is not finite; the failure shows in the density.
        cells = jnp.where(jnp.isnan(convergence.residual), jnp.nan, cells)
        return DisplacedTissue(
            cells,
            material,
            response,
            state.mass_effect,
            jnp.maximum(state.too_fast, (substeps > self.max_substeps).astype(cells.dtype)),
            jnp.maximum(state.unsolved, unsolved.astype(cells.dtype)),
        )
