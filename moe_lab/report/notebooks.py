# SPDX-License-Identifier: Apache-2.0
"""Find notebooks, read their parameters cell without running it, and check the values they are given."""

import ast
import io
import math
import os
import re
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from moe_lab.report import places
from moe_lab.report.model import Job, Link, Parameter
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import shipped
from moe_lab.spec.guard.entry import INT64, decode_json, one_line, read_text, visible

_LONGEST = 10_000  # characters of a parameter
_SCALARS = (str, int, float, bool, type(None))


def folder() -> Path:
    """Return the notebooks folder: ``./notebooks``, the current folder if it is one, else ours."""
    here = Path.cwd()
    for place in (
        here / "notebooks",
        here if here.name == "notebooks" else None,
        shipped.notebooks(),
    ):
        if place and place.is_dir():
            return place
    raise UserError("There is no folder 'notebooks' here; give the path of a notebook, or of a folder of them.")


def find(chosen: Sequence[str] | None) -> list[Path]:
    """Return the chosen notebooks (paths, folders, file names or the start of one), or all, in order of their names."""
    if chosen:
        return [path for name in chosen for path in (_all(Path(name)) if os.path.isdir(name) else [_one(name)])]
    return _all(folder())


def _all(place: Path) -> list[Path]:
    if found := sorted(place.glob("*.ipynb")):
        return found
    raise UserError(f"The folder '{one_line(place.name)}' has no notebook; give a notebook's path.")


def _one(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".ipynb" and os.path.isfile(path):
        return path
    every = sorted(folder().glob("*.ipynb"))
    # A whole name takes precedence over names that begin with it.
    fits = [p for p in every if p.stem == path.stem] or [p for p in every if name and p.stem.startswith(name)]
    if len(fits) != 1:
        what = "fits several notebooks" if fits else "is no notebook"
        raise UserError(f"'{one_line(name, 60)}' {what}; choose one of: {', '.join(p.stem for p in fits or every)}.")
    return fits[0]


def read(path: Path) -> Any:
    """Return the notebook as an nbformat node."""
    import nbformat

    try:
        text = read_text(path)
        decode_json(text, dict[str, Any])  # refuses nesting and numbers at which nbformat would crash
        with warnings.catch_warnings():  # nbformat warns when it gives ids to cells of old notebooks
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(text, as_version=4)
            nbformat.validate(notebook)
    except Exception as error:
        why = one_line(str(error)) if isinstance(error, ValueError) else type(error).__name__
        raise UserError(f"'{one_line(path.name)}' cannot be read as a notebook ({why}); export it again.") from None
    return notebook


def heading(notebook: Any, stem: str) -> tuple[str, str]:
    """Remove title and question (first heading and the paragraph below) from the first markdown cell; return them."""
    first = next((c for c in notebook.cells if c.cell_type == "markdown"), None)
    found = re.match(r"#\s+(.+?)\s*(?:\n+(?!#)(.+?))?(?:\n\s*\n|$)", first.source, re.S) if first else None
    if not first or not found:
        return stem, ""
    first.source = first.source[found.end() :].strip()
    return found.group(1), " ".join((found.group(2) or "").split())


def link(job: Job) -> Link:
    """Return the link to the page that a job will write."""
    title, _ = heading(read(job.notebook), job.notebook.stem)
    return Link(f"{title}: {job.label}" if job.label else title, f"{job.file_name}.html")


def listing() -> str:
    """Return the notebooks with their questions as a table in Markdown, for docs/notebooks.md."""
    found = ((path, heading(read(path), path.stem)) for path in find(None))
    lines = [f"| [{path.stem}](../notebooks/{path.name}) | {question} |" for path, (_, question) in found]
    return "\n".join(["| notebook | question |", "|---|---|", *lines])


def parameters_of(notebook: Any, name: str = "the notebook") -> dict[str, Parameter]:
    """Return the parameters of the cell tagged ``parameters``: literals with their trailing comments."""
    for cell in notebook.cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            try:
                return _assigned(cell.source)
            except (SyntaxError, ValueError, tokenize.TokenError, RecursionError, MemoryError) as error:
                raise UserError(
                    f"The parameters cell of '{one_line(name)}' cannot be read ({one_line(str(error))}); assign texts, "
                    "numbers, true, false, None or lists of these."
                ) from None
    return {}


def _assigned(source: str) -> dict[str, Parameter]:
    tree = ast.parse(source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    out = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and node.value is not None:
            about = comments.get(node.end_lineno or node.lineno, "")
            out[target.id] = Parameter(target.id, _literal(node.value, target.id), about)
    return out


def _literal(node: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(f"'{name}' is not a literal") from None


def jobs(found: Sequence[Path], parameters: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Return one job per notebook and grid point, with every value checked.

    Parameters go to each notebook that has them; grid points must fit every notebook.
    """
    read_once = {path: read(path) for path in found}
    for path, notebook in read_once.items():
        _check_language(notebook, path.name)
    known = {path: parameters_of(notebook, path.name) for path, notebook in read_once.items()}
    if len({p.stem for p in found}) < len(found):
        raise UserError(
            "Two of the notebooks have the same name and would write the same page; run them one at a time."
        )
    for name in parameters:
        if not any(name in k for k in known.values()):
            raise _unknown(name, known)
    # Only these distinguish one page of a grid from another.
    varying = {k for point in points for k in point if any(p.get(k) != point[k] for p in points)}
    out: list[Job] = []
    for path in found:
        for point in points:
            missing = [name for name in point if name not in known[path]]
            if missing:
                raise _unknown(missing[0], {path: known[path]})
            given = {n: v for n, v in parameters.items() if n in known[path]} | dict(point)
            checked = {name: _fit(known[path][name], value) for name, value in given.items()}
            own = {k: _shown(checked[k]) or "(none)" for k in point if k in varying}
            label = ", ".join(f"{k} = {text}" for k, text in own.items())
            name = _file_name(path.stem, {k: point[k] for k in own}, out)
            out.append(Job(path, checked, name, label, own))
    return out


def _check_language(notebook: Any, name: str) -> None:
    """Raise UserError if a notebook states another language; the name of its kernel does not matter."""
    stated = (("kernelspec", "language"), ("language_info", "name"))
    told = [notebook.metadata.get(kind, {}).get(key) for kind, key in stated]
    other = next((said for said in told if isinstance(said, str) and said.lower() not in ("python", "ipython")), None)
    if other:
        raise UserError(f"'{one_line(name)}' is written in {one_line(other, 40)}; give a Python notebook.")


def _unknown(name: str, known: Mapping[Path, Mapping[str, Parameter]]) -> UserError:
    lists = "; ".join(f"{path.name} knows {', '.join(names) or 'none'}" for path, names in known.items())
    return UserError(f"No parameter is called '{one_line(name, 60)}': {lists}.")


def _fit(parameter: Parameter, value: Any) -> Any:
    """Return ``value`` as the parameter's type: numbers become text for a text, integers become floats for a float."""
    items = value if isinstance(value, list) else [value]
    wrong = next((v for v in items if not isinstance(v, _SCALARS)), None)
    if wrong is not None:
        names: dict[type, str] = {dict: "mapping", list: "list in a list"}
        kind_of = f"a {names.get(type(wrong), type(wrong).__name__)}"
        raise UserError(
            f"Parameter '{parameter.name}' takes a text, a number, true, false, null or a list of these, not {kind_of}."
        )
    for item in items:
        _check(parameter.name, item)
    kind = type(parameter.default)
    if value is None or parameter.default is None or type(value) is kind:  # not isinstance: True is an int
        return value
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kind is float and type(value) is int:
        return float(value)
    raise UserError(
        f"Parameter '{parameter.name}' is {_KINDS.get(kind, kind.__name__)} "
        f"({parameter.about or repr(parameter.default)}); it cannot be {one_line(repr(value), 60)}."
    )


def _check(name: str, value: Any) -> None:
    """Raise UserError if a notebook cannot take the value unchanged."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"Parameter '{name}' cannot be {value}; give a finite number.")
    if type(value) is int and value not in INT64:
        raise UserError(f"Parameter '{name}' takes whole numbers of 64 bits; give a smaller one.")
    if isinstance(value, str) and (len(value) > _LONGEST or visible(value, keep="\n\t") != value):
        raise UserError(
            f"Parameter '{name}' takes a text of at most {_LONGEST} characters without control characters, not "
            f"'{one_line(value, 40)}'."
        )


_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


def _shown(value: Any) -> str:
    value = places.value(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _file_name(stem: str, point: Mapping[str, Any], others: Sequence[Job]) -> str:
    """Return a readable and unique file name: ``01_layer_breakdown--M-16--phase-decode``."""
    parts = [stem, *(f"{k}-{_shown(v) or 'none'}" for k, v in point.items())]
    name = "--".join(re.sub(r"[^A-Za-z0-9_.+-]+", "_", part).strip("_") for part in parts)[:140]
    taken = {job.file_name for job in others}  # of long values the cut names may be the same
    return next(one for one in chain([name], (f"{name}--{n}" for n in count(2))) if one not in taken)
