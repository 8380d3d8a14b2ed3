"""What the columns of a benchmark's rows may hold: the types that the analysis reads, checked where rows enter."""

from typing import Any

_TEXTS = "algorithm backend bound_by error format mode model origin part phase routing stage throttled version w13 w2"
_WHOLE = "E K M N topk tokens block_m launches repetitions round experts_hit rows_most rows_padded rows_useful"
_NUMBERS = "padding_waste_pct useful_gflop power_w temperature_c seconds workspace_bytes minimum_bytes"
_ENDINGS = ("_us", "_per_s", "_max_rel", "_rms_rel", "_mhz")
_KINDS = {
    **dict.fromkeys([*_TEXTS.split(), "dtype"], "text"),
    **dict.fromkeys(_WHOLE.split(), "whole number from 0 up"),
    **dict.fromkeys(_NUMBERS.split(), "number"),
    **dict.fromkeys(("correct", "deterministic"), "true or false"),
    **dict.fromkeys(("kernels_us", "kernels_warm_us"), "list of names and numbers"),
}


def check(column: str, value: Any, number: int) -> None:
    """Raise ValueError where a column that the analysis reads holds another type, or a time below zero.

    Args:
        column: its name; others may hold anything.
        value: None = not known.
        number: of the row, for the sentence.
    """
    kind = _KINDS.get(column) or ("number from 0 up" if column.endswith("_us") else None)
    kind = kind or ("number" if column.endswith(_ENDINGS) or column.startswith("pct_of_") else None)
    if kind is not None and value is not None and not _is(value, kind):
        raise ValueError(f"row {number} has no {kind} in '{column}'")


def _is(value: Any, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "true or false":
        return isinstance(value, bool)
    if kind == "list of names and numbers":
        return is_pairs(value)
    wanted: Any = int if kind.startswith("whole") else int | float
    return isinstance(value, wanted) and not isinstance(value, bool) and (value >= 0 or not kind.endswith("up"))


def is_pairs(value: Any) -> bool:
    """Return whether a value is a list of (text, number)."""
    return isinstance(value, list | tuple) and all(
        isinstance(item, list | tuple)
        and len(item) == 2
        and isinstance(item[0], str)
        and isinstance(item[1], int | float)
        for item in value
    )
