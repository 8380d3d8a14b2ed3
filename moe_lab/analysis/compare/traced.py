# SPDX-License-Identifier: Apache-2.0
"""A capture as samples to compare: the kernel time of every instance of a root, by stage or by kernel."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis import roles
from moe_lab.analysis.gemms import point
from moe_lab.runs.attribution.columns import strings
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.attribution.tree import Tree, build
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.metrics import COUNTERS
from moe_lab.spec.ranges import EXPERTS, STAGES, parse_root, stage_of, stages_of

OTHER, TOTAL = "other", "total"
GEOMETRY = ["grid_blocks", "block_threads", "registers_per_thread", "smem_static_bytes", "smem_dynamic_bytes"]


def operations(launches: Launches, workload: Mapping[str, Any], root: str | None = None) -> pd.DataFrame:
    """Return every kernel in the roots of a capture, with what it is compared by.

    Args:
        launches: a timeline, or counters.
        workload: how the program described itself; empty = not known.
        root: as for ``breakdown``.

    Returns:
        The fields of the root's name (model, phase, M, backend ...; ``range`` if it has none), format and rank where
        known, then instance (its root), stage (``other`` if it is in none), kernel, us, ``GEOMETRY``, tile, and
        counters if there are any. In a report without ranges every launch is an instance, and stage is its role.
        ``attrs``: keys (the columns that name a root, and rank), marked (whether there are ranges), and covered_pct
        (the share of all kernel time in the roots).

    Raises:
        UserError: the expression matches no range, or there is no kernel in the roots.
    """
    tree = build(launches, root, timed=False)
    marked = bool((tree.operation_root[tree.kernel] >= 0).any())
    rows = np.flatnonzero(tree.kernel & (tree.operation_root >= 0) if marked else tree.kernel)
    if not len(rows):
        raise UserError("There is no kernel in the ranges to compare; choose others with --root.")
    counted = [m.column for m in COUNTERS if m.column in launches.table]
    table = launches.table.iloc[rows].reset_index(drop=True)
    frame = table[[*dict.fromkeys([*GEOMETRY, *counted])]].assign(
        instance=tree.operation_root[rows] if marked else rows,
        stage=(_stage_column(tree, rows) if marked else roles.column(launches, tree).iloc[rows].array),
        kernel=table["name"],
        us=table["duration_ns"].astype("Float64") / 1e3,
    )
    frame["stage"] = frame["stage"].astype("object").where(frame["stage"].notna(), OTHER)
    if marked:
        named = [tree.names[name] for name in tree.name[tree.operation_root[rows]]]
        frame = pd.concat([_keys(named, workload), frame, _tiles(named, frame["stage"], workload)], axis=1)
    if table["rank"].notna().any():
        frame["rank"] = table["rank"].astype("string")
    keys = [c for c in frame if c not in {"instance", "stage", "kernel", "us", "tile", *GEOMETRY, *counted}]
    whole = launches.table.loc[launches.table["kind"] == "kernel", "duration_ns"].sum()
    covered = 100 * table["duration_ns"].sum() / (whole or 1)
    frame.attrs = {"keys": keys, "marked": marked, "covered_pct": float(covered)}
    return frame


def _keys(named: Sequence[str], workload: Mapping[str, Any]) -> pd.DataFrame:
    """Return what the root of each operation says of the problem: model, phase, M, backend ..., one column each.

    A root that is not one of ours has only ``range``; ``format`` comes from the workload. Sizes are Int64, others text.
    """
    known = {}
    for name in dict.fromkeys(named):
        fields = parse_root(name) or {"range": name}
        stated = (point(workload, name).get("problem") or {}).get("format") or workload.get("format")
        known[name] = fields | ({"format": str(stated)} if stated else {})
    frame = pd.DataFrame.from_dict(known, orient="index", dtype="string")
    for field in frame:
        if frame[field].dropna().str.isdecimal().all():
            frame[field] = frame[field].astype("Int64")
    return frame.loc[list(named)].reset_index(drop=True)


def _tiles(named: Sequence[str], stages: "pd.Series[Any]", workload: Mapping[str, Any]) -> "pd.Series[str]":
    """Return the tile that the workload states for the GEMM of each operation's stage; NA where it states none."""
    of = {name: point(workload, name).get("tiles") or {} for name in dict.fromkeys(named)}
    parts = [next((part for part in ("w13", "w2") if part in str(stage).split("+")), "") for stage in stages]
    found = [of[name].get(part) for name, part in zip(named, parts, strict=True)]
    written = ["x".join(map(str, tile.values())) if tile else None for tile in found]
    return pd.Series(written, dtype="string", name="tile")


def _stage_column(tree: Tree, rows: Ints) -> Any:
    stage = _stages(tree)[tree.range_id[rows]]
    return strings(stage, [stage_of(name) or name for name in tree.names]).array


def _stages(tree: Tree) -> Ints:
    """Return the stage that every range is part of, an index into ``tree.names``; -1 = none: int64 [n].

    The outermost stage counts (a norm inside attention is attention), but a stage inside a range around all experts
    says more than that range.
    """
    staged = np.array([stage_of(n) is not None for n in tree.names], bool)[tree.name]
    whole = np.array([stage_of(n) == EXPERTS for n in tree.names], bool)[tree.name]
    staged &= tree.root >= 0
    found = np.full(len(tree.parent), -1, np.int64)
    for rows in tree.levels():
        above = np.where(tree.parent[rows] >= 0, found[tree.parent[rows]], -1)
        own = staged[rows] & ((above < 0) | whole[above])
        found[rows] = np.where(own, rows, above)
    return np.where(found >= 0, tree.name[found], -1)


def alike(a: pd.DataFrame, b: pd.DataFrame, by: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both sides with stages joined where one side fuses them, so that each can be compared.

    Where one has ``w13+act`` and the other ``w13`` and ``act``, both get ``w13+act``. Where one knows only of all its
    experts what the other knows of their stages, both get ``experts``. ``by`` are the keys within which stages are
    looked at.
    """
    sides = [side[[*by, "stage"]].drop_duplicates().assign(_side=n) for n, side in enumerate((a, b))]
    joined: dict[tuple[Any, ...], str] = {}
    groups: Iterable[tuple[Any, pd.DataFrame]] = pd.concat(sides).groupby(by) if by else [((), pd.concat(sides))]
    for at, part in groups:
        each = {frozenset(chain.from_iterable(map(_in_experts, own))) for _, own in part.groupby("_side")["stage"]}
        names = _joined(part["stage"].unique())
        if EXPERTS in names and len(each) > 1:
            names = {stage: EXPERTS if _in_experts(stage) else name for stage, name in names.items()}
        joined |= {(*at, stage): name for stage, name in names.items()}
    rows = [zip(*(side[column] for column in [*by, "stage"]), strict=True) for side in (a, b)]
    one, other = ([joined[row] for row in side] for side in rows)
    return a.assign(stage=one), b.assign(stage=other)


def _in_experts(stage: str) -> tuple[str, ...]:
    """Return the stages in a name if they lie in a range around all experts, as every one but the router does."""
    return () if "router" in stages_of(stage) else stages_of(stage)


def _joined(stages: Iterable[str]) -> dict[str, str]:
    """Return stage -> the fused stage that joins all that share a part with it, directly or through others."""
    groups: list[set[str]] = []
    for stage in stages:
        parts = set(stages_of(stage))
        near = [group for group in groups if group & parts]
        groups = [group for group in groups if not group & parts] + [parts.union(*near)]
    names = {part: "+".join(sorted(group, key=STAGES.index)) for group in groups for part in group}
    return {stage: names[stages_of(stage)[0]] if stages_of(stage) else stage for stage in stages}


def samples(side: pd.DataFrame, keys: list[str], own: list[str]) -> pd.DataFrame:
    """Return the time of every instance, a list a row.

    Args:
        side: ``operations``.
        keys: columns that name a root.
        own: these and what a row is of: stage, or stage and kernel.

    Returns:
        ``own``, samples (float64 [instances], µs) and time_us, their median; by stage with a row ``total`` a root.
    """
    parts = [_summed(side, own)]
    if own[len(keys) :] == ["stage"]:
        parts.append(_summed(side.assign(stage=TOTAL), own))
    return pd.concat(parts, ignore_index=True)


def _summed(side: pd.DataFrame, own: list[str]) -> pd.DataFrame:
    each = side.groupby([*own, "instance"], dropna=False, sort=False)["us"].sum(min_count=1).reset_index()
    rows = []
    for at, part in each.groupby(own, dropna=False, sort=False) if own else [((), each)]:
        times = part["us"].dropna().to_numpy(float)
        rows.append([*at, times, float(np.median(times)) if len(times) else None])
    return pd.DataFrame(rows, columns=[*own, "samples", "time_us"])


def facts(side: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return what else is known of every kernel: ``by``, stage, kernel, launches an instance, geometry and counters.

    Several values of one kernel are joined as a text; counters are medians over launches.
    """
    counted = [c for c in side if c in {m.column for m in COUNTERS}]
    rows = []
    for at, part in side.groupby([*by, "stage", "kernel"], dropna=False, sort=False):
        row = dict(zip([*by, "stage", "kernel"], at, strict=True))
        row |= {"launches": len(part) / part["instance"].nunique()}
        row |= {column: _values(part[column]) for column in [*GEOMETRY, "tile"] if column in part}
        medians = part[counted].astype("Float64").median()
        row |= {str(column): float(value) for column, value in medians.items() if not pd.isna(value)}
        rows.append(row)
    return pd.DataFrame(rows)


def _values(column: "pd.Series[Any]") -> str | None:
    found = [str(value) for value in dict.fromkeys(column.dropna())]
    return ", ".join(found[:4] + ["..."] * (len(found) > 4)) or None
