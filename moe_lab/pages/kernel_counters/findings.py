# SPDX-License-Identifier: Apache-2.0
"""What hardware counters say about the expert GEMMs, as sentences rendered from the tables of ``moe_lab.analysis``."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from moe_lab.analysis import rules
from moe_lab.analysis.captures import Captures
from moe_lab.analysis.gpus import Tables
from moe_lab.analysis.phases import rows_of
from moe_lab.pages.kernel_counters.limiters import gb, headline, helps, which, who
from moe_lab.pages.kernel_counters.roofs import ceilings, over
from moe_lab.pages.kernel_counters.tables import NAMES
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, caution, each, listed, number, percent
from moe_lab.spec import published

QUANTITIES = {
    "duration_us": "time",
    "sm_throughput_pct": "compute throughput",
    "mem_throughput_pct": "memory throughput",
    "l2_throughput_pct": "L2 throughput",
    "dram_throughput_pct": "DRAM throughput",
    "tensor_pipe_pct": "tensor pipe",
    "dram_read_bytes": "bytes read from DRAM",
    "l2_sm_bytes": "bytes through L2",
    "l2_hit_pct": "L2 hits",
}
WRITES_STAY = 0.995  # times the fewest bytes; anything below no longer reads as 1.00
_KEYS = ["series", "M", "stage"]


def all_of(captures: Captures, parts: Sequence[Tables], stage: str = "w13") -> list[Finding | None]:
    """Say what limits each GEMM and what would help, GPU by GPU; the first sentence, on one stage, is the headline.

    ``parts`` are ``gpus.each`` of the captures; if there are several GPUs, every sentence names its own.
    """
    if captures.table.empty:
        return [Finding("", said) for said in (*captures.missing, *captures.notes)]
    # The first sentence goes on the card in the index: it must not be of a GPU about which nothing is known.
    known_first = sorted(parts, key=lambda one: bool(one.limits["limiter"].isna().all()))
    return [
        *(headline(one.limits, stage, one.gpu, one.amd) for one in known_first),
        *(said for one in parts for said in _named(_of_gpu(captures, one, stage), one.gpu, len(parts) > 1)),
        against_published(pd.concat([one.limits for one in parts])),
        *(not_known(one) for one in parts),
        *(caution(note) for note in (*captures.notes, *captures.missing)),
    ]


def _of_gpu(captures: Captures, one: Tables, stage: str) -> list[Finding | None]:
    gaps = captures.gaps
    return [
        *helps(one.limits, one.costs),
        on_chip(one.limits, one.moved, one.others),
        dram(one.limits, one.moved),
        ceilings(one.costs),
        *over(one.costs, one.roofs),
        streaming(one.gemms, one.limits),
        *extras(one.limits, one.switched),
        waits(one.limits, stage),
        launch_gaps(gaps[gaps["gpu"] == one.gpu] if "gpu" in gaps else gaps),
    ]


def _named(found: Iterable[Finding | None], gpu: str, several: bool) -> list[Finding]:
    """Return the findings, with the GPU in their subject if there are several."""
    if not several:
        return [f for f in found if f]
    short = ((f, f.short and f"On {gpu}: {f.short}", f.change and f"On {gpu}: {f.change}") for f in found if f)
    return [replace(f, about=f"{f.about} on {gpu}", short=said, change=change) for f, said, change in short]


def on_chip(limits: pd.DataFrame, moved: pd.DataFrame, others: pd.DataFrame) -> Finding | None:
    """Say how much traffic the kernels limited by on-chip memory make, and which tile would make less."""
    parts, told = [], []
    limited = limits[limits["limiter"] == "on-chip memory"]
    for row in rows_of(limited[limited["M"] == limited["M"].max()]):
        same = (moved[_KEYS] == [row.series, row.M, row.stage]).all(axis=1)
        own: Any = next(rows_of(moved[same]), None)
        if own is None or pd.isna(own.l2_model_bytes) or pd.isna(own.l2_per_minimum):
            continue
        better = others[(others["series"] == row.series) & (others["M"] == row.M) & (others["stage"] == row.stage)]
        best: Any = next(rows_of(better.nlargest(1, "l2_saved_pct")), None)
        counted = str(own.l2_counted_of) == "SMs"
        through, how = (own.l2_counted_bytes, "counted") if counted else (own.l2_model_bytes, "by the model")
        said = f"at M = {row.M:,} {row.stage} of {who(row)} takes {gb(through)} through L2 ({how})"
        parts.append(f"{said}, {number(own.l2_per_minimum)} times the fewest bytes{_instead(best)}")
        told.append(own)
    return each("On-chip traffic", parts, findings.rows(told, "series tile M stage l2_per_minimum l2_counted_of"))


def _instead(best: Any) -> str:
    if best is None or best.l2_saved_pct <= 0:
        return ""
    said = f"; {best.candidate} tiles would take {gb(best.l2_model_bytes)}, {percent(best.l2_saved_pct)} less"
    if pd.isna(best.counted_us):
        return f"{said}, as predicted by the model"
    counted = "" if pd.isna(best.counted_l2_bytes) else f" and {gb(best.counted_l2_bytes)}"
    return f"{said} by the model; launched in these runs they took {number(best.counted_us)}{NBSP}µs{counted}"


def dram(limits: pd.DataFrame, moved: pd.DataFrame) -> Finding | None:
    """Say how far the kernels bound by DRAM are from the fewest bytes."""
    keys = limits.loc[limits["limiter"] == "DRAM", _KEYS]
    rows = keys.merge(moved, on=_KEYS).dropna(subset="dram_waste").astype({"dram_waste": float})
    if rows.empty:
        return None
    least, most = rows["dram_waste"].min(), rows["dram_waste"].max()
    ends = " to ".join(dict.fromkeys(number(w) for w in (least, most)))
    worst = f", most in {which(next(rows_of(rows.nlargest(1, 'dram_waste'))))}" if len(rows) > 1 else ""
    less = "; below 1, what they wrote last stays in L2" if least < WRITES_STAY else ""
    said = f"where DRAM limits, the kernels move {ends} times the fewest bytes{worst}{less}."
    return Finding("DRAM traffic", said, findings.rows(rows, "series tile M stage dram_waste"))


def streaming(gemms: pd.DataFrame, limits: pd.DataFrame) -> Finding | None:
    """Say why ncu's L2 throughput is not a share of what L2 can serve: it is high even if little passes to the SMs."""
    known = gemms.assign(found=limits["limiter"].to_numpy()).dropna(subset=["l2_throughput_pct", "l2_sm_bytes"])
    known = known[(known["duration_us"] > 0).fillna(False)]
    known["rate"] = known["l2_sm_bytes"].astype(float) / known["duration_us"].astype(float) / 1e6
    streams, most = known[known["found"] == "DRAM"].nlargest(1, "l2_throughput_pct"), known.nlargest(1, "rate")
    # If the rates are close, the two kernels do not show that the percentage is not a share of L2.
    if streams.empty or float(most["rate"].iloc[0]) < 1.2 * float(streams["rate"].iloc[0]):
        return None
    one, other = next(rows_of(streams)), next(rows_of(most))
    return Finding(
        "L2 throughput of ncu, which names no limiter here",
        f"{percent(one.l2_throughput_pct)} while {which(one)} gets "
        f"{number(one.rate)}{NBSP}TB/s from L2, {percent(other.l2_throughput_pct)} while {which(other)} gets "
        f"{number(other.rate)}; it counts what DRAM fills too.",
        findings.rows([one, other], "series tile M stage l2_throughput_pct duration_us"),
    )


def extras(limits: pd.DataFrame, switched: pd.DataFrame) -> list[Finding | None]:
    """Say what the last wave, padding and empty blocks cost, and where the configuration changes."""
    out: list[Finding | None] = []
    for extra in rules.EXTRAS:
        rows = limits[limits[extra.column].notna()].sort_values(extra.column, ascending=False)
        worst: Any = next(rows_of(rows), None)
        if worst is not None:
            whose = f"at M = {worst.M:,} {worst.stage} of {who(worst)}"
            more = f" (most of {len(rows)} such kernels)" if len(rows) > 1 else ""
            cost = percent(float(getattr(worst, extra.column)))
            shown = findings.rows(rows, f"series tile M stage limiter {extra.column}")
            out.append(Finding(extra.about, f"{whose} {extra.says.format(cost)}{more}.", shown, "problem"))
    rows = switched[switched["stage"].str.startswith("w13")]
    parts = []
    for series, own in rows.groupby("series", sort=False):
        later = ", ".join(f"at M = {r.M:,} {r.after}" for r in rows_of(own))
        parts.append(f"{series} {own['before'].iloc[0]}, {later}")
    return [*out, each("Configuration switches", parts, findings.rows(rows, "series stage M_before M before after"))]


def waits(limits: pd.DataFrame, stage: str) -> Finding | None:
    """Say what warps wait for most at the largest M."""
    rows = limits[(limits["part"] == stage) & limits["stalls"].map(bool)]
    rows = rows[rows["M"] == rows["M"].max()]
    parts = [f"those of {who(r)} for {r.stalls[0][0]} ({percent(r.stalls[0][1])} of their time)" for r in rows_of(rows)]
    told = [
        {"series": r.series, "M": r.M, "reason": reason, "pct": pct} for r in rows_of(rows) for reason, pct in r.stalls
    ]
    return each(f"Warps wait most, in {stage} at M = {rows['M'].max():,}", parts, pd.DataFrame(told)) if parts else None


def launch_gaps(gaps: pd.DataFrame) -> Finding | None:
    """Say where the GPU idles between kernels."""
    parts = [f"at M = {r.M:,} {percent(r.gap_pct)} of {number(r.span_us)}{NBSP}µs in {r.series}" for r in rows_of(gaps)]
    worst: Any = next(rows_of(gaps.nlargest(1, "gap_us")), None) if parts else None
    if worst is None:
        return None
    share = f"{percent(worst.gap_pct)} of {number(worst.span_us)}{NBSP}µs"
    where = f"at M = {worst.M:,} {worst.series} leaves the GPU idle for {share}"
    return Finding(
        "Launch gaps, which a CUDA graph closes",
        f"{'; '.join(parts)}.",
        findings.rows(gaps, "series M span_us gap_us gap_pct kernels"),
        "problem",
        stake_us=float(worst.gap_us),
        short=f"{where} between kernels.",
        change=f"Replay the layer from a CUDA graph: {where}.",
    )


def not_known(one: Tables) -> Finding | None:
    """Say which quantities were counted for no kernel of a GPU, and which of its roofs are not known."""
    lost = [name for column, name in QUANTITIES.items() if one.gemms[column].isna().all()]
    roofs = [name for kind, name in NAMES.items() if kind not in set(one.roofs["kind"])]
    parts = [
        f"{listed(lost)} of every kernel" if lost else "",
        f"roof{'s' if len(roofs) > 1 else ''} of {listed(roofs)}, which nothing measured, so none is drawn and no time "
        "is compared with it"
        if roofs
        else "",
    ]
    return each(f"Not known on {one.gpu}", parts, severity="caution")


def against_published(limits: pd.DataFrame) -> Finding | None:
    """Say what was published for an L40, if one of its Ms was measured here, too."""
    theirs, source = published.w13_counters(), published.L40_COUNTERS
    rows = theirs[theirs["M"].isin(limits["M"])].tail(2)
    parts = [
        f"{r.backend} at M = {r.M:,} compute {percent(r.sm_throughput_pct)}, memory {percent(r.mem_throughput_pct)}"
        for r in rows_of(rows)
    ]
    said = f"on {source.setup}, {listed(parts)}; it is {source.caveat}."
    told = findings.rows(rows, "backend M sm_throughput_pct mem_throughput_pct")
    return Finding("Published counters", said, told) if parts else None
