"""Chrome-trace JSON, event by event: the events of a large trace never exist as objects all at once."""

import gzip
import json
import re
import zlib
from collections.abc import Generator, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from moe_lab.errors import UserError

GZIP = b"\x1f\x8b"
_GAP = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")
# Numbers with a fraction stay text: a double cannot hold nanoseconds since 1970, which older traces count from.
_decode = json.JSONDecoder(parse_float=str, strict=False).raw_decode


def head(path: Path, size: int = 65536) -> str:
    """Return the beginning of a text file, unpacked if it is gzip; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            return file.read(size).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error):
        return ""


def events(path: Path, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the trace events in order of the file.

    Args:
        path: JSON, plain or gzip: an object with ``traceEvents``, or an array of events.
        header: takes up the other keys of the object; complete once the events are.

    Raises:
        UserError: not such a file, or a damaged one.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == GZIP else raw).decode("utf-8", errors="replace")
        del raw
        yield from _top(text, header)
    except (OSError, EOFError, zlib.error, ValueError, IndexError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path.name} is no complete JSON trace ({type(error).__name__}: {str(error)[:80]}); was the profiled "
            "program stopped while it wrote the file? Write it again."
        ) from None


def _top(text: str, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = _skip(text, 0)
    if text[at] == "[":
        yield from _array(text, at + 1)
        return
    if text[at] != "{":
        raise ValueError("it begins neither with { nor with [")
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _decode(text, at)
        colon = _COLON.match(text, at)
        if colon is None:
            raise ValueError("a colon is missing")
        at = colon.end()
        if key == "traceEvents" and text[at] == "[":
            at = yield from _array(text, at + 1)
        else:
            header[key], at = _decode(text, at)
        at = _skip(text, at)


def _array(text: str, at: int) -> Generator[dict[str, Any], None, int]:
    """Yield the objects of an array whose ``[`` lies before ``at``; return the place after its ``]``."""
    gap = _GAP.match
    while True:
        at = gap(text, at).end()  # type: ignore[union-attr]  # matches anything
        if text[at] == "]":
            return at + 1
        event, at = _decode(text, at)
        if isinstance(event, dict):
            yield event


def _skip(text: str, at: int) -> int:
    found = _GAP.match(text, at)
    return found.end() if found else at


def nanoseconds(microseconds: Any) -> int:
    """Return a time in ns, exactly; -1 if it is not a number.

    Args:
        microseconds: an integer, or the text of a number with a fraction.
    """
    if isinstance(microseconds, int):
        return microseconds * 1000
    text = str(microseconds)
    if text[-4:-3] == "." and text[:-4].isdigit() and text[-3:].isdigit():
        return int(text[:-4] + text[-3:])
    try:
        return int((Decimal(text) * 1000).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        return -1
