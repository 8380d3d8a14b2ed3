# SPDX-License-Identifier: Apache-2.0
"""The align benchmark: which algorithm is quickest where, beside an empty kernel and the time to move the data.

Times are compared only within one case, whose variants the benchmark interleaved. An algorithm is ahead of another if
its 80th percentile lies below the other's 20th, behind in the opposite case, and otherwise the two are even.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.bench_rows import BenchRun, verdicts
from moe_lab.spec import published
from moe_lab.spec.launches import Launches

CASE = ["E", "topk", "tokens", "block_m", "routing", "seed"]
EMPTY = "(empty)"
OUTLIER = 2.0  # times both neighbours; where a curve merely rises or falls, one of them is near
SHOWN = (1, 16, 64, 256, 1024, 4096, 16384, 65536)  # tokens in the table beside other projects


@dataclass(frozen=True)
class Bench(BenchRun):
    """A run of the align benchmark."""

    @property
    def timed(self) -> pd.DataFrame:
        """Rows with times, without those of empty kernels."""
        return self.rows[self.rows["median_us"].notna() & ~is_floor(self.rows)]

    @property
    def failed(self) -> pd.DataFrame:
        """Rows with an error instead of times."""
        return self.rows[self.rows["error"].notna()]


def is_floor(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows are floors: kernels that do nothing, measured in the same way."""
    # In brackets, so that no plugin can have the name.
    return rows["algorithm"].str.startswith("(").astype(bool)


COLUMNS = [*CASE, "algorithm", "mode", "launches", "median_us", "p20_us", "p80_us", "rows_useful", "rows_padded"]
COLUMNS += ["padding_waste_pct", "minimum_bytes", "deterministic", "kernels_warm_us", "error"]


def first(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the first routing, block_m and seed of the run: one case per size."""
    for column in ("routing", "block_m", "seed"):
        rows = rows[rows[column] == rows[column].iloc[0]] if len(rows) else rows
    return rows


def at(bench: Bench, E: int, topk: int, mode: str | None = "graph") -> pd.DataFrame:
    """Return the timed rows of one E and topk by tokens, one case per size, with floors; ``mode`` None = all."""
    rows = bench.rows[bench.rows["median_us"].notna()]
    rows = rows[(rows["E"] == E) & (rows["topk"] == topk)]
    return first(rows if mode is None else rows[rows["mode"] == mode]).sort_values("tokens", kind="stable")


def outliers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose median is more than ``OUTLIER`` times that of both neighbours in tokens.

    Neighbours are the next smaller and next larger number of tokens of the same case, algorithm and mode. The ends of a
    curve have only one neighbour and are never outliers. low_us and high_us are the medians of the neighbours.
    """
    keys = [key for key in [*CASE, "algorithm", "mode"] if key != "tokens"]
    rows = rows[rows["median_us"].notna()].sort_values("tokens", kind="stable")
    each = rows.groupby(keys, sort=False)["median_us"]
    found = rows.assign(low_us=each.shift(1), high_us=each.shift(-1))
    most = found[["low_us", "high_us"]].astype(float).max(axis=1, skipna=False)
    return found[found["median_us"].astype(float) > OUTLIER * most]


def duels(bench: Bench, algorithm: str) -> pd.DataFrame:
    """Compare an algorithm with every other one in every case, replayed from CUDA graphs.

    Returns:
        One row per case and rival: the case (``CASE``), rival, ours_us, theirs_us, empty_us (the floor of the case),
        speedup (theirs / ours), speedup_net (with the floor subtracted from both; NA if nothing is left of one),
        lost_us (ours - theirs), verdict (ahead, even, behind). Cases in the order of the run, rivals by time.
    """
    rows = bench.timed[bench.timed["mode"] == "graph"]
    times = [*CASE, "median_us", "p20_us", "p80_us"]
    ours = rows.loc[rows["algorithm"] == algorithm, times]
    theirs = rows.loc[rows["algorithm"] != algorithm, [*times, "algorithm"]].rename(columns={"algorithm": "rival"})
    floor = bench.rows[(bench.rows["algorithm"] == EMPTY) & (bench.rows["mode"] == "graph")]
    floor = floor[[*CASE, "median_us"]].rename(columns={"median_us": "empty_us"})
    both = theirs.merge(ours, on=CASE, suffixes=("_theirs", "_ours")).merge(floor, on=CASE, how="left")
    both = both.rename(columns={"median_us_ours": "ours_us", "median_us_theirs": "theirs_us"})
    both["verdict"] = verdicts(both, "_ours", "_theirs")
    both["speedup"] = both["theirs_us"] / both["ours_us"]
    both["speedup_net"] = net(both["theirs_us"], both["ours_us"], both["empty_us"])
    both["lost_us"] = both["ours_us"] - both["theirs_us"]
    named = [*CASE, "rival", "ours_us", "theirs_us", "empty_us", "speedup", "speedup_net", "lost_us", "verdict"]
    # Cases keep their order; only the rivals within a case are sorted by time.
    both["order"] = both.groupby(CASE, sort=False).ngroup()
    return both.sort_values(["order", "theirs_us"], ignore_index=True)[named]


def net(theirs: Any, ours: Any, empty: Any) -> Any:
    """Return the ratio of two times after the floor is subtracted from both; NA where either is not above it."""
    above = (theirs > empty) & (ours > empty)
    return ((theirs - empty) / (ours - empty)).where(above.fillna(False))


def speedups(duel: pd.DataFrame, rival: str, topk: int) -> pd.DataFrame:
    """Return columns tokens, E, speedup, ours_us, theirs_us against one rival: one case per size."""
    rows = first(duel[(duel["rival"] == rival) & (duel["topk"] == topk)])
    return rows[["tokens", "E", "speedup", "ours_us", "theirs_us"]].reset_index(drop=True)


def best_others(duel: pd.DataFrame) -> pd.DataFrame:
    """Return for each case the row of the quickest rival."""
    return duel.drop_duplicates(CASE).reset_index(drop=True)  # `duels` sorts the rivals of a case by time


def worst(duel: pd.DataFrame) -> pd.DataFrame:
    """Return for each (tokens, E) the case with the least speed-up over the quickest rival."""
    return best_others(duel).sort_values("speedup").drop_duplicates(["tokens", "E"]).reset_index(drop=True)


def behind(duel: pd.DataFrame) -> pd.DataFrame:
    """Return every case in which the quickest rival is ahead, the largest loss first; lost_pct is of its time."""
    rows = best_others(duel)
    rows = rows[rows["verdict"] == "behind"].sort_values("speedup", ignore_index=True)
    return rows.assign(lost_pct=100 * rows["lost_us"] / rows["theirs_us"])


def rivals(duel: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rival, over all cases that both can run.

    Returns:
        Columns rival, cells, ahead, even, behind, mean_speedup (geometric), least_speedup, most_speedup.
    """
    # Ratios average geometrically: 2x and 0.5x are even.
    speedup = duel.assign(log=np.log(duel["speedup"].astype(float))).groupby("rival", sort=True)
    counts = pd.crosstab(duel["rival"], duel["verdict"]).reindex(columns=["ahead", "even", "behind"], fill_value=0)
    ends = {"least_speedup": ("speedup", "min"), "most_speedup": ("speedup", "max")}
    table = speedup.agg(cells=("speedup", "size"), mean_speedup=("log", "mean"), **ends).join(counts)
    return table.assign(mean_speedup=np.exp(table["mean_speedup"])).reset_index()


def bandwidth(bench: Bench, launches: Launches | None = None) -> tuple[float, str] | None:
    """Return (bytes per second of the GPU's memory, where the figure comes from): a measured roof, or the peak."""
    known = bench.roofs
    for _, roof in known[known["kind"] == "dram"].iterrows():
        own = bench.run is not None and roof["run"] == bench.run.manifest["name"]
        what, where = "copy" if "cop" in str(roof["how"]) else "read", "the run" if own else roof["run"]
        return float(roof["value"]), f"{what} measured in {where}"
    rated = ((launches.meta.get("gpu") or {}) if launches else {}).get("memory_bandwidth_bytes_per_s")
    return (float(rated), "theoretical peak by the driver") if rated else None


def limit(rows: pd.DataFrame, speed: tuple[float, str] | None) -> pd.DataFrame:
    """Return columns tokens, us: the time to move the minimum bytes at memory ``speed``; empty without a speed."""
    sizes = rows.drop_duplicates("tokens")[["tokens", "minimum_bytes"]]
    if speed is None:
        return pd.DataFrame({"tokens": [], "us": []})
    return pd.DataFrame({"tokens": sizes["tokens"], "us": sizes["minimum_bytes"] / speed[0] * 1e6})


def beside_peers(duel: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return an algorithm and the baseline at the sizes that others published or measured, with their figures.

    Returns:
        Columns tokens, E, topk, baseline_us, ours_us, empty_us, speedup, speedup_net, and one column per peer of
        ``published.align_peers()``, NA where it was not measured.
    """
    peers = published.align_peers()
    known = peers[["E", "topk"]].drop_duplicates()
    rows = duel[(duel["rival"] == baseline) & duel["tokens"].isin(SHOWN)].merge(known, on=["E", "topk"])
    rows = first(rows).rename(columns={"theirs_us": "baseline_us"})
    named = ["tokens", "E", "topk", "baseline_us", "ours_us", "empty_us", "speedup", "speedup_net"]
    rows = rows[named].merge(peers, on=["tokens", "E", "topk"], how="left")
    return rows.sort_values(["E", "tokens"], ignore_index=True)


def modes(bench: Bench, E: int, topk: int, algorithms: list[str]) -> pd.DataFrame:
    """Return one row per size, with a column ``<algorithm>|<mode>`` (median us) for each given algorithm and mode.

    The column ``odd`` holds the set of those columns that are ``outliers`` at this size.
    """
    rows = at(bench, E, topk, None)
    rows = rows[rows["algorithm"].isin(algorithms)]
    if rows.empty:
        return pd.DataFrame({"tokens": []})
    wide = rows.assign(column=rows["algorithm"] + "|" + rows["mode"])
    out = wide.pivot_table("median_us", "tokens", "column", aggfunc="first").reset_index()
    odd = outliers(wide)
    names: list[Any] = [set(odd.loc[odd["tokens"] == tokens, "column"]) for tokens in out["tokens"]]
    return out.assign(odd=names)


def padding(bench: Bench, E: int, topk: int) -> pd.DataFrame:
    """Return columns tokens, routing, block_m, padding_waste_pct of one E and topk, one row per case."""
    rows = bench.rows[(bench.rows["E"] == E) & (bench.rows["topk"] == topk)]
    named = ["tokens", "routing", "block_m", "padding_waste_pct"]
    return rows.drop_duplicates([*named[:3], "seed"])[named].sort_values("tokens", kind="stable", ignore_index=True)
