# SPDX-License-Identifier: Apache-2.0
"""A small static SVG of a plotly figure, for the index card: cells, bars or lines, no text, no script."""

import base64
import math
from html import escape
from typing import Any

import numpy as np

from moe_lab.pages.show import palette

WIDTH, HEIGHT, PAD = 320, 120, 6


def draw(figure: dict[str, Any]) -> str:
    """Return the figure's heat map, bars or lines as an SVG, or an empty string if it has none.

    Only the traces on the first pair of axes are drawn.
    """
    traces = [t for t in figure["data"] if t.get("xaxis", "x") == "x" and t.get("yaxis", "y") == "y"]
    bars = [t for t in traces if t.get("type") == "bar"]
    lines = [t for t in traces if t.get("type", "scatter").startswith("scatter")]
    maps = [t for t in traces if t.get("type") == "heatmap" and isinstance(t.get("colorscale"), list)]
    shapes = _cells(maps[0]) if maps else _bars(bars, figure["layout"]) if bars else _lines(lines, figure["layout"])
    if not shapes:
        return ""
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true" preserveAspectRatio="none"'
    return f"<svg {frame}>{''.join(shapes)}</svg>"


def _values(raw: Any) -> list[Any]:
    """Return an array in plotly JSON, plain or typed ({dtype, bdata}), as a list."""
    if isinstance(raw, dict) and "bdata" in raw:
        return list(np.frombuffer(base64.b64decode(raw["bdata"]), dtype=np.dtype(raw["dtype"])).tolist())
    return list(raw) if isinstance(raw, list | tuple) else []


def _color(trace: dict[str, Any], i: int, number: int) -> str:
    color = (trace.get("marker") or {}).get("color") or (trace.get("line") or {}).get("color")
    chosen = color[i] if isinstance(color, list) and i < len(color) else color
    return escape(chosen) if isinstance(chosen, str) else palette.nth(number)


def _cells(trace: dict[str, Any]) -> list[str]:
    """Return the cells of a heat map whose first row is at the top, each in the nearest colour of its scale."""
    scale, rows = trace["colorscale"], [_values(row) for row in _values(trace.get("z"))]
    known = [z for row in rows for z in row if z is not None and math.isfinite(z)] or [0]
    low, high = trace.get("zmin", min(known)), trace.get("zmax", max(known))
    fills = [_fill(*tints) for tints in zip(scale, (trace.get("meta") or {}).get("dark", scale), strict=True)]
    wide, high_px = (WIDTH - 2 * PAD) / max(map(len, rows), default=1), (HEIGHT - 2 * PAD) / max(1, len(rows))
    shapes = []
    for i, row in enumerate(rows):
        for j, z in enumerate(row):
            if z is not None and math.isfinite(z):
                share = (z - low) / (high - low or 1)
                fill = fills[min(range(len(scale)), key=lambda stop: abs(scale[stop][0] - share))]
                place = f'x="{PAD + j * wide:.1f}" y="{PAD + i * high_px:.1f}"'
                shapes.append(f'<rect {place} width="{wide - 2:.1f}" height="{high_px - 2:.1f}" {fill}/>')
    return shapes


def _fill(light: list[Any], dark: list[Any]) -> str:
    """Return the attributes of a stop's colour on light paper, and on dark paper where a browser knows light-dark()."""
    first, second = (escape(str(stop[1])) for stop in (light, dark))
    return f'fill="{first}"' + (f' style="fill:light-dark({first},{second})"' if first != second else "")


def _bars(traces: list[dict[str, Any]], layout: dict[str, Any]) -> list[str]:
    mode = layout.get("barmode")
    across = any(t.get("orientation") == "h" for t in traces)
    names = [list(map(str, _values(t.get("y" if across else "x")))) for t in traces]
    sizes = [_values(t.get("x" if across else "y")) for t in traces]
    lanes = list(dict.fromkeys(name for trace in names for name in trace))
    order = (layout.get("yaxis" if across else "xaxis") or {}).get("categoryarray")
    if order:
        # plotly draws the first category of a vertical axis at the bottom.
        lanes = [name for name in map(str, reversed(order) if across else order) if name in set(lanes)]
    ends = dict.fromkeys(lanes, 0.0)
    placed: list[tuple[str, float, float, str, float]] = []
    for number, (trace, lane_names, lengths) in enumerate(zip(traces, names, sizes, strict=True)):
        bases = _values(trace.get("base"))
        for i, (lane, length) in enumerate(zip(lane_names, lengths, strict=False)):
            if length is None or not math.isfinite(length):
                continue
            start = bases[i] if i < len(bases) else ends[lane] if mode in ("stack", "relative") else 0.0
            ends[lane] = start + length
            placed.append((lane, start, length, _color(trace, i, number), _opacity(trace, i)))
    # Lengths are drawn as shares of the longest stack.
    full = max((start + length for _, start, length, *_ in placed), default=0)
    each = 1 / max(1, len(lanes))
    return [
        _bar(lanes.index(lane) * each, each, s / full, n / full, c, o, across) for lane, s, n, c, o in placed if full
    ]


def _opacity(trace: dict[str, Any], i: int) -> float:
    """Return a bar's opacity: bars that are hatched in the figure are pale here."""
    pattern = ((trace.get("marker") or {}).get("pattern") or {}).get("shape")
    return 0.5 if (pattern[i] if isinstance(pattern, list) and i < len(pattern) else pattern) else 1.0


def _bar(lane: float, share: float, start: float, length: float, color: str, opacity: float, across: bool) -> str:
    wide, high = WIDTH - 2 * PAD, HEIGHT - 2 * PAD
    if across:
        x, y, w, h = PAD + start * wide, PAD + (lane + 0.12 * share) * high, length * wide, 0.76 * share * high
    else:
        x, y = PAD + (lane + 0.12 * share) * wide, PAD + (1 - start - length) * high
        w, h = 0.76 * share * wide, length * high
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{color}" opacity="{opacity:g}"/>'


def _lines(traces: list[dict[str, Any]], layout: dict[str, Any]) -> list[str]:
    drawn = []
    for number, trace in enumerate(traces):
        points = [
            (px, py)
            for x, y in zip(_values(trace.get("x")), _values(trace.get("y")), strict=False)
            if (px := _position(x, layout.get("xaxis"))) is not None
            and (py := _position(y, layout.get("yaxis"))) is not None
        ]
        if points:
            drawn.append((points, _color(trace, 0, number)))
    if not drawn:
        return []
    xs, ys = ([p[axis] for points, _ in drawn for p in points] for axis in (0, 1))
    scaled = []
    for points, color in drawn:
        path = " ".join(f"{_scale(x, xs, WIDTH):.1f},{HEIGHT - _scale(y, ys, HEIGHT):.1f}" for x, y in points)
        scaled.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"/>')
    return scaled


def _position(value: Any, axis: dict[str, Any] | None) -> float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if (axis or {}).get("type") == "log":
        return math.log10(value) if value > 0 else None
    return float(value)


def _scale(value: float, of: list[float], size: int) -> float:
    low, high = min(of), max(of)
    return PAD + (size - 2 * PAD) * ((value - low) / (high - low) if high > low else 0.5)
