# SPDX-License-Identifier: Apache-2.0
"""rocprofv3: a folder of its CSV files, one of them, a rocpd database or JSON results, to launches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from moe_lab.runs.attribution.assemble import NO_RANGES, Calls, Operations, Ranges, assemble
from moe_lab.runs.attribution.columns import numbered
from moe_lab.runs.attribution.keys import Ints, distinct, groups, match
from moe_lab.runs.parse import _doubts
from moe_lab.runs.parse._facts import short_name
from moe_lab.runs.parse.rocprof import checks, results, rocpd
from moe_lab.runs.parse.rocprof import tables as rocprof
from moe_lab.runs.parse.rocprof.slim import read
from moe_lab.runs.parse.rocprof.slim import slim as slim
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import display_name

INFO = {
    "about": "folder, CSV file, rocpd database or JSON of rocprofv3 (kernel and marker trace)",
    "folder": True,
    "report": "report",
}

HOW = "trace with `rocprofv3 --kernel-trace --marker-trace --hip-trace --memory-copy-trace --output-format csv`"
# Ours -> column of the kernel trace. registers_per_thread are the vector registers of a work-item.
KERNEL = {
    "device": "Agent_Id",
    "registers_per_thread": "VGPR_Count",
    "accumulation_registers_per_thread": "Accum_VGPR_Count",
    "scalar_registers_per_wave": "SGPR_Count",
    "smem_bytes": "LDS_Block_Size",
    "scratch_bytes_per_thread": "Scratch_Size",
}

NO_CAPTURES = (
    "{} operations of HIP graphs are attributed to the range around the replay only: rocprofv3 does not record in "
    "which range a graph's kernels were captured."
)


def sniff(path: Path) -> bool:
    """Return whether this is a folder with a kernel trace, or a trace file of rocprofv3."""
    if path.is_dir():
        return any("kernels" in group for group in rocprof.find(path)) or bool(rocpd.find(path) or results.find(path))
    if rocpd.is_database(path) or results.is_results(path):
        return True
    found = rocprof.what(path)
    return found is not None and found[0] != "agents"


def parse(path: Path) -> Launches:
    """Read the traces of one or more processes.

    With the HIP trace, an operation belongs to the range around the call that has its correlation id. Without it the
    files only bound the time of the launch: it came after the calls of its thread with smaller correlation ids, before
    those with larger ones, and before the kernel ran. The kernel then belongs to the innermost range that surely
    contains the launch, which may be an outer one. Kernels of a replayed graph belong to the range around the replay.

    Extra columns: smem_bytes (local data share), accumulation_registers_per_thread, scalar_registers_per_wave,
    scratch_bytes_per_thread.

    Raises:
        UserError: there is no kernel trace, it has no kernels, or a file is damaged.
    """
    path = Path(path)
    warnings: list[str] = []
    tables = read(path, warnings)
    if not len(tables.kernels):
        raise UserError(f"{path.name} has no kernel trace with kernels in it; {HOW}.")
    ops = _operations(tables)
    thread = _Threads(tables)
    found = match(*(ops.process, ops.correlation), *(_ints(tables.calls, c) for c in ("process", "Correlation_Id")))
    launcher = np.append(tables.calls["Function"].to_numpy(object), "")[found]  # operations without a call (-1) read ""
    ops = replace(ops, graph=np.array([f.startswith("hipGraphLaunch") for f in launcher.tolist()], bool))
    if np.any(ops.graph):
        warnings.append(NO_CAPTURES.format(int(np.sum(ops.graph))))
    calls = _calls(tables, ops, found, thread, warnings)
    ranges = _ranges(tables, thread, warnings)
    warnings += checks.missing(tables.calls, ops, HOW)
    ops, doubts = _doubts.mended(ops, streams=bool((_ints(tables.kernels, "Stream_Id") >= 0).all()))
    warnings += doubts
    return assemble(ops, calls, ranges, None, rocprof.facts(tables, warnings), "")


class _Threads:
    """Numbers for (process, thread), shared by all tables; -1 where the thread is not known."""

    def __init__(self, tables: rocprof.Tables) -> None:
        frames = {"kernels": tables.kernels, "copies": tables.copies, "calls": tables.calls, "markers": tables.markers}
        process, thread = (
            np.concatenate([f[c].to_numpy(np.int64) for f in frames.values()]) for c in ("process", "Thread_Id")
        )
        known = thread > 0  # roctxRangeStart has thread 0: it belongs to the process
        code = np.full(len(thread), -1, np.int64)
        code[known] = distinct(process[known], thread[known])[1]
        for rows in groups(process):  # in a process of one thread, everything is of that thread
            found = np.unique(code[rows])
            if len(found[found >= 0]) == 1:
                code[rows] = found[-1]
        sizes = np.cumsum([len(f) for f in frames.values()])[:-1]
        self.kernels, self.copies, self.calls, self.markers = np.split(code, sizes)


def _operations(tables: rocprof.Tables) -> Operations:
    """Return kernels, then copies."""
    kernels, copies = tables.kernels, tables.copies
    full, fulls = pd.factorize(kernels["Kernel_Name"])
    way, ways = pd.factorize(copies["Direction"])
    shown, names = numbered([*(short_name(str(n)) for n in fulls), *(_direction(str(d)) for d in ways)])
    code = shown[np.concatenate([full, way + len(fulls)])]
    both = pd.concat([kernels, copies.reindex(columns=kernels.columns, fill_value=-1)], ignore_index=True)
    columns = {ours: _ints(both, theirs) for ours, theirs in KERNEL.items()}
    for axis in "xyz":
        items, group = _ints(both, f"Grid_Size_{axis.upper()}"), _ints(both, f"Workgroup_Size_{axis.upper()}")
        blocks = np.where((items < 0) | (group <= 0), -1, -(-items // np.maximum(group, 1)))
        columns |= {f"grid_{axis}": blocks, f"block_{axis}": group}
    # A copy belongs to the GPU at its device end, which is the destination for host to device and device to device.
    to_device = copies["Direction"].str.endswith("TO_DEVICE").to_numpy(bool)
    agent = np.where(to_device, _ints(copies, "Destination_Agent_Id"), _ints(copies, "Source_Agent_Id"))
    columns["device"] = np.concatenate([_ints(kernels, "Agent_Id"), agent])
    # Older versions of rocprofv3 know no streams, only the hardware queue.
    columns["stream"] = np.where(both["Stream_Id"] >= 0, _ints(both, "Stream_Id"), _ints(both, "Queue_Id"))
    start, end, process, correlation = (
        _ints(both, c) for c in ("Start_Timestamp", "End_Timestamp", "process", "Correlation_Id")
    )
    kind = np.repeat(np.arange(2), [len(kernels), len(copies)])
    missing = np.full(len(both), -1, np.int64)
    fullest = np.concatenate([full, np.full(len(copies), -1)]).astype(np.int64)
    return Operations(
        start, end, process, correlation, missing, kind, code, fullest, names, [str(n) for n in fulls], columns
    )


def _direction(text: str) -> str:
    """Return ``memcpy host to device`` for ``MEMORY_COPY_HOST_TO_DEVICE``."""
    return "memcpy " + text.removeprefix("MEMORY_COPY_").replace("_", " ").lower()


def _ints(frame: pd.DataFrame, column: str) -> Ints:
    return np.asarray(frame[column].to_numpy(np.int64))


def _calls(tables: rocprof.Tables, ops: Operations, found: Ints, thread: _Threads, warnings: list[str]) -> Calls:
    """Return the API calls; a missing call is replaced by one that spans the bounds of the launch."""
    frame = tables.calls
    columns = [_ints(frame, c) for c in ("Start_Timestamp", "End_Timestamp", "process")]
    lost = np.flatnonzero((found < 0) & (ops.correlation >= 0) & (ops.kind == 0))
    low, high = _bounds(tables, ops, thread, lost)
    bounded = low <= high
    lost, low, high = lost[bounded], low[bounded], high[bounded]
    if len(lost):
        warnings.append(
            f"{len(lost)} of {len(found)} operations have no HIP call in the trace: each belongs to the innermost "
            f"range that surely contains its launch, which may be an outer one; {HOW} to have their own."
        )
    own = (*columns, thread.calls, _ints(frame, "Correlation_Id"))
    more = (low, high, ops.process[lost], thread.kernels[lost], ops.correlation[lost])
    start, end, process, code, correlation = (np.concatenate(pair) for pair in zip(own, more, strict=True))
    return Calls(start, end, process, code, correlation)


def _bounds(tables: rocprof.Tables, ops: Operations, thread: _Threads, rows: Ints) -> tuple[Ints, Ints]:
    """Return (low, high) for some kernels: the launch lies between these times; low > high = not known.

    Correlation ids count up within a thread, so what has a smaller id began before the launch, and what has a larger
    one began after it. A thread whose ids do not count up with time gives no bounds.
    """
    low, high = np.ones(len(rows), np.int64), np.zeros(len(rows), np.int64)
    frames = (tables.calls, tables.markers)
    code = np.concatenate([thread.calls, thread.markers])
    ids, start = (np.concatenate([_ints(f, c) for f in frames]) for c in ("Correlation_Id", "Start_Timestamp"))
    for own in groups(code):
        kernels = np.flatnonzero((thread.kernels[rows] == code[own[0]]) & (code[own[0]] >= 0))
        # Sorted by id, times must rise too; otherwise the ids of this thread say nothing about time.
        order = own[np.argsort(ids[own], kind="stable")]
        if not len(kernels) or (np.diff(start[order]) < 0).any():
            continue
        at = np.searchsorted(ids[order], ops.correlation[rows[kernels]], side="right")
        ran = ops.start[rows[kernels]]
        # With no later call, the launch may have been at any time before the kernel ran.
        later = np.append(start[order], np.iinfo(np.int64).max)[at]
        low[kernels] = np.where(at > 0, start[order][at - 1], ran)
        high[kernels] = np.minimum(later, ran)
    return low, high


def _ranges(tables: rocprof.Tables, thread: _Threads, warnings: list[str]) -> Ranges:
    """Return the roctx ranges; marks are left out, as they have no length."""
    frame = tables.markers
    start, end = _ints(frame, "Start_Timestamp"), _ints(frame, "End_Timestamp")
    own = frame["Domain"].str.startswith("MARKER_CORE").to_numpy(bool)
    backward = int((own & (end < start)).sum())
    if backward:
        warnings.append(f"{backward} of {int(own.sum())} roctx ranges end before they begin; they are left out.")
    ranged = own & (end > start)
    rows = np.flatnonzero(ranged & (thread.markers >= 0))
    if not ranged.any():
        warnings.append(f"The trace has no roctx ranges: every kernel is unattributed; {HOW}.")
        return NO_RANGES
    elsewhere = int(ranged.sum()) - len(rows)
    if elsewhere:
        warnings.append(
            f"{elsewhere} roctxRangeStart ranges belong to no thread, and the process has several: they are left out."
        )
    code, values = pd.factorize(frame["Function"].to_numpy(object)[rows])
    shown, names = numbered(display_name(str(v)) for v in values)
    free = _ints(frame, "Thread_Id")[rows] <= 0
    none = np.full(len(rows), -1, np.int64)
    where = (_ints(frame, "process")[rows], thread.markers[rows], free)
    return Ranges(start[rows], end[rows], *where, shown[code], none, rows, names, [])
