"""What hardware counters say of the expert GEMMs, as sentences rendered from the tables of ``moe_lab.analysis``."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from moe_lab import published
from moe_lab.analysis.gemms import Captures
from moe_lab.analysis.phases import rows_of
from moe_lab.findings import NBSP, number, percent

WHAT_HELPS = {
    "on-chip memory": "larger tiles, which read each row and each weight less often",
    "DRAM": "fewer bytes only: fewer experts hit, or narrower weights",
    "tensor pipe": "less padding and a shorter start and end of the pipeline",
    "latency": "more bytes in flight (stages, blocks on an SM) or fewer waits",
    "too few blocks": "smaller tiles, or a split of the depth, that give every SM work",
    "nothing alone": "overlapping the units that share the time",
}
EXTRAS = {
    "tail_pct": ("Tail wave", "leaves {} of the SMs' time idle in its last wave; whole waves of blocks would not"),
    "padding_pct": ("Padding", "computes {} more rows than are useful; fewer rows a tile save them"),
    "empty_pct": ("Empty blocks", "launches {} of its blocks for nothing: the grid is sized for the most padding"),
}
_KEYS = ["series", "M", "stage"]
_TILE = r" \d+x\d+x\d+"


def all_of(
    captures: Captures,
    limits: pd.DataFrame,
    moved: pd.DataFrame,
    others: pd.DataFrame,
    costs: pd.DataFrame,
    switched: pd.DataFrame,
    stage: str = "w13",
) -> list[str]:
    """Say what limits each GEMM and what would help; the first sentence is the headline.

    Args:
        captures: what was loaded; its missing runs and notes are said last.
        limits: ``limits.limits``.
        moved: ``traffic.traffic``.
        others: ``traffic.other_tiles``.
        costs: ``roofline.ceilings``.
        switched: ``tiles.switches``.
        stage: of the headline.
    """
    if captures.table.empty:
        return [*captures.missing, *captures.notes]
    gpu = str(captures.gpu.get("name") or "an unknown GPU").removeprefix("NVIDIA ")
    return [
        headline(limits, stage, gpu),
        *every_m(limits),
        on_chip(limits, moved, others),
        dram(limits, moved),
        ceilings(costs),
        *extras(limits, switched),
        waits(limits, stage),
        launch_gaps(captures.gaps),
        against_published(limits),
        *(f"Caution: {note}" for note in (*captures.notes, *captures.missing)),
    ]


def headline(limits: pd.DataFrame, stage: str, gpu: str) -> str:
    """Say what limits one stage at the largest and at the smallest M."""
    known = limits[limits["limiter"].notna()]
    swept = known["series"].str.contains(_TILE)  # a sweep's single tiles are no headline
    known = known if swept.all() else known[~swept]
    rows = known[known["part"] == stage] if (known["part"] == stage).any() else known
    if rows.empty:
        return f"On {gpu}, too little was counted to say what limits the expert GEMMs; measure them with --set full."
    sizes = sorted(set(rows["M"]), reverse=True)
    parts = [_at(rows[rows["M"] == M]) for M in dict.fromkeys((sizes[0], sizes[-1]))]
    return f"On {gpu}, {rows['part'].iloc[0]} {'. And '.join(parts)} (shares of each unit's peak)."


def _at(rows: pd.DataFrame) -> str:
    groups = [(name, list(group)) for name, group in groupby(_by_limiter(rows), key=lambda r: r.limiter)]
    said = []
    for name, group in groups:
        who = _listed([f"{_who(r)[:-1]}; {_evidence(r)})" for r in group])
        verb = "is" if len(group) == 1 else "are both" if len(group) == 2 else f"are all {len(group)}"
        said.append(f"{who} {verb} {_limited(group, name)}")
    return f"at M = {rows['M'].iloc[0]:,} {'; '.join(said)}"


def _by_limiter(rows: pd.DataFrame) -> list[Any]:
    order = ("on-chip memory", "too few blocks", "latency", "nothing alone", "DRAM", "tensor pipe")
    return sorted(rows_of(rows), key=lambda r: order.index(r.limiter))


def _who(row: Any) -> str:
    kind = ["persistent"] if not pd.isna(row.persistent) and row.persistent else []
    kind += [] if pd.isna(row.tile) else [str(row.tile)]
    return f"{row.series} ({' '.join(kind) or 'tiles not known'})"


def _limited(rows: Sequence[Any], name: str) -> str:
    where = " and ".join(dict.fromkeys(str(r.on_chip) for r in rows))
    compute = _listed([percent(r.sm_pct) for r in rows])
    return {
        "DRAM": "bound by DRAM, near the roof",
        "on-chip memory": f"limited by on-chip memory traffic ({where}) at {compute} of the compute roof",
        "tensor pipe": "limited by compute, not by memory",
        "latency": "limited by latency",
        "too few blocks": "limited by too few blocks",
        "nothing alone": "limited by no unit alone",
    }[name]


def _evidence(row: Any) -> str:
    if row.limiter == "DRAM":
        return f"DRAM {percent(row.dram_pct)}"
    compute, memory = {"compute": row.sm_pct}, {"memory": row.memory_pct}
    shares = memory | {"DRAM": row.dram_pct} if row.limiter == "on-chip memory" else compute | memory
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items() if not pd.isna(share))


def every_m(limits: pd.DataFrame) -> list[str]:
    """Say what limits every kernel, one sentence an M, and what helps against it."""
    out = []
    for M, rows in limits[limits["limiter"].notna()].groupby("M", sort=True):
        parts = []
        for name, group in groupby(_by_limiter(rows), key=lambda r: r.limiter):
            stages: dict[str, list[str]] = {}
            for r in group:
                stages.setdefault(r.series, []).append(r.stage)
            who = _listed([f"{series} ({', '.join(own)})" for series, own in stages.items()])
            parts.append(f"{name} for {who}")
        out.append(f"Limiter at M = {M:,}: {'; '.join(parts)}.")
    helps = [f"against {name} {text}" for name, text in WHAT_HELPS.items() if (limits["limiter"] == name).any()]
    return [*out, _each("What helps", helps)]


def on_chip(limits: pd.DataFrame, moved: pd.DataFrame, others: pd.DataFrame) -> str:
    """Say how much traffic the kernels limited on the chip make, and which tile would make less."""
    parts = []
    limited = limits[limits["limiter"] == "on-chip memory"]
    for row in rows_of(limited[limited["M"] == limited["M"].max()]):
        own = _same(moved, row)
        if own is None or pd.isna(own.l2_model_bytes) or pd.isna(own.l2_per_minimum):
            continue
        better = others[(others["series"] == row.series) & (others["M"] == row.M) & (others["stage"] == row.stage)]
        best: Any = next(rows_of(better.nlargest(1, "l2_saved_pct")), None)
        counted = str(own.l2_counted_of) == "SMs"
        through, how = (own.l2_counted_bytes, "counted") if counted else (own.l2_model_bytes, "by the model")
        said = f"at M = {row.M:,} {row.stage} of {_who(row)} takes {_gb(through)} through L2 ({how})"
        parts.append(f"{said}, {number(own.l2_per_minimum)} times the fewest bytes{_instead(best)}")
    return _each("On-chip traffic", parts)


def _instead(best: Any) -> str:
    if best is None or best.l2_saved_pct <= 0:
        return ""
    said = f"; {best.candidate} tiles would take {_gb(best.l2_model_bytes)}, {percent(best.l2_saved_pct)} less"
    if pd.isna(best.counted_us):
        return f"{said}, as predicted by the model"
    counted = "" if pd.isna(best.counted_l2_bytes) else f" and {_gb(best.counted_l2_bytes)}"
    return f"{said} by the model; launched in these runs they took {number(best.counted_us)}{NBSP}µs{counted}"


def dram(limits: pd.DataFrame, moved: pd.DataFrame) -> str:
    """Say how far the kernels bound by DRAM are from the fewest bytes."""
    waste = []
    for row in rows_of(limits[limits["limiter"] == "DRAM"]):
        own = _same(moved, row)
        if own is not None and not pd.isna(own.dram_waste):
            waste.append((float(own.dram_waste), f"{row.stage} of {row.series} at M = {row.M:,}"))
    if not waste:
        return ""
    ends = " to ".join(dict.fromkeys(number(w[0]) for w in (min(waste), max(waste))))
    most = f", most in {max(waste)[1]}" if len(waste) > 1 else ""
    return f"DRAM traffic: where DRAM limits, the kernels move {ends} times the fewest bytes{most}."


def ceilings(costs: pd.DataFrame) -> str:
    """Say which kernels are closest to and farthest from the highest of their roofs."""
    known = costs.dropna(subset="pct_of_floor")
    if known.empty:
        return ""
    ends: list[Any] = [*rows_of(known.nlargest(1, "pct_of_floor")), *rows_of(known.nsmallest(1, "pct_of_floor"))]
    names = {"dram": "DRAM", "l2": "L2", "tensor": "tensor"}
    parts = [
        f"{r.stage} of {r.series} at M = {r.M:,} takes {number(r.duration_us)}{NBSP}µs where the {names[r.binding]} "
        f"roof alone asks for {number(r.floor_us)} ({percent(r.pct_of_floor)})"
        for r in ends[: len(known)]
    ]
    return _each("Time against the roofs", [f"closest, {parts[0]}", *(f"farthest, {p}" for p in parts[1:])])


def extras(limits: pd.DataFrame, switched: pd.DataFrame) -> list[str]:
    """Say what a last wave, padding and empty blocks cost, and where the configuration switches."""
    out = []
    for column, (about, text) in EXTRAS.items():
        rows = limits[limits[column].notna()].sort_values(column, ascending=False)
        worst: Any = next(rows_of(rows), None)
        if worst is not None:
            who = f"at M = {worst.M:,} {worst.stage} of {_who(worst)}"
            more = f" (most of {len(rows)} such kernels)" if len(rows) > 1 else ""
            out.append(f"{about}: {who} {text.format(percent(float(getattr(worst, column))))}{more}.")
    rows = switched[switched["stage"].str.startswith("w13")]
    parts = [f"from M = {r.M_before:,} to {r.M:,} {r.series}: {r.before} to {r.after}" for r in rows_of(rows)]
    return [*out, _each("Configuration switches", parts)]


def waits(limits: pd.DataFrame, stage: str) -> str:
    """Say what warps wait for most at the largest M."""
    rows = limits[(limits["part"] == stage) & limits["stalls"].map(bool)]
    parts = [
        f"those of {_who(r)} for {r.stalls[0][0]} ({percent(r.stalls[0][1])} of their time)"
        for r in rows_of(rows[rows["M"] == rows["M"].max()])
    ]
    return _each(f"Warps wait most, in {stage} at M = {rows['M'].max():,}", parts) if parts else ""


def launch_gaps(gaps: pd.DataFrame) -> str:
    """Say where the GPU idles between kernels."""
    parts = [f"at M = {r.M} {percent(r.gap_pct)} of {number(r.span_us)}{NBSP}µs in {r.series}" for r in rows_of(gaps)]
    return _each("Launch gaps, which a CUDA graph closes", parts)


def against_published(limits: pd.DataFrame) -> str:
    """Say what was published for an L40, where an M of it was measured here too."""
    theirs, source = published.w13_counters(), published.L40_COUNTERS
    parts = [
        f"{r.backend} at M = {r.M:,} compute {percent(r.sm_throughput_pct)}, memory {percent(r.mem_throughput_pct)}"
        for r in rows_of(theirs[theirs["M"].isin(limits["M"])].tail(2))
    ]
    return f"Published counters: on {source.setup}, {_listed(parts)}; it is {source.caveat}." if parts else ""


def _same(table: pd.DataFrame, row: Any) -> Any:
    return next(rows_of(table[(table[_KEYS] == [row.series, row.M, row.stage]).all(axis=1)]), None)


def _gb(size: float) -> str:
    return f"{number(size / 1e9)}{NBSP}GB"


def _each(about: str, parts: Iterable[str]) -> str:
    said = [text for text in parts if text]
    return f"{about}: {'; '.join(said)}." if said else ""


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
