"""Synthetic results of the experts benchmark, of invented times that follow simple rules."""

import json
from pathlib import Path
from typing import Any

import bench_builder

from moe_lab.spec.bench_options import EXPERTS_KEY
from moe_lab.spec.problem import MoEProblem

ROOFS = {
    "copy_bytes_per_s": 4_000_000_000_000,
    "read_bytes_per_s": 4_500_000_000_000,
    "matmul_flops_per_s": 700_000_000_000_000,
    "matmul_size": 8192,
    "matmul_dtype": "bfloat16",
}
COLD = {"flush": "a read", "buffer_bytes": 1 << 23, "warm_us": 3.0, "cold_us": 6.0, "ratio": 2.0, "cold": True}
# backend -> (share of the bound reached, microseconds that do not depend on M, rows of a tile, release)
BACKENDS: dict[str, tuple[float, float, int | None, str | None]] = {
    "auto": (0.9, 6.0, 16, None),
    "fused_moe": (0.6, 10.0, 64, None),
    "vllm_triton": (0.72, 6.5, 64, "0.15.0"),
    "triton_kernels": (0.8, 30.0, 32, "vllm-0.15.0"),
    "torch_grouped": (0.4, 60.0, None, None),
}
TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384]


def header(**changes: Any) -> dict[str, Any]:
    """Return the first line of a result."""
    given = {"bench": "experts", "key": list(EXPERTS_KEY), "measured": {"roofs": ROOFS, "l2": COLD}, "settings": {}}
    return bench_builder.header() | given | changes


def row(backend: str, M: int, us: float | None, **fields: Any) -> dict[str, Any]:
    """Return one row as the benchmark writes it; p20 and p80 lie 1 % around the median."""
    from moe_lab.gpu.bench.rates import rates

    problem = MoEProblem.preset(fields.get("model", "qwen3-30b-a3b"), M)
    hit = fields.get("experts_hit", min(problem.E, problem.rows_useful))
    tile = BACKENDS.get(backend, (0, 0, None, None))[2]
    padded = None if tile is None else hit * tile * -(-problem.rows_useful // (hit * tile))
    sizes = {k: getattr(problem, k) for k in ("M", "K", "N", "E", "topk", "format", "dtype", "activation", "model")}
    case = {"routing": "uniform", "seed": 0, "experts_hit": hit, "rows_useful": problem.rows_useful}
    known = {"rows_most": 9, "bound_max_rel": 0.01, "version": None, "rows_padded": padded, "workspace_bytes": 10**6}
    right = {"correct": True, "error_max_rel": 0.004, "sm_mhz": 1700, "temperature_c": 60, "power_w": 600.5}
    low, high = (None, None) if us is None else (0.99 * us, 1.01 * us)
    times = {"median_us": us, "p20_us": low, "p80_us": high}
    stage = fields.get("stage") or "full"
    rest = {"backend": backend, "part": "full", "stage": stage, "mode": "graph", "throttled": "no", "kernels_us": None}
    rated = rates(problem, hit, padded, stage, us, ROOFS)
    return sizes | case | known | right | rest | times | rated | {"error": None} | fields


def rows(tokens: list[int] | None = None, routings: tuple[str, ...] = ("uniform",)) -> list[dict[str, Any]]:
    """Return the rows of a sweep, its stages' kernels among them; a skew makes every call slower than its bound."""
    out = []
    for routing in routings:
        slow = 1.0 if routing == "uniform" else 1.25
        for M in tokens or TOKENS:
            for name, (share, fixed, _, release) in BACKENDS.items():
                bound = row(name, M, 1.0)["roofline_us"]
                us = round(slow * (fixed + bound / share), 3)
                fused = name == "triton_kernels"
                names = (
                    ("align|sort", "w13+act|gemm", "w2+combine|gemm") if fused else ("align|a", "w13|gemm", "w2|gemm")
                )
                shares = (0.1, 0.6, 0.3)
                kernels = [[n, round(s * us, 3)] for n, s in zip(names, shares, strict=True)]
                hit = {"experts_hit": min(128, 8 * M)} if routing == "uniform" else {"experts_hit": min(100, 6 * M + 2)}
                out.append(row(name, M, us, routing=routing, version=release, kernels_us=kernels, **hit))
                out.append(row(name, M, us + 40, routing=routing, version=release, mode="eager", **hit))
    return out


def write(path: Path, lines: list[dict[str, Any]], *, complete: bool = True, **changes: Any) -> Path:
    """Write a result as the benchmark's process does."""
    every = [header(**changes), *lines, *([{"complete": True}] if complete else [])]
    path.write_text("".join(json.dumps(line) + "\n" for line in every))
    return path
