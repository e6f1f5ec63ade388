"""Run one benchmark by name."""

import argparse
import importlib
import os
import pkgutil
import sys
from pathlib import Path

import benchmarks
from benchmarks.record import report

# Modules that benchmarks share, which are not benchmarks themselves.
_NOT_BENCHMARKS = {
    "__main__",
    "brain",
    "checkpointing",
    "cohorts",
    "curves",
    "displaced",
    "evolution",
    "memory",
    "methods",
    "patients",
}
_NOT_BENCHMARKS |= {"record", "schemes", "simulated", "smooth", "suite"}
# Options of all benchmarks.
_COMMON = ("name", "json", "size", "figures")


def main() -> None:
    """Parse the command line, run, print and write."""
    names = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in _NOT_BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    parser.add_argument("--size", choices=("small", "full"), default="full", help="small runs in under a minute")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw what the benchmark has to show there")
    # What is timed or compared registers its images itself.
    os.environ["TUMORJAX_ALIGNMENTS"] = ""
    # Some benchmarks have options of their own, which `--help` after the name lists.
    named = next((word for word in sys.argv[1:] if word in names), None)
    benchmark = None if named is None else importlib.import_module(f"benchmarks.{named}")
    if hasattr(benchmark, "add_arguments"):
        benchmark.add_arguments(parser.add_argument_group(f"of {named}"))
    options = parser.parse_args()
    if options.figures is not None and not hasattr(benchmark, "figures"):
        parser.error(f"{options.name} draws no figures")
    records = benchmark.run(options.size, **{key: v for key, v in vars(options).items() if key not in _COMMON})
    report(options.name, options.size, records, options.json)
    if options.figures is not None:
        benchmark.figures(records, options.figures)


if __name__ == "__main__":
    main()
