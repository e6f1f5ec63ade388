"""Work on the workers of a Dask cluster."""

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from tumorjax.workers.pool import Outcome, attempt, in_one_line

if TYPE_CHECKING:
    from distributed import Client


def client_of(scheduler: str) -> "Client":
    """Return a client, not set as default, of the Dask scheduler at an address; a ValueError if none answers."""
    from distributed import Client

    try:
        return Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler answers at {scheduler} ({error}); start one, or correct the address"
        ) from None


def run_on_dask(work: Callable[[Any], Any], tasks: Sequence[Any], scheduler: str) -> Generator[Outcome, None, None]:
    """Do the work for each task on the workers of a scheduler; see `tumorjax.workers.run_tasks`."""
    try:
        from distributed import CancelledError, KilledWorker, as_completed
    except ImportError:
        raise ValueError("a scheduler needs distributed, not installed here; pip install 'tumorjax[cluster]'") from None
    client = client_of(scheduler)
    begun = time.monotonic()

    def submitted(number: int) -> Any:
        # Results of an earlier run are none of this one.
        return client.submit(attempt, work, number, tasks[number], key=f"task-{number}-{uuid.uuid4().hex}")

    def outcome(number: int, future: Any) -> Outcome | None:
        """Return what has become of a task, or None where workers died, as often as the scheduler lets them."""
        try:
            return future.result()
        except KilledWorker:
            return None
        except CancelledError:
            raise OSError(f"the Dask scheduler at {scheduler} is lost; what it has finished is kept") from None
        except Exception as problem:
            # Of the worker itself, such as one on which the package is not installed.
            return Outcome(number, None, f"on its worker, {in_one_line(problem)}", time.monotonic() - begun)

    with client:
        futures = {submitted(number): number for number in range(len(tasks))}
        suspects = []
        try:
            for future in as_completed(futures, loop=client.loop):
                if (known := outcome(futures[future], future)) is None:
                    suspects.append(futures[future])
                else:
                    yield known
            # Whoever waits for a worker that dies is suspected, too: alone with it, the innocent pass.
            for number in suspects:
                futures[future := submitted(number)] = number
                error = "its workers die again and again; see their logs, perhaps memory is short"
                yield outcome(number, future) or Outcome(number, None, error, time.monotonic() - begun)
        finally:
            client.cancel(list(futures))
