# SPDX-License-Identifier: Apache-2.0
"""Figures of the align benchmark: tables become plotly figures; nothing is computed here."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.analysis.align_steps import ORDER
from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import as_text, direct, log_ticks, named, over_sizes, panels

# Greys, which no algorithm has.
FLOOR, LIMIT = palette.STAGES["rest of mlp"], palette.STAGES["other"]
STEPS = palette.series(ORDER[:-1]) | {"other": palette.STAGES["other"]}
# Slower is orange, faster blue, equal almost white: distinct in all common kinds of colour blindness.
DIVERGING = [[0, "#b35806"], [0.35, "#f1a340"], [0.5, "#f7f7f7"], [0.65, "#92c5de"], [1, "#2166ac"]]


@as_text
def speedup_map(rows: pd.DataFrame, title: str) -> go.Figure:
    """Draw speed-ups over tokens and experts: colours diverge around 1, and every cell shows its number.

    ``rows`` has columns tokens, E, speedup, ours_us, theirs_us, and for the hover text perhaps topk and rival.
    """
    experts, tokens = sorted(set(rows["E"])), sorted(set(rows["tokens"]))
    cells = {(r["tokens"], r["E"]): r for r in rows.to_dict("records")}
    grid = [[cells.get((m, e)) for e in experts] for m in tokens]
    logs = [[math.log2(c["speedup"]) if c else None for c in row] for row in grid]
    # At least a factor of 2 to either side, so that small differences stay pale.
    most = max([abs(v) for row in logs for v in row if v is not None] + [1.0])
    figure = go.Figure(
        go.Heatmap(
            x=[f"{e}" for e in experts],
            y=[f"{m:,}" for m in tokens],
            z=logs,
            text=[[_times(c["speedup"]) if c else "" for c in row] for row in grid],
            texttemplate="%{text}",
            customdata=[[_hover(c) if c else "" for c in row] for row in grid],
            hovertemplate="%{y} tokens, %{x} experts: %{text}<br>%{customdata}<extra></extra>",
            colorscale=DIVERGING,
            zmin=-most,  # symmetric, so that white is a ratio of 1
            zmax=most,
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(
        template="moe_lab",
        height=120 + 26 * len(tokens),
        margin={"t": 44},
        title={"text": title, "font": {"size": 14}, "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 12}},
        xaxis={"title": {"text": "experts"}, "type": "category", "dtick": 1, "showgrid": False},
        yaxis={"title": {"text": "tokens"}, "type": "category", "dtick": 1, "autorange": "reversed", "showgrid": False},
    )
    return figure


def _times(value: float) -> str:
    """Return a ratio in as many digits as tell it from 1: 0.97, 1.04, 3.2, 26."""
    return f"{value:.2f}" if value < 1.995 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _hover(cell: dict[Any, Any]) -> str:
    case = f"topk {cell['topk']}, " if "topk" in cell else ""
    rival = f" ({cell['rival']})" if "rival" in cell else ""
    return f"{case}{cell['ours_us']:.2f} µs against {cell['theirs_us']:.2f} µs{rival}"


@as_text
def curves(
    rows: pd.DataFrame, limit: pd.DataFrame, ours: str, limit_label: str = "", outliers: pd.DataFrame | None = None
) -> go.Figure:
    """Draw time over tokens, one line per algorithm, with the empty kernel and the data-movement limit below.

    ``rows`` has columns algorithm (``ours`` is drawn thick, empty kernels are in parentheses), tokens, median_us,
    p20_us, p80_us; ``limit`` has tokens, us, and ``limit_label`` names its source; ``outliers`` has algorithm, tokens
    of the points that get a cross.
    """
    odd = {} if outliers is None else {str(n): set(part["tokens"]) for n, part in outliers.groupby("algorithm")}
    figure = go.Figure()
    named = [n for n in dict.fromkeys(rows["algorithm"]) if not n.startswith("(")]
    for name in sorted(named, key=lambda n: n == ours):  # ours last, so that it is drawn on top
        part = rows[rows["algorithm"] == name]
        spread = list(zip(part["p20_us"], part["p80_us"], strict=True))
        figure.add_scatter(
            **_line(part["tokens"], part["median_us"], name, palette.of(name), 3.2 if name == ours else 1.6),
            mode="lines+markers",
            marker={
                "size": 8 if name == ours else 6,
                "symbol": ["x" if t in odd.get(name, ()) else palette.symbol(name) for t in part["tokens"]],
            },
            meta={"backend": name},
            customdata=[
                f"{low:.2f} to {high:.2f}{'; an outlier' if tokens in odd.get(name, ()) else ''}"
                for tokens, (low, high) in zip(part["tokens"], spread, strict=True)
            ],
            hovertemplate="%{x:,} tokens: %{y:.2f} µs (p20 to p80 %{customdata})<extra>" + name + "</extra>",
        )
    floor = rows[rows["algorithm"] == "(empty)"]
    if len(floor):
        line = _line(floor["tokens"], floor["median_us"], "empty kernel, same method", FLOOR, 1.6, "dash")
        figure.add_scatter(**line, mode="lines")
    if len(limit):
        line = _line(limit["tokens"], limit["us"], "moving the data", LIMIT, 1.6, "dot")
        hover = "%{x:,} tokens: %{y:.2f} µs%{customdata}<extra>moving the data</extra>"
        source = [f" ({limit_label})" if limit_label else ""] * len(limit)
        figure.add_scatter(**line, mode="lines", customdata=source, hovertemplate=hover)
    least = min([rows["median_us"].min() / 2, *limit["us"].nlargest(1) / 5])  # the rest of the limit is far below
    ends = float(least), 1.3 * float(rows["median_us"].max())
    over_sizes(figure, rows["tokens"], "tokens", 430, "time of a call (µs)", **log_ticks(ends))
    return direct(figure, 430, *ends, log=True)


def _line(
    x: "pd.Series[int]", y: "pd.Series[float]", name: str, color: str, width: float, dash: str = "solid"
) -> dict[str, object]:
    return {"x": x.tolist(), "y": y.tolist(), "name": name, "line": {"color": color, "width": width, "dash": dash}}


@as_text
def padding(rows: pd.DataFrame) -> go.Figure:
    """Draw padding waste over tokens, one line per routing and block_m.

    ``rows`` has columns tokens, routing, block_m, padding_waste_pct; rows without waste have no place on a log axis.
    """
    figure = go.Figure()
    dashes = dict(zip(sorted(set(rows["block_m"])), ("solid", "dash", "dot", "dashdot"), strict=False))
    shade = palette.series(list(dict.fromkeys(rows["routing"])))
    for (routing, block_m), part in rows[rows["padding_waste_pct"] > 0].groupby(["routing", "block_m"], sort=False):
        name = f"{routing}, block_m {block_m}"
        figure.add_scatter(
            **_line(part["tokens"], part["padding_waste_pct"], name, shade[routing], 2, dashes.get(block_m, "solid")),
            mode="lines+markers",
            hovertemplate="%{x:,} tokens: %{y:,.1f} % more rows<extra>" + name + "</extra>",
        )
    what = "rows of padding per useful row (%)"
    return over_sizes(figure, rows["tokens"], "tokens", 360, what, **log_ticks(rows["padding_waste_pct"]))


@as_text
def steps(split: pd.DataFrame) -> go.Figure:
    """Draw each algorithm's kernel time by step, one panel per size: columns algorithm, tokens, step, us, pct."""
    sizes = sorted(set(split["tokens"]))
    # The height of each panel in bars; 1.6 is for its title and axis.
    bars = [len(set(split.loc[split["tokens"] == m, "algorithm"])) + 1.6 for m in sizes]
    titles = [f"{m:,} {'token' if m == 1 else 'tokens'}" for m in sizes]
    figure = panels(titles, min(0.9 / max(1, len(sizes)), 2.4 / sum(bars)), bars)
    drawn: set[str] = set()
    for i, tokens in enumerate(sizes, start=1):
        part = split[split["tokens"] == tokens]
        order = part.groupby("algorithm")["us"].sum().sort_values().index.tolist()
        for step in [s for s in STEPS if s in set(part["step"])]:
            own = part[part["step"] == step]
            figure.add_bar(
                orientation="h",
                x=own["us"].tolist(),
                y=own["algorithm"].tolist(),
                name=step,
                legendgroup=step,
                showlegend=step not in drawn,  # one entry for the bars of all panels
                marker={"color": STEPS[step]},
                customdata=own["pct"].tolist(),
                hovertemplate="%{y}: %{x:.2f} µs, %{customdata:.0f} %<extra>" + step + "</extra>",
                row=i,
                col=1,
            )
            drawn.add(step)
        figure.update_yaxes(**named(order), row=i, col=1)
    figure.update_xaxes(title={"text": "kernel time of a call (µs)"}, row=len(sizes), col=1)
    return figure.update_layout(barmode="stack", height=int(150 + 27 * sum(bars)))
