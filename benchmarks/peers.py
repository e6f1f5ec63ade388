"""Other groups' tools on the same tasks: a growth model in NumPy, ANTs' registration, and the networks of sbi."""

import contextlib
import functools
import importlib.util
import json
import tempfile
import time
from typing import Any, Literal

import jax
import numpy as np

from benchmarks import registration
from benchmarks.patients import DATA, available
from benchmarks.record import Record, median_seconds
from tumorjax import TMCMC, Anatomy, FisherKolmogorov, Grid, GrowthParams, InitialDensity, NeuralPosterior, calibrate
from tumorjax.integrate import StrangRKL2, simulate
from tumorjax.methods.neural.simulations import draw_data
from tumorjax.methods.neural.simulator import ProblemSimulator
from tumorjax.methods.neural.summary import Summary
from tumorjax.pipeline.small_animal import synthetic_rat

# Features of the images for each coordinate, as in `NeuralPosterior`.
_DIRECTIONS = 4
# Of grey and of white matter; of the worst mean, in the posterior's deviations, and of the worst deviation.
_OVERLAPS = "{dice_labels_grey_matter:.3f}, {dice_labels_white_matter:.3f}"
_MOMENTS = "{mean_error:.2f}, {deviation_error:.2f}"


def run(size: str) -> list[Record]:
    """All peers that are installed; `small` uses the smallest size of each task."""
    small = size == "small"
    records = forward_records(("A",) if small else ("A", "B"), repeats=1 if small else 5)
    if available("registration"):
        told = ("_seconds", "_dice_labels", "_folds")
        pair = registration.measure("icbm152", "sri24", 4.0 if small else 2.0)
        records += [each for each in pair if any(what in each.name for what in told)]
    return records + posterior_records(*((60, 60, 64) if small else (1000, 1000, 2048)))


def forward_records(cases: tuple[str, ...], repeats: int) -> list[Record]:
    """Seconds and errors of TumorGrowthToolkit's scheme in NumPy and of ours, from its own initial states."""
    if not available("growth beside TumorGrowthToolkit's"):
        return []
    with np.load(DATA / "reference" / "anatomy_icbm152_2mm.npz") as maps:
        white, grey, affine = (maps[key] for key in ("wm", "gm", "affine"))
    anatomy = Anatomy(Grid(white.shape, affine), *(m.astype(np.float32) for m in (white, grey, 0 * white)))
    records = []
    for name in cases:
        with np.load(DATA / "reference" / f"fk_{name}.npz") as stored:
            given, initial, final = json.loads(str(stored["params"])), stored["initial"], stored["final"]
        origin = InitialDensity(initial.astype(np.float32))
        rates = given["D_w_mm2_per_day"], given["rho_per_day"]
        params = GrowthParams(*rates, origin, given["days"])
        model = FisherKolmogorov(ratio=given["ratio"])
        fine = StrangRKL2(reaction_step=0.05, first_steps=128)
        exact = np.asarray(simulate(model, params, anatomy, stepper=fine).density)
        ours = np.asarray(_grown(model, params, anatomy))
        steps = peer_steps(rates[0], given["days"], 2.0)
        begun = time.perf_counter()
        theirs = explicit_euler(white, grey, initial, rates, given["ratio"], given["days"], steps, 2.0)
        seconds = {
            "tumorgrowthtoolkit": time.perf_counter() - begun,
            "tumorjax": median_seconds(functools.partial(_grown, model, params, anatomy), repeats),
        }
        for who, density in (("tumorgrowthtoolkit", theirs), ("tumorjax", ours)):
            error = float(np.linalg.norm(density - exact) / np.linalg.norm(exact))
            details: dict[str, Any] = {"D, rho, days": (*rates, given["days"]), "voxels": list(white.shape)}
            if who == "tumorgrowthtoolkit":
                away = float(np.abs(density - final).max())
                details |= {"steps": steps, "largest difference from its own solution": away}
            records += [
                Record(f"growth_{name}_{who}_seconds", seconds[who], "s", "", details),
                Record(f"growth_{name}_{who}_error", error, "relative L2"),
            ]
    return records


def _grown(model: FisherKolmogorov, params: GrowthParams, anatomy: Anatomy) -> Any:
    return simulate(model, params, anatomy).density


def peer_steps(diffusivity: float, days: float, spacing: float) -> int:
    """Return the number of steps of TumorGrowthToolkit: eight for each voxel's time of diffusion, and a hundred."""
    return int(np.ceil(days * diffusivity / spacing**2 * 8 + 100))


def explicit_euler(
    white: np.ndarray,
    grey: np.ndarray,
    initial: np.ndarray,
    rates: tuple[float, float],
    ratio: float,
    days: float,
    steps: int,
    spacing: float,
) -> np.ndarray:
    """Return the density by the scheme of TumorGrowthToolkit: explicit Euler in time, fluxes between voxels in space.

    Parameters
    ----------
    white, grey
        (x, y, z), fractions of white and grey matter.
    initial
        (x, y, z), density at time zero.
    rates
        D_w, mm^2/day, and rho, 1/day.
    ratio
        D_w / D_g.
    days, steps
        Duration T, and number of steps.
    spacing
        Edge of the voxels, mm.
    """
    inside = (white + grey >= 0.1).astype(float)
    diffusivity, proliferation = rates
    local = diffusivity * (white.astype(float) + grey.astype(float) / ratio)
    everything, before, after = slice(None), slice(None, -1), slice(1, None)
    pairs = [
        tuple(tuple(side if a == axis else everything for a in range(3)) for side in (before, after))
        for axis in range(3)
    ]
    between = [(local[low] + local[high]) / 2 * inside[low] * inside[high] / spacing**2 for low, high in pairs]
    density, step = initial.astype(float), days / steps
    for _ in range(steps):
        change = proliferation * density * (1 - density) * inside
        for conductance, (low, high) in zip(between, pairs, strict=True):
            flux = conductance * (density[high] - density[low])
            change[low] += flux
            change[high] -= flux
        density = density + step * change
    return density


def posterior_records(simulations: int, draws: int, particles: int) -> list[Record]:
    """The posterior of a rat by one round of simulations: sbi's networks and ours, beside that of TMCMC."""
    rat = synthetic_rat(0, spacing=1.2 if simulations < 100 else 0.6)
    reference = calibrate(rat.problem, TMCMC(particles), key=jax.random.key(0))
    middle, width = _moments(np.asarray(reference.draws, float)[0])
    found, seconds = {}, {}
    begun = time.perf_counter()
    method = NeuralPosterior(1, simulations, draws=draws, corrected=False)
    ours = calibrate(rat.problem, method, key=jax.random.key(0))
    found["tumorjax"], seconds["tumorjax"] = np.asarray(ours.draws, float)[0], time.perf_counter() - begun
    if importlib.util.find_spec("sbi"):
        begun = time.perf_counter()
        z, features, patient = _features(rat.problem, simulations)
        simulated = time.perf_counter() - begun
        for name in ("mdn", "nsf"):
            begun = time.perf_counter()
            found[f"sbi_{name}"] = _by_sbi(name, z, features, patient, draws)
            seconds[f"sbi_{name}"] = simulated + time.perf_counter() - begun
    records = []
    for who, points in found.items():
        mean, deviation = _moments(points)
        away = float(np.abs((mean - middle) / width).max())
        wider = float(np.abs(deviation / width - 1).max())
        records += [
            Record(f"posterior_{who}_mean_error", away, "standard deviations", "", {"simulations": simulations}),
            Record(f"posterior_{who}_deviation_error", wider, "1"),
            Record(f"posterior_{who}_seconds", seconds[who], "s"),
        ]
    return records


def _features(problem: Any, simulations: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coordinates drawn from the prior, features of images simulated there, and those of the patient."""
    simulator = ProblemSimulator.of(problem)
    z = np.random.default_rng(0).standard_normal((simulations, simulator.size))
    kept, predictions, seen, _ = draw_data(simulator, z, jax.random.key(0), images=1, seen=None, predictions=256)
    labels, values, extras = simulator.observed()
    summary = Summary.of(predictions, _DIRECTIONS * simulator.size)
    features = summary.features(kept, int(np.searchsorted(seen, len(labels))))
    return kept.z, features, summary.of_patient(np.concatenate([labels, values])[seen], extras)


def _by_sbi(
    estimator: Literal["mdn", "nsf"], z: np.ndarray, features: np.ndarray, patient: np.ndarray, draws: int
) -> np.ndarray:
    """Return draws from sbi's neural posterior estimation with its default settings."""
    import torch
    from sbi.inference import NPE

    torch.manual_seed(0)
    size = z.shape[1]
    prior = torch.distributions.MultivariateNormal(torch.zeros(size), torch.eye(size))
    # The log that sbi writes where it runs is not wanted.
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        inference = NPE(prior=prior, density_estimator=estimator, show_progress_bars=False)
        inference.append_simulations(*(torch.as_tensor(each, dtype=torch.float32) for each in (z, features))).train()
    posterior = inference.build_posterior()
    told = posterior.sample((draws,), x=torch.as_tensor(patient, dtype=torch.float32), show_progress_bars=False)
    return told.numpy().astype(float)


# Task, tool, its records, and the format of errors or overlaps.
_ROWS = (
    ("growth, case A", "TumorGrowthToolkit's scheme, NumPy", "growth_A_tumorgrowthtoolkit", "{error:.1e}"),
    ("", "`StrangRKL2`", "growth_A_tumorjax", "{error:.1e}"),
    ("growth, case B", "TumorGrowthToolkit's scheme, NumPy", "growth_B_tumorgrowthtoolkit", "{error:.1e}"),
    ("", "`StrangRKL2`", "growth_B_tumorjax", "{error:.1e}"),
    ("ICBM152 to SRI24", "antspyx (SyN)", "icbm152_to_sri24_ants", _OVERLAPS),
    ("", "SimpleITK (demons)", "icbm152_to_sri24_demons", _OVERLAPS),
    ("a rat's posterior", "sbi, mixture density network", "posterior_sbi_mdn", _MOMENTS),
    ("", "sbi, neural spline flow", "posterior_sbi_nsf", _MOMENTS),
    ("", "`NeuralPosterior`", "posterior_tumorjax", _MOMENTS),
)


def table(records: list[Record]) -> str:
    """Return a Markdown table of the tasks and tools."""
    values = {record.name: record.value for record in records}
    lines = ["| task | tool | seconds | error or overlap |", "|---|---|---|---|"]
    for task, tool, prefix, form in _ROWS:
        told = {name.removeprefix(f"{prefix}_"): value for name, value in values.items() if name.startswith(prefix)}
        if told:
            lines.append(f"| {task} | {tool} | {told['seconds']:.3g} | {form.format(**told)} |")
    return "\n".join(lines) + "\n"


def _moments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points.mean(axis=0), points.std(axis=0)
