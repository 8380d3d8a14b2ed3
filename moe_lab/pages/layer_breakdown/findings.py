"""What a layer's timeline says, as sentences rendered from its tables."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis.floors import MEASURED, floors
from moe_lab.analysis.phases import Phase, gpu_name, published_rows, rows_of
from moe_lab.pages.show.findings import NBSP, Finding, caution, each, listed, number, percent, time
from moe_lab.spec import published

EXPERTS = ("w13", "w2")


def all_of(phases: Sequence[Phase]) -> list[Finding | None]:
    """Say where the time of one layer goes; the first sentence is the headline.

    Args:
        phases: one run a phase, as ``pages.load.layers`` returns them.
    """
    floor = floors(phases)
    by_phase = floor.groupby("phase", sort=False) if len(floor) else ()
    cautions = [(p.name, warning) for p in phases for warning in p.launches.meta.get("warnings") or []]
    return [
        experts_against_attention(phases),
        each("Largest stages", map(_largest, phases)),
        each("Launches", map(_launches, phases)),
        each("Around the expert GEMMs", map(_around, phases)),
        each("Speed of the expert GEMMs", [_speed(rows) for _, rows in by_phase]),
        each("Padding to tiles", _padding(floor)),
        against_published(phases),
        each("Coverage", map(_coverage, phases)),
        *(caution(f"in {name}, {_lower(warning)}") for name, warning in cautions),
    ]


def experts_against_attention(phases: Sequence[Phase]) -> Finding | None:
    """Say what share of the layer the expert GEMMs and the attention take in each phase."""
    parts: list[str] = []
    before: list[str] = []
    for phase in phases:
        shares = {"the expert GEMMs": _share(phase, *EXPERTS), "attention": _share(phase, "self_attn")}
        known = {what: share for what, share in shares.items() if share is not None}
        if known:
            subjects = [f"{what} {percent(share)}" for what, share in known.items()]
            subjects = [percent(share) for share in known.values()] if list(known) == before else subjects
            text = listed(subjects).replace("GEMMs ", "GEMMs take ", 1)
            text = text if "GEMMs" in text or parts else text.replace("attention ", "attention takes ", 1)
            parts.append(f"{text} of {time(phase.layer_ms)} in {phase.name}")
            before = list(known)
    gpus = listed(list(dict.fromkeys(gpu_name(p) for p in phases)))
    return Finding("", f"In one {phases[0].part} on {gpus}, {'; '.join(parts)}.") if parts else None


def against_published(phases: Sequence[Phase]) -> Finding | None:
    """Set the shares beside those published for an L40."""
    parts = []
    for phase in phases:
        theirs = published_rows(phase, published.layer_table()).set_index("name")["pct_of_layer"]
        attention, experts = _share(phase, "self_attn"), _share(phase, *EXPERTS)
        if len(theirs) and attention is not None and experts is not None:
            both = float(theirs["w13"] + theirs["w2"])
            parts.append(
                f"in {phase.name} expert GEMMs {percent(both)} (here {percent(experts)}) and attention "
                f"{percent(float(theirs['self_attn']))} (here {percent(attention)})"
            )
    return each("Published profile", [f"on {published.L40.setup}", *parts, published.L40.caveat] if parts else [])


def _share(phase: Phase, *names: str) -> float | None:
    rows = phase.stages[[any(part in names for part in stage.split("+")) for stage in phase.stages["stage"]]]
    return float(rows["pct_of_layer"].sum()) if len(rows) else None


def _largest(phase: Phase) -> str:
    top = phase.stages[phase.stages["stage"] != "other"].nlargest(3, "time_ms")
    named = [f"{row.stage} {time(row.time_ms)} ({percent(row.pct_of_layer)})" for row in rows_of(top)]
    return f"in {phase.name} {listed(named)}" if named else ""


def _launches(phase: Phase) -> str:
    top: Any = phase.ranges.iloc[0]
    if pd.isna(top.span_ms) or not top.span_ms:
        return ""
    gaps = f"{time(top.gap_ms)} of gaps between them ({percent(100 * top.gap_ms / top.span_ms)} of its span)"
    gaps = gaps if top.gap_ms > 0 else "no gap between them"
    return f"one {phase.part} in {phase.name} is {top.kernels:.0f} kernels with {gaps}"


def _around(phase: Phase) -> str:
    moe = phase.stages[~phase.stages["stage"].isin(["norm", "self_attn", "shared_experts", "other"])]
    gemm = [any(part in EXPERTS for part in stage.split("+")) for stage in moe["stage"]]
    rest = moe[[not g for g in gemm]]
    if rest.empty or not any(gemm):
        return ""
    spent = rest["time_ms"].sum()
    share = percent(100 * spent / moe["time_ms"].sum())
    return f"in {phase.name} {listed(list(rest['stage']))} take {time(spent)}, {share} of the MoE block"


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


def _padding(rows: pd.DataFrame) -> list[str]:
    known = rows.dropna(subset="rows_padded").drop_duplicates("phase") if len(rows) else rows
    return [
        f"in {row.phase} they compute {row.rows_padded:,} rows for {row.rows_useful:,} useful ones "
        f"({percent(100 * (row.rows_padded / row.rows_useful - 1))} more)"
        for row in rows_of(known)
    ]


def _coverage(phase: Phase) -> str:
    other = phase.stages.loc[phase.stages["stage"] == "other", "pct_of_layer"].sum()
    instances = int(phase.ranges["instances"].iloc[0])
    reported = phase.ranges.attrs["coverage"]["in_root_pct"]
    return (
        f"in {phase.name} the {phase.part} ran {instances} {'times' if instances > 1 else 'time'} and holds "
        f"{percent(reported)} of the kernel time in the report, {percent(100 - other)} of it in named stages"
    )


def _lower(sentence: str) -> str:
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]
