"""A large synthetic export of Nsight Systems: two processes of two threads each, with colliding correlation ids.

Each thread repeats an iteration of 73 nested ranges and 156 kernels; every kernel comes with 3.1 further API calls
(events, capture queries), as PyTorch makes them. In the graph report the iteration is captured once a thread, then
replayed.
"""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

SPLIT = 4.1  # API calls a kernel
TICK = 5000  # ns
THREADS = ((0x5101, 0x5101), (0x5101, 0x5177), (0x6202, 0x6202), (0x6202, 0x6290))  # (pid, tid)
FULL = [
    f"void gemm_kernel_{i}<float, 128, 64, {i % 8}, Layout<Row, Column>>(Params const*, int, float)" for i in range(40)
]
SHORT = [f"gemm_kernel_{i}" for i in range(40)]
API = ["cudaLaunchKernel_v7000", "cudaEventRecord_v3020", "cudaStreamIsCapturing_v10000", "cudaStreamWaitEvent_v3020"]
GRAPH_LAUNCH = "cudaGraphLaunch_v10000"
KERNEL = """start end deviceId contextId greenContextId streamId correlationId globalPid demangledName shortName
mangledName launchType cacheConfig registersPerThread gridX gridY gridZ blockX blockY blockZ staticSharedMemory
dynamicSharedMemory localMemoryPerThread localMemoryTotal gridId sharedMemoryExecuted graphNodeId graphId clusterX
clusterY clusterZ"""
COLUMNS = {
    "CUPTI_ACTIVITY_KIND_KERNEL": KERNEL,
    "CUPTI_ACTIVITY_KIND_RUNTIME": "start end eventClass globalTid correlationId nameId returnValue callchainId",
    "NVTX_EVENTS": "start end eventType rangeId category color text globalTid endGlobalTid textId domainId uint64Value "
    "int64Value doubleValue uint32Value int32Value floatValue jsonTextId jsonText binaryData",
    "CUDA_GRAPH_NODE_EVENTS": "start end eventClass globalTid nameId graphNodeId originalGraphNodeId",
    "META_DATA_EXPORT": "name value",
    "META_DATA_CAPTURE": "name value",
}


def template() -> tuple[list[tuple[int, int, str]], np.ndarray]:
    """Return one iteration: its ranges (start, end, name), parents first, and its kernels' ticks: int64 [156]."""
    ranges: list[tuple[int, int, str]] = []
    kernels: list[int] = []
    tick = 1
    for layer in range(6):
        first, blocks = tick, []
        tick += 1
        for block, stages in (("self_attn", 3), ("mlp", 5)):
            opened, leaves = tick, []
            tick += 1
            for stage in range(stages):
                count = 3 + (stage == 1)
                leaves.append((tick, tick + count + 1, f"stage_{stage}"))
                kernels += range(tick + 1, tick + 1 + count)
                tick += count + 2
            blocks += [(opened, tick, block), *leaves]
            tick += 1
        blocks.append((tick, tick + 1, "host only"))
        tick += 2
        ranges += [(first, tick, f"layers.{layer}"), *blocks]
        tick += 2
    return [(0, tick, "iteration"), *ranges], np.array(kernels)


class Builder:
    """Writes a report; strings get ids as they are used."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        self.db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        self.counts = {"kernels": 0, "api": 0, "ranges": 0}
        self.ids: dict[str, int] = {}
        for table, columns in COLUMNS.items():
            self.db.execute(f"CREATE TABLE {table} ({', '.join(map(column, columns.split()))})")
        self.insert("META_DATA_EXPORT", 1, name="EXPORT_SCHEMA_VERSION", value="3.25.0")
        self.insert("META_DATA_CAPTURE", 1, name="CUDA_GRAPH_TRACE_OPTIONS:MODE", value="Node")

    def text(self, names: list[str]) -> np.ndarray:
        """Return the ids of some strings."""
        return np.array([self.ids.setdefault(n, len(self.ids) + 1) for n in names])

    def insert(self, table: str, rows: int, **values: Any) -> None:
        """Insert rows in blocks; a scalar fills its column, columns left out are NULL."""
        names = ", ".join(f'"{name}"' for name in values)
        statement = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})"
        for at in range(0, rows, 200_000):
            size = min(200_000, rows - at)
            block = [v[at : at + size].tolist() if isinstance(v, np.ndarray) else [v] * size for v in values.values()]
            self.db.executemany(statement, zip(*block, strict=True))

    def kernels(self, number: int, start: np.ndarray, correlation: np.ndarray, node: np.ndarray | None) -> None:
        """Insert the kernels of a thread."""
        rows, rng = len(start), np.random.default_rng(number)
        name = np.arange(rows) % len(FULL)
        fixed = dict.fromkeys(("gridY", "gridZ", "blockY", "blockZ", "clusterX", "clusterY", "clusterZ"), 1)
        varied = {"correlationId": correlation, "gridId": np.arange(rows), "graphNodeId": node}
        varied["gridX"] = rng.choice([64, 264, 528, 4096], rows)
        varied["demangledName"] = varied["mangledName"] = self.text(FULL)[name]
        varied["shortName"] = self.text(SHORT)[name]
        sizes = {"registersPerThread": 128, "blockX": 128, "staticSharedMemory": 1024, "dynamicSharedMemory": 98304}
        place = {"deviceId": number, "streamId": 7, "globalPid": global_pid(number)}
        end = start + rng.integers(1000, 60_000, rows)
        self.insert("CUPTI_ACTIVITY_KIND_KERNEL", rows, start=start, end=end, **varied, **fixed, **sizes, **place)
        self.counts["kernels"] += rows

    def calls(self, number: int, start: np.ndarray, correlation: np.ndarray, launch: str, others: int) -> None:
        """Insert the calls that launch something, and others in between, in order of time."""
        host = np.arange(others) % len(start)
        slot = np.arange(others) // len(start)
        at = np.concatenate([start, start[host] + 2600 + slot % 4 * 300])
        ids = np.concatenate([correlation, correlation[host] + 1 + slot % 4])
        names = np.concatenate([np.full(len(start), self.text([launch])[0]), self.text(API[1:])[slot % 3]])
        order = np.argsort(at, kind="stable")
        end = at + np.concatenate([np.full(len(start), 2500), np.full(others, 250)])
        place = {"eventClass": 0, "returnValue": 0, "globalTid": global_tid(number)}
        data = {"start": at[order], "end": end[order], "correlationId": ids[order], "nameId": names[order]}
        self.insert("CUPTI_ACTIVITY_KIND_RUNTIME", len(at), **data, **place)
        self.counts["api"] += len(at)

    def ranges(self, number: int, base: np.ndarray, ranges: list[tuple[int, int, str]]) -> None:
        """Insert push/pop ranges: those of an iteration at every base time."""
        start = (base[:, None] + np.array([r[0] for r in ranges]) * TICK - 100).ravel()
        end = (base[:, None] + np.array([r[1] for r in ranges]) * TICK - 200).ravel()
        text = np.tile(self.text([r[2] for r in ranges]), len(base))
        place = {"eventType": 59, "domainId": 0, "globalTid": global_tid(number)}
        self.insert("NVTX_EVENTS", len(start), start=start, end=end, textId=text, **place)
        self.counts["ranges"] += len(start)

    def graph(self, number: int, ticks: np.ndarray, base: int) -> np.ndarray:
        """Insert the capture of an iteration and return the nodes of its executable graph."""
        table, place = "CUDA_GRAPH_NODE_EVENTS", {"globalTid": global_tid(number)}
        created = np.arange(1, len(ticks) + 1) + number * 10**6
        nodes = created + len(ticks)
        self.insert(table, len(ticks), start=base + ticks * TICK, graphNodeId=created, **place)
        self.insert(table, len(ticks), start=base + 10**6, graphNodeId=nodes, originalGraphNodeId=created, **place)
        return nodes

    def finish(self) -> dict[str, int]:
        """Write the strings and return the row counts."""
        self.db.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
        self.db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(i, s) for s, i in self.ids.items()])
        self.db.commit()
        self.db.close()
        return self.counts


def build(path: Path, kernels: int, graph: bool) -> dict[str, int]:
    """Write a report of about so many kernels and return its row counts."""
    out = Builder(path)
    ranges, ticks = template()
    iterations = max(1, round(kernels / len(ticks) / len(THREADS)))
    period = (ranges[0][1] + 20) * TICK
    for number in range(len(THREADS)):
        base = np.arange(1, iterations + 1, dtype=np.int64) * period + 10**9 + number
        start = (base[:, None] + ticks * TICK).ravel()
        spread = 5 * len(start) * (number % 2)  # the threads of one process share correlation ids, processes collide
        if graph:
            nodes = np.tile(out.graph(number, ticks, 10**9 + number), iterations)
            out.ranges(number, np.array([10**9 + number]), ranges)
            out.ranges(number, base, ranges[:1])
            launch = np.arange(iterations) * 5 + spread
            out.kernels(number, start + 8000, np.repeat(launch, len(ticks)), nodes)
            out.calls(number, base + TICK, launch, GRAPH_LAUNCH, 3 * iterations)
        else:
            correlation = np.arange(len(start)) * 5 + spread
            out.ranges(number, base, ranges)
            out.kernels(number, start + 8000, correlation, None)
            out.calls(number, start, correlation, API[0], round(len(start) * (SPLIT - 1)))
    return out.finish()


def column(name: str) -> str:
    """Return the definition of a column."""
    return f'"{name}" ' + ("TEXT" if name in ("text", "jsonText", "binaryData", "name", "value") else "INTEGER")


def global_pid(number: int) -> int:
    """Return the globalPid of a thread's process."""
    return (1 << 56) | (THREADS[number][0] << 24)


def global_tid(number: int) -> int:
    """Return the globalTid of a thread."""
    return global_pid(number) | THREADS[number][1]
