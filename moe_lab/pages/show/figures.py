# SPDX-License-Identifier: Apache-2.0
"""What all figures share: their look, and the escaping of data.

plotly reads ``<b>``, ``&amp;`` and ``%{x}`` in a text as markup, so data is escaped. Importing this module sets the
renderer of plotly so that a figure is stored both as JSON, for JupyterLab and ``moe-lab report``, and as HTML that
draws offline, for plain nbconvert. The environment variable PLOTLY_RENDERER takes precedence.
"""

import html
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from moe_lab.pages.show import palette

P = ParamSpec("P")
R = TypeVar("R")
TEMPLATE = "moe_lab"
MOST_TICKS = 12  # of a logarithmic axis; where there are more, only powers of ten are labelled
LABEL_HEIGHT = 15  # pixels
_GREY = "#636c78"
_GRID = "rgba(128,136,148,0.28)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

pio.templates[TEMPLATE] = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": _GREY},
        "paper_bgcolor": "rgba(0,0,0,0)",  # transparent: pages are light or dark
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 12, "r": 16, "t": 30, "b": 12},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,136,148,0.7)", "activecolor": _GREY},
        "xaxis": {"automargin": True, "gridcolor": _GRID, "zeroline": False, "ticks": "outside", "tickcolor": _GRID},
        "yaxis": {"automargin": True, "gridcolor": _GRID, "zeroline": False},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "hoverlabel": {"font": {"family": _FONT, "size": 13}},
        "bargap": 0.28,
    }
)
if "PLOTLY_RENDERER" not in os.environ:
    pio.renderers.default = "plotly_mimetype+notebook"


def plain(text: str) -> str:
    """Return a text escaped so that plotly shows it as it is, in labels, hovers and templates."""
    return html.escape(text, quote=False).replace("%{", "%&#123;")


def as_text(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that draws: every text in its arguments, also in tables, is passed through ``plain``.

    So the only markup in a figure is what the function itself adds.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        return draw(*map(_plain, args), **{key: _plain(value) for key, value in kwargs.items()})

    return drawn


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, pd.DataFrame):
        return _frame(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple, set):  # not subclasses: named tuples take their fields one by one
        return type(value)(map(_plain, value))
    return value


def _frame(frame: pd.DataFrame) -> pd.DataFrame:
    out = frame.copy()
    for position, dtype in enumerate(frame.dtypes):  # by position: columns may be named by data, and alike
        column = frame.iloc[:, position]
        if isinstance(dtype, pd.CategoricalDtype):
            out.isetitem(position, column.cat.rename_categories(_plain).array)
        elif pd.api.types.is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype):
            out.isetitem(position, pd.Series([_plain(value) for value in column], dtype=dtype).array)
    if pd.api.types.is_object_dtype(frame.index.dtype) or isinstance(frame.index.dtype, pd.StringDtype):
        out.index = frame.index.map(_plain)
    out.attrs = _plain(frame.attrs)
    return out


def panels(titles: Sequence[str], spacing: float, heights: Sequence[float] | None = None, **more: Any) -> go.Figure:
    """Return a figure of panels one below the other, each with its title at the left edge."""
    parts = {"subplot_titles": list(titles), "vertical_spacing": spacing, "row_heights": heights}
    figure = make_subplots(rows=len(titles), **parts, **more)
    figure.update_annotations(font={"size": 13}, x=0, xanchor="left")
    return figure.update_layout(template="moe_lab", margin={"t": 40})


def log_ticks(values: Iterable[Any]) -> dict[str, Any]:
    """Return a logarithmic axis whose ticks read 20, 50, 100: one, two and five of each decade that the values span."""
    known = [float(v) for v in values if v is not None and v == v and v > 0]
    if not known:
        return {"type": "log"}
    decades = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
    steps = (1, 2, 5) if max(known) > 5 * min(known) else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)  # few would be in sight
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    shown = [t for t in ticks if min(known) / 2 <= t <= 2 * max(known)]
    shown = shown if len(shown) <= MOST_TICKS else [t for t in shown if math.log10(t) == round(math.log10(t))]
    return {"type": "log", "tickvals": shown, "ticktext": [f"{t:,.10g}" for t in shown]}


def direct(figure: go.Figure, height: int, low: float, high: float, log: bool = False) -> go.Figure:
    """Write the name of each line at its right end instead of a legend; names that would meet are moved apart.

    The horizontal axis is logarithmic; ``height`` is that of the figure in pixels, ``low`` and ``high`` are the ends of
    its vertical axis, which is logarithmic if ``log``.
    """
    scale = math.log10 if log else float
    bottom, pixels = scale(low), max(1.0, height - 100.0) / (scale(high) - scale(low))  # without axis and title
    ends = []
    for trace in figure.data:
        points = [(x, y) for x, y in zip(trace.x, trace.y, strict=True) if y is not None and y == y]
        ends += [(scale(points[-1][1]), math.log10(points[-1][0]), trace)] if points and trace.name else []
    ends.sort(key=lambda end: end[0])
    heights = _apart([(y - bottom) * pixels for y, *_ in ends], (scale(high) - bottom) * pixels)
    for at, (y, x, trace) in zip(heights, ends, strict=True):
        # The name itself has the colour of text, so that it can be read.
        text = f'<span style="color:{trace.line.color}">\u25cf</span> {trace.name}'
        place = {"x": x, "y": y, "yshift": at - (y - bottom) * pixels, "xshift": 8, "xanchor": "left"}
        figure.add_annotation(**place, text=text, showarrow=False)
    sizes = [math.log10(x) for trace in figure.data for x in trace.x]
    if sizes:
        figure.update_xaxes(range=[min(sizes) - 0.1, max(sizes) + 0.05])
    figure.update_yaxes(range=[bottom, scale(high)])
    most = max((len(str(trace.name)) for *_, trace in ends), default=0)
    return figure.update_layout(showlegend=False, height=height, margin={"r": 24 + 7 * most})


def _apart(heights: Sequence[float], top: float) -> list[float]:
    """Return ascending heights moved at least ``LABEL_HEIGHT`` apart, upwards and then, from ``top``, downwards."""
    found, at = [], -math.inf
    for height in heights:
        at = max(height, at + LABEL_HEIGHT)
        found.append(at)
    for i, height in reversed(list(enumerate(found))):
        found[i] = top = min(height, top)
        top -= LABEL_HEIGHT
    return found


def fused(stage: str) -> dict[str, Any]:
    """Return the marker of a stage: that of a fused one is hatched from the colours of its first and its last part."""
    parts = stage.split("+")
    if len(parts) == 1:
        return {"color": palette.stage(stage)}
    hatch = {"shape": "/", "fillmode": "replace", "size": 8, "solidity": 0.5}
    colors = {"bgcolor": palette.stage(parts[0]), "fgcolor": palette.stage(parts[-1])}
    return {"color": palette.stage(stage), "pattern": hatch | colors}


def over_sizes(figure: go.Figure, sizes: Iterable[int], what: str, height: int, y: str, **axis: Any) -> go.Figure:
    """Finish a figure over sizes: a logarithmic axis with at most six labels, to fit a phone, and room for the legend.

    ``what`` is the title of that axis; ``height`` is without the legend; ``y`` and ``axis`` are for the other axis.
    """
    values = sorted({int(size) for size in sizes if size > 0})
    shown = values[:: max(1, math.ceil(len(values) / 6))]
    ticks = {"type": "log", "tickvals": shown, "ticktext": [f"{m:,}" for m in shown]}
    figure.update_layout(template="moe_lab", height=height + 12 * len(figure.data), showlegend=True)
    figure.update_xaxes(title={"text": what}, **ticks)
    return figure.update_yaxes(title={"text": y}, **axis)


def named(order: Sequence[Any]) -> dict[str, Any]:
    """Return an axis of names, the first at the top, on which every name is written."""
    return {"categoryorder": "array", "categoryarray": list(order)[::-1], "showgrid": False, "dtick": 1}


def cells(scale: Iterable[tuple[float, tuple[str, str]]]) -> dict[str, Any]:
    """Return how a heat map looks: a text in each cell, on tints of the paper.

    ``scale`` has positions from 0 to 1 with ``palette.tints``. The trace has those of light paper and dark text, which
    can be read anywhere; pages on dark paper take ``meta["dark"]`` and light text.
    """
    stops = list(scale)
    light, dark = ([[at, tint[paper]] for at, tint in stops] for paper in (0, 1))
    look: dict[str, Any] = {"showscale": False, "hoverongaps": False, "xgap": 2, "ygap": 2}
    look |= {"texttemplate": "%{text}", "textfont": {"color": "#1d2430"}}
    return look | {"colorscale": light, "meta": {"dark": dark}}


BESIDE = {"orientation": "h", "textposition": "outside", "cliponaxis": False}  # a bar with its number at its end
INSIDE = {"orientation": "h", "textposition": "inside", "textangle": 0, "insidetextanchor": "middle"}
DOWNWARDS = {"autorange": "reversed", "showgrid": False, "dtick": 1}  # like `named`, in the order of the data
