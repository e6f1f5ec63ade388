"""Images of a subject in a BIDS dataset, found by pybids."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tumorjax.io.errors import InputError

# Labels (the entities desc and label) by which a segmentation says that it is of the tumour.
TUMOUR = ("tumor", "tumour", "lesion", "glioma", "brats")
_EXTENSIONS = (".nii.gz", ".nii")
_DESCRIPTION = "dataset_description.json"
# Most names in a message.
_LISTED = 5


def find_images(
    root: str | Path, subject: str, session: str | None = None, *, given: Collection[str] = ()
) -> dict[str, Path]:
    """Return the images of a subject that a calibration uses or a report shows, by the names of `load_patient`.

    - "t1": the file `T1w` in `anat`, without contrast agent (the entity `ce`) where there is one.
    - "segmentation": the file `dseg`, or else `mask`, whose `desc` or `label` is one of `TUMOUR`.
    - "pet": the file `pet`.
    - "flair": the file `FLAIR` in `anat`.
    - "brain_mask": the file `desc-brain_mask`, in the space of the subject's own images.

    Files are those of the dataset and of its derivatives (`derivatives/*` with a `dataset_description.json`). Of images
    that have a `space`, those in the subject's own (`orig`, `T1w`) are used.

    Parameters
    ----------
    root
        Folder of the dataset.
    subject, session
        Labels, with or without "sub-" and "ses-"; the session may be left out where there is one.
    given
        Names of images that are known already, which are not looked for.

    Raises
    ------
    InputError
        If pybids is not installed, the folder is no BIDS dataset, there is no such subject or session, several sessions
        and none is given, no T1 image, or several images of one kind.
    """
    root, subject = Path(root), subject.removeprefix("sub-")
    session = None if session is None else session.removeprefix("ses-")
    for name, label in (("subject", subject), ("session", session)):
        if label is not None and not re.fullmatch(r"[A-Za-z0-9]+", label):
            raise InputError(f"{name}: got {label!r}; BIDS labels have letters and digits only")
    with warnings.catch_warnings():
        # What pybids says of a dataset to programmers, its validator says to users.
        warnings.simplefilter("ignore")
        layouts = _layouts(root, subject)
        if not any(subject in layout.get_subjects() for layout in layouts):
            raise InputError(f"bids {root}: has no subject {subject}; give another --subject")
        sessions = sorted({each for layout in layouts for each in layout.get_sessions(subject=subject)})
        if session is None and len(sessions) > 1:
            raise InputError(
                f"bids {root}: subject {subject} has the sessions {', '.join(sessions[:_LISTED])}; give --session"
            )
        if session is not None and session not in sessions:
            had = f"the sessions {', '.join(sessions[:_LISTED])}" if sessions else "no sessions"
            raise InputError(f"bids {root}: subject {subject} has no session {session}, but {had}")
        chosen = {"subject": subject, "extension": list(_EXTENSIONS)}
        if session or sessions:
            chosen["session"] = session or sessions[0]
        files = [(Path(file.path), file.get_entities()) for layout in layouts for file in layout.get(**chosen)]
    own = [(path, of) for path, of in files if of.get("space", "orig") in ("orig", "T1w", "individual")]
    t1 = [(path, of) for path, of in own if of.get("suffix") == "T1w" and "desc" not in of]
    plain = [(path, of) for path, of in t1 if "ceagent" not in of]
    found = {
        "t1": plain or t1,
        "segmentation": _of_tumour(own, "dseg") or _of_tumour(own, "mask"),
        "pet": [(path, of) for path, of in own if of.get("suffix") == "pet" and "desc" not in of],
        "flair": [(path, of) for path, of in own if of.get("suffix") == "FLAIR" and "desc" not in of],
        "brain_mask": [(path, of) for path, of in own if of.get("suffix") == "mask" and of.get("desc") == "brain"],
    }
    found = {name: images for name, images in found.items() if name not in given}
    if "t1" in found and not found["t1"]:
        raise InputError(f"bids {root}: subject {subject} has no T1 image (anat/*_T1w.nii.gz); give --t1")
    for name, images in found.items():
        if len(images) > 1:
            names = ", ".join(sorted(path.name for path, _ in images)[:_LISTED])
            option = name.replace("_", "-")
            raise InputError(
                f"bids {root}: subject {subject} has {len(images)} images for --{option}: {names}; give one"
            )
    return {name: images[0][0] for name, images in found.items() if images}


def _of_tumour(files: Sequence[tuple[Path, Mapping[str, Any]]], suffix: str) -> list[tuple[Path, Mapping[str, Any]]]:
    def named(of: Mapping[str, Any]) -> bool:
        return any(str(of.get(key, "")).casefold() in TUMOUR for key in ("desc", "label"))

    return [(path, of) for path, of in files if of.get("suffix") == suffix and named(of)]


def _layouts(root: Path, subject: str) -> list[Any]:
    """Return indices of the files of a subject: of the dataset, and of each of its derivatives."""
    try:
        from bids import BIDSLayout, BIDSLayoutIndexer  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise InputError("bids: needs pybids; install it with pip install 'tumorjax[bids]'") from None
    if not (root / _DESCRIPTION).is_file():
        raise InputError(f"bids {root}: has no {_DESCRIPTION}; give the folder of a BIDS dataset")
    # Other subjects are not looked at: a dataset may have thousands.
    others = re.compile(rf"/sub-(?!{subject}(/|_|$))")

    def indexed(folder: Path, **settings: Any) -> Any:
        indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[others, re.compile("/derivatives")])
        try:
            return BIDSLayout(folder, validate=False, indexer=indexer, **settings)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"bids {folder}: cannot be read by pybids: {said}") from None

    derived = [
        folder
        for folder in sorted((root / "derivatives").glob("*"))
        if (folder / _DESCRIPTION).is_file() and (folder / f"sub-{subject}").is_dir()
    ]
    return [indexed(root), *(indexed(folder, is_derivative=True) for folder in derived)]
