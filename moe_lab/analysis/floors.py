# SPDX-License-Identifier: Apache-2.0
"""The expert GEMMs beside the least work that they could do."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import roofline
from moe_lab.analysis.captures import gpu_facts
from moe_lab.analysis.phases import Phase
from moe_lab.runs import Run
from moe_lab.spec import formats
from moe_lab.spec.problem import MoEProblem, Part


def problem_of(run: Run) -> tuple[MoEProblem, int] | None:
    """Return (the MoE problem of the run's workload, how many experts it hit); None if the run does not say."""
    workload: dict[str, Any] = run.manifest.get("workload") or {}
    sizes, hit = workload.get("problem") or {}, workload.get("experts_hit")
    if hit is None or any(sizes.get(k) is None for k in ("M", "K", "N", "E", "topk")):
        return None
    format = formats.stated(sizes) or formats.stated(workload)
    if format is None:
        return None
    M, K, N, E, topk = (int(sizes[k]) for k in ("M", "K", "N", "E", "topk"))
    return MoEProblem(M, K, N, E, topk, format, biases=bool(sizes.get("biases"))), int(hit)


def floors(phases: Sequence[Phase]) -> pd.DataFrame:
    """Return the time of each expert GEMM beside the least work that it could do: minimum bytes and useful FLOPs.

    Returns:
        Columns phase, stage (w13, w2), time_ms, experts_hit, experts, rows_useful, rows_padded (NA if unknown),
        minimum_gb, minimum_tb_per_s, useful_gflop, useful_tflops_per_s, useful_flop_per_byte; roof_tb_per_s, roof
        (``MEASURED`` or ``PEAK``) and pct_of_roof (over 100 = a wrong roof), NA where the memory has no known roof;
        no rows for runs that do not state their problem or whose GEMMs are fused with another stage.
    """
    rows = []
    for phase in phases:
        known = problem_of(phase.run)
        times = phase.stages.set_index("stage")["time_ms"]
        for part in _GEMMS if known else ():
            if known and part in times.index:
                padded = (phase.run.manifest.get("workload") or {}).get("rows_padded")
                own = {"phase": phase.name, "stage": part, "time_ms": times[part], "rows_padded": padded}
                rows.append(own | _floor(*known, part, float(times[part])) | _roof(phase))
    table = pd.DataFrame(rows).convert_dtypes()
    return table.assign(pct_of_roof=100 * table["minimum_tb_per_s"] / table["roof_tb_per_s"]) if rows else table


MEASURED, PEAK = "measured", "theoretical peak"


def _roof(phase: Phase) -> dict[str, Any]:
    """Return the read bandwidth roof of the phase's GPU, and whether it was measured."""
    known = roofline.roofs(gpu_facts(phase.run, phase.launches.meta), phase.known)
    for row in known[known["kind"] == "dram"].to_dict("records"):
        return {"roof_tb_per_s": float(row["value"]) / 1e12, "roof": MEASURED if row["measured"] else PEAK}
    return {"roof_tb_per_s": float("nan"), "roof": None}


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
