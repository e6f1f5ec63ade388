"""Rules of the code: imports point down only, heavy libraries load late, nothing unsafe, nothing local."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tumorjax"

# From the ground up. A room (a module or folder of the package) may import the rooms of the floors below its own.
FLOORS = (
    {"checks"},
    {"cellularity", "grid", "storage", "text", "quality", "option", "progress", "quantity", "sections", "workers"},
    {"operators"},
    {"anatomy", "networks", "prior"},
    {"growth", "observation"},
    {"integrate"},
    {"ensemble", "retrieval"},
    {"calibration"},
    {"methods", "decisions"},
    {"report"},
    {"results"},
    {"pipeline"},
    {"cli"},
)
# Rooms for files and images on the host: the rooms that they may import, and those that may import them.
HOST_ROOMS = {"io", "atlas", "registration", "planning", "patient"}
HOST_ROOMS_IMPORT = HOST_ROOMS | {"cellularity", "grid", "storage", "text", "quality", "operators", "anatomy"}
HOST_ROOMS_SERVE = HOST_ROOMS | {"methods", "pipeline", "report", "results", "cli"}

# Libraries that take long to import and that simulations do not need.
LATE = (
    "SimpleITK",
    "nilearn",
    "matplotlib",
    "nibabel",
    "numpyro",
    "arviz",
    "zarr",
    "fsspec",
    "numba",
    "dask",
    "flax",
    "orbax",
    "safetensors",
    "faiss",
    "pydicom",
    "highdicom",
)


def room_of(path: Path) -> str:
    """The room of a file: the name of the module or folder directly under the package."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the package that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: relative import; name the room in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("tumorjax.")}


def allowed(room: str) -> set[str]:
    """The rooms that a room may import."""
    if room in HOST_ROOMS:
        return HOST_ROOMS_IMPORT
    level = next(level for level, rooms in enumerate(FLOORS) if room in rooms)
    below = set().union(*FLOORS[:level], {room})
    return below | HOST_ROOMS if room in HOST_ROOMS_SERVE else below


# `__init__` and `__main__` stand above the house and may name every room.
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if not (path.parent == PACKAGE and path.stem.startswith("__"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in HOST_ROOMS.union(*FLOORS), f"{room} stands on no floor; give it one in {Path(__file__).name}"
    # Constants of the package itself (its version) are no room.
    upward = {name for name in imported_rooms(path) if not name.startswith("__")} - allowed(room)
    assert not upward, f"{path.relative_to(ROOT)} may not import {sorted(upward)}"


def test_import_is_light():
    code = f"import sys, tumorjax; print(*[name for name in {LATE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.split(), "these load with `import tumorjax`; import them where they are used"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_runs_code_from_data(path):
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                modules = {alias.name for alias in names}
            case ast.ImportFrom(module=module):
                modules = {module}
            case _:
                modules = set()
        assert not modules & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}, ast.unparse(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"eval", "exec"}, ast.unparse(node)
            unsafe = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
            assert not unsafe, ast.unparse(node)


def test_no_tracked_file_names_this_machine():
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode != 0:
        pytest.skip("not a git checkout")
    if len(ROOT.parts) < 3:
        pytest.skip("the checkout is a top-level folder, whose name any text may hold")
    local = [str(ROOT).encode(), str(ROOT.parent / "shared").encode()]
    tracked = [ROOT / name for name in git.stdout.split("\0") if name]
    guilty = [path for path in tracked if path.is_file() and any(text in path.read_bytes() for text in local)]
    assert not guilty
