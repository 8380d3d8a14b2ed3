# SPDX-License-Identifier: Apache-2.0
"""The experts benchmark over M: which backend is quickest where, how far from the bound, and what routing skew costs.

Times are compared only within one case (model, M, routing, seed), whose backends the benchmark interleaved. A backend
is ahead of another if its 80th percentile lies below the other's 20th, behind in the opposite case, and otherwise the
two are even. The bound is the roofline of the same run: the larger of minimum bytes at the bandwidth of the faster of a
copy and a read, and useful FLOPs at the rate of a large product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.bench_rows import BenchRun, verdicts
from moe_lab.analysis.leads import leads
from moe_lab.analysis.phases import rows_of

COLUMNS = ["model", "M", "K", "N", "E", "topk", "format", "routing", "seed", "backend", "version", "part", "stage"]
COLUMNS += ["mode", "median_us", "p20_us", "p80_us", "correct", "error_max_rel", "bound_max_rel", "experts_hit"]
COLUMNS += ["error_vs_bf16_rms_rel"]
COLUMNS += ["rows_useful", "rows_padded", "padding_waste_pct", "rows_most", "workspace_bytes", "minimum_bytes"]
COLUMNS += ["useful_gflop", "minimum_gb_per_s", "useful_tflops_per_s", "executed_tflops_per_s", "roofline_us"]
COLUMNS += ["bound_by", "pct_of_roofline", "pct_of_copy", "pct_of_read", "pct_of_matmul", "sm_mhz", "temperature_c"]
COLUMNS += ["roof_bytes_per_s", "roof_flops_per_s", "power_w", "throttled", "kernels_us", "error"]


@dataclass(frozen=True)
class Sweep(BenchRun):
    """A run of the experts benchmark."""

    @property
    def timed(self) -> pd.DataFrame:
        """Rows with times."""
        return self.rows[self.rows["median_us"].notna()]

    @property
    def failed(self) -> pd.DataFrame:
        """Rows of a whole layer with an error instead of times."""
        return self.rows[self.rows["error"].notna() & (self.rows["part"] == "full")]

    @property
    def measured(self) -> dict[str, Any]:
        """What the run measured of its GPU: ``roofs`` and ``l2``."""
        return (self.run.manifest.get("measured") or {}) if self.run else {}


def at(sweep: Sweep, model: str, routing: str = "", format: str = "") -> pd.DataFrame:
    """Return the timed rows of whole layers by M, replayed from a CUDA graph, of the first seed.

    An empty model, routing or format stands for the first of the run.
    """
    rows = sweep.timed
    for column, wanted in (("model", model), ("routing", routing), ("seed", None), ("format", format)):
        if len(rows):
            rows = rows[rows[column] == (wanted or rows[column].iloc[0])]
    return rows[(rows["part"] == "full") & (rows["mode"] == "graph")].sort_values("M", kind="stable")


def times(rows: pd.DataFrame, ours: str, baseline: str) -> pd.DataFrame:
    """Return one row per M: the time of every backend in ms, the bound, and the speed-up of ours.

    Returns:
        Columns M, ``ms|<backend>`` for each backend, roofline_ms, pct_of_roofline (ours), speedup (baseline / ours),
        best (the quickest of other projects at this M, see ``leads``), speedup_best (best / ours); NA where a backend
        has no time.
    """
    if rows.empty:
        return pd.DataFrame({"M": []})
    wide = rows.pivot_table("median_us", "M", "backend", aggfunc="first") / 1e3
    names = [name for name in dict.fromkeys(rows["backend"]) if name in wide]
    out = wide[names].rename(columns={name: f"ms|{name}" for name in names})
    out["roofline_ms"] = rows.groupby("M")["roofline_us"].min() / 1e3
    mine = wide[ours].astype(float) if ours in wide else pd.Series(np.nan, index=wide.index)
    out["pct_of_roofline"] = rows[rows["backend"] == ours].drop_duplicates("M").set_index("M")["pct_of_roofline"]
    out["speedup"] = wide[baseline].astype(float) / mine if baseline in wide else np.nan
    # `leads` would put our quickest backend in the place of one that was not measured.
    best = leads(rows if ours in wide else rows.head(0), ours).set_index("M")
    out["best"], out["speedup_best"] = best["peer"], best["speedup"].astype(float)
    return out.reset_index()


def winners(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per M: the quickest backend, the next, the lead, and whether it is more than noise.

    Returns:
        Columns M, winner, ms, next, next_ms, lead_pct (of the next's time), verdict (ahead or even), pct_of_roofline,
        bound_by; next and lead are NA if there is only one backend.
    """
    ranked = rows.sort_values("median_us").groupby("M")
    first, second = (ranked.nth(n).set_index("M") for n in (0, 1))
    both = first.join(second.add_suffix("_next")).sort_index().reset_index()
    out = both[["M", "pct_of_roofline", "bound_by"]].assign(winner=both["backend"], ms=both["median_us"] / 1e3)
    out = out.assign(next=both["backend_next"], next_ms=both["median_us_next"] / 1e3)
    out["lead_pct"] = 100 * (1 - both["median_us"] / both["median_us_next"])
    # A single backend is neither ahead nor even.
    out["verdict"] = pd.Series(verdicts(both, "", "_next"), index=out.index).where(both["backend_next"].notna())
    return out.convert_dtypes()


def crossings(rows: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """Return where two backends change places.

    Returns:
        One row per change: low and high (the Ms around it), M (where straight lines through the logarithms of the times
        meet between them), before (the quicker one at low), after.
    """
    wide = rows.pivot_table("median_us", "M", "backend", aggfunc="first") if len(rows) else pd.DataFrame()
    if not {one, other} <= set(wide.columns):
        return pd.DataFrame({key: [] for key in ("low", "high", "M", "before", "after")})
    gap = (wide[one] / wide[other]).dropna().astype(float).map(math.log)
    out = []
    for (low, left), (high, right) in zip(list(gap.items())[:-1], list(gap.items())[1:], strict=True):
        if left * right < 0 and float(str(low)) > 0:
            # Times grow roughly as powers of M, which are straight lines on logarithmic axes.
            share = left / (left - right)
            where = math.exp(math.log(float(str(low))) * (1 - share) + math.log(float(str(high))) * share)
            ahead = (one, other) if left < 0 else (other, one)
            out.append({"low": low, "high": high, "M": where, "before": ahead[0], "after": ahead[1]})
    return pd.DataFrame(out, columns=["low", "high", "M", "before", "after"])


def stages(rows: pd.DataFrame, backends: Sequence[str]) -> pd.DataFrame:
    """Return the time of each stage's kernels in a traced call: one row per backend, M and stage.

    Returns:
        Columns backend, M, stage, us, pct (of the call's kernels), kernels; no rows if nothing was traced.
    """
    out = []
    rows = rows[rows["backend"].isin(list(backends))]
    for row in rows_of(rows[[isinstance(k, list) for k in rows["kernels_us"]]] if len(rows) else rows):
        total = sum(us for _, us in row.kernels_us)
        for stage in dict.fromkeys(name.partition("|")[0] for name, _ in row.kernels_us):
            own = [us for name, us in row.kernels_us if name.partition("|")[0] == stage]
            part = {"us": sum(own), "pct": 100 * sum(own) / total if total else None, "kernels": len(own)}
            out.append({"backend": row.backend, "M": row.M, "stage": stage, **part})
    return pd.DataFrame(out, columns=["backend", "M", "stage", "us", "pct", "kernels"])


def skew(sweep: Sweep, model: str, backends: Sequence[str], base: str = "uniform") -> pd.DataFrame:
    """Compare the time under each routing with that under ``base``.

    Returns:
        Columns M, backend, routing, us, base_us, ratio, bound_ratio (of the rooflines: the effect of the
        changed minimum bytes alone), ratio_net (ratio / bound_ratio), experts_hit, rows_most; no rows if there is only
        one routing.
    """
    parts = [at(sweep, model, routing) for routing in dict.fromkeys(sweep.timed["routing"])]
    rows = pd.concat(parts) if parts else sweep.timed
    rows = rows[rows["backend"].isin(list(backends))]
    named = ["M", "backend", "routing", "median_us", "roofline_us", "experts_hit", "rows_most"]
    low = rows.loc[rows["routing"] == base, ["M", "backend", "median_us", "roofline_us"]]
    low = low.rename(columns={"median_us": "base_us", "roofline_us": "base_roofline_us"})
    both = rows.loc[rows["routing"] != base, named].merge(low, on=["M", "backend"]).rename(columns={"median_us": "us"})
    both["ratio"] = both["us"] / both["base_us"]
    both["bound_ratio"] = both["roofline_us"] / both["base_roofline_us"]
    both["ratio_net"] = both["ratio"] / both["bound_ratio"]
    return both.drop(columns=["roofline_us", "base_roofline_us"])


def geometric_mean(values: "pd.Series[Any]") -> float:
    """Return the geometric mean of positive numbers; NaN if there are none."""
    known = values.dropna().astype(float)
    return float(np.exp(np.log(known).mean())) if len(known) else math.nan
