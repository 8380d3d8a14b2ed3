# SPDX-License-Identifier: Apache-2.0
"""Figures of a comparison: tables become plotly figures."""

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import as_text, named, over_sizes

MOST = 30  # rows of a figure
COLOURS = {
    "slower": palette.AUTO,
    "quicker": palette.STAGES["self_attn"],
    "unclear": palette.STAGES["other"],
    "even": palette.STAGES["other"],
}
SYMBOLS = {"slower": "triangle-right", "quicker": "triangle-left", "unclear": "circle-open", "even": "circle"}


@as_text
def changes(rows: pd.DataFrame, threshold_pct: float) -> go.Figure:
    """Draw the change of each row with its interval, and the threshold as a band.

    Args:
        rows: ``tables.changes``: name, change_pct, low_pct, high_pct (NA = no interval), verdict, said.
        threshold_pct: half the width of the band.
    """
    figure = go.Figure()
    figure.add_vrect(-threshold_pct, threshold_pct, fillcolor=palette.STAGES["norm"], opacity=0.18, line_width=0)
    for verdict, own in rows.groupby("verdict", sort=False):
        figure.add_scatter(
            x=own["change_pct"].tolist(),
            y=own["name"].tolist(),
            name=str(verdict),
            mode="markers",
            marker={"color": COLOURS[str(verdict)], "symbol": SYMBOLS[str(verdict)], "size": 10},
            error_x={
                "visible": bool(own["low_pct"].notna().any()),
                "array": _lengths(own["high_pct"] - own["change_pct"]),
                "arrayminus": _lengths(own["change_pct"] - own["low_pct"]),
            },
            customdata=own["said"].tolist(),
            hovertemplate="%{y}: %{x:+.1f} %<br>%{customdata}<extra></extra>",
        )
    figure.update_yaxes(named(rows["name"].tolist()))
    figure.update_xaxes(title={"text": "B over A - 1 (%)"}, zeroline=True)
    return figure.update_layout(template="moe_lab", height=140 + 26 * len(rows), showlegend=True)


def _lengths(column: "pd.Series[float]") -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in column]


@as_text
def ratios(rows: pd.DataFrame, size: str) -> go.Figure:
    """Draw B over A over the sizes of a benchmark, one line a backend; ``rows`` has ``size``, series and ratio."""
    figure = go.Figure()
    for series, own in rows.groupby("series", sort=False):
        figure.add_scatter(
            x=own[size].tolist(),
            y=own["ratio"].tolist(),
            name=str(series),
            mode="lines+markers",
            line={"color": palette.of(str(series))},
            hovertemplate=f"{series}, {size} = %{{x:,}}: %{{y:.2f}}<extra></extra>",
        )
    figure.add_hline(1, line={"color": palette.STAGES["other"], "width": 1, "dash": "dot"})
    return over_sizes(figure, rows[size], f"tokens ({size})" if size == "M" else size, 380, "B over A")
