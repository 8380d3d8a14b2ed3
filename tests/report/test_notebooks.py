"""The contract of a notebook: short, readable, and free of logic."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from checkout import REPO

from moe_lab.report.notebooks import parameters_of

FOLDER = REPO / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_notebook_name_sorts_and_reads(path: Path) -> None:
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)


def test_notebook_opens_with_title_and_question(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# .+\n\n[^#\n].+\?", first.source), "title as a heading, then the question as a paragraph"


def test_notebook_has_one_parameters_cell_of_commented_literals(path: Path) -> None:
    tagged = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert code_cells(path)[0].id == tagged[0].id
    parameters = parameters_of(nbformat.read(path, as_version=4))
    assert 1 <= len(parameters) <= 8
    assert len(parameters) == len(ast.parse(tagged[0].source).body), "only assignments of literals"
    assert not [p.name for p in parameters.values() if not p.about], "each parameter needs a trailing comment"


def test_notebook_is_short_and_has_no_logic(path: Path) -> None:
    cells = code_cells(path)
    assert len(cells) <= 12
    for cell in cells:
        assert len(cell.source.splitlines()) <= 12, cell.id
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not [
            n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.AsyncFunctionDef)
        ], cell.id
        modules = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}
        assert not {m.split(".")[0] for m in modules} & {"torch", "triton", "subprocess", "os"}, cell.id


def test_notebook_types_no_figure_by_hand(path: Path) -> None:
    prose = " ".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    assert not re.findall(r"\d[\d.,]*\s*(?:%|ms|µs|us|GB|TB/s|TFLOP)", prose)


def test_notebook_cell_ids_are_words(path: Path) -> None:
    ids = [c.id for c in nbformat.read(path, as_version=4).cells]
    assert not [i for i in ids if not re.fullmatch(r"[a-z]+(-[a-z]+)*", i)]
    assert len(set(ids)) == len(ids)


def test_notebook_is_committed_without_outputs(path: Path) -> None:
    assert not [c.id for c in code_cells(path) if c.outputs or c.execution_count is not None]


def test_notebook_names_the_plain_python_kernel(path: Path) -> None:
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"
