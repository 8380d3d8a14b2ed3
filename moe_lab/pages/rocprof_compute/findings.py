# SPDX-License-Identifier: Apache-2.0
"""What the counters in AMD runs say, as sentences rendered from their tables."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import amd
from moe_lab.analysis.amd import memory as amd_memory
from moe_lab.analysis.amd.runs import Counted
from moe_lab.analysis.phases import rows_of
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, caution, number, percent
from moe_lab.spec import published

FILL_PCT = 80.0  # of the dies; a grid that fills less leaves them idle for longer than other costs of a launch


def all_of(shown: Sequence[Counted]) -> list[Finding | None]:
    """Say what the first kernel of each run does, and which figures are published ones; the first is the headline."""
    return [
        *(kernel(one) for one in shown),
        _theirs(shown),
        *(waiting(one) for one in shown),
        *(memory(one) for one in shown),
        *(dies(one) for one in shown),
        *(missing(one) for one in shown),
        *(caution(f"in {one.name}, {w[:1].lower()}{w[1:]}") for one in shown for w in one.launches.meta["warnings"]),
    ]


def _theirs(shown: Sequence[Counted]) -> Finding:
    table = published.align_amd().set_index("kernel")["cycles_k"]
    first, last = table.iloc[0], table.iloc[-1]
    said = (
        f"in align & sort on AMD, the earlier one-block kernel takes {number(first)}{NBSP}k cycles and the multi-block "
        f"one {number(last)}{NBSP}k; the multi-block design is faster by {published.ALIGN_AMD.also['speedups']}"
    )
    if shown:
        return Finding("Published, not measured here", f"{said}.")
    return Finding(
        "Only published figures are shown, because no AMD run is in profiles/ and none was given",
        f"{said}.",
        short="No AMD run is in profiles/ and none was given: only published counters of align & sort are shown.",
        change="Give `folders` a workload folder of rocprof-compute, or keep one with `moe-lab import FOLDER`.",
    )


def kernel(one: Counted) -> Finding:
    """Say how the kernel that takes most time uses the GPU."""
    row = {str(k): v for k, v in amd.kernels(one.launches, 1).iloc[0].to_dict().items()}
    cus = one.launches.meta["machine"].get("cu_per_gpu")
    parts = [f"takes {number(row['kernel_cycles'] / 1e3)}{NBSP}k cycles"] if _known(row, "kernel_cycles") else []
    if _known(row, "active_cus"):
        parts.append(f"keeps {row['active_cus']:.0f}{f' of {cus:.0f}' if cus else ''} CUs active")
    if _known(row, "vl1d_hit_pct"):
        parts.append(f"hits vL1D in {percent(row['vl1d_hit_pct'])} of its requests")
    if _known(row, "vl1d_coalescing_pct"):
        parts.append(f"coalesces {percent(row['vl1d_coalescing_pct'])} of the best case")
    # A run may be named after its GPU, which is then not said twice.
    where = one.gpu if one.gpu == one.name else f"{one.gpu} ({one.name})"
    told = findings.rows([row], "name launches kernel_cycles active_cus vl1d_hit_pct vl1d_coalescing_pct")
    return Finding("", f"On {where}, {row['name']} {', '.join(parts) or 'has no known metric'}.", told)


def waiting(one: Counted) -> Finding | None:
    """Say what the memory path of the first kernel waits for most."""
    table = amd.stalls(one.launches, limit=1)
    own = table[(table["kernel"] == table["kernel"].iloc[0]) & (table["group"] == "stall")].dropna(subset="value")
    top = own[own["value"] > 0].nlargest(2, "value")
    if top.empty:
        return None
    said = [f"{r.label} in {percent(r.value)} of {r.of}" for r in rows_of(top)]
    return Finding(f"Waiting in {one.name}", f"mostly, {' and '.join(said)}.", findings.rows(top, "label value of"))


def memory(one: Counted) -> Finding | None:
    """Say what the first kernel moves at each level."""
    table = amd_memory.traffic(one.launches, 1)
    own = table[(table["kernel"] == table["kernel"].iloc[0]) & (table["bytes"] > 0).fillna(False)]
    moved = []
    for row in rows_of(own):
        rate = "" if pd.isna(row.gb_per_s) else f" ({number(row.gb_per_s)}{NBSP}GB/s)"
        moved.append(f"{number(row.bytes / 1e6)}{NBSP}MB at {row.level}{rate}")
    told = findings.rows(own, "level bytes hit_pct gb_per_s")
    return Finding(f"Memory in {one.name}", f"one launch moves {', '.join(moved)}.", told) if moved else None


def dies(one: Counted) -> Finding | None:
    """Say how well grids fill the dies, if there are several."""
    table = amd.fills(one.launches)
    if table.empty:
        return None
    worst = table.sort_values("fill_pct", kind="stable").to_dict("records")[0]
    if worst["fill_pct"] == 100:
        return Finding(f"Dies in {one.name}", f"every grid is a multiple of the {worst['xcds']} dies.")
    return Finding(
        f"Dies in {one.name}",
        f"{worst['name']} has {worst['grid_blocks']:,} work-groups for {worst['xcds']} dies, "
        f"{worst['most']} on the fullest, which fills {percent(worst['fill_pct'])} of them.",
        findings.rows(table, "name grid_blocks launches xcds most least fill_pct"),
        "problem" if worst["fill_pct"] < FILL_PCT else "normal",
    )


def missing(one: Counted) -> Finding | None:
    """Say how many metrics could not be computed; they are shown as missing, never as 0."""
    table = amd.metrics(one.launches)
    lost = table[table["value"].isna()].drop_duplicates("metric")
    total = table["metric"].nunique()
    if lost.empty:
        return None
    some = ", ".join(dict.fromkeys(lost["label"]))
    why = "for want of counters, time stamps or operations"
    said = f"{len(lost)} of {total} metrics, {why} ({some})."
    return Finding(f"Not known in {one.name}", said, findings.rows(lost, "metric label source"), "caution")


def _known(row: dict[str, Any], key: str) -> bool:
    return row.get(key) is not None and not pd.isna(row[key])
