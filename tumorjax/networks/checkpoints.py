"""Checkpoints of a training in a folder, from which an interrupted training continues to the same weights."""

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
# Number of checkpoints to keep; two, so that damage of the last one does not lose everything.
_KEPT = 2


class DamagedCheckpoint(UserWarning):
    """The last checkpoint of a training cannot be read, so the training continues from an earlier one."""


class Checkpoints:
    """The last two checkpoints of a training; each file appears complete or not at all, with a checksum.

    Parameters
    ----------
    folder
        A folder that is new, empty, or of the same training. This process locks it until `close`.
    settings
        Settings that identify the training, as JSON can hold them. Checkpoints with other settings are refused.

    Raises
    ------
    ValueError
        If the folder belongs to another training or contains something else, or another process trains there.
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
                raise ValueError(f"{self.folder} is not a folder of checkpoints; give a new one")
            with new_file(file) as partial:
                partial.write_bytes(sealed(settings))
            return
        try:
            found = unsealed(file.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"{file} cannot be used: {error}, or it has an earlier version; give another folder, or remove "
                f"{self.folder} to train from the beginning"
            ) from None
        if differing := sorted(key for key in {*settings, *found} if settings.get(key) != found.get(key)):
            raise ValueError(
                f"{self.folder} has checkpoints of another training (it differs in {', '.join(differing)}); "
                "give the same settings, or another folder"
            )

    def _steps(self) -> list[int]:
        """Return the steps of the checkpoints, the last one first."""
        matches = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def load(self, state: Any) -> tuple[int, Any]:
        """Return the step of the last checkpoint and the state after it; zero and `state` if there is none.

        Raises
        ------
        ValueError
            If no checkpoint can be read as a state like `state`.

        Warns
        -----
        DamagedCheckpoint
            If the last checkpoint cannot be read, but the one before it can.
        """
        leaves, rebuilt = named(state)
        template = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        reason = ""
        for step in self._steps():
            try:
                with open_arrays(self._file(step), _KIND, _VERSION) as file:
                    if file.table != table_of(template) or file.header.get("step") != step:
                        raise ValueError("it contains another state")
                    found = file.read()
            except (ValueError, OSError) as error:
                reason = reason or f"{self._file(step)} cannot be read ({error})"
                continue
            if reason:
                message = f"{reason}; the training continues from step {step}"
                warnings.warn(message, DamagedCheckpoint, stacklevel=3)
            return step, rebuilt(found)
        if reason:
            raise ValueError(f"{reason}; remove {self.folder} to train from the beginning")
        return 0, state

    def save(self, step: int, state: Any) -> None:
        """Write a checkpoint of the state after a step."""
        leaves, _ = named(state)
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        write_arrays(self._file(step), _KIND, _VERSION, {"step": step}, arrays)
        # Checkpoints of later steps must be damaged, since the training would have continued from them.
        steps = self._steps()
        for old in {other for other in steps if other > step} | {*[other for other in steps if other <= step][_KEPT:]}:
            self._file(old).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock of the folder."""
        self._held.close()
