# SPDX-License-Identifier: Apache-2.0
"""rocpd databases of rocprofv3 (SQLite), read through their documented views into the tables of its CSV files.

Where the views are missing, the tables behind them are joined in their place.

The database also holds the environment, host and command of the profiled process; none of that is read.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs.parse import _doubts, _folder
from moe_lab.runs.parse._sqlite import MAGIC, Database, open_database, reading, uri
from moe_lab.runs.parse.rocprof import tables as rocprof
from moe_lab.runs.redact.names import is_telling
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import entry

# View -> (integers, texts): the view's columns, renamed to those of the CSV files.
_WHERE = (
    *("pid AS Process_Id", "tid AS Thread_Id", "stack_id AS Correlation_Id", '"start" AS Start_Timestamp'),
    '"end" AS End_Timestamp',
)
_AXES = [f"{group}_{axis} AS {group.title()}_Size_{axis.upper()}" for group in ("workgroup", "grid") for axis in "xyz"]
_VIEWS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kernels": (
        (
            *("agent_abs_index AS Agent_Id", "queue_id AS Queue_Id", "stream_id AS Stream_Id"),
            *("lds_size AS LDS_Block_Size", "scratch_size AS Scratch_Size", "vgpr_count AS VGPR_Count"),
            *("accum_vgpr_count AS Accum_VGPR_Count", "sgpr_count AS SGPR_Count", *_AXES, *_WHERE),
        ),
        ("name AS Kernel_Name", "guid AS guid"),
    ),
    "memory_copies": (
        (
            *("stream_id AS Stream_Id", "src_agent_abs_index AS Source_Agent_Id"),
            *("dst_agent_abs_index AS Destination_Agent_Id", *_WHERE),
        ),
        ("name AS Direction", "guid AS guid"),
    ),
    "regions": (_WHERE, ("category AS Domain", "name AS Function", "extdata AS extdata", "guid AS guid")),
    "rocpd_info_agent": (
        ("absolute_index AS Node_Id", "logical_index AS Logical_Node_Id"),
        ("type AS Agent_Type", "name AS Name", "product_name AS Product_Name", "extdata AS extdata"),
    ),
}
# View -> the table behind it. The view joins other tables, and drops a row if its partner there is missing.
_BEHIND = {"kernels": "rocpd_kernel_dispatch", "memory_copies": "rocpd_memory_copy", "regions": "rocpd_region"}
# The columns of the views, but with no row dropped: those leave out rows without region, thread or partner, and some
# databases have no views at all. In braces are the tables, whose names then end in the id of the database.
_JOINED = {
    "kernels": """(SELECT K.guid, P.pid, T.tid, S.display_name AS name, A.absolute_index AS agent_abs_index, K.queue_id,
K.stream_id, E.stack_id, K.start, K."end", K.group_segment_size AS lds_size, K.private_segment_size AS scratch_size,
S.arch_vgpr_count AS vgpr_count, S.accum_vgpr_count, S.sgpr_count, K.workgroup_size_x AS workgroup_x,
K.workgroup_size_y AS workgroup_y, K.workgroup_size_z AS workgroup_z, K.grid_size_x AS grid_x, K.grid_size_y AS grid_y,
K.grid_size_z AS grid_z FROM {kernel_dispatch} K
LEFT JOIN {info_agent} A ON A.id = K.agent_id AND A.guid = K.guid
LEFT JOIN {event} E ON E.id = K.event_id AND E.guid = K.guid
LEFT JOIN {info_kernel_symbol} S ON S.id = K.kernel_id AND S.guid = K.guid
LEFT JOIN {info_process} P ON P.id = K.pid AND P.guid = K.guid
LEFT JOIN {info_thread} T ON T.id = K.tid AND T.guid = K.guid)""",
    "memory_copies": """(SELECT M.guid, P.pid, T.tid, N.string AS name, M.stream_id, E.stack_id, M.start, M."end",
F.absolute_index AS src_agent_abs_index, D.absolute_index AS dst_agent_abs_index FROM {memory_copy} M
LEFT JOIN {info_agent} F ON F.id = M.src_agent_id AND F.guid = M.guid
LEFT JOIN {info_agent} D ON D.id = M.dst_agent_id AND D.guid = M.guid
LEFT JOIN {event} E ON E.id = M.event_id AND E.guid = M.guid
LEFT JOIN {string} N ON N.id = M.name_id AND N.guid = M.guid
LEFT JOIN {info_process} P ON P.id = M.pid AND P.guid = M.guid
LEFT JOIN {info_thread} T ON T.id = M.tid AND T.guid = M.guid)""",
    "regions": """(SELECT R.guid, P.pid, T.tid, C.string AS category, N.string AS name, E.stack_id, R.start, R."end",
E.extdata FROM {region} R
LEFT JOIN {event} E ON E.id = R.event_id AND E.guid = R.guid
LEFT JOIN {string} C ON C.id = E.category_id AND C.guid = E.guid
LEFT JOIN {string} N ON N.id = R.name_id AND N.guid = R.guid
LEFT JOIN {info_process} P ON P.id = R.pid AND P.guid = R.guid
LEFT JOIN {info_thread} T ON T.id = R.tid AND T.guid = R.guid)""",
    "rocpd_info_agent": "(SELECT * FROM {info_agent})",
}
_TABLES = (
    *("kernel_dispatch", "memory_copy", "region", "event", "string", "info_agent", "info_kernel_symbol"),
    *("info_process", "info_thread"),
)


def is_database(path: Path) -> bool:
    """Return whether a file is a rocpd database."""
    if not path.is_file() or path.stat().st_size < 100:
        return False
    with path.open("rb") as file:
        if file.read(16) != MAGIC:
            return False
    return bool(_rows(path, "SELECT 1 FROM sqlite_master WHERE name LIKE 'rocpd_kernel_dispatch%'"))


def _rows(path: Path, query: str) -> list[Any]:
    """Return the rows of a query; no rows if the file is damaged or has no such table."""
    try:
        with closing(sqlite3.connect(uri(path), uri=True)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error:
        return []


def find(path: Path) -> list[Path]:
    """Return the databases: the file itself, or those of a folder."""
    if path.is_dir():
        return [p for p in _folder.files(path, (".db",), rocprof.DEEP) if is_database(p)]
    return [path] if is_database(path) else []


def hosts(paths: list[Path]) -> list[str]:
    """Return the names of the profiled machines."""
    found = set()
    for path in paths:
        for (table,) in _rows(path, "SELECT name FROM sqlite_master WHERE name LIKE 'rocpd_info_node%'"):
            quoted = '"{}"'.format(table.replace('"', '""'))
            query = f"SELECT CAST(hostname AS BLOB) FROM {quoted} WHERE hostname <> ''"
            found |= {row[0].decode("utf-8", "replace") for row in _rows(path, query)}
    return sorted(filter(is_telling, found))


def read(paths: list[Path], warnings: list[str]) -> rocprof.Tables:
    """Read databases of one or more processes each; sentences on unreadable rows are added to ``warnings``."""
    parts = [_read(path, warnings) for path in paths]
    frames = {kind: pd.concat([p[kind] for p in parts], ignore_index=True) for kind in (*rocprof.COLUMNS, "agents")}
    tables = {kind: rocprof.coerced(frames[kind], columns) for kind, columns in rocprof.COLUMNS.items()}
    guid = pd.concat([frames[kind]["guid"] for kind in tables], ignore_index=True)
    return rocprof.together(tables, pd.factorize(guid)[0].astype(np.int64), frames["agents"])


def _read(path: Path, warnings: list[str]) -> dict[str, pd.DataFrame]:
    with reading(path):
        database = open_database(path)
        database.check(*(t for t in database.tables if t.startswith("rocpd_")))
        found = [[_view(database, view, source, warnings) for view, source in s.items()] for s in _sources(database)]
    kernels, copies, regions, agents = (pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True))
    domain = regions["Domain"]
    calls, markers = regions[domain.str.startswith("HIP")], regions[domain.str.startswith("MARKER_CORE")].copy()
    free = markers["Function"].str.startswith(rocprof.FREE)
    # The view's `name` is only the roctx function; the text of the range is in extdata.
    said = zip(markers["extdata"], markers["Function"], strict=True)
    markers["Function"] = [str(_json(extdata).get("message") or name) for extdata, name in said]
    markers["Thread_Id"] = markers["Thread_Id"].where(~free, 0)
    facts = pd.DataFrame([_facts(text) for text in agents.pop("extdata")], index=agents.index, dtype=object)
    return {"kernels": kernels, "copies": copies, "calls": calls, "markers": markers, "agents": agents.join(facts)}


def _sources(database: Database) -> list[dict[str, str]]:
    """Return what stands for each view: the view itself, or where one is missing, queries for each set of tables.

    Raises:
        UserError: the tables are not those of the public schema either.
    """
    lacking = {view: missing for view in _VIEWS if (missing := _missing(database, view, view))}
    if not lacking:
        return [{view: view for view in _VIEWS}]
    ends = [t.removeprefix("rocpd_kernel_dispatch") for t in database.tables if t.startswith("rocpd_kernel_dispatch")]
    found = [_joined(end) for end in ends]
    if found and not any(_missing(database, view, source) for sources in found for view, source in sources.items()):
        return found
    view, missing = next(iter(lacking.items()))
    raise UserError(
        f"{database.path.name} is damaged or of a rocpd schema that moe-lab does not know ({view} lacks "
        f"{', '.join(missing)[:80]}); convert it with `rocpd convert --output-format csv` and give the folder of CSV "
        "files."
    )


def _joined(end: str) -> dict[str, str]:
    """Return the query for each view, from the tables whose names end so."""
    names = {table: '"{}"'.format(f"rocpd_{table}{end}".replace('"', '""')) for table in _TABLES}
    return {view: query.format_map(names) for view, query in _JOINED.items()}


def _missing(database: Database, view: str, source: str) -> list[str]:
    """Return the columns of a view that a view or a query lacks; all of them if there is no such view or table."""
    with closing(sqlite3.connect(uri(database.path), uri=True)) as connection:
        try:
            cursor = connection.execute(f"SELECT * FROM {source} LIMIT 0")
            present = {column[0] for column in cursor.description}
        except sqlite3.Error:
            present = set()
    integers, texts = _VIEWS[view]
    return sorted({c.partition(" AS ")[0].strip('"') for c in (*integers, *texts)} - present)


def _view(database: Database, view: str, source: str, warnings: list[str]) -> pd.DataFrame:
    """Return the rows of a view in order of time, for kernels including those that the view drops."""
    integers, texts = _VIEWS[view]
    table = _BEHIND.get(view, "")
    there = source == view and database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
    lost = database.count(table) - database.count(view) if there else 0
    if lost > 0 and view == "kernels" and _joins(database):
        source, lost = _joined("")[view], 0
    if lost > 0:
        warnings.append(
            f"{lost} rows of {table} name no thread, region or name of {database.path.name}, so its view {view} leaves "
            "them out: they are missing from every number."
        )
    rows = database.read(source, integers, texts)
    # Int64 and not pandas' default, which turns integers into floats where some are missing.
    frame: pd.DataFrame = rows.to_pandas(types_mapper=lambda kind: pd.Int64Dtype() if kind == "int64" else None)
    if "Start_Timestamp" not in frame:
        return frame
    start, end = (frame[c].to_numpy(np.int64, na_value=-1) for c in ("Start_Timestamp", "End_Timestamp"))
    wrong = int(_doubts.impossible(start, end).sum())
    if wrong:
        raise database.wrong(f"{wrong} rows of {view} have times that cannot be true (none, negative, swapped)")
    for column in [c for c in frame if "_Size" in str(c) or str(c).endswith("_Count")]:
        if not frame[column].dropna().between(0, 2**32 - 1).all():
            raise database.wrong(f"{column} of {view} holds values that cannot be true")
    ordered: pd.DataFrame = frame.sort_values(["guid", "Start_Timestamp"], kind="stable", ignore_index=True)
    return ordered


def _joins(database: Database) -> bool:
    """Return whether the tables behind the view ``kernels`` are of the public schema, so that each row joins once."""
    try:
        return database.count(_joined("")["kernels"]) == database.count("rocpd_kernel_dispatch")
    except UserError:
        return False


def _json(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = entry.decode_json(text, dict[str, Any])
    except ValueError:
        return {}
    return found


def _facts(extdata: str) -> dict[str, int | None]:
    said = _json(extdata)
    known = {"Cu_Count": said.get("cu_count"), "Wave_Front_Size": said.get("wave_front_size")}
    return {k: v if isinstance(v, int) and 0 < v < 2**31 else None for k, v in known.items()}
