# SPDX-License-Identifier: Apache-2.0
"""What a figure shows, in words, for readers who do not see it."""

import html
import re
from typing import Any

MOST_NAMES = 12  # of series


def figure(drawn: dict[str, Any]) -> str:
    """Return title and summary of a figure in plotly JSON: what it sets against what, of how many series, by name."""
    layout, names = drawn["layout"], list(dict.fromkeys(t["name"] for t in drawn["data"] if t.get("name")))
    x, y = (_axes(layout, letter) for letter in "xy")
    titles = [_plain(a["text"]) for a in layout.get("annotations", []) if a.get("yref") == "paper"]  # of panels
    axes = [", ".join(y or titles), ", ".join(x)]
    title = _text(layout.get("title")) or " over ".join(filter(None, axes)) or "plot"
    kinds = ", ".join(dict.fromkeys(_KINDS.get(t.get("type", "scatter"), "plot") for t in drawn["data"]))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    series = f" of {', '.join(map(_plain, names[:MOST_NAMES]))}{more}" if names else ""
    return f"{title}: {kinds or 'no data'}{series}."


_KINDS = {"bar": "bars", "scatter": "lines or points", "heatmap": "heat map", "waterfall": "bars"}


def _axes(layout: dict[str, Any], letter: str) -> list[str]:
    found = (_text(axis.get("title")) for key, axis in layout.items() if re.fullmatch(rf"{letter}axis\d*", key))
    return list(dict.fromkeys(filter(None, found)))


def _text(title: Any) -> str:
    return _plain(str(title.get("text") or "")) if isinstance(title, dict) else ""


def _plain(text: str) -> str:
    """Return a text of plotly without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", " ", text)).strip()
