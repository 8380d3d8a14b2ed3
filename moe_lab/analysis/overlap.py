# SPDX-License-Identifier: Apache-2.0
"""Where ranks best compute shared experts: at the layer's end, while rows travel, or among the routed ones."""

import pandas as pd

from moe_lab.analysis import ep

COLUMNS = ["shared_us", "travel_us", "full_us", "fused_us", "overlapped_us", "saved_us", "saved_pct"]


def saved(parts: pd.DataFrame) -> pd.DataFrame:
    """Return the layer with shared experts at its end and beside the rest, one row per case and way with both.

    Args:
        parts: of ``ep.parts``.

    Returns:
        Columns of the case, comm, shared_us, travel_us (dispatch and combine; NA where a way has no such parts),
        full_us, fused_us (with shared experts among the routed ones; NA likewise), overlapped_us, saved_us and
        saved_pct (of full_us); what is saved is negative where overlapping costs.
    """
    index, need = [*ep.CASE, "comm"], ["shared", "full", "overlapped"]
    known = parts[parts["median_us"].notna()]
    if not set(need) <= set(known["part"]):
        return pd.DataFrame(columns=[*index, *COLUMNS])
    us = known.pivot_table(index=index, columns="part", values="median_us", aggfunc="first", sort=False)
    us = us.reindex(columns=[*need, "fused", "dispatch", "combine"]).astype("Float64").dropna(subset=need)
    out = us.add_suffix("_us").assign(travel_us=us["dispatch"] + us["combine"], saved_us=us["full"] - us["overlapped"])
    out["saved_pct"] = 100 * out["saved_us"] / out["full_us"]
    table: pd.DataFrame = out[COLUMNS].reset_index()
    return table
