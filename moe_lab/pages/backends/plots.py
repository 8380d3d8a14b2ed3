# SPDX-License-Identifier: Apache-2.0
"""The matrix of backends and formats as a heat map: a table becomes a plotly figure."""

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import as_text, cells, named


@as_text
def grid(table: pd.DataFrame) -> go.Figure:
    """Draw which backend takes which format: strong where a stored run tried it, pale where the plugin states it.

    ``table`` is ``analysis.support.grid``.
    """
    takes = table.set_index("backend")
    said = [[str(cell) for cell in row] for row in takes.to_numpy()]
    figure = go.Figure()
    figure.add_heatmap(
        x=list(takes.columns),
        y=list(takes.index),
        z=[[None if not cell else int(cell != "stated") for cell in row] for row in said],
        zmin=0,
        zmax=1,
        text=said,
        hovertemplate="%{y} in %{x}: %{text}<extra></extra>",
        **cells(enumerate(palette.tints(2, 6))),
    )
    figure.update_xaxes(type="category", showgrid=False, side="top", ticks="", tickangle=-45, dtick=1)
    figure.update_layout(template="moe_lab", height=154 + 24 * len(takes), yaxis=named(list(takes.index)))
    return figure.update_layout(margin={"t": 120})  # tilted names of formats end below the buttons
