"""Try a wheel as a new user has it: alone, in a fresh environment and an empty folder, for each Python.

For example: `python release/try_wheel.py dist/tumorjax-0.2.0-py3-none-any.whl --python python3.11 python3.13`. The
environment has the versions of `constraints.txt`; with `--newest` it has the newest ones that the wheel permits. The
demonstration and the examples without extras run first, then the extras are installed for the other examples.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Every minor version that may be there, the oldest first.
PYTHONS = [f"python3.{minor}" for minor in range(11, 16)]
# The first cell of an example, for notebooks in a bare environment, says what it needs.
_NEEDS = re.compile(r'^# %pip install .*"\.\.\[([\w,]+)\]"$', re.MULTILINE)


def needs(example: Path) -> set[str]:
    """Return the extras that an example asks for."""
    found = _NEEDS.search(example.read_text(encoding="utf-8"))
    return set(found.group(1).split(",")) if found else set()


class Trial:
    """A fresh environment, in which commands are run and timed.

    Parameters
    ----------
    python
        The interpreter.
    folder
        An empty folder, for the environment and for what the commands write.
    """

    def __init__(self, python: str, folder: Path) -> None:
        self.home, self.room = folder / "environment", folder / "empty"
        self.room.mkdir()
        self.failed: list[str] = []
        # Nothing of the user's: neither packages nor compiled programs.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JAX_"))}
        self._environment = kept | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "MPLBACKEND": "agg"}
        for name in ("PIP_CONFIG_FILE", "XDG_CONFIG_HOME"):
            self._environment.setdefault(name, _user_setting(name))
        self.run("a fresh environment", [python, "-m", "venv", str(self.home)])

    def run(self, what: str, command: list[str]) -> None:
        """Run a command, and keep its name if it fails; after a failure of the installation, none is run."""
        begun = time.perf_counter()
        done = subprocess.run(
            command,
            check=False,
            cwd=self.room,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - begun
        print(f"  {'FAILED' if done.returncode else 'passed'} {seconds:6.1f} s  {what}", flush=True)
        if done.returncode:
            self.failed.append(what)
            print("    " + "\n    ".join((done.stderr or done.stdout).strip().splitlines()[-15:]), flush=True)

    def install(self, what: str, arguments: list[str]) -> None:
        """Install packages by pip."""
        pip = [str(self.home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        self.run(f"pip install {what}", [*pip, *arguments])

    def python(self, what: str, arguments: list[str]) -> None:
        """Run the environment's Python."""
        self.run(what, [str(self.home / "bin" / "python"), *arguments])


def _user_setting(name: str) -> str:
    """Return where pip is configured for this user, whose home the trial hides."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    return str(home / "pip" / "pip.conf") if name == "PIP_CONFIG_FILE" else str(home)


def try_wheel(wheel: Path, python: str, *, newest: bool, examples: list[Path], resolution: float) -> list[str]:
    """Try a wheel with one Python.

    Parameters
    ----------
    wheel
        The wheel.
    python
        The interpreter.
    newest
        Take the newest versions of the dependencies instead of those of `constraints.txt`.
    examples
        Scripts to run.
    resolution
        Voxels of the demonstration, mm.

    Returns
    -------
    list of str
        The commands that failed.
    """
    version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    print(f"{version}, {'newest' if newest else 'pinned'} versions", flush=True)
    pins = [] if newest else ["-c", str(ROOT / "constraints.txt")]
    with tempfile.TemporaryDirectory(prefix="tumorjax-wheel-") as folder:
        trial = Trial(python, Path(folder))
        if not trial.failed:
            trial.install("WHEEL", [*pins, str(wheel)])
        if trial.failed:
            return trial.failed
        command = str(trial.home / "bin" / "tumorjax")
        trial.run("tumorjax --version", [command, "--version"])
        trial.run("tumorjax demo", [command, "demo", "--out", "demo", f"--resolution={resolution:g}"])
        alone = [each for each in examples if not needs(each)]
        for example in alone:
            trial.python(f"examples/{example.name}", [str(example)])
        more = [each for each in examples if each not in alone]
        extras = sorted(set().union(*map(needs, more)))
        if more:
            trial.install(f"WHEEL[{','.join(extras)}]", [*pins, f"{wheel}[{','.join(extras)}]"])
            for example in more:
                trial.python(f"examples/{example.name}", [str(example)])
    return trial.failed


def runs(python: str) -> bool:
    """Return whether an interpreter runs: a version manager may offer the command of one that it does not have."""
    there = shutil.which(python) is not None
    return there and subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


def main() -> int:
    """Parse the command line, and try the wheel with each Python."""
    parser = argparse.ArgumentParser(description="Try a wheel in fresh environments.")
    parser.add_argument("wheel", type=Path)
    there = [name for name in PYTHONS if runs(name)]
    parser.add_argument("--python", nargs="+", default=there, metavar="PYTHON", help=f"default: {' '.join(there)}")
    parser.add_argument("--newest", action="store_true", help="newest versions in place of those of constraints.txt")
    every = sorted((ROOT / "examples").glob("*.py"))
    numbers = [each.name[:2] for each in every]
    parser.add_argument("--examples", nargs="*", default=numbers, metavar="NN", help="numbers; none: the demonstration")
    parser.add_argument("--resolution", type=float, default=4.0, metavar="MM", help="voxels of the demonstration")
    options = parser.parse_args()
    wrong = sorted(set(options.examples) - set(numbers))
    absent = [python for python in options.python if not runs(python)]
    faults = {
        f"no file {options.wheel}; build it by `make package`": not options.wheel.is_file(),
        f"no example {' '.join(wrong)}": bool(wrong),
        "no Python from 3.11 on; name one by --python": not options.python,
        f"{' '.join(absent)} does not run; install it, or name others by --python": bool(absent),
    }
    for fault in (fault for fault, there in faults.items() if there):
        print(f"release/try_wheel.py: error: {fault}", file=sys.stderr)
        return 2
    chosen = [each for each in every if each.name[:2] in options.examples]
    failed = {
        python: try_wheel(
            options.wheel.resolve(), python, newest=options.newest, examples=chosen, resolution=options.resolution
        )
        for python in options.python
    }
    for python, what in failed.items():
        print(f"{python}: {'failed: ' + ', '.join(what) if what else 'all passed'}")
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(main())
