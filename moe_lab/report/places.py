# SPDX-License-Identifier: Apache-2.0
"""What a page may say about places on this machine: paths within the project, and of other paths the last part."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# An absolute path as a word of its own: at the start, or after a space, a comma, an equals sign or a quote, so that
# regular expressions with slashes stay.
_PATH = re.compile(r"""(?<![^\s,='"])(?:~|[A-Za-z]:)?[\\/]+[^\s,='"]+""")

_DEEP = 2  # parts, with the anchor, that a path must exceed to be searched: `/p` is also the end of an HTML tag


def value(given: Any) -> Any:
    """Return a parameter's value as a page shows it: every path in a text, alone or in a list, is cut."""
    if isinstance(given, list):
        return [value(one) for one in given]
    if not isinstance(given, str):
        return given
    return ",".join(_short(p) if _is_path(p) else _PATH.sub(lambda m: _short(m[0]), p) for p in given.split(","))


def message(said: str, parameters: Mapping[str, Any]) -> str:
    """Return a text without the folders of project, interpreter and user, and with given paths as in ``value``."""
    said = _without_given(said, parameters)
    places = {str(Path.cwd()): ".", sys.prefix: "<python>", str(Path(__file__).parents[2]): ".", str(Path.home()): "~"}
    for place in sorted(places, key=len, reverse=True):  # the longest first, as one may lie in another
        if len(place) > 1:  # a home or folder of / is in every path
            said = said.replace(place, places[place])
    return said


def hide(notebook: Any, parameters: Mapping[str, Any]) -> None:
    """Shorten the places of this machine in a notebook that ran: parameters, tracebacks, printed text and tables."""
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = value(_without_given(cell.source, parameters))
        for output in cell.get("outputs", []):
            _hide(output, parameters)


def _hide(output: Any, parameters: Mapping[str, Any]) -> None:
    if output.output_type == "error":
        output.traceback = [message(line, parameters) for line in output.traceback]
        output.evalue = message(output.evalue, parameters)
    elif output.output_type == "stream":
        output.text = message(output.text, parameters)
    for kind, content in output.get("data", {}).items():
        if isinstance(content, str):
            output["data"][kind] = _without_given(content, parameters)


def _without_given(said: str, parameters: Mapping[str, Any]) -> str:
    texts = [one for given in parameters.values() for one in (given if isinstance(given, list) else [given])]
    known = [one for one in texts if isinstance(one, str)]
    paths = {part.strip() for one in known for part in one.split(",") if _is_path(part)}
    paths |= {found for one in known for found in _PATH.findall(one)}
    for path in sorted(paths, key=len, reverse=True):
        if len(Path(path).parts) > _DEEP:
            said = re.sub(rf"(?<![\w.]){re.escape(path)}", lambda _, path=path: _short(path), said)  # type: ignore[misc]
    return said


def _is_path(part: str) -> bool:
    path = Path(part.strip())
    return path.is_absolute() and path != Path(path.anchor)


def _short(part: str) -> str:
    """Return an absolute path relative to the current folder, or its last part; spaces around it stay."""
    text = part.strip()
    path, here = Path(text), Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here) and path != here and len(here.parts) > 1
    return part.replace(text, str(path.relative_to(here)) if inside else re.split(r"[\\/]+", text.rstrip("\\/"))[-1])
