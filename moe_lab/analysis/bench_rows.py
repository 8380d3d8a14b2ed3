# SPDX-License-Identifier: Apache-2.0
"""The rows of a benchmark run, or a sentence on why there are none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.captures import short_gpu
from moe_lab.analysis.roofs import of_gpu
from moe_lab.runs import Run


@dataclass(frozen=True)
class BenchRun:
    """A run of a benchmark, or the reason why there is none.

    Attributes:
        run: the run; None if there is none.
        rows: its rows; empty without a run.
        missing: a sentence on the missing run; empty if there is one.
        known: other runs in which roofs of its GPU are looked for.
    """

    run: Run | None
    rows: pd.DataFrame
    missing: str = ""
    known: Sequence[Run] = ()

    @property
    def gpu(self) -> str:
        """The GPU's name without its vendor."""
        return short_gpu(((self.run.manifest if self.run else {}).get("gpu") or {}).get("name")) or "an unknown GPU"

    @property
    def roofs(self) -> pd.DataFrame:
        """The roofs of the run's GPU, as ``analysis.roofs.of_gpu`` returns them: the same on every page."""
        if self.run is None:
            return of_gpu(None, [])
        others = [run for run in self.known if run.manifest.get("name") != self.run.manifest["name"]]
        return of_gpu((self.run.manifest.get("gpu") or {}).get("name"), [self.run, *others])


def some(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return a list of the table, empty if it has no rows, so that a notebook draws it in a loop or not at all."""
    return [rows] if len(rows) else []


def verdicts(rows: pd.DataFrame, one: str, other: str) -> Any:
    """Return ``ahead``, ``behind`` or ``even`` for each row, by the percentiles of the repetitions of the two.

    Two medians alone would call noise a lead: four fifths of one's repetitions must be quicker than four fifths of the
    other's. ``one`` and ``other`` are the suffixes of their columns p20_us and p80_us.
    """
    ahead = rows[f"p80_us{one}"] < rows[f"p20_us{other}"]
    behind = rows[f"p80_us{other}"] < rows[f"p20_us{one}"]
    # Without percentiles (NA) neither is ahead.
    return np.select([ahead.fillna(False).astype(bool), behind.fillna(False).astype(bool)], ["ahead", "behind"], "even")
