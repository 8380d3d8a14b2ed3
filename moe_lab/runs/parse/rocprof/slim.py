# SPDX-License-Identifier: Apache-2.0
"""A small copy of rocprofv3's CSV files: what the analysis reads, nothing that names the machine or its user."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from moe_lab.runs import redact
from moe_lab.runs.attribution.keys import Bools, Ints, match
from moe_lab.runs.parse._slim import Keep, Slimmed
from moe_lab.runs.parse.rocprof import checks, results, rocpd
from moe_lab.runs.parse.rocprof import tables as rocprof
from moe_lab.runs.redact.names import is_telling

AGENT = ("Node_Id", "Logical_Node_Id", "Agent_Type", "Cu_Count", "Wave_Front_Size", "Name", "Product_Name")
FILES = {
    "kernels": "kernel_trace",
    "copies": "memory_copy_trace",
    "calls": "hip_api_trace",
    "markers": "marker_api_trace",
}
_NAMED = re.compile(r"(.*[A-Za-z].*)_[0-9]+_[a-z]")  # files written with -o %hostname%_%pid%
DROPPED = (
    "Left out: environment, host, user, paths, and every file and column that the analysis does not read.",
    "Process and thread ids are renumbered.",
    "Left out: API calls that launch no GPU operation.",
    "Absolute paths inside range and kernel names are cut to their last component, host names replaced.",
)


def read(path: Path, warnings: list[str]) -> rocprof.Tables:
    """Return the rows of the CSV files of a report, of its databases where it has none, or else of its JSON."""
    groups = rocprof.find(path)
    if groups:
        return rocprof.read(groups)
    databases = rocpd.find(path)
    return rocpd.read(databases, warnings) if databases else results.read(results.find(path))


def _hosts(source: Path) -> list[str]:
    """Return the names that rocprofv3 gave folders and files after the profiled machine (%hostname%/%pid%)."""
    files = [file for group in rocprof.find(source) for file in group.values()]
    named = {f.parent.name for f in files if f.parent != source and f.name.partition("_")[0].isdigit()}
    named |= {found[1] for f in files if (found := _NAMED.match(f.name))}
    return sorted(filter(is_telling, named)) + rocpd.hosts(rocpd.find(source)) + results.hosts(results.find(source))


def slim(source: Path, target: Path, keep: Keep | None = None) -> Slimmed:
    """Write a small, redacted copy as CSV files in a folder; returns as ``Slimmed`` says."""
    tables, known = read(Path(source), []), _hosts(Path(source))
    target.mkdir()
    chosen = _chosen(tables, keep)
    numbers = _threads(tables)
    for kind, name in FILES.items():
        frame: pd.DataFrame = getattr(tables, kind)
        kept = frame[chosen[kind]]
        for process, rows in kept.groupby("process"):
            number = int(str(process)) + 1
            out = rows[list(rocprof.COLUMNS[kind])].copy()
            out["Process_Id"] = number
            out["Thread_Id"] = [numbers.get(t, t) for t in rows["Thread_Id"]]
            for column in rocprof.TEXT & set(out):
                out[column] = _redacted(out[column], known)
            out.to_csv(target / f"{number}_{name}.csv", index=False)
    first = int(tables.kernels["process"].iloc[0]) + 1
    agents = tables.agents[[c for c in AGENT if c in tables.agents]]
    if len(agents):
        texts = {c: _redacted(agents[c].astype(str), known) for c in ("Name", "Product_Name") if c in agents}
        agents.assign(**texts).to_csv(target / f"{first}_agent_info.csv", index=False)
    return list(DROPPED), known


def _redacted(column: "pd.Series[str]", known_hosts: list[str]) -> "pd.Series[str]":
    shown = {value: redact.text(value, known_hosts) for value in column.unique()}
    return column.map(shown)


def _chosen(tables: rocprof.Tables, keep: Keep | None) -> dict[str, Bools]:
    """Return which rows of each table to keep."""
    kernels, copies = (
        _among(len(frame), keep.operations[kind] if keep else None)
        for kind, frame in (("kernel", tables.kernels), ("memcpy", tables.copies))
    )
    parts = (tables.kernels[kernels], tables.copies[copies])
    process, correlation = (
        np.concatenate([p[c].to_numpy(np.int64) for p in parts]) for c in ("process", "Correlation_Id")
    )
    found = match(process, correlation, *(tables.calls[c].to_numpy(np.int64) for c in ("process", "Correlation_Id")))
    calls = _among(len(tables.calls), found[found >= 0])
    if keep is None:  # launches without kernels stay, so that the copy shows them missing, too
        calls |= tables.calls["Function"].str.fullmatch(rf"{checks.LAUNCH}|hipGraphLaunch\w*").to_numpy(bool)
    # Where a call is missing, the launch is bounded by all markers of its thread.
    ranges = keep.ranges if keep and (found >= 0).all() else None
    markers = _among(len(tables.markers), ranges)
    markers &= tables.markers["Domain"].str.startswith("MARKER_CORE").to_numpy(bool)
    return {"kernels": kernels, "copies": copies, "calls": calls, "markers": markers}


def _among(size: int, rows: Ints | None) -> Bools:
    chosen = np.full(size, rows is None)
    if rows is not None:
        chosen[rows] = True
    return chosen


def _threads(tables: rocprof.Tables) -> dict[int, int]:
    """Return new thread ids, in the order of the old ones; 0 and -1 mean no thread."""
    found = [getattr(tables, kind)["Thread_Id"].to_numpy(np.int64) for kind in FILES]
    ids = np.unique(np.concatenate(found))
    return {old: new for new, old in enumerate(ids[ids > 0].tolist(), 1)}
