"""Rows of ``analysis.gemms.gemms`` from measured reference points: one H200, ncu 2025.3.1, Qwen3-30B-A3B in bf16."""

from typing import Any

import pandas as pd

GPU = {
    "name": "NVIDIA H200",
    "sm_count": 132,
    "compute_capability": "9.0",
    "sm_clock_khz": 1_980_000,
    "memory_bandwidth_bytes_per_s": 4_814_304_000_000,
    "l2_cache_bytes": 62_914_560,
}
# kernel -> (backend, series, M, tile (block_m, block_n, block_k, group_m) or None, threads, values of w13 and of w2);
# values: grid, us, SM %, memory %, DRAM GB read, L2 hit %.
POINTS: dict[str, tuple[Any, ...]] = {
    "untuned 16": (
        *("fused_moe", "fused_moe untuned", 16, (16, 32, 64, 1), 128),
        *((6144, 129, 30, 84, 0.522, 3.7), (8192, 68, 37, 81, 0.261, 3.4)),
    ),
    "tuned 16": (
        *("vllm_triton", "vllm_triton", 16, (16, 64, 128, 1), 128),
        *((3072, 121, 16, 90, 0.522, 2.8), (4096, 67, 25, 82, 0.261, 2.3)),
    ),
    "persistent 16": (
        *("triton_kernels", "triton_kernels", 16, None, 128),
        *((132, 125, 10, 87, 0.523, 1.8), (132, 77, 8, 71, 0.261, 2.5)),
    ),
    "untuned 8192": (
        *("fused_moe", "fused_moe untuned", 8192, (64, 64, 32, 8), 128),
        *((27600, 1503, 33, 96, 1.045, 86), (36800, 778, 38, 94, 0.505, 86)),
    ),
    "tuned 8192": (
        *("vllm_triton", "vllm_triton", 8192, (128, 256, 64, 8), 256),
        *((3834, 701, 79, 59, 1.250, 59), (5112, 431, 58, 53, 0.510, 69)),
    ),
    "persistent 8192": (
        *("triton_kernels", "triton_kernels", 8192, None, 256),
        *((132, 685, 79, 52, 1.209, 53), (132, 357, 72, 53, 0.504, 68)),
    ),
}
HIT = {16: 83, 8192: 128}


def row(point: str, stage: str = "w13", **changed: Any) -> dict[str, Any]:
    """Return one row; what the reference did not measure is None."""
    backend, series, M, tile, threads, *values = POINTS[point]
    grid, us, sm, memory, read, hit = values[stage == "w2"]
    wide, deep = (1536, 2048) if stage == "w13" else (2048, 768)
    pairs = 8 * M
    # Uniform routing: an expert gets 512 rows at M = 8192, so half a tile of padding each; 1 or 2 at M = 16.
    by = {str(m): HIT[M] * m if M == 16 else pairs + 128 * m // 2 for m in (16, 32, 64, 128, 256)}
    m, n, k, group = tile or (None, None, None, None)
    own: dict[str, Any] = {
        **{"run": "h200/reference", "series": series, "backend": backend, "tiles": None, "M": M, "stage": stage},
        **{"part": stage, "name": "kernel", "launches": 1, "duration_us": float(us), "other_us": 0.0},
        **{"grid_blocks": grid, "block_threads": threads, "sm_throughput_pct": float(sm), "l2_hit_pct": float(hit)},
        **{"mem_throughput_pct": float(memory), "dram_read_bytes": 1e9 * read, "sm_count": 132},
        **{"tile": f"{m}x{n}x{k}" if tile else None, "tile_source": "workload" if tile else None},
        **{"block_m": m, "block_n": n, "block_k": k, "group_m": group, "K": 2048, "N": 768, "E": 128, "topk": 8},
        **{"format": "bf16", "element_bytes": 2, "gemm_n": wide, "gemm_k": deep, "experts_hit": HIT[M]},
        **{"rows_useful": pairs, "rows_padded": by[str(m)] if tile else None, "rows_padded_by": by},
        **{"timed_by": "ncu", "persistent": tile is None if tile is None else False},
    }
    return own | changed


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """Return rows as ``gemms`` does: nullable columns, and the counters that were not measured as NA."""
    frame = pd.DataFrame(list(rows))
    kept = frame["rows_padded_by"]
    for name in ("dram_throughput_pct", "l1_throughput_pct", "l2_throughput_pct", "tensor_pipe_pct", "l2_sm_bytes"):
        if name not in frame:
            frame[name] = pd.array([pd.NA] * len(frame), "Float64")
    return frame.drop(columns="rows_padded_by").convert_dtypes().assign(rows_padded_by=kept)


def reference() -> pd.DataFrame:
    """Return every reference point, both stages."""
    return table(*(row(point, stage) for point in POINTS for stage in ("w13", "w2")))
