"""Captures of the expert GEMMs that a notebook looks at: counters of one GPU or of several, each run with its GPU."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import amd, counters
from moe_lab.analysis.amd import memory
from moe_lab.analysis.gemms import ALL_COLUMNS, gemms
from moe_lab.runs import Run
from moe_lab.spec.launches import Launches

MAKE = (
    "moe-lab capture ncu --name experts_counters_fused_moe --ranges moe_lab@w13/ --ranges moe_lab@w2/ -- "
    "python -m moe_lab.gpu experts"
)


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
    """

    runs: dict[str, Run]
    table: pd.DataFrame
    gpus: dict[str, dict[str, Any]]
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gaps: pd.DataFrame = field(default_factory=pd.DataFrame)

    def named_runs(self) -> dict[str, Run | None]:
        """Return the runs by the last part of their names; by the whole name where two end alike."""
        last = [name.rsplit("/", 1)[-1] for name in self.runs]
        names = [one if last.count(one) == 1 else name for name, one in zip(self.runs, last, strict=True)]
        return dict(zip(names, self.runs.values(), strict=True))


def load(names: Sequence[str], backends: Sequence[str] = (), M: Sequence[int] = ()) -> Captures:
    """Load captures of counters, or timelines, of any GPUs; those that do not exist become sentences.

    Args:
        names: run names, run folders or report files, also workload folders of rocprof-compute.
        backends: only these; empty = all.
        M: only these numbers of tokens; empty = all.

    Raises:
        UserError: a run is there, but cannot be read.
    """
    found: dict[str, Run] = {}
    gpus: dict[str, dict[str, Any]] = {}
    missing, notes, parts, of = [], [], [], dict[str, str]()
    for name in names:
        if not exists(name):
            said = f"There is no run '{runs.shown(name)}', so it has no counters here"
            missing.append(f"{said}; `{MAKE}` on a GPU makes one.")
            continue
        run = runs.load(name)
        launches = run.launches()
        shown, facts = _apart(str(run.manifest["name"]), found), gpu_facts(run, launches)
        gpu = of[shown] = short_gpu(facts.get("name")) or f"an unknown GPU ({shown})"
        gpus[gpu] = {**facts, **{k: v for k, v in gpus.get(gpu, {}).items() if v is not None}}
        found[shown] = run if run.manifest.get("gpu") else replace(run, manifest={**run.manifest, "gpu": facts})
        notes += [counters.AMD_NOTE] if amd.has_counters(launches) else []
        parts.append(gemms(launches, run.manifest.get("workload") or {}, facts).assign(run=shown, gpu=gpu))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*ALL_COLUMNS, "gpu"])
    table = table[_wanted(table, "backend", backends) & _wanted(table, "M", M)].reset_index(drop=True)
    return Captures(found, table, gpus, missing, [*_notes(table, of), *dict.fromkeys(notes)])


def exists(name: str) -> bool:
    """Return whether there is a run of that name, or anything at that path."""
    names = {str(run.manifest["name"]) for run in runs.list_runs()}
    known = names | {full.rsplit("/", 1)[-1] for full in names}
    return name in known or (bool(name) and (Path(name).exists() or (runs.profiles_root() / name).exists()))


def gpu_facts(run: Run, launches: Launches) -> dict[str, Any]:
    """Return what report and manifest say of the GPU, and its ``roofs`` (``amd_memory.roofs``) where it has some."""
    stated = {k: v for k, v in (run.manifest.get("gpu") or {}).items() if v}
    measured = {"roofs": memory.roofs(launches)} if launches.meta.get("roofs") else {}
    return {**(launches.meta.get("gpu") or {}), **stated, **measured}


def short_gpu(name: str | None) -> str | None:
    """Return a GPU's name without its vendor."""
    return re.sub(r"^(NVIDIA|AMD Instinct|AMD)\s+", "", name) if name else None


def _apart(name: str, others: Mapping[str, Run]) -> str:
    """Return the name, with a number if another run has it."""
    number = 1
    while (shown := name if number == 1 else f"{name} ({number})") in others:
        number += 1
    return shown


def _wanted(table: pd.DataFrame, column: str, values: Sequence[Any]) -> "pd.Series[bool]":
    return table[column].isin(values) if values else pd.Series(True, index=table.index)


def _notes(table: pd.DataFrame, of: Mapping[str, str]) -> list[str]:
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
