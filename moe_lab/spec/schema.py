# SPDX-License-Identifier: Apache-2.0
"""Columns as data, in ``schema.csv``: of launches, ranges, counters, benchmark rows, and of the tables on pages.

One entry gives a column's dtype, the unit in which it is kept or shown, its decimals, its heading and its meaning.
The tidy tables, the checks of rows, the tables of the notebooks and ``docs/columns.md`` are made from it.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLES = {
    "launches": "one row per operation on the GPU",
    "ranges": "one row per instance of a range, beside the launches",
    "counters": "further columns of launches, where counters were measured; ncu's names are in `spec/metrics.csv`",
    "rows": "one row per measured case of a benchmark",
    "static": "further columns of rows, where they are read from compiled code instead of measured",
    "shown": "columns of analysis tables, as the notebooks show them",
}


@dataclass(frozen=True)
class Field:
    """One column.

    Attributes:
        table: of ``TABLES``.
        column: its name.
        dtype: pandas dtype; for benchmark rows also ``number`` (whole or not), ``time`` (a number of at least 0) and
            ``pairs`` (a list of (text, number)).
        unit: unit in which it is kept or shown; empty for none.
        digits: decimals when shown; None for text.
        wrap: whether long text breaks into lines.
        label: heading of the column when shown.
        meaning: what it is.
    """

    table: str
    column: str
    dtype: str
    unit: str
    digits: int | None
    wrap: bool
    label: str
    meaning: str


SOURCE = Path(__file__).with_suffix(".csv")


@cache
def fields() -> tuple[Field, ...]:
    """Return every column, in the order of the file."""
    with SOURCE.open(newline="", encoding="utf-8") as file:
        return tuple(_field(row) for row in csv.DictReader(file))


def _field(row: dict[str, str]) -> Field:
    shown = row["digits"]  # one column of the file for both: a number of decimals, or "wrap" for long text
    digits = int(shown) if shown.isdigit() else None
    named = (row["table"], row["column"], row["dtype"], row["unit"])
    return Field(*named, digits, shown == "wrap", row["label"], row["meaning"])


@cache
def of(table: str) -> dict[str, Field]:
    """Return column -> field, for one of ``TABLES``."""
    return {field.column: field for field in fields() if field.table == table}


@cache
def shown() -> dict[str, Field]:
    """Return column -> field of everything that pages show."""
    # Column names are unique across these tables; those of `ranges` repeat some, and no page shows them.
    return {field.column: field for field in fields() if field.table != "ranges"}


def described(table: str | None = None) -> dict[str, dict[str, dict[str, str]]]:
    """Return table -> column -> dtype, unit, label and meaning, of all tables or one: JSON to store beside the data."""
    said = ("dtype", "unit", "label", "meaning")
    return {
        name: {column: {key: getattr(field, key) for key in said} for column, field in of(name).items()}
        for name in ([table] if table else TABLES)
    }


def document(tables: Iterable[str] = TABLES) -> Iterator[str]:
    """Yield the lines of a Markdown page: every column of the tables."""
    for table in tables:
        yield from (f"## {table}", "", f"{TABLES[table][:1].upper()}{TABLES[table][1:]}.", "")
        yield from ("| column | dtype | unit | meaning |", "|---|---|---|---|")
        for field in of(table).values():
            meaning = field.meaning.replace("|", "\\|")  # a bare | would end the cell
            yield f"| `{field.column}` | {field.dtype} | {field.unit} | {meaning} |"
        yield ""
