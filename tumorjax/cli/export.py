"""The subcommand `export`: a result for other systems."""

import argparse
from pathlib import Path


def add_export(commands: argparse._SubParsersAction, disclaimer: str) -> None:
    """Add the subcommand to a parser."""
    sub = commands.add_parser(
        "export",
        help="write a result as DICOM objects of the patient",
        description="Write the plan of a result as RTSTRUCT and SEG, the density as a parametric map, and the planned "
        "dose, if there is one, as RTDOSE: in the frame of reference of a DICOM series, on its slices, with its "
        f"patient and study, and marked for research (pip install 'tumorjax[dicom]'). {disclaimer}",
        epilog="example:\n"
        "  tumorjax export result --reference t1_series --to dicom --out objects\n"
        "exit code: 0, or 2 if the result or the series cannot be used, or the series lies elsewhere than the result",
    )
    sub.add_argument("result", type=Path, metavar="RESULT", help="folder of a result of personalize")
    sub.add_argument(
        "--reference",
        type=Path,
        required=True,
        metavar="SERIES",
        help="folder of a DICOM series of the patient in the world of the result, such as the T1 images that were "
        "converted for it; or an enhanced multi-frame file",
    )
    sub.add_argument("--to", choices=("dicom",), required=True, metavar="FORMAT", help="dicom")
    sub.add_argument(
        "--out", required=True, type=Path, metavar="FOLDER", help="folder of the objects, which is new or empty"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace earlier objects in a folder that is not empty")
    sub.add_argument("--quiet", action="store_true", help="show no summary")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Write the objects, and return the exit code."""
    from tumorjax.cli.console import Screen
    from tumorjax.results.dicom import export_dicom

    with Screen(quiet=options.quiet, as_json=options.json) as screen:
        screen.progress("writing DICOM objects")
        written = export_dicom(options.result, options.reference, options.out, overwrite=options.overwrite)
    screen.results(written, options.out)
    return 0
