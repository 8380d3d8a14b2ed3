# SPDX-License-Identifier: Apache-2.0
"""Tables of a comparison: DataFrames in, HTML or text out."""

from typing import Any

import pandas as pd

from moe_lab.analysis.compare.judge import ONLY, Comparison
from moe_lab.analysis.compare.measured import SIZE, WHO
from moe_lab.pages.show.notes import Note, or_note
from moe_lab.pages.show.tables import Table, guessed, heads

VALUES = (
    *("measure", "value_a", "value_b", "time_a_us", "time_b_us", "ratio", "ratio_low", "ratio_high", "p_holm"),
    *("samples_a", "samples_b", "verdict", "why"),
)


def differences(found: Comparison) -> Table | Note:
    """Return what differs besides the times: GPU, problem, clocks, versions."""
    same = f"{both(found)} Both state the same GPU, problem, clocks and versions."
    return or_note(found.differences, Table(found.differences, heads("about fact a b"), both(found)), same)


def both(found: Comparison) -> str:
    """Return which run is A and which is B, as a sentence."""
    return f"A is {found.names[0]}, B is {found.names[1]}."


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows by the time at stake, the most first; of compiled code by the ratio."""
    by = table["change_us"] if "change_us" in table else table["ratio"].fillna(float("inf"))
    return table.loc[by.abs().sort_values(ascending=False, na_position="first", kind="stable").index]


def varying(found: Comparison) -> list[str]:
    """Return the keys that have several values: the others are the same in every row."""
    several = [key for key in found.keys if found.table[key].nunique() > 1]
    return several or found.keys[-1:]


def name_of(row: dict[Any, Any], found: Comparison) -> str:
    """Return a row's name: ``M = 16, auto, w13``."""
    keys = [(key, row[key]) for key in varying(found) if not pd.isna(row[key]) and row[key] != ""]
    sizes = ("M", "E", "topk", "tokens", "block_m", "launch", "rank", "seed")
    return ", ".join(f"{key} = {value}" if key in sizes else str(value) for key, value in keys)


def rows(found: Comparison, everything: bool = True) -> pd.DataFrame:
    """Return the rows that both runs have: keys that vary, times or values, change, interval, verdict and why.

    Args:
        found: the comparison.
        everything: whether to include rows that are even.

    Returns:
        Columns that are all empty are left out; ``interval`` is a text.
    """
    table = found.table[~found.table["verdict"].isin([*ONLY, *([] if everything else ["even"])])]
    table = table.assign(change_pct=100 * (table["ratio"] - 1))
    if "ratio_low" in table:
        ends = zip(100 * (table["ratio_low"] - 1), 100 * (table["ratio_high"] - 1), strict=True)
        table["interval"] = [None if pd.isna(low) else f"{low:+.1f} to {high:+.1f}" for low, high in ends]
    order = ("measure", "value_a", "value_b", "time_a_us", "time_b_us", "change_pct", "interval", "verdict", "why")
    return table[[*varying(found), *(c for c in order if c in table and table[c].replace("", None).notna().any())]]


def same(found: Comparison) -> str:
    """Return what all rows have in common as a sentence; empty if nothing."""
    alike = [f"{key} {found.table[key].iloc[0]}" for key in found.keys if found.table[key].nunique() == 1]
    return f"All rows: {', '.join(alike)}." if alike else ""


def changes(found: Comparison, most: int = 30) -> pd.DataFrame:
    """Return the rows with a ratio in which most time is at stake, for ``plots.changes``, in the order of the table.

    Returns:
        Columns name, change_pct, low_pct, high_pct, verdict and said (the two times); no rows for compiled code.
    """
    columns = ["name", "change_pct", "low_pct", "high_pct", "verdict", "said"]
    if "measure" in found.table:
        return pd.DataFrame(columns=columns)
    known = found.table[found.table["ratio"].notna()]
    own = known.loc[ranked(known).head(most).index.sort_values()]
    times = zip(own["time_a_us"], own["time_b_us"], strict=True)
    return own.assign(
        name=[name_of(row, found) for row in own.to_dict("records")],
        change_pct=100 * (own["ratio"] - 1),
        low_pct=100 * (own["ratio_low"] - 1),
        high_pct=100 * (own["ratio_high"] - 1),
        said=[f"A {a:,.1f} µs, B {b:,.1f} µs" for a, b in times],
    )[columns]


def over_sizes(found: Comparison) -> list[tuple[str, str, pd.DataFrame]]:
    """Return what ``plots.ratios`` draws of a benchmark: (title, size, rows) for each routing and mode.

    Empty where rows are not of a benchmark, or have fewer than three sizes.
    """
    size, who = SIZE.get(found.kind, ""), WHO.get(found.kind, "")
    if {size, who} - set(found.keys) or found.table[size].nunique() < 3 or "stage" in found.keys:
        return []
    others = [key for key in varying(found) if key not in (size, who)]
    known = found.table[found.table["ratio"].notna()].assign(series=lambda table: table[who])
    parts = known.groupby(others, sort=False) if others else [((), known)]
    return [
        (
            ", ".join(f"{key} {value}" for key, value in zip(others, at, strict=True)),
            size,
            part[[size, "series", "ratio"]],
        )
        for at, part in parts
        if part[size].nunique() > 2
    ]


def compared(found: Comparison) -> Table | Note:
    """Return the rows that both runs have."""
    shown = rows(found)
    return or_note(shown, Table(shown, guessed(shown), same(found)), "The runs have no row in common.")


def groups(found: Comparison) -> Table | Note:
    """Return the rows put together by M or backend."""
    none = "The rows are not put together; set `by` to M or backend."
    return or_note(found.groups, Table(found.groups, guessed(found.groups)), none)


def only(found: Comparison) -> Table | Note:
    """Return the rows that only one run has."""
    rows = found.table[found.table["verdict"].isin(ONLY)]
    times = [c for c in ("time_a_us", "time_b_us") if c in rows]
    shown = rows[[*found.keys, *times, "verdict"]]
    return or_note(shown, Table(shown, guessed(shown)), "Every row is in both runs.")
