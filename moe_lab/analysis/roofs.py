# SPDX-License-Identifier: Apache-2.0
"""What a GPU can do at most: one set of roofs per GPU, from the benchmarks that measured them, for every page.

The value of a roof is from the newest benchmark on that GPU that measured it; its spread is over all of them. If a
kernel exceeds a roof, the roof is wrong, not the kernel, and pages mark it. Where nothing was measured, the theoretical
peak is used, if the GPU's clocks are known, and is called so.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from moe_lab.runs import Run

COLUMNS = ("kind", "value", "low", "high", "repetitions", "how", "run", "runs", "measured")
# kind -> names in a benchmark's ``measured``; benchmarks with the first name take precedence over those without it.
MEASURED: dict[str, tuple[str, ...]] = {
    "dram": ("read_bytes_per_s", "copy_bytes_per_s"),
    "l2": ("l2_read_bytes_per_s",),
    "tensor": ("bf16_flops_per_s", "matmul_flops_per_s"),
    "tensor fp8": ("fp8_flops_per_s",),
}
# How, and how often, older benchmarks measured, which do not say so themselves.
BEFORE = {
    "read_bytes_per_s": ("the fastest of 10 reads of 1 GiB", 10),
    "copy_bytes_per_s": ("the fastest of 10 copies of 1 GiB, read plus written", 10),
    "matmul_flops_per_s": ("products repeated for half a second, median of its second half", None),
}
# Dense FLOPs a cycle and SM on bf16 or fp16 that sum in fp32: NVIDIA's architecture whitepapers (A100 312 TFLOP/s of
# 108 SMs at 1.41 GHz; H100 SXM 989 of 132 at 1.83; B200 2250 of 148 at 1.86). Others vary by product: not known.
TENSOR_FLOP_PER_CYCLE = {"8.0": 2048, "9.0": 4096, "10.0": 8192, "10.3": 8192}


def of_gpu(name: str | None, known: Iterable[Run]) -> pd.DataFrame:
    """Return the measured roofs of a GPU.

    Args:
        name: as manifests state it, such as ``NVIDIA H200``.
        known: benchmarks to look in.

    Returns:
        One row per kind that was measured: kind (dram, l2: bytes/s; tensor, tensor fp8: FLOP/s), value (of the newest
        benchmark), low and high (over the repetitions, where a benchmark states them, and over all benchmarks),
        repetitions (NA where not stated), how, run (whose value it is), runs (how many measured it), measured (True).
    """
    same = [r for r in known if name and (r.manifest.get("gpu") or {}).get("name") == name]
    same = sorted(same, key=lambda r: str(r.manifest.get("date") or ""), reverse=True)  # newest first, undated last
    stated = [(str(r.manifest.get("name")), of_run(r)) for r in same]
    rows = [row for kind in MEASURED if (row := _newest(kind, stated))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def of_run(run: Run) -> dict[str, dict[str, Any]]:
    """Return the roofs that a benchmark measured: name -> value, low, high, repetitions and how."""
    gpu, measured = run.manifest.get("gpu"), run.manifest.get("measured")
    found = measured.get("roofs") if isinstance(measured, Mapping) else None
    given = {**(gpu if isinstance(gpu, Mapping) else {}), **(found if isinstance(found, Mapping) else {})}
    spread = dict(given["spread"]) if isinstance(given.get("spread"), Mapping) else {}
    dtype = str(given.get("matmul_dtype", "bfloat16"))
    # A product in another dtype is no roof of bf16; in fp8 it is one of its own.
    if dtype not in ("bfloat16", "float16"):
        for of in (given, spread):
            product = of.pop("matmul_flops_per_s", None)
            if dtype.startswith("float8_e4m3") and product is not None:
                of["fp8_flops_per_s"] = product
    names = [name for of in MEASURED.values() for name in of if name in given]
    return {name: row for name in names if (row := _stated(name, given[name], spread.get(name)))}


def _stated(name: str, value: Any, spread: Any) -> dict[str, Any] | None:
    """Return one roof with the spread that the benchmark states; None if the value is not a positive number."""
    how, repetitions = BEFORE.get(name, ("", None))
    row = spread if isinstance(spread, Mapping) else {"repetitions": repetitions, "how": how}
    number = _number(value)
    if number is None:
        return None
    low, high = (_number(row.get(key)) or number for key in ("low", "high"))
    return {"value": number, "low": low, "high": high, "repetitions": row.get("repetitions"), "how": row.get("how")}


def _number(value: Any) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if right else None


def _newest(kind: str, stated: list[tuple[str, dict[str, dict[str, Any]]]]) -> dict[str, Any] | None:
    """Return the row of one kind: from benchmarks with its first name, else from those with another."""
    best = [pair for pair in stated if MEASURED[kind][0] in pair[1]]
    found = [(run, one) for run, roofs in best or stated if (one := of_kind(roofs, kind))]
    if not found:
        return None
    run, first = found[0]
    ends = {"low": min(r["low"] for _, r in found), "high": max(r["high"] for _, r in found)}
    return {"kind": kind, **first, **ends, "run": run, "runs": len(found), "measured": True}


def of_kind(roofs: dict[str, dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """Return the roof of a kind among those of one benchmark; for DRAM the larger of reading and copying."""
    found = [roofs[name] for name in MEASURED[kind] if name in roofs]
    return max(found, key=lambda r: float(r["value"])) if kind == "dram" and found else next(iter(found), None)


def value(known: pd.DataFrame, kind: str) -> float | None:
    """Return the value of a roof; None if it is not known."""
    rows = known[known["kind"] == kind]
    return float(rows["value"].iloc[0]) if len(rows) else None


def with_peaks(known: pd.DataFrame, gpu: Mapping[str, Any]) -> pd.DataFrame:
    """Return the roofs and, for kinds that were not measured, the theoretical peak (measured: False).

    Args:
        known: ``of_gpu``.
        gpu: sm_count, compute_capability, sm_clock_khz and memory_bandwidth_bytes_per_s, those that are known.
    """
    rows = [row for row in _peaks(gpu) if row["kind"] not in set(known["kind"])]
    return pd.DataFrame([*known.to_dict("records"), *rows], columns=list(COLUMNS))


def _peaks(gpu: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if gpu.get("memory_bandwidth_bytes_per_s"):
        yield _peak("dram", float(gpu["memory_bandwidth_bytes_per_s"]), "bus width x memory clock")
    cycle = TENSOR_FLOP_PER_CYCLE.get(str(gpu.get("compute_capability")))
    if cycle and gpu.get("sm_count") and gpu.get("sm_clock_khz"):
        count, clock = int(gpu["sm_count"]), float(gpu["sm_clock_khz"]) * 1e3
        how = f"{count} SMs x {cycle} dense FLOP a cycle x {clock / 1e9:.2f} GHz"
        yield _peak("tensor", count * cycle * clock, how)


def _peak(kind: str, amount: float, how: str) -> dict[str, Any]:
    rest = {"low": None, "high": None, "repetitions": None, "run": None, "runs": 0, "measured": False}
    return {"kind": kind, "value": amount, "how": how, **rest}
