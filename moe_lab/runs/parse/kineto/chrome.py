# SPDX-License-Identifier: Apache-2.0
"""Chrome-trace JSON, event by event: the events of a large trace are never in memory all at once as objects."""

import json
import re
from collections.abc import Generator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from moe_lab.runs.parse.kineto import file
from moe_lab.runs.parse.kineto.file import AGAIN, CUT, Damaged

# Keys that numbers depend on: if one appears twice with two values, nobody can tell which is right.
READ = {"ph", "cat", "name", "pid", "tid", "ts", "dur", "args", "device", "stream", "correlation", "External id"}
READ |= {"external id", "graph node id", "bytes", "grid", "block", "registers per thread", "shared memory", "id"}
READ |= {"traceEvents", "deviceProperties", "numSms", "baseTimeNanoseconds"}
TIMES = 2**62  # ns, before and after 0; twice as much still fits in 64 bits
_SPACE = re.compile(r"[ \t\r\n]*")
_COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*(?:,|(?=[\]}]))[ \t\r\n]*")
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            if key in READ and found[key] != value:
                raise Damaged(f"'{key}' appears twice in one object, with two values")
    return found


# Numbers with a fraction stay text: older traces count time since 1970, whose nanoseconds a double cannot hold.
_decode = json.JSONDecoder(parse_float=str, parse_constant=str, strict=False, object_pairs_hook=_object).raw_decode


def events(path: Path, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the trace events of a file (an object with ``traceEvents``, or an array of events), in file order.

    ``header`` is filled with the other keys of the object; it is complete once all events have been read.
    """
    text = file.text(path)
    try:
        yield from _top(text, header)
    except json.JSONDecodeError as error:
        raise _mistake(text, error) from None
    except IndexError:
        raise Damaged(CUT, AGAIN) from None
    except RecursionError:
        raise Damaged("it is nested too deeply") from None
    except ValueError:  # from Python's int(), which takes at most 4,300 digits
        raise Damaged("it has a number with thousands of digits") from None


def _mistake(text: str, error: json.JSONDecodeError) -> Damaged:
    """Return the error for a place that is not JSON."""
    if "escape" in error.msg:
        return Damaged(
            f"at character {error.pos + 1} a backslash begins no JSON escape, as in a Windows path whose backslashes "
            "were not doubled",
            "double them, or write the trace with a newer PyTorch",
        )
    if error.msg.startswith("Unterminated") or error.pos + len("false") > len(text.rstrip()):
        return Damaged(CUT, AGAIN)
    return Damaged(f"at character {error.pos + 1}: {error.msg}")


def _top(text: str, header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = _skip(text, 0)
    if text[at] == "[":
        at = yield from _array(text, at + 1)
    elif text[at] == "{":
        at = yield from _members(text, at + 1, header)
    else:
        raise json.JSONDecodeError("it begins neither with { nor with [", text, at)
    at = _skip(text, at)
    if at < len(text):
        raise Damaged(f"more text follows its end, from character {at + 1} on", "give a file with one trace")


def _members(text: str, at: int, header: dict[str, Any]) -> Generator[dict[str, Any], None, int]:
    """Yield the events of the object whose ``{`` lies before ``at``; return the place after its ``}``."""
    at, listed = _skip(text, at), False
    while text[at] != "}":
        key, at = _decode(text, at)
        colon = _COLON.match(text, at)
        if colon is None or not isinstance(key, str):
            raise json.JSONDecodeError("a name and a colon were expected", text, at)
        at = colon.end()
        if key == "traceEvents":
            if listed or text[at] != "[":
                raise Damaged("traceEvents is not a list, or appears twice")
            listed, at = True, (yield from _array(text, at + 1))
        else:
            value, at = _decode(text, at)
            header.update(_object([*header.items(), (key, value)]))
        at = _comma(text, at)
    return at + 1


def _array(text: str, at: int) -> Generator[dict[str, Any], None, int]:
    """Yield the objects of an array whose ``[`` lies before ``at``; return the place after its ``]``."""
    at = _skip(text, at)
    while text[at] != "]":
        event, end = _decode(text, at)
        if not isinstance(event, dict):
            raise Damaged(f"at character {at + 1} there is no event")
        yield event
        at = _comma(text, end)
    return at + 1


def _comma(text: str, at: int) -> int:
    """Return the place after a comma; before ] or } it is optional, as some tools write one comma too many there."""
    found = _COMMA.match(text, at)
    if found is None:
        raise json.JSONDecodeError("a comma is missing", text, _skip(text, at))
    return found.end()


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def nanoseconds(microseconds: Any) -> int | None:
    """Return microseconds, an integer or a text with a fraction, exactly in ns; None if it is no time of 62 bits."""
    if type(microseconds) is int:
        found = microseconds * 1000
    elif not isinstance(microseconds, str) or not microseconds.isascii():
        return None
    # Nearly all times have three decimals, which needs no Decimal.
    elif microseconds[-4:-3] == "." and microseconds[:-4].isdigit() and microseconds[-3:].isdigit():
        if len(microseconds) > 40:
            return None
        found = int(microseconds[:-4] + microseconds[-3:])
    elif _NUMBER.fullmatch(microseconds):
        number = Decimal(microseconds)
        if number.adjusted() > 20:  # 1e999 is short as text and huge as an integer
            return None
        found = int((number * 1000).to_integral_value())
    else:
        return None
    return found if -TIMES < found < TIMES else None
