"""The rows of a benchmark run, or the sentence that stands for them."""

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
        missing: one sentence, empty with a run.
        known: runs to look for the roofs of its GPU in.
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
    """Return the table as the only one of a list, or no table if it has no rows: what a notebook draws in a loop."""
    return [rows] if len(rows) else []


def verdicts(rows: pd.DataFrame, one: str, other: str) -> Any:
    """Return whether one is ahead of another, behind or even, by the percentiles of their repetitions.

    Two medians alone would call noise a lead: the four fifths of one must lie below the four fifths of the other. The
    columns p20_us and p80_us of each have its suffix.
    """
    ahead = rows[f"p80_us{one}"] < rows[f"p20_us{other}"]
    behind = rows[f"p80_us{other}"] < rows[f"p20_us{one}"]
    return np.select([ahead.fillna(False).astype(bool), behind.fillna(False).astype(bool)], ["ahead", "behind"], "even")
