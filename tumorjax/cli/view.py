"""The command `tumorjax view`: shows the report of results, or results side by side, in a browser."""

import argparse
import os
import webbrowser
from pathlib import Path

from tumorjax.io import InputError, settle
from tumorjax.text import printable

# Pages of a result and of a cohort, in the order in which they are looked for.
_PAGES = ("report.html", "index.html")
_MOST = 4  # results side by side


def add_view(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "view",
        help="open the report of results in a browser",
        description="Open the report of a folder of results, or the page of a cohort, in the browser of this machine. "
        "Where there is no browser, the command says which file to open.",
        epilog="examples:\n  tumorjax view result\n  tumorjax view study\n  tumorjax view plain pushed --out both.html",
    )
    sub.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="folder of results or of a cohort")
    sub.add_argument(
        "--out", type=Path, metavar="FILE", help="page on which several results stand side by side; written anew"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace an earlier page")


def run(options: argparse.Namespace) -> int:
    """Open the page, and say which one it is."""
    if options.out is not None and len(options.results) == 1:
        raise InputError("out: is the page of several results side by side; give two of them, or leave it out")
    page = _side_by_side(options) if len(options.results) > 1 else page_of(options.results[0])
    where = printable(page)
    if _has_browser() and webbrowser.open(page.as_uri()):
        print(f"Opened {where}.")
    else:
        print(f"There is no browser here; open {where} in one.")
    return 0


def page_of(folder: Path) -> Path:
    """Return the page of a folder of results.

    Raises
    ------
    InputError
        If there is none.
    """
    shown = printable(folder)
    if not folder.exists():
        raise InputError(f"{shown}: is not there; give the folder that --out of tumorjax personalize named")
    if folder.is_file():
        raise InputError(f"{shown}: is a file; give the folder of results that it is in")
    settle(folder)
    for name in _PAGES:
        if (page := folder / name).is_file():
            return page.absolute()
    raise InputError(f"{shown}: has no report.html; give a folder of results, or of a cohort")


def _side_by_side(options: argparse.Namespace) -> Path:
    """Write the page with several results, and return it."""
    from tumorjax.results.comparison import write_comparison

    if options.out is None:
        raise InputError(f"out: {len(options.results)} results stand side by side on a new page; give --out FILE.html")
    if len(options.results) > _MOST:
        raise InputError(f"results: got {len(options.results)}; give at most {_MOST} to stand side by side")
    if options.out.is_dir() or (options.out.exists() and not options.overwrite):
        raise InputError(f"out: {printable(options.out)} is there already; give another file, or permit --overwrite")
    # An earlier page may be replaced, and no file of a result.
    page = options.out.absolute()
    if page.suffix.lower() not in (".html", ".htm") or page.resolve().parent in [
        each.resolve() for each in options.results
    ]:
        raise InputError(f"out: got {printable(options.out)}; give a page FILE.html that is in none of the results")
    write_comparison(options.out, options.results)
    return options.out.absolute()


def _has_browser() -> bool:
    """Return whether there is a browser with a window; one that runs in the terminal would take it."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return False
    return type(found) is not webbrowser.GenericBrowser or "BROWSER" in os.environ
