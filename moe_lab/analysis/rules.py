# SPDX-License-Identifier: Apache-2.0
"""What can limit a kernel, and what costs time on top: one object each, in the order in which they are tried and told.

An object holds everything about itself: when it fires, its evidence, what is said about it and what helps. Tables,
findings and pages go through ``RULES`` and ``EXTRAS`` and do not name any of them.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from moe_lab.analysis import traffic

FULL_PCT = 60.0  # Nsight Compute also calls a kernel latency-bound if all of its units are below this
PADDING_PCT = 20.0  # below this, other costs of the same kernels are larger
DRAM_PCT = 65.0  # streaming kernels reach 75 to 98 % in the committed captures
SM_TIME = ("tail_pct", "padding_pct")  # costs in SM time, which is free while SMs wait for bytes or work
Row = Mapping[Hashable, Any]
Units = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """One limiter.

    Attributes:
        name: its name in tables.
        fires: whether it limits a kernel; takes its row of ``analysis.gemms.gemms`` and the share of each unit that was
            counted, in percent (``limits.shares``).
        says: how the kernel is then described; ``{where}`` is the result of ``where``, ``{compute}`` the share of the
            compute roof.
        helps: what helps against it.
        share: column with its evidence in percent, one of ``limits.shares`` or of the row; empty if there is none.
        alone: whether that share says enough without those of the other units.
        where: names the busy part of the unit, from the row.
        hides: columns of ``EXTRAS`` that cost no time under this limiter.
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
    """A cost on top of a limiter.

    Attributes:
        column: its column in ``limits.limits``, the cost in percent.
        pct: that cost, from a row of ``analysis.gemms.gemms``; None if it is not known.
        least_pct: smaller costs are not mentioned.
        about: its name in findings.
        says: what the kernel does; ``{}`` is the percentage.
    """

    column: str
    pct: Callable[[Row], float | None]
    least_pct: float
    about: str
    says: str


def value(row: Row, column: str) -> float | None:
    """Return a number of a row; None if it was not counted."""
    return None if traffic.absent(row.get(column)) else float(row[column])


def _busiest(row: Row, units: Units) -> tuple[str, float]:
    """Return (unit with the largest share, largest share of all); ncu may know the latter only for some memory."""
    unit = max(units, key=lambda name: units[name])
    return unit, max(units[unit], value(row, "mem_throughput_pct") or 0)


def _near(row: Row, units: Units, share: str, near_pct: float) -> bool:
    return _busiest(row, units)[0] == share and units[share] >= near_pct


def _unit(name: str, share: str, near_pct: float, says: str, helps: str, **more: Any) -> Rule:
    """Return a rule that fires if the unit's share is the largest of all and at least ``near_pct``."""
    return Rule(name, partial(_near, share=share, near_pct=near_pct), says, helps, share, **more)


def _few_blocks(row: Row, units: Units) -> bool:
    """Return whether fewer blocks have work than there are SMs, and no unit is busy."""
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
    """Return which memory on the chip is busier: ``L1`` or ``L2``; ``L1 or L2`` if one was not counted."""
    l1, l2 = value(row, "l1_throughput_pct"), value(row, "l2_throughput_pct")
    if l1 is None or l2 is None:
        return "L1 or L2"
    return "L1" if l1 > l2 else "L2"


def _tail_pct(row: Row) -> float | None:
    """Return the share of SM time that the last wave leaves idle, in percent, if all blocks take the same time."""
    waves = value(row, "working_waves")
    return None if waves is None or waves <= 1 else 100 * (1 - waves / math.ceil(waves))


def _padding_pct(row: Row) -> float | None:
    """Return the padding rows in percent of the useful rows."""
    padded, useful = value(row, "rows_padded"), value(row, "rows_useful")
    return None if padded is None or not useful else 100 * (padded / useful - 1)


def _empty_pct(row: Row) -> float | None:
    """Return the blocks that find no tile, in percent of all blocks; the grid is sized for the upper bound of tiles."""
    empty, grid = value(row, "blocks_empty"), value(row, "grid_blocks")
    return None if empty is None or not grid else 100 * empty / grid


# The order decides what fires only for "too few blocks" and "latency", as a kernel with too few blocks is idle, too.
# Otherwise it is the order of sentences: first what one can do most about.
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
