# SPDX-License-Identifier: Apache-2.0
"""Hierarchical roofline of the expert GEMMs: FLOPs over bytes of DRAM and of L2, and the time that each roof costs.

Roofs are those of ``analysis.roofs``; on AMD also those of rocprof-compute's ``roofline.csv``. A unit that was not
measured, such as L2, has no roof; for DRAM and the tensor cores the theoretical peak is used instead, marked as such.

In every function here ``table`` is ``analysis.gemms.gemms`` and ``row`` one of its rows, ``known`` is
``roofs``, and l2_bytes the size of the L2 cache (None = not known).
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from moe_lab.analysis import roofs as measured_roofs
from moe_lab.analysis import traffic
from moe_lab.analysis.roofs import value as peak
from moe_lab.runs import Run
from moe_lab.spec.problem import MoEProblem, Part

ROCPROF_COMPUTE = {"dram": "HBM", "l2": "L2", "tensor": "MFMA BF16"}  # as ``amd_memory.roofs`` calls them
OPERATIONS = ("tensor_bf16_ops", "tensor_fp16_ops", "tensor_fp16_fp16_ops", "tensor_fp8_ops")
LEVELS = ("dram", "l2")
Row = Mapping[Hashable, Any]


def roofs(gpu: Mapping[str, Any], measured: Iterable[Run]) -> pd.DataFrame:
    """Return the roofs of a GPU, as ``analysis.roofs.with_peaks`` returns them.

    Args:
        gpu: name, sm_count, compute_capability, sm_clock_khz, memory_bandwidth_bytes_per_s and roofs (as
            ``amd_memory.roofs``), those that are known.
        measured: benchmarks to look for measured roofs in.
    """
    known = measured_roofs.of_gpu(gpu.get("name"), measured)
    own = [row for row in _of_roofline_csv(gpu) if row["kind"] not in set(known["kind"])]
    both = pd.DataFrame([*known.to_dict("records"), *own], columns=list(measured_roofs.COLUMNS))
    return measured_roofs.with_peaks(both, gpu)


def _of_roofline_csv(gpu: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the roofs that rocprof-compute measured, if the report has them."""
    known = gpu.get("roofs")
    if known is None:
        return []
    of = {name: 1e9 * float(v) for name, v in zip(known["name"], known["value"], strict=True) if v > 0}
    rest = {"how": "rocprof-compute (roofline.csv)", "runs": 1, "measured": True}
    return [{"kind": kind, "value": of[name], **rest} for kind, name in ROCPROF_COMPUTE.items() if name in of]


def flops(row: Row) -> tuple[float | None, str]:
    """Return (FLOPs executed, their source): ``counted`` in the tensor cores, ``padded rows`` or ``useful rows``."""
    counted = sum(float(row[c]) for c in OPERATIONS if not traffic.absent(row.get(c)))
    if counted:
        return counted, "counted"
    sizes = [row.get(k) for k in ("M", "K", "N", "E", "topk")]
    if any(traffic.absent(s) for s in sizes):
        return None, "not known"
    M, K, N, E, topk = (int(s) for s in sizes if s is not None)
    problem = MoEProblem(M, K, N, E, topk)
    part: Part = "w13" if row["part"] == "w13" else "w2"
    if traffic.absent(row.get("rows_padded")):
        return float(problem.useful_flops(part)), "useful rows"
    return float(problem.executed_flops(int(row["rows_padded"]), part)), "padded rows"


def time_us(row: Row) -> float:
    """Return the time of a kernel in a timeline if one was joined, else under ncu; 0 if there is none."""
    known = (row.get(c) for c in ("timeline_us", "duration_us"))
    return next((float(v) for v in known if v is not None and not traffic.absent(v)), 0.0)


def _l2_bytes(row: Row, l2_bytes: float | None) -> tuple[float | None, str]:
    if not traffic.absent(row.get("l2_sm_bytes")):
        return float(row["l2_sm_bytes"]), "counted"
    modelled = traffic.of(row, l2_bytes)
    if modelled:
        return modelled["l2_model_bytes"], "modelled from the tiles"
    return None, "not known"


def _dram_bytes(row: Row, l2_bytes: float | None) -> tuple[float | None, str]:
    counted = traffic.total(row, "dram_read_bytes", "dram_write_bytes")
    if counted is not None:
        return counted, "counted"
    modelled = traffic.of(row, l2_bytes)
    if modelled:
        return modelled["dram_model_bytes"], "modelled from the tiles"
    fewest = traffic.minimum(row)
    return fewest, "not known" if fewest is None else "fewest possible"


def points(table: pd.DataFrame, l2_bytes: float | None = None) -> pd.DataFrame:
    """Return one point per GEMM and level of memory; without counters, bytes come from a model and are marked so.

    Returns:
        Columns series, backend, M, stage, tile, level (dram, l2), flop, flop_from (counted, padded rows, useful rows),
        bytes, bytes_from (counted, modelled from the tiles, fewest possible), flop_per_byte, tflop_per_s.
    """
    rows = []
    for row in table.to_dict("records"):
        flop, flop_from = flops(row)
        for level, find in (("dram", _dram_bytes), ("l2", _l2_bytes)):
            size, size_from = find(row, l2_bytes)
            if not flop or not size or not time_us(row):
                continue
            own: dict[str, Any] = {k: row.get(k) for k in ("series", "backend", "M", "stage", "tile")}
            own |= {"level": level, "flop": flop, "flop_from": flop_from, "bytes": size, "bytes_from": size_from}
            rate = {"flop_per_byte": flop / size, "tflop_per_s": flop / time_us(row) / 1e6}
            rows.append(own | rate)
    return pd.DataFrame(rows, columns=list(POINT)).convert_dtypes()


POINT = (
    *("series", "backend", "M", "stage", "tile", "level", "flop", "flop_from", "bytes", "bytes_from"),
    *("flop_per_byte", "tflop_per_s"),
)


def ceilings(table: pd.DataFrame, known: pd.DataFrame, l2_bytes: float | None = None) -> pd.DataFrame:
    """Return the time that each roof alone would cost a GEMM, and how far the GEMM is from the largest of these times.

    Returns:
        Columns series, M, stage, tile, duration_us (the timeline's where there is one), dram_us, l2_us, tensor_us (NA
        without that roof or the bytes), floor_us (the largest of them), binding (its name), lost_us (time above the
        floor), pct_of_floor (100 = no time lost, more = a wrong roof), dram_bytes_from, l2_bytes_from, flop_from.
    """
    rows = []
    for row in table.to_dict("records"):
        time = time_us(row)
        if not time:
            continue
        out: dict[str, Any] = {k: row.get(k) for k in ("series", "M", "stage", "tile")} | {"duration_us": time}
        for kind, (amount, source) in _amounts(row, l2_bytes).items():
            out["flop_from" if kind == "tensor" else f"{kind}_bytes_from"] = source
            if (least := floor_us(row, known, kind, amount)) is not None:
                out[f"{kind}_us"] = least
        costs = {kind: out[f"{kind}_us"] for kind in (*LEVELS, "tensor") if f"{kind}_us" in out}
        if costs:
            binding = max(costs, key=lambda kind: costs[kind])
            floor = costs[binding]
            out |= {"floor_us": floor, "binding": binding, "lost_us": time - floor}
            out["pct_of_floor"] = 100 * floor / time
        rows.append(out)
    return pd.DataFrame(rows, columns=list(CEILING)).convert_dtypes()


CEILING = (
    *("series", "M", "stage", "tile", "duration_us", "dram_us", "l2_us", "tensor_us", "floor_us", "binding"),
    *("lost_us", "pct_of_floor", "dram_bytes_from", "l2_bytes_from", "flop_from"),
)


def _amounts(row: Row, l2_bytes: float | None) -> dict[str, tuple[float | None, str]]:
    return {"dram": _dram_bytes(row, l2_bytes), "l2": _l2_bytes(row, l2_bytes), "tensor": flops(row)}


def floor_us(row: Row, known: pd.DataFrame, kind: str, amount: float | None) -> float | None:
    """Return the time that a roof alone costs; None without the roof or the amount (bytes or FLOPs).

    Products in fp8 have a roof of their own.
    """
    fp8 = kind == "tensor" and str(row.get("format")).startswith("fp8")
    roof = peak(known, "tensor fp8" if fp8 else kind)
    return amount / roof * 1e6 if amount and roof else None


def share_pct(row: Row, known: pd.DataFrame, kind: str) -> float | None:
    """Return the share of a roof that a kernel reaches, from what was counted; None if that or the roof is not known.

    FLOPs of padded rows are used where the tensor cores' own were not counted. More than 100 means a wrong roof.
    """
    amount, source = _amounts(row, None)[kind]
    time = time_us(row)
    least = floor_us(row, known, kind, amount) if source in ("counted", "padded rows") and time else None
    return None if least is None else 100 * least / time
