# SPDX-License-Identifier: Apache-2.0
"""Number formats side by side: which format and backend is the quickest at how many tokens, and what it costs in error.

The error is that of the result against the layer with the weights before they were quantised: it grows with what a
format leaves out and hardly differs between backends.
"""

from collections.abc import Iterable

import pandas as pd

from moe_lab.analysis import sweep
from moe_lab.analysis.sweep import Sweep

BASE = "bf16"
COLUMNS = ("gpu", "model", "M", "format", "backend", "median_us", "speedup", "error_vs_bf16_rms_pct", "pct_of_roofline")


def side_by_side(sweeps: Iterable[Sweep]) -> pd.DataFrame:
    """Return the quickest backend of each format: one row per GPU, model, M and format.

    Each run counts with its first model and routing, and all its formats. Runs of one format on one GPU are taken
    together.

    Returns:
        ``COLUMNS``: speedup is over the quickest of ``BASE`` on the same GPU, NA without one; error_vs_bf16_rms_pct is
        the root mean square of the difference in percent of that of the result; pct_of_roofline is of the format's
        own bound.
    """
    parts = [
        sweep.at(one, "", format=format).assign(gpu=one.gpu)
        for one in sweeps
        if one.run is not None
        for format in one.timed["format"].unique()
    ]
    rows = pd.concat([part for part in parts if len(part)]) if any(map(len, parts)) else pd.DataFrame()
    if rows.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    keys = ["gpu", "model", "M"]
    best = rows.sort_values("median_us", kind="stable").drop_duplicates([*keys, "format"])
    base = best.loc[best["format"] == BASE, [*keys, "median_us"]].rename(columns={"median_us": "base_us"})
    best = best.merge(base, on=keys, how="left").sort_values([*keys, "format"], ignore_index=True)
    best["speedup"] = best["base_us"].astype("Float64") / best["median_us"]
    best["error_vs_bf16_rms_pct"] = 100 * best["error_vs_bf16_rms_rel"].astype("Float64")
    return best[list(COLUMNS)]
