"""Cut a release: the version in every file that states it, and the changelog's section, in one step.

python release/cut.py 0.2.0
"""

import argparse
import datetime
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "## [Unreleased]\n"


def replaced(pattern: str, by: str) -> Callable[[str], str]:
    """Return a function that replaces the one place of a text where a pattern matches."""

    def replace(text: str) -> str:
        text, count = re.subn(pattern, by, text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{pattern!r} matches {count} times; it must match once")
        return text

    return replace


def dated(text: str, version: str, day: str) -> str:
    """Return a changelog whose unreleased changes are those of a version, below an empty section for the next one."""
    head, found, rest = text.partition(UNRELEASED)
    changes = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    if not found or not changes.strip():
        raise ValueError("CHANGELOG.md has no unreleased changes")
    return f"{head}{UNRELEASED}\n## [{version}] - {day}\n{rest}"


def described(text: str, version: str, day: str) -> str:
    """Return a `codemeta.json` of a version."""
    return json.dumps(json.loads(text) | {"version": version, "dateModified": day}, indent=2, ensure_ascii=False) + "\n"


def cited(text: str, version: str, day: str) -> str:
    """Return a `CITATION.cff` of a version."""
    text = re.sub(r"^date-released:.*\n", "", text, flags=re.MULTILINE)
    return replaced(r"^version: .*$", f"version: {version}\ndate-released: {day}")(text)


def cut(version: str, day: str, root: Path = ROOT) -> None:
    """Write a version and its day into all files that state them; none is written unless all can be.

    Raises
    ------
    ValueError
        If the version is no newer one, or a file does not say what it should.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"a version is three numbers, such as 0.2.0, got {version!r}")
    if datetime.date.fromisoformat(day).isoformat() != day:
        raise ValueError(f"a day is written YYYY-MM-DD, got {day!r}")
    before = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if [int(part) for part in version.split(".")] <= [int(part) for part in before.split(".")]:
        raise ValueError(f"the version must be newer than {before}, got {version}")
    files: dict[str, Callable[[str], str]] = {
        "pyproject.toml": replaced(r'^version = ".*"$', f'version = "{version}"'),
        "CITATION.cff": lambda text: cited(text, version, day),
        "codemeta.json": lambda text: described(text, version, day),
        "CHANGELOG.md": lambda text: dated(text, version, day),
    }
    texts = {root / name: change((root / name).read_text(encoding="utf-8")) for name, change in files.items()}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def main() -> int:
    """Parse the command line and cut the release."""
    parser = argparse.ArgumentParser(description="Cut a release.")
    parser.add_argument("version", help="such as 0.2.0")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--day", default=today, metavar="YYYY-MM-DD", help="day of the release (default: today)")
    options = parser.parse_args()
    try:
        cut(options.version, options.day)
    except ValueError as error:
        print(f"release/cut.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.version} is cut; look at `git diff`, then commit and tag it: git tag -a v{options.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
