# SPDX-License-Identifier: Apache-2.0
"""Figures of any report: tables become plotly figures."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import INSIDE, as_text, named
from moe_lab.spec.ranges import EXPERTS
from moe_lab.spec.roles import ROLES

MOST = 4000  # bars; more would make the page slow


@as_text
def timeline(operations: pd.DataFrame) -> go.Figure:
    """Draw the longest ``MOST`` operations, a lane a stream, a colour a role; drag to zoom.

    ``operations`` is as from ``analysis.overview.operations``.
    """
    unit, scale = ("ms", 1e-3) if operations["start_us"].max() >= 2000 else ("µs", 1.0)
    drawn = operations.nlargest(MOST, "duration_us").sort_values("start_us")
    many = operations["device"].nunique() > 1
    lane = drawn["stream"].map(lambda s: "no stream" if pd.isna(s) else f"stream {s}")
    lane = drawn["device"].map(lambda d: f"GPU {d}, ").str.cat(lane) if many else lane
    lanes = list(dict.fromkeys(lane.sort_values()))
    figure = go.Figure()
    for role, own in drawn.groupby("role", sort=False):
        lengths = (own["duration_us"] * scale).tolist()
        figure.add_bar(
            **INSIDE,
            base=(own["start_us"] * scale).tolist(),
            x=lengths,
            customdata=lengths,
            y=lane[own.index].tolist(),
            name=str(role),
            hovertext=[_said(row) for row in own.to_dict("records")],
            marker={"color": _colour(str(role)), "line": {"width": 0}},
            hovertemplate=f"%{{hovertext}}<br>%{{customdata:.4g}} {unit}, from %{{base:.4g}} {unit}",
        )
    axis = {"title": {"text": f"time since the first operation ({unit})"}, "rangeslider": {"visible": True}}
    # In pixels: a line of the legend has two names on a phone; plotly makes room for it below slider, title and margin.
    height = 230 + 34 * len(lanes) + 9 * len(figure.data)
    figure.update_layout(template="moe_lab", barmode="overlay", height=height, margin={"b": 60})
    return figure.update_layout(xaxis=axis, yaxis=named(lanes))


# Stages have their colours of all pages; the roles of other kernels get those of a series, the same in every figure.
_OTHERS = palette.series([role for role in ROLES if role not in (*palette.STAGES, EXPERTS)])


def _colour(role: str) -> str:
    return _OTHERS.get(role) or palette.stage(role)


def _said(row: dict[Any, Any]) -> str:
    """Return name, range and launch of an operation."""
    known = {"grid_blocks": "blocks", "block_threads": "threads each", "registers_per_thread": "registers a thread"}
    sizes = [f"{int(row[c]):,} {unit}" for c, unit in known.items() if not pd.isna(row[c])]
    lines = [row["name"], None if pd.isna(row["path"]) else row["path"], ", ".join(sizes)]
    return "<br>".join(filter(None, lines))


@as_text
def roles(table: pd.DataFrame) -> go.Figure:
    """Draw the kernel time of each role; ``table`` is as from ``kernels.sums`` by role, NA = none."""
    names = ["(no role)" if pd.isna(role) else str(role) for role in table["role"]]
    figure = go.Figure()
    figure.add_bar(
        x=table["total_ms"].astype(float).tolist(),
        y=names,
        orientation="h",
        text=[f" {pct:.1f} %" for pct in table["pct_of_kernels"]],
        textposition="outside",
        marker={"color": [_colour(name) for name in names]},
        hovertemplate="%{y}: %{x:.4g} ms<extra></extra>",
    )
    axis = {"title": {"text": "kernel time (ms)"}, "range": [0, 1.3 * float(table["total_ms"].max())]}
    return figure.update_layout(template="moe_lab", height=110 + 30 * len(names), xaxis=axis, yaxis=named(names))
