"""What can limit a kernel: one object a limiter, in the order in which they are tried and told."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from moe_lab.analysis import traffic

NEAR_PCT = {"DRAM": 65.0, "on-chip memory": 70.0, "tensor pipe": 70.0}  # of DRAM, streaming reaches 80 to 92 %
FULL_PCT = 60.0  # nothing is busy below this
Row = Mapping[Hashable, Any]
Units = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """One limiter.

    Attributes:
        name: what a table calls it.
        fires: whether it limits a kernel; takes its row of ``analysis.gemms.gemms`` and the share of each unit that was
            counted, in percent.
        says: what a kernel then is; ``{where}`` is the on-chip memory, ``{compute}`` the share of the compute roof.
        helps: what helps against it.
    """

    name: str
    fires: Callable[[Row, Units], bool]
    says: str
    helps: str


def value(row: Row, column: str) -> float | None:
    """Return a number of a row; None where it was not counted."""
    return None if traffic.absent(row.get(column)) else float(row[column])


def _busiest(row: Row, units: Units) -> tuple[str, float]:
    """Return the unit with the largest share, and the largest share of all, which ncu may know of a memory alone."""
    unit = max(units, key=lambda name: units[name])
    return unit, max(units[unit], value(row, "mem_throughput_pct") or 0)


def _near(row: Row, units: Units, unit: str) -> bool:
    return _busiest(row, units)[0] == unit and units[unit] >= NEAR_PCT[unit]


def _few_blocks(row: Row, units: Units) -> bool:
    """Return whether fewer blocks have work than there are SMs, and nothing is busy."""
    working = value(row, "tiles_computed")
    working = value(row, "grid_blocks") if working is None else working
    count = value(row, "sm_count")
    few = working is not None and count is not None and working < count
    return few and _busiest(row, units)[1] < FULL_PCT


def _idle(row: Row, units: Units) -> bool:
    return max(_busiest(row, units)[1], value(row, "l2_throughput_pct") or 0) < FULL_PCT


def _none_near(row: Row, units: Units) -> bool:
    return not any(_near(row, units, unit) for unit in units)


RULES = [
    Rule(
        "on-chip memory",
        partial(_near, unit="on-chip memory"),
        "limited by on-chip memory traffic ({where}) at {compute} of the compute roof",
        "larger tiles, which read each row and each weight less often",
    ),
    Rule(
        "too few blocks",
        _few_blocks,
        "limited by too few blocks",
        "smaller tiles, or a split of the depth, that give every SM work",
    ),
    Rule("latency", _idle, "limited by latency", "more bytes in flight (stages, blocks on an SM) or fewer waits"),
    Rule(
        "nothing alone",
        _none_near,
        "limited by no unit alone",
        "overlapping the units that share the time",
    ),
    Rule(
        "DRAM",
        partial(_near, unit="DRAM"),
        "bound by DRAM, near the roof",
        "fewer bytes (fewer experts hit, narrower weights), or more in flight where the share is low",
    ),
    Rule(
        "tensor pipe",
        partial(_near, unit="tensor pipe"),
        "limited by compute, not by memory",
        "less padding and a shorter start and end of the pipeline",
    ),
]
