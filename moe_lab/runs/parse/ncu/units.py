# SPDX-License-Identifier: Apache-2.0
"""Numbers as Nsight Compute prints them: scaled units, separators of any locale, and texts that mean no number."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from moe_lab.spec.guard.entry import one_line

_PREFIX = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SECONDS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0, "second": 1e9, "msecond": 1e6, "usecond": 1e3, "nsecond": 1.0}
_BASES = {"byte", "hz", "inst", "cycle", "sector", "request", "warp", "thread", "block", "op"}
_SPACE = re.compile("(?<=[0-9])[ \u00a0\u2009\u202f'\u2019](?=[0-9]{3}(?![0-9]))")  # between groups of three digits
_STYLE = r"[-+]?(?:[0-9]+(?:{0}[0-9]*)?(?:[eE][-+]?[0-9]+)?|[1-9][0-9]{{0,2}}(?:{1}[0-9]{{3}})+(?:{0}[0-9]*)?)"
_POINT, _COMMA = re.compile(_STYLE.format(r"\.", ",")), re.compile(_STYLE.format(",", r"\."))
_UNGROUPED = re.compile(r"[0-9]{4,}")
_NO_NUMBER = {"", "-", "n/a", "na", "nan", "-nan", "inf", "-inf", "no data"}
# Units of launch metrics that are whole numbers; waves and occupancies are not.
_WHOLE = {
    *("ns", "byte", "byte/block", "register/thread", "block", "thread", "warp", "inst", "sector", "cycle", "request"),
}
_SCALED_BELOW = 1000  # from here on ncu takes the next prefix, so of 1.234 and 1,234 only one is possible
LARGEST = 2.0**62  # so that sums of two stay within 64 bits


@dataclass(frozen=True)
class Cell:
    """A number on a page: ncu's name of its metric, its unit as printed, its text, and whether we keep it."""

    name: str
    unit: str
    text: str
    kept: bool


@cache
def scale(unit: str) -> tuple[float, str]:
    """Return (factor, base unit): ``Mbyte`` is (1e6, byte), ``us`` (1e3, ns), ``cycle/nsecond`` (1e9, hz).

    Rates are per second; ``byte/block`` and ``register/thread`` stay as they are. ncu's Kbyte has 1000 bytes.
    """
    top, slash, bottom = unit.strip().partition("/")
    if top in _SECONDS:
        return _SECONDS[top], "ns"
    factor, base = 1.0, top
    if top[:1] in _PREFIX and top[1:].lower() in _BASES:
        factor, base = _PREFIX[top[0]], top[1:].lower()
    elif top.lower() in _BASES:
        base = top.lower()
    if bottom in _SECONDS:
        factor, bottom = factor * 1e9 / _SECONDS[bottom], "second"
    base += f"{slash}{bottom}"
    return factor, "hz" if base == "cycle/second" else base


def number(text: str, decimal_comma: bool = False) -> float | None:
    """Return the number in a text, None if the text means that there is none (``n/a``, ``nan``, ``inf``, empty).

    Raises:
        ValueError: it is something else, negative, or too large.
    """
    digits = _shown(text)
    if digits.lower() in _NO_NUMBER:
        return None
    if not (_COMMA if decimal_comma else _POINT).fullmatch(digits):
        raise ValueError(f"'{one_line(text, 40)}' is not a number")
    value = _value(digits, decimal_comma)
    if not 0 <= value < LARGEST:
        raise ValueError(f"'{one_line(text, 40)}' is not a number that a counter can have")
    return value


def _shown(text: str) -> str:
    """Return a number without the values of instances after it (``12 (3; 4; 5)``) and without spaces between groups."""
    return _SPACE.sub("", text.split("(", 1)[0].strip())


def _value(digits: str, decimal_comma: bool) -> float:
    return float(digits.replace(".", "").replace(",", ".") if decimal_comma else digits.replace(",", ""))


def decimal_comma(cells: Iterable[Cell]) -> bool:
    """Return whether a file uses decimal commas, judged by all of its numbers together.

    ``1.234`` is either a number with three decimals or one thousand. What decides is a number that only one of the two
    styles can write (``12,5``, ``1.234.567``), or whose value only one of them makes possible: nanoseconds and counts
    are whole, and numbers with a prefix stay below one thousand. If there is none, percentages that we keep stay below
    one thousand, too (the largest of many units may exceed it), and a file that leaves long numbers ungrouped has
    decimals.

    Raises:
        ValueError: the numbers contradict each other, or nothing decides.
    """
    proofs: dict[bool, Cell] = {}
    likely: dict[bool, Cell] = {}
    open_: list[Cell] = []
    ungrouped = False
    for cell in cells:
        digits = _shown(cell.text)
        can = [comma for comma, style in ((False, _POINT), (True, _COMMA)) if style.fullmatch(digits)]
        if "." not in digits and "," not in digits:
            ungrouped |= digits == cell.text.strip() and _UNGROUPED.fullmatch(digits) is not None
            continue
        percentage = len(can) == 2 and scale(cell.unit)[1] == "%"
        if len(can) == 2:
            can = [comma for comma in can if _possible(_value(digits, comma), cell)]
        if len(can) == 1 and not (percentage and not cell.kept):
            (likely if percentage else proofs).setdefault(can[0], cell)
        elif len(can) == 2 and cell.kept:
            open_.append(cell)
    proofs = proofs or likely
    if len(proofs) == 2:
        point, comma = (f"'{one_line(proofs[c].text, 40)}' ({one_line(proofs[c].name, 80)})" for c in (False, True))
        raise ValueError(f"{point} can only have a decimal point, {comma} only a decimal comma")
    if proofs or not open_:
        return True in proofs
    first = _shown(open_[0].text)
    if ungrouped and len({"," in _shown(c.text) for c in open_}) == 1:
        return "," in first
    point, comma = (f"{_value(first, c):,}".removesuffix(".0") for c in (False, True))
    raise ValueError(f"{one_line(open_[0].name, 80)} is '{first}', which may be {point} or {comma}")


def _possible(value: float, cell: Cell) -> bool:
    factor, base = scale(cell.unit)
    if base == "%":
        return value < _SCALED_BELOW
    if factor != 1:
        return value < _SCALED_BELOW or cell.unit[:1] in "TPs"  # these may have no larger prefix to go to
    summed = cell.name.endswith((".sum", ".max", ".min")) and not base.endswith(("second", "hz"))
    counted = cell.name.startswith(("launch__", "device__attribute_")) and base in _WHOLE
    return value >= _SCALED_BELOW or not (summed or counted)  # ncu prints whole numbers without decimals
