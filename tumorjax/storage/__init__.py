"""Files on disk: written atomically, by one command at a time, and verified by checksums when they are read."""

from tumorjax.storage.arrays import KeptArrays as KeptArrays
from tumorjax.storage.arrays import Table as Table
from tumorjax.storage.arrays import open_arrays as open_arrays
from tumorjax.storage.arrays import write_arrays as write_arrays
from tumorjax.storage.documents import parsed as parsed
from tumorjax.storage.documents import sealed as sealed
from tumorjax.storage.documents import unsealed as unsealed
from tumorjax.storage.files import DISK_ERRORS as DISK_ERRORS
from tumorjax.storage.files import is_as_written as is_as_written
from tumorjax.storage.files import new_file as new_file
from tumorjax.storage.files import sha256 as sha256
from tumorjax.storage.files import text_digest as text_digest
from tumorjax.storage.files import user_cache as user_cache
from tumorjax.storage.locks import InUseError as InUseError
from tumorjax.storage.locks import exclusive as exclusive
