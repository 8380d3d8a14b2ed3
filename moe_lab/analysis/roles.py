# SPDX-License-Identifier: Apache-2.0
"""The roles of kernels that no range states: found by their names, the sizes in them, and their neighbours.

The rules are data (``spec.roles``). A stage that a range states takes precedence over any rule; only ``experts`` is
split further. A kernel of the expert GEMMs whose name fits both w13 and w2 is told apart by the sizes in its name, by
what runs before and after it on its stream (an activation lies between the two), or by its position in its layer.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from moe_lab.analysis.labels import labelled
from moe_lab.runs.attribution.columns import codes, in_lanes, strings
from moe_lab.runs.attribution.keys import Bools, Ints, distinct
from moe_lab.runs.attribution.tree import Tree, build
from moe_lab.spec.inductor import operators
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import EXPERTS, STAGES, stage_of
from moe_lab.spec.roles import Rule, builtin

# Ranges around the experts: modules called mlp, experts, block_sparse_moe, and classes of MoE modules.
MLP = r"(^|[./ ])(mlp|experts|block_sparse_moe|feed_forward|moe|\w*FusedMoE\w*|\w*SparseMoe\w*|\w*MoE)(_\d+)?$"
# Roles that may lie between the two products and say nothing about which is which.
BETWEEN = ("quant", "elementwise", "copy", "reduce", "index", "communication")
LONGEST = 8000  # characters of a name that are searched: an expression may take time of their square
# Casts and suffixes of numbers in template arguments: nsys writes ``<(int)4>``, torch.profiler ``<4u>``, ncu ``<4>``.
_MARKS = re.compile(r"\((?!deep_gemm::GemmType)[\w: ]+\)(?=-?\d)|(?<=\d)(?:ul{0,2}|l{1,2})(?=[,>])")


def apply(launches: Launches, rules: Sequence[Rule] | None = None) -> Launches:
    """Return the launches with a range, named by its role, around every kernel that matches a rule.

    Kernels in no range get one, too; kernels in a stage, attention or norm range keep that. The new ranges are
    ``synthetic``; a sentence in ``meta["warnings"]`` says how many kernels got their role this way.

    Args:
        launches: the report.
        rules: what to look for; by default the rules of every engine that has a file.
    """
    tree = build(launches)
    role, names, named = _told(launches, tree, builtin() if rules is None else rules)
    said = [*launches.meta.get("warnings", ()), _said(tree, role, named), *_compiled(launches, tree)]
    told = replace(launches, meta={**launches.meta, "warnings": said})
    return labelled(told, tree, role, names, named)


def column(launches: Launches, tree: Tree) -> "pd.Series[str]":
    """Return the role of every operation, from its range or else from the rules of every engine; NA where unknown.

    ``tree`` is that of the launches.
    """
    role, names, _ = _told(launches, tree, builtin())
    return strings(role, names)


def _said(tree: Tree, role: Ints, named: Bools) -> str:
    """Return a sentence on how many kernels have their role by rules, by a range, or not at all."""
    duration = tree.end - tree.start
    parts = (named, tree.kernel & ~named & (role >= 0), tree.kernel & (role < 0))
    share = [100 * int(duration[part].sum()) / (int(duration[tree.kernel].sum()) or 1) for part in parts]
    by_name, by_range, neither = (int(part.sum()) for part in parts)
    return (
        f"{by_name} of {int(tree.kernel.sum())} kernels ({share[0]:.2f} % of their time) have their role by name and "
        f"order, not by a range; {by_range} ({share[1]:.2f} %) lie in a stage, {neither} ({share[2]:.2f} %) have "
        "neither."
    )


def _compiled(launches: Launches, tree: Tree) -> list[str]:
    """Return a sentence on kernels of torch.compile, if there are any."""
    code, names = codes(launches.table["name"])
    own = tree.kernel & np.array([*(bool(operators(str(name))) for name in names), False], bool)[code]
    if not own.any():
        return []
    duration = tree.end - tree.start
    share = 100 * int(duration[own].sum()) / (int(duration[tree.kernel].sum()) or 1)
    return [
        f"{int(own.sum())} kernels ({share:.2f} % of the time) are of torch.compile: the operators in their names tell "
        "their roles (`moe-lab kernels --by operators` lists them); of which module they are is not recorded."
    ]


def _told(launches: Launches, tree: Tree, rules: Sequence[Rule]) -> tuple[Ints, list[str], Bools]:
    """Return (role, names, named): an index into names per operation, -1 = none, and which have it from a rule."""
    stages = [stage_of(name) or name for name in tree.names]
    names = list(dict.fromkeys([EXPERTS, *STAGES, *(rule.role for rule in rules), *stages]))
    number = {name: code for code, name in enumerate(names)}
    marked = np.full(len(tree.range_id), -1, np.int64)
    if len(tree.parent):
        inside = np.where(tree.range_id >= 0, tree.stages()[tree.range_id], -1)
        marked = np.where(tree.kernel & (inside >= 0), np.array([number[s] for s in stages])[inside], -1)
    # Operations that may still get a role: those without one, and those of which only the experts are known.
    free = tree.kernel & ((marked < 0) | (marked == number[EXPERTS]))
    found = _in_order(launches, tree, [rule for rule in rules if not rule.by_name], free, number)
    by_name, sized = _by_name(launches, [rule for rule in rules if rule.by_name], number)
    found = np.where(found >= 0, found, by_name)
    untold = free & (found == number[EXPERTS])
    role = np.where(free & (found >= 0), found, marked)
    role = np.where(untold & (sized >= 0), sized, role)
    _by_neighbours(launches, tree, role, untold, number)
    _by_place(tree, role, untold & (role == number[EXPERTS]), number)
    return role, names, free & (role != marked)


def _in_order(launches: Launches, tree: Tree, rules: Sequence[Rule], free: Bools, number: dict[str, int]) -> Ints:
    """Return the role of every operation by rules with a range, an occurrence or a neighbour: int64 [m], -1 = none."""
    role = np.full(len(tree.range_id), -1, np.int64)
    kernel, kernels = codes(launches.table["name"])
    order = np.argsort(tree.start, kind="stable")
    for rule in rules:
        owner = tree.range_id
        if rule.range:
            inner = tree.inherit(_hits(rule.range, tree.names)[tree.name]) if len(tree.name) else tree.parent
            owner = np.where(owner >= 0, inner[owner], -1) if len(inner) else owner
        placed = (owner >= 0) | (not rule.range)
        fits = free & (role < 0) & placed & _hits(rule.kernel, kernels)[kernel]
        if rule.full:
            full, fulls = codes(launches.table["name_full"])
            fits &= _hits(rule.full, [_plain(str(name)) for name in fulls])[full]
        if rule.beside is not None:
            near = tree.kernel & placed & _hits(rule.beside, kernels)[kernel]
            fits &= np.isin(owner, owner[near])
        rows = order[fits[order]]  # in order of time, for counting occurrences
        if rule.nth is not None:
            counted = pd.Series(owner[rows]).groupby(owner[rows], sort=False).cumcount().to_numpy()
            rows = rows[(counted % rule.of if rule.of else counted) == rule.nth - 1]
        role[rows] = number[rule.role]
    return role


def _hits(expression: str, names: Iterable[object]) -> Bools:
    """Return which names match an expression: bool [n + 1]; the last, for an unknown name (-1), is False."""
    return np.array([*(re.search(expression, str(name)[:LONGEST]) is not None for name in names), False], bool)


def _plain(full: str) -> str:
    """Return a full name whose template numbers are plain digits."""
    return _MARKS.sub("", full[:LONGEST])


def _by_name(launches: Launches, rules: Sequence[Rule], number: dict[str, int]) -> tuple[Ints, Ints]:
    """Return (role, sized) of every operation: its role by name, and w13 or w2 by the sizes in the name; -1 = none."""
    short, shorts = codes(launches.table["name"])
    full, fulls = codes(launches.table["name_full"])
    first, which = distinct(short, full)
    role, sized = np.full((2, len(first)), -1, np.int64)
    sizes: dict[int, tuple[int, int]] = {}
    for at, row in enumerate(first):
        name = str(shorts[short[row]])[:LONGEST] if short[row] >= 0 else ""
        whole = _plain(str(fulls[full[row]])) if full[row] >= 0 else name
        for rule in rules:
            found = re.search(rule.full, whole) if re.search(rule.kernel, name) else None
            if found:
                role[at] = number[rule.role]
                size = {key: int(text) for key, text in found.groupdict().items() if text and text.isdecimal()}
                if size.keys() == {"n", "k"}:
                    sizes[at] = (size["n"], size["k"])
                break
    # w13 is [2N, K] where w2 is [K, N].
    w13 = {at for at, (n, k) in sizes.items() if (k, n / 2) in sizes.values()}
    w2 = {at for at, (n, k) in sizes.items() if (2 * k, n) in sizes.values()}
    # Sizes that fit both, as with 2N = K, say nothing.
    sized[list(w13 - w2)], sized[list(w2 - w13)] = number["w13"], number["w2"]
    return role[which], sized[which]


def _by_neighbours(launches: Launches, tree: Tree, role: Ints, untold: Bools, number: dict[str, int]) -> None:
    """Set w13 and w2 in ``role`` where the kernels before and after on the stream tell which is which."""
    skipped = [number[name] for name in BETWEEN if name in number]
    rows = np.flatnonzero(tree.kernel & (role >= 0) & ~np.isin(role, skipped))
    if not untold[rows].any():
        return
    rows, lane = in_lanes(launches.table, tree.start, rows)
    after_same = np.append(lane[1:] == lane[:-1], False)
    experts, combine = number[EXPERTS], number["combine"]
    act, w13, w2 = ([code for name, code in number.items() if _begins(name, stage)] for stage in ("act", "w13", "w2"))
    begin = [number[name] for name in ("router", "align", "dispatch", "sort") if name in number]
    for _ in range(2):  # the second round uses what the first one found
        own = role[rows]
        # -1 at the ends of a stream, where roll would bring in another stream's kernel.
        after = np.where(after_same, np.roll(own, -1), -1)
        before = np.where(np.roll(after_same, 1), np.roll(own, 1), -1)
        open_ = untold[rows] & (own == experts)
        pair = open_ & np.isin(before, begin) & (after == experts) & (np.roll(after, -1) != experts)
        first = open_ & (np.isin(after, [*act, *w2]) | pair)
        # A product right after align is not w2: it may be all of the experts in one launch.
        last = (before == experts) & ((after == combine) | np.isin(after, w13))
        second = open_ & ~first & (np.isin(before, [*act, *w13]) | last | np.roll(pair, 1))
        role[rows[first]], role[rows[second]] = number["w13"], number["w2"]


def _begins(name: str, stage: str) -> bool:
    """Return whether a role, perhaps of fused stages, begins with a stage and does not go on to w2 from another."""
    first, *others = name.split("+")
    return first == stage and "w2" not in others


def _by_place(tree: Tree, role: Ints, untold: Bools, number: dict[str, int]) -> None:
    """Set w13 and w2 in turn in ``role`` for what is still open in each instance of a range around the experts.

    A product that is alone in its instance stays open: it may be all of the experts in one launch.
    """
    if not len(tree.parent):
        return
    owner = np.where(tree.range_id >= 0, tree.inherit(_hits(MLP, tree.names)[tree.name])[tree.range_id], -1)
    products = tree.kernel & (owner >= 0) & np.isin(role, [number[name] for name in (EXPERTS, "w13", "w2")])
    several = np.bincount(owner[products], minlength=len(tree.parent)) > 1
    order = np.argsort(tree.start, kind="stable")
    rows = order[(untold & (owner >= 0) & several[owner])[order]]
    turn = pd.Series(owner[rows]).groupby(owner[rows], sort=False).cumcount().to_numpy() % 2
    role[rows] = np.where(turn == 0, number["w13"], number["w2"])
