"""Sentences rendered from numbers: no figure in a report is typed by hand.

The first finding of a notebook is its headline; ``show`` stores it beside the HTML so that the index card can quote it.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis.floors import MEASURED, floors
from moe_lab.analysis.phases import Phase, gpu_name, published_rows, rows_of
from moe_lab.pages.show import mime
from moe_lab.spec import published

NBSP = "\u00a0"
EXPERTS = ("w13", "w2")


class Findings:
    """Sentences to display, the first one as the headline.

    Attributes:
        sentences: what was found, most important first.
    """

    def __init__(self, sentences: Sequence[str]):
        self.sentences = [s for s in sentences if s]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        first, *rest = self.sentences or ["No finding: the runs hold too little."]
        items = "".join(f"<li>{_html(s)}</li>" for s in rest)
        return {
            "text/html": f'<div class="findings"><p class="headline">{html.escape(first)}</p><ul>{items}</ul></div>',
            "text/plain": "\n".join([first, *(f"- {s}" for s in rest)]),
            mime.HEADLINE: {"headline": first, "findings": rest},
        }


def _html(sentence: str) -> str:
    about, colon, text = map(html.escape, sentence.partition(": "))
    return f"<strong>{about}.</strong> {text[:1].upper()}{text[1:]}" if colon else about


def show(sentences: Sequence[str]) -> Findings:
    """Return the sentences as something a notebook displays as the last line of a cell."""
    return Findings(sentences)


def number(value: float, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits, thousands separated, never in exponent form.

    Args:
        value: any finite number.
        digits: significant digits.
    """
    if not value:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def percent(value: float) -> str:
    """Return a percentage in as many digits as it deserves: ``0.4 %``, ``12 %``, ``99.7 %``; never rounded to 100."""
    text = f"{value:.1f}" if value < 9.95 or 99.5 <= value < 99.95 else f"{value:.0f}"
    return f"{'> 99.9' if text == '100' and value < 99.995 else text}{NBSP}%"


def time(ms: float) -> str:
    """Return a time in the unit in which it reads best: ``5.41 ms``, ``38.2 µs``."""
    return f"{number(ms)}{NBSP}ms" if ms >= 1 else f"{number(1000 * ms)}{NBSP}µs"


def layer(phases: Sequence[Phase]) -> list[str]:
    """Say where the time of one layer goes; the first sentence is the headline.

    Args:
        phases: one run a phase, as ``pages.load.layers`` returns them.
    """
    floor = floors(phases)
    by_phase = floor.groupby("phase", sort=False) if len(floor) else ()
    cautions = [(p.name, warning) for p in phases for warning in p.launches.meta.get("warnings") or []]
    return [
        experts_against_attention(phases),
        _each("Largest stages", map(_largest, phases)),
        _each("Launches", map(_launches, phases)),
        _each("Around the expert GEMMs", map(_around, phases)),
        _each("Speed of the expert GEMMs", [_speed(rows) for _, rows in by_phase]),
        _each("Padding to tiles", _padding(floor)),
        against_published(phases),
        _each("Coverage", map(_coverage, phases)),
        *(f"Caution: in {name}, {_lower(warning)}" for name, warning in cautions),
    ]


def experts_against_attention(phases: Sequence[Phase]) -> str:
    """Say what share of the layer the expert GEMMs and the attention take in each phase."""
    parts: list[str] = []
    before: list[str] = []
    for phase in phases:
        shares = {"the expert GEMMs": _share(phase, *EXPERTS), "attention": _share(phase, "self_attn")}
        known = {what: share for what, share in shares.items() if share is not None}
        if known:
            subjects = [f"{what} {percent(share)}" for what, share in known.items()]
            subjects = [percent(share) for share in known.values()] if list(known) == before else subjects
            text = _listed(subjects).replace("GEMMs ", "GEMMs take ", 1)
            text = text if "GEMMs" in text or parts else text.replace("attention ", "attention takes ", 1)
            parts.append(f"{text} of {time(phase.layer_ms)} in {phase.name}")
            before = list(known)
    gpus = _listed(list(dict.fromkeys(gpu_name(p) for p in phases)))
    return f"In one {phases[0].part} on {gpus}, {'; '.join(parts)}." if parts else ""


def against_published(phases: Sequence[Phase]) -> str:
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
    return _each("Published profile", [f"on {published.L40.setup}", *parts, published.L40.caveat] if parts else [])


def _each(about: str, parts: Iterable[str]) -> str:
    said = [text for text in parts if text]
    return f"{about}: {'; '.join(said)}." if said else ""


def _share(phase: Phase, *names: str) -> float | None:
    rows = phase.stages[[any(part in names for part in stage.split("+")) for stage in phase.stages["stage"]]]
    return float(rows["pct_of_layer"].sum()) if len(rows) else None


def _largest(phase: Phase) -> str:
    top = phase.stages[phase.stages["stage"] != "other"].nlargest(3, "time_ms")
    listed = [f"{row.stage} {time(row.time_ms)} ({percent(row.pct_of_layer)})" for row in rows_of(top)]
    return f"in {phase.name} {_listed(listed)}" if listed else ""


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
    return f"in {phase.name} {_listed(list(rest['stage']))} take {time(spent)}, {share} of the MoE block"


def _speed(rows: pd.DataFrame) -> str:
    first: Any = rows.iloc[0]
    stages, traffic, compute = (
        _listed(list(rows["stage"])),
        _listed([number(v) for v in rows["minimum_tb_per_s"]]),
        _listed([number(v) for v in rows["useful_tflops_per_s"]]),
    )
    return (
        f"in {first.phase} ({first.experts_hit} of {first.experts} experts hit) {stages} reach {compute}{NBSP}useful "
        f"TFLOP/s and {traffic}{NBSP}TB/s of minimum traffic{_of_roof(rows)}"
    )


def _of_roof(rows: pd.DataFrame) -> str:
    if rows["pct_of_roof"].isna().any():
        return ""
    roof, shares = rows["roof"].iloc[0], _listed([percent(v) for v in rows["pct_of_roof"]])
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


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
