"""Where a training is, kept in a folder, so that what is killed goes on to the same weights."""

import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax.networks.weights import named, table_of
from tumorjax.storage import exclusive, new_file, open_arrays, sealed, unsealed, write_arrays

_SETTINGS = "settings.json"
_KIND, _VERSION = "state of a training", 1
_NAME = re.compile(r"step-(\d{1,15})\.safetensors")
# So that damage of the last one does not lose everything.
_KEPT = 2


class DamagedCheckpoint(UserWarning):
    """The last state of a training cannot be read, and one before it is gone on with."""


class Checkpoints:
    """The last two states of a training; each appears whole or not at all, with a checksum.

    Parameters
    ----------
    folder
        New, empty, or of the same training. It is held, by this process alone, until `close`.
    settings
        What distinguishes the training; JSON. A folder of another is not gone on with.

    Raises
    ------
    ValueError
        If the folder is of another training or another thing, or another process trains there.
    """

    def __init__(self, folder: str | os.PathLike, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder).resolve()
        with ExitStack() as stack:
            stack.enter_context(exclusive(self.folder))
            self._check(json.loads(json.dumps(settings)))
            self._held = stack.pop_all()

    def _check(self, settings: dict[str, Any]) -> None:
        file = self.folder / _SETTINGS
        if not file.is_file():
            # A process that was killed may have left the beginning of this file.
            if self.folder.exists() and any(path.name != f".{_SETTINGS}.partial" for path in self.folder.iterdir()):
                raise ValueError(f"{self.folder} is no folder of checkpoints; give a new one")
            with new_file(file) as partial:
                partial.write_bytes(sealed(settings))
            return
        try:
            found = unsealed(file.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"{file} cannot be used: {error}, or it is of an earlier version; give another folder, or remove "
                f"{self.folder} to train anew"
            ) from None
        if differing := sorted(key for key in {*settings, *found} if settings.get(key) != found.get(key)):
            raise ValueError(
                f"{self.folder} has checkpoints of another training (other {', '.join(differing)}); "
                "give the same settings, or another folder"
            )

    def _steps(self) -> list[int]:
        """Return the steps after which states were saved, the last one first."""
        matches = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def load(self, state: Any) -> tuple[int, Any]:
        """Return the last step that was saved, and the state after it; zero and `state` where there is none.

        Raises
        ------
        ValueError
            If nothing of what was saved can be read as such a state.

        Warns
        -----
        DamagedCheckpoint
            If the last one cannot, and the one before it can.
        """
        leaves, rebuilt = named(state)
        template = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        reason = ""
        for step in self._steps():
            try:
                with open_arrays(self._file(step), _KIND, _VERSION) as file:
                    if file.table != table_of(template) or file.header.get("step") != step:
                        raise ValueError("it holds another state")
                    found = file.read()
            except (ValueError, OSError) as error:
                reason = reason or f"{self._file(step)} cannot be read ({error})"
                continue
            if reason:
                message = f"{reason}; the training goes on from step {step}, whose state is whole"
                warnings.warn(message, DamagedCheckpoint, stacklevel=3)
            return step, rebuilt(found)
        if reason:
            raise ValueError(f"{reason}; remove {self.folder} to train anew")
        return 0, state

    def save(self, step: int, state: Any) -> None:
        """Keep the state after a step."""
        leaves, _ = named(state)
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        write_arrays(self._file(step), _KIND, _VERSION, {"step": step}, arrays)
        # Those of later steps were damaged, or this one would not have been taken again.
        steps = self._steps()
        for old in {other for other in steps if other > step} | {*[other for other in steps if other <= step][_KEPT:]}:
            self._file(old).unlink(missing_ok=True)

    def close(self) -> None:
        """Finish; others may go on from the folder."""
        self._held.close()
