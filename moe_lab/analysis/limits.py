"""What limits an expert GEMM: one rule over its counters and the GPU's roofs, with the numbers that made it fire.

A unit's share is the larger of two: what the kernel reaches of the roof that was measured on the GPU, and what Nsight
Compute counts of the unit's theoretical peak, both over the kernel's time. The unit with the largest share is the
limiter if it is busy enough. The busiest memory is on the chip where "Memory Throughput" exceeds DRAM's share of it;
"L2 Cache Throughput" is not asked, since it counts what DRAM fills too and is near 90 % for kernels that only stream.
Tail, padding and launch gaps come on top of a limiter.
"""

import math
from typing import Any

import pandas as pd

from moe_lab.analysis import roofline, roofs, rules, traffic
from moe_lab.analysis.breakdown import UNATTRIBUTED, breakdown
from moe_lab.analysis.rules import Row
from moe_lab.analysis.rules import value as _known
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import parse_root

ON_CHIP_POINTS = 2.0  # by which the busiest memory must exceed DRAM to be another one
TAIL_PCT = 15.0
PADDING_PCT = 20.0
GAPS_PCT = 10.0
EMPTY_PCT = 30.0
NAMED_STALLS = 10  # as many as have a colour of their own
NO_ROOFS = pd.DataFrame(columns=list(roofs.COLUMNS))


def limiter(row: Row, known: pd.DataFrame = NO_ROOFS) -> str | None:
    """Return what limits a kernel: the first of ``rules.RULES`` that fires; None where too little was counted to say.

    Args:
        row: of ``analysis.gemms.gemms``.
        known: ``roofline.roofs`` of its GPU.
    """
    if _known(row, "sm_throughput_pct") is None or _known(row, "mem_throughput_pct") is None:
        return None
    found = {unit: share for unit, share in shares(row, known).items() if share is not None}
    return next((rule.name for rule in rules.RULES if rule.fires(row, found)), None)


def shares(row: Row, known: pd.DataFrame = NO_ROOFS) -> dict[str, float | None]:
    """Return the share of each unit in percent: DRAM, on-chip memory, tensor pipe; None where it was not counted.

    Args:
        row: of ``analysis.gemms.gemms``.
        known: ``roofline.roofs`` of its GPU.
    """
    of_roof = {kind: roofline.share_pct(row, known, kind) for kind in ("dram", "l2", "tensor")}
    counted, memory = _known(row, "dram_throughput_pct"), _known(row, "mem_throughput_pct")
    dram = _larger(counted, of_roof["dram"])
    beside = dram if counted is None else counted
    apart = memory is not None and beside is not None and memory > beside + ON_CHIP_POINTS
    compute = _larger(_known(row, "sm_throughput_pct"), _known(row, "tensor_pipe_pct"), of_roof["tensor"])
    return {"DRAM": dram, "on-chip memory": _larger(memory if apart else None, of_roof["l2"]), "tensor pipe": compute}


def _larger(*values: float | None) -> float | None:
    return max((v for v in values if v is not None), default=None)


def on_chip(row: Row) -> str:
    """Return which memory on the chip is the busier: ``L1`` or ``L2``; both, where neither was counted."""
    l1, l2 = _known(row, "l1_throughput_pct"), _known(row, "l2_throughput_pct")
    if l1 is None or l2 is None:
        return "L1 or L2"
    return "L1" if l1 > l2 else "L2"


def tail_pct(row: Row) -> float | None:
    """Return the share of the SMs' time that the last wave leaves idle, if every block takes the same time."""
    waves = _known(row, "working_waves")
    return None if waves is None or waves <= 1 else 100 * (1 - waves / math.ceil(waves))


def padding_pct(row: Row) -> float | None:
    """Return the rows of padding, of the useful rows."""
    padded, useful = _known(row, "rows_padded"), _known(row, "rows_useful")
    return None if padded is None or not useful else 100 * (padded / useful - 1)


def empty_pct(row: Row) -> float | None:
    """Return the blocks that were launched for the upper bound and find no tile, of all blocks."""
    empty, grid = _known(row, "blocks_empty"), _known(row, "grid_blocks")
    return None if empty is None or not grid else 100 * empty / grid


def limits(table: pd.DataFrame, known: pd.DataFrame = NO_ROOFS) -> pd.DataFrame:
    """Return what limits every GEMM, and what costs on top of it.

    Args:
        table: ``analysis.gemms.gemms``.
        known: ``roofline.roofs`` of its GPU.

    Returns:
        Columns series, backend, M, stage, part, tile, persistent, limiter, limiter_pct (the share that made it so; NA
        for a limiter that is no unit), on_chip (L1, L2; NA unless that limits), dram_pct, on_chip_pct and compute_pct
        (``shares``), memory_pct (ncu's "Memory Throughput"), l2_pct (of the measured roof of L2), tail_pct,
        padding_pct and empty_pct (NA where the rule does not fire: tail below ``TAIL_PCT`` or while DRAM limits;
        padding below ``PADDING_PCT`` or while DRAM or L2 limits, from which padding reads nothing; empty blocks below
        ``EMPTY_PCT``), stalls (the largest reasons to wait).
    """
    rows = []
    for row in table.to_dict("records"):
        found, share = limiter(row, known), shares(row, known)
        own: dict[str, Any] = {k: row.get(k) for k in ("series", "backend", "M", "stage", "tile", "persistent", "part")}
        own |= {"limiter": found, "on_chip": on_chip(row) if found == "on-chip memory" else None}
        own |= {"limiter_pct": share.get(str(found)), "dram_pct": share["DRAM"], "compute_pct": share["tensor pipe"]}
        own |= {"on_chip_pct": share["on-chip memory"], "memory_pct": row.get("mem_throughput_pct")}
        own |= {"l2_pct": roofline.share_pct(row, known, "l2"), "stalls": stalls(row)}
        rows.append(own | _extras(row, found))
    return pd.DataFrame(rows, columns=list(COLUMNS)).convert_dtypes()


COLUMNS = (
    *("series", "backend", "M", "stage", "part", "tile", "persistent", "limiter", "limiter_pct", "on_chip"),
    *("dram_pct", "on_chip_pct", "compute_pct", "memory_pct", "l2_pct", "tail_pct", "padding_pct", "empty_pct"),
    "stalls",
)


def _extras(row: Row, found: str | None) -> dict[str, float | None]:
    tail, padding, empty = tail_pct(row), padding_pct(row), empty_pct(row)
    busy = found in ("on-chip memory", "tensor pipe", "latency", "nothing alone")
    computes = busy and not (found == "on-chip memory" and on_chip(row) == "L2")
    return {
        "tail_pct": tail if tail is not None and tail >= TAIL_PCT and busy else None,
        "padding_pct": padding if padding is not None and padding >= PADDING_PCT and computes else None,
        "empty_pct": empty if empty is not None and empty >= EMPTY_PCT else None,
    }


def stalls(row: Row, most: int = 3) -> list[tuple[str, float]]:
    """Return the largest reasons for which warps waited, with their share of the warps' time in percent."""
    prefix, suffix = "stall_", "_ratio"
    names = [str(c) for c in row if str(c).startswith(prefix) and str(c).endswith(suffix)]
    known = {n[len(prefix) : -len(suffix)]: float(row[n]) for n in names if not traffic.absent(row[n])}
    whole = sum(known.values())
    waits = sorted((r for r in known if r != "selected" and known[r] > 0), key=lambda r: -known[r])
    return [(r.replace("_", " "), 100 * known[r] / whole) for r in waits[:most]]


def gaps(launches: Launches) -> pd.DataFrame:
    """Return the roots of a timeline in which the GPU idles between kernels: at least ``GAPS_PCT`` of their span.

    Returns:
        Columns series, M, span_us, gap_us, gap_pct, kernels.
    """
    table = breakdown(launches)
    roots = table[(table["depth"] == 0) & (table["path"] != UNATTRIBUTED) & (table["span_ms"] > 0)]
    rows = []
    for row in roots.to_dict("records"):
        fields, share = parse_root(str(row["name"])) or {}, 100 * row["gap_ms"] / row["span_ms"]
        if share >= GAPS_PCT:
            named = " ".join(filter(None, (fields.get("backend", row["name"]), fields.get("tiles"))))
            own: dict[str, Any] = {"series": named, "M": int(fields["M"]) if fields.get("M", "").isdecimal() else None}
            own |= {"span_us": 1e3 * row["span_ms"], "gap_us": 1e3 * row["gap_ms"], "gap_pct": share}
            rows.append(own | {"kernels": row["kernels"]})
    return pd.DataFrame(rows, columns=["series", "M", "span_us", "gap_us", "gap_pct", "kernels"])


def stall_shares(table: pd.DataFrame, stage: str, most: int = 5) -> pd.DataFrame:
    """Return what the warps of one stage wait for: columns row (series, M, GPU), reason, pct; the rest as ``other``.

    Args:
        table: ``analysis.gemms.gemms``, with a column gpu where it has rows of several.
        stage: w13 or w2.
        most: reasons by name, of one row; of all rows the ``NAMED_STALLS`` largest.
    """
    rows: list[dict[str, Any]] = []
    found = table[table["part"] == stage].sort_values(["series", "M"]).to_dict("records")
    sums = pd.DataFrame([s for row in found for s in stalls(row, most)], columns=["reason", "pct"])
    named = set(sums.groupby("reason")["pct"].sum().astype("float64").nlargest(NAMED_STALLS).index)
    for row in found:
        known = [(reason, share) for reason, share in stalls(row, most) if reason in named]
        label = ", ".join([str(row["series"]), f"M {row['M']:,}", *([str(row["gpu"])] if "gpu" in row else [])])
        rows += [{"row": label, "reason": reason, "pct": share} for reason, share in known]
        if known:
            rows.append({"row": label, "reason": "other", "pct": 100 - sum(share for _, share in known)})
    return pd.DataFrame(rows, columns=["row", "reason", "pct"])
