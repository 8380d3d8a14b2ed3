# SPDX-License-Identifier: Apache-2.0
"""What kernels do, by their names: rules as data, one file per engine, found by looking into the folder.

A file has ``about``, ``source``, ``rules`` (fields of ``Rule``) and ``examples``: names of kernels and the role that
each must get whatever other files there are. To add an engine, add a file.
"""

import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line, read_yaml
from moe_lab.spec.ranges import STAGES

FOLDER = Path(__file__).parent
# A kernel's role is a stage, stages joined by "+", or one of these.
ROLES = {
    "experts": "product of experts, if nothing tells whether it is w13 or w2",
    "attention": "attention without its projections",
    "rope": "rotary embedding",
    "cache": "writing and reading of the KV cache",
    "norm": "norm, with what is fused into it",
    "gemm": "dense product",
    "communication": "between GPUs",
    "sort": "sort and top-k",
    "index": "gather, scatter, embedding, and pointers of groups",
    "reduce": "sum, scan and histogram",
    "softmax": "softmax",
    "sampling": "choice of the next token, random numbers",
    "copy": "copy, concatenation and fill by a kernel",
    "elementwise": "any other element by element",
}


@dataclass(frozen=True)
class Rule:
    """Which kernels have a role.

    Attributes:
        engine: where the names come from; it has no effect on the rule.
        range: regular expression searched in range names, empty = anywhere, even in no range; occurrences are counted
            from 1 in every instance of the innermost range that matches.
        kernel: regular expression searched in short kernel names.
        role: a stage, stages joined by ``+``, or one of ``ROLES``.
        nth: which occurrence, in order of time; None = each.
        of: occurrences repeat after this many (engines that split a large batch run their kernels again); None = never.
        beside: regular expression; the rule holds only if a kernel with such a name runs in the same instance too.
        full: regular expression searched in the full name, in which template arguments that are numbers have neither
            casts nor suffixes; groups called ``n`` and ``k`` are the sizes of a product.
    """

    engine: str
    range: str
    kernel: str
    role: str
    nth: int | None = None
    of: int | None = None
    beside: str | None = None
    full: str = ""

    @property
    def by_name(self) -> bool:
        """Whether the kernel's name alone decides."""
        return not self.range and self.nth is None and self.beside is None


def engines() -> list[str]:
    """Return the engines that have a file, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def builtin() -> tuple[Rule, ...]:
    """Return the rules of every engine."""
    return tuple(rule for engine in engines() for rule in load(FOLDER / f"{engine}.yaml"))


def load(path: Path) -> tuple[Rule, ...]:
    """Read rules from YAML (or JSON): a file like those of engines, or only its list of rules; each must have a role.

    Raises:
        UserError: the file cannot be read, or a rule in it is not valid.
    """
    found = read_yaml(path, what="rules for roles", then="give a list of rules, each with kernel or full, and role")
    rules = found.get("rules") if isinstance(found, dict) else found
    if not isinstance(rules, list) or not rules:
        raise UserError(f"{path.name} must hold a list of rules, each with kernel or full, and role.")
    return tuple(_rule(entry, path.stem, f"Rule {number} in {path.name}") for number, entry in enumerate(rules, 1))


def _rule(entry: Any, engine: str, which: str) -> Rule:
    known = {f.name for f in fields(Rule)}
    if not isinstance(entry, dict) or "role" not in entry or not {"kernel", "full"} & set(entry) or set(entry) - known:
        raise UserError(f"{which} needs kernel or full, and role, and may have range, nth, of, beside and engine.")
    rule = Rule(**{"engine": engine, "range": "", "kernel": "", **entry})
    for value in (rule.engine, rule.range, rule.kernel, rule.role, rule.full, rule.beside or ""):
        if not isinstance(value, str):
            raise UserError(f"{which}: '{one_line(str(value), 40)}' is not text; put it in quotes.")
    if rule.role not in ROLES and not all(part in STAGES for part in rule.role.split("+")):
        role, those = one_line(rule.role, 40), ", ".join([*STAGES, *ROLES])
        raise UserError(f"{which} has the role '{role}'; use one of {those}, or some stages joined by '+'.")
    for count in (rule.nth, rule.of):  # type and not isinstance, which would let true pass
        if count is not None and (type(count) is not int or count < 1):
            raise UserError(f"{which}: nth and of must be at least 1.")
    if rule.of is not None and (rule.nth is None or rule.nth > rule.of):
        raise UserError(f"{which}: of needs an nth that is not larger.")
    for expression in (rule.range, rule.kernel, rule.full, rule.beside or ""):
        try:
            re.compile(expression)
        except (re.error, RecursionError, OverflowError) as error:
            shown = one_line(expression, 60)
            raise UserError(f"{which}: '{shown}' is not a valid regular expression ({error}).") from None
    return rule
