"""Functions for other processes that end in every possible way."""

import os
import signal
import time
from pathlib import Path


def do(task):
    """Do the task."""
    match task:
        case ("return", value):
            return value
        case ("raise", error):
            raise error
        case ("pid",):
            return os.getpid()
        case ("exit", code):
            os._exit(code)
        case ("die",):
            os.kill(os.getpid(), signal.SIGKILL)
        case ("die once", path):
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "at last"
        case ("wait",):
            print("waiting", flush=True)
            time.sleep(600)


def linger(options):
    """Begin to write a patient's results, and never come to an end."""
    from tumorjax.io import output_folder

    with output_folder(options.out) as out:
        (out / "half.txt").write_text("1")
        print("writing", os.getpid(), flush=True)
        time.sleep(600)


class Grown:
    """Stands for what grows the shards of a database: each is there at once, from a function of its recipe and number.

    Parameters
    ----------
    recipe
        Recipe of the database.
    shard
        Function of the recipe and a shard's number.
    """

    def __init__(self, recipe, shard):
        self.recipe, self._shard = recipe, shard

    def compile(self):
        """Compile nothing."""

    def shard(self, index):
        """Return a shard."""
        return self._shard(self.recipe, index)
