# SPDX-License-Identifier: Apache-2.0
"""What limits each backend at each M, as a heat map: tables become a plotly figure; nothing is computed here."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.analysis import rules
from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import DOWNWARDS, as_text, cells, panels

WEAK_PCT = 40.0  # the palest tint; nothing limits at less


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
    sizes = sorted(set(rows["M"]))
    for panel, part in enumerate(parts, start=1):
        figure.add_heatmap(**_cells(part, sizes), row=panel, col=1)
        figure.update_yaxes(**DOWNWARDS, row=panel, col=1)
    figure.update_xaxes(type="category", showgrid=False, dtick=1)
    figure.update_xaxes(title={"text": "tokens (M)"}, row=len(parts), col=1)
    return figure.update_layout(height=int(70 + 38 * sum(heights)), showlegend=False)


def _cells(rows: pd.DataFrame, sizes: Sequence[int]) -> dict[str, Any]:
    """Return the cells of one GPU: each limiter has a range of z of length one, and within it the share of its roof."""
    names = [rule.name for rule in rules.RULES]
    there = {(r["series"], r["M"]): r for r in rows.to_dict("records")}
    grid = [[there.get((name, m)) for m in sizes] for name in dict.fromkeys(rows["series"])]
    tints = [palette.tints(number, len(names)) for number in range(len(names))]
    scale = [
        ((i + end) / len(names), tint) for i, pair in enumerate(tints) for end, tint in zip((0, 1), pair, strict=True)
    ]
    return {
        "x": [f"{m:,}" for m in sizes],
        "y": list(dict.fromkeys(rows["series"])),
        "z": [[r and names.index(r["limiter"]) + _strength(r) for r in line] for line in grid],
        "text": [["" if r is None else _said(r) for r in line] for line in grid],
        "customdata": [["" if r is None else _hover(r) for r in line] for line in grid],
        "zmin": 0,
        "zmax": len(names),
        **cells(scale),
        "hovertemplate": "%{y} at M = %{x}: %{text}<br>%{customdata}<extra></extra>",
    }


def _strength(row: Mapping[Hashable, Any]) -> float:
    """Return 0 to just below 1, so that z stays within the range of the limiter."""
    share = WEAK_PCT if pd.isna(row["limiter_pct"]) else float(row["limiter_pct"])
    return min(0.99, max(0.01, (share - WEAK_PCT) / (100 - WEAK_PCT)))


def _said(row: Mapping[Hashable, Any]) -> str:
    return str(row["limiter"]) + ("" if pd.isna(row["limiter_pct"]) else f"<br>{row['limiter_pct']:.0f} %")


def _hover(row: Mapping[Hashable, Any]) -> str:
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
