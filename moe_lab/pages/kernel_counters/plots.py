# SPDX-License-Identifier: Apache-2.0
"""Figures of the notebook on kernel counters: tables become plotly figures; nothing is computed here."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from moe_lab.analysis.limits import NAMED_STALLS
from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import BESIDE, DOWNWARDS, as_text, log_ticks, named, panels

COUNTERS = {
    "sm_throughput_pct": "compute (% of the theoretical peak)",
    "mem_throughput_pct": "memory (% of the theoretical peak)",
    "dram_throughput_pct": "DRAM (% of the theoretical peak)",
    "l2_hit_pct": "L2 hits (%)",
}
LEVELS = {"dram": ("DRAM", "circle"), "l2": ("L2", "diamond-open")}
_DASHES = ("solid", "dot", "dash", "dashdot", "longdash")
MEET = (
    0.1,
    0.06,
)  # of the width and the height of a roofline: texts at points closer than this would lie on each other
SYMBOLS = ("circle", "square-open", "diamond", "triangle-up-open", "cross")


def styles(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return (colour, dash) of each series: the first of a backend has the backend's colour, the next ones others."""
    out: dict[str, tuple[str, str]] = {}
    seen = dict[str, int]()
    for series, backend in rows[["series", "backend"]].drop_duplicates().itertuples(index=False):
        number = seen.get(backend, 0)
        seen[backend] = number + 1
        # A made-up name has a colour of its own.
        out[str(series)] = (
            palette.of(f"{backend} {number}" if number else str(backend)),
            _DASHES[number % len(_DASHES)],
        )
    return out


@as_text
def over_m(table: pd.DataFrame, stage: str) -> go.Figure:
    """Draw the main counters of one stage over M, one panel each, one line per series.

    ``table`` has columns series, backend, M and those of ``COUNTERS``; panels without values are left out. If there is
    a column gpu, each GPU has its own lines and symbols.
    """
    rows = table.sort_values("M", kind="stable").assign(of=table["series"].astype(str))
    gpus: list[Any] = list(table["gpu"].unique()) if "gpu" in table else []
    if gpus:
        rows["series"] = rows["of"] + ", " + rows["gpu"]
    shown = {c: label for c, label in COUNTERS.items() if rows[c].notna().any()}
    figure = panels([*shown.values()], 0.05, shared_xaxes=True)
    own = styles(table)
    for panel, column in enumerate(shown, start=1):
        for series, part in rows.dropna(subset=column).groupby("series", sort=False):
            backend = str(part["of"].iloc[0])
            # A backend has its colour on every GPU; GPUs differ in marker and dash.
            color, dash = own[backend]
            number = gpus.index(part["gpu"].iloc[0]) if gpus else 0
            figure.add_scatter(
                x=part["M"].tolist(),
                y=part[column].astype(float).tolist(),
                name=series,
                legendgroup=series,
                showlegend=panel == 1,  # one entry for the lines of all panels
                mode="lines+markers",
                line={"color": color, "dash": _DASHES[number % len(_DASHES)] if number else dash},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)]},
                meta={"backend": backend, "x": "M"},
                hovertemplate="M = %{x:,}: %{y:.1f} %<extra>" + str(series) + "</extra>",
                row=panel,
                col=1,
            )
        figure.update_yaxes(range=[0, 105], row=panel, col=1)  # room for the markers at 100 %
    sizes = sorted(set(rows["M"]))
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{m:,}" for m in sizes])
    figure.update_xaxes(title={"text": f"M (tokens), {stage}"}, row=len(shown), col=1)
    return figure.update_layout(height=150 + 140 * len(shown) + 14 * rows["series"].nunique())


@as_text
def roofline(
    rows: pd.DataFrame, roofs: pd.DataFrame, stage: str, colors: dict[str, tuple[str, str]] | None = None
) -> go.Figure:
    """Draw the hierarchical roofline: a slope per level of memory, the tensor roof, and a point per GEMM and level.

    ``rows`` are ``analysis.roofline.points`` of one stage and GPU, which the axis names if it is a column; ``roofs``
    are those of ``analysis.roofline``; ``colors`` are ``styles`` shared by several figures.
    """
    figure = go.Figure()
    peak = {str(kind): float(value) for kind, value in zip(roofs["kind"], roofs["value"], strict=True)}
    said = {k: "roof" if m else "theoretical peak" for k, m in zip(roofs["kind"], roofs["measured"], strict=True)}
    low, high = float(rows["flop_per_byte"].min()) / 3, float(rows["flop_per_byte"].max()) * 3
    for kind, (label, _) in LEVELS.items():
        if kind in peak:
            # A slope ends where it meets the tensor roof.
            edge = min(high, peak["tensor"] / peak[kind]) if "tensor" in peak else high
            figure.add_scatter(
                **_roof([low, edge], [peak[kind] * x / 1e12 for x in (low, edge)], f"{label} {said[kind]}", kind)
            )
    if "tensor" in peak:
        # The flat roof begins where the fastest memory reaches it.
        start = max(low, peak["tensor"] / max((peak[k] for k in LEVELS if k in peak), default=peak["tensor"]))
        figure.add_scatter(**_roof([start, high], [peak["tensor"] / 1e12] * 2, f"tensor {said['tensor']}", "tensor"))
    own = colors or styles(rows)
    labels = _labels(rows)
    for (series, level), part in rows.groupby(["series", "level"], sort=False):
        label, symbol = LEVELS[str(level)]
        figure.add_scatter(
            x=part["flop_per_byte"].tolist(),
            y=part["tflop_per_s"].tolist(),
            name=f"{series}, {label}",
            mode="markers+text",
            text=[labels.get(index, "") for index in part.index],
            textposition="top center",
            meta={"backend": str(series)},
            marker={"color": own[str(series)][0], "symbol": symbol, "size": 9, "line": {"width": 1.6}},
            customdata=[f"M = {m:,}, bytes {b}" for m, b in zip(part["M"], part["bytes_from"], strict=True)],
            hovertemplate="%{x:.3g} FLOP/byte, %{y:.3g} TFLOP/s<br>%{customdata}<extra>" + f"{series}, {label}</extra>",
        )
    figure.update_layout(template="moe_lab", height=430 + 14 * len(figure.data))
    across = {"text": f"FLOP per byte of the level, {stage}{_on(rows)}"}
    figure.update_xaxes(title=across, **log_ticks([low, high]))
    return figure.update_yaxes(title={"text": "TFLOP/s"}, **log_ticks(rows["tflop_per_s"]))


def _labels(rows: pd.DataFrame) -> dict[Any, str]:
    """Return the text at some points: one of each M, or of several whose texts would meet."""
    tops = rows.loc[rows.groupby("M")["tflop_per_s"].idxmax()]
    at = np.log10(tops[["flop_per_byte", "tflop_per_s"]].to_numpy(float))
    spread = np.ptp(np.log10(rows[["flop_per_byte", "tflop_per_s"]].to_numpy(float)), axis=0)
    first = [int((np.abs(at - here) <= spread * MEET).all(axis=1).argmax()) for here in at]
    shared = tops["M"].groupby(tops.index[first]).agg(lambda sizes: ", ".join(f"{m:,}" for m in sizes))
    return {index: f"M = {sizes}" for index, sizes in shared.items()}


def _on(rows: pd.DataFrame) -> str:
    return f", {rows['gpu'].iloc[0]}" if "gpu" in rows else ""


def _roof(x: list[float], y: list[float], name: str, kind: str) -> dict[str, Any]:
    dash = {"dram": "solid", "l2": "dash", "tensor": "dot"}[kind]
    line = {"color": palette.STAGES["other"], "width": 1.6, "dash": dash}
    hover = f"{name}: %{{y:.3g}} TFLOP/s at %{{x:.3g}} FLOP/byte<extra></extra>"
    return {"x": x, "y": y, "name": name, "mode": "lines", "line": line, "hovertemplate": hover}


@as_text
def waterfall(moved: pd.DataFrame, stage: str, M: int) -> go.Figure:
    """Draw how the fewest bytes become those through L2, one panel per series, with the counted bytes below.

    ``moved`` is ``analysis.traffic.traffic`` of one stage and GPU; at this M it has a row with known fewest bytes.
    """
    rows = moved[moved["M"] == M].dropna(subset=["minimum_bytes"])
    titles = [_title(r) for r in rows.to_dict("records")]
    figure = panels(titles, min(0.5 / max(1, len(rows)), 0.16), shared_xaxes=True)
    for panel, row in enumerate(rows.to_dict("records"), start=1):
        labels, values, measures = _bars(row)
        figure.add_waterfall(
            **BESIDE,
            y=labels,
            x=values,
            measure=measures,
            text=[f" {v:.3g} GB" for v in values],
            showlegend=False,
            connector={"line": {"color": palette.STAGES["rest of layer"], "width": 1}},
            increasing={"marker": {"color": palette.STAGES["w13"]}},
            totals={"marker": {"color": palette.STAGES["self_attn"]}},
            customdata=values,
            hovertemplate="%{y}: %{customdata:.4g} GB<extra></extra>",  # x is where the bar ends
            row=panel,
            col=1,
        )
        figure.update_yaxes(**DOWNWARDS, row=panel, col=1)
    ends = [c for c in ("l2_model_bytes", "l2_counted_bytes", "dram_bytes", "minimum_bytes") if rows[c].notna().any()]
    most = max(float(rows[c].max()) for c in ends) / 1e9
    figure.update_xaxes(range=[0, 1.45 * most])  # room for the text beside the longest bar
    figure.update_xaxes(title={"text": f"GB, {stage} at M = {M:,}{_on(rows)}"}, row=len(rows), col=1)
    return figure.update_layout(height=110 + 190 * len(rows))


def _title(row: dict[Any, Any]) -> str:
    tile = row["tile"]
    # Series of a sweep have the tile in their name already.
    return str(row["series"]) if pd.isna(tile) or str(tile) in str(row["series"]) else f"{row['series']} ({tile})"


_STEPS = (
    ("fewest bytes", "minimum_bytes", "absolute"),
    ("rows, again", "rows_again_bytes", "relative"),
    ("weights, again", "weights_again_bytes", "relative"),
    ("L2, model", "l2_model_bytes", "absolute"),
    ("L2, counted", "l2_counted_bytes", "absolute"),
    ("DRAM, counted", "dram_bytes", "absolute"),
)


def _bars(row: dict[Any, Any]) -> tuple[list[str], list[float], list[str]]:
    known = [(label, float(row[c]) / 1e9, how) for label, c, how in _STEPS if not pd.isna(row.get(c))]
    labels, values, measures = zip(*known, strict=True)
    return list(labels), list(values), list(measures)


@as_text
def stalls(shares: pd.DataFrame, stage: str) -> go.Figure:
    """Draw what warps wait for: columns row (a label), reason, pct; the reasons of a row add up to 100."""
    sums = shares.groupby("reason")["pct"].sum().sort_values(ascending=False)
    # The largest first, "other" at the end of the bars.
    order = [*sums.index.drop("other", errors="ignore"), *(["other"] if "other" in sums.index else [])]
    figure = go.Figure()
    for number, reason in enumerate(order):
        part = shares[shares["reason"] == reason]
        figure.add_bar(
            orientation="h",
            x=part["pct"].tolist(),
            y=part["row"].tolist(),
            name=reason,
            marker={"color": palette.STAGES["other"] if reason == "other" else palette.nth(number, NAMED_STALLS)},
            hovertemplate="%{y}: %{x:.0f} %<extra>" + str(reason) + "</extra>",
        )
    bars = list(dict.fromkeys(shares["row"]))
    figure.update_layout(template="moe_lab", barmode="stack", height=200 + 26 * len(bars) + 10 * len(order))
    figure.update_xaxes(title={"text": f"time, {stage} (%)"}, range=[0, 100])
    return figure.update_yaxes(**named(bars))
