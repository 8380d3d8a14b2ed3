# SPDX-License-Identifier: Apache-2.0
"""What the timeline of a layer says, as sentences rendered from its tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from moe_lab.analysis.floors import MEASURED, floors
from moe_lab.analysis.limits import GAPS_PCT
from moe_lab.analysis.phases import Phase, gpu_name, published_rows, rows_of
from moe_lab.analysis.rules import DRAM_PCT, PADDING_PCT
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, caution, each, listed, number, percent, time
from moe_lab.spec import published, ranges

EXPERTS = ("w13", "w2")
_SUBJECTS = {
    "the expert GEMMs": EXPERTS,
    "the experts": (ranges.EXPERTS,),
    "attention": ("self_attn",),
    "what no stage names": ("other",),
}
LEAST_PCT = 1.0  # of the layer; smaller shares are not in the headline
COVERED_PCT = 90.0  # in named stages; below that the rest may be larger than the stages that are compared
_SHARES = "phase stage time_ms pct_of_layer"
_FLOOR = "phase stage time_ms experts_hit minimum_tb_per_s useful_tflops_per_s roof_tb_per_s roof pct_of_roof"


def all_of(phases: Sequence[Phase]) -> list[Finding | None]:
    """Say where the time of one layer goes, with one run per phase; the first sentence is the headline."""
    floor = floors(phases)
    by_phase = floor.groupby("phase", sort=False) if len(floor) else ()
    shares = findings.rows(pd.concat([p.stages.assign(phase=p.name) for p in phases]), _SHARES)
    cautions = [(p.name, warning) for p in phases for warning in p.launches.meta.get("warnings") or []]
    wrong = len(floor) and (floor["pct_of_roof"] > 100).any()
    return [
        experts_against_attention(phases, shares),
        each("Largest stages", map(_largest, phases), shares),
        launches(phases),
        around(phases, shares),
        each(
            "Speed of the expert GEMMs",
            [_speed(rows) for _, rows in by_phase],
            findings.rows(floor, _FLOOR),
            "problem" if wrong else "normal",
        ),
        padding(floor),
        against_published(phases),
        coverage(phases),
        *(caution(f"in {name}, {_lower(warning)}") for name, warning in cautions),
    ]


def experts_against_attention(phases: Sequence[Phase], shares: pd.DataFrame) -> Finding | None:
    """Say which share of the layer experts, attention and the rest take in each phase; ``shares`` are its rows."""
    parts: list[str] = []
    before: list[str] = []
    for phase in phases:
        every = {subject: _share(phase, *names) for subject, names in _SUBJECTS.items()}
        known = {subject: share for subject, share in every.items() if share is not None and share >= LEAST_PCT}
        if known:
            # If the next phase has the same subjects, only its numbers are told.
            subjects = list(known) if list(known) != before else [""] * len(known)
            subjects[0] += subjects[0] and (" take" if subjects[0].startswith("the ") else " takes")
            pairs = zip(subjects, known.values(), strict=True)
            said = listed([f"{subject} {percent(share)}".strip() for subject, share in pairs])
            parts.append(f"{said} of {time(phase.layer_ms)} in {phase.name}")
            before = list(known)
    gpus = listed(list(dict.fromkeys(gpu_name(p) for p in phases)))
    return Finding("", f"In one {phases[0].part} on {gpus}, {'; '.join(parts)}.", shares) if parts else None


def against_published(phases: Sequence[Phase]) -> Finding | None:
    """Compare the shares with those published for an L40."""
    parts, told = [], []
    for phase in phases:
        theirs = published_rows(phase, published.layer_table()).set_index("name")["pct_of_layer"]
        attention, experts = _share(phase, "self_attn"), _share(phase, *EXPERTS)
        if len(theirs) and attention is not None and experts is not None:
            both = float(theirs["w13"] + theirs["w2"])
            told.append(
                {"phase": phase.name, "experts_pct": experts, "published_experts_pct": both, "attention_pct": attention}
                | {"published_attention_pct": float(theirs["self_attn"])}
            )
            parts.append(
                f"in {phase.name} expert GEMMs {percent(both)} (here {percent(experts)}) and attention "
                f"{percent(float(theirs['self_attn']))} (here {percent(attention)})"
            )
    said = [f"on {published.L40.setup}", *parts, published.L40.caveat] if parts else []
    return each("Published profile", said, pd.DataFrame(told))


def _share(phase: Phase, *names: str) -> float | None:
    rows = phase.stages[[any(part in names for part in stage.split("+")) for stage in phase.stages["stage"]]]
    return float(rows["pct_of_layer"].sum()) if len(rows) else None


def _largest(phase: Phase) -> str:
    top = phase.stages[phase.stages["stage"] != "other"].nlargest(3, "time_ms")
    named = [f"{row.stage} {time(row.time_ms)} ({percent(row.pct_of_layer)})" for row in rows_of(top)]
    return f"in {phase.name} {listed(named)}" if named else ""


def launches(phases: Sequence[Phase]) -> Finding | None:
    """Say how many kernels a layer has, and how long the GPU idles between them."""
    parts, told = [], [p.ranges.iloc[:1].assign(phase=p.name) for p in phases]
    for phase in phases:
        top: Any = phase.ranges.iloc[0]
        if not pd.isna(top.span_ms) and top.span_ms:
            gaps = f"{time(top.gap_ms)} of gaps between them ({percent(100 * top.gap_ms / top.span_ms)} of its span)"
            gaps = gaps if top.gap_ms > 0 else "no gap between them"
            parts.append(f"one {phase.part} in {phase.name} is {top.kernels:.0f} kernels with {gaps}")
    shown = findings.rows(pd.concat(told), "phase name kernels span_ms gap_ms")
    # The same limit as for launch gaps of expert GEMMs, so that two pages agree on what a gap is.
    idle = (shown["gap_ms"] >= GAPS_PCT / 100 * shown["span_ms"]).fillna(False)
    found = each("Launches", parts, shown, "problem" if idle.any() else "normal")
    most: Any = next(rows_of(shown.assign(gap_ms=shown["gap_ms"].astype(float)).nlargest(1, "gap_ms")), None)
    if found is None or most is None or not most.gap_ms > 0:
        return found
    said = f"Between its kernels one layer in {most.phase} leaves the GPU idle for {time(most.gap_ms)}"
    change = f"{said}: replay it from a CUDA graph, or launch fewer kernels." if idle.any() else ""
    share = percent(100 * most.gap_ms / most.span_ms)
    return replace(found, stake_us=1e3 * most.gap_ms, short=f"{said}, {share} of its span.", change=change)


def around(phases: Sequence[Phase], shares: pd.DataFrame) -> Finding | None:
    """Say what the stages around the expert GEMMs take, which is at stake; ``shares`` are its rows."""
    found = each("Around the expert GEMMs", map(_around, phases), shares)
    phase = max(phases, key=lambda phase: _rest(phase)["time_ms"].sum(), default=None)
    most = float(_rest(phase)["time_ms"].sum()) if phase else 0.0
    if found is None or phase is None or most <= 0:
        return found
    name, parts = phase.name, _take(_rest(phase))
    said = f"{parts[0].upper()}{parts[1:]} {time(most)} of the layer in {name}, beside the expert GEMMs."
    change = f"Fuse what lies around the expert GEMMs: in {name} it takes {time(most)} of the layer."
    return replace(found, stake_us=1e3 * most, short=said, change=change)


def _moe(phase: Phase) -> pd.DataFrame:
    return phase.stages[~phase.stages["stage"].isin(["norm", "self_attn", "shared_experts", "other"])]


def _rest(phase: Phase) -> pd.DataFrame:
    """Return the stages of the MoE block without an expert GEMM; none if no stage is one."""
    moe = _moe(phase)
    gemm = moe["stage"].map(lambda stage: bool(set(stage.split("+")) & set(EXPERTS))).astype(bool)
    return moe[~gemm] if gemm.any() else moe.iloc[:0]


def _take(rows: pd.DataFrame) -> str:
    return f"{listed(list(rows['stage']))} {'takes' if len(rows) == 1 else 'take'}"


def _around(phase: Phase) -> str:
    rest = _rest(phase)
    if rest.empty:
        return ""
    spent = rest["time_ms"].sum()
    share = percent(100 * spent / _moe(phase)["time_ms"].sum())
    return f"in {phase.name} {_take(rest)} {time(spent)}, {share} of the MoE block"


def _speed(rows: pd.DataFrame) -> str:
    first: Any = rows.iloc[0]
    stages, traffic, compute = (
        listed(list(rows["stage"])),
        listed([number(v) for v in rows["minimum_tb_per_s"]]),
        listed([number(v) for v in rows["useful_tflops_per_s"]]),
    )
    return (
        f"in {first.phase} ({first.experts_hit} of {first.experts} experts hit) {stages} reach {compute}{NBSP}useful "
        f"TFLOP/s and {traffic}{NBSP}TB/s of minimum traffic{_of_roof(rows)}"
    )


def _of_roof(rows: pd.DataFrame) -> str:
    if rows["pct_of_roof"].isna().any():
        return ""
    roof, shares = rows["roof"].iloc[0], listed([percent(v) for v in rows["pct_of_roof"]])
    what = "that reading was measured to reach" if roof == MEASURED else f"that are the {roof} of its memory"
    over = "; over 100 % is a wrong bound" if (rows["pct_of_roof"] > 100).any() else ""
    return f", {shares} of the {number(rows['roof_tb_per_s'].iloc[0])}{NBSP}TB/s {what}{over}"


def padding(floor: pd.DataFrame) -> Finding | None:
    """Say how many rows the expert GEMMs compute, and how many of them are useful."""
    rows = floor.dropna(subset="rows_padded").drop_duplicates("phase") if len(floor) else floor
    parts = [
        f"in {row.phase} they compute {row.rows_padded:,} rows for {row.rows_useful:,} useful ones "
        f"({percent(100 * (row.rows_padded / row.rows_useful - 1))} more)"
        for row in rows_of(rows)
    ]
    # Where DRAM limits, padding rows are free, as they read nothing. An unknown share (NaN) is not >= DRAM_PCT.
    costs = [
        r.rows_padded >= (1 + PADDING_PCT / 100) * r.rows_useful and not (r.pct_of_roof >= DRAM_PCT)
        for r in rows_of(rows.astype({"pct_of_roof": float}) if len(rows) else rows)
    ]
    shown = findings.rows(rows, "phase rows_useful rows_padded pct_of_roof")
    return each("Padding to tiles", parts, shown, "problem" if any(costs) else "normal")


def coverage(phases: Sequence[Phase]) -> Finding | None:
    """Say how much of the report's kernel time lies in the layer, and how much of that in named stages."""
    parts, told = [], []
    for phase in phases:
        named = 100 - float(phase.stages.loc[phase.stages["stage"] == "other", "pct_of_layer"].sum())
        instances = int(phase.ranges["instances"].iloc[0])
        reported = phase.ranges.attrs["coverage"]["in_root_pct"]
        told.append({"phase": phase.name, "instances": instances, "in_layer_pct": reported, "in_stages_pct": named})
        parts.append(
            f"in {phase.name} the {phase.part} ran {instances} {'times' if instances > 1 else 'time'} and holds "
            f"{percent(reported)} of the kernel time in the report, {percent(named)} of it in named stages"
        )
    low = any(row["in_stages_pct"] < COVERED_PCT for row in told)
    return each("Coverage", parts, pd.DataFrame(told), "caution" if low else "normal")


def _lower(sentence: str) -> str:
    # NVTX and other abbreviations stay in upper case.
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]
