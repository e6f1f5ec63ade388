"""Run one benchmark by name."""

import argparse
import importlib
import pkgutil
from pathlib import Path

import benchmarks
from benchmarks.record import report

_NOT_BENCHMARKS = ("__main__", "record")


def main() -> None:
    """Parse the command line, run, print and write."""
    names = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in _NOT_BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    parser.add_argument("--size", choices=("small", "full"), default="full", help="small runs in under a minute")
    options = parser.parse_args()
    records = importlib.import_module(f"benchmarks.{options.name}").run(options.size)
    report(options.name, options.size, records, options.json)


if __name__ == "__main__":
    main()
