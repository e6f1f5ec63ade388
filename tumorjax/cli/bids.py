"""The options of BIDS datasets: a subject in place of files, and results as derivatives."""

import argparse
import re
from pathlib import Path

from tumorjax.io import InputError

# What is calibrated to, and what is found, by the options that it stands in for.
_USED = ("segmentation", "t1", "pet", "brain_mask")
_FOUND = (*_USED, "flair")
_SESSION = re.compile(r"_ses-([A-Za-z0-9]+)_")


def add_bids(sub: argparse.ArgumentParser) -> None:
    """Add the options to a parser of one patient."""
    group = sub.add_argument_group("BIDS dataset in place of files (pip install 'tumorjax[bids]')")
    group.add_argument(
        "--bids",
        type=Path,
        metavar="DIR",
        help="dataset in which the images of --subject are found: T1w, FLAIR, pet, and among the derivatives a dseg or "
        "mask whose desc or label is tumor, and desc-brain_mask; options that name a file take precedence",
    )
    group.add_argument("--subject", metavar="LABEL", help="the subject, such as 01")
    group.add_argument("--session", metavar="LABEL", help="the session, if there are several, such as pre")
    group.add_argument(
        "--bids-derivatives",
        type=Path,
        metavar="DIR",
        help="also write the results as a dataset of derivatives: names, JSON sidecars and dataset_description.json",
    )


def find_subject(options: argparse.Namespace) -> str | None:
    """Fill in the images of the subject that options name, and return a note that says which these are.

    Raises
    ------
    InputError
        If the options do not go together, or an image is missing or one of several; see `find_images`.
    """
    from tumorjax.io.bids import TUMOUR, find_images

    if (options.bids is None and options.bids_derivatives is None) != (options.subject is None):
        raise InputError("subject: goes with --bids DIR, or with --bids-derivatives DIR; give both or neither")
    if options.session is not None and options.subject is None:
        raise InputError("session: goes with --subject; give both or neither")
    if options.bids is None:
        if options.segmentation is None and options.visits is None:
            raise InputError("segmentation: give --segmentation FILE, --visits FILE, or --bids DIR --subject LABEL")
        return None
    if options.visits is not None:
        raise InputError("bids: finds the images of one day, and --visits names those of several; give one of them")
    given = [name for name in _FOUND if getattr(options, name) is not None]
    for name, path in find_images(options.bids, options.subject, options.session, given=given).items():
        setattr(options, name, path)
    if options.segmentation is None:
        raise InputError(
            f"bids {options.bids}: subject {options.subject} has no segmentation (a dseg or mask whose desc or label "
            f"is {', '.join(TUMOUR[:-1])} or {TUMOUR[-1]}); give --segmentation FILE"
        )
    if options.session is None and (session := _SESSION.search(options.segmentation.name)):
        # There is only this one.
        options.session = session[1]
    inside = {name: path for name in _FOUND if (path := getattr(options, name)) and path.is_relative_to(options.bids)}
    named = "; ".join(f"{name.replace('_', ' ')} {path.name}" for name, path in inside.items())
    return f"Images of the BIDS dataset: {named}." if named else None


def sources_of(options: argparse.Namespace) -> list[str]:
    """Return the images that were calibrated to, as sidecars name them."""
    paths = [path for name in _USED if (path := getattr(options, name)) is not None]
    if options.bids is None:
        return [path.name for path in paths]
    root = options.bids.absolute()
    return [
        f"bids::{path.absolute().relative_to(root).as_posix()}" if path.absolute().is_relative_to(root) else path.name
        for path in paths
    ]
