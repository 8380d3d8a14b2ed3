"""Stages of engines that do not mark them: the first fused GEMM in ``mlp`` is w13, the second w2, and so on.

A rule names a range, a kernel and an occurrence; kernels that fit get a virtual range below their own. What a range
already says wins over any rule.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs.attribution.columns import array, codes, integers, strings
from moe_lab.runs.attribution.keys import Bools, Ints, distinct
from moe_lab.runs.attribution.tree import Tree, build
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line, read_yaml
from moe_lab.spec.launches import RANGE_COLUMNS, Launches, tidy
from moe_lab.spec.ranges import STAGES


@dataclass(frozen=True)
class Rule:
    """Which kernels have a role.

    Attributes:
        engine: where the names come from; says nothing to the rule itself.
        range: regular expression searched in range names; occurrences count from 1 in every instance of the innermost
            range that matches.
        kernel: regular expression searched in short kernel names.
        role: the stage, or stages joined by ``+``.
        nth: which occurrence, in order of time; None = each.
        of: occurrences repeat after so many (engines that split a large batch run the same kernels again); None = not.
        beside: regular expression; the rule holds only where a kernel of such a name runs in the same instance, too.
    """

    engine: str
    range: str
    kernel: str
    role: str
    nth: int | None = None
    of: int | None = None
    beside: str | None = None


# Ranges around the experts: modules called mlp, experts, block_sparse_moe, and classes of MoE modules.
MLP = r"(^|[./ ])(mlp|experts|block_sparse_moe|feed_forward|moe|\w*FusedMoE\w*|\w*SparseMoe\w*|\w*MoE)(_\d+)?$"
GEMM = r"^fused_moe_kernel|^batched_triton_kernel|^_?p?_?matmul_ogs|^Marlin$|m_grouped_gemm"
# Kernel names of SGLang (sgl-kernel, Triton) and vLLM (csrc/moe, Triton), 2024 to 2026.
# The first two need no range of the experts: a replayed graph has none, and the names tell enough.
SWIGLU = r"matmul_ogs\w*swiglu"
RULES = (
    Rule("vllm", "", SWIGLU, "w13"),
    Rule("vllm", "", r"matmul_ogs(?!\w*swiglu)", "w2", beside=SWIGLU),
    Rule("sglang, vllm", MLP, GEMM, "w13", 1, 2),
    Rule("sglang, vllm", MLP, GEMM, "w2", 2, 2),
    Rule("sglang, vllm", MLP, r"act_and_mul|silu_and_mul|gelu_and_mul|swiglu", "act"),
    Rule("sglang, vllm", MLP, r"moe_align|count_and_sort", "align"),
    Rule("sglang, vllm", MLP, r"moe_sum|moe_combine|post_reorder|finalizeMoeRouting", "combine"),
    Rule("sglang, vllm", MLP, r"(?i)top_?k|moe_fused_gate|moeSoftmax", "router"),
    Rule("sglang, vllm", MLP, r"per_token_(group_)?quant|scaled_(fp8|int8)_quant", "quant"),
)


def load(path: Path) -> tuple[Rule, ...]:
    """Read rules from YAML (or JSON): a list of mappings with the fields of ``Rule``; range, kernel and role must be.

    Raises:
        UserError: the file cannot be read, or a rule in it is not valid.
    """
    found = read_yaml(path, what="rules for roles", then="give a list of rules, each with range, kernel and role")
    if not isinstance(found, list) or not found:
        raise UserError(f"{path.name} must hold a list of rules, each with range, kernel and role.")
    return tuple(_rule(entry, f"Rule {number} in {path.name}") for number, entry in enumerate(found, 1))


def _rule(entry: Any, which: str) -> Rule:
    known = {f.name for f in fields(Rule)}
    if not isinstance(entry, dict) or not {"range", "kernel", "role"} <= set(entry) <= known:
        raise UserError(f"{which} needs range, kernel and role, and may have engine, nth, of and beside.")
    rule = Rule(**{"engine": "", **entry})
    for value in (rule.engine, rule.range, rule.kernel, rule.role, "" if rule.beside is None else rule.beside):
        if not isinstance(value, str):
            raise UserError(f"{which}: '{one_line(str(value), 40)}' is no text; put it in quotes.")
    if not all(part in STAGES for part in rule.role.split("+")):
        role = one_line(rule.role, 40)
        raise UserError(f"{which} has the role '{role}'; use one of {', '.join(STAGES)}, or some joined by '+'.")
    for count in (rule.nth, rule.of):
        if count is not None and (type(count) is not int or count < 1):
            raise UserError(f"{which}: nth and of count from 1.")
    if rule.of is not None and (rule.nth is None or rule.nth > rule.of):
        raise UserError(f"{which}: of needs an nth that is not larger.")
    for expression in (rule.range, rule.kernel, rule.beside or ""):
        try:
            re.compile(expression)
        except (re.error, RecursionError, OverflowError) as error:
            shown = one_line(expression, 60)
            raise UserError(f"{which}: '{shown}' is not a valid regular expression ({error}).") from None
    return rule


def apply(launches: Launches, rules: Sequence[Rule] = RULES) -> Launches:
    """Return the launches with a range of its role around every kernel that a rule fits.

    Kernels in a stage, attention or norm range keep it. Of several rules that fit, the first counts. The new ranges are
    ``synthetic``; a sentence in ``meta["warnings"]`` says how many kernels got their stage this way.

    Args:
        launches: the report.
        rules: what to look for.
    """
    tree = build(launches)
    names = list(dict.fromkeys(rule.role for rule in rules))
    role = _roles(launches, tree, rules, names)
    rows = np.flatnonzero(role >= 0)
    if not len(rows):
        return _warned(launches, _no_match(tree))
    first, which = distinct(tree.range_id[rows], role[rows])
    range_id = tree.range_id.copy()
    range_id[rows] = len(launches.ranges) + which
    ranges = _with_roles(launches.ranges, tree.range_id[rows[first]], role[rows[first]], names)
    said = f"{len(rows)} kernels have their stage by name and order of kernels, not by a range."
    return _warned(replace(launches, table=launches.table.assign(range_id=integers(range_id)), ranges=ranges), said)


def _warned(launches: Launches, said: str) -> Launches:
    return replace(launches, meta={**launches.meta, "warnings": [*launches.meta.get("warnings", ()), said]})


def _no_match(tree: Tree) -> str:
    """Return the sentence on rules that fit no kernel."""
    inside = tree.kernel & (tree.range_id >= 0)
    staged = inside & (tree.stages()[np.maximum(tree.range_id, 0)] >= 0) if len(tree.parent) else inside
    return (
        f"0 of {int(tree.kernel.sum())} kernels got a stage by the rules of roles: {int(staged.sum())} are in one "
        f"already, {int((tree.kernel & ~inside).sum())} lie in no range, and no rule fits the others."
    )


def _roles(launches: Launches, tree: Tree, rules: Sequence[Rule], names: list[str]) -> Ints:
    """Return the role of every operation, an index into ``names``; -1 = none: int64 [m]."""
    role = np.full(len(tree.range_id), -1, np.int64)
    if not len(tree.parent):
        return role
    kernel, kernels = codes(launches.table["name"])
    inside = np.maximum(tree.range_id, 0)
    free = tree.kernel & (tree.range_id >= 0) & (kernel >= 0) & (tree.stages()[inside] < 0)
    order = np.argsort(tree.start, kind="stable")
    owners: dict[str, Ints] = {}
    for rule in rules:
        if rule.range not in owners:
            owners[rule.range] = tree.inherit(_hits(rule.range, tree.names)[tree.name])
        owner = owners[rule.range][inside]
        fits = free & (owner >= 0) & _hits(rule.kernel, [str(k) for k in kernels])[kernel]
        if rule.beside is not None:
            near = tree.kernel & (owner >= 0) & _hits(rule.beside, [str(k) for k in kernels])[kernel]
            fits &= np.isin(owner, owner[near])
        rows = order[fits[order]]
        if rule.nth is not None:
            counted = pd.Series(owner[rows]).groupby(owner[rows], sort=False).cumcount().to_numpy()
            rows = rows[(counted % rule.of if rule.of else counted) == rule.nth - 1]
        rows = rows[role[rows] < 0]
        role[rows] = names.index(rule.role)
    return role


def _hits(expression: str, names: Sequence[str]) -> Bools:
    """Return which names an expression is found in: bool [n + 1], the last for a name that is not known."""
    return np.array([*(re.search(expression, name) is not None for name in names), False], bool)


def _with_roles(ranges: pd.DataFrame, parent: Ints, role: Ints, names: list[str]) -> pd.DataFrame:
    """Return the ranges with new ones below ``parent``."""
    above = ranges.iloc[parent]
    name = strings(role, names)
    made = {
        "name": name,
        "path": above["path"].reset_index(drop=True) + "/" + name,
        "parent_id": integers(parent),
        "depth": integers(array(above["depth"]) + 1),
        "domain": above["domain"].reset_index(drop=True),
        "process": above["process"].reset_index(drop=True),
        "synthetic": pd.array(np.ones(len(parent), bool), dtype="boolean"),
        "crossing": pd.array(np.zeros(len(parent), bool), dtype="boolean"),
    }
    added = tidy(pd.DataFrame(made), RANGE_COLUMNS)
    for column in ranges.columns.difference(added.columns):
        added[column] = pd.Series(pd.NA, index=added.index, dtype=ranges[column].dtype)
    return pd.concat([ranges, added[ranges.columns]], ignore_index=True)
