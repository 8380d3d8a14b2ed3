"""A small copy of a torch.profiler trace: what the analysis reads, nothing that names the machine or its user.

It is written from numbers and redacted names only, so nothing else of the trace can get into it.
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
from moe_lab.runs.attribution.keys import Bools, Ints, distinct
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
FIRST_PID = 1001  # GPU events have the device where the process stands
DROPPED = (
    "Left out: environment, host, user, paths, process and thread names, time of day.",
    "Process and thread ids are renumbered.",
    "Left out: API calls that launched no GPU operation, operators, stacks, shapes, flow events and metadata.",
    "Absolute paths inside range and kernel names are cut to their last component, host names replaced.",
)


def rank_of(header: dict[str, Any]) -> int | None:
    """Return the rank of the process that wrote the trace, None where it was one of no group."""
    group = header.get("distributedInfo")
    found = group.get("rank") if isinstance(group, dict) else None
    return found if type(found) is int and 0 <= found < 1 << 31 else None


def slim(source: Path, target: Path, keep: Keep | None = None) -> Slimmed:
    """Write a small, redacted copy of a trace, gzip, the same bytes for the same trace; as ``Slimmed`` says."""
    header: dict[str, Any] = {}
    with reading(Path(source)):
        tables = events.read(chrome.events(Path(source), header))
        hosts = redact.names_in(header)  # those of distributedInfo too
        said = {k: header[k] for k in HEADER if type(header.get(k)) is int and header[k] in INT64}
        if (own := rank_of(header)) is not None:
            said["distributedInfo"] = {"rank": own}
        gpus = [{k: g[k] for k in PROPERTIES if k in g} for g in gpus_of(header)]
        said["deviceProperties"] = [redact.tree(g, hosts) for g in gpus]
        with (
            target.open("wb") as file,
            gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed,
            io.TextIOWrapper(packed, encoding="utf-8") as out,
        ):
            out.write(json.dumps(said)[:-1] + ',\n"traceEvents": [\n')
            for number, line in enumerate(_lines(tables, keep, hosts)):
                out.write(f",\n{line}" if number else line)
            out.write("\n]}\n")
    return list(DROPPED), hosts


def gpus_of(header: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the properties of the GPUs: whole numbers from 0 up, and names of at most ``NAME_LENGTH`` characters."""
    found = header.get("deviceProperties")
    listed = [g for g in found if isinstance(g, dict)] if isinstance(found, list) else []
    return [{k: v for k, v in g.items() if _plain(k, v)} for g in listed]


def _plain(key: str, value: Any) -> bool:
    if key == "name":
        return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH and visible(value) == value
    return type(value) is int and 0 <= value < 2**63


def _lines(tables: events.Tables, keep: Keep | None, known_hosts: list[str]) -> Iterator[str]:
    """Yield the events as JSON: operations, their calls, ranges, operators that stand in for calls."""
    joined = Join(tables)
    if joined.renumber:  # the copy has other places in the file, by which processes were told apart
        joined.operation["correlation"] = np.where(joined.found >= 0, joined.found + 1, -1)
    kept = _kept(joined, keep)
    bounds = np.cumsum([0, *joined.counts])
    linked = np.where(joined.stand_in >= 0, joined.operation["external"], -1)
    for number, table in enumerate(tables.operations):
        rows = np.arange(bounds[number], bounds[number + 1])
        yield from _operations(table, joined.operation, rows, kept, linked, CATEGORIES[number], known_hosts)
    number_of = _Numbers(tables)
    found = np.union1d(joined.found[kept & (joined.found >= 0)], joined.empty)
    calls = tables.calls.arrays() | {"external": np.full(len(tables.calls), -1, np.int64)}
    if joined.renumber:
        calls["correlation"] = np.arange(1, 1 + len(tables.calls))
    yield from _on_cpu(tables.calls, calls, found, "cuda_runtime", number_of, known_hosts)
    shown = range_tables(tables)
    for table, category in (
        (tables.annotations, events.ANNOTATION),
        (tables.modules, events.PYTHON),
        (tables.operators, events.OPERATORS[0]),
    ):
        none = np.full(len(table), -1, np.int64)
        columns = table.arrays() | {"correlation": none}
        ranges = any(table is t for t in shown)
        chosen = (np.isin(columns["row"], keep.ranges) if keep else np.ones(len(table), bool)) & ranges
        if table is tables.operators:
            chosen[joined.stand_in[kept & (joined.stand_in >= 0)]] = True
        else:
            columns["external"] = none
        yield from _on_cpu(table, columns, np.flatnonzero(chosen), category, number_of, known_hosts)


def _kept(joined: Join, keep: Keep | None) -> Bools:
    kept = np.zeros(len(joined.process), bool)
    for number, first in enumerate(np.cumsum([0, *joined.counts])[:-1]):
        rows = keep.operations[KINDS[number]] if keep else np.arange(joined.counts[number])
        kept[first + rows] = True
    return kept


class _Numbers:
    """Processes and threads, numbered in the order of their ids, so that sorting by them stays the same."""

    def __init__(self, tables: events.Tables) -> None:
        parts = [t.arrays() for t in (tables.calls, tables.annotations, tables.modules, tables.operators)]
        pid, tid = (np.concatenate([p[c] for p in parts]) for c in ("pid", "tid"))
        first, _ = distinct(pid, tid)
        self.pids = {p: FIRST_PID + i for i, p in enumerate(np.unique(pid).tolist())}
        self.tids = {key: i for i, key in enumerate(zip(pid[first].tolist(), tid[first].tolist(), strict=True), 1)}


def _operations(
    table: events.Table,
    columns: dict[str, Ints],
    rows: Ints,
    kept: Bools,
    linked: Ints,
    category: str,
    known_hosts: list[str],
) -> Iterator[str]:
    """Yield the kept operations of a kind."""
    names = _texts(table, known_hosts)
    rows = rows[kept[rows]]
    data = {c: columns[c][rows].tolist() for c in (*events.OPERATION, *events.GEOMETRY, "name")}
    for i, external in enumerate(linked[rows].tolist()):
        args = {
            "External id": external,
            "device": data["device"][i],
            "stream": data["stream"][i],
            "correlation": data["correlation"][i],
            "graph node id": data["graph_node"][i],
            "bytes": data["bytes"][i],
            "registers per thread": data["registers"][i],
            "shared memory": data["smem"][i],
        }
        said = [f'"{k}": {v}' for k, v in args.items() if v >= 0]
        for key, axes in (("grid", events.GEOMETRY[:3]), ("block", events.GEOMETRY[3:])):
            sizes = [data[a][i] for a in axes]
            said += [f'"{key}": {sizes}'] if min(sizes) >= 0 else []
        where = f'"pid": {data["device"][i]}, "tid": {data["stream"][i]}'
        yield _event(category, names[data["name"][i]], where, data["start"][i], data["end"][i], said)


def _on_cpu(
    table: events.Table,
    columns: dict[str, Ints],
    rows: Ints,
    category: str,
    number_of: _Numbers,
    known_hosts: list[str],
) -> Iterator[str]:
    """Yield some calls or ranges; a correlation or External id of -1 is left out."""
    names = _texts(table, known_hosts)
    wanted = ("name", "pid", "tid", "start", "end", "correlation", "external")
    data = (columns[c][rows].tolist() for c in wanted)
    for name, pid, tid, start, end, correlation, external in zip(*data, strict=True):
        said = [f'"correlation": {correlation}'] if correlation >= 0 else []
        said += [f'"External id": {external}'] if external >= 0 else []
        where = f'"pid": {number_of.pids[pid]}, "tid": {number_of.tids[pid, tid]}'
        yield _event(category, names[name], where, start, end, said)


def _texts(table: events.Table, known_hosts: list[str]) -> list[str]:
    return [json.dumps(redact.text(name, known_hosts)) for name in table.names]


def _event(category: str, name: str, where: str, start: int, end: int, args: list[str]) -> str:
    times = f'"ts": {_us(start)}, "dur": {_us(end - start)}'
    return f'{{"ph": "X", "cat": "{category}", "name": {name}, {where}, {times}, "args": {{{", ".join(args)}}}}}'


def _us(ns: int) -> str:
    """Return ns as microseconds with three decimals, exactly."""
    return f"{'-' if ns < 0 else ''}{abs(ns) // 1000}.{abs(ns) % 1000:03d}"
