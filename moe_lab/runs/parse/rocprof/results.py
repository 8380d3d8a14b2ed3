# SPDX-License-Identifier: Apache-2.0
"""JSON results of rocprofv3 (``--output-format json``), read into the tables of its CSV files.

The file also holds the command line, the options and the machine of the profiled process; only the names of machines
are read, so that they can be hidden.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from moe_lab.runs.parse import _folder
from moe_lab.runs.parse.kineto import file
from moe_lab.runs.parse.rocprof import checks
from moe_lab.runs.parse.rocprof import tables as rocprof
from moe_lab.runs.parse.rocprof.records import (
    KEY,
    Agent,
    Copy,
    Dispatch,
    File,
    Handle,
    Origins,
    Process,
    Record,
    Symbol,
)
from moe_lab.runs.redact.names import is_telling
from moe_lab.spec.guard import entry

ENDS = (".json", ".json.gz")
_GPU = 2  # the type of an agent; 1 is a CPU
T = TypeVar("T")


def is_results(path: Path) -> bool:
    """Return whether the beginning of a file is that of rocprofv3's JSON."""
    return path.is_file() and path.name.endswith(ENDS) and f'"{KEY}"' in file.head(path)[:4096]


def find(path: Path) -> list[Path]:
    """Return the files: the file itself, or those of a folder."""
    if path.is_dir():
        return [p for p in _folder.files(path, ENDS, rocprof.DEEP) if is_results(p)]
    return [path] if is_results(path) else []


def hosts(paths: Iterable[Path]) -> list[str]:
    """Return the names of the profiled machines."""
    nodes = [process.metadata.node for path in paths for process in _decoded(path, Origins).processes]
    return sorted({node.hostname for node in nodes if node and is_telling(node.hostname)})


def read(paths: list[Path]) -> rocprof.Tables:
    """Read files of one or more processes each.

    Raises:
        UserError: a file is damaged, or holds numbers that cannot be true.
    """
    parts = [(path, process) for path in paths for process in _decoded(path, File).processes]
    found = [_frames(path, process) for path, process in parts]
    frames = {kind: pd.concat([f[kind] for f in found], ignore_index=True) for kind in rocprof.COLUMNS}
    sizes = [[len(f[kind]) for f in found] for kind in rocprof.COLUMNS]
    group = np.concatenate([np.repeat(np.arange(len(found)), size) for size in sizes])
    return rocprof.together(frames, group, _agents(parts[0][1].agents))


def _decoded(path: Path, kind: type[T]) -> T:
    with file.reading(path):
        text = file.text(path)
        try:
            return entry.decode_json(text, kind)
        except ValueError as error:
            raise file.Damaged(str(error), checks.AGAIN) from None


class _Names:
    """What the numbers in records stand for."""

    def __init__(self, process: Process) -> None:
        self.kinds = process.strings.buffer_records
        self.node = {agent.id.handle: agent.node_id for agent in process.agents}
        self.messages = {message.key: message.value for message in process.strings.marker_api}
        self.symbols = {symbol.kernel_id: symbol for symbol in process.kernel_symbols}

    def domain(self, record: Record) -> str:
        return self.kinds[record.kind].kind if 0 <= record.kind < len(self.kinds) else ""

    def operation(self, record: Record) -> str:
        names = self.kinds[record.kind].operations if 0 <= record.kind < len(self.kinds) else []
        return names[record.operation] if 0 <= record.operation < len(names) else ""

    def agent(self, agent: Handle) -> int:
        return self.node.get(agent.handle, -1)


def _frames(path: Path, process: Process) -> dict[str, pd.DataFrame]:
    """Return the rows of a process, columns as in ``rocprof.COLUMNS``."""
    records, names = process.buffer_records, _Names(process)
    rows = {
        "kernels": [_row(r) | _kernel(r.dispatch_info, names) for r in records.kernel_dispatch],
        "copies": [_row(r) | _copy(r, names) for r in records.memory_copy],
        "calls": [_row(r) | {"Function": names.operation(r)} for r in records.hip_api],
        "markers": [_row(r) | _marker(r, names) for r in records.marker_api],
    }
    out = {}
    for kind, columns in rocprof.COLUMNS.items():
        frame = rocprof.coerced(pd.DataFrame(rows[kind], columns=list(columns)), columns)
        out[kind] = frame = frame.assign(Process_Id=process.metadata.pid)
        checks.numbers(path, frame, rocprof.TEXT, operations=kind in ("kernels", "copies"), lines="record", first=1)
    return out


def _row(record: Record) -> dict[str, Any]:
    return {
        "Stream_Id": record.stream_id.handle if record.stream_id else -1,
        "Thread_Id": record.thread_id,
        "Correlation_Id": record.correlation_id.internal,
        "Start_Timestamp": record.start_timestamp,
        "End_Timestamp": record.end_timestamp,
    }


def _kernel(dispatch: Dispatch, names: _Names) -> dict[str, Any]:
    symbol = names.symbols.get(dispatch.kernel_id, Symbol(dispatch.kernel_id))
    sizes = {"Workgroup": dispatch.workgroup_size, "Grid": dispatch.grid_size}
    return {
        "Kernel_Name": symbol.formatted_kernel_name or symbol.kernel_name,
        "Agent_Id": names.agent(dispatch.agent_id),
        "Queue_Id": dispatch.queue_id.handle,
        "LDS_Block_Size": dispatch.group_segment_size,
        "Scratch_Size": dispatch.private_segment_size,
        "VGPR_Count": symbol.arch_vgpr_count,
        "Accum_VGPR_Count": symbol.accum_vgpr_count,
        "SGPR_Count": symbol.sgpr_count,
        **{f"{of}_Size_{axis.upper()}": getattr(size, axis) for of, size in sizes.items() for axis in "xyz"},
    }


def _copy(copy: Copy, names: _Names) -> dict[str, Any]:
    ends = {"Source_Agent_Id": names.agent(copy.src_agent_id), "Destination_Agent_Id": names.agent(copy.dst_agent_id)}
    return {"Direction": names.operation(copy), **ends}


def _marker(record: Record, names: _Names) -> dict[str, Any]:
    operation = names.operation(record)
    said = names.messages.get(record.correlation_id.internal) or operation
    thread = {"Thread_Id": 0} if operation.startswith(rocprof.FREE) else {}
    return {"Domain": names.domain(record), "Function": said, **thread}


def _agents(agents: list[Agent]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Node_Id": [a.node_id for a in agents],
            "Logical_Node_Id": [a.logical_node_id for a in agents],
            "Agent_Type": ["GPU" if a.type == _GPU else "CPU" for a in agents],
            "Name": [a.name for a in agents],
            "Product_Name": [a.product_name for a in agents],
            "Cu_Count": [a.cu_count or None for a in agents],
            "Wave_Front_Size": [a.wave_front_size or None for a in agents],
        }
    )
