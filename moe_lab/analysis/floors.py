"""The expert GEMMs beside the least work that they can be."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis.phases import Phase, gpu_facts
from moe_lab.problem import DTYPE_BYTES, MoEProblem, Part
from moe_lab.runs import Run


def problem_of(run: Run) -> tuple[MoEProblem, int] | None:
    """Return the MoE problem that the run's workload reports and how many experts it hit; None if it does not say."""
    workload: dict[str, Any] = run.manifest.get("workload") or {}
    sizes, hit = workload.get("problem") or {}, workload.get("experts_hit")
    if hit is None or any(sizes.get(k) is None for k in ("M", "K", "N", "E", "topk")) or sizes.get("quant"):
        return None
    dtype = sizes.get("dtype") or workload.get("dtype")
    if dtype not in DTYPE_BYTES:
        return None
    M, K, N, E, topk = (int(sizes[k]) for k in ("M", "K", "N", "E", "topk"))
    return MoEProblem(M, K, N, E, topk, dtype), int(hit)


def floors(phases: Sequence[Phase]) -> pd.DataFrame:
    """Set the time of each expert GEMM beside the least work it can be: minimum bytes and useful FLOPs.

    Returns:
        Columns phase, stage (w13, w2), time_ms, experts_hit, experts, rows_useful, rows_padded (NA if unknown),
        minimum_gb, minimum_tb_per_s, memory_tb_per_s and pct_of_memory (of the bandwidth that the report states for the
        GPU, NA if it does not), useful_gflop, useful_tflops_per_s, useful_flop_per_byte; no rows for runs that do not
        state their problem or whose GEMMs are fused with another stage.
    """
    rows = []
    for phase in phases:
        known = problem_of(phase.run)
        times = phase.stages.set_index("stage")["time_ms"]
        for part in _GEMMS if known else ():
            if known and part in times.index:
                padded = (phase.run.manifest.get("workload") or {}).get("rows_padded")
                own = {"phase": phase.name, "stage": part, "time_ms": times[part], "rows_padded": padded}
                own["memory_tb_per_s"] = (gpu_facts(phase).get("memory_bandwidth_bytes_per_s") or float("nan")) / 1e12
                rows.append(own | _floor(*known, part, float(times[part])))
    table = pd.DataFrame(rows).convert_dtypes()
    return table.assign(pct_of_memory=100 * table["minimum_tb_per_s"] / table["memory_tb_per_s"]) if rows else table


_GEMMS: tuple[Part, ...] = ("w13", "w2")


def _floor(problem: MoEProblem, hit: int, part: Part, time_ms: float) -> dict[str, float]:
    size, flops = problem.minimum_bytes(hit, part), problem.useful_flops(part)
    return {
        "experts_hit": hit,
        "experts": problem.E,
        "rows_useful": problem.rows_useful,
        "minimum_gb": size / 1e9,
        "minimum_tb_per_s": size / time_ms / 1e9,
        "useful_gflop": flops / 1e9,
        "useful_tflops_per_s": flops / time_ms / 1e9,
        "useful_flop_per_byte": flops / size,
    }
