# SPDX-License-Identifier: Apache-2.0
"""Runs of the same thing over time: how each differs from the one before, and where the level changed for good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.captures import gpu_facts, short_gpu
from moe_lab.analysis.compare import compiled, measured, traced
from moe_lab.runs import Run
from moe_lab.spec.launches import Launches

COLUMNS = ["series", "date", "run", "gpu", "cases", "change_pct", "level_pct", "changed_point", "versions"]
NOISE = 3.0  # standard deviations of the noise that a change of level must exceed
_GRAPH = "graph"  # of modes: eager calls also time the host


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        run: the run.
        kind: ``capture``, or the benchmark.
        gpu: its GPU without the vendor; for compiled code empty.
        cases: case -> time in µs, or instructions of compiled code.
    """

    run: Run
    kind: str
    gpu: str
    cases: Mapping[tuple[Any, ...], float]


def of_capture(run: Run, launches: Launches) -> Point:
    """Return a capture as a point: the median kernel time of each of its roots."""
    side = traced.operations(launches, run.manifest.get("workload") or {})
    keys = side.attrs["keys"] or ["kernel"]
    medians = traced.samples(side.assign(**{key: side[key].astype("object") for key in keys}), keys, keys)
    gpu = short_gpu(gpu_facts(run, launches.meta).get("name")) or ""
    kind = "counters" if launches.meta.get("counters") else "capture"  # ncu's clocks and caches are others
    return Point(run, kind, gpu, _cases(medians, keys, "time_us"))


def of_bench(run: Run, rows: pd.DataFrame) -> Point:
    """Return a benchmark as a point: the median of each case, of CUDA graphs if there are any.

    Raises:
        UserError: the benchmark cannot be compared.
    """
    bench = str(run.manifest["bench"])
    if bench == compiled.BENCH:
        return Point(run, bench, "", _cases(compiled.cases(rows), compiled.KEYS, "static_instructions"))
    table = measured.cases(rows, bench)
    if "mode" in table and (table["mode"] == _GRAPH).any():
        table = table[table["mode"] == _GRAPH]
    gpu = short_gpu((run.manifest.get("gpu") or {}).get("name")) or ""
    return Point(run, bench, gpu, _cases(table, measured.CASES[bench], "time_us"))


def _cases(table: pd.DataFrame, keys: list[str], value: str) -> dict[tuple[Any, ...], float]:
    known = table[table[value].notna() & (table[value].fillna(0) > 0)]
    # Names of keys with the values: a later version may have another key.
    rows = known[keys].astype("object").to_dict("records")
    named = [tuple(sorted((k, str(v)) for k, v in row.items() if not pd.isna(v))) for row in rows]
    return dict(zip(named, known[value].astype(float), strict=True))


def lines(points: Sequence[Point], threshold_pct: float) -> pd.DataFrame:
    """Return one line a run, in order of time within each series.

    A run belongs to the series of its kind and GPU whose last run it shares most cases with; without a shared case it
    begins one.

    Args:
        points: the runs.
        threshold_pct: least change of level that counts.

    Returns:
        ``COLUMNS``: series (number), cases (shared with the run before), change_pct (geometric mean over them),
        level_pct (relative to the first run of the series), changed_point (``slower`` or ``quicker`` where the level
        changed), and versions that differ from those of the run before.
    """
    series: list[list[Point]] = []
    for point in sorted(points, key=_when):
        near = [own for own in series if (own[-1].kind, own[-1].gpu) == (point.kind, point.gpu)]
        best = max(near, key=lambda own: len(own[-1].cases.keys() & point.cases.keys()), default=None)
        if best is not None and best[-1].cases.keys() & point.cases.keys():
            best.append(point)
        else:
            series.append([point])
    rows = [row for number, own in enumerate(series, 1) for row in _series(number, own, threshold_pct)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _when(point: Point) -> tuple[str, str]:
    date = pd.to_datetime(str(point.run.manifest.get("date") or ""), errors="coerce", utc=True)
    return ("" if pd.isna(date) else date.isoformat(), str(point.run.manifest["name"]))


def _series(number: int, points: list[Point], threshold_pct: float) -> list[dict[str, Any]]:
    steps = [0.0, *(_step(a, b) for a, b in pairwise(points))]
    levels = np.cumsum(steps)
    changed = change_points(levels, np.log1p(threshold_pct / 100))
    rows = []
    for at, (point, before) in enumerate(zip(points, [None, *points], strict=False)):
        rows.append(
            {
                "series": number,
                "date": _when(point)[0][:10] or None,
                "run": point.run.manifest["name"],
                "gpu": point.gpu or None,
                "cases": len(point.cases if before is None else point.cases.keys() & before.cases.keys()),
                "change_pct": None if before is None else 100 * np.expm1(steps[at]),
                "level_pct": 100 * float(np.exp(levels[at])),
                "changed_point": {1: "slower", -1: "quicker"}.get(changed.get(at, 0), ""),
                "versions": _versions(point, before) if before else "",
            }
        )
    return rows


def _step(a: Point, b: Point) -> float:
    """Return the mean log ratio of the cases of both."""
    shared = a.cases.keys() & b.cases.keys()
    return float(np.mean([np.log(b.cases[case] / a.cases[case]) for case in shared]))


def _versions(point: Point, before: Point) -> str:
    one, other = (run.manifest.get("versions") or {} for run in (before.run, point.run))
    apart = [name for name in other if one.get(name) and other[name] and one[name] != other[name]]
    return ", ".join(f"{name} {one[name]} → {other[name]}" for name in apart)


def change_points(levels: Any, least: float) -> dict[int, int]:
    """Return where a series of levels changes for good: position of the first level after it -> 1 (up) or -1 (down).

    Binary segmentation (A. Scott and M. Knott, 1974): the split that leaves least squares around the means of both
    sides, then the same within each side, while the medians differ by more than ``least`` and by more than ``NOISE``
    standard deviations of the noise. That is known from successive differences, by their median, which a few steps do
    not move; with fewer than four levels it is not known, and ``least`` alone decides.

    Args:
        levels: logarithms, float64 [n].
        least: of the difference, a logarithm.
    """
    values = np.asarray(levels, float)
    noise = 1.4826 * float(np.median(abs(np.diff(values)))) / np.sqrt(2) if len(values) > 3 else 0.0
    return dict(sorted(_split(values, 0, max(least, NOISE * noise))))


def _split(values: Any, start: int, least: float) -> list[tuple[int, int]]:
    if len(values) < 2:
        return []
    costs = [sum(len(part) * part.var() for part in (values[:at], values[at:])) for at in range(1, len(values))]
    at = int(np.argmin(costs)) + 1
    apart = float(np.median(values[at:]) - np.median(values[:at]))
    if abs(apart) <= least:
        return []
    inner = _split(values[:at], start, least) + _split(values[at:], start + at, least)
    return [*inner, (start + at, 1 if apart > 0 else -1)]
