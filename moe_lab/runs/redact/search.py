# SPDX-License-Identifier: Apache-2.0
"""Search everything that a run keeps, byte by byte, for what redaction should have hidden."""

import csv
import gzip
import io
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moe_lab.runs import redact
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line

UNPACKED = 1_000_000_000  # most bytes that a packed file may unpack to; no run has more
_SHORTEST = 6  # least characters of a string among binary data
_STRINGS = re.compile(rb"[\x20-\x7e\xc2-\xf4\x80-\xbf]{%d,}" % _SHORTEST)
# Strings in UTF-16, of either byte order.
_WIDE = re.compile(rb"(?:[\x20-\x7e]\x00){%d,}|(?:\x00[\x20-\x7e]){%d,}" % (_SHORTEST, _SHORTEST))
_GZIP, _SQLITE = b"\x1f\x8b", b"SQLite format 3\x00"
_COMMANDS = ("command", "options")  # keys of run.json whose value is a command line


@dataclass(frozen=True)
class Finding:
    """What one file still holds: ``count`` distinct things of a kind of ``redact.KINDS``."""

    file: str
    kind: str
    count: int


def search(folder: Path) -> list[Finding]:
    """Return what redaction would still hide in the files of a folder, or in one file, and in the names of the files.

    Raises:
        UserError: a file cannot be read.
    """
    found = []
    files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    for path in files:
        name = path.relative_to(folder).as_posix() if path != folder else path.name
        with redact.counting() as hidden:
            redact.text(path.name)
            if path.is_symlink():
                redact.text(os.readlink(path))  # what it points to is no part of the run
            elif path.is_file():
                _search_file(path, name)
        found += [Finding(one_line(redact.text(name)), kind, count) for kind, count in hidden.counts.items()]
    return found


def _search_file(path: Path, name: str) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"'{one_line(name)}' cannot be searched ({error.strerror}); make it readable.") from None
    known = _search_tables(path) if data.startswith(_SQLITE) else frozenset()
    _search_bytes(data, name, known)


def _search_bytes(data: bytes, name: str, known: frozenset[str] = frozenset()) -> None:
    """Search the bytes of a file for all strings but ``known``."""
    while data.startswith(_GZIP):
        data, name = _unpacked(data, name), name.removesuffix(".gz")
    try:
        text = data.decode("utf-8-sig") if b"\x00" not in data else None
    except UnicodeDecodeError:
        text = None
    if text is None:
        _search_strings(string for string in _strings(data) if string not in known)
    elif not (_search_json(text) if name.endswith(".json") else name.endswith(".csv") and _search_csv(text)):
        for line in dict.fromkeys(text.splitlines()):
            redact.text(line)


def _strings(data: bytes) -> Iterable[str]:
    """Return what looks like text among binary data, each string once."""
    found = [s.decode("utf-8", "replace") for s in _STRINGS.findall(data)]
    return dict.fromkeys(found + [s.replace(b"\x00", b"").decode() for s in _WIDE.findall(data)])


def _search_strings(strings: Iterable[str]) -> None:
    """Search strings among binary data, where fields touch: 2.1.0 next to 5 is no address, / next to a name no path."""
    for string in strings:
        with redact.counting() as inside:
            redact.text(string, addresses=False)
        for kind, things in inside.found.items():
            for thing in things:
                numbers = set(thing) <= set("0123456789.")
                if not numbers and (kind != "path" or thing.count("/") + thing.count("\\") > 1):
                    redact.note(kind, thing)


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            inside = file.read(UNPACKED + 1)
    except (OSError, EOFError, zlib.error):
        raise UserError(f"'{one_line(name)}' is damaged: it cannot be unpacked, so it cannot be searched.") from None
    if len(inside) > UNPACKED:
        raise UserError(f"'{one_line(name)}' unpacks to more than {UNPACKED / 1e6:.0f} MB; it cannot be searched.")
    return inside


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all of its pairs, even if a key appears twice."""


def _search_json(text: str) -> bool:
    """Search JSON; return False if it is not JSON."""
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
        _search_value(value, "")
    except (ValueError, RecursionError):
        return False
    return True


def _search_value(value: Any, name: str) -> None:
    if isinstance(value, _Pairs):
        for key, inside in value:
            redact.text(key)
            known = {"versions": f"version {key}", "columns": ""}  # the value of a column is its kind
            _search_value(inside, known.get(name, key))
    elif isinstance(value, list) and name in _COMMANDS and all(isinstance(v, str) for v in value):
        redact.command(value)
    elif isinstance(value, list) and not redact.names.kind_of_key(name):
        for inside in value:
            _search_value(inside, "")
    else:
        redact.tree(value, name=name)


def _search_csv(text: str) -> bool:
    """Search the cells of CSV, each under the name of its column; return False if it is not CSV."""
    try:
        header, *lines = csv.reader(io.StringIO(text, newline=""))
    except (csv.Error, ValueError):
        return False
    for name in header:
        redact.text(name)
    for column in range(max(map(len, [header, *lines]))):
        name = header[column] if column < len(header) else ""
        for cell in dict.fromkeys(line[column] for line in lines if column < len(line)):
            redact.tree(_plain(cell), name=name.replace(" ", "_"))
    return True


def _plain(cell: str) -> Any:
    """Return a numeric cell as a number: in a column called ``token`` it is a count and not a secret."""
    try:
        return float(cell)
    except ValueError:
        return cell


def _search_tables(path: Path) -> frozenset[str]:
    """Search the text of every table; return the strings in the bytes of its rows, which need no second search.

    A copy without free pages has the same rows, so what its bytes look like are rows: the bytes of whole numbers, such
    as times, often look like a path. Deleted text is in none of them, and is found when the bytes are searched.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.text_factory = lambda raw: raw.decode("utf-8", "replace")
            for text, name in _cells(database):
                redact.tree(text, name=name)
            with TemporaryDirectory() as folder:
                database.execute("VACUUM INTO ?", (str(Path(folder, "rows.sqlite")),))
                return frozenset(_strings(Path(folder, "rows.sqlite").read_bytes()))
    except sqlite3.Error:
        return frozenset()  # damaged, or not one of our databases: its bytes are searched all the same


def _cells(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Yield (text, name) of the distinct texts in every table; the name is the column's, or that in column ``name``."""
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in ("sqlite_master", *tables):
        quoted = '"{}"'.format(str(table).replace('"', '""'))
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({quoted})")]
        for column in columns:
            own = '"{}"'.format(column.replace('"', '""'))
            named = "name" if column == "value" and "name" in columns else "NULL"
            query = f"SELECT DISTINCT {own}, {named} FROM {quoted} WHERE typeof({own}) IN ('text', 'blob')"
            for value, name in database.execute(query):
                text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                yield text, str(name or column)
