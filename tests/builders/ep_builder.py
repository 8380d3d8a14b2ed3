"""Synthetic results of the benchmark of several ranks, and a capture of two of them; times follow simple rules."""

import json
from pathlib import Path
from typing import Any

from bench_builder import GPU, VERSIONS
from nsys_builder import NsysBuilder

from moe_lab.spec.bench_options import EP_KEY

SIZES = {"K": 1024, "N": 512, "E": 8, "topk": 2}
TRIP_US, BYTES_PER_US = 1.5, 370_000.0
# way -> (fixed us, times its bytes over the link): what its dispatch and combine take.
WAYS = {"allgather_reducescatter": (20.0, 2.0), "symmetric": (6.0, 1.25)}
ROOFS = {"read_bytes_per_s": 3e12, "matmul_flops_per_s": 8e14, "copy_bytes_per_s": 2.8e12}
# routing -> share of the pairs of each expert; ranks have four each.
SHARES = {"uniform": [0.125] * 8, "zipf:1.0": [0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]}
# (stage, kernel, start and end in us on each rank): the experts of rank 1 take longer, and rank 0 waits in combine.
STEP = [
    ("self_attn", "flash_decode", (0, 30), (0, 30)),
    ("dispatch", "ncclDevKernel_SendRecv", (30, 50), (30, 50)),
    ("w13+act+w2", "hopper_moe", (50, 150), (50, 170)),
    ("combine", "ncclDevKernel_SendRecv", (150, 210), (170, 210)),
    ("shared_experts", "linear", (170, 180), (190, 200)),
]


def header(**changes: Any) -> dict[str, Any]:
    """Return the first line of a result."""
    links = [{"source": a, "target": 1 - a, "bytes_per_s": BYTES_PER_US * 1e6, "trip_us": TRIP_US} for a in (0, 1)]
    return {
        "schema": 2,
        "bench": "ep",
        "key": EP_KEY,
        "date": "2026-11-27T05:00:00+00:00",
        "gpu": GPU,
        "versions": VERSIONS,
        "command": ["python", "-m", "moe_lab.gpu", "bench-ep"],
        "settings": {"ranks": 2},
        "measured": {"roofs": ROOFS, "l2": {}, "links": links},
    } | changes


def rows(M: int, routing: str = "uniform", format: str = "bf16") -> list[dict[str, Any]]:
    """Return the rows of a case: half of all tokens travel, and a pair takes 10 ns."""
    pairs = [round(2 * M * SIZES["topk"] * share) for share in SHARES[routing]]
    on_ranks, size = [sum(pairs[:4]), sum(pairs[4:])], M * SIZES["K"] * 2 // 2
    experts = [40.0 + 0.01 * n for n in on_ranks]
    floor = size / BYTES_PER_US + TRIP_US
    out: list[dict[str, Any]] = []
    for comm, (fixed, times) in WAYS.items():
        alone = fixed + times * size / BYTES_PER_US
        full = 2 * alone + max(experts)
        by_rank = [
            (f"{rank}|{what}", us)
            for rank, own in enumerate(experts)
            for what, us in (
                *(("dispatch", alone), ("experts", own), ("combine", alone + max(experts) - own)),
                *(("dispatch alone", alone), ("combine alone", alone)),
            )
        ]
        for part, us in {"full": full, "dispatch": alone, "experts": max(experts), "combine": alone}.items():
            travels, first = part not in ("full", "experts"), part == "full"
            out.append(
                {"M": M, **SIZES, "format": format, "dtype": "bf16", "activation": "silu", "model": "made-up"}
                | {"routing": routing, "seed": 0, "ranks": 2, "comm": comm, "backend": "hopper", "part": part}
                | {"mode": "graph", "median_us": us, "p20_us": us - 1, "p80_us": us + 1, "correct": True}
                | {"error_rms_rel": 0.003, "bound_rms_rel": 0.02, "rank_rows": list(enumerate_text(on_ranks))}
                | {"needed_bytes": size if travels else None, "sent_bytes": size if travels else None}
                | {"sent_gb_per_s": size / us / 1e3 if travels else None, "trip_us": TRIP_US, "error": None}
                | {"floor_us": floor if travels else None, "rows_useful": sum(pairs), "rows_most": max(pairs)}
                | {"ranks_us": by_rank if first else None}
                | {"expert_rows": list(enumerate_text(pairs)) if first and comm == min(WAYS) else None}
            )
    return out


def enumerate_text(values: list[int]) -> list[tuple[str, int]]:
    """Return (number as text, value) of each value."""
    return [(str(number), value) for number, value in enumerate(values)]


def write(path: Path) -> Path:
    """Write a result of four sizes, two of them with skewed routing too."""
    cases = [*(rows(M) for M in (8, 128, 1024, 4096)), *(rows(M, "zipf:1.0") for M in (128, 4096))]
    lines = [header(), *(row for case in cases for row in case), {"complete": True}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def capture(path: Path, steps: int = 3) -> Path:
    """Write a report of two ranks that replay a CUDA graph of the step, each begun together and 1 ms apart."""
    b = NsysBuilder()
    for rank in (0, 1):
        process, name = rank + 1, f"moe_lab|model=made-up|phase=decode|M=8|comm=nccl_all_to_all|ranks=2|rank={rank}"
        for at, (stage, *_) in enumerate(STEP, start=1):
            b.push(stage, 100 * at, 100 * at + 50, process=process)
            b.node(100 * at + 10, at, process=process)
            b.node(5000, 100 + at, at, process=process)
        for step in range(steps):
            begin = 1_000_000 * (step + 1)
            b.push(name, begin - 500, begin + 500_000, process=process)
            b.replay(begin - 400, 50 + step, process=process)
            for at, (_, kernel, *ends) in enumerate(STEP, start=1):
                start, end = (begin + 1000 * us for us in ends[rank])
                b.kernel(start, end, 50 + step, node=100 + at, name=kernel, process=process)
    return b.write(path)
