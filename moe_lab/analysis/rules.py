"""What can limit a kernel, and what costs on top of it: one object each, in the order in which they are tried and told.

An object holds all there is to it: when it fires, the evidence, what is said of it and what helps. Tables, findings and
pages go through ``RULES`` and ``EXTRAS`` and name none of them.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from moe_lab.analysis import traffic

FULL_PCT = 60.0  # Nsight Compute, too, calls a kernel whose units are all below this one that waits (latency)
PADDING_PCT = 20.0  # below this, other costs of the same kernels are larger
DRAM_PCT = 65.0  # kernels that stream reach 75 to 98 % in the committed captures
SM_TIME = ("tail_pct", "padding_pct")  # time of SMs, which is free where they wait for bytes or for work
Row = Mapping[Hashable, Any]
Units = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """One limiter.

    Attributes:
        name: what a table calls it.
        fires: whether it limits a kernel; takes its row of ``analysis.gemms.gemms`` and the share of each unit that was
            counted, in percent (``limits.shares``).
        says: what a kernel then is; ``{where}`` is what ``where`` returns, ``{compute}`` the share of the compute roof.
        helps: what helps against it.
        share: column with its evidence in percent, one of ``limits.shares`` or of the row; empty where it has none.
        alone: whether that share says enough, so that the other units' are not told beside it.
        where: names the part of the unit that is busy, from the row.
        hides: columns of ``EXTRAS`` that cost no time while it limits.
    """

    name: str
    fires: Callable[[Row, Units], bool]
    says: str
    helps: str
    share: str = ""
    alone: bool = False
    where: Callable[[Row], str] | None = None
    hides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extra:
    """What costs on top of a limiter.

    Attributes:
        column: of ``limits.limits``, its cost in percent.
        pct: that cost, from a row of ``analysis.gemms.gemms``; None where it is not known.
        least_pct: below this nothing is said.
        about: what a finding calls it.
        says: what the kernel does; ``{}`` is the percentage.
    """

    column: str
    pct: Callable[[Row], float | None]
    least_pct: float
    about: str
    says: str


def value(row: Row, column: str) -> float | None:
    """Return a number of a row; None where it was not counted."""
    return None if traffic.absent(row.get(column)) else float(row[column])


def _busiest(row: Row, units: Units) -> tuple[str, float]:
    """Return the unit with the largest share, and the largest share of all, which ncu may know of a memory alone."""
    unit = max(units, key=lambda name: units[name])
    return unit, max(units[unit], value(row, "mem_throughput_pct") or 0)


def _near(row: Row, units: Units, share: str, near_pct: float) -> bool:
    return _busiest(row, units)[0] == share and units[share] >= near_pct


def _unit(name: str, share: str, near_pct: float, says: str, helps: str, **more: Any) -> Rule:
    """Return the rule that a unit limits whose share is the largest and at least ``near_pct``."""
    return Rule(name, partial(_near, share=share, near_pct=near_pct), says, helps, share, **more)


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
    return not any(rule.fires(row, units) for rule in RULES if rule.share)


def on_chip(row: Row) -> str:
    """Return which memory on the chip is the busier: ``L1`` or ``L2``; both, where neither was counted."""
    l1, l2 = value(row, "l1_throughput_pct"), value(row, "l2_throughput_pct")
    if l1 is None or l2 is None:
        return "L1 or L2"
    return "L1" if l1 > l2 else "L2"


def _tail_pct(row: Row) -> float | None:
    """Return the share of the SMs' time that the last wave leaves idle, if every block takes the same time."""
    waves = value(row, "working_waves")
    return None if waves is None or waves <= 1 else 100 * (1 - waves / math.ceil(waves))


def _padding_pct(row: Row) -> float | None:
    """Return the rows of padding, of the useful rows."""
    padded, useful = value(row, "rows_padded"), value(row, "rows_useful")
    return None if padded is None or not useful else 100 * (padded / useful - 1)


def _empty_pct(row: Row) -> float | None:
    """Return the blocks that were launched for the upper bound and find no tile, of all blocks."""
    empty, grid = value(row, "blocks_empty"), value(row, "grid_blocks")
    return None if empty is None or not grid else 100 * empty / grid


# Which fires depends on the order of "too few blocks" and "latency" alone: one without work for all SMs idles too.
# The rest of the order is the one in which sentences tell them: what one can do most about comes first.
RULES = [
    _unit(
        "on-chip memory",
        "on_chip_pct",
        # In the committed captures it is 74 % and more where larger tiles help.
        70.0,
        "limited by on-chip memory traffic ({where}) at {compute} of the compute roof",
        "larger tiles, which read each row and each weight less often",
        where=on_chip,
    ),
    Rule(
        "too few blocks",
        _few_blocks,
        "limited by too few blocks",
        "smaller tiles, or a split of the depth, that give every SM work",
        hides=SM_TIME,
    ),
    Rule("latency", _idle, "limited by latency", "more bytes in flight (stages, blocks on an SM) or fewer waits"),
    Rule(
        "nothing alone",
        _none_near,
        "limited by no unit alone",
        "overlapping the units that share the time",
    ),
    _unit(
        "DRAM",
        "dram_pct",
        DRAM_PCT,
        "bound by DRAM, near the roof",
        "fewer bytes (fewer experts hit, narrower weights), or more in flight where the share is low",
        alone=True,
        hides=SM_TIME,
    ),
    _unit(
        "tensor pipe",
        "compute_pct",
        70.0,
        "limited by compute, not by memory",
        "less padding and a shorter start and end of the pipeline",
    ),
]
EXTRAS = [
    Extra(
        "tail_pct",
        _tail_pct,
        15.0,
        "Tail wave",
        "leaves {} of the SMs' time idle in its last wave; whole waves of blocks would not",
    ),
    Extra(
        "padding_pct",
        _padding_pct,
        PADDING_PCT,
        "Padding",
        "computes {} more rows than are useful; fewer rows a tile save them",
    ),
    Extra(
        "empty_pct",
        _empty_pct,
        30.0,
        "Empty blocks",
        "launches {} of its blocks for nothing: the grid is sized for the most padding",
    ),
]
