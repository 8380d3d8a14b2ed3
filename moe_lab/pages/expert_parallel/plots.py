# SPDX-License-Identifier: Apache-2.0
"""Figures of experts on several ranks: tables become plotly figures; nothing is computed here."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import INSIDE, as_text, fused, log_ticks, named, over_sizes, panels

HATCH = {"fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.7)", "size": 7, "solidity": 0.25}
COLOURS = {"dispatch": palette.stage("dispatch"), "experts": palette.stage("w13"), "combine": palette.stage("combine")}


@as_text
def times(parts: pd.DataFrame) -> go.Figure:
    """Draw the time of a layer over M, a line per way between ranks, the floor dotted; a panel per model and format.

    ``parts`` is ``analysis.ep.parts``.
    """
    full = parts[parts["part"] == "full"]
    groups = list(full.groupby(["model", "format"], sort=False))
    colours = palette.series(list(dict.fromkeys(full["comm"])))
    figure = panels([f"{model}, {format}" for (model, format), _ in groups], 0.3 / len(groups), shared_xaxes=True)
    for row, (_, part) in enumerate(groups, start=1):
        for comm, own in part.groupby("comm", sort=False):
            line = {"color": colours[comm], "width": 2.2}
            _line(figure, own, "median_us", str(comm), line, row)
        bound = part.dropna(subset="floor_us").drop_duplicates("M")
        if len(bound):
            _line(figure, bound, "floor_us", "floor", {"color": palette.STAGES["other"], "dash": "dot"}, row)
        figure.update_yaxes(**log_ticks([*part["median_us"], *bound["floor_us"]]), row=row, col=1)
    over_sizes(figure, full["M"], "", 140 + 190 * len(groups), "µs")
    return figure.update_xaxes(title={"text": "tokens of each rank (M)"}, row=len(groups), col=1)


def _line(figure: go.Figure, rows: pd.DataFrame, column: str, name: str, line: dict[str, object], row: int) -> None:
    figure.add_scatter(
        x=rows["M"].tolist(),
        y=rows[column].astype(float).tolist(),
        name=name,
        legendgroup=name,
        showlegend=all(drawn.name != name for drawn in figure.data),  # one entry for all panels
        mode="lines+markers",
        line=line,
        hovertemplate="M = %{x:,}: %{y:,.1f} µs<extra>" + name + "</extra>",
        row=row,
        col=1,
    )


@as_text
def ranks(by_rank: pd.DataFrame) -> go.Figure:
    """Draw one stacked bar per M and rank: dispatch, experts, combine, as shares of the slowest rank's time at that M.

    ``by_rank`` is ``analysis.ep.by_rank`` of one model, format and way.
    """
    figure = go.Figure()
    labels = [f"M = {m:,}, rank {rank}" for m, rank in zip(by_rank["M"], by_rank["rank"], strict=True)]
    whole = by_rank[[f"{part}_us" for part in COLOURS]].sum(axis=1)
    longest = whole.groupby(by_rank["M"]).transform("max")
    for part, colour in COLOURS.items():
        us = by_rank[f"{part}_us"]
        figure.add_bar(
            **INSIDE,
            name=part,
            x=(100 * us / longest).tolist(),
            y=labels,
            text=[f"{part} {value:,.0f} µs" for value in us],
            marker={"color": colour},
            hovertemplate="%{y}: %{text}, %{x:.1f} % of the slowest rank's time<extra></extra>",
        )
    figure.update_layout(
        template="moe_lab",
        barmode="stack",
        height=140 + 30 * len(labels),
        uniformtext={"mode": "hide", "minsize": 10},
        xaxis={"title": {"text": "of the slowest rank's time at that M (%)"}, "range": [0, 100]},
        yaxis=named(labels),
    )
    return figure


@as_text
def experts(rows: pd.DataFrame) -> go.Figure:
    """Draw the pairs of each expert, most first, one line per case: columns case, place, pairs."""
    figure = go.Figure()
    colours = palette.series(list(dict.fromkeys(rows["case"])))
    for case, part in rows.groupby("case", sort=False):
        figure.add_scatter(
            x=part["place"].tolist(),
            y=part["pairs"].tolist(),
            name=str(case),
            mode="lines+markers",
            line={"color": colours[case], "width": 2.2},
            marker={"size": 4},
            hovertemplate="%{x}. expert: %{y:,} pairs<extra>" + str(case) + "</extra>",
        )
    figure.update_xaxes(title={"text": "experts, most pairs first"})
    figure.update_yaxes(title={"text": "pairs"}, rangemode="tozero")
    return figure.update_layout(template="moe_lab", height=340, showlegend=True)


@as_text
def step(operations: pd.DataFrame) -> go.Figure:
    """Draw one step, a lane per rank: columns rank, stage, communication (crossed), start_us, end_us."""
    figure = go.Figure()
    order = [f"rank {rank}" for rank in sorted(set(operations["rank"]))]
    for (stage, travels), part in operations.groupby(["stage", "communication"], sort=False):
        us = part["end_us"] - part["start_us"]
        name = f"{stage}, between GPUs" if travels else str(stage)
        hatch = {"pattern": HATCH | {"shape": "x"}} if travels else {}
        figure.add_bar(
            orientation="h",
            name=name,
            base=part["start_us"].tolist(),
            x=us.tolist(),
            y=[f"rank {rank}" for rank in part["rank"]],
            marker={**fused(str(stage)), **hatch},
            customdata=us.tolist(),
            hovertemplate="%{y}: " + name + ", %{customdata:.1f} µs from %{base:.1f} µs<extra></extra>",
        )
    title = {"text": "time since the step's first operation (µs)"}
    axes = {"xaxis": {"title": title}, "yaxis": named(order)}
    return figure.update_layout(template="moe_lab", barmode="overlay", height=190 + 60 * len(order), **axes)


@as_text
def projection(rows: pd.DataFrame, measured: Sequence[int]) -> go.Figure:
    """Draw the parts on more ranks, one panel per M; what is projected is hatched: ``analysis.ep.projection``.

    ``rows`` are of one model, format and way; ``measured`` are the numbers of ranks that were measured.
    """
    groups = list(rows.groupby("M"))
    figure = panels([f"M = {m:,} tokens of each rank" for m, _ in groups], 0.28 / len(groups), shared_xaxes=True)
    for row, (_, part) in enumerate(groups, start=1):
        shape = ["" if count in measured else "/" for count in part["ranks"]]
        for name, colour in COLOURS.items():
            figure.add_bar(
                x=[str(count) for count in part["ranks"]],
                y=part[f"{name}_us"].tolist(),
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                marker={"color": colour, "pattern": HATCH | {"shape": shape}},
                hovertemplate="%{x} ranks: %{y:,.1f} µs<extra>" + name + "</extra>",
                row=row,
                col=1,
            )
        figure.update_yaxes(title={"text": "µs"}, row=row, col=1)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_xaxes(title={"text": "ranks (hatched: projection)"}, row=len(groups), col=1)
    return figure.update_layout(barmode="stack", height=130 + 170 * len(groups))
