# SPDX-License-Identifier: Apache-2.0
"""The CSV files that rocprofv3 writes for a run: found, read and joined."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs.attribution.keys import Ints, distinct
from moe_lab.runs.parse import _csv, _facts, _folder
from moe_lab.runs.parse.rocprof import checks
from moe_lab.runs.parse.rocprof.checks import AGAIN
from moe_lab.spec.errors import UserError

_API = ("Process_Id", "Thread_Id", "Correlation_Id", "Start_Timestamp", "End_Timestamp")
KERNEL = (
    *("Kernel_Name", "Agent_Id", "Queue_Id", "Stream_Id", *_API, "LDS_Block_Size", "Scratch_Size", "VGPR_Count"),
    *("Accum_VGPR_Count", "SGPR_Count", "Workgroup_Size_X", "Workgroup_Size_Y", "Workgroup_Size_Z"),
    *("Grid_Size_X", "Grid_Size_Y", "Grid_Size_Z"),
)
COPY = ("Direction", "Stream_Id", "Source_Agent_Id", "Destination_Agent_Id", *_API)
CALL = ("Function", *_API)
MARKER = ("Domain", *CALL)
TEXT = {"Kernel_Name", "Direction", "Function", "Domain"}
AGENT = {"Agent_Id", "Source_Agent_Id", "Destination_Agent_Id"}  # "Agent 4", or only 4
WHOLE = {column for columns in (KERNEL, COPY, MARKER) for column in columns} - TEXT - AGENT
NEEDED = ("Correlation_Id", "Start_Timestamp", "End_Timestamp")
AGENTS = {
    "whole": ("Node_Id", "Logical_Node_Id"),
    "text": ("Agent_Type", "Name", "Product_Name", "Cu_Count", "Wave_Front_Size"),
}
# What a file holds -> how its name ends; rocprofv3 puts %pid%_ or the name given with -o in front.
ENDS = {
    "kernels": ("kernel_trace",),
    "copies": ("memory_copy_trace",),
    "calls": ("hip_api_trace", "hip_runtime_api_trace", "hip_trace", "hip_runtime_trace"),
    "markers": ("marker_api_trace", "marker_trace"),
    "agents": ("agent_info",),
}
COLUMNS = {"kernels": KERNEL, "copies": COPY, "calls": CALL, "markers": MARKER}
FREE = ("roctxProcessRange", "roctxRangeStart")  # begin and end on any thread; the CSV files say thread 0
_AGENT = re.compile(r"(?:.* )?([0-9]{1,9})")
_NAME = re.compile(rf"(?:(.*)_)?({'|'.join(e for ends in ENDS.values() for e in ends)})\.csv")
DEEP = 3  # levels of folders; by default rocprofv3 writes to %hostname%/%pid%


@dataclass(frozen=True)
class Tables:
    """The rows of all processes: columns as in ``COLUMNS`` (absent integers are -1), and ``process``, counted from 0.

    Attributes:
        kernels: dispatches.
        copies: memory copies.
        calls: calls of the HIP API.
        markers: roctx ranges and marks.
        agents: the CPUs and GPUs of the machine, as in the file.
    """

    kernels: pd.DataFrame
    copies: pd.DataFrame
    calls: pd.DataFrame
    markers: pd.DataFrame
    agents: pd.DataFrame


def what(path: Path) -> tuple[str, str] | None:
    """Return (what a file holds, what its name begins with); None if it is not a file of rocprofv3 that we read."""
    if not path.is_file():
        return None
    found = _NAME.fullmatch(path.name)
    if found:
        return next(kind for kind, ends in ENDS.items() if found[2] in ends), found[1] or ""
    # A renamed kernel trace is known by its columns.
    if path.suffix != ".csv":
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        fields = {field.strip().strip('"') for field in file.readline(4096).split(",")}
    return ("kernels", path.name) if {"Kernel_Name", "Grid_Size_X", "Start_Timestamp"} <= fields else None


def find(path: Path) -> list[dict[str, Path]]:
    """Return the files of each process: all of a folder, or those that belong to a given file."""
    alone = what(path) if path.is_file() else None
    if path.is_file() and alone is None:
        return []
    folder = path if path.is_dir() else path.parent
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    for file in _beside(path, alone[1]) if alone else _folder.files(folder, (".csv",), DEEP):
        found = what(file)
        if found and (alone is None or (found[1] == alone[1] and (file == path or not file.is_symlink()))):
            groups.setdefault((file.parent, found[1]), {}).setdefault(found[0], file)
    return [group for _, group in sorted(groups.items()) if group.keys() - {"agents"}]


def _beside(path: Path, start: str) -> list[Path]:
    """Return a file and those of the same process beside it, known by their names."""
    names = [f"{start}_{end}.csv" if start else f"{end}.csv" for ends in ENDS.values() for end in ends]
    return [path, *(f for name in names if (f := path.with_name(name)) != path and _folder.inside(f, path.parent))]


def read(groups: list[dict[str, Path]]) -> Tables:
    """Read the files of every process."""
    parts: dict[str, list[pd.DataFrame]] = {kind: [] for kind in COLUMNS}
    agents = [_csv.read(group["agents"], AGAIN, **AGENTS) for group in groups if "agents" in group]
    for number, group in enumerate(groups):
        frames = {kind: _table(group.get(kind), columns) for kind, columns in COLUMNS.items()}
        _identify(frames)
        for kind, frame in frames.items():
            parts[kind].append(frame.assign(group=number))
    joined = {kind: pd.concat(frames, ignore_index=True) for kind, frames in parts.items()}
    owner = np.concatenate([f["group"].to_numpy(np.int64) for f in joined.values()])
    return together(joined, owner, agents[0] if agents else pd.DataFrame())


def together(frames: dict[str, pd.DataFrame], group: Ints, agents: pd.DataFrame) -> Tables:
    """Return the tables with processes numbered; process ids are unique within a ``group``: int64 [rows of all]."""
    pid = np.concatenate([f["Process_Id"].to_numpy(np.int64) for f in frames.values()])
    parts = np.split(distinct(group, pid)[1], np.cumsum([len(f) for f in frames.values()])[:-1])
    numbered = {kind: f.assign(process=part) for (kind, f), part in zip(frames.items(), parts, strict=True)}
    return Tables(**numbered, agents=agents)


def _table(path: Path | None, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return some columns of a file, integers as int64; no rows if there is no file."""
    if path is None:
        return coerced(pd.DataFrame(columns=list(columns)), columns)
    found = _csv.read(path, AGAIN, whole=WHOLE, text=TEXT | AGENT, only=columns)
    lost = [c for c in (columns[0], *NEEDED) if c not in found]
    if lost:
        raise UserError(
            f"{path.name} lacks the columns {', '.join(lost)}; write it with `rocprofv3 --output-format csv`."
        )
    for column in (c for c in NEEDED if found[c].isna().any()):
        line = int(found[column].isna().to_numpy().argmax()) + 2
        raise UserError(f"{path.name} is truncated or damaged: line {line} has no {column}; {AGAIN}.")
    frame = coerced(found, columns)
    checks.numbers(path, frame, TEXT, operations=columns in (KERNEL, COPY))
    return frame


def coerced(found: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return some columns: missing text is empty, integers are int64, -1 for what is not there."""
    out: dict[str, Any] = {}
    for column in columns:
        if column in TEXT:
            out[column] = found[column].fillna("").astype(str) if column in found else ""
        else:
            out[column] = _ints(found[column]) if column in found else -1
    return pd.DataFrame(out, index=found.index)


def _ints(column: "pd.Series[Any]") -> Ints:
    """Return integers; of ``Agent 4`` its number, -1 for anything else."""
    if not pd.api.types.is_numeric_dtype(column):
        column = column.astype(str)
        numbers = {text: int(n[1]) if (n := _AGENT.fullmatch(text)) else pd.NA for text in column.unique()}
        column = column.map(numbers)
    column = column.astype("Int64")
    return np.asarray(column.to_numpy(dtype=np.int64, na_value=-1))


def _identify(frames: dict[str, pd.DataFrame]) -> None:
    """Fill in the process where a file does not name it: that of the thread, else the only one there is."""
    named = pd.concat([f[["Process_Id", "Thread_Id"]] for f in frames.values()])
    named = named[named["Process_Id"] >= 0].drop_duplicates()
    pids = named["Process_Id"].unique()
    threads = named.drop_duplicates("Thread_Id", keep=False).set_index("Thread_Id")["Process_Id"]
    only = int(pids[0]) if len(pids) == 1 else -1
    for frame in frames.values():
        open_ = frame["Process_Id"] < 0
        if open_.any():
            own = frame["Thread_Id"].map(threads).fillna(only).astype(np.int64)
            frame["Process_Id"] = frame["Process_Id"].where(~open_, own).astype(np.int64)


def facts(tables: Tables, warnings: list[str]) -> dict[str, Any]:
    """Return the plain facts of the trace."""
    agents = tables.agents
    gpus = agents[agents["Agent_Type"] == "GPU"] if "Agent_Type" in agents else agents.iloc[:0]
    used = int(tables.kernels["Agent_Id"].iloc[0])
    numbers = [c for c in ("Node_Id", "Logical_Node_Id") if c in gpus]
    own = next((gpus[gpus[c] == used] for c in numbers if (gpus[c] == used).any()), gpus)
    first = {str(k): v for k, v in own.iloc[0].items()} if len(own) else None
    gpu = _gpu(first) if first else None
    return _facts.facts("rocprofv3", gpu=gpu, gpu_count=len(gpus) or None, warnings=warnings)


def _gpu(agent: dict[str, Any]) -> dict[str, Any]:
    said = {k: str(v) for k, v in agent.items() if pd.notna(v) and str(v)}
    count = {"sm_count": "Cu_Count", "warp_threads": "Wave_Front_Size"}
    return {
        "name": said.get("Product_Name", said.get("Name")),
        "chip": said.get("Name"),
        "memory_bytes": None,
        "compute_capability": None,
        **{k: _facts.number(said.get(v, "").removesuffix(".0"), range(1, 2**20)) for k, v in count.items()},
    }
