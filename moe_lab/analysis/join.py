# SPDX-License-Identifier: Apache-2.0
"""Counters beside the true time: ncu runs each kernel alone with cold caches, a timeline as the program runs it."""

import pandas as pd

from moe_lab.analysis import gemms
from moe_lab.spec.launches import Launches
from moe_lab.spec.ranges import parse_root, stages_of

APART_PCT = 15.0  # ncu flushes caches, and clocks differ; up to this the counters still hold for the timeline
KEYS = ("backend", "tiles", "M", "stage", "name", "grid_blocks", "block_threads")


def join(table: pd.DataFrame, timeline: Launches) -> pd.DataFrame:
    """Add the time of each counted GEMM in a timeline to its time under ncu.

    Args:
        table: ``analysis.gemms.gemms`` of counters.
        timeline: a timeline of the same workload, such as a capture of nsys.

    Returns:
        ``table`` with timeline_us (median over launches with the same ``KEYS``; NA if there are none) and apart_pct
        (by how much ncu's time exceeds the timeline's). ``attrs["notes"]``: sentences on what was not found and on
        times more than ``APART_PCT`` apart.
    """
    there = _times(timeline)
    # As text on both sides, with "" for NA: fields of a range's name are texts, and NA has several forms.
    ours = table.assign(**{key: table[key].astype("string").fillna("") for key in KEYS})
    out = table.copy()
    merged = ours[list(KEYS)].merge(there, on=list(KEYS), how="left")
    out["timeline_us"] = merged["timeline_us"].astype("Float64").to_numpy()
    out["apart_pct"] = 100 * (out["duration_us"].astype("Float64") / out["timeline_us"] - 1)
    out.attrs["notes"] = _notes(out)
    return out


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
    # ncu's launches cannot be matched with the timeline's one by one, so the median of the same kernel, grid and block.
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
            f"{row['timeline_us']:.1f} us in the timeline, {row['apart_pct']:+.0f} %: its counters were taken under "
            "other conditions (clocks, caches) than its time."
        )
    return notes
