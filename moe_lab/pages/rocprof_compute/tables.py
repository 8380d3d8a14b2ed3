# SPDX-License-Identifier: Apache-2.0
"""Tables of the AMD notebook: a DataFrame in, HTML out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import amd
from moe_lab.analysis.amd.runs import Counted
from moe_lab.pages.show.notes import Note, Nothing
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.spec import published

NOTHING = Nothing(
    "No run of rocprof-compute is shown: set `folders` to a workload folder, or keep one with `moe-lab import FOLDER`."
)
NONE = Nothing("No run is shown.")
# NVIDIA's term, AMD's term, and what moe_lab calls both.
GLOSSARY = (
    ("streaming multiprocessor (SM)", "compute unit (CU)", "sm_count"),
    ("warp: 32 threads", "wavefront: 64 threads (work-items)", "warp_threads"),
    ("thread block", "work-group", "grid_blocks, block_threads"),
    ("grid: counts thread blocks", "grid: counts work-items", "grid_blocks"),
    ("registers", "vector registers: architectural (VGPR) and accumulation (AGPR)", "registers_per_thread, and AGPRs"),
    ("uniform registers", "scalar registers (SGPR), one set per wavefront", "scalar_registers_per_wave"),
    ("shared memory", "local data share (LDS)", "smem_bytes"),
    ("local memory (spills)", "scratch", "scratch_bytes_per_thread"),
    ("L1 data cache", "vector L1 data cache (vL1D, TCP)", "vl1d_*"),
    ("load/store unit", "texture addresser and data return (TA, TD)", "ta_*, td_*"),
    ("L2 cache", "L2 cache (TCC), one per die", "l2_*"),
    ("tensor core", "matrix core (MFMA instructions)", "mfma_*"),
    ("GPU of one or two dies", "accelerator complex dies (XCD): MI300X 8, MI300A 6", "xcds"),
    ("NVTX range", "roctx range", "ranges"),
)


def align_published() -> Table:
    """Return the published counters of the align kernels on AMD, marked as figures of others."""
    source = published.ALIGN_AMD
    theirs: dict[str, Any] = {"group": source.label, "digits": 0, "theirs": True}  # as they were published
    columns = [
        *heads("kernel"),
        *heads("vgprs sgprs active_cus", **theirs),
        *heads("l1_hit_pct", label="vL1D hit rate", **theirs),
        *heads("coalescing_pct", **theirs),
        *heads("l1_utilisation_pct", label="vL1D utilisation", **theirs),
        *heads("cycles_k", **theirs),
    ]
    return Table(published.align_amd(), columns, f"Published, not measured here: {source.setup}.")


def kernels(tables: Mapping[str, pd.DataFrame]) -> Table | Note:
    """Return launch geometry and main metrics of each kernel; ``tables``: run -> ``analysis.amd.kernels``."""
    if not tables:
        return NOTHING
    frame = pd.concat([t.assign(run=run, cycles_k=t["kernel_cycles"] / 1e3) for run, t in tables.items()])
    columns = [
        *heads("name"),
        *(heads("run") if len(tables) > 1 else []),
        *heads("registers_per_thread", label="VGPRs"),
        *heads(
            "scalar_registers_per_wave active_cus vl1d_hit_pct vl1d_coalescing_pct vl1d_utilization_pct cycles_k "
            "median_us launches"
        ),
        *heads("grid_blocks", unit="work-groups"),
        *heads("block_threads xcd_fill_pct accumulation_registers_per_thread"),
        *heads("smem_bytes", label="LDS", unit="B per group"),
        *heads("wavefront_occupancy valu_pct mfma_pct l2_hit_pct lds_bank_conflict_pct"),
    ]
    # Metrics that an architecture does not have are columns of NA.
    return Table(frame.reindex(columns=[*frame.columns, *(c.key for c in columns if c.key not in frame)]), columns)


def memory(tables: Mapping[str, pd.DataFrame]) -> Table | Note:
    """Return what each level of memory moves per launch; ``tables``: run -> ``analysis.amd.memory.traffic``."""
    if not tables:
        return NONE
    frame = pd.concat([t.assign(run=run) for run, t in tables.items()])
    sizes = {"bytes": "total", "read_bytes": "read", "write_bytes": "write", "atomic_bytes": "atomic"}
    frame = frame.assign(**{f"{column}_mb": frame[column] / 1e6 for column in sizes})
    moved = [Column(f"{column}_mb", label, "MB per launch", 3, "moved") for column, label in sizes.items()]
    columns = [
        *heads("kernel"),
        *(heads("run") if len(tables) > 1 else []),
        *heads("level"),
        *moved,
        *heads("hit_pct gb_per_s", group="reached"),
    ]
    return Table(frame, columns)


def side_by_side(shown: Sequence[Counted]) -> Table | Note:
    """Return the metrics of the first two runs, kernel by kernel; metrics that are 0 in both are left out."""
    if len(shown) < 2:
        return Nothing("Give two folders to see their metrics side by side: `-p folders one,other`.")
    left, right = shown[:2]
    frame = amd.compare(left.launches, right.launches)
    frame = frame[(frame[["left", "right"]].fillna(0) != 0).any(axis=1)].copy()
    large = frame["unit"].isin(["B", "FLOP"])  # shown in millions: MB, MFLOP
    frame.loc[large, ["left", "right"]] /= 1e6
    unit = frame["unit"].where(~large, "M" + frame["unit"])
    said = [label.endswith(one) for label, one in zip(frame["label"], unit, strict=True)]
    frame["what"] = frame["label"].where(pd.Series(said, index=frame.index), frame["label"] + ", " + unit)
    columns = [
        *heads("kernel"),
        *heads("what", label="metric"),
        *heads("left", label=left.name, unit=left.gpu),
        *heads("right", label=right.name, unit=right.gpu),
        *heads("ratio", unit=f"{right.name} / {left.name}"),
    ]
    return Table(frame, columns)


def glossary() -> Table:
    """Return which of AMD's terms stands for which of NVIDIA's, and what moe_lab calls both."""
    frame = pd.DataFrame(GLOSSARY, columns=["nvidia", "amd", "ours"])
    return Table(frame, heads("nvidia amd ours"))
