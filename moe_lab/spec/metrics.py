"""Kernel counters of Nsight Compute: our column, their names, and their unit; what it means is in ``schema.csv``.

The counters are data, in ``metrics.csv``. Names differ between chips and versions of ncu: a row lists them, and the
first one that a report has counts; ``a/b`` and ``a*32`` are computed from other names. ``set`` is what measures it:
each of ``SETS`` holds the ones before it and needs more passes over the kernel; ``launch`` marks columns that every
report format has, and that are always measured.
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
        section: how the title of its section on ncu's details page begins; empty = not there.
        label: its name there; with ``|`` between the names of several releases, the newest first.
    """

    column: str
    unit: str
    collect: str
    names: tuple[str, ...]
    section: str
    label: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Return its names on the details page, the newest first; none if it is not there."""
        return tuple(filter(None, self.label.split("|")))

    def value(self, measured: Mapping[str, float]) -> float | None:
        """Return its value from ncu's names and values in base units; None where it was not measured."""
        return next((v for n in self.names if (v := _value(n, measured)) is not None), None)


def parts(name: str) -> tuple[str, ...]:
    """Return the names of ncu's that one of ``Metric.names`` is made of."""
    return tuple(p for p in re.split(r"[/*]", name) if "__" in p)


def _value(name: str, measured: Mapping[str, float]) -> float | None:
    if not all(p in measured for p in parts(name)):
        return None
    top, sign, bottom = re.split(r"([/*])", name) if parts(name) != (name,) else (name, "", "")
    if sign == "*":
        return measured[top] * float(bottom)
    if sign == "/":
        return measured[top] / measured[bottom] if measured[bottom] else None
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
BY_NAME = {part: m for m in METRICS for name in reversed(m.names) for part in parts(name)}
STALLS = {m.column[len("stall_") : -len("_ratio")]: m for m in METRICS if m.column.startswith("stall_")}


def of_set(name: str) -> tuple[Metric, ...]:
    """Return the metrics of one of ``SETS``."""
    return tuple(m for m in METRICS if m.collect in (LAUNCH, *SETS[: SETS.index(name) + 1]))


def chosen(wanted: str) -> tuple[Metric, ...]:
    """Return the metrics of a comma-separated list of our columns or ncu's names, and always the launch's own columns.

    Raises:
        UserError: one is not known here.
    """
    found = {m.column: m for m in METRICS if m.collect == LAUNCH}
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        metric = BY_COLUMN.get(name) or BY_NAME.get(name)
        if metric is None:
            raise UserError(
                f"'{name}' is no metric that moe-lab knows; give a column or an ncu name of moe_lab/spec/metrics.csv, "
                "or add a line for it there."
            )
        found[metric.column] = metric
    return tuple(found.values())


@cache
def by_label(section: str, label: str, unit: str) -> Metric | None:
    """Return the metric of a row of ncu's details page, None for a row that is kept nowhere.

    Args:
        section: title of the section.
        label: name of the metric; a metric asked for by its ncu name has that name.
        unit: base unit of its value, which tells apart two metrics of the same name.
    """
    for metric in METRICS:
        if label in metric.labels and section.startswith(metric.section) and (unit == "%") == (metric.unit == "%"):
            return metric
    return BY_NAME.get(label)
