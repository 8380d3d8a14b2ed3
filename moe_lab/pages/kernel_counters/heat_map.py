"""What limits each backend at each M, as a heat map: tables become a plotly figure; nothing is computed here."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.analysis import rules
from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import as_text, named, panels


@as_text
def limiters(rows: pd.DataFrame, stage: str) -> go.Figure:
    """Draw what limits each series at each M as a heat map, one panel per GPU; the stronger, the nearer to the roof.

    ``rows`` are ``analysis.limits.beside`` of one stage, and name a limiter each.
    """
    gpus = dict.fromkeys(rows["gpu"]) if "gpu" in rows else {"": None}
    parts = [rows[rows["gpu"] == gpu] if gpu else rows for gpu in gpus]
    heights = [part["series"].nunique() + 1.0 for part in parts]  # in rows of the map; 1 is for the title
    spacing = min(0.9 / max(1, len(parts)), 1.2 / sum(heights))
    figure = panels([f"{gpu or 'limiter'}, {stage}" for gpu in gpus], spacing, heights, shared_xaxes=True)
    names = [rule.name for rule in rules.RULES]
    for panel, part in enumerate(parts, start=1):
        for name, own in part.groupby("limiter", sort=False):
            figure.add_heatmap(**_cells(own, *palette.tints(names.index(str(name)), len(names))), row=panel, col=1)
        figure.update_yaxes(**named(list(dict.fromkeys(part["series"]))), row=panel, col=1)
    sizes = [f"{m:,}" for m in sorted(set(rows["M"]))]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=sizes, showgrid=False)
    figure.update_xaxes(title={"text": "tokens (M)"}, row=len(parts), col=1)
    return figure.update_layout(height=int(90 + 34 * sum(heights)), showlegend=False)


def _cells(rows: pd.DataFrame, pale: str, strong: str) -> dict[str, Any]:
    """Return the cells of one limiter, a trace of a heat map; a limiter without a share has its palest tint."""
    grid = rows.drop_duplicates(["series", "M"]).astype({"limiter_pct": float}).set_index(["series", "M"])
    series, sizes = (list(dict.fromkeys(grid.index.get_level_values(level))) for level in (0, 1))
    there = [[grid.loc[(name, m)] if (name, m) in grid.index else None for m in sizes] for name in series]
    return {
        "x": [f"{m:,}" for m in sizes],
        "y": series,
        "z": [[None if r is None else _share(r) for r in line] for line in there],
        "text": [["" if r is None else _said(r) for r in line] for line in there],
        "customdata": [["" if r is None else _hover(r) for r in line] for line in there],
        "colorscale": [[0, pale], [1, strong]],
        "zmin": 40,
        "zmax": 100,
        "showscale": False,
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{text}",
        "textfont": {"color": "#1d2430", "size": 12},
        "hovertemplate": "%{y} at M = %{x}: %{text}<br>%{customdata}<extra></extra>",
    }


def _share(row: Any) -> float:
    return 40.0 if pd.isna(row["limiter_pct"]) else float(row["limiter_pct"])


def _said(row: Any) -> str:
    return str(row["limiter"]) + ("" if pd.isna(row["limiter_pct"]) else f" {row['limiter_pct']:.0f} %")


def _hover(row: Any) -> str:
    """Return time, shares of the units and launch of a kernel, as far as they are known."""
    said = {
        "µs": "duration_us",
        "% DRAM": "dram_pct",
        "% on chip": "on_chip_pct",
        "% compute": "compute_pct",
        "blocks": "grid_blocks",
        "threads a block": "block_threads",
        "registers": "registers_per_thread",
    }
    known = [f"{float(row[c]):,.4g} {unit}" for unit, c in said.items() if c in row and not pd.isna(row[c])]
    tile = [] if pd.isna(row.get("tile")) else [f"tile {row['tile']}"]
    return ", ".join([*known, *tile])
