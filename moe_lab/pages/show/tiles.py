# SPDX-License-Identifier: Apache-2.0
"""Tiles in tables: one column for each of their numbers, so that they can be sorted and compared."""

import pandas as pd

from moe_lab.pages.show.tables import Column
from moe_lab.spec.configs.tile import FIELDS


def split(frame: pd.DataFrame, key: str, count: int = 3, group: str = "") -> tuple[pd.DataFrame, list[Column]]:
    """Return the rows with the first ``count`` numbers of their tile apart, and the columns that show them.

    ``frame[key]`` has texts such as ``128x256x64``, or NA; the numbers are NA where the tile is not known.
    """
    pattern = "x".join([r"(\d+)"] * count)
    sizes = frame[key].astype("string").str.extract(pattern).astype("Int64")
    names = FIELDS[:count]
    shown = frame.assign(**{f"{key}_{name}": sizes[i] for i, name in enumerate(names)})
    return shown, [Column(f"{key}_{name}", name, digits=0, group=group or key) for name in names]
