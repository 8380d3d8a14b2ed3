# SPDX-License-Identifier: Apache-2.0
"""A time compared with its lower bound: rates, and shares of the roofs that the same process measured."""

from typing import Any

from moe_lab.gpu.bench.stages import minimum_bytes
from moe_lab.spec.problem import MoEProblem, Part


def rates(
    problem: MoEProblem, hit: int, rows_padded: int | None, stage: str, us: float | None, roofs: dict[str, Any]
) -> dict[str, Any]:
    """Return columns of a row; None where a time, a roof or the padding is unknown.

    Args:
        problem: sizes and dtype.
        hit: distinct experts with at least one token.
        rows_padded: rows with each expert padded to whole tiles.
        stage: what was timed: ``full``, or a stage such as ``w13+act``.
        us: its time in microseconds.
        roofs: of ``roofs.measure``.

    Returns:
        minimum_bytes, useful_gflop, minimum_gb_per_s, useful_tflops_per_s, executed_tflops_per_s, padding_waste_pct,
        roof_bytes_per_s (the faster of copy and read) and roof_flops_per_s (the large product), roofline_us (minimum
        bytes and useful FLOPs, each divided by its roof; the larger of the two), bound_by (memory or compute),
        pct_of_roofline, pct_of_copy, pct_of_read, pct_of_matmul.
    """
    # A stage that holds both GEMMs, under whatever name, is a whole layer.
    part: Part = "w13" if "w13" in stage and "w2" not in stage else "w2" if stage.startswith("w2") else "full"
    size, useful = minimum_bytes(problem, hit, stage), problem.useful_flops(part)
    executed = None if rows_padded is None else problem.executed_flops(rows_padded, part)
    waste = None if not rows_padded or not problem.M else 100 * (rows_padded / problem.rows_useful - 1)
    # A layer mostly reads weights, and pure reads may be faster than a copy: a bound takes the better of the two.
    memory = max(roofs.get("copy_bytes_per_s", 0), roofs.get("read_bytes_per_s", 0))
    compute = roofs.get("matmul_flops_per_s", 0)
    by_memory, by_compute = (
        amount / roof * 1e6 if roof else None for amount, roof in ((size, memory), (useful, compute))
    )
    least = max(by_memory, by_compute) if by_memory is not None and by_compute is not None else None
    bytes_per_s, flops_per_s = (amount / us * 1e6 if us else None for amount in (size, useful))
    return {
        "minimum_bytes": size,
        "useful_gflop": useful / 1e9,
        "minimum_gb_per_s": _scaled(bytes_per_s, 1e-9),
        "useful_tflops_per_s": _scaled(flops_per_s, 1e-12),
        "executed_tflops_per_s": _scaled(executed / us * 1e6 if us and executed is not None else None, 1e-12),
        "padding_waste_pct": _scaled(waste, 1),
        "roof_bytes_per_s": memory or None,
        "roof_flops_per_s": compute or None,
        "roofline_us": _scaled(least, 1),
        "bound_by": None if least is None else "memory" if least == by_memory else "compute",
        "pct_of_roofline": _scaled(least / us if least is not None and us else None, 100),
        "pct_of_copy": _share(bytes_per_s, roofs.get("copy_bytes_per_s")),
        "pct_of_read": _share(bytes_per_s, roofs.get("read_bytes_per_s")),
        "pct_of_matmul": _share(flops_per_s, compute),
    }


def _share(rate: float | None, roof: float | None) -> float | None:
    return _scaled(rate / roof if rate is not None and roof else None, 100)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)
