# SPDX-License-Identifier: Apache-2.0
"""The counters of a report: one row per kernel and place."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import amd
from moe_lab.analysis.breakdown import UNATTRIBUTED
from moe_lab.analysis.kernels import KEYS
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches
from moe_lab.spec.metrics import BY_COLUMN, COUNTERS, SETS, STALLS
from moe_lab.spec.ranges import stage_of

PER_LAUNCH = ("registers_per_thread", "smem_static_bytes", "smem_dynamic_bytes")
SHOWN = (
    *("duration_us", "active_sms", "sm_throughput_pct", "mem_throughput_pct", "l1_throughput_pct", "l2_throughput_pct"),
    *("dram_throughput_pct", "dram_read_bytes", "dram_write_bytes", "l2_bytes", "l1_hit_pct", "l2_hit_pct"),
    *("sectors_per_load_request", "sectors_per_store_request", "cycles_elapsed", "smem_bank_conflicts"),
    *("occupancy_achieved_pct", "occupancy_theoretical_pct", "waves", "tensor_pipe_pct", "issue_active_pct", "ipc"),
    *("sm_clock_hz", "dram_clock_hz"),
)
DERIVED = ("duration_us", "active_sms")
# Our column -> the AMD metrics (analysis/amd/data/) whose sum it is; columns without a counterpart are NA.
AMD = {
    "active_sms": ("active_cus",),
    "l1_hit_pct": ("vl1d_hit_pct",),
    "l2_hit_pct": ("l2_hit_pct",),
    "l2_bytes": ("l2_request_bytes",),
    "l2_sm_bytes": ("l1_l2_read_bytes", "l1_l2_write_bytes", "l1_l2_atomic_bytes"),
    "cycles_elapsed": ("kernel_cycles",),
    "tensor_pipe_pct": ("mfma_pct",),
    "ipc": ("instructions_per_cycle",),
}
TOP_STALLS = 3
AMD_NOTE = (
    "Counters of an AMD GPU: an SM is a CU, L1 is vL1D, the tensor pipe is MFMA (docs/amd.md); notebook 05 has all its "
    "metrics and what its kernels wait for."
)
SHORT_US = 20  # for shorter kernels, hits and misses from different passes do not fit together


def counters_table(launches: Launches, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the counters of every kernel: medians over its launches, one row for each of ``KEYS``, in order of launch.

    Args:
        launches: a report with counters.
        metrics: columns of ``metrics.csv``, or ``duration_us`` and ``active_sms``; by default ``SHOWN``.

    Returns:
        Columns path (of the innermost range), stage (see ``ranges.stage_of``, NA in none), name, launches, grid_blocks,
        block_threads, registers_per_thread, smem_static_bytes, smem_dynamic_bytes (NA where launches of a row differ),
        then the metrics, by default followed by the three largest stall reasons (stall_1, stall_1_pct, ...; in percent
        of the time that warps were on an SM). ``active_sms`` is the number of SMs that worked, each weighted by its
        busy time relative to the busiest. NA where a counter was not measured. ``attrs["notes"]``: sentences on what
        to be careful with. Counters of AMD GPUs give the columns of ``AMD``, times and registers.

    Raises:
        UserError: the report has no counters, or lacks one that was asked for.
    """
    wanted = list(metrics) if metrics is not None else list(SHOWN)
    table = launches.table
    counted_by_amd = amd.has_counters(launches)
    _check_known(wanted)
    if not counted_by_amd:
        _check_measured(table, wanted, metrics is not None)
    rows = []
    for key, frame in grouped(launches):
        row: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        row |= {"stage": _stage(str(row["path"])), "launches": len(frame)}
        row |= {column: same(frame[column]) for column in PER_LAUNCH}
        if counted_by_amd:
            row |= of_amd(launches, frame)
        else:
            row |= {column: _median(frame, column) for column in wanted}
            row |= _stalls(frame) if metrics is None else {}
        rows.append(row)
    stalls = [f"stall_{n}{part}" for n in range(1, TOP_STALLS + 1) for part in ("", "_pct")] if metrics is None else []
    columns = ["path", "stage", "name", "launches", *KEYS[2:], *PER_LAUNCH, *wanted, *stalls]
    out = pd.DataFrame(rows, columns=columns).convert_dtypes()
    out.attrs["notes"] = [AMD_NOTE] if counted_by_amd else _notes(out)
    return out


def of_amd(launches: Launches, frame: pd.DataFrame) -> dict[str, Any]:
    """Return duration_us and the columns of ``AMD`` over all launches together; None where a counter is missing.

    Args:
        launches: a report of rocprof-compute.
        frame: rows of its table.
    """
    found = amd.values(launches, frame)
    sums = {ours: sum(found.get(name, math.nan) for name in theirs) for ours, theirs in AMD.items()}
    known = {ours: None if math.isnan(value) else value for ours, value in sums.items()}
    return {"duration_us": _median(frame, "duration_us")} | known


def _check_known(wanted: list[str]) -> None:
    known = [c for c in wanted if c in BY_COLUMN or c in DERIVED]
    if len(known) < len(wanted):
        unknown = ", ".join(c for c in wanted if c not in known)
        raise UserError(f"moe-lab knows no counter {unknown}; moe_lab/spec/metrics.csv lists those that it knows.")


def _check_measured(table: pd.DataFrame, wanted: list[str], asked: bool) -> None:
    if not any(m.column in table and table[m.column].notna().any() for m in COUNTERS):
        raise UserError(
            "The report has no counters of Nsight Compute; measure them with `moe-lab capture ncu --set full`."
        )
    sources = {"duration_us": "duration_ns", "active_sms": "sm_cycles_active_max"}
    missing = [c for c in wanted if (own := sources.get(c, c)) not in table or table[own].isna().all()]
    if asked and missing:
        needed = max((BY_COLUMN[sources.get(c, c)].collect for c in missing), key=SETS.index)
        raise UserError(
            f"The report was made without {', '.join(missing)}; measure again with "
            f"`moe-lab capture ncu --set {needed}` (or `ncu --set full`)."
        )


def grouped(launches: Launches) -> Iterator[tuple[tuple[Hashable, ...], pd.DataFrame]]:
    """Yield (values of ``KEYS``, rows) of every kernel at every place, in order of launch; needs no times."""
    table = launches.table[launches.table["kind"] == "kernel"]
    paths = launches.ranges["path"].astype(object)
    own = [UNATTRIBUTED if pd.isna(i) else paths.loc[i] for i in table["range_id"]]
    yield from table.assign(path=own).groupby(list(KEYS), sort=False, dropna=False)


def same(column: "pd.Series[Any]") -> Any:
    """Return the value of a column if all of its values are the same, else None."""
    values = column.dropna().unique()
    return values[0] if len(values) == 1 and column.notna().all() else None


def _stage(path: str) -> str | None:
    return next((stage for part in reversed(path.split("/")) if (stage := stage_of(part)) is not None), None)


def _median(frame: pd.DataFrame, column: str) -> Any:
    if column == "duration_us":
        return frame["duration_ns"].astype("Float64").median() / 1e3
    if column == "active_sms":
        needed = ["sm_cycles_active_avg", "sm_cycles_active_max", "sm_count"]
        if not set(needed) <= set(frame):
            return None
        mean, most, count = (frame[c] for c in needed)
        return (mean / most * count).median()
    return frame[column].astype("Float64").median() if column in frame else None


def waits(ratios: Mapping[Hashable, Any], most: int = TOP_STALLS) -> list[tuple[str, float]]:
    """Return the largest stall reasons, in percent of the time that warps spent on an SM.

    ``ratios`` has keys ``stall_<reason>_ratio``, among others.
    """
    found = {reason: ratios.get(f"stall_{reason}_ratio") for reason in STALLS}
    known = pd.Series(found, dtype="Float64").dropna().astype(float)
    # "selected" is a warp that issues, which is part of the time but no stall.
    largest = known.drop("selected", errors="ignore").loc[lambda s: s > 0].sort_values(ascending=False, kind="stable")
    return [(str(reason), 100 * value / known.sum()) for reason, value in largest.head(most).items()]


def _stalls(frame: pd.DataFrame) -> dict[str, Any]:
    found = waits(frame[[c for c in frame if str(c).startswith("stall_")]].median().to_dict())
    return {f"stall_{n}{end}": v for n, one in enumerate(found, 1) for end, v in zip(("", "_pct"), one, strict=True)}


def _notes(table: pd.DataFrame) -> list[str]:
    hits = [c for c in ("l1_hit_pct", "l2_hit_pct") if c in table]
    if not hits or "duration_us" not in table:
        return []
    short = (table["duration_us"] < SHORT_US).fillna(False) & table[hits].notna().any(axis=1)
    count = int(short.sum())
    said = f"{count} of {len(table)} rows ran for less than {SHORT_US} us: their hit rates are unreliable"
    return [f"{said}, because hits and misses are counted in different passes."] if count else []
