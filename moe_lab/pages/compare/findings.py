# SPDX-License-Identifier: Apache-2.0
"""What differs between two runs, as sentences rendered from a comparison."""

import math
from dataclasses import replace
from typing import Any

import pandas as pd

from moe_lab.analysis.compare.judge import BETTER, ONLY, WORSE, Comparison
from moe_lab.analysis.compare.traced import TOTAL
from moe_lab.analysis.phases import rows_of
from moe_lab.pages.compare import tables
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, caution, listed, percent, time

NAMED = 3  # rows that a sentence names
# Measures of compiled code -> what is said where they are worse.
GAINED = {"compiles": "No longer compiles", "spills": "More spills", "stack_bytes": "More local memory"}
GAINED |= {"static_registers": "More registers", "static_smem_bytes": "More shared memory"}
GAINED |= {"static_instructions": "More instructions", "loop_instructions": "More instructions in the inner loop"}
GAINED |= {"static_occupancy_pct": "Less occupancy"}


def all_of(found: Comparison) -> list[Finding | None]:
    """Say what is slower, by how much and with what; the first sentence is the headline."""
    return [
        headline(found),
        unlike(found),
        *(_most(found, verdicts, about) for verdicts, about in ((WORSE, "Slower"), (BETTER, "Quicker"))),
        *gained(found),
        changed(found),
        *(only(found, there) for there in ONLY),
        _unclear(found),
    ]


def headline(found: Comparison) -> Finding:
    """Say in how many rows B is worse or better than A, and how the whole changed if there is one row of it."""
    worse, better = (int(found.table["verdict"].isin(kinds).sum()) for kinds in (WORSE, BETTER))
    shown = findings.rows(found.table, " ".join([*found.keys, *tables.VALUES]))
    if "measure" in found.table:
        said = f"B is worse than A in {worse} measures of {found.compared} launches and better in {better}."
        return Finding("", said, shown)
    beyond = f"beyond {found.threshold_pct:g}{NBSP}%"
    said = f"slower than A in {worse} of {found.compared} rows and quicker in {better}, {beyond}."
    whole = found.table[found.table["stage"] == TOTAL] if "stage" in found.table else found.table.head(0)
    if len(whole) != 1:
        return Finding("", f"B is {said}", shown)
    row: Any = next(rows_of(whole))
    return Finding(
        "", f"B takes {row.ratio:.2f} times as long as A ({_us(row.time_a_us, row.time_b_us)}), {said}", shown
    )


def unlike(found: Comparison) -> Finding | None:
    """Say which of GPU, problem, clocks and versions differ; None if none does."""
    if found.differences.empty:
        return None
    parts = [f"{row.fact} {_or_none(row.a)} → {_or_none(row.b)}" for row in rows_of(found.differences)]
    more = ", so a change of time need not be one of the code" if found.unlike else ""
    first = f"Caution: the runs differ in {listed(list(dict.fromkeys(found.differences['about'])))}{more}."
    # In front of every time.
    return replace(caution(f"the runs differ in {'; '.join(parts)}{more}."), short=first, stake_us=math.inf)


def _or_none(value: Any) -> str:
    return "not stated" if pd.isna(value) else str(value)


def _most(found: Comparison, verdicts: tuple[str, ...], about: str) -> Finding | None:
    """Name the rows of some verdicts in which most time is at stake, with what changed in them."""
    rows = found.table[found.table["verdict"].isin(verdicts)]
    rows = rows[rows["stage"] != TOTAL] if "stage" in rows else rows
    if rows.empty or (verdicts == WORSE and "measure" in rows):  # of compiled code ``gained`` says more
        return None
    ranked = tables.ranked(rows)
    named = [f"{tables.name_of(row, found)}: {_change(row)}" for row in ranked.head(NAMED).to_dict("records")]
    rest = f"; and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    first = ranked.iloc[0].to_dict()
    stake = first.get("change_us", pd.NA)  # NA of a failure, none of compiled code
    more = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
    about = "Better" if "measure" in rows else about
    return Finding(
        about,
        f"{'; '.join(named)}{rest}.",
        findings.rows(ranked, " ".join([*found.keys, *tables.VALUES])),
        "problem" if verdicts == WORSE else "normal",
        stake_us=0.0 if pd.isna(stake) else max(0.0, float(stake)),  # what is quicker costs nothing
        short=f"{about}: {tables.name_of(first, found)}{_brief(first)}{more}.",
    )


def gained(found: Comparison) -> list[Finding]:
    """Say of compiled code which kernels got worse in what, on which architecture; none of other runs."""
    if "measure" not in found.table:
        return []
    worse = found.table[found.table["verdict"].isin(WORSE)]
    shown = " ".join([*found.keys, *tables.VALUES])
    said = []
    for measure, about in GAINED.items():
        rows = worse[worse["measure"] == measure]
        kernels = rows.groupby(rows["kernel"].fillna("the call"), sort=False)
        parts = [_kernel(str(kernel), own) for kernel, own in kernels]
        if parts:
            more = f", and {len(parts) - 1} more" if len(parts) > 1 else ""
            shorter = f"{about}: {parts[0]}{more}."
            said.append(Finding(about, f"{'; '.join(parts)}.", findings.rows(rows, shown), "problem", short=shorter))
    return said


def _kernel(kernel: str, rows: pd.DataFrame) -> str:
    """Return ``gemm_kernel on sm_90 and gfx942 (3 launches, at most 64 → 72)``."""
    where = f" on {listed(list(dict.fromkeys(rows['arch'])))}" if "arch" in rows else ""
    count = f"{len(rows)} launch{'' if len(rows) == 1 else 'es'}"
    known = rows.dropna(subset=["value_a", "value_b"])
    if known.empty:
        return f"{kernel}{where} ({count})"
    most = known.iloc[int((known["value_b"] - known["value_a"]).abs().astype(float).argmax())]
    return f"{kernel}{where} ({count}, at most {most['value_a']:g} → {most['value_b']:g})"


def _brief(row: dict[Any, Any]) -> str:
    """Return the change without its interval and what changed with it."""
    if "measure" in row:
        return f", {row['measure']}"
    if pd.isna(row["ratio"]):
        return f", {row['verdict']}"
    return f", {row['ratio']:.2f} times as long ({_us(row['time_a_us'], row['time_b_us'])})"


def _change(row: dict[Any, Any]) -> str:
    first = str(row["why"] or "").split("; ")[0]
    why = f" ({first})" if first else ""
    if "measure" in row:
        values = "" if pd.isna(row["value_a"]) else f" {row['value_a']:g} → {row['value_b']:g}"
        return f"{row['measure']}{values}{why}"
    if pd.isna(row["ratio"]):
        return f"{row['verdict']}{why}"
    low, high = row["ratio_low"], row["ratio_high"]
    within = "" if pd.isna(low) else f" [{low:.2f} to {high:.2f}]"
    return f"{row['ratio']:.2f} times{within}, {_us(row['time_a_us'], row['time_b_us'])}{why}"


def _us(a: float, b: float) -> str:
    return f"{time(float(a) / 1e3)} → {time(float(b) / 1e3)}"


def changed(found: Comparison) -> Finding | None:
    """Say in which rows grid or tile changed, whether their time did or not."""
    rows = found.table[found.table["why"].fillna("").str.contains(r"\b(?:grid|tile|BLOCK_\w+) ")]
    if rows.empty:
        return None
    named = [tables.name_of(row, found) for row in rows.head(NAMED).to_dict("records")]
    rest = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    shown = findings.rows(rows, " ".join([*found.keys, "verdict", "why"]))
    return Finding("Grid or tile changed", f"in {len(rows)} rows: {'; '.join(named)}{rest}.", shown)


def only(found: Comparison, there: str) -> Finding | None:
    """Say what appeared in B or vanished from A, by the first key whose values tell."""
    rows = found.table[found.table["verdict"] == there]
    if rows.empty:
        return None
    other = found.table[found.table["verdict"] != there]
    new = {key: [v for v in dict.fromkeys(rows[key]) if v not in set(other[key])] for key in found.keys}
    words = [f"{key} {listed([str(v) for v in values[:6]])}" for key, values in new.items() if values]
    named = words[0] if words else "; ".join(tables.name_of(row, found) for row in rows.head(NAMED).to_dict("records"))
    about = {ONLY[0]: "Vanished: only in A", ONLY[1]: "Appeared: only in B"}[there]
    count = f"{len(rows)} row{'' if len(rows) == 1 else 's'}"
    return Finding(about, f"{count}, among them {named}.", findings.rows(rows, " ".join(found.keys)))


def _unclear(found: Comparison) -> Finding | None:
    rows = found.table[found.table["verdict"] == "unclear"]
    if rows.empty:
        return None
    share = percent(100 * len(rows) / max(found.compared, 1))
    said = f"{len(rows)} rows ({share}) are beyond the threshold but may be chance; measure them with more repetitions."
    return Finding("Unclear", said, findings.rows(rows, " ".join([*found.keys, *tables.VALUES])))
