# SPDX-License-Identifier: Apache-2.0
"""CSV files of the AMD tools as tables: size, characters, quotes, columns and cells are checked here, once.

Nothing is guessed: a truncated file, or one with text where a whole number belongs, is refused in one sentence.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import entry

FILE_BYTES = 4_000_000_000  # largest file
UNPACKED_BYTES = 1_000_000_000  # largest size of an unpacked .gz
HEADER_BYTES = 4_000_000
COLUMNS = 20_000  # the widest folder of rocprof-compute has about 2,700
_PIECE = 1 << 24
BLANK = ["", "NaN", "nan", "NA", "N/A", "None"]  # what the tools write for an unknown value
# What pyarrow says of a cell that does not fit the type of its column.
_CELL = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (\w+): invalid (.*)", re.S)


def read(
    path: Path, then: str, *, whole: Collection[str] = (), text: Collection[str] = (), only: Collection[str] = ()
) -> pd.DataFrame:
    """Return the table of a file, plain or gzip.

    Args:
        path: the file.
        then: what to do if it is damaged; the end of the error sentence.
        whole: columns of 64-bit integers, if present; an empty cell is NA.
        text: columns of text, if present. The type of other columns is inferred.
        only: which columns to return, if present; empty = all.

    Raises:
        UserError: it is too large, empty, not UTF-8, truncated, or has a cell that does not fit its column.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        data = _bytes(path)
        header = _header(data)
        types = {c: pa.int64() if c in whole else pa.string() for c in header if c in whole or c in text}
        convert = arrow.ConvertOptions(
            column_types=types,
            strings_can_be_null=not whole,
            null_values=[""] if whole else BLANK,
            include_columns=[c for c in header if c in only] if only else None,
        )
        parse = arrow.ParseOptions(newlines_in_values=True)
        table = arrow.read_csv(pa.BufferReader(data), parse_options=parse, convert_options=convert)
        if any(pa.types.is_binary(kind) for kind in table.schema.types):
            raise ValueError("it is not UTF-8 text")
    except pa.ArrowInvalid as error:
        raise _broken(path, _said(str(error), header), then) from None
    except (ValueError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise _broken(path, str(error), then) from None
    frame: pd.DataFrame = table.to_pandas(
        integer_object_nulls=False, types_mapper={pa.int64(): pd.Int64Dtype()}.get if whole else None
    )
    return frame


def ends_early(path: Path) -> bool:
    """Return whether the last line of a file has no line end, as if it were cut off; pandas always writes one."""
    if path.suffix == ".gz":
        return False  # unpacking checks its length and checksum
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def _broken(path: Path, why: str, then: str) -> UserError:
    short = entry.one_line(why.replace(str(path), path.name), 160)
    return UserError(f"{path.name} is truncated or not a readable CSV file ({short}); {then}.")


def _said(error: str, header: list[str]) -> str:
    """Return pyarrow's message, with the name of the column in place of its number."""
    found = _CELL.search(error)
    if not found:
        return error
    number, row, kind, value = found.groups()
    place = f"column {header[int(number)]}" + (f", line {row}" if row else "")
    if kind == "string":
        return f"{place} is not UTF-8 text"
    return f"{place} has {entry.one_line(value.removeprefix('value '), 40)} where a whole number of 64 bits belongs"


def _bytes(path: Path) -> bytes:
    """Return the contents of a file, unpacked, ending in a line end and without a byte order mark."""
    data = entry.read_bytes(path, FILE_BYTES)
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(path)
    if not data.strip():
        raise ValueError("it is empty")
    if b"\0" in data:
        raise ValueError("it has zero bytes in it, so it is not text")
    if data.count(b'"') % 2:  # all that follows would be read as one cell
        raise ValueError("a quotation mark in it is never closed")
    return data.removeprefix(b"\xef\xbb\xbf") + b"\n"  # the last line of rocprofv3's files has none


def _unpacked(path: Path) -> bytes:
    data = bytearray()
    with gzip.open(path) as file:
        while piece := file.read(_PIECE):  # one read of the most would allocate all of it, even for a small file
            data += piece
            if len(data) > UNPACKED_BYTES:
                raise ValueError(f"it unpacks to more than the {UNPACKED_BYTES / 1e6:.0f} MB that are read")
    return bytes(data)


def _header(data: bytes) -> list[str]:
    end = data.find(b"\n", 0, HEADER_BYTES)
    if end < 0:
        raise ValueError(f"its first line has more than {HEADER_BYTES} bytes")
    try:
        line = data[:end].decode().rstrip("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None
    fields = next(csv.reader([line]), [])
    if len(fields) > COLUMNS:
        raise ValueError(f"it has {len(fields)} columns, more than the {COLUMNS} that are read")
    for other, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(fields) < 2 and other in line:
            raise ValueError(f"its fields are separated by {name}, not by commas")
    twice = next((f for n, f in enumerate(fields) if f in fields[:n]), None) if len(set(fields)) < len(fields) else None
    if twice is not None:
        raise ValueError(f"it has the column {entry.one_line(twice, 60)} twice")
    return fields
