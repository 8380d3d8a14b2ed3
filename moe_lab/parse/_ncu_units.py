"""Numbers as Nsight Compute prints them: scaled units, separators, and what is no number."""

import re
from functools import cache

_PREFIX = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SECONDS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0, "second": 1e9, "msecond": 1e6, "usecond": 1e3, "nsecond": 1.0}
_BASES = {"byte", "hz", "inst", "cycle", "sector", "request", "warp", "thread", "block", "op"}
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:[eE][-+]?\d+)?")
_SHORT_TAIL = re.compile(r"\d,\d{1,2}$|\.\d{3},\d|\.\d{3}\.\d{3}")


@cache
def scale(unit: str) -> tuple[float, str]:
    """Return (factor, base unit): ``Mbyte`` is (1e6, byte), ``us`` (1e3, ns), ``cycle/nsecond`` (1e9, hz).

    Rates are a second; ``byte/block`` and ``register/thread`` stay as they are. ncu counts a Kbyte as 1000 bytes.
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
    """Return the number at the start of a text, None where there is none (``n/a``, ``nan``, ``inf``, empty)."""
    found = _NUMBER.match(text.strip())
    if not found:
        return None
    digits = found.group(0)
    try:
        return float(digits.replace(".", "").replace(",", ".") if decimal_comma else digits.replace(",", ""))
    except ValueError:
        return None


def writes_decimal_comma(text: str) -> bool:
    """Return whether a number can only be one of a locale with decimal commas: ``6,72``, ``13.490.336``."""
    return _SHORT_TAIL.search(text.strip()) is not None and _NUMBER.fullmatch(text.strip()) is not None
