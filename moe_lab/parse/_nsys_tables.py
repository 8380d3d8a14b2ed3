"""The columns that attribution needs from an Nsight Systems export, as numpy arrays; absent values are -1."""

from typing import Any

import numpy as np

from moe_lab.assemble import KINDS, NONE, Calls, Operations, Ranges
from moe_lab.attribute import Bools, Ints
from moe_lab.parse._sqlite import Database
from moe_lab.ranges import display_name
from moe_lab.replay import NodeEvents

PID = ~0xFFFFFF  # globalTid is hw|vm|pid|tid in 8|8|24|24 bits; without the last it is a globalPid
PUSH_POP, START_END, DOMAIN = (59, 70), (60, 71), 75
# Ours -> theirs. Times are never absent, everything else may be.
COMMON = {
    "device": "deviceId",
    "stream": "streamId",
    "correlation": "correlationId",
    "process": "globalPid",
    "graph_node": "graphNodeId",
}
GEOMETRY = {
    "grid_x": "gridX",
    "grid_y": "gridY",
    "grid_z": "gridZ",
    "block_x": "blockX",
    "block_y": "blockY",
    "block_z": "blockZ",
    "registers_per_thread": "registersPerThread",
    "smem_static_bytes": "staticSharedMemory",
    "smem_dynamic_bytes": "dynamicSharedMemory",
}
KERNEL = GEOMETRY | {"short": "shortName", "full": "demangledName"}
COPY = {"bytes": "bytes", "direction": "copyKind"}
SET = {"bytes": "bytes"}
# CUpti_ActivityMemcpyKind
DIRECTIONS = (
    *("unknown", "host to device", "device to host", "host to array", "array to host", "array to array"),
    *("array to device", "device to array", "device to device", "host to host", "peer to peer"),
    *("unified host to device", "unified device to host", "unified device to device"),
)


def operations(database: Database) -> Operations:
    """Return kernels, then memcpys, then memsets."""
    parts = [_part(database, kind) for kind in KINDS]
    counts = [len(part.get("start", NONE)) for part in parts]

    def joined(column: str) -> Ints:
        present = zip(parts, counts, strict=True)
        filled = [p[column] if column in p else np.full(n, -1, np.int64) for p, n in present if n]
        return np.concatenate([NONE, *filled])

    kernel, copy = parts[0], parts[1].get("direction", NONE)
    full, fulls = texts(database, kernel.get("full", kernel.get("short", NONE)))
    name, names = texts(database, kernel.get("short", kernel.get("full", NONE)))
    directions, which = np.unique(copy, return_inverse=True)
    names += [*(direction(int(d)) for d in directions), "memset"]
    first = len(names) - 1 - len(directions)
    code = np.concatenate([name, which.ravel() + first, np.full(counts[2], len(names) - 1)]).astype(np.int64)
    full = np.concatenate([full, np.full(len(code) - len(full), -1, np.int64)])
    columns = {c: joined(c) for c in ("device", "stream", *GEOMETRY, "bytes")}
    start, end, process, correlation, node = map(joined, ("start", "end", "process", "correlation", "graph_node"))
    return Operations(
        start, end, process, correlation, node, np.repeat(np.arange(3), counts), code, full, names, fulls, columns
    )


def _part(database: Database, kind: str) -> dict[str, Ints]:
    """Return the columns of kernels, memcpys or memsets, under our names; ``{}`` if the report has no such table."""
    table = database.table(f"CUPTI_ACTIVITY_KIND_{kind.upper()}")
    if not table:
        return {}
    names = COMMON | {"kernel": KERNEL, "memcpy": COPY, "memset": SET}[kind]
    required = ["start", "end", "deviceId", "streamId", "correlationId"]
    if kind == "kernel" and "demangledName" not in database.tables[table]:
        required.append("shortName")
    columns = database.columns(table, required, [c for c in names.values() if c not in required])
    read = database.read(table, columns)
    ours = {theirs: name for name, theirs in names.items()}
    return {ours.get(c, c): _ints(read.column(c)) for c in columns}


def calls(database: Database) -> Calls | None:
    """Return the API calls, None if the report has none."""
    table = database.table("CUPTI_ACTIVITY_KIND_RUNTIME")
    if not table:
        return None
    columns = database.columns(table, ("start", "end", "globalTid", "correlationId"))
    read = database.read(table, columns, '"correlationId" IS NOT NULL AND "globalTid" IS NOT NULL')
    start, end, thread, correlation = (_ints(read.column(c)) for c in columns)
    return Calls(start, end, thread & PID, thread, correlation)


def ranges(database: Database) -> tuple[Ranges, int] | None:
    """Return push/pop and start/end ranges, None if the report has no NVTX.

    Returns:
        (ranges, elsewhere): how many start/end ranges are left out because they ended on another thread than they
        began on, which NVIDIA's own definition does not count either.
    """
    table = database.table("NVTX_EVENTS")
    if not table:
        return None
    optional = ("text", "textId", "domainId", "endGlobalTid")
    columns = database.columns(table, ("start", "end", "eventType", "globalTid"), optional)
    events = f'"eventType" IN {(*PUSH_POP, *START_END, DOMAIN)} AND "globalTid" IS NOT NULL'
    read = database.read(table, [*columns, "rowid"], events)
    data = {c: _ints(read.column(c)) for c in (*columns, "rowid") if c != "text"}
    missing = np.full(read.num_rows, -1, np.int64)
    name, names = _names(database, read.column("text") if "text" in columns else None, data.get("textId", missing))
    thread, free, made = data["globalTid"], np.isin(data["eventType"], START_END), data["eventType"] == DOMAIN
    domain, domains = _domains(thread & PID, data.get("domainId", np.zeros_like(missing)), made, name, names)
    ended = data.get("endGlobalTid", missing)
    elsewhere = free & (ended != -1) & (ended != thread)
    name, names = _display(name, names)
    rest = (thread & PID, thread, free, name, domain, data["rowid"], names, domains)
    found = Ranges(data["start"], data["end"], *rest)
    return found.take(np.flatnonzero(~made & ~elsewhere)), int(elsewhere.sum())


def nodes(database: Database) -> NodeEvents | None:
    """Return creations and clones of CUDA graph nodes, None if the report has none.

    Old schemas call the table what newer ones call the one of graphs, so its columns decide.
    """
    found = (database.table(t) for t in ("CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"))
    table = next((t for t in found if t and "graphNodeId" in database.tables[t]), None)
    if not table:
        return None
    columns = database.columns(table, ("start", "globalTid", "graphNodeId", "originalGraphNodeId"))
    start, thread, node, original = (_ints(c) for c in database.read(table, columns).columns)
    return NodeEvents(thread & PID, node, np.where(original == node, -1, original), start, thread)


def texts(database: Database, ids: Ints) -> tuple[Ints, list[str]]:
    """Return (code, values) for ids of StringIds: ``values[code]`` is the string; unknown ids have code -1."""
    wanted, code = np.unique(ids, return_inverse=True)
    strings: dict[int, str] = {}
    if database.table("StringIds"):
        asked = wanted[wanted >= 0].tolist()
        for at in range(0, len(asked), 500):
            some = asked[at : at + 500]
            strings.update(
                database.rows(f"SELECT id, value FROM StringIds WHERE id IN ({','.join('?' * len(some))})", some)
            )
    number: dict[str, int] = {}
    codes = [number.setdefault(strings[i], len(number)) if strings.get(i) else -1 for i in wanted.tolist()]
    return np.array(codes, np.int64)[code.ravel()], list(number)


def direction(kind: int) -> str:
    """Return the direction of a copy: ``memcpy device to host``."""
    return f"memcpy {DIRECTIONS[kind] if 0 <= kind < len(DIRECTIONS) else 'unknown'}"


def _ints(column: Any) -> Ints:
    """Return an Arrow integer column as int64, nulls as -1."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.cast(pa.int64())
    return np.asarray((array.fill_null(-1) if array.null_count else array).to_numpy(zero_copy_only=False), np.int64)


def _names(database: Database, text: Any, text_id: Ints) -> tuple[Ints, list[str]]:
    """Return (code, values) of coalesce(text, StringIds[textId]); nameless ones are ``(unnamed)``."""
    code, values = texts(database, text_id)
    if text is not None and text.null_count < len(text):
        import pyarrow as pa
        import pyarrow.compute as pc

        filled = text.cast(pa.large_string()).combine_chunks()
        encoded = pc.if_else(pc.equal(filled, ""), None, filled).dictionary_encode()
        own, extra = _ints(encoded.indices), [str(v) for v in encoded.dictionary.to_pylist()]
        code = np.where(own >= 0, own + len(values), code)
        values = [*values, *extra]
    return np.where(code >= 0, code, len(values)), [*values, "(unnamed)"]


def _display(code: Ints, names: list[str]) -> tuple[Ints, list[str]]:
    """Return (code, values) of the names as shown, equal ones joined."""
    number: dict[str, int] = {}
    shown = [number.setdefault(display_name(n), len(number)) for n in names]
    return np.array(shown, np.int64)[code], list(number)


def _domains(process: Ints, domain: Ints, made: Bools, name: Ints, names: list[str]) -> tuple[Ints, list[str]]:
    """Return (code, values): the domain of every event, by the rows that created them; -1 for the default domain."""
    known: dict[tuple[int, int], int] = {}
    number: dict[str, int] = {}
    for row in np.flatnonzero(made).tolist():
        known[int(process[row]), int(domain[row])] = number.setdefault(names[name[row]], len(number))
    code = np.full(len(domain), -1, np.int64)
    for (pid, key), value in known.items():
        code[(process == pid) & (domain == key)] = value
    return code, list(number)
