# SPDX-License-Identifier: Apache-2.0
"""Tables from counters of AMD GPUs: metrics, kernels, stalls, two reports side by side, how grids fill the dies."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from moe_lab.analysis.amd.evaluation import Architecture, Counted, aggregate, architecture, nullable
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches

AGGREGATES = ("total", "mean", "median")
# Accelerator complex dies (XCDs) of a whole GPU (compute partition SPX); GPUs with one die are not listed.
XCDS = {"MI300X": 8, "MI300A": 6, "MI325X": 8, "MI308X": 4, "MI350": 8, "MI350X": 8, "MI355": 8, "MI355X": 8}
GEOMETRY = (
    *("grid_blocks", "block_threads", "registers_per_thread", "accumulation_registers_per_thread"),
    *("scalar_registers_per_wave", "smem_bytes", "scratch_bytes_per_thread"),
)


def definitions(launches: Launches) -> Architecture:
    """Return the metric definitions for the GPU of a report.

    Raises:
        UserError: the report has no counters, or there are no definitions for its GPU.
    """
    if not launches.meta.get("counters"):
        raise UserError("The report has no counters; profile with rocprof-compute to get them.")
    return architecture(str((launches.meta.get("machine") or {}).get("gpu_arch", "")))


def metrics(launches: Launches, aggregate_by: str = "total", limit: int = 0) -> pd.DataFrame:
    """Return every metric of every kernel.

    Args:
        launches: a report of rocprof-compute.
        aggregate_by: ``total`` (sum over sum; rocprof-compute since 3.7.0), ``mean`` (of the ratios of single
            launches; before 3.7.0) or ``median`` (of those ratios; how the tool has always shown table 16.2).
        limit: only the kernels that take most time, at most this many; 0 = all.

    Returns:
        One row per kernel and metric: kernel, launches, metric, label, unit, of, group, source, value, peak and
        pct_of_peak; NA where a counter is missing or there is nothing to divide by.

    Raises:
        UserError: there are no counters, or no definitions for the GPU.
        ValueError: ``aggregate_by`` is none of these.
    """
    if aggregate_by not in AGGREGATES:
        raise ValueError(f"aggregate_by is {aggregate_by!r}, not one of {', '.join(AGGREGATES)}")
    arch = definitions(launches)
    rows = [row for name, part in _kernels(launches, limit) for row in _rows(launches, arch, name, part, aggregate_by)]
    return nullable(pd.DataFrame(rows), ["value", "peak", "pct_of_peak"])


def _rows(launches: Launches, arch: Architecture, name: str, part: pd.DataFrame, how: str) -> Iterator[dict[str, Any]]:
    counted = Counted(part, arch, launches.meta["machine"])
    for metric in arch.metrics.values():
        parts = counted.parts(metric)
        by = how if metric.den else "mean"
        value = metric.scale * aggregate(*parts, by) if parts else math.nan
        value = value if metric.finish is None or math.isnan(value) else counted.number(metric.finish, value=value)
        peak = counted.number(metric.peak)
        row = {"kernel": name, "launches": len(part), "metric": metric.name, "label": metric.label}
        row |= {"unit": metric.unit, "of": metric.of, "group": metric.group, "source": metric.source}
        yield row | {"value": value, "peak": peak, "pct_of_peak": 100 * value / peak}


def values(launches: Launches, part: pd.DataFrame) -> dict[str, float]:
    """Return every metric over some launches of a report taken together (sum over sum), NaN where not counted."""
    return {row["metric"]: row["value"] for row in _rows(launches, definitions(launches), "", part, "total")}


def has_counters(launches: Launches) -> bool:
    """Return whether a report holds counters of an AMD GPU."""
    return bool(launches.meta.get("counters")) and "gpu_arch" in (launches.meta.get("machine") or {})


def _kernels(launches: Launches, limit: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (name, launches) of each kernel, longest time (or cycles) first; the full name where short ones clash."""
    table = launches.table[launches.table["kind"] == "kernel"]
    weight = table["duration_ns"].astype("Float64")
    if weight.isna().all() and "GRBM_GUI_ACTIVE" in table:  # no usable times: the cycles that the GPU was busy
        weight = table["GRBM_GUI_ACTIVE"]
    total = weight.groupby(table["name_full"]).sum().sort_values(ascending=False, kind="stable")
    full = [str(n) for n in total.index]
    short = {n: str(table.loc[table["name_full"] == n, "name"].iloc[0]) for n in full}
    # Instances of one template have the same short name.
    twice = {s for s in short.values() if list(short.values()).count(s) > 1}
    for name in full[: limit or len(full)]:
        yield (name if short[name] in twice else short[name]), table[table["name_full"] == name]


def kernels(launches: Launches, limit: int = 0, aggregate_by: str = "total") -> pd.DataFrame:
    """Return one row per kernel: launch geometry, time, and every metric as a column; arguments as for ``metrics``.

    Returns:
        Columns name, launches, those of ``GEOMETRY`` (NA where launches differ), median_us, total_ms, xcd_fill_pct
        (``xcd_fill``; NA on GPUs with one die), then the metrics.
    """
    wide = metrics(launches, aggregate_by, limit).pivot(index="kernel", columns="metric", values="value")
    dies = xcds(launches)
    rows = []
    for name, part in _kernels(launches, limit):
        us = part["duration_ns"].astype("Float64") / 1e3
        row: dict[str, Any] = {"name": name, "launches": len(part)}
        row |= {c: part[c].iloc[0] if c in part and part[c].nunique(dropna=False) == 1 else pd.NA for c in GEOMETRY}
        row |= {"median_us": us.median(), "total_ms": us.sum(min_count=1) / 1e3, "xcd_fill_pct": _fill(row, dies)}
        rows.append(row)
    out = pd.DataFrame(rows)
    out[list(GEOMETRY)] = out[list(GEOMETRY)].astype("Int64")
    return out.join(wide, on="name")


def _fill(row: dict[str, Any], dies: int | None) -> Any:
    known = dies is not None and dies > 1 and not pd.isna(row["grid_blocks"])
    return xcd_fill(int(row["grid_blocks"]), dies).fill_pct if known and dies else pd.NA


def stalls(launches: Launches, aggregate_by: str = "total", limit: int = 0) -> pd.DataFrame:
    """Return what the vector memory path waits for: kernel, label, group (stall, busy), value (%), of, source."""
    found = metrics(launches, aggregate_by, limit)
    return found.loc[found["group"].isin(["stall", "busy"]), ["kernel", "label", "group", "value", "of", "source"]]


def compare(left: Launches, right: Launches, names: Sequence[str] = ()) -> pd.DataFrame:
    """Return the metrics of two reports, perhaps of two GPUs, side by side; only those in ``names``, empty = all.

    Returns:
        Columns kernel, metric, label, unit, left, right, ratio (right / left, NA if left is 0). Kernels are matched by
        name; a kernel in only one report has NA on the other side.
    """
    keys = ["kernel", "metric", "label", "unit"]
    sides = [metrics(one)[[*keys, "value"]] for one in (left, right)]
    out = sides[0].merge(sides[1], on=keys, how="outer", sort=False, suffixes=("_left", "_right"))
    out = out.rename(columns={"value_left": "left", "value_right": "right"})
    out["ratio"] = out["right"] / out["left"].where(out["left"] != 0)
    # An outer merge sorts its keys: put the rows back in the order of the reports.
    places = pd.concat([side[["kernel", "metric"]] for side in sides]).drop_duplicates()
    out = places.merge(out, on=["kernel", "metric"], how="left")
    return out[out["metric"].isin(names)] if names else out


class XcdFill(NamedTuple):
    """How a grid spreads over dies: blocks on the fullest die, on the emptiest, and 100 * blocks / (most * dies)."""

    most: int
    least: int
    fill_pct: float


def xcd_fill(grid_blocks: int, dies: int) -> XcdFill:
    """Return how evenly a grid fills the accelerator complex dies, which get thread blocks round-robin.

    Raises:
        ValueError: fewer than one block or die.
    """
    if grid_blocks < 1 or dies < 1:
        raise ValueError(f"grid_blocks = {grid_blocks} and dies = {dies} must be at least 1")
    most, least = -(-grid_blocks // dies), grid_blocks // dies
    return XcdFill(most, least, 100 * grid_blocks / (most * dies))


def xcds(launches: Launches) -> int | None:
    """Return the number of dies that a launch can use: from the report, else from the GPU's name, else None."""
    said = (launches.meta.get("machine") or {}).get("num_xcd")
    if said:
        return int(said)
    name = str((launches.meta.get("gpu") or {}).get("name") or "").split()
    return next((XCDS[part.upper()] for part in name if part.upper() in XCDS), None)


def fills(launches: Launches) -> pd.DataFrame:
    """Return the fill of every kernel and grid: name, grid_blocks, launches, xcds, most, least, fill_pct.

    There are no rows if the number of dies is not known, or is one.
    """
    dies = xcds(launches)
    table = launches.table[(launches.table["kind"] == "kernel") & launches.table["grid_blocks"].notna()]
    counts = table.groupby(["name", "grid_blocks"], sort=False).size().reset_index(name="launches")
    several = dies is not None and dies > 1
    rows = [
        row | {"xcds": dies} | xcd_fill(int(row["grid_blocks"]), dies or 1)._asdict()
        for row in (counts.to_dict("records") if several else ())
    ]
    columns = ["name", "grid_blocks", "launches", "xcds", "most", "least", "fill_pct"]
    return pd.DataFrame(rows, columns=columns)
