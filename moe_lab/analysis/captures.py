"""Captures of the expert GEMMs that a notebook looks at: counters of one GPU or of several, each run with its GPU."""

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
        runs: name -> run, those that exist; a name is no path and stands for one run only.
        table: ``gemms.gemms`` of all of them, one below the other, with columns run and gpu.
        gpus: GPU as ``short_gpu`` calls it -> what is known of it.
        missing: a sentence for each run that does not exist.
        notes: on what to read with care.
        gaps: ``limits.gaps`` of the timeline, with a column gpu; empty without one.
        known: runs to look for roofs in.
    """

    runs: dict[str, Run]
    table: pd.DataFrame
    gpus: dict[str, dict[str, Any]]
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gaps: pd.DataFrame = field(default_factory=pd.DataFrame)
    known: Sequence[Run] = ()

    def named_runs(self) -> dict[str, Run | None]:
        """Return the runs by the last part of their names; by the whole name where two end alike."""
        last = [name.rsplit("/", 1)[-1] for name in self.runs]
        names = [one if last.count(one) == 1 else name for name, one in zip(self.runs, last, strict=True)]
        return dict(zip(names, self.runs.values(), strict=True))


def gpu_facts(run: Run, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report (``Launches.meta``) says of the GPU, and over it what the run states."""
    # What the run states counts, but an empty value there must not hide what the report knows.
    stated = {key: value for key, value in (run.manifest.get("gpu") or {}).items() if value}
    return {**(meta.get("gpu") or {}), **stated}


def short_gpu(name: str | None) -> str | None:
    """Return a GPU's name without its vendor."""
    return re.sub(r"^(NVIDIA|AMD Instinct|AMD)\s+", "", name) if name else None


def notes_on(table: pd.DataFrame, of: Mapping[str, str]) -> list[str]:
    """Say which GPUs have no row, and which runs name no stage.

    Args:
        table: ``Captures.table``.
        of: run -> GPU.
    """
    lost: dict[str, list[str]] = {}
    for run, gpu in of.items():
        if not (table["gpu"] == gpu).any():
            lost.setdefault(gpu, []).append(run)
    notes = [f"{', '.join(own)}: no range w13 or w2 of such a backend and M lies in them." for own in lost.values()]
    unnamed = table.loc[table["stage"].isna(), "run"]
    said = "the report has no ranges, so backend, M and stage are not known and kernels are shown by name"
    return [*notes, *(f"{run}: {said}." for run in unnamed.unique())]
