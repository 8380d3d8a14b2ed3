# SPDX-License-Identifier: Apache-2.0
"""Figures of one layer: tables become plotly figures; nothing is computed here."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import BESIDE, DOWNWARDS, INSIDE, as_text, named, panels

MAX_POINTS = 5000  # per trace; more would make the page slow
_GREY_RANGE = "#9aa3af"


@as_text
def stage_shares(rows: pd.DataFrame) -> go.Figure:
    """Draw one stacked bar per row: which share of the layer each stage takes.

    ``rows`` has columns row, stage, time_ms, pct_of_layer, published (hatched), as from ``phases.share_rows``.
    """
    figure = go.Figure()
    order = list(dict.fromkeys(rows["row"]))
    for stage in dict.fromkeys(rows["stage"]):
        part = rows[rows["stage"] == stage]
        figure.add_bar(
            **INSIDE,
            name=stage,
            x=part["pct_of_layer"].tolist(),
            y=[_two_lines(r) for r in part["row"]],
            text=[f"{stage}<br>{v:.0f} %" for v in part["pct_of_layer"]],
            customdata=part["time_ms"].tolist(),
            hovertemplate=f"{stage}: %{{x:.1f}} %, %{{customdata:.4f}} ms<extra>%{{y}}</extra>",
            marker={
                "color": palette.stage(stage),
                "line": {"width": 0.6, "color": "rgba(255,255,255,0.85)"},
                "pattern": {  # figures of others are hatched
                    "shape": ["/" if p else "" for p in part["published"]],
                    "fillmode": "overlay",
                    "fgcolor": "rgba(255,255,255,0.55)",
                    "size": 7,
                    "solidity": 0.22,
                },
            },
        )
    figure.update_layout(
        template="moe_lab",
        barmode="stack",
        height=180 + 62 * len(order),
        uniformtext={"mode": "hide", "minsize": 10},  # no text where it would not fit into its bar
        xaxis={"title": {"text": "share of the layer's kernel time (%)"}, "range": [0, 100]},
        yaxis=named([_two_lines(r) for r in order]),
    )
    return figure


@as_text
def stage_times(stages: dict[str, pd.DataFrame]) -> go.Figure:
    """Draw one bar per stage, one panel per phase, each panel with its own scale and a suitable unit.

    ``stages`` are phase -> columns stage, time_ms, pct_of_layer, as ``Phase.stages``.
    """
    # In bars; 1.5 is for title and axis.
    heights = [len(table) + 1.5 for table in stages.values()]
    figure = panels(list(stages), min(0.9 / max(1, len(stages)), 3.2 / sum(heights)), heights)
    for i, (phase, table) in enumerate(stages.items(), start=1):
        unit, scale = ("ms", 1.0) if table["time_ms"].max() >= 1 else ("µs", 1e3)
        times = [ms * scale for ms in table["time_ms"]]
        figure.add_bar(
            **BESIDE,
            x=times,
            y=table["stage"].tolist(),
            text=[f" {t:.3g} {unit}, {pct:.1f} %" for t, pct in zip(times, table["pct_of_layer"], strict=True)],
            name=phase,
            showlegend=False,
            hovertemplate=f"{phase}, %{{y}}: %{{x:.4g}} {unit}<extra></extra>",
            marker={"color": [palette.stage(s) for s in table["stage"]]},
            row=i,
            col=1,
        )
        figure.update_yaxes(**DOWNWARDS, row=i, col=1)
        title = {"text": f"kernel time of one layer, {phase} ({unit})"}
        figure.update_xaxes(title=title, range=[0, 1.6 * max(times)], row=i, col=1)  # room for text beside the bars
    return figure.update_layout(height=int(30 * sum(heights) + 60 * len(stages)))


@as_text
def timeline(operations: pd.DataFrame, ranges: pd.DataFrame, title: str = "") -> go.Figure:
    """Draw one layer: kernels and copies as bars under the ranges that they belong to, one lane per stream.

    ``operations`` is as from ``analysis.timeline.timeline``, each with a stage; the longest ``MAX_POINTS`` are drawn;
    ``ranges`` has columns name, stage (None for a range that is not a stage), depth, start_us, end_us.
    """
    # From 2 ms on, microseconds would have too many digits for an axis.
    unit, scale = ("ms", 1e-3) if ranges["end_us"].max() >= 2000 else ("µs", 1.0)
    operations = operations.nlargest(MAX_POINTS, "duration_us").sort_values("start_us")
    depths = {int(d): _DEPTHS.get(int(d), f"depth {int(d)}") for d in sorted(ranges["depth"].unique())}
    streams = sorted(operations["stream"].dropna().unique())
    lanes = [*depths.values(), *(("kernels",) if len(streams) == 1 else (f"stream {s}" for s in streams))]
    figure = go.Figure()
    row: Any
    for row in ranges.itertuples():
        color = _GREY_RANGE if pd.isna(row.stage) else palette.stage(row.stage)
        bar = _bars(pd.Series([row.start_us]), pd.Series([row.end_us - row.start_us]), scale)
        style = {"color": color, "opacity": 0.45, "line": {"width": 1, "color": color}}
        # x is where the bar ends.
        hover = f"{row.name}: %{{customdata:.4g}} {unit}, from %{{base:.4g}} {unit}<extra></extra>"
        lane = [depths[int(row.depth)]]
        figure.add_bar(**bar, y=lane, name=row.name, text=[row.name], marker=style, hovertemplate=hover)
    for (stream, stage), part in operations.groupby(["stream", "stage"], sort=False):
        bar = _bars(part["start_us"], part["duration_us"], scale)
        style = {"color": palette.stage(str(stage)), "line": {"width": 0}}
        hover = f"%{{hovertext}}<br>%{{customdata:.4g}} {unit}, from %{{base:.4g}} {unit}<extra>{stage}</extra>"
        lane = [lanes[len(depths) + streams.index(stream)]] * len(part)
        names = [f"{row['name']}{_launch(row)}" for row in part.to_dict("records")]
        figure.add_bar(**bar, y=lane, name=stage, hovertext=names, marker=style, hovertemplate=hover)
    end = float(ranges["end_us"].max()) * scale
    figure.update_layout(
        template="moe_lab",
        barmode="overlay",
        bargap=0.12,
        showlegend=False,
        height=104 + 42 * len(lanes),
        uniformtext={"mode": "hide", "minsize": 10},
        xaxis={"title": {"text": f"{title}{': ' if title else ''}time since the layer's first kernel ({unit})"}},
        xaxis_range=[0, end],
        yaxis=named(lanes),
    )
    return figure


def _launch(row: dict[Any, Any]) -> str:
    """Return grid, block and registers of a kernel as a line of a hover text; empty if none is known."""
    said = {"grid_blocks": "blocks", "block_threads": "threads each", "registers_per_thread": "registers a thread"}
    known = [f"{int(row[c]):,} {unit}" for c, unit in said.items() if not pd.isna(row.get(c, pd.NA))]
    return f"<br>{', '.join(known)}" if known else ""


_DEPTHS = {0: "layer", 1: "block", 2: "stage"}


def _bars(start_us: "pd.Series[float]", length_us: "pd.Series[float]", scale: float) -> dict[str, Any]:
    lengths = (length_us * scale).tolist()
    return {**INSIDE, "base": (start_us * scale).tolist(), "x": lengths, "customdata": lengths}


def _two_lines(label: str) -> str:
    return label.replace(", ", "<br>", 1)
