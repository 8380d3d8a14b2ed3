# SPDX-License-Identifier: Apache-2.0
"""Tables for notebooks and reports: a DataFrame in, HTML out, with units under the heads, scrollable on a phone.

A page of ``moe-lab report`` lets a reader sort, search, filter and copy them; in a notebook they stand as they are.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import pandas as pd

from moe_lab.spec import schema

MOST_DIGITS = 4  # of a number with decimals


@dataclass(frozen=True)
class Column:
    """How one column is shown.

    Attributes:
        key: column of the DataFrame.
        label: head.
        unit: shown under the head; empty for none.
        digits: decimals of a number; None for text.
        group: a head shared by neighbouring columns.
        bar: full scale of a bar beside the number; None for no bar.
        wrap: whether long text is broken into lines.
        theirs: whether the numbers are those of others, which are shown paler.
        most: numbers above it are marked, because their bound is wrong.
    """

    key: str
    label: str
    unit: str = ""
    digits: int | None = None
    group: str = ""
    bar: float | None = None
    wrap: bool = False
    theirs: bool = False
    most: float | None = None


def heads(names: str, **same: Any) -> list[Column]:
    """Return columns of ``spec/schema.csv`` by their names, separated by spaces; ``same`` replaces fields of all."""
    known = schema.shown()
    of = (known[name] for name in names.split())
    return [replace(Column(f.column, f.label, f.unit, f.digits, wrap=f.wrap), **same) for f in of]


def guessed(frame: pd.DataFrame) -> list[Column]:
    """Return every column as the schema defines it; numbers that it does not define have one decimal."""
    known = schema.shown()
    digits = {str(c): 1 if pd.api.types.is_float_dtype(frame[c]) else None for c in frame}
    return [heads(c)[0] if c in known else Column(c, c.replace("_", " "), digits=digits[c]) for c in digits]


class Table:
    """A table that a notebook displays, as plain text if it cannot show HTML.

    Attributes:
        frame: the rows; a column ``depth`` indents the first column, a column ``odd`` names the doubtful cells.
        columns: which columns to show, in order.
        caption: a sentence above the table.
        extra: further MIME types to store with the output.
    """

    def __init__(
        self, frame: pd.DataFrame, columns: Sequence[Column], caption: str = "", extra: dict[str, Any] | None = None
    ):
        self.frame, self.columns, self.caption, self.extra = frame, list(columns), caption, extra or {}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        text = self.frame[[c.key for c in self.columns]].to_string(index=False)
        return {"text/html": self.html(), "text/plain": text, **self.extra}

    def html(self) -> str:
        """Return the table with its style."""
        return style() + self.bare()

    def bare(self) -> str:
        """Return the table without its style, in a box that scrolls sideways."""
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        body = "".join(self._row(row) for row in self.frame.to_dict("records"))
        table = f'<table class="lab">{caption}<thead>{self._head()}</thead><tbody>{body}</tbody></table>'
        return f'<div class="scroll" tabindex="0">{table}</div>'

    def _head(self) -> str:
        groups = ""
        if any(c.group for c in self.columns):
            spans: list[tuple[str, int]] = []  # (group, how many neighbouring columns are in it)
            for c in self.columns:
                name, n = spans[-1] if spans else ("", 0)
                spans = [*spans[:-1], (name, n + 1)] if n and name == c.group else [*spans, (c.group, 1)]
            cells = (
                f'<th colspan="{n}" class="group">{html.escape(g)}</th>' if g else f'<td colspan="{n}"></td>'
                for g, n in spans
            )
            groups = f"<tr>{''.join(cells)}</tr>"
        heads = "".join(
            f'<th scope="col" data-key="{html.escape(c.key)}"{_class("num", c.digits is not None)}>'
            f"{html.escape(c.label)}{f'<small>{html.escape(c.unit)}</small>' if c.unit else ''}</th>"
            for c in self.columns
        )
        return f"{groups}<tr>{heads}</tr>"

    def _row(self, row: dict[Any, Any]) -> str:
        depth = row.get("depth")
        level = int(depth) if depth is not None and not pd.isna(depth) else 0
        cells = [_cell(c, row[c.key], level * (not i), c.key in row.get("odd", ())) for i, c in enumerate(self.columns)]
        return f"<tr>{''.join(cells)}</tr>"


def _class(name: str, when: bool) -> str:
    return f' class="{name}"' if when else ""


def _cell(column: Column, value: Any, level: int, odd: bool = False) -> str:
    missing = value is None or value is pd.NA or value != value  # NaN
    text = "–" if missing else html.escape(str(value) if column.digits is None else rounded(value, column.digits))
    kinds = ["text"] if column.digits is None else []  # numbers are the rule, and many
    kinds += [kind for kind in ("wrap", "theirs") if getattr(column, kind)] + ["odd"] * odd
    kinds += ["wrong"] if not missing and column.most is not None and value > column.most else []
    style = f' style="padding-left:{0.6 + 1.0 * level:.1f}em"' if level else ""
    if column.bar:
        kinds.append("bar")
        width = 0.0 if missing else max(0.0, min(100.0, 100 * float(value) / column.bar))
        style = f' style="--fill:{width / 100:.3f}"'
    return f"<td{_class(' '.join(kinds), bool(kinds))}{style}>{text}</td>"


def rounded(value: float, digits: int) -> str:
    """Return a number with at most ``digits`` decimals, and fewer where more than four digits would say no more."""
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, min(digits, MOST_DIGITS - whole))}f}"


def style() -> str:
    """Return the style of all tables of a page, as an HTML element."""
    return f"<style>{css()}</style>"


def css() -> str:
    """Return that style as CSS."""
    return (files(__package__) / "table.css").read_text(encoding="utf-8")
