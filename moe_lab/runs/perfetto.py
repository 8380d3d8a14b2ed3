# SPDX-License-Identifier: Apache-2.0
"""A report as Chrome trace events, which ui.perfetto.dev and chrome://tracing load.

The form is that of the Trace Event Format: complete events (``ph`` X) with times in microseconds, and names of
processes and threads as metadata events (``ph`` M). https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from moe_lab.runs import redact
from moe_lab.spec.launches import Launches

RANGES = 1000  # process number of the ranges of process 0; those of GPUs are smaller
ARGS = ("grid_blocks", "block_threads", "registers_per_thread", "bytes", "attribution")


def events(launches: Launches) -> Iterator[dict[str, Any]]:
    """Yield one event per GPU operation and range on the CPU, the names of tracks first, times since the first one.

    Ranges that stand for the replay of a graph have no time on the CPU and are left out.
    """
    table = launches.table.assign(path=launches.table["range_id"].map(launches.ranges["path"]))
    table = table.assign(device=table["device"].fillna(0), stream=table["stream"].fillna(0))
    table = table[table["start_ns"].notna()]
    ranges = launches.ranges[launches.ranges["start_ns"].notna()]
    ranges = ranges.assign(process=ranges["process"].fillna(0) + RANGES, thread=ranges["thread"].fillna(0))
    for device, stream in table[["device", "stream"]].drop_duplicates().itertuples(index=False):
        yield from _names(device, f"GPU {device}", stream, f"stream {stream}")
    for process, thread in ranges[["process", "thread"]].drop_duplicates().itertuples(index=False):
        yield from _names(process, f"ranges of process {process - RANGES}", thread, f"thread {thread}")
    first = min(frame["start_ns"].min() for frame in (table, ranges) if len(frame))
    for row in table.to_dict("records"):
        args = {key: row[key] for key in (*ARGS, "path") if not pd.isna(row[key])}
        yield _complete(row, str(row["kind"]), row["device"], row["stream"], args, first)
    for row in ranges.to_dict("records"):
        yield _complete(row, "range", row["process"], row["thread"], {"path": row["path"]}, first)


def _names(pid: int, process: str, tid: int, thread: str) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": int(pid), "args": {"name": process}}
    yield {"ph": "M", "name": "thread_name", "pid": int(pid), "tid": int(tid), "args": {"name": thread}}


def _complete(row: dict[Any, Any], kind: str, pid: int, tid: int, args: dict[str, Any], first: int) -> dict[str, Any]:
    args = {key: redact.text(value) if isinstance(value, str) else value for key, value in args.items()}
    times = {"ts": (row["start_ns"] - first) / 1e3, "dur": (row["end_ns"] - row["start_ns"]) / 1e3}
    return {
        "ph": "X",
        "name": redact.text(row["name"]),
        "cat": kind,
        "pid": int(pid),
        "tid": int(tid),
        **times,
        "args": args,
    }
