# SPDX-License-Identifier: Apache-2.0
"""Read columns of an SQLite file quickly, and say clearly what is wrong with the file."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import entry

MAGIC = b"SQLite format 3\x00"
BATCH = 65536  # rows; ADBC allocates memory for a whole batch
TEXT_LENGTH = 100_000  # most characters of a name; demangled kernel names have up to some thousands
_VERSION = re.compile(r"(.+)_V([0-9]{1,9})")
_MISMATCH = re.compile(r"Type mismatch in column (\d+)")


@dataclass(frozen=True)
class Database:
    """An SQLite file and what is in it.

    Attributes:
        path: the file.
        tables: columns of each table.
        odd: what is not read as a table, by name, and why: views, virtual tables, tables without row numbers.
    """

    path: Path
    tables: dict[str, tuple[str, ...]]
    odd: dict[str, str] = field(default_factory=dict)

    def table(self, name: str) -> str | None:
        """Return the table of that name, or its newest version (``NAME_V2``, ``NAME_V3``), or None."""
        found = {t: m for t in (*self.tables, *self.odd) if (m := _VERSION.fullmatch(t)) and m[1] == name}
        plain = name in self.tables or name in self.odd
        newest = name if plain else max(found, key=lambda t: int(found[t][2]), default=None)
        if newest in self.odd:
            raise UserError(
                f"{self.path.name}: {newest} is {self.odd[newest]}, not a table as nsys writes it; export the report "
                "again with `nsys export --type=sqlite`."
            )
        return newest

    def columns(self, table: str, required: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
        """Return the columns that there are; raises UserError if a required one is missing."""
        missing = [c for c in required if c not in self.tables[table]]
        if missing:
            raise UserError(
                f"{self.path.name}: table {table} has no column {', '.join(missing)}, so this export cannot be read; "
                "export the report again with a current `nsys export --type=sqlite`."
            )
        return [*required, *(c for c in optional if c in self.tables[table])]

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a small query."""
        with reading(self.path), closing(sqlite3.connect(uri(self.path), uri=True)) as connection:
            connection.text_factory = lambda value: value.decode("utf-8", "replace")
            return connection.execute(query, parameters).fetchall()

    def count(self, source: str) -> int:
        """Return how many rows a table, a view or a query in brackets has."""
        return int(self.rows(f"SELECT count(*) FROM {_origin(source)}")[0][0])

    def check(self, *tables: str | None) -> None:
        """Check the pages of some tables for damage; takes about 0.1 s for 50 MB."""
        for table in filter(None, tables):
            found = str(self.rows(f"PRAGMA quick_check('{table}')")[0][0])
            if found != "ok":
                raise damaged(self.path, found.splitlines()[-1])

    def read(self, source: str, integers: Sequence[str], texts: Sequence[str] = (), where: str = "") -> Any:
        """Return columns as a ``pyarrow.Table``; ADBC reads them several times as fast as sqlite3 reads rows.

        Args:
            source: table or view to read, or a query in brackets.
            integers: columns of whole numbers or NULL, or SQL expressions ``... AS name``; int64.
            texts: columns of text, likewise; string, NULL is ``""``. They may hold bytes that are not UTF-8.
            where: SQL condition.

        Raises:
            UserError: the file is damaged, a column is missing, or holds something other than whole numbers.
        """
        import adbc_driver_sqlite.dbapi as adbc
        import pyarrow as pa

        numbers = [_named(c) for c in integers]
        asked = [f'{e} AS "{n}"' for e, n in numbers]
        asked += [f"ifnull(CAST({e} AS TEXT), '') AS \"{n}\"" for e, n in map(_named, texts)]
        query = f"SELECT {', '.join(asked)} FROM {_origin(source)}" + (f" WHERE {where}" if where else "")
        # A table is read in one batch, so that its columns need not be concatenated afterwards.
        batch = max(self.count(source), 1) if source in self.tables else BATCH
        try:
            with reading(self.path), adbc.connect(uri(self.path)) as connection, connection.cursor() as cursor:
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch)})
                cursor.execute(query)
                table = cursor.fetch_arrow_table()
        except _MismatchError as error:
            raise self.not_integers(source, numbers[error.column][1]) from None
        if not len(table):  # without rows ADBC cannot tell the types
            return pa.schema(
                [(n, "int64") for _, n in numbers] + [(_named(c)[1], "string") for c in texts]
            ).empty_table()
        for i, (_, name) in enumerate(numbers):
            if table.schema.field(i).type != "int64":
                raise self.not_integers(source, name)
        return table

    def not_integers(self, source: str, column: str) -> UserError:
        """Return the error for a column that holds text, bytes or fractions where whole numbers belong."""
        place = "" if source.startswith("(") else f" of {source}"
        return self.wrong(f"column {column}{place} holds something other than whole numbers")

    def wrong(self, what: str) -> UserError:
        """Return the error for values that cannot be true."""
        return UserError(f"{self.path.name}: {what}, so no number of it can be trusted; export the report again.")


class _MismatchError(Exception):
    """A value whose type differs from the values before it in its column."""

    def __init__(self, column: int) -> None:
        self.column = column


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error that the libraries raise while they read a file into one sentence."""
    import adbc_driver_manager
    import pyarrow as pa

    try:
        yield
    except MemoryError:
        raise UserError(
            f"{path.name} needs more memory than this process may use; allow it more (`ulimit -v`), or capture a "
            "shorter time."
        ) from None
    except (adbc_driver_manager.Error, sqlite3.Error, OSError, pa.ArrowException, OverflowError, UnicodeError) as error:
        found = _MISMATCH.search(str(error))
        if found:
            raise _MismatchError(int(found[1])) from None
        raise damaged(path, str(error)) from None


def _origin(source: str) -> str:
    return source if source.startswith("(") else f'"{source}"'


def _named(column: str) -> tuple[str, str]:
    """Return (SQL, name) of a column, or of ``... AS name``."""
    expression, _, name = column.rpartition(" AS ")
    return (expression, name) if expression else (f'"{column}"', column)


def uri(path: Path) -> str:
    """Return the URI that opens the file read-only, without locks and journals."""
    return f"{path.resolve().as_uri()}?mode=ro&immutable=1"


def open_database(path: Path) -> Database:
    """Return the tables and columns of an SQLite file.

    Raises:
        UserError: there is no such file, it is not SQLite, it is truncated or longer than its header says, or the
            program that wrote it did not finish.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path.name}; give the path of a report that exists.")
    _check_file(path)
    kinds = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%' ORDER BY 1"
    database = Database(path, {})
    for name, kind, no_rowid in database.rows(kinds):
        if kind != "table" or no_rowid:
            database.odd[name] = "a table WITHOUT ROWID" if kind == "table" else f"a {kind}"
            continue
        columns = [str(c) for (c,) in database.rows("SELECT name FROM pragma_table_info(?)", (name,))]
        if "rowid" in map(str.lower, columns):  # it hides SQLite's own row number, which we read
            database.odd[name] = "a table with a column rowid"
        else:
            database.tables[name] = tuple(columns)
    return database


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(100)
    if head[:16] != MAGIC:
        raise UserError(
            f"{path.name} is not an SQLite file; make one with `nsys export --type=sqlite -o run.sqlite run.nsys-rep`."
        )
    # SQLite's header: page size at byte 16 (1 stands for 65536), number of pages at 28, which is valid only if the
    # change counters at 24 and 92 are equal.
    page = int.from_bytes(head[16:18], "big")
    pages = int.from_bytes(head[28:32], "big") if head[24:28] == head[92:96] else 0
    rest = path.stat().st_size - pages * (65536 if page == 1 else page)
    if len(head) < 100 or rest < 0:
        raise damaged(path)
    if pages and rest:
        raise damaged(path, f"{rest} bytes follow its end")
    for journal in (path.with_name(path.name + end) for end in ("-wal", "-journal")):
        if journal.is_file() and journal.stat().st_size:
            raise UserError(
                f"{path.name} was not completely written: a part of it is still in {journal.name}; finish it with "
                f"`sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)'`, or export the report again."
            )


def damaged(path: Path, why: str = "") -> UserError:
    """Return the error for a file that is truncated or cannot be read."""
    said = f" ({entry.one_line(why).replace(str(path), path.name)})" if why else ""
    return UserError(
        f"{path.name} is truncated or damaged{said}; copy it again, or export the report again with `nsys export`."
    )
