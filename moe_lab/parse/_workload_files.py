"""Counter files of rocprof-compute: wide and long CSV, compressed or not, and rocpd databases, as wide frames."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from moe_lab.errors import UserError
from moe_lab.parse._sqlite import uri

AGAIN = "profile again with rocprof-compute, or give the folder that holds sysinfo.csv and pmc_perf.csv"
# Ours -> column of a counter file, without regard to case.
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
LEVELS = ("SQ_LEVEL_WAVES", "SQ_INST_LEVEL_LDS", "SQ_INST_LEVEL_VMEM", "SQ_INST_LEVEL_SMEM", "SQ_IFETCH_LEVEL")

ACCUMULATED = "SQ_ACCUM_PREV_HIRES"
COUNTER = re.compile(r"(?:SQC?|SPI|TA|TD|TCP|TCC|CPC|CPF|GRBM|GDS)_\w+")
CHANNEL = re.compile(r"(\w+)\[(\d+)\]")
PASS = re.compile(r"(?:pmc_perf(?:_\d+)?|results_\w+)\.csv(?:\.gz)?")
_QUERY = (
    "SELECT agent_id AS GPU_ID, dispatch_id AS Dispatch_ID, grid_size AS Grid_Size, workgroup_size AS Workgroup_Size,"
    " lds_block_size AS LDS_Per_Workgroup, scratch_size AS Scratch_Per_Workitem, vgpr_count AS Arch_VGPR,"
    " accum_vgpr_count AS Accum_VGPR, sgpr_count AS SGPR, kernel_name AS Kernel_Name, start AS Start_Timestamp,"
    " end AS End_Timestamp, counter_name AS Counter_Name, value AS Counter_Value FROM counters_collection"
)


def find(folder: Path, stem: str) -> Path | None:
    return next((p for p in (folder / f"{stem}.csv", folder / f"{stem}.csv.gz") if p.is_file()), None)


def passes(folder: Path) -> tuple[list[pd.DataFrame], str]:
    """Return the counter files as wide frames, and what form they have."""
    whole = find(folder, "pmc_perf")
    files = [whole] if whole else sorted(p for p in folder.glob("*.csv*") if PASS.fullmatch(p.name))
    frames = [(f.name, read_csv(f)) for f in files] or [(d.name, _database(d)) for d in sorted(folder.rglob("*.db"))]
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
    import pyarrow as pa
    from pyarrow import csv

    options = csv.ConvertOptions(strings_can_be_null=True, null_values=["", "NaN", "nan", "NA", "N/A", "None"])
    try:
        table = csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=options)
        if not table.num_rows:
            raise UserError(f"{path.name} has a heading and no rows; {AGAIN}.")
        frame: pd.DataFrame = table.to_pandas()
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        short = str(error).split("\n")[0][:120].replace(str(path), path.name)
        raise UserError(f"{path.name} breaks off or is no CSV file ({short}); copy it again, or {AGAIN}.") from None
    return frame


def _database(path: Path) -> pd.DataFrame:
    """Return the counters of a rocpd database, as its documented view ``counters_collection`` gives them."""
    try:
        with closing(sqlite3.connect(uri(path), uri=True)) as connection:
            return pd.read_sql_query(_QUERY, connection)
    except (sqlite3.DatabaseError, pd.errors.DatabaseError) as error:
        raise UserError(f"{path.name} is no rocpd database with counters ({str(error)[:80]}); {AGAIN}.") from None


def named(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with column names as in ``NEEDED`` and ``LAUNCH``; older files write ``wave_size``."""
    known = {c.lower(): c for c in (*NEEDED, *LAUNCH.values(), "Dispatch_ID")}
    frame = frame.rename(columns={c: known.get(str(c).lower(), str(c)) for c in frame.columns})
    lost = [c for c in NEEDED if c not in frame]
    if lost:
        raise UserError(f"{name} is of a generation that moe-lab does not know: it has no {', '.join(lost)}; {AGAIN}.")
    return frame


def _wide(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Turn one row a counter into one row a launch; a launch that ran in several passes has their median duration."""
    frame = named(name, frame)
    keys = ["Dispatch_ID", "Kernel_Name", "Grid_Size", "Workgroup_Size"]
    frame = frame.assign(duration=frame["End_Timestamp"] - frame["Start_Timestamp"])
    grouped = frame.groupby(keys, sort=False, dropna=False)
    values = frame.pivot_table(index=keys, columns="Counter_Name", values="Counter_Value", aggfunc="last", sort=False)
    out = grouped[[c for c in LAUNCH.values() if c in frame and c not in keys]].first()
    out["Start_Timestamp"] = grouped["Start_Timestamp"].min()
    out["End_Timestamp"] = out["Start_Timestamp"] + grouped["duration"].median()
    return out.join(values).reset_index()
