"""Where a training is, kept in a folder, so that what is killed goes on to the same weights."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tumorjax.networks.weights import named

_SETTINGS = "settings.json"


class Checkpoints:
    """The last states of a training, written by orbax; each appears whole or not at all.

    Parameters
    ----------
    folder
        New, empty, or of the same training.
    settings
        What distinguishes the training; JSON. A folder of another is not gone on with.

    Raises
    ------
    ValueError
        If the folder is of another training or another thing, or orbax is not installed.
    """

    def __init__(self, folder: str | os.PathLike, settings: Mapping[str, Any]) -> None:
        try:
            import orbax.checkpoint as ocp
        except ImportError:
            raise ValueError(
                "checkpoints need orbax-checkpoint, not installed here; pip install 'tumorjax[networks]'"
            ) from None
        self.folder = Path(folder).resolve()
        self._check(json.loads(json.dumps(settings)))
        self._ocp = ocp
        # Two, so that damage of the last one does not lose everything; written before the next step begins.
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder / "steps", options=options)

    def _check(self, settings: dict[str, Any]) -> None:
        file = self.folder / _SETTINGS
        if not file.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(f"{self.folder} is no folder of checkpoints; give a new one")
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            partial.replace(file)
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        if differing := sorted(key for key in {*settings, *found} if settings.get(key) != found.get(key)):
            raise ValueError(
                f"{self.folder} has checkpoints of another training (other {', '.join(differing)}); "
                "give the same settings, or another folder"
            )

    def load(self, state: Any) -> tuple[int, Any]:
        """Return the last step that was saved, and the state after it; zero and `state` where there is none.

        Raises
        ------
        ValueError
            If what was saved cannot be read as such a state.
        """
        step = self._manager.latest_step()
        if step is None:
            return 0, state
        leaves, rebuilt = named(state)
        template = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        try:
            found = self._manager.restore(step, args=self._ocp.args.StandardRestore(template))
        except (ValueError, TypeError, KeyError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"the checkpoint of step {step} in {self.folder} cannot be read ({reason}); remove it, "
                "to go on from the one before"
            ) from None
        return step, rebuilt(found)

    def save(self, step: int, state: Any) -> None:
        """Keep the state after a step."""
        leaves, _ = named(state)
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        self._manager.save(step, args=self._ocp.args.StandardSave(arrays))

    def close(self) -> None:
        """Finish; everything is on the disk when this returns."""
        self._manager.close()
