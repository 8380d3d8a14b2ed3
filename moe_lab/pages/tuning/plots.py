# SPDX-License-Identifier: Apache-2.0
"""Figures of a tuning: tables become plotly figures; nothing is computed here."""

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import as_text, log_ticks, over_sizes, panels

_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")


@as_text
def landscape(rows: pd.DataFrame) -> go.Figure:
    """Draw the time of every tile over its columns: a panel per GEMM, a colour per block_m, a symbol per block_k.

    ``rows`` is ``analysis.tuning.landscape`` with at least one tile.
    """
    parts = list(dict.fromkeys(rows["part"]))
    titles = [f"{part} at M = {int(rows['M'].iloc[0]):,}" for part in parts]
    figure = panels(titles, 0.26 / len(parts))
    colors = palette.series(sorted(set(rows["block_m"])))
    symbols = dict(zip(sorted(set(rows["block_k"])), _SYMBOLS, strict=False))
    drawn: set[str] = set()
    for (part, block_m, block_k), own in rows.groupby(["part", "block_m", "block_k"], sort=True):
        name = f"block_m {block_m}, block_k {block_k}"
        row = parts.index(str(part)) + 1
        figure.add_scatter(
            x=[f"{n}" for n in own["block_n"]],
            y=own["us"].tolist(),
            name=name,
            legendgroup=name,
            showlegend=name not in drawn,  # one entry for the points of both panels
            mode="markers",
            marker={"color": colors.get(block_m), "symbol": symbols.get(block_k), "size": 8, "opacity": 0.75},
            customdata=[f"{t}, {o:.2f} times the best" for t, o in zip(own["tile"], own["over_best"], strict=True)],
            hovertemplate="%{customdata}<br>%{y:,.1f} µs<extra></extra>",
            row=row,
            col=1,
        )
        drawn.add(name)
    order = [f"{n}" for n in sorted(set(rows["block_n"]))]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    figure.update_xaxes(title={"text": "columns of a tile (block_n)"}, row=len(parts), col=1)
    figure.update_yaxes(title={"text": "time (µs)"}, **log_ticks(rows["us"]))
    return figure.update_layout(height=150 + 270 * len(parts) + 12 * len(drawn))


@as_text
def keys(chosen: pd.DataFrame, between: pd.DataFrame) -> go.Figure:
    """Draw what tuned tiles save over the backend's own, and what the nearest key costs.

    ``chosen`` is ``analysis.tuning.chosen``; ``between`` is ``analysis.tuning.between``, perhaps empty.
    """
    figure = go.Figure()
    saved = chosen.dropna(subset="gain_pct")
    figure.add_scatter(
        x=saved["M"].tolist(),
        y=saved["gain_pct"].tolist(),
        name="saved at a tuned M",
        mode="lines+markers",
        line={"color": palette.STAGES["self_attn"], "width": 2.4},
        hovertemplate="M = %{x:,}: %{y:.1f} % less than the backend's own tile<extra></extra>",
    )
    figure.add_scatter(
        x=between["M"].tolist(),
        y=between["cost_pct"].tolist(),
        name="lost to the nearest key between them",
        mode="markers",
        marker={"color": palette.STAGES["w2"], "size": 9, "symbol": "diamond"},
        customdata=between["nearest"].tolist(),
        hovertemplate="M = %{x:,}: the tiles of M = %{customdata:,} cost %{y:.1f} %<extra></extra>",
    )
    return over_sizes(figure, saved["M"], "tokens (M)", 360, "of the time of a call (%)", rangemode="tozero")
