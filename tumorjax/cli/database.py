"""The subcommand `database`: simulated tumours, built, described and verified."""

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from tumorjax.cli.ending import complain, exit_code, how
from tumorjax.cli.fibres import add_dti

if TYPE_CHECKING:
    from tumorjax.cli.console import Screen
    from tumorjax.ensemble import BuildProgress, Database


def add_database(commands: argparse._SubParsersAction, disclaimer: str, grows: bool = True) -> None:
    """Add the subcommand to a parser, with the models and their options if it `grows` tumours."""
    sub = commands.add_parser(
        "database",
        help="build, describe or verify a database of simulated tumours",
        description="Build, describe or verify a database of simulated tumours in an atlas, with parameters "
        "drawn from published ranges and of clinical size. "
        f"{disclaimer}",
    )
    actions = sub.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(sub))
    build = actions.add_parser(
        "build",
        help="simulate tumours and store them, or continue to do so",
        description="Simulate tumours and store them. After an interruption the same command continues where it "
        f"stopped. {disclaimer}",
    )
    build.add_argument("--count", type=int, required=True, metavar="N", help="number of tumours in the database")
    if grows:
        from tumorjax.cli.growth import add_model

        add_model(build.add_argument_group("model of growth"), "the same for all tumours; if not given, it is drawn")
    build.add_argument(
        "--atlas",
        default="icbm152",
        metavar="NAME",
        help="icbm152 (default), a folder with t1 and either wm, gm and csf or tissue_labels, or a T1 "
        "image without the skull",
    )
    add_dti(build, "world of the atlas")
    build.add_argument(
        "--deformed",
        type=int,
        metavar="SEED",
        help="simulate in another brain: the atlas under a random deformation of this seed, by 4 mm in the mean",
    )
    build.add_argument(
        "--box",
        choices=("learn-morph-infer", "surrogate"),
        default="learn-morph-infer",
        help="published ranges of the parameters (default: learn-morph-infer, the wider ones)",
    )
    build.add_argument(
        "--resolution",
        type=float,
        default=2.0,
        metavar="MM",
        help="edge of the voxels of the simulation, 0.5 to 8 (default: 2)",
    )
    build.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default: 0)")
    build.add_argument(
        "--draws",
        choices=("sobol", "random"),
        default="sobol",
        help="sobol: parameters are spread evenly (default); random: they are drawn independently",
    )
    build.add_argument(
        "--dtype",
        choices=("uint8", "float16"),
        default="uint8",
        help="number type of the stored densities (default: uint8)",
    )
    build.add_argument("--workers", type=int, metavar="N", help="number of threads (default: one for each core)")
    build.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a Dask cluster that simulates instead, such as tcp://host:8786",
    )
    build.add_argument(
        "--repair", action="store_true", help="compare the checksums of all files, and simulate damaged ones again"
    )
    build.add_argument("--overwrite", action="store_true", help="replace an existing database that has other settings")
    info = actions.add_parser(
        "info", help="describe what a database contains", description=f"Describe what a database contains. {disclaimer}"
    )
    verify = actions.add_parser(
        "verify",
        help="compare the checksums of all files",
        description=f"Compare the checksums of all files. The exit code is 2 if one is damaged. {disclaimer}",
    )
    for action in (build, info, verify):
        action.add_argument("place", metavar="PLACE", help="folder, or URL of an object store (s3://bucket/name)")
        action.add_argument("--quiet", action="store_true", help="show neither progress nor a summary")
        action.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> None:
    """Run the chosen action."""
    from tumorjax.cli.console import Screen
    from tumorjax.ensemble import Database

    screen = Screen(quiet=options.quiet, as_json=options.json)
    if options.action == "build":
        figures = _build(options, screen)
    elif options.action == "info":
        figures = _figures(Database.open(options.place))
    else:
        database = Database.open(options.place)
        if damaged := database.verify():
            raise ValueError(
                f"{len(damaged)} of {database.recipe.shards} shards are damaged: {', '.join(map(str, damaged))}; "
                "build with the same settings and --repair"
            )
        figures = {"tumours": len(database), "shards": database.recipe.shards, "damaged": 0}
    screen.results(figures, options.place)


def _build(options: argparse.Namespace, screen: "Screen") -> dict[str, Any]:
    from tumorjax.atlas import deformed_atlas
    from tumorjax.cli.commands import check_resolution
    from tumorjax.cli.fibres import read_dti
    from tumorjax.cli.growth import model_of, numbers_of
    from tumorjax.ensemble import build_database, published_box
    from tumorjax.patient.alignment import read_atlas
    from tumorjax.patient.fibres import with_fibres
    from tumorjax.prior import Prior

    check_resolution(options.resolution)
    model, numbers = model_of(options), numbers_of(options)
    start = time.monotonic()
    notes: list[str] = []
    if options.deformed is not None and options.dti is not None:
        raise ValueError("dti: shows the fibres of the atlas as it is; leave out --deformed, or --dti")
    atlas, tensor = read_atlas(options.atlas, notes), read_dti(options.dti)
    if options.deformed is not None:
        if options.deformed < 0:
            raise ValueError(f"deformed: a seed is 0 or more, got {options.deformed}")
        atlas, _ = deformed_atlas(atlas, options.deformed)
    anatomy = atlas.anatomy(options.resolution)
    if tensor is not None:
        notes += tensor.notes
        anatomy = with_fibres(anatomy, tensor, notes)
    for note in notes:
        screen.note(note)
    prior = published_box(anatomy, box=options.box, model=model)
    if numbers:
        prior = Prior(dataclasses.replace(prior.distributions, **numbers))
    told: list[BuildProgress] = []
    try:
        with screen:
            screen.progress("preparing")

            def progress(state: "BuildProgress") -> None:
                if not told and state.done:
                    some = f"{state.done} of {state.total} tumours"
                    screen.note(f"{options.place} has {some} already; this run goes on from there.")
                told.append(state)
                screen.progress("tumours", state.done / state.total, _said(state))

            database = build_database(
                model,
                prior,
                anatomy,
                options.count,
                options.place,
                seed=options.seed,
                draws=options.draws,
                dtype=options.dtype,
                workers=options.workers,
                scheduler=options.scheduler,
                repair=options.repair,
                overwrite=options.overwrite,
                progress=progress,
            )
    except KeyboardInterrupt as interrupt:
        complain(
            f"tumorjax database: {how(interrupt)}; {options.place} keeps the shards that are finished, "
            "and the same command goes on from there"
        )
        raise SystemExit(exit_code(interrupt)) from None
    seconds = round(time.monotonic() - start, 3)
    return _figures(database) | {"seconds": seconds, "tumours_per_second": told[-1].rate}


def _figures(database: "Database") -> dict[str, Any]:
    from tumorjax.ensemble import settings_of

    recipe = database.recipe
    spacing = " x ".join(f"{length:g}" for length in recipe.anatomy.grid.spacing)
    return {
        "tumours": len(database),
        "model": type(recipe.model).__name__,
        "settings": settings_of(recipe.model),
        **({} if recipe.anatomy.fibres is None else {"fibres": "those of the anatomy"}),
        "parameters": ", ".join(recipe.names),
        "voxels": " x ".join(map(str, database.grid.shape)),
        "voxel_mm": spacing,
        "dtype": recipe.dtype,
        "draws": f"{recipe.draws}, seed {recipe.seed}",
        "sizes": "; ".join(f"{size.least:g} to {size.most:g} ml above {size.threshold:g}" for size in recipe.sizes),
        **{f"rejected_{reason.replace(' ', '_')}": count for reason, count in database.rejected.items()},
        "shards": recipe.shards,
        "megabytes": database.stored_bytes / 1e6,
        "version": database.attributes["recipe"]["code"]["tumorjax"],
        "fingerprint": database.fingerprint,
    }


def _said(state: "BuildProgress") -> str:
    from tumorjax.report.wording import duration

    text = f"{state.done} of {state.total} tumours"
    return text if state.remaining is None else f"{text}, {state.rate:.3g}/s, {duration(state.remaining)} left"
