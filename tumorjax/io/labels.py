"""The meaning of segmentation labels, as a user writes it."""

from collections.abc import Collection, Sequence

from tumorjax.io.volume import InputError


def parse_labels(items: Sequence[str], *, allowed: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
    """Turn `["core=1,4", "edema=2"]` into `{"core": (1, 4), "edema": (2,)}`.

    Parameters
    ----------
    items
        `NAME=LABEL[,LABEL...]`, labels being positive integers (0 is background).
    allowed
        Names that may occur; all if empty.

    Raises
    ------
    InputError
        If an item has another form, or a name or a label occurs twice.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for item in items:
        name, equals, numbers = (part.strip() for part in item.partition("="))
        parts = [part.strip() for part in numbers.split(",")]
        if not (name and equals and all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts)):
            raise InputError(f"labels: got {item!r}; write NAME=LABEL[,LABEL...] with positive integers, as core=1,4")
        if allowed and name not in allowed:
            raise InputError(f"labels: got the name {name!r}; known are {', '.join(allowed)}")
        values = tuple(int(part) for part in parts)
        taken = [value for other in labels.values() for value in other]
        if name in labels or len({*taken, *values}) < len(taken) + len(values):
            raise InputError(f"labels: {item!r} repeats a name or a label; give each once")
        labels[name] = values
    return labels
