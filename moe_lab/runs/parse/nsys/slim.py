# SPDX-License-Identifier: Apache-2.0
"""A small copy of an Nsight Systems export: what the analysis reads, nothing that names the machine or its user."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from moe_lab.runs import redact
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.parse._slim import Keep, Slimmed
from moe_lab.runs.parse._sqlite import Database, open_database, reading, uri
from moe_lab.runs.parse.nsys import meta
from moe_lab.runs.parse.nsys.meta import GPU_FACTS
from moe_lab.runs.parse.nsys.named import GRAPH_LAUNCH, START, STOP
from moe_lab.runs.parse.nsys.tables import COMMON, COPY, DOMAIN, KERNEL, PUSH_POP, SET, START_END

EXTRA = ("contextId", "localMemoryPerThread", "sharedMemoryExecuted", "clusterX", "clusterY", "clusterZ")
OPERATIONS = {
    "KERNEL": ("start", "end", *COMMON.values(), *KERNEL.values(), *EXTRA),
    "MEMCPY": ("start", "end", *COMMON.values(), *COPY.values()),
    "MEMSET": ("start", "end", *COMMON.values(), *SET.values()),
}
TRACE = ("start", "end", "deviceId", "streamId", "correlationId", "globalPid")
RUNTIME = ("start", "end", "globalTid", "correlationId", "nameId")
NVTX = ("start", "end", "eventType", "globalTid", "endGlobalTid", "textId", "domainId")
NODES = ("start", "globalTid", "graphNodeId", "originalGraphNodeId")
GPU = ("id", *GPU_FACTS.values(), "computeMajor", "computeMinor")
EVENTS = f"eventType IN {(*PUSH_POP, *START_END, DOMAIN)}"
EXPORTED = "name IN ('EXPORT_PRODUCT_NAME', 'EXPORT_PRODUCT_VERSION', 'EXPORT_SCHEMA_VERSION')"
META = {
    "META_DATA_EXPORT": EXPORTED,
    "EXPORT_META_DATA": EXPORTED,
    "META_DATA_CAPTURE": "name LIKE '%CUDA_GRAPH_TRACE_OPTIONS:MODE'",
    "TARGET_INFO_SYSTEM_ENV": "name IN ('NvDriverVersion', 'CudaDriverVersion')",
}
TEXTS = ("name", "value", "chipName")
STRINGS = ("demangledName", "shortName", "nameId", "textId")
DROPPED = (
    "Left out: environment, host, user, paths, process and thread names.",
    "Process and thread ids are renumbered.",
    "Left out: API calls that launched no GPU operation, and every table and column that the analysis does not read.",
    "Absolute paths inside range and kernel names are cut to their last component, host names replaced.",
)


def slim(source: Path, target: Path, keep: Keep | None = None) -> Slimmed:
    """Write a small, redacted copy of an export; returns as ``Slimmed`` says."""
    with reading(Path(source)):
        database = open_database(Path(source))
        known = meta.hosts(database)
        with closing(sqlite3.connect(target.resolve().as_uri(), uri=True, isolation_level=None)) as out:
            # The functions take bytes, as sqlite3 refuses to pass text that is not UTF-8. In facts, which are versions
            # and names of GPUs, four numbers with dots are not an address.
            for name, addresses in (("redact", True), ("redact_fact", False)):
                hide = partial(_redacted, known, addresses)
                out.create_function(name, 1, hide, deterministic=True)
            out.execute("PRAGMA temp_store = MEMORY")
            out.execute("ATTACH ? AS src", (uri(database.path),))
            # A copy that fails is thrown away, so nothing needs a journal.
            out.execute("PRAGMA main.journal_mode = OFF")
            out.execute("PRAGMA main.synchronous = OFF")
            out.execute("BEGIN")
            _Copy(out, database, keep).run()
            out.execute("COMMIT")
            out.execute("DETACH src")
            out.execute("VACUUM")
        return list(DROPPED), known


def _redacted(known: list[str], addresses: bool, value: bytes) -> str:
    return redact.text(value.decode("utf-8", "replace"), known, addresses=addresses)


class _Copy:
    """Copies tables from ``src`` to a new file, with ids renumbered and strings redacted."""

    def __init__(self, out: sqlite3.Connection, database: Database, keep: Keep | None) -> None:
        self.out, self.database, self.keep = out, database, keep
        self.strings = database.table("StringIds")

    def run(self) -> None:
        self._number()
        self._texts()
        for kind in OPERATIONS:
            self._operations(kind)
        self._calls()
        self._ranges()
        self._table("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", TRACE)
        for name in ("CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"):
            table = self.database.table(name)
            if table and "graphNodeId" in self.database.tables[table]:
                self._table(name, NODES)
        self._table("TARGET_INFO_GPU", GPU)
        for name, where in META.items():
            self._table(name, ("name", "value"), where)
        self._strings()

    def _number(self) -> None:
        """Number processes and threads from 1, in the order of their ids, so that they sort in the same order."""
        pids: set[int] = set()
        tids: set[int] = set()
        for table, columns in self.database.tables.items():
            for column in {"globalPid", "globalTid", "endGlobalTid"} & set(columns):
                if table.startswith(("CUPTI_ACTIVITY_KIND_", "NVTX_EVENTS", "CUDA_GRAPH")):
                    found = {
                        v
                        for (v,) in self.out.execute(f'SELECT DISTINCT "{column}" FROM src."{table}"')
                        if isinstance(v, int)
                    }
                    (pids if column == "globalPid" else tids).update(found)
        # The new ids keep the layout of the old ones, which readers rely on: a thread has its pid in the upper bits.
        pids |= {tid & ~0xFFFFFF for tid in tids}
        number = {pid: i << 24 for i, pid in enumerate(sorted(pids), 1)}
        threads = [(tid, number[tid & ~0xFFFFFF] | i) for i, tid in enumerate(sorted(tids), 1)]
        self.out.execute("CREATE TEMP TABLE renumbered (old INTEGER PRIMARY KEY, new INTEGER)")
        self.out.executemany("INSERT OR REPLACE INTO renumbered VALUES (?, ?)", [*number.items(), *threads])

    def _texts(self) -> None:
        """Give an id to range names that are stored in their row, as registered names have one."""
        self.out.execute("CREATE TEMP TABLE texts (value TEXT PRIMARY KEY, id INTEGER)")
        table = self.database.table("NVTX_EVENTS")
        if not table or "text" not in self.database.tables[table]:
            return
        query = f'SELECT ifnull(max(id), 0) FROM src."{self.strings}" WHERE id < {2**62}'
        last = self.out.execute(query).fetchone()[0] if self.strings else 0
        query = f"SELECT DISTINCT text FROM src.\"{table}\" WHERE text <> '' AND {EVENTS}"
        self.out.execute(f"INSERT INTO texts SELECT text, {last} + row_number() OVER () FROM ({query})")

    def _operations(self, kind: str) -> None:
        name = f"CUPTI_ACTIVITY_KIND_{kind}"
        table = self.database.table(name)
        where = ""
        if table and self.keep is not None:
            rowids = np.array(
                [r for (r,) in self.out.execute(f'SELECT rowid FROM src."{table}" ORDER BY rowid')], np.int64
            )
            where = self._among(f"kept_{kind}", rowids[self.keep.operations[kind.lower()]])
        self._table(name, OPERATIONS[kind], where)

    def _among(self, name: str, rowids: Ints) -> str:
        self.out.execute(f"CREATE TEMP TABLE {name} (id INTEGER PRIMARY KEY)")
        self.out.executemany(f"INSERT INTO {name} VALUES (?)", [(r,) for r in rowids.tolist()])
        return f"rowid IN (SELECT id FROM temp.{name})"

    def _calls(self) -> None:
        """Copy the calls that launched a copied operation, and launches of graphs."""
        self.out.execute("CREATE TEMP TABLE used (id INTEGER, pid INTEGER, PRIMARY KEY (id, pid)) WITHOUT ROWID")
        for kind in (*OPERATIONS, "GRAPH_TRACE"):
            if self._has(f"CUPTI_ACTIVITY_KIND_{kind}", "correlationId"):
                pid = '"globalPid"' if self._has(f"CUPTI_ACTIVITY_KIND_{kind}", "globalPid") else "-1"
                query = f'SELECT DISTINCT "correlationId", ifnull({pid}, -1) FROM main.CUPTI_ACTIVITY_KIND_{kind}'
                self.out.execute(f"INSERT OR IGNORE INTO used {query} WHERE correlationId IS NOT NULL")
        # By correlation id and process, as in attribution: two processes may use the same ids.
        pid = "(SELECT new FROM temp.renumbered WHERE old = (globalTid & ~16777215))"
        where = f"EXISTS (SELECT 1 FROM temp.used u WHERE u.id = correlationId AND u.pid IN ({pid}, -1))"
        # Launches of graphs stay even without operations: how many there were is part of what the report says. So do
        # the calls between which a program wants to be analysed.
        names = [START, STOP, *([GRAPH_LAUNCH] if self.keep is None else [])]
        if self.strings:
            kept = f'SELECT id FROM src."{self.strings}" WHERE {" OR ".join(names)}'
            where = f"({where} OR nameId IN ({kept}))"
        self._table("CUPTI_ACTIVITY_KIND_RUNTIME", RUNTIME, where)

    def _ranges(self) -> None:
        table = self.database.table("NVTX_EVENTS")
        where = EVENTS
        if table and self.keep is not None:
            where = f"eventType = {DOMAIN} OR {self._among('kept_ranges', self.keep.ranges)}"
        self._table("NVTX_EVENTS", NVTX, where)

    def _has(self, table: str, column: str) -> bool:
        return column in (row[1] for row in self.out.execute(f'PRAGMA main.table_info("{table}")'))

    def _table(self, name: str, columns: Sequence[str], where: str = "") -> None:
        """Copy columns of a table, under its name without the version, in the order of its rows."""
        table = self.database.table(name)
        if not table:
            return
        own = set(self.database.tables[table]) | ({"textId"} if name == "NVTX_EVENTS" else set())
        kept = [c for c in dict.fromkeys(columns) if c in own]
        definition = ", ".join(f'"{c}" ' + ("TEXT" if c in TEXTS else "INTEGER") for c in kept)
        self.out.execute(f'CREATE TABLE main."{name}" ({definition})')
        values = ", ".join(self._value(table, c) for c in kept)
        condition = f" WHERE {where}" if where else ""  # analysis breaks ties by the order of rows
        self.out.execute(
            f'INSERT INTO main."{name}" SELECT {values} FROM src."{table}" AS t{condition} ORDER BY t.rowid'
        )

    def _value(self, table: str, column: str) -> str:
        if column in ("globalPid", "globalTid", "endGlobalTid"):
            return f'(SELECT new FROM temp.renumbered WHERE old = t."{column}")'
        if column == "textId":
            text = (
                "(SELECT id FROM temp.texts x WHERE x.value = t.text)"
                if "text" in self.database.tables[table]
                else "NULL"
            )
            registered = "t.textId" if "textId" in self.database.tables[table] else "NULL"
            return f"coalesce({text}, {registered})"
        if column in TEXTS:
            return f'CASE WHEN typeof(t."{column}") = \'text\' THEN redact_fact(CAST(t."{column}" AS BLOB)) END'
        return f'CASE WHEN typeof(t."{column}") = \'integer\' THEN t."{column}" END'

    def _strings(self) -> None:
        """Copy the strings that copied rows refer to, redacted."""
        self.out.execute("CREATE TEMP TABLE needed (id INTEGER PRIMARY KEY)")
        for (table,) in self.out.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            for column in STRINGS:
                if self._has(table, column):
                    query = f'SELECT DISTINCT "{column}" FROM main."{table}" WHERE "{column}" IS NOT NULL'
                    self.out.execute(f"INSERT OR IGNORE INTO needed {query}")
        self.out.execute("CREATE TABLE main.StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
        if self.strings:
            chosen = f'SELECT id, redact(CAST(value AS BLOB)) FROM src."{self.strings}"'
            self.out.execute(f"INSERT INTO main.StringIds {chosen} WHERE id IN (SELECT id FROM temp.needed)")
        own = "SELECT id, redact(CAST(value AS BLOB)) FROM temp.texts WHERE id IN (SELECT id FROM temp.needed)"
        self.out.execute(f"INSERT INTO main.StringIds {own}")
