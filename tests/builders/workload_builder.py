"""Builds small workload folders of rocprof-compute, in each generation's form."""

import csv
import gzip
import sqlite3
from pathlib import Path
from typing import Any

SYSINFO = {
    "workload_name": "moe",
    "command": "/home/ada/run --token hf_topsecret",
    "version": "2",
    "hostname": "analytical-engine",
    "cpu_model": "a CPU",
    "linux_distro": "a Linux",
    "compute_partition": "SPX",
    "memory_partition": "NPS1",
    "gpu_model": "MI300X_A1",
    "gpu_arch": "gfx942",
    "cu_per_gpu": "304",
    "simd_per_cu": "4",
    "se_per_gpu": "32",
    "wave_size": "64",
    "max_waves_per_cu": "32",
    "max_sclk": "2100",
    "max_mclk": "1300",
    "total_l2_chan": "2",
    "lds_banks_per_cu": "32",
    "sqc_per_gpu": "160",
    "num_xcd": "8",
    "num_hbm_channels": "128",
}
LAUNCH = {
    "Grid_Size": 2400,
    "Workgroup_Size": 256,
    "LDS_Per_Workgroup": 5120,
    "Scratch_Per_Workitem": 16,
    "Arch_VGPR": 52,
    "Accum_VGPR": 4,
    "SGPR": 48,
}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def sysinfo(folder: Path, **changed: Any) -> None:
    said = {k: v for k, v in {**SYSINFO, **changed}.items() if v is not None}
    write_csv(folder / "sysinfo.csv", [said])


def launch(number: int, name: str, start: Any = 1000, end: Any = 3000, **counters: Any) -> dict[str, Any]:
    """Return one row of the MI300 form."""
    own = {"Dispatch_ID": number, "GPU_ID": 2, **LAUNCH, "Wave_Size": 64, "Kernel_Name": name}
    return {**own, **counters, "Start_Timestamp": start, "End_Timestamp": end}


def old_launch(number: int, name: str, start: Any = 1000, end: Any = 3000, **counters: Any) -> dict[str, Any]:
    """Return one row of the MI200 form: other order, ``wave_size``, ``obj``, names that end in `` [clone .kd]``."""
    own = {"Dispatch_ID": number, "Kernel_Name": f"{name} [clone .kd]", "GPU_ID": 2, **LAUNCH, "wave_size": 64}
    more = {"obj": "0x7f", "wave_size_1": 64, "obj_1": "0x7f"}
    return {**own, **more, **counters, "Start_Timestamp": start, "End_Timestamp": end}


def long_rows(number: int, name: str, counters: dict[str, float], start: int, end: int) -> list[dict[str, Any]]:
    """Return the rows of one launch in the form made from rocpd: one row a counter."""
    own = {"GPU_ID": 5, "Dispatch_ID": number, **LAUNCH, "Kernel_Name": name}
    own |= {"Start_Timestamp": start, "End_Timestamp": end, "Kernel_ID": 13}
    return [{**own, "Counter_Name": c, "Counter_Value": v} for c, v in counters.items()]


def rocpd(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a database whose view ``counters_collection`` has the documented columns."""
    names = {
        **{"GPU_ID": "agent_id", "Dispatch_ID": "dispatch_id", "Grid_Size": "grid_size"},
        **{"Workgroup_Size": "workgroup_size", "LDS_Per_Workgroup": "lds_block_size"},
        **{"Scratch_Per_Workitem": "scratch_size", "Arch_VGPR": "vgpr_count", "Accum_VGPR": "accum_vgpr_count"},
        **{"SGPR": "sgpr_count", "Kernel_Name": "kernel_name", "Start_Timestamp": "start", "End_Timestamp": "end"},
        **{"Kernel_ID": "kernel_id", "Counter_Name": "counter_name", "Counter_Value": "value"},
    }
    with sqlite3.connect(path) as connection:
        columns = ", ".join(f'"{n}"' for n in names.values())
        connection.execute(f"CREATE TABLE stored ({columns})")
        connection.execute("CREATE VIEW counters_collection AS SELECT * FROM stored")
        marks = ", ".join("?" for _ in names)
        connection.executemany(f"INSERT INTO stored VALUES ({marks})", [[r[n] for n in names] for r in rows])
    connection.close()
    return path
