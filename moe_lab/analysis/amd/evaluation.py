# SPDX-License-Identifier: Apache-2.0
"""Metrics of AMD counters: their definitions are data (``data/gfx*.yaml``), evaluated here."""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from moe_lab.spec.errors import UserError

Floats = NDArray[np.float64]
_FOLDER = files(__package__) / "data"
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": np.minimum,
    "round": np.round,  # halves to even, as in Python and rocprof-compute
    "floor": np.floor,
    "mod": np.mod,
}


@dataclass(frozen=True)
class Metric:
    """A metric: ``scale * num / den``; see ``data/cdna.yaml``.

    Attributes:
        name: column name, unit included.
        label: as shown.
        unit: as shown; ``%`` is a share of ``of``.
        source: the table of rocprof-compute with the same number.
        num: numerator of a launch.
        den: denominator of a launch; None = the mean of ``num`` over the launches.
        scale: factor.
        of: what a percentage is a share of.
        group: stall, busy, traffic, flop, or empty.
        finish: expression of ``value`` for the number that is shown.
        peak: expression for the largest possible value.
    """

    name: str
    label: str
    unit: str
    source: str
    num: str
    den: str | None = None
    scale: float = 1.0
    of: str = ""
    group: str = ""
    finish: str | None = None
    peak: str | None = None


@dataclass(frozen=True)
class Architecture:
    """An architecture: its metrics, the definitions that they use, and its constants."""

    name: str
    metrics: dict[str, Metric]
    define: dict[str, str]
    parameters: dict[str, float]


class MissingNameError(Exception):
    """A counter or fact that an expression needs is missing."""


def architectures() -> list[str]:
    """Return the architectures with metric definitions."""
    return sorted(p.name[:-5] for p in _FOLDER.iterdir() if p.name.startswith("gfx"))


@cache
def architecture(name: str) -> Architecture:
    """Return the definitions of an architecture such as ``gfx942``; raises UserError if there are none."""
    if name not in architectures():
        known = ", ".join(architectures())
        raise UserError(f"There are no metric definitions for {name or 'a GPU without a name'}; there are for {known}.")
    own = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text())
    base = yaml.safe_load((_FOLDER / f"{own['base']}.yaml").read_text())
    fields = {k: v for k, v in {**base["metrics"], **own["metrics"]}.items() if k not in own.get("absent", ())}
    metrics = {name: Metric(name, **field) for name, field in fields.items()}
    return Architecture(name, metrics, {**base["define"], **own["define"]}, own["parameters"])


class Counted:
    """The counters of some launches, on which expressions are evaluated.

    Args:
        table: a table of launches, counters as columns.
        arch: the definitions.
        machine: facts of the GPU.
    """

    def __init__(self, table: pd.DataFrame, arch: Architecture, machine: Mapping[str, Any]):
        self.table, self.arch = table, arch
        numbers = {k: float(v) for k, v in machine.items() if not isinstance(v, str)}
        self.facts: dict[str, Any] = {**numbers, **arch.parameters}

    def look_up(self, name: str) -> Any:
        """Return a fact, a definition, the duration or a counter.

        Raises:
            MissingNameError: there is nothing of that name.
        """
        if name in self.facts:
            return self.facts[name]
        if name in self.arch.define:
            return self.evaluate(self.arch.define[name])
        # Not the rounded duration_ns: a median over runs may end in half a nanosecond.
        column = "duration_exact_ns" if name == "ns" else name
        if column in self.table:
            return self.table[column].to_numpy(dtype=np.float64, na_value=np.nan)
        raise MissingNameError(name)

    def evaluate(self, expression: str, **more: Any) -> Any:
        """Return the value of an expression: a number, or an array with one element per launch.

        Raises:
            MissingNameError: something that it needs is missing.
        """
        return self._node(_parsed(expression), more)

    def _node(self, node: ast.AST, more: Mapping[str, Any]) -> Any:
        # Only these kinds of nodes: definitions are data and must not be able to run code.
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return more[node.id] if node.id in more else self.look_up(node.id)
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](self._node(node.left, more), self._node(node.right, more))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "optional":
                return self._optional(node.args[0], more)
            return _FUNCTIONS[node.func.id](*(self._node(a, more) for a in node.args))
        raise ValueError(f"{ast.dump(node)} cannot be part of a metric's expression")

    def _optional(self, node: ast.AST, more: Mapping[str, Any]) -> Any:
        """Return a term, 0 if it was not counted: older releases did not count it and left it out of their sums."""
        try:
            return self._node(node, more)
        except MissingNameError:
            return 0.0

    def parts(self, metric: Metric) -> tuple[Floats, Floats] | None:
        """Return (num, den) of every launch, None if a counter or fact is missing; a metric without ``den`` has 1."""
        size = len(self.table)
        try:
            with np.errstate(divide="ignore", invalid="ignore"):
                num = np.broadcast_to(self.evaluate(metric.num), size).astype(np.float64)
                den = np.broadcast_to(self.evaluate(metric.den or "1"), size).astype(np.float64)
        except MissingNameError:
            return None
        # A launch with nothing to divide by has no ratio, and must not change the sums over the others.
        good = np.isfinite(num) & np.isfinite(den) & (den != 0)
        return np.where(good, num, np.nan), np.where(good, den, np.nan)

    def number(self, expression: str | None, **more: Any) -> float:
        """Return the value of an expression, NaN if there is no expression or something that it needs is missing."""
        try:
            return float(self.evaluate(expression, **more)) if expression else math.nan
        except MissingNameError:
            return math.nan


@cache
def _parsed(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def nullable(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the frame with some columns as Float64, NaN as NA."""
    out = frame.copy()
    for column in columns:
        values = out[column].astype("Float64")
        out[column] = values.mask(values.isna())
    return out


def aggregate(num: Floats, den: Floats, how: str) -> float:
    """Return one ratio for several launches; NaN if none of them has one.

    Args:
        num: float64 [n], NaN = not known.
        den: float64 [n].
        how: ``total`` (sum over sum), or ``mean`` or ``median`` of the ratios of single launches.
    """
    known = ~np.isnan(num)
    if not known.any():
        return math.nan
    if how == "total":
        return float(num[known].sum() / den[known].sum())
    ratios = num[known] / den[known]
    return float(np.mean(ratios) if how == "mean" else np.median(ratios))
