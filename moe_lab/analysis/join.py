"""Counters beside the true time: ncu runs each kernel alone, with cold caches, a timeline as the program runs it."""

from dataclasses import replace
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import gemms, limits
from moe_lab.analysis.captures import Captures, exists, gpu_facts, short_gpu
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import parse_root, stages_of

APART_PCT = 15.0
KEYS = ("backend", "tiles", "M", "stage", "name", "grid_blocks", "block_threads")


def load(captures: Captures, timeline: str) -> Captures:
    """Return the captures with the true times of a timeline joined to them, its notes, its gaps and its run.

    Only rows of the timeline's own GPU get its times; those of others are NA.

    Args:
        captures: as ``captures.load`` returns them.
        timeline: run name, run folder or report file; empty = none.

    Raises:
        UserError: it is there, but cannot be read.
    """
    if not timeline or captures.table.empty:
        return captures
    if not exists(timeline):
        said = f"There is no run '{runs.shown(timeline)}', so times are those of Nsight Compute."
        return replace(captures, missing=[*captures.missing, said])
    run = runs.load(timeline)
    launches = run.launches()
    gpu = short_gpu(gpu_facts(run, launches).get("name"))
    own = captures.table["gpu"] == gpu
    if not own.any():
        of = f"The timeline {run.manifest['name']} is of {gpu or 'an unknown GPU'}"
        return replace(captures, notes=[*captures.notes, f"{of}, so no counters here get its times."])
    joined = join(captures.table[own], launches)
    table = captures.table.assign(**{c: joined[c].reindex(captures.table.index) for c in ("timeline_us", "apart_pct")})
    about = "" if own.all() else f"On {gpu}: "
    notes = [*captures.notes, *(f"{about}{note}" for note in joined.attrs["notes"])]
    named = {**captures.runs, str(run.manifest["name"]): run}
    gaps = limits.gaps(launches).assign(gpu=gpu)
    shown = table[["series", "M"]].drop_duplicates()
    return replace(captures, runs=named, table=table, notes=notes, gaps=gaps.merge(shown, on=["series", "M"]))


def join(table: pd.DataFrame, timeline: Launches) -> pd.DataFrame:
    """Set the time of each counted GEMM in a timeline beside that of ncu.

    Args:
        table: ``analysis.gemms.gemms`` of counters.
        timeline: of the same workload, for example a capture of nsys.

    Returns:
        ``table`` with timeline_us (median over launches of the same ``KEYS``; NA without such a kernel) and apart_pct
        (ncu's time over the timeline's, minus 100 %). ``attrs["notes"]``: sentences on what was not found and on
        times more than ``APART_PCT`` apart.
    """
    there = _times(timeline)
    ours = table.assign(**{key: _text(table[key]) for key in KEYS})
    out = table.copy()
    merged = ours[list(KEYS)].merge(there, on=list(KEYS), how="left")
    out["timeline_us"] = merged["timeline_us"].astype("Float64").to_numpy()
    out["apart_pct"] = 100 * (out["duration_us"].astype("Float64") / out["timeline_us"] - 1)
    out.attrs["notes"] = _notes(out)
    return out


def _text(column: "pd.Series[Any]") -> "pd.Series[str]":
    return column.astype("string").fillna("")


def _times(timeline: Launches) -> pd.DataFrame:
    kernels = timeline.table[timeline.table["kind"] == "kernel"]
    paths = timeline.ranges["path"].astype(object)
    rows = []
    for row in kernels[["range_id", "name", "grid_blocks", "block_threads", "duration_ns"]].to_dict("records"):
        path = "" if pd.isna(row["range_id"]) else str(paths.loc[row["range_id"]])
        fields = next((f for f in map(parse_root, path.split("/")) if f), None)
        stage = next((s for s in reversed(path.split("/")) if set(stages_of(s)) & set(gemms.PARTS)), None)
        if fields and stage:
            own = {key: fields.get(key, "") for key in KEYS[:3]} | {"stage": stage, "name": row["name"]}
            own |= {key: str(row[key]) for key in KEYS[5:]}
            rows.append(own | {"timeline_us": row["duration_ns"] / 1e3})
    frame = pd.DataFrame(rows, columns=[*KEYS, "timeline_us"])
    return frame.groupby(list(KEYS), sort=False)["timeline_us"].median().reset_index()


def _notes(out: pd.DataFrame) -> list[str]:
    notes = []
    alone = out[out["timeline_us"].isna()]
    if len(alone):
        some = ", ".join(f"{r['stage']} of {r['series']} at M = {r['M']}" for r in alone.head(3).to_dict("records"))
        notes.append(f"The timeline has no such kernel, grid and block for {len(alone)} of {len(out)} rows: {some}.")
    far = out[(out["apart_pct"].abs() > APART_PCT).fillna(False)]
    for row in far.to_dict("records"):
        notes.append(
            f"{row['stage']} of {row['series']} at M = {row['M']:,} took {row['duration_us']:.1f} us under ncu and "
            f"{row['timeline_us']:.1f} us in the timeline, {row['apart_pct']:+.0f} %: its counters are of another "
            "situation (clocks, caches) than its time."
        )
    return notes
