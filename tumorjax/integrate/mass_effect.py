"""Splitting of growth with mass effect into reaction-diffusion and the flow that it causes."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from tumorjax.checks import check_count, check_real
from tumorjax.growth import DisplacedTissue, Drift, ReactionAdvectionDiffusion
from tumorjax.integrate.balance import Tissue, balanced_pullback, balanced_response
from tumorjax.integrate.rkl2 import stages, super_step, super_step_pullback
from tumorjax.integrate.stepper import AbstractStepper, Interval, Schedule, pull
from tumorjax.integrate.strang_rkl2 import StrangRKL2
from tumorjax.operators import (
    Convergence,
    Material,
    Multigrid,
    Preconditioner,
    advect,
    advect_pullback,
    apart,
    block_mean,
    face_flow,
    free_faces,
    largest_eigenvalue_bound,
    rotated,
    rotation_vectors,
)

Terms = ReactionAdvectionDiffusion
State = DisplacedTissue
Field = Float[Array, "x y z"]
Response = Float[Array, "3 u v w"]

# Share of a correction to the extrapolated displacement that is made in one step.
_RELAXATION = 2 / 3


class FlowSplitting(AbstractStepper):
    """Reaction and diffusion as `StrangRKL2` does them, and the flow shifted by half a step: of second order in time.

    Step k is reaction and diffusion over the time step k - 1, and then the flow from the middle of that time step to
    the middle of the next; the first flow begins with the interval, and the last one ends with it. In other words,
    flow and reaction-diffusion are split symmetrically (Strang), and two half flows that meet are one.

    A flow carries cells and tissue by how much the displacement grows in its time: from the equilibrium that was found
    for its beginning to that of its end. One elasticity solve finds the latter, for cells that are extrapolated by half
    a time step of reaction and of the diffusion as it just was, and for cells and tissue that are carried along by an
    extrapolated displacement; see `balanced_response`. It begins at that displacement. Its derivative is that of the
    equilibrium (implicit), not of the iterations.

    Parameters
    ----------
    growth
        The scheme of reaction and diffusion, and of the time levels. They are even, unlike those of `StrangRKL2` alone,
        because the tumour pushes most at the end, and fewer.
    preconditioner
        Preconditioner of the elasticity solves: `Multigrid` or `Fourier`.
    tolerance
        Relative residual at which an elasticity solve ends. That of a pullback ends at ten times as much: with the
        default, derivatives of a solve at 4 mm by its parameters were within 3e-5 of those with multipliers to 1e-6,
        and that by the width of the origin, the smallest, within 3e-4.
    max_iterations
        Most iterations of an elasticity solve.
    max_substeps
        Most parts into which the flow of a step may be cut, by the Courant number.

    References
    ----------
    Subramanian, Gholami, Biros, "Simulation of glioblastoma growth using a 3D multispecies tumor model with mass
    effect", J. Math. Biol. 79 (2019), splits reaction, diffusion, flow and elasticity, too, to first order.
    """

    advances: ClassVar[tuple[type, ...]] = (ReactionAdvectionDiffusion,)

    growth: StrangRKL2 = StrangRKL2(reaction_step=1.0, first_steps=8, exponent=1.0)
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
        """Return the time levels of reaction and diffusion; as there is one more flow, a step without width follows."""
        levels = self.growth.levels(terms.proliferation, terms.diffusivity * terms.steepest, interval)
        return dataclasses.replace(levels, closing=1)

    def step(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State) -> State:
        """Return the state after reaction and diffusion of time step k - 1, and the flow that follows."""
        change, grown = self._grow(terms, schedule, k, state)
        guess = grown.response + self._expected(schedule, k, grown).response
        response, convergence = self._respond(terms, schedule, k, grown, change, guess)
        direction = self._direction(terms, response - grown.response)
        flow = terms.mass_effect * direction
        cells, material, substeps = advect(
            flow, grown.density, _turned(terms, grown.material, flow), **self._transport(terms, k, direction)
        )
        material = _turned(terms, material, flow)
        # Nothing was moved by a flow that is not finite; the failure shows in the density.
        cells = jnp.where(jnp.isnan(convergence.residual), jnp.nan, cells)
        moved = dataclasses.replace(grown, density=cells, material=material, response=response)
        # A comparison that NaN fails, too.
        unsolved = ~(convergence.residual <= 10 * self.tolerance)
        return dataclasses.replace(
            moved,
            drift=self._drift(terms, schedule, k, grown, moved),
            too_fast=jnp.maximum(state.too_fast, (substeps > self.max_substeps).astype(cells.dtype)),
            unsolved=jnp.maximum(state.unsolved, unsolved.astype(cells.dtype)),
        )

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
        """Pull back through the flow, whose equilibrium is not solved again, and through reaction and diffusion."""
        begun = self._react(terms, schedule, k, before)
        diffusion = self._diffusion(terms, schedule, k, begun)
        diffused = lax.optimization_barrier(super_step(begun.density, *diffusion))
        grown = self._react(terms, schedule, k, dataclasses.replace(begun, density=diffused))
        change = diffused - begun.density

        # The flow.
        grown_bar, moved_bar = jax.vjp(
            lambda grown, moved: self._drift(terms, schedule, k, grown, moved), grown, after
        )[1](cotangent.drift)
        moved_bar = jax.tree.map(jnp.add, moved_bar, dataclasses.replace(cotangent, drift=moved_bar.drift))
        direction, pull_direction = jax.vjp(
            lambda response, before: self._direction(terms, response - before), after.response, grown.response
        )
        flow = terms.mass_effect * direction
        begun_material, pull_begun = jax.vjp(lambda *given: _turned(terms, *given), grown.material, flow)
        moved_material = _turned(terms, after.material, -flow)
        material_bar, last_bar = jax.vjp(lambda *given: _turned(terms, *given), moved_material, flow)[1](
            moved_bar.material
        )
        flow_bar, density_bar, material_bar = advect_pullback(
            flow,
            grown.density,
            begun_material,
            cotangent=(moved_bar.density, material_bar),
            **self._transport(terms, k, direction),
        )
        material_bar, first_bar = pull_begun(material_bar)
        flow_bar = flow_bar + first_bar + last_bar
        force_bar, direction_bar = pull(
            lambda terms, direction: terms.mass_effect * direction, terms, direction, flow_bar, fields=fields
        )
        response_bar, own_bar = pull_direction(direction_bar)
        flow_bar, (through, change_bar) = self._respond_pullback(
            terms, schedule, k, grown, change, after.response, moved_bar.response + response_bar, fields=fields
        )
        moved_bar = dataclasses.replace(moved_bar, density=density_bar, material=material_bar, response=own_bar)
        around = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), moved_bar, grown_bar, through)

        # Reaction, diffusion, reaction.
        second_bar, around = pull(
            lambda terms, state: self._react(terms, schedule, k, state),
            terms,
            dataclasses.replace(begun, density=diffused),
            around,
            fields=fields,
        )
        density_bar, *diffusion_bar = super_step_pullback(begun.density, *diffusion, around.density + change_bar)
        # The density bypasses the coefficients; the tissue receives their cotangents.
        diffusion_bar, through = pull(
            lambda terms, state: self._diffusion(terms, schedule, k, state)[:2],
            terms,
            begun,
            tuple(diffusion_bar),
            fields=fields,
        )
        around = dataclasses.replace(around, density=density_bar - change_bar)
        first_bar, around = pull(
            lambda terms, state: self._react(terms, schedule, k, state),
            terms,
            before,
            jax.tree.map(jnp.add, around, through),
            fields=fields,
        )
        parts = (force_bar, flow_bar, second_bar, diffusion_bar, first_bar)
        return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *parts), around

    # Reaction and diffusion.

    def _grow(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State) -> tuple[Field, State]:
        """Return what diffusion changed, and the state after half a reaction, diffusion, half a reaction."""
        begun = self._react(terms, schedule, k, state)
        diffused = super_step(begun.density, *self._diffusion(terms, schedule, k, begun))
        diffused = lax.optimization_barrier(diffused)
        grown = self._react(terms, schedule, k, dataclasses.replace(begun, density=diffused))
        return diffused - begun.density, grown

    def _coefficients(self, terms: Terms, state: State) -> tuple[Any, Field]:
        return terms.growth.coefficients(state.anatomy(terms.grid), state.material.markers[0])

    def _react(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State) -> State:
        """Return the state after reaction over half of time step k - 1."""
        return lax.optimization_barrier(self._reacted(terms, schedule.width(k - 1) / 2, state))

    def _reacted(self, terms: Terms, width: Float[Array, ""], state: State) -> State:
        _, growth = self._coefficients(terms, state)
        killed = None if terms.death is None else width * terms.death
        density = terms.reaction(state.density, width * terms.proliferation * growth, killed)
        return dataclasses.replace(state, density=density)

    def _diffusion(
        self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State
    ) -> tuple[Any, Float[Array, ""], Int[Array, ""]]:
        """Return conductance, width times diffusivity, and number of stages of time step k - 1."""
        conductance, _ = self._coefficients(terms, state)
        tau = terms.diffusivity * schedule.width(k - 1)
        return conductance, tau, stages(tau * largest_eigenvalue_bound(conductance), self.growth.max_stages)

    # The flow of step k.

    def _duration(self, schedule: Schedule, k: Int[Array, ""]) -> Float[Array, ""]:
        """Return the time of the flow, in the unit of the whole."""
        return schedule.share * (schedule.width(k - 1) + schedule.width(k)) / 2

    def _expected(self, schedule: Schedule, k: Int[Array, ""], state: State) -> Drift:
        """Return what the flow is expected to change, from the drift of the flow before."""
        return jax.tree.map(
            lambda rate: jnp.where(self._drifts(schedule, k), self._duration(schedule, k) * rate, 0), state.drift
        )

    def _drifts(self, schedule: Schedule, k: Int[Array, ""]) -> Bool[Array, ""]:
        """Return whether the drift is known, as it is not at the very beginning."""
        return (k > 1) | (schedule.levels[0] > 0)

    def _relaxation(self, schedule: Schedule, k: Int[Array, ""]) -> Float[Array, ""]:
        # The first flow of an interval may hold a jump, such as to the equilibrium of the first density.
        return jnp.where((k > 0) & self._drifts(schedule, k), _RELAXATION, 1).astype(schedule.levels.dtype)

    def _respond(
        self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State, change: Field, guess: Response
    ) -> tuple[Response, Convergence]:
        """Return the response after the flow."""
        tissue = self._ahead(terms, schedule, k, state, change)
        response, convergence = balanced_response(terms, tissue, guess=guess, **self._iteration(self.tolerance))
        response = tissue.response + self._relaxation(schedule, k) * (response - tissue.response)
        return jnp.where(self._duration(schedule, k) > 0, response, state.response), convergence

    def _respond_pullback(
        self,
        terms: Terms,
        schedule: Schedule,
        k: Int[Array, ""],
        state: State,
        change: Field,
        response: Response,
        cotangent: Response,
        *,
        fields: bool,
    ) -> tuple[Terms, tuple[State, Field]]:
        """Return the cotangents of terms, state and change from that of the response."""
        tissue, relaxation = self._ahead(terms, schedule, k, state, change), self._relaxation(schedule, k)
        solved = tissue.response + (response - tissue.response) / relaxation
        moving_bar = jnp.where(self._duration(schedule, k) > 0, cotangent, 0)
        balance_bar, tissue_bar = balanced_pullback(
            terms, tissue, solved, relaxation * moving_bar, fields=fields, **self._iteration(10 * self.tolerance)
        )
        tissue_bar = dataclasses.replace(tissue_bar, response=tissue_bar.response + (1 - relaxation) * moving_bar)
        terms_bar, (state_bar, change_bar) = pull(
            lambda terms, given: self._ahead(terms, schedule, k, *given),
            terms,
            (state, change),
            tissue_bar,
            fields=fields,
        )
        state_bar = dataclasses.replace(state_bar, response=state_bar.response + cotangent - moving_bar)
        return jax.tree.map(jnp.add, balance_bar, terms_bar), (state_bar, change_bar)

    def _iteration(self, tolerance: float) -> dict[str, Any]:
        return {
            "preconditioner": self.preconditioner,
            "tolerance": tolerance,
            "max_iterations": self.max_iterations,
        }

    def _ahead(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], state: State, change: Field) -> Tissue:
        """Return what the flow is expected to lead to."""
        last, coming = schedule.width(k - 1), schedule.width(k)
        ahead = self._reacted(terms, coming / 2, state).density
        ahead = ahead + jnp.where(last > 0, coming / 2 / jnp.where(last > 0, last, 1), 0) * change
        drift = self._expected(schedule, k, state)
        now = Tissue(state.response, *self._means(terms, dataclasses.replace(state, density=ahead)))
        return jax.tree.map(jnp.add, now, Tissue(drift.response, drift.density, drift.white, drift.grey))

    def _means(self, terms: Terms, state: State) -> tuple[Response, ...]:
        """Return the means of cells, white and grey matter over the voxels of elasticity."""
        fields = (state.density, *state.material.fractions[:2])
        return apart(lambda fields: tuple(block_mean(field, terms.coarsening) for field in fields), fields)

    def _drift(self, terms: Terms, schedule: Schedule, k: Int[Array, ""], before: State, after: State) -> Drift:
        """Return the rates of change by the flow; those before it where the flow may hold a jump."""
        duration = self._duration(schedule, k)
        drifting = (duration > 0) & (k > 0)
        change = map(jnp.subtract, self._means(terms, after), self._means(terms, before))
        change = Drift(after.response - before.response, *change)
        return jax.tree.map(
            lambda new, old: jnp.where(drifting, new / jnp.where(drifting, duration, 1), old), change, before.drift
        )

    def _direction(self, terms: Terms, increment: Response) -> Float[Array, "3 x y z"]:
        """Return the flow through the faces of voxels, for a unit of the force."""
        direction = face_flow(increment, terms.coarsening, terms.grid.shape)
        return jnp.where(free_faces(terms.head > 0.5), direction, 0)

    def _transport(self, terms: Terms, k: Int[Array, ""], direction: Float[Array, "3 x y z"]) -> dict[str, Any]:
        spacing = jnp.asarray(terms.grid.spacing, direction.dtype)
        return {"spacing": spacing, "max_substeps": self.max_substeps, "direction": direction, "turn": k}


def _turned(terms: Terms, material: Material, flow: Float[Array, "3 x y z"]) -> Material:
    """Return the material with its fibres, if any, turned by half of the flow's rotation; it is undone by -flow."""
    domain, *tensor = material.markers
    if not tensor:
        return material
    vectors = rotation_vectors(flow, terms.grid.affine[:3, :3]) / 2
    return dataclasses.replace(material, markers=(domain, *rotated(tuple(tensor), vectors)))
