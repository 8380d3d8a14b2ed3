"""A run of counters as ``moe-lab capture ncu`` keeps it, made from the reference points of ``gemm_rows``."""

from pathlib import Path
from typing import Any

import gemm_rows
from ncu_builder import raw, stack

from moe_lab import runs
from moe_lab.runs import Run
from moe_lab.spec.ranges import root_name

E, A = "pct_of_peak_sustained_elapsed", "pct_of_peak_sustained_active"
UNITS = {
    "device__attribute_display_name": "",
    "device__attribute_global_memory_bus_width": "",
    "device__attribute_l2_cache_size": "",
    "device__attribute_max_gpu_frequency_khz": "",
    "device__attribute_memory_clock_rate": "",
    "gpu__time_duration.sum": "ns",
    f"sm__throughput.avg.{E}": "%",
    f"gpu__compute_memory_throughput.avg.{E}": "%",
    f"gpu__dram_throughput.avg.{E}": "%",
    f"l1tex__throughput.avg.{A}": "%",
    f"lts__throughput.avg.{E}": "%",
    "dram__bytes_read.sum": "byte",
    "dram__bytes_write.sum": "byte",
    "lts__t_sectors_srcunit_tex.sum": "sector",
    "lts__t_sector_hit_rate.pct": "%",
    "launch__sm_count": "SM",
    "launch__registers_per_thread": "register/thread",
    "launch__shared_mem_per_block_dynamic": "byte/block",
    "launch__shared_mem_per_block_static": "byte/block",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "inst",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "inst",
    "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio": "inst",
}
# Bytes that the SMs get from L2 (made up, near the model): large where tiles are small.
THROUGH = {
    ("untuned 8192", "w13"): 13.4e9,
    ("untuned 8192", "w2"): 6.9e9,
    ("tuned 8192", "w13"): 5.5e9,
    ("tuned 8192", "w2"): 2.9e9,
    ("persistent 8192", "w13"): 5.4e9,
    ("persistent 8192", "w2"): 2.9e9,
}
DEVICE = ("NVIDIA H200", "6,016", "62,914,560", "1,980,000", "3,201,000")


def root(point: str) -> str:
    """Return the range around a point's kernels."""
    row = gemm_rows.row(point)
    tiles = {"tiles": "untuned"} if point.startswith("untuned") else {}
    return root_name(model="qwen3-30b-a3b", phase="experts", M=row["M"], backend=row["backend"], **tiles)


def kernel(point: str, stage: str) -> dict[str, Any]:
    """Return a kernel for ``ncu_builder.raw``."""
    row = gemm_rows.row(point, stage)
    memory, read = row["mem_throughput_pct"], row["dram_read_bytes"]
    dram = 100 * read / row["duration_us"] * 1e6 / gemm_rows.GPU["memory_bandwidth_bytes_per_s"]
    through = THROUGH.get((point, stage), 1.05 * read)
    numbers = [*(1000 * row["duration_us"], row["sm_throughput_pct"], memory, dram, memory - 20, memory - 1)]
    numbers += [read, 2e6, through // 32, row["l2_hit_pct"], 132, 64, 49152, 0, 9.44, 2.78, 1]
    return {
        "name": "grouped_gemm_kernel",
        "grid": f"({row['grid_blocks']}, 1, 1)",
        "block": f"({row['block_threads']}, 1, 1)",
        "stack": stack(root(point), stage),
        "values": dict(zip(UNITS, [*DEVICE, *(f"{n:.2f}" for n in numbers)], strict=True)),
    }


def said(point: str) -> dict[str, Any]:
    """Return what the workload says of a point."""
    row = gemm_rows.row(point)
    tile = {k: row[k] for k in ("block_m", "block_n", "block_k", "group_m")} if row["block_m"] else None
    sizes = {k: row[k] for k in ("M", "K", "N", "E", "topk", "format")}
    own = {"root": root(point), "M": row["M"], "problem": sizes, "tiles": {"w13": tile, "w2": tile} if tile else None}
    own |= {k: row[k] for k in ("experts_hit", "rows_useful", "rows_padded")}
    return own | {"rows_padded_by_block_m": row["rows_padded_by"]}


def make(folder: Path, name: str = "h200/experts_counters_fused_moe", points: tuple[str, ...] = ()) -> Run:
    """Import the run into a profiles folder."""
    chosen = points or tuple(gemm_rows.POINTS)
    page = folder / "page.csv"
    page.write_text(raw([kernel(p, s) for p in chosen for s in ("w13", "w2")], UNITS))
    workload = {"workload": "experts", "phase": "experts", "points": [said(p) for p in chosen]}
    return runs.import_report(page, name, root=folder, manifest={"workload": workload, "date": "2026-01-01"})
