# SPDX-License-Identifier: Apache-2.0
"""Workload folders of rocprof-compute: files are found, read, and joined to one row per launch."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs.parse import _csv
from moe_lab.runs.parse.rocprof import workload_files as files
from moe_lab.runs.parse.rocprof.workload_files import ACCUMULATED, AGAIN, CHANNEL, COUNTER, LAUNCH, LEVELS, PASS
from moe_lab.spec.errors import UserError

EXACT = 2**53  # up to here float64 holds every integer
_MANY = 2_000  # most subfolders to look at


@dataclass(frozen=True)
class Workload:
    """What a folder says.

    Attributes:
        launches: one row per launch: Kernel_Name, start_ns and end_ns (float, NaN = not known), and the keys of
            ``LAUNCH`` that there are.
        counters: float64, one column per counter, the same rows; NaN = not counted.
        machine: the row of sysinfo.csv as text; blanks are left out.
        roofs: rows of roofline.csv; no rows without that file.
        notes: sentences on what to be careful with.
        form: ``wide`` (one column per counter), ``wide, several passes`` or ``long`` (one row per counter).
    """

    launches: pd.DataFrame
    counters: pd.DataFrame
    machine: dict[str, str]
    roofs: pd.DataFrame
    notes: list[str]
    form: str


def folder_of(path: Path) -> Path | None:
    """Return the workload folder: the path itself, the folder of a file in it, or its only subfolder that is one."""
    if path.is_file():
        return path.parent if PASS.fullmatch(path.name) or path.name.startswith("sysinfo.csv") else None
    if _is_workload(path):
        return path
    with os.scandir(path) as found:
        items = [item for _, item in zip(range(_MANY), found, strict=False)]
    below = [p for item in items if item.is_dir(follow_symlinks=False) and _is_workload(p := Path(item.path))]
    return below[0] if len(below) == 1 else None


def _is_workload(folder: Path) -> bool:
    return files.find(folder, "sysinfo") is not None or files.find(folder, "pmc_perf") is not None


def read(folder: Path) -> Workload:
    """Read a workload folder of any generation."""
    info = files.find(folder, "sysinfo")
    if info is None:
        raise UserError(f"{folder.name} has counters but no sysinfo.csv, so its GPU is not known; {AGAIN}.")
    machines = files.read_csv(info).astype("string").drop_duplicates()
    if len(machines) != 1:
        raise UserError(f"{folder.name}/sysinfo.csv describes {len(machines)} machines, not one; {AGAIN}.")
    machine = {str(k): str(v).strip() for k, v in machines.iloc[0].items() if pd.notna(v) and str(v).strip()}
    frames, form = files.passes(folder)
    counted = _with_levels(_join(folder, frames), folder)
    _check_together(folder, counted, machine)
    roofline = files.find(folder, "roofline")
    launches = counted[[c for c in counted if not COUNTER.fullmatch(str(c)) and not CHANNEL.fullmatch(str(c))]]
    roofs = files.read_csv(roofline).apply(files.number) if roofline else pd.DataFrame()
    notes = [*_early(folder), *_unusable(counted)]
    return Workload(_launches(launches), _counters(counted, machine), machine, roofs.where(roofs >= 0), notes, form)


def _early(folder: Path) -> list[str]:
    """Return a sentence on files whose last line has no line end; the tool always writes one."""
    csvs = files.counter_files(folder)
    open_ = [p.name for p in csvs if _csv.ends_early(p)]
    said = f"{', '.join(open_[:3])}: the last line has no line end, so launches may be missing; copy it again."
    return [said] if open_ else []


def _unusable(counted: pd.DataFrame) -> list[str]:
    own = [c for c in counted.columns if _is_counter(c)]
    cells = sum(int(files.unusable(counted[c]).sum()) for c in own)
    said = f"{cells} of {len(own) * len(counted)} counter values are text or negative: they are not known."
    return [said] if cells else []


def _join(folder: Path, frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Join the passes: the n-th launch of a kernel with one grid and work-group is the same launch in every pass."""
    keyed = [_keyed(frame) for frame in frames]
    first = keyed[0]
    for other in keyed[1:]:
        if not other.index.equals(first.index) and set(other.index) != set(first.index):
            raise UserError(f"{folder.name} mixes passes of different programs: their launches differ; {AGAIN}.")
    if len(keyed) == 1:
        return first.reset_index(drop=True)
    # Each pass runs the kernel again: its time is the median over the passes.
    lasts = pd.concat([k["End_Timestamp"] - k["Start_Timestamp"] for k in keyed], axis=1).median(axis=1)
    starts = pd.concat([k["Start_Timestamp"] for k in keyed], axis=1).median(axis=1)
    times = {"Start_Timestamp": starts, "End_Timestamp": starts + lasts}
    seen = set(first.columns)
    parts = [first]
    for other in keyed[1:]:
        new = [c for c in other.columns if c not in seen and _is_counter(c)]
        parts.append(other[new])
        seen.update(new)
    return pd.concat(parts, axis=1).assign(**times).reset_index(drop=True)


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    keys = ["Kernel_Name", "Grid_Size", "Workgroup_Size"]
    nth = frame.groupby(keys, sort=False, dropna=False).cumcount()
    return frame.set_index(pd.MultiIndex.from_arrays([*(frame[k] for k in keys), nth]))


def _is_counter(name: Any) -> bool:
    return bool(COUNTER.fullmatch(str(name)) or CHANNEL.fullmatch(str(name)))


def _with_levels(counted: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Add the accumulated levels as ``<level>_ACCUM``, each from its own file, and the other counters in that file."""
    index = _keyed(counted).index
    more: dict[str, Any] = {}
    for level in LEVELS:
        path = files.find(folder, level)
        if path is None:
            continue
        own = _keyed(files.named(path.name, files.read_csv(path)))
        if set(own.index) != set(index):
            raise UserError(f"{folder.name}/{path.name} is of another program: its launches differ; {AGAIN}.")
        own = own.loc[index]
        for column in own.columns:
            name = f"{level}_ACCUM" if column == ACCUMULATED else str(column)
            if _is_counter(name) and name not in counted:
                more.setdefault(name, own[column].to_numpy())
    return pd.concat([counted, pd.DataFrame(more, index=counted.index)], axis=1)


def _check_together(folder: Path, counted: pd.DataFrame, machine: dict[str, str]) -> None:
    """Refuse counters of another architecture than sysinfo.csv names: from MI300 on TCC_EA_* is called TCC_EA0_*."""
    arch = machine.get("gpu_arch", "")
    named = [str(c) for c in counted.columns]
    found = {"TCC_EA_": any(c.startswith("TCC_EA_") for c in named), "TCC_EA0_": any("TCC_EA0_" in c for c in named)}
    wrong = "TCC_EA0_" if arch in ("gfx908", "gfx90a") else "TCC_EA_" if re.match(r"gfx9[45]", arch) else ""
    if found.get(wrong) or all(found.values()):
        raise UserError(
            f"{folder.name} is mixed: its counters are not those of {arch}, which sysinfo.csv names; {AGAIN}."
        )


def _launches(frame: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame({"Kernel_Name": frame["Kernel_Name"].astype("string").to_numpy(object)})
    first = frame["Start_Timestamp"].min()
    if pd.notna(first) and frame["End_Timestamp"].max() > EXACT:  # only differences of times matter
        frame = frame.assign(**{c: frame[c] - first for c in ("Start_Timestamp", "End_Timestamp")})
    start, end = (_numbers(frame[c]) for c in ("Start_Timestamp", "End_Timestamp"))
    lost = ~(end > start)  # times that a spreadsheet or an old tool has rounded to a few digits
    out["start_ns"], out["end_ns"] = np.where(lost, np.nan, start), np.where(lost, np.nan, end)
    for ours, theirs in LAUNCH.items():
        if theirs in frame:
            out[ours] = _numbers(frame[theirs])
    return out


def _counters(frame: pd.DataFrame, machine: dict[str, str]) -> pd.DataFrame:
    """Return the counters; single L2 channels are summed if no sum was counted and no channel is missing."""
    out = {str(c): _numbers(frame[c]) for c in frame.columns if COUNTER.fullmatch(str(c)) and c != ACCUMULATED}
    channels: dict[str, list[str]] = {}
    for column in frame.columns:
        found = CHANNEL.fullmatch(str(column))
        if found and COUNTER.fullmatch(found[1]):
            channels.setdefault(f"{found[1]}_sum", []).append(str(column))
    for name, columns in channels.items():
        if name not in out and str(len(columns)) == machine.get("total_l2_chan", "").removesuffix(".0"):
            out[name] = np.sum([_numbers(frame[c]) for c in columns], axis=0)
    return pd.DataFrame(out)


def _numbers(column: "pd.Series[Any]") -> Any:
    values = files.number(column).to_numpy(np.float64)
    return np.where(values < 0, np.nan, values)
