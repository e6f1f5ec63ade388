"""Kept bytes: written whole, by one command at a time, and compared with their checksums when they are read."""

from tumorjax.storage.files import new_file as new_file
from tumorjax.storage.files import sha256 as sha256
from tumorjax.storage.locks import InUseError as InUseError
from tumorjax.storage.locks import exclusive as exclusive
