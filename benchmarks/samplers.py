"""Samplers beside each other: NUTS and TMCMC as they are, and those of blackjax on the same targets."""

import importlib.util
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

from benchmarks.cohorts import folder
from benchmarks.record import Record, code, kept
from benchmarks.simulated import brain, simulated
from tests.targets import AbstractKnown, Banana, Gaussian, TwoModes
from tumorjax import LBFGS, SurfaceErrors, calibrate
from tumorjax.calibration.cost import Cost
from tumorjax.methods.sampling import NUTS, TMCMC
from tumorjax.methods.sampling.diagnostics import mixing
from tumorjax.methods.sampling.marginal import MarginalTarget
from tumorjax.methods.sampling.sampler import OVERDISPERSION
from tumorjax.methods.sampling.target import AbstractTarget

# Chains, draws of each, and transitions before them.
_CHAINS, _DRAWS, _WARMUP = 4, 250, 100
# Chains of the sampler that needs many.
_MANY = 16
# Voxels (mm) and number of the simulated patient, whose outlines err as those of readers.
_SPACING, _PATIENT = 8, 0
_PARTICLES, _STEPS = 512, 5


class Counted:
    """Counts the evaluations of a function that is compiled."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        """Count one."""
        self.count += 1


class Whitened:
    """A posterior in coordinates w in which a normal approximation is standard normal, for kernels of blackjax.

    The points of a batch are computed one after another: on a CPU a batch of solves takes longer. Where a solve fails,
    the density is zero.
    """

    def __init__(self, target: AbstractTarget, centre: np.ndarray, factor: np.ndarray, seen: Counted | None = None):
        self.centre, self.factor = centre, factor
        middle, scale = jnp.asarray(centre, target.dtype), jnp.asarray(factor, target.dtype)

        @sequential_vmap
        def both(w: Any) -> tuple[Any, Any]:
            if seen is not None:
                jax.debug.callback(seen.add)
            value, slope = jax.value_and_grad(lambda w: target.log_posterior(middle + scale @ w))(w)
            fine = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
            return jnp.where(fine, value, -1e30), jnp.where(fine, slope, 0)

        @jax.custom_vjp
        def log_density(w: Any) -> Any:
            return both(w)[0]

        log_density.defvjp(both, lambda slope, share: (share * slope,))
        self.log_density = log_density

    def draws(self, points: np.ndarray) -> np.ndarray:
        """Return draws from draws w (c, d, n)."""
        return self.centre + np.asarray(points, float) @ self.factor.T


def effective(draws: np.ndarray) -> dict[str, float]:
    """Return effective draws of the worst coordinate, and of the worst squared deviation, of draws (c, d, n)."""
    r_hat, ess = mixing(draws)
    squares = mixing((draws - draws.mean(axis=(0, 1))) ** 2)[1]
    return {"effective": float(ess.min()), "effective squares": float(squares.min()), "r_hat": float(r_hat.max())}


def run(size: str) -> list[Record]:
    """All figures; `small` leaves the patient out. Each sampler on each target is kept in the folder of cohorts."""
    if importlib.util.find_spec("blackjax") is None:
        print("no samplers of blackjax: it is not installed")
        return []
    targets: dict[str, Callable[[], Any]] = {"gaussian": _gaussian, "banana": _banana}
    if size == "full":
        targets["patient"] = _patient
    records = []
    for name, made in targets.items():
        for sampler, draw in SAMPLERS.items():
            # Pathfinder's program holds so many solves that it compiles for longer than all the others draw.
            if (name, sampler) == ("patient", "nuts_from_pathfinder"):
                continue
            measured = _kept(f"{name}_{sampler}", lambda draw=draw, made=made: _measured(draw, *made()))
            records += _efficiency(f"{name}_{sampler}", measured)
    return records + evidence(2 if size == "small" else 8, patient=size == "full")


def _kept(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return kept(folder() / "samplers" / f"{name}.json", code("samplers", "simulated"), measure)


def _efficiency(name: str, found: dict[str, Any]) -> list[Record]:
    gradients, seconds = found["gradients"], found["seconds of processor"]
    details = {**found, "of squares": 1e3 * found["effective squares"] / gradients}
    figure = Record(f"{name}_effective_a_thousand_gradients", 1e3 * found["effective"] / gradients, "1", "", details)
    if not name.startswith("patient"):
        # A known density costs less than the sampler.
        return [figure]
    return [figure, Record(f"{name}_effective_per_second_of_processor", found["effective"] / seconds, "1/s")]


def _gaussian() -> tuple[AbstractTarget, np.ndarray, np.ndarray, Cost]:
    target = Gaussian(5)
    return target, target.mean, target.covariance, Cost()


def _banana() -> tuple[AbstractTarget, np.ndarray, np.ndarray, Cost]:
    target = Banana(3)
    return target, target.mean, target.covariance, Cost()


def _patient() -> tuple[MarginalTarget, np.ndarray, np.ndarray, Cost]:
    """A simulated patient, and the Laplace approximation with what it took."""
    problem = simulated(brain(_SPACING), _PATIENT, "correlated", SurfaceErrors()).problem
    target, middle = MarginalTarget(problem), problem.prior.constrain(np.zeros(problem.prior.size, np.float32))
    found = calibrate(problem, LBFGS(starts=(middle,), coarsening=1))
    mean, covariance = (np.asarray(part, float) for part in (found.coordinates, found.covariance))
    return target, mean[target.kept], covariance[np.ix_(target.kept, target.kept)], found.cost


def _measured(
    sampler: Callable[..., Any], target: AbstractTarget, centre: np.ndarray, covariance: np.ndarray, begun: Cost
) -> dict[str, Any]:
    """Return sums over the runs of a sampler, each with the start that it needs; of R-hat the largest."""
    seeds = 3 if isinstance(target, AbstractKnown) else 1
    runs = sampler(target, centre, np.linalg.cholesky(covariance), range(seeds))
    found = {name: sum(run[name] for run in runs) for name in runs[0]}
    if "of the start" not in found:
        found["gradients"] += seeds * begun.gradients
    found["r_hat"] = max(run["r_hat"] for run in runs)
    found["acceptance"] /= seeds
    return found


def _nuts(target: AbstractTarget, centre: np.ndarray, factor: np.ndarray, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """Our NUTS, around the approximation."""
    return [_nuts_once(target, centre, factor, seed) for seed in seeds]


def _nuts_once(target: AbstractTarget, centre: np.ndarray, factor: np.ndarray, seed: int) -> dict[str, Any]:
    settings = {"chains": _CHAINS, "warmup": _WARMUP}
    around = (jax.random.key(seed), centre, factor @ factor.T)
    # Compiles the program.
    NUTS(draws=4, **settings).draw(target, *around)
    begun = time.process_time()
    found = NUTS(draws=_DRAWS, **settings).draw(target, *around)
    seconds = time.process_time() - begun
    return {
        **effective(found.draws),
        "gradients": found.stats.cost.gradients,
        "seconds of processor": seconds,
        "divergences": found.stats.divergences,
        "acceptance": float(np.mean(found.stats.acceptance)),
    }


def _pathfinder(
    target: AbstractTarget, centre: np.ndarray, factor: np.ndarray, seeds: Iterable[int]
) -> list[dict[str, Any]]:
    """Our NUTS around the approximation that Pathfinder finds from the middle of the prior."""
    import blackjax

    seen, size = Counted(), len(centre)
    density = Whitened(target, np.zeros(size), np.eye(size), seen).log_density

    @jax.jit
    def found(key: Any) -> Any:
        first, second = jax.random.split(key)
        begin = jnp.zeros(size, target.dtype)
        state, _ = blackjax.pathfinder.approximate(first, density, begin, num_samples=20, maxiter=20, maxls=20)
        return state.position, blackjax.pathfinder.sample(second, state, 1000)[0]

    program, runs = found.lower(jax.random.key(0)).compile(), []
    for seed in seeds:
        before, begun = seen.count, time.process_time()
        middle, draws = jax.device_get(program(jax.random.key(seed)))
        jax.effects_barrier()
        seconds, count = time.process_time() - begun, seen.count - before
        factor = np.linalg.cholesky(np.cov(np.asarray(draws, float).T))
        run = {**_nuts_once(target, np.asarray(middle, float), factor, seed), "of the start": count}
        run["gradients"] += count
        run["seconds of processor"] += seconds
        runs.append(run)
    return runs


def _chees(
    target: AbstractTarget, centre: np.ndarray, factor: np.ndarray, seeds: Iterable[int]
) -> list[dict[str, Any]]:
    """ChEES-HMC of blackjax: a jittered length of trajectories, which all chains adapt together."""
    import blackjax
    import optax

    posterior, count = Whitened(target, centre, factor), len(centre)
    warmup = blackjax.chees_adaptation(posterior.log_density, _CHAINS, max_leapfrog_steps=32)

    def drawn(key: Any, positions: Any) -> Any:
        (states, settings), warm = warmup.run(key, positions, 0.5 * count**-0.25, optax.adam(0.05), _WARMUP)
        kernel = blackjax.dhmc(posterior.log_density, **settings).step
        points, info = _chains(kernel, states, key, _CHAINS, _DRAWS)
        steps = info.num_integration_steps.sum() + warm.info.num_integration_steps.sum()
        return points, steps, info.acceptance_rate, info.is_divergent.sum()

    return _timed(posterior, drawn, _CHAINS, target.dtype, seeds)


def _mclmc(
    target: AbstractTarget, centre: np.ndarray, factor: np.ndarray, seeds: Iterable[int]
) -> list[dict[str, Any]]:
    """The adjusted microcanonical sampler (MCLMC) of blackjax, with its own tuning in each chain."""
    import blackjax
    from blackjax.mcmc import adjusted_mclmc_dynamic as mclmc

    posterior = Whitened(target, centre, factor)
    transition = mclmc.build_kernel(mclmc.make_random_trajectory_length_fn(True))
    share = 0.5 * _WARMUP / _DRAWS

    def kernel(rng_key: Any, state: Any, logdensity_fn: Any, step_size: Any, **settings: Any) -> Any:
        return transition(rng_key, state, logdensity_fn, step_size, **settings)

    def drawn(key: Any, positions: Any) -> Any:
        def one(key: Any, position: Any) -> Any:
            first, second, third = jax.random.split(key, 3)
            state = mclmc.init(position, posterior.log_density, first)
            state, found, warm = blackjax.adjusted_mclmc_find_L_and_step_size(
                kernel, posterior.log_density, _DRAWS, state, second, 0.9, share, share, diagonal_preconditioning=False
            )
            length = {"integration_steps_params": (found.L / found.step_size,)}

            def step(state: Any, key: Any) -> Any:
                state, info = transition(
                    key,
                    state,
                    posterior.log_density,
                    found.step_size,
                    inverse_mass_matrix=found.inverse_mass_matrix,
                    **length,
                )
                return state, (state.position, info.num_integration_steps, info.acceptance_rate, info.is_divergent)

            return *jax.lax.scan(step, state, jax.random.split(third, _DRAWS))[1], warm

        points, steps, acceptance, cut, warm = jax.vmap(one)(jax.random.split(key, _CHAINS), positions)
        # McLachlan's integrator takes two gradients a step.
        return points.swapaxes(0, 1), 2 * (steps.sum() + warm.sum()), acceptance, cut.sum()

    return _timed(posterior, drawn, _CHAINS, target.dtype, seeds)


def _meads(
    target: AbstractTarget, centre: np.ndarray, factor: np.ndarray, seeds: Iterable[int]
) -> list[dict[str, Any]]:
    """MEADS of blackjax: generalised HMC of many chains, tuned by each other."""
    import blackjax

    posterior, draws = Whitened(target, centre, factor), _DRAWS
    warmup = blackjax.meads_adaptation(posterior.log_density, _MANY)

    def drawn(key: Any, positions: Any) -> Any:
        (states, settings), _ = warmup.run(key, positions, _WARMUP)
        kernel = blackjax.ghmc(posterior.log_density, **settings).step
        points, info = _chains(kernel, states, key, _MANY, draws)
        return points, jnp.asarray(_MANY * (_WARMUP + draws)), info.acceptance_rate, info.is_divergent.sum()

    return _timed(posterior, drawn, _MANY, target.dtype, seeds)


def _chains(kernel: Any, states: Any, key: Any, chains: int, draws: int) -> Any:
    """Return draws (d, c, n) of chains in a batch, and what their transitions say."""

    def step(states: Any, key: Any) -> Any:
        states, info = jax.vmap(kernel)(jax.random.split(key, chains), states)
        return states, (states.position, info)

    return jax.lax.scan(step, states, jax.random.split(jax.random.fold_in(key, 1), draws))[1]


def _timed(
    posterior: Whitened, drawn: Callable[..., Any], chains: int, dtype: Any, seeds: Iterable[int]
) -> list[dict[str, Any]]:
    """Return how well chains draw that begin overdispersed, without the compilation."""
    program, runs = None, []
    for seed in seeds:
        begin = OVERDISPERSION * np.random.default_rng(seed).normal(size=(chains, len(posterior.centre)))
        given = (jax.random.key(seed), jnp.asarray(begin, dtype))
        program = program or jax.jit(drawn).lower(*given).compile()
        begun = time.process_time()
        points, gradients, acceptance, cut = jax.device_get(program(*given))
        seconds = time.process_time() - begun
        runs.append(
            {
                **effective(posterior.draws(points.swapaxes(0, 1))),
                "gradients": int(gradients),
                "seconds of processor": seconds,
                "divergences": int(cut),
                "acceptance": float(acceptance.mean()),
            }
        )
    return runs


SAMPLERS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "nuts": _nuts,
    "nuts_from_pathfinder": _pathfinder,
    "chees": _chees,
    "mclmc": _mclmc,
    "meads": _meads,
}


def evidence(seeds: int, *, patient: bool) -> list[Record]:
    """Errors of the log-evidence over seeds, and evaluations, of TMCMC and of blackjax's adaptive tempered SMC."""
    targets: dict[str, Any] = {"gaussian": Gaussian(5), "banana": Banana(3), "two_modes": TwoModes(2, share=0.2)}
    records = []
    for name, target in targets.items():
        found = _kept(f"evidence_{name}_{seeds}", lambda target=target: _evidences(target, seeds))
        for sampler in ("tmcmc", "smc"):
            errors = np.array(found[sampler]) - target.log_evidence
            details = {"bias, nat": float(errors.mean()), "evaluations": found[f"{sampler} evaluations"]}
            error = float(np.sqrt(np.mean(errors**2)))
            records.append(Record(f"{name}_{sampler}_evidence_error", error, "nat", "", details))
    if patient:
        found = _kept("evidence_patient", lambda: _evidences(_patient()[0], 2))
        apart = abs(float(np.mean(found["tmcmc"]) - np.mean(found["smc"])))
        records.append(Record("patient_evidences_apart", apart, "nat", "", found))
    return records


def _evidences(target: AbstractTarget, seeds: int) -> dict[str, Any]:
    method = TMCMC(particles=_PARTICLES, steps=_STEPS)
    ours = [method.draw(target, jax.random.key(seed)) for seed in range(seeds)]
    theirs = [tempered(target, jax.random.key(seed)) for seed in range(seeds)]
    return {
        "tmcmc": [one.log_evidence for one in ours],
        "tmcmc evaluations": float(np.mean([one.stats.cost.solves for one in ours])),
        "smc": [value for value, _ in theirs],
        "smc evaluations": float(np.mean([count for _, count in theirs])),
    }


def tempered(target: AbstractTarget, key: Any) -> tuple[float, int]:
    """Return the log-evidence by blackjax's adaptive tempered SMC, with the moves of TMCMC, and its evaluations."""
    import blackjax
    from blackjax.smc import resampling
    from blackjax.smc.tuning.from_particles import particles_covariance_matrix

    seen, size = Counted(), target.size

    @sequential_vmap
    def log_likelihood(z: Any) -> Any:
        jax.debug.callback(seen.add)
        value = target.log_likelihood(z)
        return jnp.where(jnp.isfinite(value), value, -1e30)

    def moves(particles: Any) -> dict[str, Any]:
        covariance = particles_covariance_matrix(particles)
        return {"factor": 2.38 / size**0.5 * jnp.linalg.cholesky(covariance)[None]}

    def move(key: Any, state: Any, density: Any, factor: Any) -> Any:
        step = blackjax.additive_step_random_walk.build_kernel()
        return step(key, state, density, blackjax.mcmc.random_walk.normal(factor))

    first, begin = jax.random.split(key)
    particles = jax.random.normal(begin, (_PARTICLES, size), target.dtype)
    smc = blackjax.inner_kernel_tuning(
        smc_algorithm=blackjax.adaptive_tempered_smc,
        logprior_fn=lambda z: -0.5 * jnp.sum(z**2),
        loglikelihood_fn=log_likelihood,
        mcmc_step_fn=move,
        mcmc_init_fn=blackjax.additive_step_random_walk.init,
        resampling_fn=resampling.systematic,
        mcmc_parameter_update_fn=lambda key, state, info: moves(state.particles),
        initial_parameter_value=moves(particles),
        target_ess=0.5,
        num_mcmc_steps=_STEPS,
    )
    state, total, step = smc.init(particles), 0.0, jax.jit(smc.step)
    while float(state.sampler_state.tempering_param) < 1:
        first, now = jax.random.split(first)
        state, info = step(now, state)
        total += float(info.log_likelihood_increment)
    jax.effects_barrier()
    return total, seen.count
