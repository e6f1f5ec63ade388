"""Settings of all tests (float64, strict promotion, no display), and fixtures for the real images."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Half of what Linux permits: a module adds some thousands.
_MOST_MAPPINGS = 32_000

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Take what was imported out of the collection of garbage.

    While programs are traced, every full collection looks through some 400 000 objects of libraries, which live to the
    end; without them, tracing takes about a sixth less time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def programs_that_pile_up() -> Iterator[None]:
    """Drop compiled programs before they fill the table of memory mappings, at whose end a process crashes.

    Linux permits 65,530 mappings, of which each program takes several. What is needed again is read from the cache.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images beside the project; tests that need it are skipped if it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the image data in ../shared/data, which is not part of the repository")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what commands put into the user's cache out of it; processes of one run share theirs."""
    with pytest.MonkeyPatch.context() as patch:
        # Of a process of several the base is a folder of its own in that of the run.
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        patch.setenv("XDG_CACHE_HOME", str(shared / "user-cache"))
        yield


@contextmanager
def _as_installed() -> Iterator[None]:
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def jax_as_installed() -> Iterator[None]:
    """JAX's settings in the command, to the end of the module: float32, and the promotion that optax's L-BFGS needs."""
    with _as_installed():
        yield


@pytest.fixture
def one_test_as_installed() -> Iterator[None]:
    """JAX's settings in the command, for one test among others in float64."""
    with _as_installed():
        yield


@pytest.fixture
def without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep lines of progress off standard error, which come or not as the machine is slow or fast."""
    monkeypatch.setattr("tumorjax.cli.console._BRIEF", 1e6)
    monkeypatch.setattr("tumorjax.cli.console._LONG", 1e6)


@contextmanager
def _compiled_plainly() -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def plainly() -> Callable[[], AbstractContextManager[None]]:
    """The context in which programs are compiled without optimisation, for a part of a test or a fixture."""
    return _compiled_plainly


@pytest.fixture(scope="module")
def compiled_plainly() -> Iterator[None]:
    """Compile without optimisation to the end of the module.

    Programs then compile in less than half the time, and those of the solver run a third as fast. This suits modules
    whose programs run a few times on small grids, and networks; samplers and searches would lose by it.
    """
    with _compiled_plainly():
        yield


@pytest.fixture
def one_test_compiled_plainly() -> Iterator[None]:
    """Compile one test's programs without optimisation, among others that run for longer than they compile."""
    with _compiled_plainly():
        yield


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of a ball of tissue of 1.2 l, in voxels of 8 mm."""
    import nibabel as nib

    from tests.problems import ball_brain

    folder, anatomy = tmp_path_factory.mktemp("atlas"), ball_brain((22, 22, 22), 8.0)
    maps = {"wm": anatomy.white_matter, "gm": anatomy.grey_matter, "csf": anatomy.csf}
    for name, values in (maps | {"t1": maps["wm"] + 0.5 * maps["gm"]}).items():
        nib.save(nib.Nifti1Image(np.asarray(values, np.float32), anatomy.grid.affine), folder / f"{name}.nii.gz")
    return folder
