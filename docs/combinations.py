"""Make docs/combinations.md, the page of models and methods, from the registry: `python docs/combinations.py`."""

import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import tumorjax as tj
from tumorjax.calibration import Problem, default_prior
from tumorjax.methods.registry import default_method, methods, models

PAGE = Path(__file__).with_name("combinations.md")
_HEAD = """# Models and methods

In Python, `tj.personalize(patient, model=..., method=..., key=...)` takes the models and methods below; the command
takes their names. A method that cannot calibrate a model gives the reason. This page is made from the registry by
`python docs/combinations.py`; models and methods of other packages join it by entry points, see
[Add a method](extend/method.md).
"""


def small_problem(model: Any) -> Problem:
    """Return a problem of a model: a ball of tumour in a brain that is a cube."""
    shape = (12, 12, 12)
    tissue = np.zeros(shape, np.float32)
    tissue[1:-1, 1:-1, 1:-1] = 0.5
    fluid = np.zeros(shape, np.float32)
    fluid[2, 2, 2], tissue[2, 2, 2] = 1.0, 0.0
    anatomy = tj.Anatomy(tj.Grid(shape, np.diag([4.0, 4.0, 4.0, 1.0])), tissue, tissue, fluid)
    distance = np.linalg.norm(np.indices(shape) - 5.5, axis=0)
    observations = {
        name: tj.Outline(inside=(distance < radius).astype(np.float32), valid=tissue > 0)
        for name, radius in (("core", 2.0), ("lesion", 3.5))
    }
    return Problem(model, anatomy, observations, default_prior(anatomy, observations, model=model, several=False))


def refusal(kind: type[Any], problem: Problem) -> str | None:
    """Return why a method cannot calibrate a problem, given atlases, a database or a network of the model's tumours."""
    needs = {field for field in ("atlases", "database", "network") if field in kind.__dataclass_fields__}
    if "atlases" in needs:
        return kind((problem.anatomy,)).refuses(problem)
    if "database" in needs:
        one = SimpleNamespace(origin=np.zeros(3))
        database = SimpleNamespace(recipe=SimpleNamespace(model=problem.model), parameters=lambda number: one)
        return without_files(kind, database=database).refuses(problem)
    if "network" in needs:
        # A network of the model's tumours, which estimates the force if there is one.
        targets = ("gamma",) if problem.model.displaces else ()
        made = SimpleNamespace(targets=targets, box=SimpleNamespace(sides=()), growth=None)
        learnt = {"network": SimpleNamespace(architecture=made), "refuses_model": lambda method, model: None}
        return without_files(kind, **learnt).refuses(problem)
    return kind().refuses(problem)


def without_files(kind: type[Any], **known: Any) -> Any:
    """Return a method that has read no files, of which these attributes are known; others are those of its class."""
    return object.__new__(
        types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update(morph=False, **known))
    )


def words_for(name: str, kind: type[Any], problem: Problem) -> tuple[str, str]:
    """Return what follows the name of a method in Python, and in the command."""
    if name == "retrieval":
        return '.open("database")', " --database database"
    if name in ("lmi", "amortized"):
        # The network that ships, where one knows such tumours.
        if kind.open(displaces=problem.model.displaces).refuses(problem):
            return '.open("network")', " --network network"
        return ".open(displaces=True)" if problem.model.displaces else ".open()", ""
    return "()", ""


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for name, model in models().items():
        problem = small_problem(model.from_options({}))
        words = f"`tj.{model.__name__}()`, `--model {name}`"
        parts.append(f"## {model.title[0].upper()}{model.title[1:]}\n\n{words}: {model.summary}.\n")
        rows = ["| Method | Python | Command |", "|---|---|---|"]
        for other, kind in methods().items():
            title = f"{kind.title[0].upper()}{kind.title[1:]}"
            reason = refusal(kind, problem)
            if reason is None:
                call, more = words_for(other, kind, problem)
                default = ", the default" if other == default_method(model) else ""
                rows.append(f"| {title}{default} | `tj.{kind.__name__}{call}` | `--method {other}{more}` |")
            else:
                rows.append(f"| {title} | no: {reason} | no |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
