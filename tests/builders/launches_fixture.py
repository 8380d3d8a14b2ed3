"""A report small enough to check by hand: one decode layer of Qwen3's shape, replayed twice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from moe_lab.analysis.phases import Phase, stages
from moe_lab.spec.launches import COLUMNS, RANGE_COLUMNS, Launches, tidy

# (range, kernel, start us, duration us); 100 us of kernels in a span of 110 us make every share a whole number.
LAYER = [
    ("input_norm", "add_rms_norm", 0, 2),
    ("self_attn", "qkv_gemm", 3, 10),
    ("self_attn", "flash_decode", 14, 12),
    ("post_attention_norm", "add_rms_norm", 27, 2),
    ("router", "router_gemm", 30, 4),
    ("align", "count_and_scatter", 35, 3),
    ("w13", "grouped_gemm", 39, 40),
    ("act", "silu_and_mul", 80, 2),
    ("w2", "grouped_gemm", 83, 20),
    ("combine", "sum_topk", 105, 5),
]
BLOCKS = {"router", "align", "w13", "act", "w2", "combine"}
SHARES = {"norm": 4, "self_attn": 22, "router": 4, "align": 3, "w13": 40, "act": 2, "w2": 20, "combine": 5}
# Qwen3-30B-A3B at M = 16 in bf16 with 80 experts hit: w13 reads at least 80 * 2 * 768 * 2048 weights of 2 bytes.
WORKLOAD = {
    "model": "qwen3-30b-a3b",
    "phase": "decode",
    "M": 16,
    "batch": 16,
    "dtype": "bf16",
    "backend": "fused_moe",
    "experts_hit": 80,
    "rows_useful": 128,
    "rows_padded": 1280,
    "problem": {"M": 16, "K": 2048, "N": 768, "E": 128, "topk": 8, "dtype": "bf16", "quant": None},
}
MANIFEST: dict[str, Any] = {
    "schema": 1,
    "name": "h200/tiny_decode",
    "tool": {"name": "nsys", "version": "2025.3.2"},
    "command": ["python", "-m", "moe_lab.gpu", "layer"],
    "date": "2026-05-12T10:11:12+00:00",
    "gpu": {"name": "NVIDIA H200", "sm_count": 132, "memory_bytes": 150754820096},
    "versions": {"driver": "580.82", "torch": "2.11.0", "triton": "3.6.0"},
    "workload": WORKLOAD,
    "redacted": ["Environment variables were dropped."],
}


def launches(layers: int = 2) -> Launches:
    """GIVEN a report of ``layers`` replays of the layer, 1 ms apart."""
    ranges: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []

    def opened(name: str, parent: int | None) -> int:
        path = name if parent is None else f"{ranges[parent]['path']}/{name}"
        depth = 0 if parent is None else ranges[parent]["depth"] + 1
        own = {"name": name, "path": path, "parent_id": parent, "depth": depth, "domain": "moe_lab", "process": 0}
        ranges.append(own | {"synthetic": True, "crossing": False})
        return len(ranges) - 1

    for n in range(layers):
        layer = opened("layers.0", opened("moe_lab|model=qwen3-30b-a3b|phase=decode|M=16|backend=fused_moe", None))
        mlp, seen = None, {}
        for name, kernel, start, duration in LAYER:
            if name in BLOCKS and mlp is None:
                mlp = opened("mlp", layer)
            seen.setdefault(name, None)
            if seen[name] is None:
                seen[name] = opened(name, mlp if name in BLOCKS else layer)
            begin = (1000 * n + start) * 1000
            rows.append(
                {
                    "kind": "kernel",
                    "name": kernel,
                    "start_ns": begin,
                    "end_ns": begin + duration * 1000,
                    "duration_ns": duration * 1000,
                    "stream": 7,
                    "grid_blocks": 6144 if kernel == "grouped_gemm" else 132,
                    "block_threads": 128,
                    "range_id": seen[name],
                }
            )
    return Launches(tidy(pd.DataFrame(rows), COLUMNS), tidy(pd.DataFrame(ranges), RANGE_COLUMNS), {"tool": "nsys"})


def phase(name: str = "decode", layer_range: str = r"layers\.0$", **manifest: Any) -> Phase:
    """GIVEN that report as a run, seen through its layer."""
    from moe_lab.analysis.breakdown import breakdown

    given = launches()
    table = breakdown(given, layer_range)
    run: Any = SimpleNamespace(path=Path("tiny"), manifest=MANIFEST | manifest, launches=lambda: given)
    return Phase(name, run, given, layer_range, table, stages(table))
