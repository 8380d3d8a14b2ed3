# SPDX-License-Identifier: Apache-2.0
"""The sections of a page, and the ways from it: to other pages and to the folders of its runs."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from moe_lab.pages.show import mime
from moe_lab.report.model import Link, Look
from moe_lab.runs import profiles_root


def headings(notebook: Any) -> list[tuple[str, str]]:
    """Return (text, anchor as nbconvert makes it) of every heading of the second level."""
    cells = (c.source for c in notebook.cells if c.cell_type == "markdown")
    found = (h.replace("`", "").strip() for source in cells for h in re.findall(r"^## (.+)$", source, re.M))
    return [(text, text.replace(" ", "-")) for text in found]


def with_something(cells: Sequence[Any]) -> list[Any]:
    """Return the cells without the sections whose every output says that there is nothing to show."""
    parts: list[list[Any]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            parts.append([])
        parts[-1].append(cell)
    return [cell for part in parts if not _empty(part) for cell in part]


def _empty(part: Sequence[Any]) -> bool:
    outputs = [output for cell in part for output in cell.get("outputs", [])]
    return bool(outputs) and all(mime.NOTHING in output.get("data", {}) for output in outputs)


def around(links: Sequence[Link], file: str) -> tuple[Link | None, Link | None]:
    """Return the pages before and after one in the report; None where it is the first or last."""
    files = [link.file for link in links]
    if file not in files:
        return None, None
    at = files.index(file)
    return links[at - 1] if at else None, links[at + 1] if at + 1 < len(links) else None


def address(run: Mapping[str, Any], look: Look) -> str:
    """Return the relative address of a run's folder; empty if the page cannot lead there without naming other folders.

    That is if the page is sent alone, or lies outside the project whose runs it shows.
    """
    top, out = profiles_root().resolve().parent, look.out.resolve()
    if look.single_file or not run.get("folder") or not out.is_relative_to(top):
        return ""
    return os.path.relpath(top / run["folder"], out).replace(os.sep, "/")
