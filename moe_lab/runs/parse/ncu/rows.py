# SPDX-License-Identifier: Apache-2.0
"""From profiled kernels to launches; shared by both readers of Nsight Compute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.runs.attribution.columns import integers, numbered, paths, strings
from moe_lab.runs.attribution.keys import Ints
from moe_lab.runs.parse import _facts
from moe_lab.runs.parse._facts import short_name
from moe_lab.spec.launches import COLUMNS, RANGE_COLUMNS, Launches, tidy
from moe_lab.spec.metrics import BY_COLUMN, COUNTERS, METRICS
from moe_lab.spec.ranges import display_name

Named = tuple[str | None, str]  # (domain, None = the default one; range name)
Axes = tuple[int, int, int]


@dataclass(frozen=True)
class Profiled:
    """One profiled kernel.

    Attributes:
        name: demangled name.
        process: any process id.
        thread: id of the launching thread, -1 = not known.
        stream: stream id, -1 = not known.
        device: device id, -1 = not known.
        grid: thread blocks in x, y, z.
        block: threads per block in x, y, z.
        stack: push/pop ranges around the launch, outermost first.
        free: start/end ranges around it.
        measured: values in base units by ncu's metric names (those in ``metrics``), of the metrics that were measured.
    """

    name: str
    process: int = -1
    thread: int = -1
    stream: int = -1
    device: int = -1
    grid: Axes | None = None
    block: Axes | None = None
    stack: tuple[Named, ...] = ()
    free: tuple[Named, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)


def facts(gpu: Mapping[str, Any], rows: Sequence[Profiled], notes: list[str]) -> dict[str, Any]:
    """Return the plain facts of a report; ``notes`` are its warnings."""
    sms = {BY_COLUMN["sm_count"].value(r.measured) for r in rows} - {None}
    count = sms.pop() if len(sms) == 1 else None
    devices = {r.device for r in rows} - {-1}
    known = {key: gpu.get(key) for key in ("name", "memory_bytes", "compute_capability")}
    known |= {key: gpu[key] for key in ("l2_cache_bytes", "sm_clock_khz") if gpu.get(key)}
    if gpu.get("memory_bus_bits") and gpu.get("memory_clock_khz"):  # double data rate: two transfers per clock
        known["memory_bandwidth_bytes_per_s"] = gpu["memory_bus_bits"] // 8 * gpu["memory_clock_khz"] * 2000
    return _facts.facts(
        "ncu",
        gpu={**known, "sm_count": None if count is None else int(count)},
        gpu_count=len(devices) or None,
        warnings=notes,
        counters=[m.column for m in COUNTERS if any(m.value(r.measured) is not None for r in rows)],
    )


def assemble(rows: Sequence[Profiled], meta: dict[str, Any]) -> Launches:
    """Return the tidy tables.

    A report says which ranges were open around a kernel, but not when they opened: consecutive kernels in the same
    range count as one instance, even if the range was closed and opened again in between. There are no start times,
    because every kernel ran alone. Start/end ranges, whose nesting is not known, count as crossing ranges.
    """
    processes = sorted({r.process for r in rows})
    ranges = _Ranges()
    own = np.array([ranges.innermost(r) for r in rows], np.int64)
    pairs = [(row, number) for row, r in enumerate(rows) for number in ranges.around(r)]
    table = _table(rows, own, processes)
    operation, range_id = (np.array([p[i] for p in pairs], np.int64) for i in range(2))
    meta["processes"] = len(processes)
    return Launches(table, ranges.table(processes), meta, pd.DataFrame({"operation": operation, "range_id": range_id}))


def _table(rows: Sequence[Profiled], own: Ints, processes: list[int]) -> pd.DataFrame:
    full, names = numbered(r.name for r in rows)
    out: dict[str, Any] = {
        "kind": strings(np.zeros(len(rows), np.int64), ["kernel"]),
        "name": strings(full, [short_name(n) for n in names]),
        "name_full": strings(full, names),
        "process": integers(np.searchsorted(processes, [r.process for r in rows])),
        "device": integers(np.array([r.device for r in rows], np.int64)),
        "stream": integers(np.array([r.stream for r in rows], np.int64)),
        "range_id": integers(own),
        "launch_range_id": integers(own),
        "attribution": strings((own >= 0).astype(np.int64), ["none", "api"]),
    }
    for metric in METRICS:
        values = pd.Series([metric.value(r.measured) for r in rows], dtype="Float64")
        out[metric.column] = values.round().astype("Int64") if metric.column in COLUMNS else values
    for product, sizes in (("grid_blocks", [r.grid for r in rows]), ("block_threads", [r.block for r in rows])):
        for axis, letter in enumerate("xyz"):
            known = [s[axis] if s else -1 for s in sizes]
            out[f"{product.partition('_')[0]}_{letter}"] = integers(np.array(known, np.int64))
        products = pd.Series([s[0] * s[1] * s[2] if s else None for s in sizes], dtype="Int64")
        out[product] = products.fillna(out[product])
    order = [c for c in out if c in COLUMNS] + [m.column for m in COUNTERS]
    return tidy(pd.DataFrame({c: out[c] for c in order}), COLUMNS)


class _Ranges:
    """Range instances, created in the order of the kernels."""

    def __init__(self) -> None:
        self.rows: list[tuple[Named, int, int, int, int, bool]] = []  # named, parent, depth, process, thread, crossing
        self.open: dict[tuple[int, int], list[tuple[Named, int]]] = {}
        self.crossing: dict[tuple[int, Named], int] = {}

    def innermost(self, row: Profiled) -> int:
        """Return the innermost push/pop range of a kernel, -1 = none; creates the ranges that are not open yet."""
        at = self.open.setdefault((row.process, row.thread), [])
        same = 0
        while same < min(len(at), len(row.stack)) and at[same][0] == row.stack[same]:
            same += 1
        del at[same:]
        for depth, named in enumerate(row.stack[same:], same):
            parent = at[-1][1] if at else -1
            at.append((named, len(self.rows)))
            self.rows.append((named, parent, depth, row.process, row.thread, False))
        return at[-1][1] if at else -1

    def around(self, row: Profiled) -> list[int]:
        """Return the start/end ranges of a kernel; each name counts as one instance."""
        found = []
        for named in row.free:
            key = (row.process, named)
            if key not in self.crossing:
                self.crossing[key] = len(self.rows)
                self.rows.append((named, -1, 0, row.process, row.thread, True))
            found.append(self.crossing[key])
        return found

    def table(self, processes: list[int]) -> pd.DataFrame:
        """Return the table of ranges."""
        name, names = numbered(display_name(r[0][1]) for r in self.rows)
        parent, depth, process, thread = (np.array([r[i] for r in self.rows], np.int64) for i in range(1, 5))
        path, values, _ = paths(parent, depth, name, names)
        threads = np.unique(thread, return_inverse=True)[1].ravel()
        frame = {
            "name": strings(name, names),
            "path": strings(path, values),
            "parent_id": integers(parent),
            "depth": integers(depth),
            "domain": pd.array([r[0][0] for r in self.rows], dtype="string"),
            "process": integers(np.searchsorted(processes, process)),
            "thread": integers(threads, thread < 0),
            "synthetic": pd.array([False] * len(self.rows), dtype="boolean"),
            "crossing": pd.array([r[5] for r in self.rows], dtype="boolean"),
        }
        return tidy(pd.DataFrame(frame), RANGE_COLUMNS)
