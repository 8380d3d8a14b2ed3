# SPDX-License-Identifier: Apache-2.0
"""Ranks: which rank ran a launch, and the reports of several ranks as one table."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import parse_root

_IDS = ("range_id", "launch_range_id", "capture_range_id")


def stated(launches: Launches) -> Launches:
    """Return launches with their rank: the report's own, or what ``rank=`` in the root ranges of a process says."""
    table, own = launches.table, launches.meta.get("rank")
    by_process = _of_processes(launches.ranges) if own is None else {}
    if own is None and not by_process:
        return launches
    rank = table["process"].map(by_process) if own is None else pd.Series(own, index=table.index)
    return replace(launches, table=table.assign(rank=rank.astype("Int64")))


def _of_processes(ranges: pd.DataFrame) -> dict[int, int]:
    """Return process -> rank, without processes that name several ranks."""
    roots = ranges[ranges["name"].str.contains("|rank=", regex=False).fillna(False) & ranges["process"].notna()]
    found: dict[int, set[str]] = {}
    for process, name in roots[["process", "name"]].drop_duplicates().itertuples(index=False):
        found.setdefault(int(process), set()).add((parse_root(name) or {}).get("rank", ""))
    return {process: int(*ranks) for process, ranks in found.items() if len(ranks) == 1 and "".join(ranks).isdecimal()}


def together(parts: Sequence[Launches]) -> Launches:
    """Return the reports of several ranks as one; ids of ranges and processes are renumbered, clocks are not aligned.

    Args:
        parts: one per rank, in order; a rank that a report states itself takes precedence over its position.

    Raises:
        UserError: two are of the same rank.
    """
    tables, ranges, members, warnings, known = [], [], [], [], []
    operations = made = processes = 0
    for place, part in enumerate(parts):
        table, own, rank = part.table, part.ranges, part.table["rank"].fillna(place)
        known += rank.unique().tolist()
        ids = {column: table[column] + made for column in _IDS}
        tables.append(table.assign(**ids, process=table["process"] + processes, rank=rank))
        apart = own.assign(parent_id=own["parent_id"] + made, process=own["process"] + processes)
        ranges.append(apart.set_axis(own.index + made))
        members.append(part.memberships + pd.Series({"operation": operations, "range_id": made}))
        warnings += [f"Rank {rank.iloc[0]}: {said}" for said in part.meta.get("warnings", [])]
        operations, made = operations + len(table), made + len(own)
        used = pd.concat([tables[-1]["process"], apart["process"]]).dropna()
        processes = int(used.max()) + 1 if len(used) else processes
    if len(set(known)) < len(known):
        raise UserError("Two of the reports are of the same rank; give one report per rank.")
    warnings.append("Each rank's times count from the start of its own report: they compare within a rank only.")
    whole = pd.concat(tables, ignore_index=True), pd.concat(ranges)
    meta = parts[0].meta | {"warnings": warnings, "one_clock": False}
    return Launches(*whole, meta, pd.concat(members, ignore_index=True))
