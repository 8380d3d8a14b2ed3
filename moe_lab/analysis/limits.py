# SPDX-License-Identifier: Apache-2.0
"""What limits an expert GEMM: one rule over its counters and the GPU's roofs, with the numbers that made it fire.

A unit's share is the larger of two: what the kernel reaches of the roof measured on the GPU, and what Nsight Compute
counts of the unit's theoretical peak, both over the kernel's time. The unit with the largest share is the limiter if
it is busy enough. The busiest memory is on the chip if "Memory Throughput" exceeds DRAM's share of it. "L2 Cache
Throughput" is not used, because it also counts what DRAM fills and is near 90 % for kernels that only stream. Tail,
padding and launch gaps come on top of a limiter.

In every function here ``table`` is ``analysis.gemms.gemms`` and ``row`` one of its rows; ``known`` is
``roofline.roofs`` of its GPU.
"""

from typing import Any

import pandas as pd

from moe_lab.analysis import counters, roofline, roofs, rules
from moe_lab.analysis.breakdown import UNATTRIBUTED, breakdown
from moe_lab.analysis.rules import Row, Rule, value
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import parse_root

ON_CHIP_POINTS = 2.0  # percentage points by which the busiest memory must exceed DRAM to be another memory
GAPS_PCT = 10.0  # of a span; smaller gaps are the launch latency of any stream of kernels
NAMED_STALLS = 10  # as many as there are colours
NO_ROOFS = pd.DataFrame(columns=list(roofs.COLUMNS))


def limiter(row: Row, known: pd.DataFrame = NO_ROOFS) -> str | None:
    """Return what limits a kernel: the first of ``rules.RULES`` that fires; None if too little was counted."""
    rule = _rule(row, shares(row, known))
    return rule.name if rule else None


def _rule(row: Row, of_units: dict[str, float | None]) -> Rule | None:
    if value(row, "sm_throughput_pct") is None or value(row, "mem_throughput_pct") is None:
        return None
    found = {column: share for column, share in of_units.items() if share is not None}
    return next((rule for rule in rules.RULES if rule.fires(row, found)), None)


def shares(row: Row, known: pd.DataFrame = NO_ROOFS) -> dict[str, float | None]:
    """Return the share of each unit in percent; None if it was not counted.

    Returns:
        dram_pct, on_chip_pct (the busiest memory on the chip), compute_pct (the tensor pipe).
    """
    of_roof = {kind: roofline.share_pct(row, known, kind) for kind in ("dram", "l2", "tensor")}
    counted, memory = value(row, "dram_throughput_pct"), value(row, "mem_throughput_pct")
    dram = _larger(counted, of_roof["dram"])
    beside = dram if counted is None else counted
    # "Memory Throughput" is the largest over all memories, including DRAM: on the chip is only what exceeds DRAM.
    apart = memory is not None and beside is not None and memory > beside + ON_CHIP_POINTS
    compute = _larger(value(row, "sm_throughput_pct"), value(row, "tensor_pipe_pct"), of_roof["tensor"])
    on_chip = _larger(memory if apart else None, of_roof["l2"])
    return {
        "dram_pct": dram,
        "on_chip_pct": on_chip,
        "compute_pct": compute,
    }  # of equal shares the first counts as the busiest


def _larger(*values: float | None) -> float | None:
    return max((v for v in values if v is not None), default=None)


def limits(table: pd.DataFrame, known: pd.DataFrame = NO_ROOFS) -> pd.DataFrame:
    """Return what limits every GEMM, and what costs on top of it.

    Returns:
        Columns series, backend, M, stage, part, tile, persistent, limiter, limiter_pct (``Rule.share``; NA if the rule
        has none), on_chip (``Rule.where``: L1, L2), dram_pct, on_chip_pct and compute_pct (``shares``), memory_pct
        (ncu's "Memory Throughput"), l2_pct (of the measured roof of L2), stalls (the largest stall reasons), and a
        column for each of ``rules.EXTRAS``, NA where its cost is small or hidden by the limiter.
    """
    rows = []
    for row in table.to_dict("records"):
        of_units = shares(row, known)
        rule = _rule(row, of_units)
        own: dict[str, Any] = {k: row.get(k) for k in ("series", "backend", "M", "stage", "tile", "persistent", "part")}
        own |= of_units | _evidence(row, rule, of_units)
        own |= {"memory_pct": row.get("mem_throughput_pct"), "l2_pct": roofline.share_pct(row, known, "l2")}
        rows.append(own | {"stalls": stalls(row)} | _extras(row, rule))
    return pd.DataFrame(rows, columns=[*COLUMNS, *(extra.column for extra in rules.EXTRAS)]).convert_dtypes()


def beside(gemms: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the GEMMs with what limits their time; ``found`` is ``limits`` of them, in the same order."""
    own = ["limiter", "limiter_pct", "dram_pct", "on_chip_pct", "compute_pct", "l2_pct"]
    # The limiter of `gemms` is that of the occupancy.
    return gemms.drop(columns="limiter", errors="ignore").copy().assign(**{c: found[c].to_numpy() for c in own})


COLUMNS = (
    *("series", "backend", "M", "stage", "part", "tile", "persistent", "limiter", "limiter_pct", "on_chip"),
    *("dram_pct", "on_chip_pct", "compute_pct", "memory_pct", "l2_pct", "stalls"),
)


def _evidence(row: Row, rule: Rule | None, of_units: dict[str, float | None]) -> dict[str, Any]:
    if rule is None:
        return {"limiter": None, "limiter_pct": None, "on_chip": None}
    share = of_units[rule.share] if rule.share in of_units else value(row, rule.share)
    return {"limiter": rule.name, "limiter_pct": share, "on_chip": rule.where(row) if rule.where else None}


def _extras(row: Row, rule: Rule | None) -> dict[str, float | None]:
    hides = set(rule.hides if rule else rules.SM_TIME)
    if rule and rule.where and rule.where(row) == "L2":
        hides.add("padding_pct")  # padding rows are masked and read nothing from L2
    costs = {extra: extra.pct(row) for extra in rules.EXTRAS if extra.column not in hides}
    return {extra.column: cost for extra, cost in costs.items() if cost is not None and cost >= extra.least_pct}


def stalls(row: Row, most: int = 3) -> list[tuple[str, float]]:
    """Return the largest stall reasons of warps, with their share of the warps' time in percent."""
    return [(reason.replace("_", " "), pct) for reason, pct in counters.waits(row, most)]


def gaps(launches: Launches) -> pd.DataFrame:
    """Return the roots of a timeline in which the GPU idles between kernels for at least ``GAPS_PCT`` of their span.

    Returns:
        Columns series, M, span_us, gap_us, gap_pct, kernels.
    """
    table = breakdown(launches, roles=False)
    roots = table[(table["depth"] == 0) & (table["path"] != UNATTRIBUTED) & (table["span_ms"] > 0)]
    roots = roots.assign(gap_pct=100 * roots["gap_ms"] / roots["span_ms"])
    roots = roots[roots["gap_pct"] >= GAPS_PCT].reset_index(drop=True)
    fields = [parse_root(str(name)) or {"backend": str(name)} for name in roots["name"]]
    named = [" ".join(filter(None, (f.get("backend"), f.get("tiles")))) for f in fields]
    sizes = pd.Series([int(f["M"]) if f.get("M", "").isdecimal() else None for f in fields], dtype=object)
    out = roots.assign(series=named, M=sizes, span_us=1e3 * roots["span_ms"], gap_us=1e3 * roots["gap_ms"])
    return out[["series", "M", "span_us", "gap_us", "gap_pct", "kernels"]]


def stall_shares(table: pd.DataFrame, stage: str, most: int = 5) -> pd.DataFrame:
    """Return what the warps of one stage wait for: columns row (series, M, GPU), reason, pct; the rest is ``other``.

    At most ``most`` reasons per row are named, and over all rows the ``NAMED_STALLS`` largest.
    """
    found = table[table["part"] == stage].sort_values(["series", "M"]).to_dict("records")
    rows = [{"row": _label(row), "reason": reason, "pct": pct} for row in found for reason, pct in stalls(row, most)]
    told = pd.DataFrame(rows, columns=["row", "reason", "pct"])
    named = told.astype({"pct": float}).groupby("reason")["pct"].sum().nlargest(NAMED_STALLS).index
    told = told[told["reason"].isin(named)]
    rest = 100 - told.groupby("row", sort=False)["pct"].sum()
    out = pd.concat([told, rest.reset_index().assign(reason="other")], ignore_index=True)
    # By first appearance: the rest of each row was added at the end.
    return out.sort_values("row", key=lambda r: pd.factorize(r)[0], kind="stable", ignore_index=True)


def _label(row: Row) -> str:
    return ", ".join([str(row["series"]), f"M {row['M']:,}", *([str(row["gpu"])] if "gpu" in row else [])])
