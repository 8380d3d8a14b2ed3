# SPDX-License-Identifier: Apache-2.0
"""What ``import moe_lab`` offers: a run or report as an object, its tables, and the comparison of two runs."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import breakdown as time_of
from moe_lab.analysis import compare as beside
from moe_lab.analysis import counters as hardware
from moe_lab.analysis import kernels as longest
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches


@dataclass(frozen=True, eq=False)
class Loaded:
    """A capture or benchmark; its tables are read when they are first used.

    Attributes:
        run: the run folder or report behind it.
    """

    run: runs.Run

    @property
    def name(self) -> str:
        """The run's name, ``<gpu>/<run>``; for a bare report the name of its file."""
        return str(self.run.manifest["name"])

    @cached_property  # a large report takes seconds to read
    def launches(self) -> Launches:
        """Every GPU operation of a capture, with its ranges; raises UserError for a benchmark."""
        return self.run.launches()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of a benchmark; raises UserError for a capture."""
        return self.run.rows()

    def breakdown(self, root: str | None = None, *, spread: bool = False, roles: bool | None = None) -> pd.DataFrame:
        """Return the time of every range below the roots; see ``analysis.breakdown.breakdown``."""
        return time_of.breakdown(self.launches, root, spread=spread, roles=roles)

    def kernels(self, root: str | None = None, limit: int = 20, by: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Return the kernels that take most time; see ``analysis.kernels.top_kernels``, or with ``by`` its ``sums``."""
        if by is None:
            return longest.top_kernels(self.launches, root, limit)
        table = longest.sums(self.launches, by, root)
        return table.head(limit or len(table))

    def counters(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the hardware counters of each kernel; see ``analysis.counters.counters_table``."""
        return hardware.counters_table(self.launches, metrics)

    def _repr_html_(self) -> str:
        manifest = self.run.manifest
        tool = manifest.get("tool") or {}
        said = {
            "name": self.name,
            "GPU": (manifest.get("gpu") or {}).get("name"),
            "tool": " ".join(str(tool[key]) for key in ("name", "version") if tool.get(key)),
            "date": manifest.get("date"),
            "holds": self.run.what or "a report",
        }
        cells = [f"<tr><th>{key}</th><td>{html.escape(str(value or '–'))}</td></tr>" for key, value in said.items()]
        return f"<table>{''.join(cells)}</table>"


def load(run_or_report: str | Path | Loaded) -> Loaded:
    """Return a run or report.

    Args:
        run_or_report: run name (``<gpu>/<run>``, or its last part), run folder or report file.

    Raises:
        UserError: there is nothing of that name, or it cannot be read.
    """
    return run_or_report if isinstance(run_or_report, Loaded) else Loaded(runs.load(run_or_report))


def breakdown(
    run_or_report: str | Path | Loaded, root: str | None = None, *, spread: bool = False, roles: bool | None = None
) -> pd.DataFrame:
    """Return the time of every range of a capture: ``load(run_or_report).breakdown(root)``."""
    return load(run_or_report).breakdown(root, spread=spread, roles=roles)


def kernels(
    run_or_report: str | Path | Loaded,
    root: str | None = None,
    limit: int = 20,
    by: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the kernels of a capture that take most time: ``load(run_or_report).kernels(root, limit, by)``."""
    return load(run_or_report).kernels(root, limit, by)


def compare(
    a: str | Path | Loaded,
    b: str | Path | Loaded,
    root: str | None = None,
    *,
    by: str | None = None,
    threshold_pct: float = beside.THRESHOLD_PCT,
) -> beside.Comparison:
    """Compare two runs of one kind: captures, counters, a benchmark, or compiled code.

    Args:
        a: what ``load`` takes.
        b: the same.
        root: for captures, a regular expression of ranges; by default our roots, else the top-level ranges.
        by: stage, kernel, M or backend; by default what the runs hold.
        threshold_pct: changes up to it are even.

    Returns:
        ``analysis.compare.Comparison``: what differs besides the times, the table, and how sure it is.

    Raises:
        UserError: they cannot be compared, or one cannot be read.
    """
    one, other = load(a), load(b)
    kinds = [str(each.run.manifest["bench"]) if each.run.is_bench else "" for each in (one, other)]
    if kinds[0] != kinds[1]:
        said = [f"is of the benchmark '{kind}'" if kind else "is a capture" for kind in kinds]
        raise UserError(f"{one.name} {said[0]} and {other.name} {said[1]}; give two runs of one kind to compare.")
    both = (one.run, other.run)
    if kinds[0]:
        return beside.benchmarks(both, (one.rows, other.rows), by, threshold_pct)
    return beside.captures(both, (one.launches, other.launches), by, threshold_pct, root)
