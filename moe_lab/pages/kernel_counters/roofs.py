# SPDX-License-Identifier: Apache-2.0
"""How near the kernels come to the roofs of their GPU, and which roofs they exceed, as sentences."""

from typing import Any

import pandas as pd

from moe_lab.analysis.phases import rows_of
from moe_lab.pages.kernel_counters.limiters import which
from moe_lab.pages.kernel_counters.tables import NAMES
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, each, number, percent

_FLOORS = "series tile M stage duration_us dram_us l2_us tensor_us pct_of_floor"


def ceilings(costs: pd.DataFrame) -> Finding | None:
    """Say which kernels are closest to and farthest from the highest of their roofs."""
    known = costs.dropna(subset="pct_of_floor")
    if known.empty:
        return None
    # A single kernel is both the closest and the farthest: `ends[: len(known)]` takes it once.
    ends: list[Any] = [*rows_of(known.nlargest(1, "pct_of_floor")), *rows_of(known.nsmallest(1, "pct_of_floor"))]
    parts = [
        f"{which(r)} takes {number(r.duration_us)}{NBSP}µs where the {NAMES[r.binding]} "
        f"roof alone asks for {number(r.floor_us)} ({percent(r.pct_of_floor)})"
        for r in ends[: len(known)]
    ]
    said = [f"closest, {parts[0]}", *(f"farthest, {p}" for p in parts[1:])]
    return each("Time against the roofs", said, findings.rows(ends[: len(known)], _FLOORS))


def over(costs: pd.DataFrame, roofs: pd.DataFrame) -> list[Finding | None]:
    """Say which kernels exceed a roof, and which of them exceed even its fastest repetition, so that it is wrong.

    A roof is what the GPU can sustain; for a moment, until the power cap sets in, it can do more.
    """
    wrong, fast, above, below = [], [], [costs.head(0)], [costs.head(0)]  # no rows, for concat to have the columns
    for kind, own in costs[(costs["pct_of_floor"] > 100).fillna(False)].groupby("binding", sort=False):
        roof: Any = next(rows_of(roofs[roofs["kind"] == kind]))
        # The fastest repetition, in percent of the roof.
        most = 100 if pd.isna(roof.high) else 100 * float(roof.high) / float(roof.value)
        beyond = own["pct_of_floor"] > most
        wrong += _over(own[beyond], roof)
        fast += _over(own[~beyond], roof)
        above.append(own[beyond])
        below.append(own[~beyond])
    about = "Above what the card sustains, below its fastest repetition, so no wrong bound"
    return [
        each("Wrong bound", wrong, findings.rows(pd.concat(above), _FLOORS), "problem"),
        each(about, fast, findings.rows(pd.concat(below), _FLOORS), "caution"),
    ]


def _over(own: pd.DataFrame, roof: Any) -> list[str]:
    tera, unit = 1e-12, "TB/s" if roof.kind in ("dram", "l2") else "TFLOP/s"
    ends = [f"{value * tera:,.4g}" for value in (roof.value, roof.low, roof.high) if not pd.isna(value)]
    spread = f", its spread {ends[1]} to {ends[2]}" if len(ends) == 3 else ""
    return [
        f"{which(most)} reaches {percent(most.pct_of_floor)} of the {NAMES[str(roof.kind)]} roof "
        f"(the most of {len(own)} that exceed it; the roof is {ends[0]}{NBSP}{unit}{spread})"
        for most in rows_of(own.nlargest(1, "pct_of_floor"))
    ]
