# SPDX-License-Identifier: Apache-2.0
"""Kernel counters of Nsight Compute: our column, ncu's names and the unit; the meaning is in ``schema.csv``.

The counters are data, in ``metrics.csv``. Names differ between chips and versions of ncu: a row lists them, and the
first one that a report has is taken; ``a/b`` and ``a*32`` are computed from other names. ``set`` says what measures the
counter: each of ``SETS`` includes the ones before it and needs more passes over the kernel; ``launch`` marks columns
that every report format has and that are always measured.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moe_lab.spec.errors import UserError

SETS = ("basic", "roofline", "full")
LAUNCH = "launch"


@dataclass(frozen=True)
class Metric:
    """One counter.

    Attributes:
        column: its column in the launches table.
        unit: base unit in which the column is kept.
        collect: the smallest of ``SETS`` that measures it, or ``launch``.
        names: ncu's names, or ``a/b`` and ``a*32``, the best first.
        section: beginning of the title of its section on ncu's details page; empty = not on that page.
        label: its name on that page; if releases differ, all names with ``|`` between, the newest first.
    """

    column: str
    unit: str
    collect: str
    names: tuple[str, ...]
    section: str
    label: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Names on the details page, the newest first; empty if it is not there."""
        return tuple(filter(None, self.label.split("|")))

    def value(self, measured: Mapping[str, float]) -> float | None:
        """Return its value, from ncu's names and their values in base units; None if it was not measured."""
        return next((v for n in self.names if (v := _value(n, measured)) is not None), None)


def parts(name: str) -> tuple[str, ...]:
    """Return the names of ncu that one of ``Metric.names`` is computed from."""
    return tuple(p for p in re.split(r"[/*]", name) if "__" in p)  # every name of ncu has "__", a factor has not


def _value(name: str, measured: Mapping[str, float]) -> float | None:
    if not all(p in measured for p in parts(name)):
        return None
    top, sign, bottom = re.split(r"([/*])", name) if parts(name) != (name,) else (name, "", "")
    if sign == "*":
        return measured[top] * float(bottom)
    if sign == "/":
        return measured[top] / measured[bottom] if measured[bottom] else None  # a missing quantity is NA, never 0
    return measured[name]


SOURCE = Path(__file__).with_suffix(".csv")


def _read() -> tuple[Metric, ...]:
    with SOURCE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Metric(r["column"], r["unit"], r["set"], tuple(r["names"].split()), r["section"], r["label"]) for r in rows
    )


METRICS = _read()
COUNTERS = tuple(m for m in METRICS if m.collect != LAUNCH)
BY_COLUMN = {m.column: m for m in METRICS}
BY_NAME = {part: m for m in METRICS for name in m.names for part in parts(name)}
STALLS = {m.column[len("stall_") : -len("_ratio")]: m for m in METRICS if m.column.startswith("stall_")}


def of_set(name: str) -> tuple[Metric, ...]:
    """Return the metrics of one of ``SETS``."""
    return tuple(m for m in METRICS if m.collect in (LAUNCH, *SETS[: SETS.index(name) + 1]))


def chosen(wanted: str) -> tuple[Metric, ...]:
    """Return the metrics of a comma-separated list of our columns or ncu's names; UserError if one is unknown."""
    # The launch's own columns always belong: they cost no pass, and geometry and duration are read from them.
    found = {m.column: m for m in METRICS if m.collect == LAUNCH}
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        metric = BY_COLUMN.get(name) or BY_NAME.get(name)
        if metric is None:
            raise UserError(
                f"'{name}' is not a metric that moe-lab knows; give a column or an ncu name of "
                "moe_lab/spec/metrics.csv, or add a line for it there."
            )
        found[metric.column] = metric
    return tuple(found.values())


@cache
def by_label(section: str, label: str, unit: str) -> Metric | None:
    """Return the metric of a row of ncu's details page, or None if we keep no such metric.

    Args:
        section: title of the section.
        label: name of the metric; a metric that was requested by its ncu name is shown by that name.
        unit: base unit of the value, which tells two metrics with the same label apart.
    """
    for metric in METRICS:
        # ncu shows "Memory Throughput" in percent and in byte/s.
        if label in metric.labels and section.startswith(metric.section) and (unit == "%") == (metric.unit == "%"):
            return metric
    return BY_NAME.get(label)
