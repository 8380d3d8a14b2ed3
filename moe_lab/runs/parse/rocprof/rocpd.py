"""rocpd databases of rocprofv3 (SQLite), read through their documented views into the tables of its CSV files.

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
# The columns of the view ``kernels``, but with no row dropped: the view leaves out kernels without region or thread.
_DISPATCHES = """(SELECT K.guid, P.pid, T.tid, S.display_name AS name, A.absolute_index AS agent_abs_index, K.queue_id,
K.stream_id, E.stack_id, K.start, K."end", K.group_segment_size AS lds_size, K.private_segment_size AS scratch_size,
S.arch_vgpr_count AS vgpr_count, S.accum_vgpr_count, S.sgpr_count, K.workgroup_size_x AS workgroup_x,
K.workgroup_size_y AS workgroup_y, K.workgroup_size_z AS workgroup_z, K.grid_size_x AS grid_x, K.grid_size_y AS grid_y,
K.grid_size_z AS grid_z FROM rocpd_kernel_dispatch K
LEFT JOIN rocpd_info_agent A ON A.id = K.agent_id AND A.guid = K.guid
LEFT JOIN rocpd_event E ON E.id = K.event_id AND E.guid = K.guid
LEFT JOIN rocpd_info_kernel_symbol S ON S.id = K.kernel_id AND S.guid = K.guid
LEFT JOIN rocpd_info_process P ON P.id = K.pid AND P.guid = K.guid
LEFT JOIN rocpd_info_thread T ON T.id = K.tid AND T.guid = K.guid)"""
_FREE = "roctxProcessRange"  # begins and ends on any thread; the CSV files say thread 0


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
    query = "SELECT CAST(hostname AS BLOB) FROM rocpd_info_node WHERE hostname <> ''"
    found = {row[0].decode("utf-8", "replace") for path in paths for row in _rows(path, query)}
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
        _check_schema(database)
        database.check(*(t for t in database.tables if t.startswith("rocpd_")))
        kernels, copies, regions, agents = (_view(database, view, warnings) for view in _VIEWS)
    domain = regions["Domain"]
    calls, markers = regions[domain.str.startswith("HIP")], regions[domain.str.startswith("MARKER_CORE")].copy()
    free = markers["Function"].str.startswith(_FREE)
    # The view's `name` is only the roctx function; the text of the range is in extdata.
    said = zip(markers["extdata"], markers["Function"], strict=True)
    markers["Function"] = [str(_json(extdata).get("message") or name) for extdata, name in said]
    markers["Thread_Id"] = markers["Thread_Id"].where(~free, 0)
    facts = pd.DataFrame([_facts(text) for text in agents.pop("extdata")], index=agents.index, dtype=object)
    return {"kernels": kernels, "copies": copies, "calls": calls, "markers": markers, "agents": agents.join(facts)}


def _check_schema(database: Database) -> None:
    for view, (integers, texts) in _VIEWS.items():
        present = {c for (c,) in database.rows("SELECT name FROM pragma_table_info(?)", (view,))}
        missing = sorted({c.partition(" AS ")[0].strip('"') for c in (*integers, *texts)} - present)
        if missing:
            why = f"{view} has no {', '.join(missing)}" if present else f"it has no {view}"
            raise UserError(
                f"{database.path.name} is damaged or of a rocpd schema that moe-lab does not know ({why[:120]}); "
                "convert it with `rocpd convert --output-format csv` and give the folder of CSV files."
            )


def _view(database: Database, view: str, warnings: list[str]) -> pd.DataFrame:
    """Return the rows of a view in order of time, for kernels including those that the view drops."""
    integers, texts = _VIEWS[view]
    table = _BEHIND.get(view, "")
    there = database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
    lost = database.count(table) - database.count(view) if there else 0
    source = view
    if lost > 0 and view == "kernels" and _joins(database):
        source, lost = _DISPATCHES, 0
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
        return database.count(_DISPATCHES) == database.count("rocpd_kernel_dispatch")
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
