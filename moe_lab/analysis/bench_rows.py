"""The rows of a benchmark run, or the sentence that stands for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

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
    def roofs(self) -> pd.DataFrame:
        """The roofs of the run's GPU, as ``analysis.roofs.of_gpu`` returns them: the same on every page."""
        if self.run is None:
            return of_gpu(None, [])
        others = [run for run in self.known if run.manifest.get("name") != self.run.manifest["name"]]
        return of_gpu((self.run.manifest.get("gpu") or {}).get("name"), [self.run, *others])
