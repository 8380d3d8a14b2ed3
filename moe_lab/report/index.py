# SPDX-License-Identifier: Apache-2.0
"""The index page: one card per page, with its headline finding."""

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from moe_lab.report.files import render, replace
from moe_lab.report.model import Page
from moe_lab.report.points import FILE


def write(pages: Sequence[Page], out: Path, points: pd.DataFrame | None = None) -> Path:
    """Write ``index.html`` beside the pages, with one card per page in their order, and return its path.

    ``points`` is ``points.table`` of a grid: a table after the cards, whose headlines lead to their pages.
    """
    now = datetime.now(timezone.utc)
    text = render(
        "index.html.j2",
        pages=pages,
        points=None if points is None else points.to_dict("split"),
        points_file=FILE,
        written=f"{now:%Y-%m-%d %H:%M} UTC",
        failed=sum(p.failed is not None for p in pages),
    )
    path = out / "index.html"
    replace(path, text)
    return path
