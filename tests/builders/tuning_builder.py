"""Synthetic results of a tuning, of invented times that follow simple rules."""

from pathlib import Path
from typing import Any

import bench_builder

KEY = ["M", "phase", "part", "round", "w13", "w2"]
A, B, C = "16x64x128x1x4x4", "16x128x64x1x4x3", "64x128x64x8x4x4"


def row(phase: str, part: str, M: int, us: float | None, *tiles: str, **fields: Any) -> dict[str, Any]:
    """Return one row as the tuning writes it; its reference took 100 microseconds."""
    problem = {"M": M, "K": 2048, "N": 768, "E": 128, "topk": 8, "dtype": "bf16", "activation": "silu"}
    known = {"model": "qwen3-30b-a3b", "backend": "fused_moe", "routing": "uniform", "seed": 0}
    w13, w2 = tiles[0] if part != "w2" else None, tiles[-1] if part != "w13" else None
    own = {"phase": phase, "part": part, "round": 0, "w13": w13, "w2": w2, "origin": "search", "repetitions": 4}
    times = {"median_us": us, "p20_us": us, "p80_us": us, "reference_us": us and 100.0}
    right = {"correct": None if us is None else True, "error_max_rel": us and 0.001, "bound_max_rel": us and 0.01}
    return problem | known | own | times | right | {"error": None} | fields


def rows() -> list[dict[str, Any]]:
    """Return the rows of a tuning of M = 1 and 64: A is best for w13, B for w2, the backend's own is C."""
    out = [row("compile", part, 2, None, tile, seconds=2.0) for part in ("w13", "w2") for tile in (A, B, C)]
    out.append(row("compile", "w13", 2, None, "16x256x256x1x4x2", error="the compiling process was killed by SIGSEGV"))
    for M in (1, 64):
        for part, best, worse in (("w13", A, B), ("w2", B, A)):
            out += [row("search", part, M, us, tile) for tile, us in ((best, 50.0), (worse, 60.0), (C, 100.0))]
            out += [row("search", part, M, us, tile, round=1) for tile, us in ((best, 51.0), (worse, 60.0))]
        out.append(row("search", "w13", M, None, "16x32x64x1x4x2", error="RuntimeError: it cannot be launched"))
        finals = [(A, B, 100.0, "search"), (A, A, 110.0, "search"), (C, C, 200.0, "default")]
        finals.append((B, A, 120.0, "vllm 0.15.0"))
        out += [row("final", "full", M, us, w13, w2, origin=origin) for w13, w2, us, origin in finals]
    keys = [(A, B, 126.0, "key 1"), (A, A, 120.0, "rival"), (C, C, 240.0, "default"), (B, B, 150.0, "key 64")]
    return out + [row("between", "full", 6, us, w13, w2, origin=origin) for w13, w2, us, origin in keys]


def write(path: Path, lines: list[dict[str, Any]], **changes: Any) -> Path:
    """Write a result as the process that tunes does."""
    return bench_builder.write(path, lines, bench="tune", key=KEY, settings={"M": [1, 64]}, **changes)
