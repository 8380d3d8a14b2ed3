# SPDX-License-Identifier: Apache-2.0
"""Captures of the expert GEMMs that a notebook looks at: counters of one GPU or several, and which run is of which."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from moe_lab.runs import Run


@dataclass(frozen=True)
class Captures:
    """What a notebook looks at.

    Attributes:
        runs: name -> run, of those that exist; names are unique and not paths.
        table: ``gemms.gemms`` of all runs, concatenated, with columns run and gpu.
        gpus: GPU as named by ``short_gpu`` -> its facts.
        missing: a sentence on each run that does not exist.
        notes: sentences on what to be careful with.
        gaps: ``limits.gaps`` of the timeline, with a column gpu; empty without a timeline.
        known: runs in which roofs are looked for.
    """

    runs: dict[str, Run]
    table: pd.DataFrame
    gpus: dict[str, dict[str, Any]]
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gaps: pd.DataFrame = field(default_factory=pd.DataFrame)
    known: Sequence[Run] = ()

    def named_runs(self) -> dict[str, Run | None]:
        """Return the runs by the last part of their names, or by the whole name where two end in the same part."""
        last = [name.rsplit("/", 1)[-1] for name in self.runs]
        names = [one if last.count(one) == 1 else name for name, one in zip(self.runs, last, strict=True)]
        return dict(zip(names, self.runs.values(), strict=True))


def gpu_facts(run: Run, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the GPU in a report (``Launches.meta``), overridden by those that the run states."""
    # An empty value in the run must not hide what the report knows.
    stated = {key: value for key, value in (run.manifest.get("gpu") or {}).items() if value}
    return {**(meta.get("gpu") or {}), **stated}


def short_gpu(name: str | None) -> str | None:
    """Return a GPU's name without its vendor."""
    return re.sub(r"^(NVIDIA|AMD Instinct|AMD)\s+", "", name) if name else None


def notes_on(table: pd.DataFrame, of: Mapping[str, str]) -> list[str]:
    """Return sentences on GPUs without a row and on runs whose stages are not named.

    Args:
        table: ``Captures.table``.
        of: run -> GPU.
    """
    lost: dict[str, list[str]] = {}
    for run, gpu in of.items():
        if not (table["gpu"] == gpu).any():
            lost.setdefault(gpu, []).append(run)
    notes = [f"{', '.join(own)}: they have no range w13 or w2 of this backend and M." for own in lost.values()]
    unnamed = table.loc[table["stage"].isna(), "run"]
    said = "the report has no ranges, so backend, M and stage are not known and kernels are shown by name"
    return [*notes, *(f"{run}: {said}." for run in unnamed.unique())]
