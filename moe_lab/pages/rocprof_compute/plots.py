# SPDX-License-Identifier: Apache-2.0
"""Figures of the AMD notebook: tables become plotly figures; nothing is computed here."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from moe_lab.pages.rocprof_compute.tables import NONE
from moe_lab.pages.show import palette
from moe_lab.pages.show.figures import BESIDE, DOWNWARDS, as_text, named, panels
from moe_lab.pages.show.notes import Note

KERNELS = 3  # kernels drawn; the tables have all
WAYS = palette.series(("read", "write", "atomic")) | {"not told apart": palette.STAGES["rest of mlp"]}
HATCHED = {"shape": "/", "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.55)", "size": 7, "solidity": 0.22}
LEVELS = palette.series(("LDS", "vL1D", "L2", "HBM"))
NO_ROOFLINE = Note(
    "No roofline: these folders have no roofline.csv (profile with `--roof-only`), and of none of their kernels are "
    "floating-point operations, bytes and duration all known."
)
COMPUTE = ("VALU FP32", "MFMA BF16")  # the measured compute roofs that matter for MoE kernels
_X = (0.01, 10_000.0)  # FLOP per byte


@as_text
def align_published(table: pd.DataFrame) -> go.Figure:
    """Draw the counters of the align kernels in ``published.align_amd``, hatched as figures of others."""
    drawn = {"cycles_k": "cycles (thousand)", "active_cus": "active CUs", "l1_hit_pct": "vL1D hit rate (%)"}
    figure = panels([*drawn.values()], 0.13)
    names = [_broken(str(k)) for k in table["kernel"]]
    for row, (column, title) in enumerate(drawn.items(), start=1):
        values = [float(v) for v in table[column]]
        figure.add_bar(
            **BESIDE,
            x=values,
            y=names,
            text=[f" {v:g}" for v in values],
            showlegend=False,
            hovertemplate=f"%{{y}}: %{{x:g}} {title}<extra>published</extra>",
            marker={"color": palette.nth(0), "pattern": HATCHED},
            row=row,
            col=1,
        )
        figure.update_xaxes(range=[0, 1.15 * max(values)], row=row, col=1)  # room for the numbers beside the bars
        figure.update_yaxes(**DOWNWARDS, row=row, col=1)
    return figure.update_layout(height=500)


@as_text
def stalls(tables: Mapping[str, pd.DataFrame]) -> go.Figure | Note:
    """Draw what the vector memory path of the first kernels waits for; ``tables``: run -> ``analysis.amd.stalls``."""
    figure = go.Figure()
    known = [(run, k, t[t["value"].fillna(0) > 0]) for run, k, t in _kernels(tables)]
    labels = list(dict.fromkeys(label for _, _, t in known for label in t["label"]))
    if not labels:
        return NONE if not tables else Note("None of these kernels was seen to wait for vector memory.")
    for i, (run, kernel, part) in enumerate(known):
        name = f"{_short(kernel)}, {run}" if len(tables) > 1 else _short(kernel)
        figure.add_bar(
            **BESIDE,
            name=name,
            x=part["value"].tolist(),
            y=[_broken(label) for label in part["label"]],
            text=[f" {v:.1f} %" for v in part["value"]],
            customdata=part["of"].tolist(),
            hovertemplate="%{y}: %{x:.2f} % of %{customdata}<extra>" + name + "</extra>",
            marker={"color": palette.nth(i)},
        )
    most = max(float(t["value"].max()) for _, _, t in known if len(t))
    figure.update_layout(
        template="moe_lab",
        barmode="group",
        showlegend=len(known) > 1,
        height=130 + len(labels) * (26 + 14 * len(known)),  # groups of bars, one per kernel
        margin={"b": 80},  # for the legend
        xaxis={"title": {"text": "share of cycles (%)"}, "range": [0, 1.2 * most]},
        yaxis=named([_broken(label) for label in labels]),
    )
    return figure


@as_text
def memory(tables: Mapping[str, pd.DataFrame]) -> go.Figure | Note:
    """Draw what each level moves per launch of the first kernels; run -> ``analysis.amd.memory.traffic``."""
    drawn = _kernels(tables)
    if not drawn:
        return NONE
    figure = panels([f"{_short(k)}, {run}" for run, k, _ in drawn], min(0.3, 0.42 / len(drawn)))
    seen: set[str] = set()
    for row, (_, _, table) in enumerate(drawn, start=1):
        levels = [_level(row) for row in table.to_dict("records")]
        for way, color in WAYS.items():
            values = _moved(table, way)
            if any(v for v in values):
                figure.add_bar(
                    orientation="h",
                    name=way,
                    legendgroup=way,
                    showlegend=way not in seen,  # one entry for the bars of all panels
                    x=values,
                    y=levels,
                    text=[f"{v:.3g}" if v else "" for v in values],
                    textposition="inside",
                    textangle=0,
                    marker={"color": color},
                    hovertemplate=f"%{{y}}, {way}: %{{x:.4g}} MB<extra></extra>",
                    row=row,
                    col=1,
                )
                seen.add(way)
        figure.update_yaxes(**named(levels), row=row, col=1)
    figure.update_xaxes(title={"text": "moved in one launch (MB)"}, row=len(drawn), col=1)
    hidden = {"mode": "hide", "minsize": 10}  # no text where it would not fit into its bar
    return figure.update_layout(barmode="stack", height=110 + 190 * len(drawn), margin={"b": 84}, uniformtext=hidden)


@as_text
def roofline(points: Mapping[str, pd.DataFrame], roofs: Mapping[str, pd.DataFrame]) -> go.Figure | Note:
    """Draw kernels under the roofs measured on the same GPU, those of the first run that has any.

    For each run, ``points`` is ``analysis.amd.memory.roofline`` and ``roofs`` is ``analysis.amd.memory.roofs``.
    """
    measured = [(run, r) for run, r in roofs.items() if len(r)]
    whose, roof = measured[0] if measured else ("", pd.DataFrame(columns=["kind", "name", "value"]))
    known = {run: t.dropna(subset=["flop_per_byte", "gflop_per_s"]) for run, t in points.items()}
    if roof.empty and not any(len(t) for t in known.values()):
        return NO_ROOFLINE if points else NONE
    figure = go.Figure()
    compute = roof[(roof["kind"] == "compute") & roof["name"].isin(COMPUTE)]
    _roofs(figure, roof, compute)
    for run, table in known.items():
        for level, part in table.groupby("level", sort=False):
            figure.add_scatter(
                x=part["flop_per_byte"].tolist(),
                y=part["gflop_per_s"].tolist(),
                mode="markers",
                name=f"{level}: kernels" + (f" of {run}" if len(known) > 1 else ""),
                text=part["kernel"].tolist(),
                marker={"color": LEVELS[str(level)], "size": 9, "line": {"width": 1, "color": "white"}},
                hovertemplate="%{text}<br>%{x:.3g} FLOP/byte, %{y:.4g} GFLOP/s<extra>" + str(level) + "</extra>",
            )
    if not any(len(t) for t in known.values()):
        text = "no point: no kernel here does<br>floating-point operations that were counted"
        figure.add_annotation(text=text, showarrow=False, x=0.98, y=0.1, xref="paper", yref="paper", align="right")
    log = {"type": "log", "exponentformat": "power"}
    figure.update_layout(
        template="moe_lab",
        height=560,
        margin={"b": 150},  # for the legend, which names every roof
        xaxis={"title": {"text": f"executed FLOP per byte{f'; roofs of {whose}' if whose else ''}"}, **log, "dtick": 1},
        yaxis={"title": {"text": "GFLOP/s"}, **log, "dtick": 1},
    )
    return figure


def _roofs(figure: go.Figure, roof: pd.DataFrame, compute: pd.DataFrame) -> None:
    top = float(compute["value"].max()) if len(compute) else math.nan
    for name, value in zip(compute["name"], compute["value"], strict=True):
        dash = "dot" if name.startswith("VALU") else "dash"
        _line(figure, _X, (value, value), f"{name}, {value / 1e3:.3g} TFLOP/s", palette.STAGES["other"], dash)
    for name, value in zip(*(roof.loc[roof["kind"] == "bandwidth", c] for c in ("name", "value")), strict=True):
        # A slope ends at the highest compute roof; NaN = there is none.
        end = top / value if top == top else _X[1]
        _line(figure, (_X[0], end), (_X[0] * value, end * value), f"{name}, {value:,.0f} GB/s", LEVELS[name], "solid")


def _line(figure: go.Figure, x: tuple[float, float], y: tuple[float, float], name: str, color: str, dash: str) -> None:
    line = {"color": color, "dash": dash, "width": 1.8}
    figure.add_scatter(x=list(x), y=list(y), mode="lines", name=name, line=line, hoverinfo="name")


def _kernels(tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame]]:
    """Return (run, kernel, its rows) of the first kernels of each run."""
    return [(run, k, t[t["kernel"] == k]) for run, t in tables.items() for k in [*dict.fromkeys(t["kernel"])][:KERNELS]]


def _moved(table: pd.DataFrame, way: str) -> list[float]:
    """Return MB at each level: reads, writes and atomics if they are counted apart, else the total."""
    parts = table[["read_bytes", "write_bytes", "atomic_bytes"]]
    column = table["bytes"].where(parts.isna().all(axis=1)) if way == "not told apart" else table[f"{way}_bytes"]
    return [0.0 if pd.isna(v) else float(v) / 1e6 for v in column]


def _level(row: Mapping[Hashable, Any]) -> str:
    """Return a level with its hit rate and which of its bytes are not known, as a missing bar would look like 0."""
    label = str(row["level"])
    ways = [w for w in ("read", "write") if pd.isna(row[f"{w}_bytes"])]
    lost = ways if len(ways) == 1 else ["traffic"] if pd.isna(row["bytes"]) else []
    hit = [] if pd.isna(row["hit_pct"]) else [f"{row['hit_pct']:.0f} % hit"]
    return "<br>".join([label, *hit, *(f"{w} not known" for w in lost)])


def _broken(label: str) -> str:
    """Break a long label into two lines, so that there is room for bars on a phone."""
    spaces = [i for i, letter in enumerate(label) if letter == " "]
    if len(label) < 18 or not spaces:
        return label
    at = min(spaces, key=lambda i: abs(2 * i - len(label)))
    return f"{label[:at]}<br>{label[at + 1 :]}"


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"
