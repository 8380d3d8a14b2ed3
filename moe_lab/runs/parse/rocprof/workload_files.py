# SPDX-License-Identifier: Apache-2.0
"""Counter files of rocprof-compute: wide and long CSV, compressed or not, and rocpd databases, as wide frames."""

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs.parse import _csv, _folder
from moe_lab.runs.parse._sqlite import uri
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import entry

AGAIN = "profile again with rocprof-compute, or give the folder that holds sysinfo.csv and pmc_perf.csv"
# Ours -> column of a counter file, ignoring case.
LAUNCH = {
    "device": "GPU_ID",
    "work_items": "Grid_Size",
    "block_threads": "Workgroup_Size",
    "registers_per_thread": "Arch_VGPR",
    "accumulation_registers_per_thread": "Accum_VGPR",
    "scalar_registers_per_wave": "SGPR",
    "smem_bytes": "LDS_Per_Workgroup",
    "scratch_bytes_per_thread": "Scratch_Per_Workitem",
    "wave_threads": "Wave_Size",
}
NEEDED = ("Kernel_Name", "Grid_Size", "Workgroup_Size", "Start_Timestamp", "End_Timestamp")
NUMBERS = ("Dispatch_ID", *(c for c in NEEDED if c != "Kernel_Name"), *LAUNCH.values())
LEVELS = ("SQ_LEVEL_WAVES", "SQ_INST_LEVEL_LDS", "SQ_INST_LEVEL_VMEM", "SQ_INST_LEVEL_SMEM", "SQ_IFETCH_LEVEL")

INFINITE = ("inf", "-inf", "infinity")

ACCUMULATED = "SQ_ACCUM_PREV_HIRES"
COUNTER = re.compile(r"(?:SQC?|SPI|TA|TD|TCP|TCC|CPC|CPF|GRBM|GDS)_\w+")
CHANNEL = re.compile(r"(\w+)\[(\d+)\]")
_DEEP = 3  # levels of folders in which databases are looked for
PASS = re.compile(r"(?:pmc_perf(?:_\d+)?|results_\w+)\.csv(?:\.gz)?")
_QUERY = (
    "SELECT agent_id AS GPU_ID, dispatch_id AS Dispatch_ID, grid_size AS Grid_Size, workgroup_size AS Workgroup_Size,"
    " lds_block_size AS LDS_Per_Workgroup, scratch_size AS Scratch_Per_Workitem, vgpr_count AS Arch_VGPR,"
    " accum_vgpr_count AS Accum_VGPR, sgpr_count AS SGPR, kernel_name AS Kernel_Name, start AS Start_Timestamp,"
    " end AS End_Timestamp, counter_name AS Counter_Name, value AS Counter_Value FROM counters_collection"
)


def find(folder: Path, stem: str) -> Path | None:
    """Return the file of this name in a folder, plain or gzip; links that lead out of the folder do not count."""
    return next((p for p in (folder / f"{stem}.csv", folder / f"{stem}.csv.gz") if _folder.inside(p, folder)), None)


def counter_files(folder: Path) -> list[Path]:
    """Return the CSV files with the counters: the one that has all, or one per pass."""
    one = find(folder, "pmc_perf")
    return [one] if one else [p for p in _folder.files(folder, (".csv", ".csv.gz"), 1) if PASS.fullmatch(p.name)]


def passes(folder: Path) -> tuple[list[pd.DataFrame], str]:
    """Return (the counter files as wide frames, their form as in ``Workload.form``)."""
    frames = [(f.name, read_csv(f)) for f in counter_files(folder)]
    frames = frames or [(d.name, _database(d)) for d in _folder.files(folder, (".db",), _DEEP)]
    if not frames:
        raise UserError(f"{folder.name} has a sysinfo.csv but no counters (pmc_perf.csv); {AGAIN}.")
    long = ["Counter_Name" in frame for _, frame in frames]
    if any(long) and not all(long):
        raise UserError(f"{folder.name} mixes counter files of two forms, from two versions of the tool; {AGAIN}.")
    wide = [
        _wide(name, frame) if is_long else named(name, frame)
        for (name, frame), is_long in zip(frames, long, strict=True)
    ]
    return wide, "long" if all(long) else "wide" if len(wide) == 1 else "wide, several passes"


def read_csv(path: Path) -> pd.DataFrame:
    """Return the table of a file; names are text, the types of other columns are inferred."""
    frame = _csv.read(path, f"copy it again, or {AGAIN}", text=("Kernel_Name", "Counter_Name"))
    if not len(frame):
        raise UserError(f"{path.name} has a header and no rows; {AGAIN}.")
    return frame


def _database(path: Path) -> pd.DataFrame:
    """Return the counters of a rocpd database, as its documented view ``counters_collection`` gives them."""
    try:
        with closing(sqlite3.connect(uri(path), uri=True)) as connection:
            return pd.read_sql_query(_QUERY, connection)
    except (sqlite3.DatabaseError, pd.errors.DatabaseError) as error:
        raise UserError(f"{path.name} is not a rocpd database with counters ({str(error)[:80]}); {AGAIN}.") from None


def named(name: str, frame: pd.DataFrame, also: Sequence[str] = ()) -> pd.DataFrame:
    """Return the frame with columns as in ``NEEDED``, ``also`` and ``LAUNCH``; older files write ``wave_size``."""
    known = {c.lower(): c for c in (*NEEDED, *LAUNCH.values(), "Dispatch_ID")}
    frame = frame.rename(columns={c: known.get(str(c).lower(), str(c)) for c in frame.columns})
    twice = sorted(set(frame.columns[frame.columns.duplicated()]))
    if twice:
        raise UserError(f"{name} has the column {', '.join(twice)[:80]} twice; {AGAIN}.")
    for column in (c for c in NUMBERS if c in frame):
        frame[column] = whole(frame[column], f"{name}, column {column}")
    lost = [c for c in (*NEEDED, *also) if c not in frame]
    if lost:
        raise UserError(f"{name} is of a generation that moe-lab does not know: it has no {', '.join(lost)}; {AGAIN}.")
    return frame


def _wide(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Turn one row per counter into one row per launch, whose duration is the median over its passes."""
    frame = named(name, frame, ("Dispatch_ID", "Counter_Value"))
    keys = ["Dispatch_ID", "Kernel_Name", "Grid_Size", "Workgroup_Size"]
    frame = frame.assign(duration=frame["End_Timestamp"] - frame["Start_Timestamp"])
    grouped = frame.groupby(keys, sort=False, dropna=False)
    values = frame.pivot_table(index=keys, columns="Counter_Name", values="Counter_Value", aggfunc="last", sort=False)
    out = grouped[[c for c in LAUNCH.values() if c in frame and c not in keys]].first()
    out["Start_Timestamp"] = grouped["Start_Timestamp"].min()
    out["End_Timestamp"] = out["Start_Timestamp"] + grouped["duration"].median()
    return out.join(values).reset_index()


def whole(column: "pd.Series[Any]", where: str) -> "pd.Series[Any]":
    """Return a column of launches as Float64 or Int64; blank and infinite cells are NA.

    Raises:
        UserError: it has text, a negative or huge number, or a fraction, which only times may have (as averages).
    """
    exact = pd.api.types.is_integer_dtype(column)
    values: Any = column.astype("Int64") if exact else number(column).astype("Float64")
    texts = unusable(column)
    if texts.any():
        raise UserError(f"{where} has '{_first(column, texts)}' where a number belongs; {AGAIN}.")
    is_time = where.endswith("_Timestamp")
    wrong = (values < 0) | (values > (2**62 if is_time else 2**40)) | ((values % 1 != 0) & (not is_time))
    if bool(wrong.fillna(False).any()):
        raise UserError(f"{where} has {_first(column, wrong.fillna(False).to_numpy(bool))}, which cannot be; {AGAIN}.")
    found: pd.Series[Any] = values
    return found


def unusable(column: "pd.Series[Any]") -> Any:
    """Return which cells hold text or a negative number: bool [n]; blank and infinite cells are merely not known."""
    values = number(column).to_numpy()
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return values < 0
    blank = column.isna() | column.astype("string").str.strip().str.lower().isin([*INFINITE, ""]).fillna(True)
    return (np.isnan(values) & ~blank.to_numpy(bool)) | (values < 0)


def number(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return the numbers of a column as float64; text, booleans, dates and infinite values are NaN."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        column = pd.to_numeric(column.astype("string"), errors="coerce")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.Series(np.where(np.isfinite(values), values, np.nan), column.index)


def _first(column: "pd.Series[Any]", wrong: Any) -> str:
    return entry.one_line(str(column[wrong].iloc[0]), 40)
