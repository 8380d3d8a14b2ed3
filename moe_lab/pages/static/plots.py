# SPDX-License-Identifier: Apache-2.0
"""Heat maps of compiled code: tables become a plotly figure; nothing is computed here."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import as_text, cells, named, panels

# Column -> title, hue of the map, and whether more is better.
MAPS = {
    "static_registers": ("Registers per thread", 0, False),
    "spills": ("Spills", 4, False),
    "static_occupancy_pct": ("Occupancy, %", 2, True),
    "load_bytes": ("Load width, bytes per thread", 1, True),
}
ROW, GAP = 19, 66  # pixels


@as_text
def over_architectures(table: pd.DataFrame) -> go.Figure:
    """Draw a heat map for each of ``MAPS`` over kernels and architectures; the stronger a cell, the worse.

    ``table`` is ``static_tables.over_architectures`` with at least one row.
    """
    kernels, archs = (list(dict.fromkeys(table[column])) for column in ("what", "arch"))
    height = 44 + ROW * len(kernels)
    figure = panels([title for title, _, _ in MAPS.values()], GAP / (len(MAPS) * (height + GAP)), shared_xaxes=False)
    for panel, (column, (_, hue, better)) in enumerate(MAPS.items(), start=1):
        grid = table.pivot(index="what", columns="arch", values=column).reindex(index=kernels, columns=archs)
        tints = palette.tints(hue, 6)
        look = cells(enumerate(tints[::-1] if better else tints))
        figure.add_heatmap(**_cells(grid.astype(float)), **look, row=panel, col=1)
    figure.update_yaxes(**named(kernels), tickfont={"size": 11})
    figure.update_xaxes(type="category", showgrid=False, side="top", ticks="", tickangle=-35, tickfont={"size": 11})
    figure.update_annotations(yshift=36)
    return figure.update_layout(height=len(MAPS) * (height + GAP) + 20, showlegend=False, margin={"t": 80})


def _cells(grid: pd.DataFrame) -> dict[str, Any]:
    values = [[None if pd.isna(value) else value for value in row] for row in grid.to_numpy()]
    return {
        "x": list(grid.columns),
        "y": list(grid.index),
        "z": values,
        "text": [["" if value is None else f"{value:,.0f}" for value in row] for row in values],
        "hovertemplate": "%{y} on %{x}: %{z:,.4g}<extra></extra>",
    }
