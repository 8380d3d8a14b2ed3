# SPDX-License-Identifier: Apache-2.0
"""The benchmark of experts on several ranks: each part against its floor, who waits, what skew costs, more ranks."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis.bench_rows import BenchRun
from moe_lab.analysis.phases import rows_of
from moe_lab.spec import formats, plugins
from moe_lab.spec.problem import DTYPE_BYTES, MoEProblem

COLUMNS = ["model", "M", "K", "N", "E", "topk", "format", "activation", "routing", "seed", "ranks", "comm", "backend"]
COLUMNS += ["part", "mode", "median_us", "p20_us", "p80_us", "correct", "error_rms_rel", "bound_rms_rel"]
COLUMNS += ["needed_bytes", "sent_bytes", "sent_gb_per_s", "link_bytes_per_s", "trip_us", "floor_us", "experts_hit"]
COLUMNS += ["rows_useful", "rows_most", "rank_rows", "expert_rows", "ranks_us", "error"]
PARTS = ("dispatch", "experts", "combine")
CASE = ["model", "format", "routing", "M"]
SPARES = (1, 2, 4)  # hottest experts that every rank gets a copy of


class Bench(BenchRun):
    """A run of the benchmark of several ranks."""

    @property
    def roofs_per_s(self) -> dict[str, float]:
        """Rates that bound the experts, as the run measured them; empty if it did not."""
        measured = ((self.run.manifest.get("measured") or {}).get("roofs") or {}) if self.run else {}
        rates = {name: measured.get(name) for name in ("read_bytes_per_s", "matmul_flops_per_s")}
        return {name: float(rate) for name, rate in rates.items() if rate} if all(rates.values()) else {}


def timed(benches: Sequence[Bench]) -> pd.DataFrame:
    """Return the rows with times of several runs."""
    rows = [bench.rows[bench.rows["median_us"].notna()] for bench in benches if bench.run]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)


def only(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """Return the rows of one value in each named column: the wanted one, or the first where there is none of it."""
    for column, value in wanted.items():
        if len(table):
            there = bool((table[column] == value).any())
            table = table[table[column] == (value if there else table[column].iloc[0])]
    return table


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each part against its floor.

    Returns:
        Columns of the case, comm, part, median_us, floor_us, over_floor (times), needed_bytes, sent_gb_per_s and
        error_rms_rel.
    """
    out = rows[[*CASE, "comm", "part", "median_us", "floor_us", "needed_bytes", "sent_gb_per_s", "error_rms_rel"]]
    ratio = out["median_us"].astype("Float64") / out["floor_us"].astype("Float64")
    return out.assign(over_floor=ratio).sort_values([*CASE, "comm"], kind="stable", ignore_index=True)


def side_by_side(parts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per case and comm: of each part its time (``<part>_us``) and times its floor (``<part>_over``)."""
    index = [*CASE, "comm"]
    wide = {
        f"{part}_{name}": own[column]
        for part, own in parts.set_index(index).groupby("part")
        for name, column in (("us", "median_us"), ("over", "over_floor"))
    }
    columns = [f"{part}_{name}" for part in ("full", *PARTS) for name in ("us", "over")]
    return (
        pd.DataFrame(wide).reindex(columns=columns).reset_index()
        if len(parts)
        else pd.DataFrame(columns=[*index, *columns])
    )


def by_rank(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each rank spends on each part, one part after another, and how long it waits for other ranks.

    Waiting is what dispatch and combine take longer than without the experts of other ranks in between.

    Returns:
        Columns of the case, comm, rank, pairs (token-expert pairs that it computes), dispatch_us, experts_us,
        combine_us and waits_us.
    """
    found = []
    for row in rows_of(rows[rows["part"] == "full"]):
        if not row.ranks_us:  # one launch did all
            continue
        times = {tuple(name.split("|", 1)): us for name, us in row.ranks_us}
        for rank, pairs in row.rank_rows or []:
            own = {part: times.get((rank, part), math.nan) for part in PARTS}
            waits = sum(max(0.0, own[way] - times.get((rank, f"{way} alone"), math.nan)) for way in PARTS[::2])
            named = {name: getattr(row, name) for name in (*CASE, "comm")} | {"rank": int(rank), "pairs": int(pairs)}
            found.append(named | {f"{part}_us": us for part, us in own.items()} | {"waits_us": waits})
    columns = [*CASE, "comm", "rank", "pairs", *(f"{part}_us" for part in PARTS), "waits_us"]
    return pd.DataFrame(found, columns=columns)


def experts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return case (model, routing, largest M), place and pairs of each expert, most pairs first."""
    found = []
    for row in rows_of(_counted(rows).sort_values("M").drop_duplicates(["model", "routing"], keep="last")):
        pairs = sorted((int(n) for _, n in row.expert_rows), reverse=True)
        case = f"{row.model}, {row.routing}, M = {row.M:,}"
        found += [{"case": case, "place": place, "pairs": n} for place, n in enumerate(pairs, start=1)]
    return pd.DataFrame(found, columns=["case", "place", "pairs"])


def _counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per input, that with the pairs of each expert; the format does not matter to them."""
    full = rows[(rows["part"] == "full") & rows["expert_rows"].notna()]
    return full.drop_duplicates(["model", "routing", "M"])


def placements(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what other placements of the experts would make of the fullest rank, from the pairs of each expert.

    Balanced: experts in descending order, each to the rank with fewest pairs that has room. Copies: the hottest experts
    are on every rank, which share their tokens; the others as balanced.

    Returns:
        Columns of the case, placement, fullest, over_mean (times the mean), fewer_pct (pairs of the fullest rank fewer
        than as measured).
    """
    found = []
    for row in rows_of(_counted(rows)):
        counts = np.zeros(int(row.E))
        for expert, pairs in row.expert_rows:
            counts[int(expert)] = pairs
        measured = max(n for _, n in row.rank_rows)
        told = {"as measured": measured, "balanced": _fullest(counts, int(row.ranks), 0)}
        told |= {f"balanced, {n} hottest on all ranks": _fullest(counts, int(row.ranks), n) for n in SPARES}
        for placement, fullest in told.items():
            named = {name: getattr(row, name) for name in CASE} | {"placement": placement, "fullest": round(fullest)}
            more = {"over_mean": fullest * row.ranks / counts.sum(), "fewer_pct": 100 * (1 - fullest / measured)}
            found.append(named | more)
    return pd.DataFrame(found, columns=[*CASE, "placement", "fullest", "over_mean", "fewer_pct"])


def _fullest(counts: "np.ndarray[Any, Any]", ranks: int, copies: int) -> float:
    """Return the pairs of the fullest rank where the hottest experts are on all, and the others are balanced."""
    order = np.argsort(-counts, kind="stable")
    pairs = np.full(ranks, counts[order[:copies]].sum() / ranks)
    room = np.full(ranks, math.ceil((len(counts) - copies) / ranks))
    for expert in order[copies:]:
        rank = min((r for r in range(ranks) if room[r]), key=lambda r: pairs[r])
        pairs[rank] += counts[expert]
        room[rank] -= 1
    return float(pairs.max())


def projection(benches: Sequence[Bench], ranks: Sequence[int]) -> pd.DataFrame:
    """Return what the model below expects on some numbers of ranks with as many tokens on each; no measurement.

    A way takes a fixed time plus its bytes over a rate, both fitted to the ways as measured over M. Bytes are those of
    uniform routing: a token goes once to each other rank that has one of its experts, or as the way's ``sends`` says.
    Experts take their floor (bytes or FLOPs over the roofs of the run) times what they took over it at the measured
    number of ranks. Every two ranks are taken to have the link that was measured, and loads to be even.

    Returns:
        model, format, comm, M, ranks, dispatch_us, experts_us, combine_us, total_us, tokens_per_us (of a rank),
        fit_pct (the largest deviation of the fitted ways from what was measured). A run without roofs has no rows.
    """
    found = []
    for bench in benches:
        rows = timed([bench])
        rows = rows[rows["routing"] == "uniform"]
        for named, part in rows.groupby(["model", "format", "comm"]) if bench.roofs_per_s else ():
            known = dict(zip(("model", "format", "comm"), named, strict=True))
            found += [known | more for more in _projected(part, bench.roofs_per_s, ranks)]
    columns = ["model", "format", "comm", "M", "ranks", *(f"{way}_us" for way in PARTS), "total_us", "tokens_per_us"]
    return pd.DataFrame(found, columns=[*columns, "fit_pct"])


def _projected(rows: pd.DataFrame, roofs: Mapping[str, float], ranks: Sequence[int]) -> list[dict[str, Any]]:
    fits = {way: fit for way in PARTS[::2] if (fit := _fit(rows[rows["part"] == way]))}
    found = []
    measured = rows[rows["part"] == "experts"].drop_duplicates("M").sort_values("M").to_dict("records")
    for row, count in product(measured if len(fits) == 2 else [], ranks):
        own = {way: fixed + rate * _bytes(row, way, count) for way, (fixed, rate, _) in fits.items()}
        least = experts_floor_us(row, count, roofs) / experts_floor_us(row, int(row["ranks"]), roofs)
        own["experts"] = float(row["median_us"]) * least
        total = sum(own.values())
        times = {f"{way}_us": own[way] for way in PARTS} | {"total_us": total, "tokens_per_us": row["M"] / total}
        off = max(off for *_, off in fits.values())
        found.append({"M": int(row["M"]), "ranks": count} | times | {"fit_pct": off})
    return found


def _fit(rows: pd.DataFrame) -> tuple[float, float, float] | None:
    """Return (fixed us, us a byte, largest deviation in per cent) of a way over M; None with fewer than two sizes."""
    if len(rows) < 2:
        return None
    us, size = rows["median_us"].to_numpy(float), rows["sent_bytes"].to_numpy(float)
    # Weighted by 1 / us: relative deviations count, or the largest size alone would decide.
    columns = np.stack([1 / us, size / us], axis=1)
    fixed, rate = np.linalg.lstsq(columns, np.ones(len(us)), rcond=None)[0]
    if rate < 0:
        fixed, rate = float(np.median(us)), 0.0
    return float(fixed), float(rate), float(100 * np.abs((fixed + rate * size) / us - 1).max())


def _bytes(row: Any, way: str, ranks: int) -> float:
    """Return the bytes that a rank sends on average if routing is uniform."""
    known = formats.get(row["format"])
    per_row = known.activation_bytes(1, row["K"]) if way == "dispatch" else row["K"] * DTYPE_BYTES[known.dtype]
    comm = str(row["comm"])
    sends = plugins.info("comm", comm).get("sends") if comm in plugins.names("comm") else None
    rows = {"all": 1.0, "pairs": row["topk"] / ranks}.get(sends or "", _needs(row, ranks))
    return float(row["M"] * (ranks - 1) * rows * per_row)


def _needs(row: Any, ranks: int) -> float:
    """Return the chance that a token needs a given rank."""
    E, share = int(row["E"]), int(row["E"]) / ranks
    return 1 - math.prod(max(0.0, (E - share - i) / (E - i)) for i in range(int(row["topk"])))


def experts_floor_us(row: Any, ranks: int, roofs: Mapping[str, float]) -> float:
    """Return the least time of a rank's experts if routing is uniform: by bytes or by FLOPs.

    Args:
        row: M tokens a rank, K, N, E, topk, format, activation.
        ranks: that share the experts.
        roofs: read_bytes_per_s and matmul_flops_per_s.
    """
    K, N, E, topk = (int(row[name]) for name in ("K", "N", "E", "topk"))
    M = int(row["M"]) * ranks
    p = MoEProblem(round(M * _needs(row, ranks)), K, N, E, topk, row["format"], row["activation"])
    hit = E / ranks * (1 - (1 - topk / E) ** M)
    size = p.minimum_bytes(0) + hit * (p.minimum_bytes(1) - p.minimum_bytes(0))
    flops = p.executed_flops(int(row["M"]) * topk)
    return max(size / roofs["read_bytes_per_s"], flops / roofs["matmul_flops_per_s"]) * 1e6
