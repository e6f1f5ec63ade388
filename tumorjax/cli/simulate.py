"""The subcommand `simulate`: a tumour of given parameters, grown in given tissue."""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from tumorjax.anatomy import Anatomy
from tumorjax.cli.console import Screen
from tumorjax.cli.fibres import read_dti
from tumorjax.cli.growth import model_of, numbers_of
from tumorjax.grid import Grid
from tumorjax.growth import AbstractGrowth, AbstractGrowthParams, GrowthParams
from tumorjax.integrate import Solution, simulate
from tumorjax.io import InputError, Volume, as_background, check_worlds, read_volume, to_voxels, write_volume
from tumorjax.patient.alignment import read_atlas
from tumorjax.patient.fibres import with_fibres
from tumorjax.patient.patient import DEFAULT_ATLAS
from tumorjax.patient.tissue import TissueSource, tissue_from_maps
from tumorjax.pipeline.volumes import figures_of_displacement
from tumorjax.prior import Prior
from tumorjax.results.maps import write_vectors
from tumorjax.results.stages import Stopwatch

# Largest number of images of a series, which are all in memory at once.
_MOST_FRAMES = 1000


def simulate_tumour(options: argparse.Namespace, out: Path, screen: Screen) -> dict:
    """Grow the tumour that the options describe, write it into a folder, and return the metrics."""
    screen.progress("reading the anatomy")
    if options.save_every is not None and options.duration > _MOST_FRAMES * options.save_every > 0:
        frames = f"more than {_MOST_FRAMES} images in {options.duration:g} days"
        raise InputError(f"save-every: got {options.save_every:g} days, {frames}; give a longer time")
    model, params = _growth(options)
    notes: list[str] = []
    source, tensor = _tissue(options, notes), read_dti(options.dti)
    like = source.white_matter
    grid = like.grid.with_spacing(options.resolution)
    anatomy = Anatomy(grid, *source.on(grid))
    if tensor is not None:
        notes.extend(tensor.notes)
        anatomy = with_fibres(anatomy, tensor, notes)
    for note in notes:
        screen.note(note)
    watch = Stopwatch()
    screen.progress("simulating")
    with watch("simulation"):
        solution = simulate(model, params, anatomy, save_every=options.save_every)
        density = np.asarray(jax.block_until_ready(solution.density))
    screen.progress("writing")
    write_volume(out / "density.nii.gz", np.clip(to_voxels(density, grid, like), 0, 1), like=like)
    times = [float(t) for t in np.asarray(solution.times)]
    if solution.series is not None:
        for i, frame in enumerate(np.asarray(solution.series)):
            write_volume(out / f"density_{i:03d}.nii.gz", np.clip(to_voxels(frame, grid, like), 0, 1), like=like)
    metrics = {
        "cells_ml": float(density.sum()) * float(grid.voxel_volume) / 1000,
        "largest_density": float(density.max()),
        **_displaced(solution, out, grid, like),
        "steps": int(solution.steps),
        "seconds_simulation": round(watch.seconds(), 3),
    }
    summary = {"times_days": times, **metrics, "notes": notes, "command": options.command_line}
    (out / "simulation.json").write_text(json.dumps(summary, indent=2) + "\n")
    return metrics


def _growth(options: argparse.Namespace) -> tuple[AbstractGrowth, AbstractGrowthParams]:
    """Return the model that the options describe, and its parameters."""
    model, numbers = model_of(options), numbers_of(options)
    for option in model.numbers:
        if option.name not in numbers:
            raise InputError(f"{option.flag}: is missing; give --{option.flag} {option.metavar}: {option.help}")
    growth = GrowthParams(options.diffusivity, options.proliferation, np.asarray(options.origin), options.duration)
    params = dataclasses.replace(model.with_growth(growth), **numbers)
    if unknown := Prior(params).names:
        raise InputError(f"model: {model.name} has no option for {' and '.join(unknown)}; add it to its `numbers`")
    return model, params


def _displaced(solution: Solution, out: Path, grid: Grid, like: Volume) -> dict[str, float | int | None]:
    """Write where the tissue is now and how far it has moved, and return figures of that; nothing where it stays."""
    if solution.anatomy is None or solution.displacement is None:
        return {}
    displacement = np.asarray(solution.displacement)
    parts = [to_voxels(part, grid, like) for part in np.moveaxis(displacement, -1, 0)]
    write_vectors(out / "displacement.nii.gz", np.stack(parts, axis=-1), like=like)
    maps = {"wm": solution.anatomy.white_matter, "gm": solution.anatomy.grey_matter, "csf": solution.anatomy.csf}
    for name, values in maps.items():
        write_volume(out / f"{name}.nii.gz", np.clip(to_voxels(np.asarray(values), grid, like), 0, 1), like=like)
    return figures_of_displacement(displacement, grid)


def _tissue(options: argparse.Namespace, notes: list[str]) -> TissueSource:
    if options.wm is None and options.gm is None and options.csf is None:
        atlas = read_atlas(DEFAULT_ATLAS if options.atlas is None else options.atlas, notes)
        check_worlds({"atlas": atlas.t1}, needed=True)
        return TissueSource.of(atlas)
    if options.atlas is not None:
        raise InputError("tissue: got maps and an atlas; give one of them")
    if options.wm is None or options.gm is None:
        raise InputError("tissue: white and grey matter come together; give --wm and --gm")
    images = {
        name: as_background(read_volume(path, name=name, background_nan=True))
        for name, path in (("white matter", options.wm), ("grey matter", options.gm), ("CSF", options.csf))
        if path is not None
    }
    # The origin is a place in the world.
    notes.extend([*check_worlds(images, needed=True), *(note for each in images.values() for note in each.notes)])
    return tissue_from_maps(images["white matter"], images["grey matter"], images.get("CSF"))
