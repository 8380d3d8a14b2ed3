"""rocpd databases of rocprofv3 (SQLite), read through their documented views, as the tables of its CSV files.

The database also holds the environment, host and command of the profiled process; none of that is read.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from moe_lab.attribute import distinct
from moe_lab.errors import UserError
from moe_lab.parse import _folder, _rocprof
from moe_lab.parse._sqlite import MAGIC, uri

_WHERE = "pid AS Process_Id, tid AS Thread_Id, stack_id AS Correlation_Id, start AS Start_Timestamp, \
end AS End_Timestamp, guid"
_KERNELS = f"SELECT name AS Kernel_Name, agent_abs_index AS Agent_Id, queue_id AS Queue_Id, stream_id AS Stream_Id, \
lds_size AS LDS_Block_Size, scratch_size AS Scratch_Size, vgpr_count AS VGPR_Count, \
accum_vgpr_count AS Accum_VGPR_Count, sgpr_count AS SGPR_Count, workgroup_x AS Workgroup_Size_X, \
workgroup_y AS Workgroup_Size_Y, workgroup_z AS Workgroup_Size_Z, grid_x AS Grid_Size_X, grid_y AS Grid_Size_Y, \
grid_z AS Grid_Size_Z, {_WHERE} FROM kernels ORDER BY guid, start"
_COPIES = f"SELECT name AS Direction, stream_id AS Stream_Id, src_agent_abs_index AS Source_Agent_Id, \
dst_agent_abs_index AS Destination_Agent_Id, {_WHERE} FROM memory_copies ORDER BY guid, start"
_REGIONS = f"SELECT category AS Domain, name AS Function, extdata, {_WHERE} FROM regions ORDER BY guid, start"
_AGENTS = "SELECT absolute_index AS Node_Id, logical_index AS Logical_Node_Id, type AS Agent_Type, name AS Name, \
product_name AS Product_Name, extdata FROM rocpd_info_agent"
_FREE = "roctxProcessRange"  # begins and ends on any thread; the CSV files say thread 0


def is_database(path: Path) -> bool:
    """Return whether a file is a rocpd database."""
    if not path.is_file() or path.stat().st_size < 100:
        return False
    with path.open("rb") as file:
        if file.read(16) != MAGIC:
            return False
    try:
        with closing(sqlite3.connect(uri(path), uri=True)) as connection:
            found = connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name LIKE 'rocpd_kernel_dispatch%'"
            ).fetchone()
    except sqlite3.DatabaseError:
        return False
    return found is not None


def find(path: Path) -> list[Path]:
    """Return the databases: the file itself, or those of a folder."""
    if path.is_dir():
        return [p for p in _folder.files(path, (".db",), _rocprof.DEEP) if is_database(p)]
    return [path] if is_database(path) else []


def hosts(paths: list[Path]) -> list[str]:
    """Return the names of the profiled machines."""
    found: set[str] = set()
    for path in paths:
        try:
            with closing(sqlite3.connect(uri(path), uri=True)) as connection:
                found |= {str(row[0]) for row in connection.execute("SELECT hostname FROM rocpd_info_node")}
        except sqlite3.DatabaseError:  # a schema without it has no name to take out
            continue
    return sorted(name for name in found if len(name) > 3)


def read(paths: list[Path]) -> _rocprof.Tables:
    """Read databases, one or more processes each.

    Raises:
        UserError: a file is damaged, or of a schema whose views have other columns.
    """
    parts = [_read(path) for path in paths]
    frames = {kind: pd.concat([p[kind] for p in parts], ignore_index=True) for kind in (*_rocprof.COLUMNS, "agents")}
    tables = {kind: _rocprof.coerced(frames[kind], columns) for kind, columns in _rocprof.COLUMNS.items()}
    keys = pd.concat([frames[kind][["guid", "Process_Id"]] for kind in tables], ignore_index=True)
    code = distinct(pd.factorize(keys["guid"])[0].astype("int64"), keys["Process_Id"].to_numpy("int64"))[1]
    at = 0
    for frame in tables.values():
        frame["process"] = code[at : at + len(frame)]
        at += len(frame)
    return _rocprof.Tables(**tables, agents=frames["agents"])


def _read(path: Path) -> dict[str, pd.DataFrame]:
    try:
        with closing(sqlite3.connect(uri(path), uri=True)) as connection:
            kernels, copies, regions, agents = (
                pd.read_sql_query(query, connection) for query in (_KERNELS, _COPIES, _REGIONS, _AGENTS)
            )
    except (sqlite3.DatabaseError, pd.errors.DatabaseError) as error:
        why = str(error).split(": ")[-1][:80]
        raise UserError(
            f"{path.name} is damaged or of a rocpd schema that moe-lab does not know ({why}); convert it with "
            "`rocpd convert --output-format csv` and give the folder of CSV files."
        ) from None
    domain = regions["Domain"].fillna("").astype(str)
    calls, markers = regions[domain.str.startswith("HIP")], regions[domain.str.startswith("MARKER_CORE")].copy()
    free = markers["Function"].astype(str).str.startswith(_FREE)
    markers["Function"] = [_message(*pair) for pair in zip(markers["extdata"], markers["Function"], strict=True)]
    markers["Thread_Id"] = markers["Thread_Id"].where(~free, 0)
    facts = pd.DataFrame([_facts(text) for text in agents.pop("extdata")], index=agents.index)
    return {"kernels": kernels, "copies": copies, "calls": calls, "markers": markers, "agents": agents.join(facts)}


def _json(text: object) -> dict[str, object]:
    try:
        found = json.loads(str(text))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(extdata: object, name: str) -> str:
    """Return the text of a range: the view's name is only the roctx function."""
    return str(_json(extdata).get("message") or name)


def _facts(extdata: object) -> dict[str, object]:
    said = _json(extdata)
    return {"Cu_Count": said.get("cu_count"), "Wave_Front_Size": said.get("wave_front_size")}
