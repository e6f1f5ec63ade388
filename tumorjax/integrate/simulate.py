"""The verb `simulate`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from tumorjax.anatomy import Anatomy
from tumorjax.growth import (
    AbstractGrowth,
    AbstractVolumeLaw,
    Chemotherapy,
    Outcome,
    Radiotherapy,
    Surgery,
    Treatment,
    VolumeParams,
)
from tumorjax.integrate.adjoint import AbstractAdjoint, Course
from tumorjax.integrate.checkpointed import CheckpointedAdjoint
from tumorjax.integrate.mass_effect import FlowSplitting
from tumorjax.integrate.sharding import spread
from tumorjax.integrate.solution import Result, Solution, VolumeSolution
from tumorjax.integrate.stepper import AbstractStepper, Interval, State, Terms
from tumorjax.integrate.strang_rkl2 import StrangRKL2
from tumorjax.integrate.timeline import Calendar, Kept, Phase, kept_days, phases, saved_days
from tumorjax.integrate.volume import follow

_DEFAULT_ADJOINT = CheckpointedAdjoint()
# Each is the default for the terms that it advances.
_SCHEMES: tuple[AbstractStepper, ...] = (StrangRKL2(), FlowSplitting())
# Rounding and a scheme's small undershoots leave [0, 1] by less.
_RANGE_TOLERANCE = 0.01


@overload
def simulate(
    model: AbstractVolumeLaw,
    params: VolumeParams,
    anatomy: None = None,
    *,
    treatments: Treatment | Sequence[Treatment] = (),
    save_every: float | None = None,
    calendar: Calendar | None = None,
) -> VolumeSolution: ...


@overload
def simulate(
    model: AbstractGrowth,
    params: Any,
    anatomy: Anatomy,
    *,
    treatments: Treatment | Sequence[Treatment] = (),
    save_every: float | None = None,
    calendar: Calendar | None = None,
    stepper: AbstractStepper | None = None,
    adjoint: AbstractAdjoint = _DEFAULT_ADJOINT,
    throw: bool = True,
    mesh: Mesh | None = None,
) -> Solution: ...


def simulate(
    model: AbstractGrowth | AbstractVolumeLaw,
    params: Any,
    anatomy: Anatomy | None = None,
    *,
    treatments: Treatment | Sequence[Treatment] = (),
    save_every: float | None = None,
    calendar: Calendar | None = None,
    stepper: AbstractStepper | None = None,
    adjoint: AbstractAdjoint = _DEFAULT_ADJOINT,
    throw: bool = True,
    mesh: Mesh | None = None,
) -> Solution | VolumeSolution:
    """Grow a tumour from its seed to the time of the scan.

    Works under `jax.jit`, `jax.vmap` and `jax.grad` (with respect to parameters, initial states, tissue maps,
    treatments and the model's coefficients), and with `adjoint=ForwardMode()` under `jax.jvp`. The computation
    runs on the bounding box of what can change where the anatomy is concrete, and on the whole grid where it
    is traced or batched, or cut by a mesh.

    Parameters
    ----------
    model
        What grows: an `AbstractGrowth`, for example `FisherKolmogorov`, or the law of a volume, for example
        `GompertzGrowth`.
    params
        Parameters of the model.
    anatomy
        Where; its dtype is that of the computation. A volume law has none, nor a stepper.
    treatments
        What is done about it, in days from the start. A density kept on the day of a treatment is the one before. For
        a volume law doses are numbers, and a cavity is a share of the volume.
    save_every
        day. Return the density at 0, `save_every`, 2 `save_every`, ... and at the end; the duration must
        then be concrete, for it decides the shape of the result.
    calendar
        When the tumour is seen, and treated. The duration, which may be traced, is then the time from the seed to the
        first visit, the simulation ends with the last one, and the series is what each visit shows. Days of
        treatments are those of the calendar, which was made of them.
    stepper
        The scheme in time, which chooses its steps from the model's terms; by default the model's own, or the default
        scheme of its terms.
    adjoint
        How the solve is differentiated.
    throw
        Raise where the solve failed, if that is known (not under a transformation); else see `result`.
    mesh
        Devices that solve this one simulation together, for grids that are too large for one: its first axis cuts the
        grid along x, its second along y, its third along z. The fields of the solution are cut likewise. To solve many
        simulations on several devices, use `simulate_many` instead.

    Returns
    -------
    Solution
        For a volume law, a `VolumeSolution`.

    Raises
    ------
    ValueError
        If the solve failed and `throw`; if `save_every` is not positive, or the duration is traced with it, or there is
        a calendar as well; if the devices of a mesh cannot share the grid evenly; if a treatment comes after the end or
        a map has another shape than the anatomy; if the anatomy is missing, the scheme does not advance the model's
        terms, or other arguments do not belong together.

    Notes
    -----
    Under a transformation no error is raised for values. A negative parameter then gives a density of NaN.
    """
    given = _checked(model, params, anatomy, treatments, stepper, adjoint)
    if calendar is not None and save_every is not None:
        raise ValueError("a calendar says on which days the density is kept; leave out save_every")
    if isinstance(model, AbstractVolumeLaw):
        return follow(model, params, given, save_every, calendar)
    if anatomy is None:
        raise ValueError(f"{type(model).__name__} grows in an anatomy: give one")
    if batch := jnp.shape(params.duration):
        raise ValueError(f"the parameters are a batch of shape {batch}, not one tumour; use simulate_many, or jax.vmap")
    outcome = model.predict(params, anatomy)
    if outcome is not None:
        name = type(model).__name__
        if given:
            raise ValueError(f"{name} predicts growth without treatment; simulate treatments with FisherKolmogorov")
        if save_every is not None or calendar is not None:
            what = "save_every" if calendar is None else "further visits"
            raise ValueError(f"{name} predicts the end alone; leave out {what}, or use FisherKolmogorov")
        solution = _solution_of(model, params, anatomy, outcome)
        return solution.check() if throw else solution
    dtype, shape = anatomy.dtype, anatomy.grid.shape
    # First, because under `jit` the conversion turns the numbers that it was given into traced ones, as do products.
    with jax.ensure_compile_time_eval():
        duration = params.duration
    saved = saved_days(duration, save_every)
    for leaf in jax.tree.leaves((params.origin, given)):
        if jnp.ndim(leaf) == 3 and jnp.shape(leaf) != shape:
            raise ValueError(f"a map has shape {jnp.shape(leaf)} on an anatomy of shape {shape}; resample it")
    start, size = (0, 0, 0), shape
    if not anatomy.traced and mesh is None:
        start, size = model.box(anatomy)
    params = params.crop(start, size)
    given = tuple(treatment.crop(start, size) for treatment in given)
    inside = anatomy.crop(start, size) if size != shape else anatomy
    model, params, given = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (model, params, given))
    possible, shown = None, frozenset({"density"})
    if calendar is None:
        timeline = phases(duration, given, saved)
        kept = None if saved is None else kept_days(timeline, saved)
    else:
        given = tuple(treatment.undated() for treatment in given)
        age, shown = jnp.asarray(duration, dtype), model.shows
        params = params.lasting(age + jnp.asarray(calendar.span, dtype))
        timeline, kept, possible = calendar.since_seed(age), calendar.kept(age), calendar.possible(age)
    if mesh is not None:
        model, params, inside, given = spread((model, params, inside, given), shape, mesh)
    solution = _solve(model, params, inside, timeline, given, kept, stepper, adjoint, possible, shown)
    if size != shape:
        solution = _embed(solution, anatomy, start)
    return solution.check() if throw else solution


def _checked(
    model: Any, params: Any, anatomy: Any, treatments: Any, stepper: Any, adjoint: Any
) -> tuple[Treatment, ...]:
    """Return the treatments, or raise a ValueError where the arguments of `simulate` do not belong together."""
    name = type(model).__name__
    if not isinstance(model, (AbstractGrowth, AbstractVolumeLaw)):
        raise ValueError(f"the model must be a growth model such as FisherKolmogorov(), got {model!r}")
    if not isinstance(params, model.parameters):
        takes = " or ".join(kind.__name__ for kind in model.parameters)
        raise ValueError(f"{name} takes {takes}, got {type(params).__name__}")
    if isinstance(model, AbstractVolumeLaw) and not (anatomy is None and stepper is None):
        raise ValueError(f"{name} has a closed solution without space; leave out anatomy and stepper")
    if anatomy is not None and not isinstance(anatomy, Anatomy):
        raise ValueError(f"the anatomy must be an Anatomy, got {type(anatomy).__name__}")
    if not isinstance(stepper, (AbstractStepper, type(None))) or not isinstance(adjoint, AbstractAdjoint):
        got = f"{type(stepper).__name__} and {type(adjoint).__name__}"
        raise ValueError(f"give a stepper such as StrangRKL2() and an adjoint such as ForwardMode(), got {got}")
    treatments = tuple(treatments) if isinstance(treatments, (list, tuple)) else (treatments,)
    for treatment in treatments:
        if not isinstance(treatment, Treatment):
            raise ValueError(f"treatments are Surgery, Radiotherapy or Chemotherapy, got {treatment!r}")
    return treatments


@eqx.filter_jit
def _solution_of(model: AbstractGrowth, params: Any, anatomy: Anatomy, outcome: Outcome) -> Solution:
    """Return what a model predicts without steps."""
    result = _result(outcome, params, model.seeded(params, anatomy))
    times = jnp.asarray(params.duration, anatomy.dtype)[None]
    density = jnp.where(params.valid, outcome.density, jnp.nan)
    return Solution(density, times, None, jnp.zeros((), jnp.int32), result, outcome.anatomy, outcome.displacement)


def _result(outcome: Outcome, params: Any, seeded: Array) -> Array:
    """Return the code of how a solve ended; of several failures the one that explains the others."""
    density, result = outcome.density, jnp.asarray(Result.SUCCESS, jnp.int32)
    for failed, code in (
        (~params.valid, Result.NEGATIVE_PARAMETER),
        (
            (density.min() < -_RANGE_TOLERANCE) | (density.max() > outcome.largest + _RANGE_TOLERANCE),
            Result.OUT_OF_RANGE,
        ),
        (outcome.folded, Result.DISPLACEMENT_FOLDS),
        (outcome.too_fast, Result.FLOW_TOO_FAST),
        (outcome.unsolved, Result.ELASTICITY_NOT_SOLVED),
        (outcome.unknown, Result.OUTSIDE_TRAINING),
        (~seeded, Result.SEED_OUTSIDE_TISSUE),
        # The sum is finite exactly where every voxel is: densities are bounded.
        (~jnp.isfinite(density.sum()), Result.NOT_FINITE),
    ):
        result = jnp.where(failed, code, result)
    return result


def _scheme(model: AbstractGrowth, terms: Terms, stepper: AbstractStepper | None) -> AbstractStepper:
    """Return the scheme for a model's terms: the one that was given, the model's own, or the default."""
    chosen = model.stepper() if stepper is None else stepper
    if chosen is None:
        chosen = next((scheme for scheme in _SCHEMES if isinstance(terms, scheme.advances)), None)
    if chosen is None or not isinstance(terms, chosen.advances):
        known = " or ".join(kind.__name__ for kind in getattr(chosen, "advances", ()))
        got = f"the equations of {type(model).__name__} are {type(terms).__name__}"
        if chosen is None:
            raise ValueError(f"{got}, for which there is no default scheme; give a stepper")
        raise ValueError(f"{type(chosen).__name__} advances {known}, but {got}; leave out the stepper")
    return chosen


def _embed(solution: Solution, anatomy: Anatomy, start: tuple[int, int, int]) -> Solution:
    """Return the solution on the whole grid, from that in a box outside which nothing grew or moved."""
    shape = anatomy.grid.shape
    box = tuple(slice(low, low + n) for low, n in zip(start, solution.density.shape, strict=True))

    def pad(field: Array, *, before: int = 0) -> Array:
        around = jnp.zeros((*field.shape[:before], *shape, *field.shape[before + 3 :]), field.dtype)
        return around.at[(*[slice(None)] * before, *box)].set(field)

    def around(moved: dict[str, Array]) -> dict[str, Array]:
        padded = {name: pad(field, before=1) for name, field in moved.items()}
        if "csf" in moved:
            whole = jnp.broadcast_to(jnp.asarray(anatomy.csf), padded["csf"].shape)
            padded["csf"] = whole.at[(slice(None), *box)].set(moved["csf"])
        return padded

    moved = solution.anatomy
    if moved is not None:
        names = ("white_matter", "grey_matter", "csf", *(() if anatomy.fibres is None else ("fibres",)))
        maps = [jnp.asarray(getattr(anatomy, name)).at[box].set(getattr(moved, name)) for name in names]
        # Not by the constructor: a failed solve would not pass its checks.
        moved = eqx.tree_at(lambda a: [getattr(a, name) for name in names], anatomy, maps)
    return dataclasses.replace(
        solution,
        density=pad(solution.density),
        series=None if solution.series is None else pad(solution.series, before=1),
        moved=None if solution.moved is None else around(solution.moved),
        anatomy=moved,
        displacement=None if solution.displacement is None else pad(solution.displacement),
    )


class _Piece(eqx.Module):
    """An interval: its share of the whole time, its place in its phase, fractions at its beginning, drugs during it."""

    share: Float[Array, "..."]
    interval: Interval
    fractions: Float[Any, "..."]
    drugs: Float[Any, "..."]


def _pieces(timeline: list[Phase], index: int, duration: Float[Array, ""]) -> _Piece:
    """Return the intervals of a phase along a leading axis; the last phase ends with the simulation."""
    phase, dtype = timeline[index], duration.dtype
    days, fractions, drugs = (jnp.asarray(x, dtype) for x in (phase.days, phase.fractions, phase.drugs))
    if index == len(timeline) - 1:
        # A drug may stop after a traced end. Where that is the first day the interval is still the end's to lengthen.
        days = jnp.append(jnp.where(days[:-1] <= duration, days[:-1], duration), duration)
    # The whole is the whole also where it takes no time.
    alone = len(timeline) == 1 and len(phase.days) == 2
    shares = jnp.ones(1, dtype) if alone else jnp.diff(days) / jnp.where(duration > 0, duration, 1)
    # In a phase of one interval that is exactly zero and one, whatever its length.
    ends = jnp.asarray([0.0, 1.0], dtype)
    if len(phase.days) > 2:
        ends = lax.stop_gradient((days - days[0]) / (days[-1] - days[0]))
    begin, stop = ends[:-1], ends[1:]
    # An interval without width, in which nothing happens, is no part that a scheme could grade its steps over.
    wide = stop - begin > jnp.finfo(dtype).eps
    return _Piece(shares, Interval(jnp.where(wide, begin, 0), jnp.where(wide, stop, 1)), fractions, drugs)


def _course(
    terms: Terms, pieces: _Piece, given: Any, begin: Any, duration: Float[Array, ""], drugs: list[Chemotherapy]
) -> Course:
    """Return the intervals of a phase with the terms in each of them."""

    def scaled(share: Float[Array, ""], given: Float[Array, "m"]) -> Terms:
        here = terms
        if drugs:
            here = here.dosed(duration * sum(given[j] * drug.rate for j, drug in enumerate(drugs)))
        return here.over(share)

    first = scaled(pieces.share[0], pieces.drugs[0])
    # What is the very same in the terms of an interval is so in all of them, and is held once.
    same = {id(leaf) for leaf in jax.tree.leaves(terms)}
    differs = jax.tree.map(lambda leaf: id(leaf) not in same, first)
    numbers = jax.vmap(lambda *each: eqx.partition(scaled(*each), differs)[0])(pieces.share, pieces.drugs)
    return Course(numbers, eqx.partition(first, differs)[1], given, pieces.interval, begin)


def _steps_of(course: Course, scheme: AbstractStepper) -> Array:
    """Return the number of steps of all intervals together."""
    taken = course.each(lambda i: scheme.schedule(course.terms(i), course.interval(i)).steps)
    return taken.sum(dtype=jnp.int32)


@eqx.filter_jit
def _solve(
    model: Any,
    params: Any,
    anatomy: Anatomy,
    timeline: list[Phase],
    treatments: tuple[Treatment, ...],
    kept: Kept | None,
    stepper: AbstractStepper | None,
    adjoint: AbstractAdjoint,
    possible: Bool[Array, ""] | None,
    shown: frozenset[str],
) -> Solution:
    # Without the barrier the compiler folds maps that are constants of the caller's program, which takes
    # it longer than the solve.
    anatomy = lax.optimization_barrier(anatomy)
    dtype, duration = anatomy.dtype, params.duration
    surgeries = [t for t in treatments if isinstance(t, Surgery)]
    radiation = [t for t in treatments if isinstance(t, Radiotherapy)]
    drugs = [t for t in treatments if isinstance(t, Chemotherapy)]
    state, terms = model.initial(params, anatomy), model.terms(params, anatomy)
    seeded, scheme = model.seeded(params, anatomy), _scheme(model, terms, stepper)

    def begin(given: Any, i: Any, state: State) -> State:
        """Return the state after the fractions of radiation at the beginning of interval i."""
        courses, fractions = given
        for j, treatment in enumerate(courses):
            state = terms.survive(state, treatment.survival(fractions[i, j]))
        return state

    def frame(state: State) -> dict[str, Array]:
        """Return what images can show of a state."""
        outcome = model.outcome(state, anatomy)
        fluid = None if outcome.anatomy is None else outcome.anatomy.csf
        fields = {"density": outcome.density, "csf": fluid, "displacement": outcome.displacement}
        return {name: field for name, field in fields.items() if name in shown and field is not None}

    steps = jnp.zeros((), jnp.int32)
    frames = [jax.tree.map(lambda leaf: leaf[None], frame(state))]
    for index, phase in enumerate(timeline):
        for i in phase.surgeries:
            terms, state = terms.resect(state, surgeries[i].taken)
        pieces = _pieces(timeline, index, duration)
        course = _course(terms, pieces, (radiation, pieces.fractions), begin, duration, drugs)
        if course.count == 1:
            # Not by a loop of one turn, which would be compiled for nothing.
            alone = course.terms(0), course.interval(0)
            steps = steps + scheme.schedule(*alone).steps
            state = adjoint.advance(scheme, alone[0], begin(course.given, 0, state), alone[1])
            ends = jax.tree.map(lambda leaf: leaf[None], state)
        else:
            steps = steps + _steps_of(course, scheme)
            ends = adjoint.follow(scheme, course, state)
            state = jax.tree.map(lambda leaf: leaf[-1], ends)
        if kept is not None:
            frames.append(lax.map(frame, ends))
    outcome = model.outcome(state, anatomy)
    last = max((day for treatment in treatments for day in treatment.begins), default=-math.inf)
    times, series, moved = duration[None], None, {}
    if kept is not None:
        times = jnp.append(jnp.asarray(kept.days, dtype), duration)
        moved = jax.tree.map(lambda *parts: jnp.concatenate(parts)[np.asarray(kept.positions)], *frames)
        series = moved.pop("density")
    result = jnp.where(duration <= last, Result.TREATMENT_AFTER_END, _result(outcome, params, seeded))
    if possible is not None:
        result = jnp.where(possible, result, Result.TREATMENT_BEFORE_SEED)
    density = outcome.density
    # Under a transformation nothing is raised for the code, and a negative number may have passed for its square.
    density, series = jax.tree.map(lambda field: jnp.where(params.valid, field, jnp.nan), (density, series))
    return Solution(density, times, series, steps, result, outcome.anatomy, outcome.displacement, moved or None)
