# SPDX-License-Identifier: Apache-2.0
"""What limits each expert GEMM, as sentences: the headline, and what helps against each limiter."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from moe_lab.analysis import rules
from moe_lab.analysis.phases import rows_of
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, listed, number, percent, time
from moe_lab.spec import schema

AMD_LIMITER = "no AMD counter here is a share of the peak of compute or memory; notebook 05 shows what kernels wait for"
EVIDENCE = "series tile M stage limiter dram_pct on_chip_pct compute_pct"
UNITS = ("compute_pct", "on_chip_pct", "dram_pct")  # as ``limits.shares`` names them
_TILE = r" \d+x\d+x\d+"


def who(row: Any) -> str:
    """Name a backend with its tile: ``fused_moe (64x64x32)``."""
    kind = ["persistent"] if not pd.isna(row.persistent) and row.persistent else []
    kind += [] if pd.isna(row.tile) else [str(row.tile)]
    return f"{row.series} ({' '.join(kind) or 'tiles not known'})"


def which(row: Any) -> str:
    """Name a GEMM: ``w13 of fused_moe at M = 16``; a kernel of a report without ranges has only its name."""
    return str(row.series) if pd.isna(row.stage) else f"{row.stage} of {row.series} at M = {row.M:,}"


def gb(size: float) -> str:
    """Return bytes as gigabytes."""
    return f"{number(size / 1e9)}{NBSP}GB"


def headline(limits: pd.DataFrame, stage: str, gpu: str, amd: bool = False) -> Finding:
    """Say what limits one stage (or all, if it has no row) at the largest and the smallest M of a GPU."""
    known = limits[limits["limiter"].notna()]
    # A sweep of tiles launches bad ones, too, on purpose: its series are no headline unless there are no others.
    swept = known["series"].str.contains(_TILE)
    known = known if swept.all() else known[~swept]
    rows = known[known["part"] == stage] if (known["part"] == stage).any() else known
    if rows.empty:
        how = AMD_LIMITER if amd else "measure them with --set full"
        return Finding("", f"On {gpu}, too little was counted to say what limits the expert GEMMs; {how}.")
    sizes = sorted(set(rows["M"]), reverse=True)
    parts = [_at(rows[rows["M"] == M]) for M in dict.fromkeys((sizes[0], sizes[-1]))]
    said = f"On {gpu}, {rows['part'].iloc[0]} {'. And '.join(parts)} (of each unit's roof or peak)."
    ends = rows[rows["M"].isin([sizes[0], sizes[-1]])]
    brief = "; ".join(_most(rows[rows["M"] == M]) for M in dict.fromkeys((sizes[-1], sizes[0])))
    return Finding("", said, findings.rows(ends, EVIDENCE), short=f"On {gpu}, {rows['part'].iloc[0]}: {brief}.")


def _most(rows: pd.DataFrame) -> str:
    """Say which limiter most kernels of one M have: ``at M = 16 DRAM limits all 6 kernels``."""
    counts = rows["limiter"].value_counts()
    of = "all" if len(counts) == 1 else f"{counts.iloc[0]} of"
    whom = "the kernel" if len(rows) == 1 else f"{of} {len(rows)} kernels"
    return f"at M = {rows['M'].iloc[0]:,} {counts.index[0]} limits {whom}"


def _at(rows: pd.DataFrame) -> str:
    groups = [(name, list(group)) for name, group in groupby(_by_limiter(rows), key=lambda r: r.limiter)]
    said = []
    # More than three kernels with their shares make no readable sentence; the table has them.
    if len(groups) == 1 and len(rows) > 3:
        name, group = groups[0]
        return f"at M = {rows['M'].iloc[0]:,} all {len(rows)} are {_limited(group, name)} ({name} {_shares(group)})"
    for name, group in groups:
        # The evidence goes into the brackets that `who` has closed.
        whose = listed([f"{who(r)[:-1]}; {_evidence(r)})" for r in group])
        verb = "is" if len(group) == 1 else "are both" if len(group) == 2 else "are all"
        said.append(f"{whose} {verb} {_limited(group, name)}")
    return f"at M = {rows['M'].iloc[0]:,} {'; '.join(said)}"


def _by_limiter(rows: pd.DataFrame) -> list[Any]:
    order = [rule.name for rule in rules.RULES]  # also the order of sentences; groupby needs neighbours
    return sorted(rows_of(rows), key=lambda r: order.index(r.limiter))


def _rule(name: str) -> rules.Rule:
    return next(rule for rule in rules.RULES if rule.name == name)  # looked up late: a rule may be added


def _limited(rows: Sequence[Any], name: str) -> str:
    where = " and ".join(dict.fromkeys(str(r.on_chip) for r in rows))
    compute = listed([percent(r.compute_pct) for r in rows])
    return _rule(name).says.format(where=where, compute=compute)


def _evidence(row: Any) -> str:
    """Return the share of the kernel's limiter and, unless that says enough, of the other units."""
    rule = _rule(row.limiter)
    shares = {rule.share: row.limiter_pct} if rule.share else {}
    if not rule.alone:
        shares = {**shares, **{c: getattr(row, c) for c in UNITS if c != rule.share}}
    names = {column: schema.shown()[column].label if column in UNITS else rule.name for column in shares}
    return ", ".join(f"{names[c]} {percent(v)}" for c, v in shares.items() if not pd.isna(v))


def _shares(rows: Sequence[Any]) -> str:
    """Return the lowest and highest share of the kernels' limiter; of compute and memory if the limiter has none."""
    none = {"compute ": "compute_pct", "memory ": "memory_pct"}
    said = []
    for unit, column in (none if pd.isna(rows[0].limiter_pct) else {"": "limiter_pct"}).items():
        ends = sorted(float(getattr(r, column)) for r in rows if not pd.isna(getattr(r, column)))
        said.append(unit + " to ".join(dict.fromkeys(percent(e) for e in (ends[0], ends[-1]))))
    return ", ".join(said)


def helps(limits: pd.DataFrame, costs: pd.DataFrame) -> list[Finding]:
    """Say for each limiter what helps against it, and in which kernel the most time lies above the highest roof.

    ``limits`` and ``costs`` (``analysis.roofline.ceilings``) are of one GPU.
    """
    keys = ["series", "M", "stage"]
    both = limits[[*keys, "limiter"]].merge(costs, on=keys, how="left").astype({"lost_us": float})
    out = []
    for rule in rules.RULES:
        rows = both[both["limiter"] == rule.name]
        worst: Any = next(rows_of(rows.dropna(subset="lost_us").nlargest(1, "lost_us")), None)
        if worst is not None and worst.lost_us > 0:
            lost = time(worst.lost_us / 1e3)
            said = f"{rule.helps}; most time is at stake in {which(worst)}, {lost} above its highest roof."
            change = f"{rule.helps[:1].upper()}{rule.helps[1:]}: against {rule.name}, as in {which(worst)}."
            short = f"{which(worst)} takes {lost} more than its highest roof asks for, limited by {rule.name}."
            told = findings.rows(rows, f"{EVIDENCE} duration_us floor_us lost_us")
            about = f"Helps against {rule.name}"
            out.append(Finding(about, said, told, stake_us=float(worst.lost_us), short=short, change=change))
        elif len(rows):
            out.append(Finding(f"Helps against {rule.name}", f"{rule.helps}."))
    return out
