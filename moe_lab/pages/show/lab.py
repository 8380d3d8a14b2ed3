# SPDX-License-Identifier: Apache-2.0
"""What ``%load_ext moe_lab`` does in a notebook: data frames and figures look as they do on the pages."""

from typing import Any

import pandas as pd
import plotly.io as pio

from moe_lab.pages.show import figures
from moe_lab.pages.show.tables import Table, guessed

MOST_ROWS = 60  # as many as pandas shows


def load(ipython: Any) -> None:
    """Register the style of tables for data frames, and the template of ``figures`` for figures."""
    ipython.display_formatter.formatters["text/html"].for_type(pd.DataFrame, html)
    pio.templates.default = figures.TEMPLATE


def html(frame: pd.DataFrame) -> str | None:
    """Return a data frame in the style of the pages, with heads, units and digits of the schema.

    None, so that pandas shows it, if its index or columns are not plain, or it is empty.
    """
    plain = isinstance(frame.index, pd.RangeIndex) and frame.columns.is_unique and frame.columns.nlevels == 1
    if not plain or not len(frame) or not all(isinstance(column, str) for column in frame.columns):
        return None
    cut = f"{len(frame):,} rows, the first {MOST_ROWS} of them shown" if len(frame) > MOST_ROWS else ""
    return Table(frame.head(MOST_ROWS), guessed(frame), cut).html()
