# SPDX-License-Identifier: Apache-2.0
"""The lines of ``ncu --csv``: finds the pages among what the program prints, and notices truncated files."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HEADER = re.compile(r'"?ID"?([,;\t])"?(?:Process ID|Kernel Name)')
_LINE = re.compile(r'"?[0-9]*"?,')  # begins with the kernel's number, or with nothing: the line of units
_BEGUN = re.compile(r'"[0-9]*"?')  # how a line of a page begins, even if it is cut off
_NEAR_THE_TOP = 20_000  # lines that the profiled program may print before ncu does
LINE_LENGTH = 8_000_000  # characters; a raw page has some thousand columns
_HALF = re.compile("[\ud800-\udfff]")  # what surrogateescape makes of a byte that is not UTF-8


def is_page(path: Path) -> bool:
    """Return whether a text file holds a page of ncu; the lines before it may be anything."""
    with _open(path) as file:
        for _ in range(_NEAR_THE_TOP):
            line = file.readline(LINE_LENGTH)
            if not line or HEADER.match(line):
                return bool(line)
    return False


def tables(path: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield (header, lines) of each page; what the program and ncu (``==PROF==``) print in between is left out.

    Raises:
        ValueError: a line of a page is cut off, or is not readable text.
    """
    header: list[str] = []
    lines: list[list[str]] = []
    quoted = False
    with _open(path) as file:
        for number, text in enumerate(iter(lambda: file.readline(LINE_LENGTH), ""), start=1):
            if len(text) == LINE_LENGTH:
                raise ValueError(f"line {number} has more than {LINE_LENGTH} characters")
            found = HEADER.match(text)
            if found:
                if header:
                    yield header, lines
                if found[1] != ",":
                    name = "semicolons" if found[1] == ";" else "tabs"
                    raise ValueError(f"its fields are separated by {name}, not by commas")
                header, lines, quoted = _cells(text, number), [], text.startswith('"')
            elif header and _LINE.match(text):
                line = _cells(text, number)
                # On the details page the lines of rules are longer than the others.
                details = "Metric Value" in header
                least = header.index("Metric Value") + 1 if details else len(header)
                if len(line) == least or (details and len(line) > least):
                    lines.append(line)
                # If the page quotes its fields, a line without quotes is the program's own output.
                elif text.startswith('"') or not quoted:
                    raise ValueError(f"line {number} has {len(line)} fields instead of {least}")
            if header and not text.endswith("\n") and _BEGUN.match(text) and not text.endswith('"'):
                raise ValueError(f"its last line, {number}, is cut off")
    if header:
        yield header, lines


def _open(path: Path) -> IO[str]:
    with path.open("rb") as file:
        mark = file.read(2)
    wide = mark in (b"\xff\xfe", b"\xfe\xff")  # UTF-16, as PowerShell redirects output
    return path.open(encoding="utf-16" if wide else "utf-8-sig", errors="replace" if wide else "surrogateescape")


def _cells(text: str, number: int) -> list[str]:
    if "\0" in text or _HALF.search(text):
        raise ValueError(f"line {number} is not UTF-8 text")
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"line {number}: {error}") from None
