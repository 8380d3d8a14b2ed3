"""Synthetic results of the align benchmark, of invented times that follow simple rules."""

import itertools
import json
import zlib
from pathlib import Path
from typing import Any

GPU = {
    "name": "NVIDIA H200",
    "sm_count": 132,
    "memory_bytes": 150754820096,
    "compute_capability": "9.0",
    "copy_bytes_per_s": 4_000_000_000_000,
}
VERSIONS = {
    "python": "3.12.3",
    "torch": "2.11.0",
    "triton": "3.6.0",
    "cuda": "13.0",
    "moe_lab": "0.1.0",
    "driver": "580",
}
KEY = ["tokens", "E", "topk", "block_m", "routing", "seed", "algorithm", "mode"]
FLOORS = {"(empty)": (1, 3.5), "(2 empty)": (2, 4.5), "(2 empty, early)": (2, 4.4)}
FREE = {"graph": 0.0, "eager": 20.0, "eager+allocation": 45.0}
# name -> (most pairs, kernels of a call, microseconds as (fixed, per thousand pairs), deterministic)
ALGORITHMS: dict[str, tuple[int, list[str], tuple[float, float], bool]] = {
    "auto": (1 << 30, ["count_kernel", "place_kernel"], (4.5, 0.1), True),
    "one_launch": (8192, ["per_expert_kernel"], (4.4, 0.7), True),
    "multi_block": (1 << 30, ["count_kernel", "place_kernel"], (9.0, 0.09), True),
    "two_kernel": (1 << 30, ["count_scan_kernel", "place_by_atomics_kernel"], (7.5, 1.8), False),
    "radix_sort": (1 << 30, ["DeviceRadixSortOnesweepKernel", "bounds_kernel", "spread_kernel"], (40.0, 0.1), True),
}
TOKENS = [1, 16, 256, 1024, 4096, 16384, 65536]


def header(**changes: Any) -> dict[str, Any]:
    """Return the first line of a result."""
    settings = {"tokens": TOKENS, "experts": [128, 256], "topk": [8], "repetitions": 50}
    return {
        "schema": 2,
        "bench": "align",
        "key": KEY,
        "date": "2026-11-22T20:00:00+00:00",
        "gpu": GPU,
        "versions": VERSIONS,
        "command": ["python", "-m", "moe_lab.gpu", "bench-align"],
        "settings": settings,
    } | changes


def row(algorithm: str, mode: str, median_us: float | None, **fields: Any) -> dict[str, Any]:
    """Return one row as the benchmark writes it; p20 and p80 lie 2 % around the median."""
    case = {"tokens": 1024, "E": 256, "topk": 8, "block_m": 64, "routing": "uniform", "seed": 0}
    sizes = {"rows_useful": 8192, "rows_padded": 16384, "padding_waste_pct": 100.0, "minimum_bytes": 99332}
    low, high = (None, None) if median_us is None else (0.98 * median_us, 1.02 * median_us)
    times = {"median_us": median_us, "p20_us": low, "p80_us": high}
    rest: dict[str, Any] = {"launches": None, "deterministic": None, "kernels_warm_us": None, "error": None}
    return case | sizes | {"algorithm": algorithm, "mode": mode, "repetitions": 50} | times | rest | fields


def case_rows(
    tokens: int, E: int, topk: int, routing: str, modes: list[str], noise: float = 0.0
) -> list[dict[str, Any]]:
    """Return the rows of one case, of every algorithm that takes so many pairs."""
    pairs = tokens * topk
    hit = min(E, pairs) if routing == "uniform" else min(E, max(topk, pairs // 3))
    padded = -(-(pairs + 32 * hit) // 64) * 64
    case: dict[str, Any] = {"tokens": tokens, "E": E, "topk": topk, "routing": routing, "rows_useful": pairs}
    case |= {"rows_padded": padded, "padding_waste_pct": round(100 * (padded / pairs - 1), 3)}
    case["minimum_bytes"] = 4 * (pairs + padded + padded // 64 + 1)
    out = [
        row(name, mode, us + 0.5 * FREE[mode], launches=launches, **case)
        for (name, (launches, us)), mode in itertools.product(FLOORS.items(), modes)
    ]
    for name, (most, kernels, (fixed, slope), deterministic) in ALGORITHMS.items():
        for i, mode in enumerate(modes if pairs <= most else []):
            wobble = zlib.crc32(f"{name} {tokens} {E} {topk}".encode()) % 100 / 100
            us = fixed + slope * pairs / 1000 * (1 + E / 2560) + noise * wobble
            each = [[k, round((us - 3) / len(kernels), 3)] for k in kernels]
            own = {
                "launches": len(kernels),
                "deterministic": deterministic,
                "kernels_warm_us": each if i == 0 else None,
            }
            out.append(row(name, mode, round(us + FREE[mode], 3), **case | own))
    return out


def rows(
    tokens: list[int] | None = None,
    experts: tuple[int, ...] = (128, 256),
    topks: tuple[int, ...] = (8,),
    **options: Any,
) -> list[dict[str, Any]]:
    """Return the rows of a sweep."""
    given = {"modes": ["graph", "eager", "eager+allocation"]} | options
    routings = given.pop("routings", ("uniform",))
    return [
        r
        for E, M, topk, routing in itertools.product(experts, tokens or TOKENS, topks, routings)
        for r in case_rows(M, E, topk, routing, **given)
    ]


def write(path: Path, lines: list[dict[str, Any]], *, complete: bool = True, **changes: Any) -> Path:
    """Write a result as the benchmark's process does."""
    every = [header(**changes), *lines, *([{"complete": True}] if complete else [])]
    path.write_text("".join(json.dumps(line) + "\n" for line in every))
    return path
