# SPDX-License-Identifier: Apache-2.0
"""One table over all points of a grid: what was set, and what each page found."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from moe_lab.report.files import replace
from moe_lab.report.model import Page

FILE = "grid.csv"


def table(pages: Sequence[Page]) -> pd.DataFrame:
    """Return one row per page: page (its title, if there are several), each parameter that varies, headline."""
    names = list(dict.fromkeys(name for page in pages for name in page.point))
    rows = [{"page": page.title, **page.point, "headline": page.failed or page.headline} for page in pages]
    frame = pd.DataFrame(rows, columns=["page", *names, "headline"])
    return frame if frame["page"].nunique() > 1 else frame.drop(columns="page")


def write(pages: Sequence[Page], out: Path) -> Path:
    """Write ``grid.csv``: the rows behind each page's headline, each with page, file and parameters of its point."""
    rows = [
        {"page": page.title, "file": page.html.name, **page.point, "headline": page.failed or page.headline} | row
        for page in pages
        for row in page.rows or [{}]
    ]
    path = out / FILE
    replace(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    return path
