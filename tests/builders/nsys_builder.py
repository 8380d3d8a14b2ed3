"""Small synthetic Nsight Systems exports, of several generations of the schema, written row by row in tests."""

import sqlite3
from pathlib import Path
from typing import Any

# generation -> (schema, meta table, table of graph nodes)
GENERATIONS = {
    "2022.4": ("2.7.1", "EXPORT_META_DATA", "CUDA_GRAPH_EVENTS"),
    "2023.4": ("3.7.2", "META_DATA_EXPORT", "CUDA_GRAPH_EVENTS"),
    "2025.3": ("3.20.3", "META_DATA_EXPORT", "CUDA_GRAPH_NODE_EVENTS"),
    "2026.2": ("3.25.0", "META_DATA_EXPORT", "CUDA_GRAPH_NODE_EVENTS"),
}
OPERATION = ("start", "end", "deviceId", "contextId", "streamId", "correlationId", "globalPid")
TABLES = {
    "CUPTI_ACTIVITY_KIND_KERNEL": (
        *OPERATION,
        *("demangledName", "shortName", "mangledName", "registersPerThread", "gridX", "gridY", "gridZ"),
        *("blockX", "blockY", "blockZ", "staticSharedMemory", "dynamicSharedMemory", "graphNodeId"),
    ),
    "CUPTI_ACTIVITY_KIND_MEMCPY": (*OPERATION, "bytes", "copyKind", "graphNodeId"),
    "CUPTI_ACTIVITY_KIND_MEMSET": (*OPERATION, "value", "bytes", "graphNodeId"),
    "CUPTI_ACTIVITY_KIND_RUNTIME": (
        "start",
        "end",
        "eventClass",
        "globalTid",
        "correlationId",
        "nameId",
        "returnValue",
    ),
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": (*OPERATION, "graphId", "graphExecId"),
    "NVTX_EVENTS": (
        *("start", "end", "eventType", "rangeId", "category", "color", "text", "globalTid", "endGlobalTid"),
        *("textId", "domainId", "jsonText"),
    ),
    "CUDA_GRAPH_NODE_EVENTS": ("start", "end", "globalTid", "nameId", "graphNodeId", "originalGraphNodeId"),
    "CUDA_GRAPH_EVENTS": ("start", "end", "globalTid", "nameId", "graphId", "graphExecId"),
    "TARGET_INFO_GPU": ("id", "name", "smCount", "totalMemory", "computeMajor", "computeMinor", "uuid", "busLocation"),
    "TARGET_INFO_SYSTEM_ENV": ("globalVid", "devStateName", "name", "nameEnum", "value"),
    "TARGET_INFO_SESSION_START_TIME": ("utcEpochNs", "utcTime", "localTime"),
    "META_DATA_EXPORT": ("name", "value"),
    "EXPORT_META_DATA": ("name", "value"),
    "META_DATA_CAPTURE": ("name", "value"),
    "ThreadNames": ("nameId", "priority", "globalTid"),
    "PROCESSES": ("globalPid", "pid", "name"),
    "ProcessStreams": ("globalPid", "filenameId", "contentId"),
}
NEW_ONLY = {"CUPTI_ACTIVITY_KIND_KERNEL": ("graphId", "clusterX")}


def tid(process: int = 1, thread: int = 1) -> int:
    """Return a globalTid as nsys packs it, beyond 2**53: hw 8 bits, vm 8, pid 24, tid 24."""
    return (1 << 56) | ((0x500000 + process) << 24) | (0x500000 + thread)


def pid(process: int = 1) -> int:
    """Return the globalPid of a process."""
    return tid(process) & ~0xFFFFFF


class NsysBuilder:
    """Collects rows, then writes the file. Tables without rows are not created, as nsys does."""

    def __init__(self, generation: str = "2026.2", graph_mode: str = "Node", schema: str | None = None) -> None:
        number, self.meta_table, self.node_table = GENERATIONS[generation]
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.strings: dict[str, int] = {}
        self.drop: set[tuple[str, str]] = set()
        self.rename: dict[str, str] = {}
        self.old = generation < "2025"
        for name, value in (("PRODUCT_VERSION", f"{generation}.1.99"), ("SCHEMA_VERSION", schema or number)):
            self.row(self.meta_table, name=f"EXPORT_{name}", value=value)
        self.row("META_DATA_CAPTURE", name="PROCESS_0:CUDA_GRAPH_TRACE_OPTIONS:MODE", value=graph_mode)

    def row(self, table: str, **values: Any) -> "NsysBuilder":
        """Add a row to any table."""
        self.rows.setdefault(table, []).append(values)
        return self

    def string(self, value: str) -> int:
        """Return the id of a string."""
        return self.strings.setdefault(value, len(self.strings) + 1)

    def push(self, name: str, start: int, end: int | None, *, process: int = 1, thread: int = 1, **more: Any) -> None:
        """Add a push/pop range; ``registered=True`` stores its name as an id, ``domain`` is a domain id."""
        self.event(59, name, start, end, process=process, thread=thread, **more)

    def event(
        self,
        kind: int,
        name: str,
        start: int,
        end: int | None,
        *,
        process: int = 1,
        thread: int = 1,
        end_thread: int | None = None,
        registered: bool = False,
        domain: int = 0,
    ) -> None:
        """Add an NVTX event: 59 push/pop, 60 start/end, 34 mark, 75 domain."""
        text = {"textId": self.string(name)} if registered else {"text": name}
        ended = None if end_thread is None else tid(process, end_thread)
        values = {"start": start, "end": end, "eventType": kind, "globalTid": tid(process, thread), "domainId": domain}
        self.row("NVTX_EVENTS", **values, endGlobalTid=ended, **text)

    def call(
        self,
        start: int,
        end: int,
        correlation: int,
        *,
        process: int = 1,
        thread: int = 1,
        name: str = "cudaLaunchKernel",
    ) -> None:
        """Add an API call."""
        common = {"start": start, "end": end, "globalTid": tid(process, thread), "correlationId": correlation}
        self.row("CUPTI_ACTIVITY_KIND_RUNTIME", **common, nameId=self.string(name), eventClass=0, returnValue=0)

    def kernel(
        self,
        start: int,
        end: int,
        correlation: int | None,
        *,
        process: int = 1,
        name: str = "gemm",
        node: int | None = None,
        stream: int = 7,
        grid: tuple[int, int, int] = (4, 2, 1),
        block: tuple[int, int, int] = (128, 1, 1),
        registers: int = 64,
    ) -> None:
        """Add a kernel."""
        names = {"shortName": self.string(name), "demangledName": self.string(f"void {name}<float>(float*)")}
        sizes = dict(zip(("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ"), (*grid, *block), strict=True))
        memory = {"registersPerThread": registers, "staticSharedMemory": 1024, "dynamicSharedMemory": 0}
        common = self._operation(start, end, correlation, process, stream, node)
        self.row("CUPTI_ACTIVITY_KIND_KERNEL", **common, **names, **sizes, **memory)

    def memcpy(self, start: int, end: int, correlation: int, *, process: int = 1, kind: int = 1, size: int = 8) -> None:
        """Add a copy; kind 1 is host to device."""
        common = self._operation(start, end, correlation, process, 7, None)
        self.row("CUPTI_ACTIVITY_KIND_MEMCPY", **common, bytes=size, copyKind=kind)

    def memset(self, start: int, end: int, correlation: int, *, process: int = 1, size: int = 8) -> None:
        """Add a memset."""
        self.row("CUPTI_ACTIVITY_KIND_MEMSET", **self._operation(start, end, correlation, process, 7, None), bytes=size)

    def launch(self, at: int, correlation: int, *, gpu: tuple[int, int], thread: int = 1, **kernel: Any) -> None:
        """Add a call of 2 ns at a time and the kernel that it launches."""
        self.call(at, at + 2, correlation, process=kernel.get("process", 1), thread=thread)
        self.kernel(*gpu, correlation, **kernel)

    def node(self, at: int, node: int, original: int | None = None, *, process: int = 1, thread: int = 1) -> None:
        """Add the creation of a graph node, or a clone of ``original``."""
        values = {"start": at, "end": at, "globalTid": tid(process, thread), "graphNodeId": node}
        self.row(self.node_table, **values, originalGraphNodeId=original)

    def replay(self, at: int, correlation: int, *, process: int = 1, thread: int = 1) -> None:
        """Add the call that launches a graph."""
        self.call(at, at + 2, correlation, process=process, thread=thread, name="cudaGraphLaunch_v10000")

    def _operation(
        self, start: int, end: int, correlation: int | None, process: int, stream: int, node: int | None
    ) -> dict[str, Any]:
        ids = {"correlationId": correlation, "globalPid": pid(process), "graphNodeId": node}
        return {"start": start, "end": end, "deviceId": process - 1, "contextId": 1, "streamId": stream, **ids}

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA synchronous = OFF")
            for table, rows in self.rows.items():
                columns = self._columns(table)
                name = self.rename.get(table, table)
                types = ", ".join(
                    f'"{c}"' + (" TEXT" if c in ("text", "value", "name") else " INTEGER") for c in columns
                )
                db.execute(f'CREATE TABLE "{name}" ({types})')
                marks = ", ".join("?" * len(columns))
                db.executemany(f'INSERT INTO "{name}" VALUES ({marks})', [[r.get(c) for c in columns] for r in rows])
            db.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
            db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(i, s) for s, i in self.strings.items()])
        db.close()
        return path

    def _columns(self, table: str) -> list[str]:
        columns = list(TABLES[table])
        if table == "CUDA_GRAPH_EVENTS" and self.node_table == table:
            columns = list(TABLES["CUDA_GRAPH_NODE_EVENTS"])
        columns += [] if self.old else NEW_ONLY.get(table, ())
        return [c for c in columns if (table, c) not in self.drop]
