"""Hierarchical roofline of the expert GEMMs: FLOPs over bytes of DRAM and of L2, and the time that each roof costs.

Roofs are those measured on the same GPU (a benchmark's ``run.json`` or rocprof-compute's ``roofline.csv`` holds them),
else what follows from the counters or from the GPU's rated clocks; each says where it is from. A measured roof that a
kernel exceeds is no roof and is passed over.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import traffic
from moe_lab.problem import MoEProblem, Part

# Dense FLOPs a cycle and SM on bf16 or fp16 that sum in fp32: NVIDIA's architecture whitepapers (A100 312 TFLOP/s of
# 108 SMs at 1.41 GHz; H100 SXM 989 of 132 at 1.83; B200 2250 of 148 at 1.86). Others vary by product: not known.
TENSOR_FLOP_PER_CYCLE = {"8.0": 2048, "9.0": 4096, "10.0": 8192, "10.3": 8192}
MEASURED = {
    "dram": ("read_bytes_per_s", "copy_bytes_per_s"),
    "tensor": ("matmul_flops_per_s",),
}
ROCPROF_COMPUTE = {"dram": "HBM", "l2": "L2", "tensor": "MFMA BF16"}  # as ``amd_memory.roofs`` calls them
OPERATIONS = ("tensor_bf16_ops", "tensor_fp16_ops", "tensor_fp16_fp16_ops", "tensor_fp8_ops")
SERVED_BY_L2 = 20  # points by which L2 must be busier than DRAM for its peak to be read off a kernel
LEVELS = ("dram", "l2")
Row = Mapping[Hashable, Any]


def roofs(table: pd.DataFrame, gpu: Mapping[str, Any], measured: Iterable[runs.Run] | None = None) -> pd.DataFrame:
    """Return the roofs of a GPU: kind (dram, l2: bytes/s; tensor: FLOP/s), value, source (as text).

    Args:
        table: ``analysis.gemms.gemms``.
        gpu: name, sm_count, compute_capability, sm_clock_khz, memory_bandwidth_bytes_per_s and roofs (as
            ``amd_memory.roofs``), those that are known.
        measured: benchmarks to look for measured roofs in; by default every run in the profiles folder.
    """
    known = list(runs.list_runs() if measured is None else measured)
    best = {"dram": _fastest(table, _dram), "tensor": _fastest(table, lambda row: flops(row)[0])}
    gpu_name = gpu.get("name") or "not known"
    same = [r for r in known if (r.manifest.get("gpu") or {}).get("name") == gpu_name]
    own = [(r.manifest["name"], _stated(r)) for r in same]
    rows: list[dict[str, Any]] = []
    for kind, keys in MEASURED.items():
        said = [(facts[key], key, name) for key in keys for name, facts in own if (facts.get(key) or 0) > best[kind]]
        if said:
            value, key, name = said[0]
            what = key.removesuffix("_bytes_per_s").removesuffix("_flops_per_s")
            rows.append({"kind": kind, "value": float(value), "source": f"{what} measured on this GPU in {name}"})
        else:
            rows += _of_roofline_csv(kind, gpu, best[kind]) or _rated(kind, gpu)
    l2 = _of_roofline_csv("l2", gpu, 0) or _l2(table)
    return pd.DataFrame([*rows, *l2], columns=["kind", "value", "source"])


def _stated(run: runs.Run) -> dict[str, Any]:
    """Return what a benchmark measured of its GPU."""
    return {**(run.manifest.get("gpu") or {}), **((run.manifest.get("measured") or {}).get("roofs") or {})}


def _of_roofline_csv(kind: str, gpu: Mapping[str, Any], least: float) -> list[dict[str, Any]]:
    """Return the roof that rocprof-compute measured, in a list; empty where there is none above ``least``."""
    known = gpu.get("roofs")
    values = [] if known is None else known.loc[known["name"] == ROCPROF_COMPUTE[kind], "value"]
    source = "measured on this GPU by rocprof-compute (roofline.csv)"
    return [{"kind": kind, "value": 1e9 * v, "source": source} for v in values if 1e9 * v > least]


def peak(known: pd.DataFrame, kind: str) -> float | None:
    """Return the value of one of ``roofs``; None where it is not known."""
    values = known.loc[known["kind"] == kind, "value"]
    return float(values.iloc[0]) if len(values) else None


def _fastest(table: pd.DataFrame, amount: Any) -> float:
    timed = [r for r in table.to_dict("records") if not traffic.absent(r["duration_us"]) and r["duration_us"] > 0]
    return max((amount(r) / r["duration_us"] * 1e6 for r in timed if amount(r)), default=0.0)


def _dram(row: Row) -> float | None:
    return traffic.total(row, "dram_read_bytes", "dram_write_bytes")


def _rated(kind: str, gpu: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if kind == "dram" and gpu.get("memory_bandwidth_bytes_per_s"):
        value, source = float(gpu["memory_bandwidth_bytes_per_s"]), "rated: bus width x memory clock"
        yield {"kind": kind, "value": value, "source": source}
    cycle = TENSOR_FLOP_PER_CYCLE.get(str(gpu.get("compute_capability")))
    if kind == "tensor" and cycle and gpu.get("sm_count") and gpu.get("sm_clock_khz"):
        count, clock = int(gpu["sm_count"]), float(gpu["sm_clock_khz"]) * 1e3
        source = f"rated: {count} SMs x {cycle} dense FLOP a cycle x {clock / 1e9:.2f} GHz"
        yield {"kind": kind, "value": count * cycle * clock, "source": source}


def _l2(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give what L2 could serve the SMs by the kernel that shows most: its rate over its share of the peak."""
    most = 0.0
    for row in table.to_dict("records"):
        size = _l2_bytes(row, None)[0]
        if size is None or any(traffic.absent(row.get(f"{level}_throughput_pct")) for level in LEVELS):
            continue
        busy = float(row["l2_throughput_pct"])
        if busy >= float(row["dram_throughput_pct"]) + SERVED_BY_L2:
            most = max(most, size / row["duration_us"] * 1e6 / busy * 100)
    if most:
        source = "from the counters: bytes the SMs got a second, over the share of L2's peak that they say it is"
        yield {"kind": "l2", "value": most, "source": source}


def flops(row: Row) -> tuple[float | None, str]:
    """Return (FLOPs executed, where from): ``counted`` by the tensor cores, ``padded rows`` or ``useful rows``."""
    counted = sum(float(row[c]) for c in OPERATIONS if not traffic.absent(row.get(c)))
    if counted:
        return counted, "counted"
    sizes = [row.get(k) for k in ("M", "K", "N", "E", "topk")]
    if any(traffic.absent(s) for s in sizes):
        return None, "not known"
    M, K, N, E, topk = (int(s) for s in sizes if s is not None)
    problem, part = MoEProblem(M, K, N, E, topk), _part(row)
    if traffic.absent(row.get("rows_padded")):
        return float(problem.useful_flops(part)), "useful rows"
    return float(problem.executed_flops(int(row["rows_padded"]), part)), "padded rows"


def time_us(row: Row) -> float:
    """Return the time of a kernel in a timeline where one was joined, else under ncu; 0 where there is none."""
    known = (row.get(c) for c in ("timeline_us", "duration_us"))
    return next((float(v) for v in known if v is not None and not traffic.absent(v)), 0.0)


def _part(row: Row) -> Part:
    return "w13" if row["part"] == "w13" else "w2"


def _l2_bytes(row: Row, l2_bytes: float | None) -> tuple[float | None, str]:
    if not traffic.absent(row.get("l2_sm_bytes")):
        return float(row["l2_sm_bytes"]), "counted"
    modelled = traffic.of(row, l2_bytes)
    if modelled:
        return modelled["l2_model_bytes"], "modelled from the tiles"
    return None, "not known"


def _dram_bytes(row: Row, l2_bytes: float | None) -> tuple[float | None, str]:
    counted = _dram(row)
    if counted is not None:
        return counted, "counted"
    modelled = traffic.of(row, l2_bytes)
    if modelled:
        return modelled["dram_model_bytes"], "modelled from the tiles"
    fewest = traffic.minimum(row)
    return fewest, "not known" if fewest is None else "fewest possible"


def points(table: pd.DataFrame, l2_bytes: float | None = None) -> pd.DataFrame:
    """Return one point a GEMM and level of memory; without counters the bytes are analytic, and it says so.

    Args:
        table: ``analysis.gemms.gemms``; its counters may be NA.
        l2_bytes: size of the L2 cache; None = not known.

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
    """Return the time that each roof alone would cost a GEMM, and how far it is from the highest of them.

    Args:
        table: ``analysis.gemms.gemms``.
        known: ``roofs``.
        l2_bytes: size of the L2 cache; None = not known.

    Returns:
        Columns series, M, stage, tile, duration_us (the timeline's where there is one), dram_us, l2_us, tensor_us (NA
        without that roof or the bytes), floor_us (the largest of them), binding (its name), lost_us (duration beyond
        it), pct_of_floor (100 = no time lost), dram_bytes_from, l2_bytes_from, flop_from.
    """
    rows = []
    for row in table.to_dict("records"):
        time = time_us(row)
        if not time:
            continue
        out: dict[str, Any] = {k: row.get(k) for k in ("series", "M", "stage", "tile")} | {"duration_us": time}
        for kind, (amount, source) in _amounts(row, l2_bytes).items():
            out["flop_from" if kind == "tensor" else f"{kind}_bytes_from"] = source
            roof = (peak(known, kind) or 0) * _factor(row, kind)
            if amount and roof:
                out[f"{kind}_us"] = amount / roof * 1e6
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


def _factor(row: Row, kind: str) -> int:
    """Return how many times the bf16 roof another dtype's is."""
    return 2 if kind == "tensor" and not traffic.absent(row.get("dtype")) and str(row["dtype"]).startswith("fp8") else 1
