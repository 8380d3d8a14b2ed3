# SPDX-License-Identifier: Apache-2.0
"""A small copy of a torch.profiler trace: what the analysis reads, nothing that names the machine or its user.

It is written only from numbers and redacted names, so nothing else of the trace can get into it.
"""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moe_lab.runs import redact
from moe_lab.runs.attribution.assemble import KINDS
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.parse._slim import Keep, Slimmed
from moe_lab.runs.parse.kineto import chrome, events
from moe_lab.runs.parse.kineto.file import reading
from moe_lab.runs.parse.kineto.join import Join, range_tables
from moe_lab.spec.guard.entry import INT64, NAME_LENGTH, visible

# Ours -> key of deviceProperties.
GPU_FACTS = {
    "name": "name",
    "sm_count": "numSms",
    "memory_bytes": "totalGlobalMem",
    "warp_threads": "warpSize",
    "max_registers_per_sm": "regsPerMultiprocessor",
    "max_smem_per_sm_bytes": "sharedMemPerMultiprocessor",
    "max_smem_per_block_bytes": "sharedMemPerBlockOptin",
}
PROPERTIES = ("id", *GPU_FACTS.values(), "maxThreadsPerMultiprocessor", "computeMajor", "computeMinor")
HEADER = ("schemaVersion", "cuda_runtime_version", "cuda_driver_version")
CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
# Key of an event's args -> our column.
ARGS = {
    "External id": "external",
    "device": "device",
    "stream": "stream",
    "correlation": "correlation",
    "graph node id": "graph_node",
    "bytes": "bytes",
    "registers per thread": "registers",
    "shared memory": "smem",
}
DROPPED = (
    "Left out: environment, host, user, paths, process and thread names, time of day.",
    "Process and thread ids are renumbered.",
    "Left out: API calls that launched no GPU operation, operators, stacks, shapes, flow events and metadata.",
    "Absolute paths inside range and kernel names are cut to their last component, host names replaced.",
)


def rank_of(header: dict[str, Any]) -> int | None:
    """Return the rank of the process that wrote the trace; None if it was in no process group."""
    group = header.get("distributedInfo")
    found = group.get("rank") if isinstance(group, dict) else None
    return found if type(found) is int and 0 <= found < 1 << 31 else None


def slim(source: Path, target: Path, keep: Keep | None = None) -> Slimmed:
    """Write a small, redacted copy of a trace as gzip, always the same bytes; returns as ``Slimmed`` says."""
    header: dict[str, Any] = {}
    with reading(Path(source)):
        tables = events.read(chrome.events(Path(source), header))
        hosts = redact.names_in(header)  # distributedInfo names hosts, too
        said = {k: header[k] for k in HEADER if type(header.get(k)) is int and header[k] in INT64}
        if (own := rank_of(header)) is not None:
            said["distributedInfo"] = {"rank": own}
        gpus = [{k: g[k] for k in PROPERTIES if k in g} for g in gpus_of(header)]
        said["deviceProperties"] = [redact.tree(g, hosts) for g in gpus]
        with (
            target.open("wb") as file,
            gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed,  # no time and no name: always the same bytes
            io.TextIOWrapper(packed, encoding="utf-8") as out,
        ):
            out.write(json.dumps(said)[:-1] + ',\n"traceEvents": [\n')
            for number, line in enumerate(_lines(tables, keep, hosts)):
                out.write(f",\n{line}" if number else line)
            out.write("\n]}\n")
    return list(DROPPED), hosts


def gpus_of(header: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the properties of the GPUs: non-negative integers, and names of at most ``NAME_LENGTH`` characters."""
    found = header.get("deviceProperties")
    listed = [g for g in found if isinstance(g, dict)] if isinstance(found, list) else []
    return [{k: v for k, v in g.items() if _plain(k, v)} for g in listed]


def _plain(key: str, value: Any) -> bool:
    if key == "name":
        return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH and visible(value) == value
    return type(value) is int and 0 <= value < 2**63  # not isinstance: True is an int, too


def _lines(tables: events.Tables, keep: Keep | None, hosts: list[str]) -> Iterator[str]:
    """Yield the events as JSON: operations, their calls, ranges, operators that stand in for calls."""
    joined = Join(tables)
    operation = joined.operation
    if joined.renumber:  # places in the file told processes apart, and they are different in the copy
        operation["correlation"] = np.where(joined.found >= 0, joined.found + 1, -1)
    linked = np.where(joined.stand_in >= 0, operation["external"], -1)
    operation |= {"external": linked, "pid": operation["device"], "tid": operation["stream"]}
    kept = np.zeros(len(joined.process), bool)
    for number, (first, count) in enumerate(zip(np.cumsum([0, *joined.counts]), joined.counts, strict=False)):
        rows = first + (keep.operations[KINDS[number]] if keep else np.arange(count))
        kept[rows] = True
        yield from _events(tables.operations[number], operation, rows, CATEGORIES[number], hosts)
    found = np.union1d(joined.found[kept & (joined.found >= 0)], joined.empty)
    calls = tables.calls.arrays()
    del calls["external"]
    if joined.renumber:
        calls["correlation"] = np.arange(1, 1 + len(tables.calls))
    yield from _events(tables.calls, calls | joined.numbers(calls), found, "cuda_runtime", hosts)
    shown = range_tables(tables)
    for table, category in (
        (tables.annotations, events.ANNOTATION),
        (tables.modules, events.PYTHON),
        (tables.operators, events.OPERATORS[0]),
    ):
        columns = table.arrays()
        ranges = any(table is t for t in shown)
        chosen = (np.isin(columns["row"], keep.ranges) if keep else np.ones(len(table), bool)) & ranges
        if table is tables.operators:
            chosen[joined.stand_in[kept & (joined.stand_in >= 0)]] = True
        else:
            del columns["external"]
        yield from _events(table, columns | joined.numbers(columns), np.flatnonzero(chosen), category, hosts)


def _events(
    table: events.Table, columns: dict[str, Ints], rows: Ints, category: str, hosts: list[str]
) -> Iterator[str]:
    """Yield some rows of a table as JSON; values of -1 are left out."""
    names = [json.dumps(redact.text(name, hosts)) for name in table.names]
    data = {c: values[rows].tolist() for c, values in columns.items()}
    args = {key: data[c] for key, c in ARGS.items() if c in data}
    for i, (name, start, end) in enumerate(zip(data["name"], data["start"], data["end"], strict=True)):
        said = [f'"{key}": {values[i]}' for key, values in args.items() if values[i] >= 0]
        for key in ("grid", "block") if "grid_x" in data else ():
            sizes = [data[f"{key}_{axis}"][i] for axis in "xyz"]
            said += [f'"{key}": {sizes}'] if min(sizes) >= 0 else []
        where = f'"cat": "{category}", "name": {names[name]}, "pid": {data["pid"][i]}, "tid": {data["tid"][i]}'
        times = f'"ts": {_us(start)}, "dur": {_us(end - start)}'
        yield f'{{"ph": "X", {where}, {times}, "args": {{{", ".join(said)}}}}}'


def _us(ns: int) -> str:
    """Return ns as microseconds with three decimals, exactly."""
    return f"{'-' if ns < 0 else ''}{abs(ns) // 1000}.{abs(ns) % 1000:03d}"
