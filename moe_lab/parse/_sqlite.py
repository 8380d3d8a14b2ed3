"""Reading columns of an SQLite file quickly, and saying clearly what is wrong with it."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_lab.errors import UserError

MAGIC = b"SQLite format 3\x00"
ONE_BATCH = "2000000000"  # rows; ADBC takes the type of a column from its first batch, which may be all NULL


@dataclass(frozen=True)
class Database:
    """An SQLite file and what is in it.

    Attributes:
        path: the file.
        tables: columns of each table.
    """

    path: Path
    tables: dict[str, tuple[str, ...]]

    def table(self, name: str) -> str | None:
        """Return the table of that name, or its newest version (``NAME_V2``, ``NAME_V3``), or None."""
        versions = [t for t in self.tables if t.startswith(f"{name}_V") and t[len(name) + 2 :].isdigit()]
        if name in self.tables:
            return name
        return max(versions, key=lambda t: int(t[len(name) + 2 :]), default=None)

    def columns(self, table: str, required: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
        """Return which of the columns there are.

        Raises:
            UserError: a required one is missing.
        """
        missing = [c for c in required if c not in self.tables[table]]
        if missing:
            raise UserError(
                f"{self.path.name}: table {table} has no column {', '.join(missing)}, so this export cannot be read; "
                "export the report again with a current `nsys export --type=sqlite`."
            )
        return [*required, *(c for c in optional if c in self.tables[table])]

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a small query."""
        try:
            with closing(sqlite3.connect(uri(self.path), uri=True)) as connection:
                connection.text_factory = _text
                return connection.execute(query, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise damaged(self.path, error) from None

    def read(self, table: str, columns: Sequence[str], where: str = "") -> Any:
        """Return columns as a ``pyarrow.Table``; reading goes through ADBC, which is several times as fast as rows.

        Args:
            table: table to read.
            columns: column names, or SQL expressions ``... AS name``.
            where: SQL condition.
        """
        import adbc_driver_manager
        import adbc_driver_sqlite.dbapi as adbc

        names = ", ".join(c if " AS " in c else f'"{c}"' for c in columns)
        query = f'SELECT {names} FROM "{table}"' + (f" WHERE {where}" if where else "")
        try:
            with adbc.connect(uri(self.path)) as connection, connection.cursor() as cursor:
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": ONE_BATCH})
                cursor.execute(query)
                return cursor.fetch_arrow_table()
        except (adbc_driver_manager.Error, OSError) as error:
            raise damaged(self.path, error) from None


def uri(path: Path) -> str:
    """Return the address that opens the file for reading only, without locks and journals."""
    return f"{path.resolve().as_uri()}?mode=ro&immutable=1"


def open_database(path: Path) -> Database:
    """Return the tables and columns of an SQLite file.

    Raises:
        UserError: there is no such file, it is not SQLite, or it is truncated.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path.name}; give the path of a report that exists.")
    with path.open("rb") as file:
        head = file.read(100)
    if head[:16] != MAGIC:
        raise UserError(
            f"{path.name} is not an SQLite file; make one with `nsys export --type=sqlite -o run.sqlite run.nsys-rep`."
        )
    page = int.from_bytes(head[16:18], "big")
    pages = int.from_bytes(head[28:32], "big") if head[24:28] == head[92:96] else 0  # else the count is out of date
    if path.stat().st_size < pages * (65536 if page == 1 else page):
        raise damaged(path, None)
    database = Database(path, {})
    tables: dict[str, tuple[str, ...]] = {}
    query = (
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' "
        "ORDER BY m.name, c.cid"
    )
    for table, column in database.rows(query):
        tables[table] = (*tables.get(table, ()), column)
    return Database(path, tables)


def damaged(path: Path, error: Exception | None) -> UserError:
    """Return the error for a file that breaks off or cannot be read."""
    why = f" ({str(error).splitlines()[0]})".replace(str(path), path.name) if error and str(error) else ""
    return UserError(
        f"{path.name} is truncated or damaged{why}; copy it again, or export the report again with `nsys export`."
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
