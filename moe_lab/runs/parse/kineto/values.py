# SPDX-License-Identifier: Apache-2.0
"""Single values of a torch.profiler trace, checked where they enter: a value that a field cannot have becomes -1."""

import re
from typing import Any

from moe_lab.runs.parse.kineto.chrome import TIMES, nanoseconds
from moe_lab.runs.parse.kineto.file import Damaged
from moe_lab.spec.guard.entry import INT64, one_line

AMOUNTS = 2**48  # limit of bytes and registers: sums of many still fit in 64 bits
AXES = 2**31  # limit of one axis of a grid or block
BLOCKS = 2**62  # limit of the product of three axes, and of ids
_WHOLE = re.compile(r"-?[0-9]{1,20}(?:\.0{1,20})?")


def integer(value: Any) -> int:
    """Return an id: an integer, or a text of one, perhaps with ``.0``; -1 if it does not fit in 64 bits.

    C++ prints -1 (none) as 2**64 - 1 where the type is unsigned; numbers from 2**63 up are negative likewise.
    """
    if type(value) is int and 0 <= value < BLOCKS:  # nearly all values
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value.split(".", 1)[0])
    if type(value) is not int:
        return -1
    if value in INT64:
        return value
    return value - 2**64 if 0 < value < 2**64 else -1


def known(value: Any) -> int:
    """Return an id; -1 also for 0, which Kineto writes for none."""
    return integer(value) or -1


def amount(value: Any) -> int:
    """Return a size or count; -1 if no GPU can have it."""
    found = integer(value)
    return found if 0 <= found < AMOUNTS else -1


def three(value: Any) -> tuple[int, int, int]:
    """Return x, y, z of a grid or block; -1, -1, -1 if it cannot be one."""
    if isinstance(value, list) and len(value) == 3:
        x, y, z = integer(value[0]), integer(value[1]), integer(value[2])
        if 0 <= x < AXES and 0 <= y < AXES and 0 <= z < AXES and x * y * z < BLOCKS:
            return x, y, z
    return -1, -1, -1


def text(value: Any, where: str) -> str:
    r"""Return a name, with lone surrogates escaped (``\ud800``); a missing one is ``(unnamed)``.

    Raises:
        Damaged: it is not text; ``where`` says whose name it is.
    """
    if value is None or value == "":
        return "(unnamed)"
    if not isinstance(value, str):
        raise Damaged(f"the name of {where} is not text")
    return value if value.isascii() else encodable(value)


def encodable(value: str) -> str:
    r"""Return a text with lone surrogates escaped (``\ud800``)."""
    return value.encode("utf-8", "backslashreplace").decode()


def span(event: dict[str, Any], where: str) -> tuple[int, int]:
    """Return (start, end) of an event in ns.

    Raises:
        Damaged: ``ts`` or ``dur`` is missing or not a number, or ``dur`` is negative; ``where`` says which event it is.
    """
    start, length = nanoseconds(event.get("ts")), nanoseconds(event.get("dur"))
    if start is None:
        raise Damaged(f"{where} has the time {_shown(event, 'ts')}, which is not a number of microseconds")
    if length is None or length < 0:
        raise Damaged(f"{where} has the duration {_shown(event, 'dur')}, which is not a number of microseconds >= 0")
    if start + length >= TIMES:
        raise Damaged(f"{where} ends later than 64 bits can count")
    return start, start + length


def _shown(event: dict[str, Any], key: str) -> str:
    value = event.get(key)
    return f"'{one_line(str(value), 30)}'" if isinstance(value, int | str) else f"({type(value).__name__})"
