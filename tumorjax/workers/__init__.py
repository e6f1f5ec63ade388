"""Many tasks of the same work: in processes of this machine, or on a Dask cluster."""

from tumorjax.workers.cluster import client_of as client_of
from tumorjax.workers.pool import Outcome as Outcome
from tumorjax.workers.pool import attempt as attempt
from tumorjax.workers.pool import run_tasks as run_tasks
