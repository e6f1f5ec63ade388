"""The inversion of one scan with mass effect: the tables of the multi-atlas paper.

Table 1 has the true and the inverted seed in the known anatomy; tables 2 and S2 have an unknown anatomy, for which
atlases stand; table S3 has real patients. Synthetic patients are grown on voxels half as long as those of the
inversion, in the ICBM152 brain, and read from images as any patient: a T1 image that moves with the tumour, its
tissue as from a perfect segmentation, and outlines. Methods see the whole density, as in the paper, or the outlines of
core and lesion alone, as of real patients. Atlases of the unknown anatomy are that brain under random diffeomorphisms,
or real brains of others, aligned by the package's own registration. All is inverted by our settings and by the
published ones.

`python -m benchmarks multi_atlas --json multi_atlas.json` measures all of it, in many hours on two
cores; options choose a part. The result of each case is stored beside the cohorts, so that the same command continues
after an interruption; a case is measured again if the code has changed. Names state the question, the case or the cases
that a mean is over, the figure, and what differs from the paper's table: voxels of 2 mm, the whole density, random
atlases and our settings have no word.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np

from benchmarks.cohorts import folder
from benchmarks.mass_effect import CASES
from benchmarks.multi_atlas.known import known_anatomy
from benchmarks.multi_atlas.published import ROWS, TARGETS
from benchmarks.multi_atlas.real import BY_COMMAND, available, by_command, real_patient
from benchmarks.multi_atlas.searches import searches
from benchmarks.multi_atlas.setting import Setting
from benchmarks.multi_atlas.unknown import QUESTION, unknown_anatomy
from benchmarks.record import Record, code, kept

PARTS = ("known", "unknown", "real", "command", "same-voxels", "ablation", "searches")
"""The parts of the benchmark that can be measured separately."""
SEEN, ATLASES, SETTINGS = ("density", "outlines"), ("random", "real"), ("ours", "published")
HEALTHY = ("coupled", "affine")


def add_arguments(parser: Any) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help="all, or some of a, b, c and d")
    parser.add_argument(
        "--resolution", type=int, choices=(2, 4, 8), metavar="MM", help="voxels of the tables, 2 (default), 4 or 8"
    )
    for name, choices, words in (
        ("parts", PARTS, ""),
        ("seen", SEEN, ", which the images show"),
        ("atlases", ATLASES, " brains of the unknown anatomy"),
        ("settings", SETTINGS, ""),
        ("healthy", HEALTHY, " for the brain before the tumour"),
    ):
        said = f"all, or some of {', '.join(choices)}{words}"
        parser.add_argument(f"--{name}", nargs="+", choices=choices, metavar=name.removesuffix("s").upper(), help=said)


def run(
    size: str,
    cases: Sequence[str] | None = None,
    resolution: int | None = None,
    parts: Sequence[str] | None = None,
    seen: Sequence[str] | None = None,
    atlases: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    healthy: Sequence[str] | None = None,
) -> list[Record]:
    """All tables, each case of which is stored; `small` inverts one case on voxels of 8 mm, with the true seed."""
    if size == "small":
        return known_anatomy("c", Setting(8, "outlines"), inverted=False)
    tables = [
        Setting(resolution or 2, *chosen, coupled=brain == "coupled")
        for *chosen, brain in product(seen or SEEN, atlases or ATLASES, settings or SETTINGS, healthy or HEALTHY[:1])
    ]
    measured: dict[str, Callable[[], list[Record]]] = {}
    for part in parts or PARTS:
        measured |= dict(pieces(part, list(cases or CASES), tables))
    modules = ("multi_atlas", "displaced", "mass_effect", "patients")
    place, by, records = folder() / "multi-atlas", code(*modules), []
    for name, measure in measured.items():

        def found(measure: Callable[[], list[Record]] = measure) -> dict[str, Any]:
            return {"records": [asdict(record) for record in measure()]}

        records += [Record(**each) for each in kept(place / f"{name}.json", by, found)["records"]]
    return records + summary(records)


def pieces(
    part: str, cases: Sequence[str], tables: Sequence[Setting]
) -> Iterator[tuple[str, Callable[[], list[Record]]]]:
    """Yield the units of measurement, each stored by itself, by name; units that two parts share have one name."""
    if part in ("known", "unknown"):
        measure, question = (known_anatomy, "known_anatomy") if part == "known" else (unknown_anatomy, QUESTION)
        # A known anatomy needs no atlas.
        wanted = [replace(each, atlases="random", coupled=True) for each in tables] if part == "known" else tables
        for setting, case in product(dict.fromkeys(wanted), cases):
            yield setting.name(question, case), functools.partial(measure, case, setting)
    elif part == "real":
        for setting in dict.fromkeys(Setting(each.spacing, settings=each.settings) for each in tables):
            for name in available():
                yield setting.name("table", name), functools.partial(real_patient, name, setting)
    elif part == "command":
        for name in available():
            if name in BY_COMMAND:
                yield f"command_{name}", functools.partial(by_command, name)
    elif part == "same-voxels":
        setting = Setting(4, finer=1)
        yield setting.name("known_anatomy", "c"), functools.partial(known_anatomy, "c", setting)
    elif part == "searches":
        yield "4mm_searches_c", functools.partial(searches, "c", Setting(4))
    else:
        # What each part brings, for the case d: the turns, the joint refinement, and the fluid.
        affine = Setting(4, coupled=False)
        for setting in (Setting(4), Setting(4, refine=False), affine, replace(affine, fluid=False)):
            yield setting.name(QUESTION, "d"), functools.partial(unknown_anatomy, "d", setting)


def summary(records: list[Record]) -> list[Record]:
    """The tables in one number each: means over those cases that were measured alike, which names list."""
    values = {record.name: record.value for record in records}
    found: list[Record] = []
    settings = [
        Setting(*each, coupled=coupled) for *each, coupled in product((2, 4, 8), SEEN, ATLASES, SETTINGS, (True, False))
    ]
    for setting, (question, rows, end) in product(
        settings,
        (
            ("true_seed", ROWS, "error"),
            ("inverted_seed", ROWS, "error"),
            (QUESTION, ROWS, "error"),
            (QUESTION, ("displacement_field", "tumour"), "error_of_the_mean"),
        ),
    ):
        for row in rows:
            # Without mass effect or displacement the error is absolute, not relative.
            cases = [c for c in CASES if not (c == "a" and row.startswith(("gamma", "displacement")))]
            names = {c: setting.name(question, f"{c}_{row}_{end}") for c in cases}
            each = {c: values[name] for c, name in names.items() if name in values}
            if len(each) > 1:
                label = f"{setting.name(question, f'{row}_{end}')}_averaged_over_{''.join(each)}"
                target = TARGETS.get(row, "") if question == "inverted_seed" else ""
                found.append(Record(label, float(np.mean(list(each.values()))), "1", target, {"cases": each}))
    return found
