# SPDX-License-Identifier: Apache-2.0
"""The rows of a tuning run, appended to a file as they are measured, so that a later process can resume."""

from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

from moe_lab.gpu.bench import result
from moe_lab.spec.guard.entry import decode_json, unreadable

KEY = ("M", "phase", "part", "round", "w13", "w2")
Row = dict[str, Any]


class Journal:
    """A file of JSON lines: a header, then rows, then ``{"complete": true}``.

    Attributes:
        header: the first line; None for a new file.
        rows: by ``KEY``.
        complete: whether the file ends with that line.
    """

    def __init__(self, path: Path):
        """Read an existing file; an unfinished last line is cut off."""
        self._path, self._lock = path, Lock()
        self.header: Row | None = None
        self.rows: dict[tuple[Any, ...], Row] = {}
        self.complete = False
        for number, text in enumerate(result.finished(path), start=1):
            line = _read(text, path, number)
            if self.header is None:
                self.header = line
            elif "complete" in line:
                self.complete = True
            else:
                self.rows[key(line)] = line

    def begin(self, header: Row) -> None:
        """Write the header of a new file."""
        self.header = header
        self._append([header])

    def add(self, row: Row) -> None:
        """Append a row."""
        with self._lock:  # threads of the pool add rows at the same time
            self.rows[key(row)] = row
            self._append([row])

    def end(self) -> None:
        """Record that nothing is left to measure."""
        self.complete = True
        self._append([{"complete": True}])

    def of(self, **fields: Any) -> list[Row]:
        """Return the rows with these values."""
        return [row for row in self.rows.values() if all(row[k] == v for k, v in fields.items())]

    def _append(self, lines: Iterable[Row]) -> None:
        with self._path.open("a") as file:
            result.append(file, lines)


def _read(text: bytes, path: Path, number: int) -> Row:
    try:
        line: Row = decode_json(text, dict[str, Any])
        if any(isinstance(value, list | dict) for value in key(line)):  # which cannot be part of a key
            raise ValueError(f"one of {', '.join(KEY)} is not a text or number")
    except ValueError as error:
        why = f"line {number}: {error}"
        raise unreadable(path, "rows of a tuning", why, "start again with --overwrite") from None
    return line


def key(row: Row) -> tuple[Any, ...]:
    """Return the values that together identify a row."""
    return tuple(row.get(column) for column in KEY)
