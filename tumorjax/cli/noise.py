"""Remarks of libraries, which a user of the command has no use for."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_library_noise() -> Iterator[None]:
    """Keep remarks that libraries address to programmers from the terminal, unless `python -W` asks for them."""
    log = logging.getLogger("nibabel.global")
    level = log.level
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            # What it says of a header, the checks of `read_volume` say of the image, where it matters.
            log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.setLevel(level)
