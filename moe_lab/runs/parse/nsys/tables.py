# SPDX-License-Identifier: Apache-2.0
"""The columns that attribution needs from an Nsight Systems export, as numpy arrays; absent values are -1."""

from typing import Any

import numpy as np

from moe_lab.runs.attribution.assemble import KINDS, NONE, Calls, Operations, Ranges
from moe_lab.runs.attribution.columns import numbered
from moe_lab.runs.attribution.keys import Bools, Ints
from moe_lab.runs.attribution.replay import NodeEvents
from moe_lab.runs.parse import _doubts
from moe_lab.runs.parse._sqlite import TEXT_LENGTH, Database
from moe_lab.spec.ranges import display_name

PID = ~0xFFFFFF  # globalTid is hw|vm|pid|tid in 8|8|24|24 bits; with tid set to 0 it is the globalPid
# eventType of NVTX_EVENTS: ranges of the program, and ranges imported from NVTX text files.
PUSH_POP, START_END, DOMAIN = (59, 70), (60, 71), 75
# Ours -> theirs. Only times are never absent.
COMMON = {
    "device": "deviceId",
    "stream": "streamId",
    "correlation": "correlationId",
    "process": "globalPid",
    "graph_node": "graphNodeId",
}
GEOMETRY = {f"{what}_{axis}": f"{what}{axis.upper()}" for what in ("grid", "block") for axis in "xyz"} | {
    "registers_per_thread": "registersPerThread",
    "smem_static_bytes": "staticSharedMemory",
    "smem_dynamic_bytes": "dynamicSharedMemory",
}
KERNEL = GEOMETRY | {"short": "shortName", "full": "demangledName"}
COPY = {"bytes": "bytes", "direction": "copyKind"}
SET = {"bytes": "bytes"}
SIZE = dict.fromkeys(GEOMETRY, 2**31) | {"bytes": 2**50}  # no real size is that large
# In the order of CUpti_ActivityMemcpyKind.
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
    # One list of names for all kinds: those of kernels, one per direction of copies, then memset.
    first = len(names) - 1 - len(directions)
    code = np.concatenate([name, which.ravel() + first, np.full(counts[2], len(names) - 1)]).astype(np.int64)
    full = np.concatenate([full, np.full(len(code) - len(full), -1, np.int64)])
    columns = {c: joined(c) for c in ("device", "stream", *GEOMETRY, "bytes")}
    start, end, process, correlation, node = map(joined, ("start", "end", "process", "correlation", "graph_node"))
    return Operations(
        start, end, process, correlation, node, np.repeat(np.arange(3), counts), code, full, names, fulls, columns
    )


def _part(database: Database, kind: str) -> dict[str, Ints]:
    """Return the columns of kernels, memcpys or memsets under our names; ``{}`` if the report has no such table."""
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
    part = {ours.get(c, c): ints(read.column(c)) for c in columns}
    wrong = int(_doubts.impossible(part["start"], part["end"]).sum())
    if wrong:
        raise database.wrong(f"{wrong} rows of {table} have times that cannot be true (none, negative, swapped)")
    for name in part.keys() & SIZE.keys():
        known = read.column(names[name])
        if len(known) and (part[name].max() >= SIZE[name] or (part[name] < 0).sum() > known.null_count):
            raise database.wrong(f"column {names[name]} of {table} holds values that cannot be true")
    return part


def calls(database: Database, warnings: list[str]) -> Calls | None:
    """Return the API calls, None if the report has none."""
    table = database.table("CUPTI_ACTIVITY_KIND_RUNTIME")
    if not table:
        return None
    columns = database.columns(table, ("start", "end", "globalTid", "correlationId"))
    read = database.read(table, columns, where='"correlationId" IS NOT NULL AND "globalTid" IS NOT NULL')
    start, end, thread, correlation = (ints(read.column(c)) for c in columns)
    found = (start, end, thread & PID, thread, correlation)
    bad = _doubts.impossible(start, end)
    if not bad.any():
        return Calls(*found)
    warnings.append(f"{int(bad.sum())} API calls have times that cannot be true; they are left out.")
    return Calls(*(column[~bad] for column in found))


def ranges(database: Database, warnings: list[str]) -> tuple[Ranges, int] | None:
    """Return push/pop and start/end ranges, None if the report has no NVTX.

    Returns:
        (ranges, elsewhere): ``elsewhere`` is the number of start/end ranges that are left out because they ended on
        another thread than they began on, which NVIDIA's own definition does not count either.
    """
    table = database.table("NVTX_EVENTS")
    if not table:
        return None
    optional = ("textId", "domainId", "endGlobalTid")
    columns = database.columns(table, ("start", "end", "eventType", "globalTid"), optional)
    kinds = f"\"eventType\" IN {(*PUSH_POP, *START_END, DOMAIN)} OR typeof(\"eventType\") NOT IN ('integer', 'null')"
    text = [c for c in ("text",) if c in database.tables[table]]
    read = database.read(table, [*columns, "rowid AS rowid"], text, f'({kinds}) AND "globalTid" IS NOT NULL')
    data = {c: ints(read.column(c)) for c in (*columns, "rowid")}
    missing = np.full(read.num_rows, -1, np.int64)
    name, names = _names(database, read.column("text") if text else None, data.get("textId", missing))
    # `made` rows are not ranges: each creates a domain and names it, and other rows refer to it.
    thread, free, made = data["globalTid"], np.isin(data["eventType"], START_END), data["eventType"] == DOMAIN
    domain, domains = _domains(thread & PID, data.get("domainId", np.zeros_like(missing)), made, name, names)
    ended = data.get("endGlobalTid", missing)
    elsewhere = free & (ended != -1) & (ended != thread)
    shown, names = numbered(map(display_name, names))
    open_ = np.asarray(read.column("end").is_null().to_numpy(zero_copy_only=False), bool)
    wrong = ~made & _doubts.impossible(data["start"], np.where(open_, data["start"], data["end"]))
    if wrong.any():
        warnings.append(f"{int(wrong.sum())} ranges have times that cannot be true; they are left out.")
    rest = (thread & PID, thread, free, shown[name], domain, data["rowid"], names, domains)
    found = Ranges(data["start"], data["end"], *rest)
    return found.take(np.flatnonzero(~made & ~elsewhere & ~wrong)), int(elsewhere.sum())


def nodes(database: Database) -> NodeEvents | None:
    """Return creations and clones of CUDA graph nodes, None if the report has none.

    In old schemas the table has the name that newer ones give to the table of graphs, so its columns decide.
    """
    found = (database.table(t) for t in ("CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"))
    table = next((t for t in found if t and "graphNodeId" in database.tables[t]), None)
    if not table:
        return None
    columns = database.columns(table, ("start", "globalTid", "graphNodeId", "originalGraphNodeId"))
    start, thread, node, original = (ints(c) for c in database.read(table, columns).columns)
    # For a created node some schemas repeat its own id as the original, others leave the original out.
    return NodeEvents(thread & PID, node, np.where(original == node, -1, original), start, thread)


def texts(database: Database, ids: Ints) -> tuple[Ints, list[str]]:
    """Return (code, values) for ids of StringIds: ``values[code]`` is the string; unknown ids have code -1."""
    wanted, code = np.unique(ids, return_inverse=True)  # only what is referred to: StringIds may be large
    strings: dict[int, str] = {}
    table = database.table("StringIds")
    if table:
        database.columns(table, ("id", "value"))
        asked = wanted[wanted >= 0].tolist()
        for at in range(0, len(asked), 500):  # older SQLite takes at most 999 parameters
            some = asked[at : at + 500]
            among = f'FROM "{table}" WHERE id IN ({",".join("?" * len(some))})'
            longest = database.rows(f"SELECT max(length(value)) {among}", some)[0][0] or 0
            _check_length(database, int(longest))
            strings.update(database.rows(f"SELECT id, CAST(value AS TEXT) {among}", some))
    own, values = numbered(strings.get(i) or None for i in wanted.tolist())
    return own[code.ravel()], values


def direction(kind: int) -> str:
    """Return the direction of a copy: ``memcpy device to host``."""
    return f"memcpy {DIRECTIONS[kind] if 0 <= kind < len(DIRECTIONS) else 'unknown'}"


def ints(column: Any) -> Ints:
    """Return an Arrow integer column as int64, nulls as -1."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.cast(pa.int64())
    return np.asarray((array.fill_null(-1) if array.null_count else array).to_numpy(zero_copy_only=False), np.int64)


def _names(database: Database, text: Any, text_id: Ints) -> tuple[Ints, list[str]]:
    """Return (code, values) of coalesce(text, StringIds[textId]); those without a name are ``(unnamed)``."""
    code, values = texts(database, text_id)
    if text is not None and len(text):
        import pyarrow as pa
        import pyarrow.compute as pc

        filled = text.cast(pa.large_binary()).combine_chunks()
        _check_length(database, int(pc.max(pc.binary_length(filled)).as_py() or 0))
        # Arrow finds the distinct names, as a report has millions of rows but only some hundred names.
        encoded = pc.if_else(pc.equal(filled, b""), None, filled).dictionary_encode()
        own, extra = ints(encoded.indices), [v.decode("utf-8", "replace") for v in encoded.dictionary.to_pylist()]
        code = np.where(own >= 0, own + len(values), code)
        values = [*values, *extra]
    return np.where(code >= 0, code, len(values)), [*values, "(unnamed)"]


def _check_length(database: Database, length: int) -> None:
    if length > TEXT_LENGTH:
        raise database.wrong(f"a name in it has {length:,} characters, more than {TEXT_LENGTH:,}")


def _domains(process: Ints, domain: Ints, made: Bools, name: Ints, names: list[str]) -> tuple[Ints, list[str]]:
    """Return (code, values): the domain of every event, from the rows that created domains; -1 = the default domain."""
    rows = np.flatnonzero(made)
    own, values = numbered(names[n] for n in name[rows])
    code = np.full(len(domain), -1, np.int64)
    for row, value in zip(rows, own, strict=True):
        code[(process == process[row]) & (domain == domain[row])] = value
    return code, values
