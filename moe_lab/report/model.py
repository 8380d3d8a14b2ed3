# SPDX-License-Identifier: Apache-2.0
"""The parts of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One value that a notebook can be given.

    Attributes:
        name: variable in the cell tagged ``parameters``.
        default: its literal there.
        about: the comment after it.
    """

    name: str
    default: Any
    about: str = ""


@dataclass(frozen=True)
class Job:
    """One notebook to execute at one point of its parameters.

    Attributes:
        notebook: the .ipynb.
        parameters: what to set; the rest keeps its default.
        file_name: of the page, without ``.html``.
        label: what distinguishes this point from the others of a grid; empty outside grids.
        point: the same, parameter by parameter.
    """

    notebook: Path
    parameters: dict[str, Any]
    file_name: str
    label: str = ""
    point: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """A page beside another.

    Attributes:
        title: of its notebook, with what distinguishes it from the others of a grid.
        file: its name.
    """

    title: str
    file: str


@dataclass(frozen=True)
class Look:
    """How the pages of one report are written.

    Attributes:
        out: their folder.
        show_code: whether code cells are shown from the start.
        single_file: whether a page holds its scripts; otherwise they are files beside the pages, which share them.
        links: of all pages, in their order.
    """

    out: Path
    show_code: bool = False
    single_file: bool = False
    links: Sequence[Link] = ()


@dataclass(frozen=True)
class Executed:
    """A notebook after execution.

    Attributes:
        notebook: its nbformat node, with outputs.
        failed: one sentence, or None.
    """

    notebook: Any
    failed: str | None


@dataclass(frozen=True)
class Page:
    """One written page, as the index shows it.

    Attributes:
        title: first heading of the notebook.
        question: the paragraph below it.
        html: the written file.
        failed: why it failed, or None.
        label: grid point, or empty.
        point: the same, parameter by parameter.
        headline: first finding, or empty.
        rows: the rows behind it, as JSON values.
        thumbnail: a small SVG of the first figure, or empty.
        provenance: one entry per run (``pages.show.mime.PROVENANCE``).
        seconds: time to execute and convert.
        figures: number of figures on the page.
    """

    title: str
    question: str
    html: Path
    failed: str | None = None
    label: str = ""
    point: Mapping[str, str] = field(default_factory=dict)
    headline: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    thumbnail: str = ""
    provenance: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    figures: int = 0


@dataclass(frozen=True)
class Report:
    """What ``build`` wrote.

    Attributes:
        index: the index page.
        pages: in the order in which they ran.
    """

    index: Path
    pages: list[Page]
