# SPDX-License-Identifier: Apache-2.0
"""Figures of the experts benchmark: tables become plotly figures; nothing is computed here."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import as_text, direct, fused, log_ticks, over_sizes, panels

_DASHES = ("solid", "dash", "dot", "dashdot")


@as_text
def times(rows: pd.DataFrame, ours: str) -> go.Figure:
    """Draw time over M, one line per backend (``ours`` thick), both axes logarithmic, and the roofline bound below.

    ``rows`` has columns backend, M, median_us, p20_us, p80_us, roofline_us.
    """
    figure = go.Figure()
    names = list(dict.fromkeys(rows["backend"]))
    for name in sorted(names, key=lambda n: n == ours):  # ours last, so that it is drawn on top
        part = rows[rows["backend"] == name]
        spread = [f"{low:.1f} to {high:.1f}" for low, high in zip(part["p20_us"], part["p80_us"], strict=True)]
        hover = "M = %{x:,}: %{y:,.1f} µs (p20 to p80 %{customdata})<extra>" + name + "</extra>"
        figure.add_scatter(**_line(name, names, ours, part, "median_us"), customdata=spread, hovertemplate=hover)
    bound = rows.dropna(subset="roofline_us").drop_duplicates("M")  # the same for all backends
    if len(bound):
        style = {"color": palette.STAGES["other"], "width": 1.8, "dash": "dot"}
        hover = "M = %{x:,}: %{y:,.1f} µs<extra>roofline bound</extra>"
        x, y = bound["M"].tolist(), bound["roofline_us"].tolist()
        figure.add_scatter(x=x, y=y, name="roofline bound", mode="lines", line=style, hovertemplate=hover)
    drawn = [y for trace in figure.data for y in trace.y]
    over_sizes(figure, rows["M"], "tokens (M)", 440, "time of a call (µs)", **log_ticks(drawn))
    return direct(figure, 440, min(drawn) / 1.2, max(drawn) * 1.2, log=True)


@as_text
def shares(rows: pd.DataFrame, ours: str) -> go.Figure:
    """Draw percent of the bound over M, one line per backend: columns backend, M, pct_of_roofline, bound_by."""
    figure = go.Figure()
    names = list(dict.fromkeys(rows["backend"]))
    for name in sorted(names, key=lambda n: n == ours):  # ours last, so that it is drawn on top
        part = rows[(rows["backend"] == name) & rows["pct_of_roofline"].notna()]
        told = [
            f"{by} bound{', which is wrong' if pct > 100 else ''}, {us:,.1f} µs"
            for by, pct, us in zip(part["bound_by"], part["pct_of_roofline"], part["median_us"], strict=True)
        ]
        hover = "M = %{x:,}: %{y:.0f} % of the %{customdata}<extra>" + name + "</extra>"
        figure.add_scatter(**_line(name, names, ours, part, "pct_of_roofline"), customdata=told, hovertemplate=hover)
    figure.add_hline(y=100, line={"color": palette.STAGES["other"], "width": 1.2, "dash": "dot"})
    top = max([105.0, *(y for trace in figure.data for y in trace.y)])
    over_sizes(figure, rows["M"], "tokens (M)", 400, "per cent of the bound")
    return direct(figure, 400, 0, top)


@as_text
def formats(beside: pd.DataFrame) -> go.Figure:
    """Draw how many times as fast as bf16 each format is, and below what it costs in error, one line per format.

    ``beside`` is ``analysis.formats.side_by_side`` of one GPU and model.
    """
    figure = panels(["times as fast as the quickest bf16", "error against bf16, RMS (%)"], 0.14, shared_xaxes=True)
    for number, (format, part) in enumerate(beside.groupby("format", sort=False)):
        symbol = palette.SYMBOLS[number % len(palette.SYMBOLS)]
        for row, column in enumerate(("speedup", "error_vs_bf16_rms_pct"), start=1):
            told = [f"{name}, {us:,.1f} µs" for name, us in zip(part["backend"], part["median_us"], strict=True)]
            figure.add_scatter(
                x=part["M"].tolist(),
                y=part[column].astype(float).tolist(),
                name=str(format),
                legendgroup=str(format),
                showlegend=row == 1,  # one entry for both panels
                mode="lines+markers",
                line={"color": palette.number_format(str(format)), "width": 2},
                marker={"symbol": symbol, "size": 7},
                meta={"format": str(format), "x": "M"},
                customdata=told,
                hovertemplate="M = %{x:,}: %{y:.2f}, %{customdata}<extra>" + f"{format}</extra>",
                row=row,
                col=1,
            )
    over_sizes(figure, beside["M"], "", 480, "", rangemode="tozero")
    return figure.update_xaxes(title={"text": "tokens (M)"}, row=2, col=1)


@as_text
def stages(split: pd.DataFrame, backends: Sequence[str]) -> go.Figure:
    """Draw each stage's share of a call over M, one panel per backend: columns backend, M, stage, us, pct."""
    names = [name for name in backends if name in set(split["backend"])]
    figure = panels(names, 0.28 / len(names), shared_xaxes=True)
    drawn: set[str] = set()
    for i, name in enumerate(names, start=1):
        own = split[split["backend"] == name]
        for stage in dict.fromkeys(own["stage"]):
            part = own[own["stage"] == stage]
            figure.add_bar(
                x=[f"{m:,}" for m in part["M"]],
                y=part["pct"].tolist(),
                name=stage,
                legendgroup=stage,
                showlegend=stage not in drawn,  # one entry for the bars of all panels
                marker=fused(stage),
                customdata=part["us"].tolist(),
                hovertemplate="M = %{x}: %{y:.0f} %, %{customdata:,.1f} µs<extra>" + stage + "</extra>",
                row=i,
                col=1,
            )
            drawn.add(stage)
        figure.update_yaxes(title={"text": "kernel time (%)"}, range=[0, 100], row=i, col=1)
    # As text, as bars on a logarithmic axis would have different widths.
    order = [f"{m:,}" for m in sorted(set(split["M"]))]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order, showgrid=False)
    figure.update_xaxes(title={"text": "tokens (M)"}, row=len(names), col=1)
    return figure.update_layout(barmode="stack", height=130 + 190 * len(names))


@as_text
def skew(rows: pd.DataFrame, ours: str) -> go.Figure:
    """Draw the time of a routing over that of the uniform one, one line per backend (``ours`` thick) and routing.

    ``rows`` has columns M, backend, routing, ratio_net, ratio, bound_ratio.
    """
    figure = go.Figure()
    dashes = {routing: _DASHES[i % len(_DASHES)] for i, routing in enumerate(dict.fromkeys(rows["routing"]))}
    for (name, routing), part in rows.groupby(["backend", "routing"], sort=False):
        said = [f"time {r:.2f}, bound {b:.2f}" for r, b in zip(part["ratio"], part["bound_ratio"], strict=True)]
        figure.add_scatter(
            x=part["M"].tolist(),
            y=part["ratio_net"].tolist(),
            name=f"{name}, {routing}",
            mode="lines+markers",
            meta={"backend": str(name), "x": "M"},
            marker={"symbol": palette.symbol(str(name)), "size": 7},
            line={"color": palette.of(str(name)), "width": 3.2 if name == ours else 1.6, "dash": dashes[str(routing)]},
            customdata=said,
            hovertemplate="M = %{x:,}: %{y:.2f} (%{customdata})<extra>" + f"{name}, {routing}</extra>",
        )
    return over_sizes(figure, rows["M"], "tokens (M)", 400, "time over uniform, net of the bound", rangemode="tozero")


def _line(name: str, names: Sequence[str], ours: str, part: pd.DataFrame, column: str) -> dict[str, Any]:
    """Return the line of a backend: other releases of one peer have its colour and marker and are dashed."""
    same = [n for n in names if n.partition("@")[0] == name.partition("@")[0]]
    dash = _DASHES[same.index(name) % len(_DASHES)]
    return {
        "x": part["M"].tolist(),
        "y": part[column].tolist(),
        "name": name,
        "mode": "lines+markers",
        "line": {"color": palette.of(name), "width": 3.2 if name == ours else 1.6, "dash": dash},
        "marker": {"size": 8 if name == ours else 6, "symbol": palette.symbol(name)},
        "meta": {"backend": name, "x": "M"},
    }
