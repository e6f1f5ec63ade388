"""Names, options and files in the documentation exist, and every script of `examples/` is one of its pages."""

import ast
import importlib
import pkgutil
import re
import shlex
import sys
import types
from pathlib import Path

import pytest

import tumorjax
from tumorjax.cli.parser import command_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
GUIDES = sorted((ROOT / "docs" / "extend").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(text, language):
    """The fenced blocks of a language; "" gives those without one and the indented ones."""
    fenced = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [content for kind, content in fenced if kind == language]
    if language == "":
        rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        found += re.findall(r"(?:^    .+\n)+", rest, re.MULTILINE)
    return found


def commands(page):
    """The calls of the command that a page shows."""
    for block in blocks(page.read_text(), ""):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("tumorjax "):
                yield line.strip().split("  #")[0]


def python(page):
    """The blocks of Python of a page, or all of a script."""
    return [page.read_text()] if page.suffix == ".py" else blocks(page.read_text(), "python")


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: str(page.relative_to(ROOT)))
def test_python_names_what_there_is(page):
    for block in python(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tumorjax"):
                room = importlib.import_module(node.module or "")
                missing = [name.name for name in node.names if not hasattr(room, name.name)]
                assert not missing, f"{node.module} has no {missing}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tj":
                assert hasattr(tumorjax, node.attr), f"tumorjax has no {node.attr}"


def test_the_api_pages_name_what_there_is():
    names = re.findall(r"^::: (\S+)", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)
    assert len(names) == len(set(names)) > 100
    for name in names:
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_take_the_options_that_are_shown(page):
    for command in commands(page):
        words = shlex.split(command.split(" > ")[0])[1:]
        # An ellipsis stands for what the sentence before says.
        if "..." not in command:
            command_parser().parse_args(words)


def test_pages_show_commands():
    assert len([command for page in PAGES for command in commands(page)]) > 10


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"""(?:\]\(|src=")([^)#"]+)""", (ROOT / "README.md").read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^):#]*)(?:#([^)]+))?\)", page.read_text()):
        to = (page.parent / target).resolve() if target else page
        if to.is_relative_to(ROOT / "docs") or to == page:
            # The folder of examples is a link in docs/.
            assert to.exists(), target
            if anchor:
                heads = re.findall(r"^#+ (.*)", to.read_text(), re.MULTILINE)
                # As mkdocs makes them.
                anchors = [re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads]
                assert anchor in anchors, f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_tests_and_results_are_there(page):
    for name in re.findall(r"`(test_\w+\.py|benchmarks/results/\w+\.json)`", page.read_text()):
        assert (ROOT / ("" if "/" in name else "tests") / name).exists(), name


def test_the_readme_computes_what_it_says(capsys):
    (program,) = blocks((ROOT / "README.md").read_text(), "python")
    exec(compile(program, "README.md", "exec"), {})
    # Cells rise with the diffusion length.
    cells, slope = map(float, re.findall(r"Array\(([^,]+),", capsys.readouterr().out))
    assert cells > 1 and slope > 0


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_code_of_a_guide_runs(page, tmp_path, monkeypatch, one_test_as_installed):
    monkeypatch.chdir(tmp_path)
    # Classes of a guide belong to a module that is imported, as those of a user's own file do.
    guide = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", guide)
    for number, block in enumerate(python(page)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), vars(guide))


def test_every_example_is_a_page():
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [path.name[:2] for path in EXAMPLES] == [f"{number:02d}" for number in range(1, len(EXAMPLES) + 1)]
    for path in EXAMPLES:
        assert f"examples/{path.name}" in menu
        assert path.read_text().startswith("# %% [markdown]\n# # ")


def test_the_page_of_combinations_is_made_from_the_registry(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    made = importlib.import_module("combinations")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "make it anew: python docs/combinations.py"
