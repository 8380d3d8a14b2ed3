"""The rows of a benchmark run, or the sentence that stands for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from moe_lab import runs
from moe_lab.analysis.roofs import of_gpu
from moe_lab.spec.errors import UserError


@dataclass(frozen=True)
class BenchRun:
    """A run of a benchmark, or the reason why there is none.

    Attributes:
        run: the run; None if there is none.
        rows: its rows; empty without a run.
        missing: one sentence, empty with a run.
    """

    run: runs.Run | None
    rows: pd.DataFrame
    missing: str = ""

    @property
    def roofs(self) -> pd.DataFrame:
        """The roofs of the run's GPU, as ``analysis.roofs.of_gpu`` returns them: the same on every page."""
        if self.run is None:
            return of_gpu(None, [])
        others = [run for run in runs.list_runs() if run.manifest.get("name") != self.run.manifest["name"]]
        return of_gpu((self.run.manifest.get("gpu") or {}).get("name"), [self.run, *others])


def bench_rows(bench: str, name: str, columns: Sequence[str]) -> tuple[runs.Run | None, pd.DataFrame, str]:
    """Return (run, rows, missing): without a run no rows, and one sentence that says so; else an empty one.

    Args:
        bench: the benchmark: ``align``, ``experts`` or ``tune``.
        name: run name or folder; empty = none.
        columns: that the rows have at least; NA where the run lacks them.

    Raises:
        UserError: the run is a capture, or of another benchmark.
    """
    known = {str(run.manifest["name"]): run for run in runs.list_runs()}
    if not name or (name not in known and not (runs.profiles_root() / name).exists()):
        command = bench if bench == "tune" else f"bench {bench}"
        make = f"on a GPU, with: moe-lab {command} --name {name.split('/')[-1] or 'X'}."
        there = ", ".join(n for n, run in known.items() if run.manifest.get("bench") == bench)
        which = f"There is no run '{name}' of the {bench} benchmark" if name else "No benchmark was asked for"
        nothing = pd.DataFrame({column: pd.Series(dtype="object") for column in columns})
        return None, nothing, f"{which}; make one {make}" + (f" There are: {there}." if there else "")
    run = known.get(name) or runs.load(name)
    rows = run.rows()
    if run.manifest["bench"] != bench:
        raise UserError(f"'{name}' is of the benchmark '{run.manifest['bench']}', not of {bench}; give another run.")
    return run, rows.reindex(columns=[*rows.columns, *(c for c in columns if c not in rows)]), ""
