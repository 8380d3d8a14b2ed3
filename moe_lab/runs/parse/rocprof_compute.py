# SPDX-License-Identifier: Apache-2.0
"""rocprof-compute (formerly omniperf): a workload folder to launches, with counters as further columns."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs import redact
from moe_lab.runs.parse._facts import facts, short_name
from moe_lab.runs.parse._slim import Keep, Slimmed
from moe_lab.runs.parse.rocprof import workload
from moe_lab.runs.parse.rocprof.workload_files import AGAIN, LAUNCH
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import COLUMNS, RANGE_COLUMNS, Launches, tidy

INFO = {
    "about": "workload folder of rocprof-compute (counters of every kernel launch on AMD)",
    "folder": True,
    "report": "report",
}

# Fields of sysinfo.csv that describe only the GPU; numbers unless named in _TEXT.
MACHINE = (
    *("gpu_model", "gpu_series", "gpu_arch", "compute_partition", "memory_partition", "version", "cu_per_gpu"),
    *("simd_per_cu", "se_per_gpu", "wave_size", "max_waves_per_cu", "max_sclk", "max_mclk", "total_l2_chan"),
    *("lds_banks_per_cu", "sqc_per_gpu", "num_xcd", "num_hbm_channels"),
)
_TEXT = {"gpu_model", "gpu_series", "gpu_arch", "compute_partition", "memory_partition", "version"}
_RENAMED = {"num_memory_channels": "num_hbm_channels"}  # since 3.8.0
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]+)?")
_HUGE = 1e12  # no clock or count is that large
DROPPED = (
    "Left out: command, host, operating system, processor, and every file and column that the analysis does not read.",
    "Counters of single L2 channels are kept as their sum.",
    "Absolute paths inside kernel names are cut to their last component, host names replaced.",
)
NO_TIMES = (
    "{lost} of {all} launches have no usable time stamps (their start and end are equal or swapped): durations and "
    "everything per second are not known."
)


def sniff(path: Path) -> bool:
    """Return whether this is a workload folder, a file of one, or a folder that holds exactly one."""
    return workload.folder_of(path) is not None


def parse(path: Path) -> Launches:
    """Read a workload folder of any generation; there are no ranges in it.

    The tool runs the program several times to count all counters; launches of these runs are matched by kernel name,
    grid, work-group and order. A duration is the one that the tool kept, or the median over the runs. ``stream`` and
    ``correlation`` are NA.

    Extra columns: smem_bytes (local data share), accumulation_registers_per_thread, scalar_registers_per_wave,
    scratch_bytes_per_thread, wave_threads, dispatch (from 0), duration_exact_ns (float64: a median over runs may
    end in half a nanosecond), then the counters, float64, NaN where not counted.
    ``meta["counters"]`` names them, ``meta["machine"]`` holds the facts of sysinfo.csv that ``MACHINE`` lists, and
    ``meta["roofs"]`` the rows of roofline.csv.

    Raises:
        UserError: the folder is truncated, mixed, or of an unknown generation.
    """
    folder = workload.folder_of(Path(path))
    if folder is None:
        raise UserError(f"{Path(path).name} is not a workload folder of rocprof-compute; {AGAIN}.")
    found = workload.read(folder)
    machine = _machine(found.machine)
    table = _table(found)
    lost = int(table["duration_ns"].isna().sum())
    warnings = [*found.notes, *([NO_TIMES.format(lost=lost, all=len(table))] if lost else [])]
    meta = facts(
        "rocprof-compute",
        schema=f"{found.form}, sysinfo {machine.get('version', 'without a version')}",
        gpu=_gpu(machine),
        warnings=warnings,
        machine=machine,
        roofs=found.roofs.to_dict("records"),
        counters=list(found.counters.columns),
    )
    return Launches(table, tidy(pd.DataFrame(), RANGE_COLUMNS), meta)


def slim(source: Path, target: Path, keep: Keep | None = None) -> Slimmed:
    """Write a small, redacted workload folder that reads the same; returns as ``Slimmed`` says."""
    folder = workload.folder_of(Path(source))
    assert folder is not None  # it was parsed before
    found = workload.read(folder)
    hosts = redact.names_in(dict(found.machine))
    rows = np.arange(len(found.launches)) if keep is None else keep.operations["kernel"]
    launches, counters = found.launches.iloc[rows], found.counters.iloc[rows]
    out = pd.DataFrame({"Dispatch_ID": np.arange(len(launches))})
    out["Kernel_Name"] = [redact.text(str(n), hosts) for n in launches["Kernel_Name"]]
    for ours, theirs in {**LAUNCH, "start_ns": "Start_Timestamp", "end_ns": "End_Timestamp"}.items():
        if ours in launches:
            out[theirs] = pd.array(launches[ours].to_numpy(), dtype="Float64")
    target.mkdir()
    whole = {c: pd.array(counters[c].to_numpy(), dtype="Float64") for c in counters}
    pd.concat([out, pd.DataFrame(whole)], axis=1).to_csv(target / "pmc_perf.csv", index=False)
    pd.DataFrame([redact.tree(_machine(found.machine), hosts)]).to_csv(target / "sysinfo.csv", index=False)
    if len(found.roofs):
        found.roofs.to_csv(target / "roofline.csv", index=False)
    return list(DROPPED), hosts


def _machine(said: dict[str, str]) -> dict[str, Any]:
    """Return the facts of ``MACHINE`` that sysinfo.csv states; a clock or count of 0 means not known."""
    said = {_RENAMED.get(k, k): v for k, v in said.items()}
    out: dict[str, Any] = {}
    for name in MACHINE:
        text = said.get(name, "")
        if name in _TEXT:
            out |= {name: text.removesuffix(".0")} if text and text != "NA" else {}
        elif _NUMBER.fullmatch(text) and 0 < float(text) < _HUGE:
            out[name] = float(text)
    return out


def _gpu(machine: dict[str, Any]) -> dict[str, Any]:
    model = str(machine.get("gpu_model", "")).split("_")[0]  # MI300X_A1 ends in the stepping
    count = {"sm_count": machine.get("cu_per_gpu"), "warp_threads": machine.get("wave_size")}
    return {
        "name": f"AMD Instinct {model.upper()}" if model else None,
        "chip": machine.get("gpu_arch"),
        "memory_bytes": None,
        "compute_capability": None,
        **{k: None if v is None else int(v) for k, v in count.items()},
    }


def _table(found: workload.Workload) -> pd.DataFrame:
    launches = found.launches
    full = launches["Kernel_Name"].astype("string")
    whole = {c: pd.array(np.round(launches[c].to_numpy()), dtype="Int64") for c in launches if c != "Kernel_Name"}
    frame = pd.DataFrame(whole)
    frame["kind"] = "kernel"
    frame["name"] = [short_name(_undecorated(str(n))) for n in full]
    frame["name_full"] = [_undecorated(str(n)) for n in full]
    frame["duration_ns"] = frame["end_ns"] - frame["start_ns"]
    frame["duration_exact_ns"] = (launches["end_ns"] - launches["start_ns"]).to_numpy()
    frame["process"] = 0
    threads = frame["block_threads"].where(frame["block_threads"] > 0)
    frame["grid_blocks"] = -(-frame.pop("work_items") // threads)  # AMD counts work-items; rounded up
    frame["attribution"] = "none"
    frame["dispatch"] = np.arange(len(frame))
    return pd.concat([tidy(frame, COLUMNS), found.counters], axis=1)


def _undecorated(name: str) -> str:
    """Return a kernel's name without the tail that the loader adds: `` [clone .kd]``, `` (.kd)`` or ``.kd``."""
    return re.sub(r"(?: \[clone \.kd\]| \(\.kd\)|\.kd)$", "", name)
