# SPDX-License-Identifier: Apache-2.0
"""Rows of a benchmark: as the measuring process writes them (JSON), and as a run keeps them (a small CSV).

In a run, columns with the same value in all rows are in ``run.json``, and so are the kinds of the columns, which CSV
cannot state. Names in a column of (name, number) pairs are replaced by their position in a list.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pandas as pd

from moe_lab.runs.run_json import Gpu
from moe_lab.spec import schema
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import conform, decode_json, integer, one_line, read_text, unreadable

FILE = "rows.csv"

# dtype in the schema -> (in words, type).
KINDS: dict[str, tuple[str, Any]] = {
    "string": ("text", str),
    "Int64": ("whole number from 0 up", Annotated[int, msgspec.Meta(ge=0)]),
    "number": ("number", float),
    "time": ("number from 0 up", Annotated[float, msgspec.Meta(ge=0)]),
    "boolean": ("true or false", bool),
    "pairs": ("list of names and numbers", list[tuple[str, float]]),
}


class Header(msgspec.Struct):
    """What the first line of a result must be."""

    bench: str
    key: list[str] | None = None
    date: str | None = None
    gpu: Gpu | None = None
    versions: dict[str, str | None] | None = None
    command: list[str] | None = None
    settings: dict[str, Any] | list[Any] | None = None
    measured: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Result:
    """What a benchmark's process wrote.

    Attributes:
        header: bench, key (columns that identify a row), date, gpu, versions, command, settings.
        rows: one dictionary per row; None = not known.
        complete: whether the process finished; None if the file does not say.
    """

    header: dict[str, Any]
    rows: list[dict[str, Any]]
    complete: bool | None


def is_result(path: Path) -> bool:
    """Return whether a file is the result of a benchmark, by its first bytes."""
    if not os.path.isfile(path):
        return False
    with path.open("rb") as file:
        return re.match(rb'\s*\{[^{}\[]*"bench"\s*:', file.read(400)) is not None


def read_result(path: Path) -> Result:
    """Read JSON lines (a header, then one row per line), or one object with the rows in it.

    An unfinished last line is left out.

    Raises:
        UserError: the file is neither, or has no rows.
    """
    try:
        text = read_text(path)
        first, *rest = text.split("\n")
        header: dict[str, Any] = decode_json(first, dict[str, Any])
        conform(header, Header)
        if "rows" in header:
            result = Result({k: v for k, v in header.items() if k != "rows"}, header["rows"], None)
        else:
            lines = [_line(line, number) for number, line in enumerate(rest[:-1], start=2)] + _unless_torn(rest[-1:])
            rows = [line for line in lines if "complete" not in line]
            result = Result(header, rows, len(rows) < len(lines))
        _check_rows(result)
    except ValueError as error:
        raise unreadable(path, "a benchmark's result", error, "measure again") from None
    if not result.rows:
        raise UserError(f"'{path.name}' has no rows: the benchmark stopped before its first case; measure again.")
    return result


def _line(text: str, number: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = decode_json(text, dict[str, Any])
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    if "bench" in found and "settings" in found:
        raise ValueError(f"line {number} begins another result: give each its own file")
    return found


def _unless_torn(last: list[str]) -> list[Any]:
    """Return the row of a last line without a line end; nothing if the process died while it wrote the line."""
    try:
        return [_line(line, 0) for line in last if line]
    except ValueError:
        return []


def _check_rows(result: Result) -> None:
    """Raise ValueError if a row has a list or object in a key column, or a value of the wrong type."""
    for number, row in enumerate(result.rows, start=1):
        for column in result.header.get("key") or []:
            if isinstance(row.get(column), list | dict):
                raise ValueError(f"row {number} has no single value in '{column}'")
        for column, value in row.items():
            _check(column, value, number)


def _check(column: str, value: Any, number: int) -> None:
    """Raise ValueError if a value does not fit its column in the schema; other columns may hold anything."""
    known = schema.of("rows").get(column) or schema.of("static").get(column)
    if known is not None and value is not None and not _fits(value, known.dtype):
        raise ValueError(f"row {number} has no {KINDS[known.dtype][0]} in '{column}'")


def _fits(value: Any, kind: str) -> bool:
    """Return whether a value is of one of ``KINDS``."""
    try:
        msgspec.convert(value, KINDS[kind][1])
    except msgspec.ValidationError:
        return False
    return True


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Write the rows as CSV and return what ``read`` needs beside it.

    Args:
        rows: one mapping per row; a value is a number, text, boolean, None, list of (text, number), or other JSON.
        path: file to write.

    Returns:
        count, columns (name -> kind), constants (name -> value), and names (column of pairs -> list of names).
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    values = {key: [row.get(key) for row in rows] for key in keys}
    kinds = {key: _kind(column) for key, column in values.items()}
    constants = {key: column[0] for key, column in values.items() if all(v == column[0] for v in column)}
    names: dict[str, dict[str, int]] = {key: {} for key in keys if kinds[key] == "pairs" and key not in constants}
    varying = [key for key in keys if key not in constants]
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(varying)
        columns = [[_text(v, kinds[key], names.get(key, {})) for v in values[key]] for key in varying]
        # Where all columns are constant, empty lines keep the number of rows.
        lines.writerows(zip(*columns, strict=True) if columns else [[]] * len(rows))
    known = {key: list(of) for key, of in names.items()}
    return {"count": len(rows), "columns": kinds, "constants": constants, "names": known}


def _kind(column: Sequence[Any]) -> str:
    values = [v for v in column if v is not None]
    for kind, types in (("boolean", bool), ("Int64", int), ("Float64", int | float), ("string", str)):
        if all(isinstance(v, types) and (kind == "boolean" or not isinstance(v, bool)) for v in values):
            return kind if values else "string"
    return "pairs" if all(_fits(v, "pairs") for v in values) else "json"


def _text(value: Any, kind: str, names: dict[str, int]) -> str:
    if value is None or value != value:  # NaN
        return ""
    if kind == "pairs":
        return " ".join(f"{names.setdefault(name, len(names))}={number:g}" for name, number in value) or "-"
    if kind == "boolean":
        return "true" if value else "false"
    return json.dumps(value) if kind == "json" else str(value)


def read(path: Path, known: Mapping[str, Any]) -> pd.DataFrame:
    """Return what ``write`` wrote, with its order and kinds of columns; NA where a value was None.

    Args:
        path: the CSV.
        known: what ``write`` returned.

    Raises:
        UserError: the file is missing or does not match ``known``.
    """
    try:
        head, *lines = list(csv.reader(read_text(path).splitlines(keepends=True)))
        if len(lines) != known["count"]:
            raise ValueError(f"it has {len(lines)} rows instead of {known['count']}")
        cells = {key: [line[i] for line in lines] for i, key in enumerate(head)}
        columns = {}
        for key, kind in known["columns"].items():
            fixed = [known["constants"][key]] * len(lines) if key in known["constants"] else None
            of = known["names"].get(key, [])
            values = fixed or [_value(cell, kind, of) for cell in cells[key]]
            for number, value in enumerate(values[:1] if fixed else values, start=1):
                _check(key, value, number)
            columns[key] = _series(values, kind)
    except (ValueError, LookupError, TypeError, OverflowError, csv.Error) as error:
        said = one_line(f"no '{error.args[0]}'" if isinstance(error, KeyError) else str(error))
        raise UserError(f"The rows in {path.name} cannot be read ({said}); import the benchmark again.") from None
    return pd.DataFrame(columns)


def _value(cell: str, kind: str, names: Sequence[str]) -> Any:
    if not cell:
        return None
    if kind == "pairs":
        found = [item.split("=") for item in cell.split() if item != "-"]
        return [(names[integer(index, range(len(names)))], float(number)) for index, number in found]
    if kind == "boolean":
        return cell == "true"
    readers: dict[str, Callable[[str], Any]] = {"Int64": integer, "Float64": float, "string": str}
    return readers.get(kind, decode_json)(cell)


def _series(values: Sequence[Any], kind: str) -> "pd.Series[Any]":
    dtype: Any = "object" if kind in ("pairs", "json") else kind
    return pd.Series([pd.NA if v is None and dtype != "object" else v for v in values], dtype=dtype)
