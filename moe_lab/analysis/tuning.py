# SPDX-License-Identifier: Apache-2.0
"""A tuning: the time of every tile, the tiles chosen for each M, and the cost of a lookup between tuned Ms."""

from dataclasses import dataclass

import pandas as pd

from moe_lab.analysis.bench_rows import BenchRun
from moe_lab.spec.configs import FIELDS, choose

COLUMNS = ["M", "K", "N", "E", "topk", "format", "model", "backend", "routing", "phase", "part", "round", "w13", "w2"]
COLUMNS += ["origin", "repetitions", "median_us", "p20_us", "p80_us", "reference_us", "correct", "error_max_rel"]
COLUMNS += ["bound_max_rel", "error", "seconds"]


@dataclass(frozen=True)
class Tuning(BenchRun):
    """A run of a tuning."""


def landscape(tuning: Tuning, M: int = 0) -> pd.DataFrame:
    """Return every tile measured at one M (0 = the middle one), once, with its time in its last round.

    Returns:
        One row per GEMM and tile: M, part, tile, ``FIELDS``, round, us (comparable only within a part), over_best
        (time / best time of its part), sorted by part and time.
    """
    rows = tuning.rows[(tuning.rows["phase"] == "search") & tuning.rows["median_us"].notna()]
    columns = ["M", "part", "tile", *FIELDS, "round", "us", "over_best"]
    if rows.empty:
        return pd.DataFrame({column: pd.Series(dtype="object") for column in columns})
    sizes = sorted(set(rows["M"]))
    rows = rows[rows["M"] == (M if M in sizes else sizes[len(sizes) // 2])]
    # Rounds are far apart in time: the reference tile, timed in each, shows how much the clocks changed in between.
    scale = rows.groupby(["part", "round"])["reference_us"].transform("first") / rows["reference_us"]
    rows = rows.assign(us=(rows["median_us"] * scale.fillna(1.0)).astype(float), tile=rows["w13"].fillna(rows["w2"]))
    rows = rows.sort_values("round").drop_duplicates(["part", "tile"], keep="last")
    best = rows.groupby("part")["us"].transform("min")
    split = rows["tile"].str.split("x", expand=True).iloc[:, : len(FIELDS)].astype(int)  # options for AMD may follow
    split.columns = pd.Index(FIELDS)
    full = rows.assign(over_best=rows["us"] / best).join(split)
    return full[columns].sort_values(["part", "us"], ignore_index=True)


def chosen(tuning: Tuning) -> pd.DataFrame:
    """Return what was found for each M.

    Returns:
        One row per M: M, w13, w2, us, default_us, gain_pct (time saved against the backend's default tile), one, one_us
        (the best single tile for both GEMMs), one_pct (what that costs), second_us, over_seen_pct (how far the two
        GEMMs, by their last round, are above the best ever seen of each), tried, failed; NA where not known.
    """
    rows = choose.records(tuning.rows)
    out = []
    for point in choose.points(rows):
        finals = choose.finals(rows, point.M)
        default = next((r["median_us"] for r in finals if "default" in str(r["origin"])), None)
        search = [r for r in rows if r["M"] == point.M and r["phase"] == "search" and r["round"] == 0]
        out.append(
            {
                "M": point.M,
                "w13": finals[0]["w13"],
                "w2": finals[0]["w2"],
                "us": point.us,
                "default_us": default,
                "gain_pct": None if default is None or point.us is None else 100 * (1 - point.us / default),
                "one": "x".join(map(str, point.one)) if point.one else None,
                "one_us": point.one_us,
                "one_pct": 100 * (point.one_us / point.us - 1) if point.one_us and point.us else None,
                "second_us": finals[1]["median_us"] if len(finals) > 1 else None,
                "over_seen_pct": _over_seen(tuning, point.M, finals[0]["w13"], finals[0]["w2"]),
                "tried": len(search),
                "failed": sum(r["error"] is not None for r in search),
            }
        )
    columns = ["M", "w13", "w2", "us", "default_us", "gain_pct", "one", "one_us", "one_pct", "second_us"]
    return pd.DataFrame(out, columns=[*columns, "over_seen_pct", "tried", "failed"])


def _over_seen(tuning: Tuning, M: int, w13: str, w2: str) -> float | None:
    rows = tuning.rows[(tuning.rows["phase"] == "search") & tuning.rows["median_us"].notna() & (tuning.rows["M"] == M)]
    # Relative to the reference in the same round, so that rounds with different clocks can be compared.
    share = (rows["median_us"] / rows["reference_us"]).astype(float)
    base = rows.groupby("part")["reference_us"].median().astype(float)
    seen, own = 0.0, 0.0
    for part, tile in (("w13", w13), ("w2", w2)):
        mine = share[(rows["part"] == part) & (rows[part] == tile)]
        if mine.empty or mine.isna().all():
            return None
        seen += base[part] * share[rows["part"] == part].min()
        own += base[part] * mine.iloc[-1]
    return 100 * (own / seen - 1)


def between(tuning: Tuning) -> pd.DataFrame:
    """Return, for each M between tuned ones, what taking the tiles of the nearest key costs.

    Returns:
        One row per M: M, nearest (the key that a lookup takes), nearest_us, other (the key on the other side),
        other_us, default_us, best_us (of all measured at this M), cost_pct (nearest over best).
    """
    rows = choose.records(tuning.rows)
    tuned = None if tuning.run is None else choose.tuned(rows, tuning.run.manifest)
    out = []
    for M in sorted({r["M"] for r in choose.finals(rows, phase="between")}) if tuned else []:
        own = choose.finals(rows, M, "between")
        # The origin of a tile lists where it comes from, such as "key 64, default".
        keys = {
            int(word[4:]): r["median_us"] for r in own for word in str(r["origin"]).split(", ") if word[:4] == "key "
        }
        nearest = tuned.nearest(M, tuned.topk).M if tuned else 0
        if nearest not in keys:
            continue
        other = next((key for key in keys if key != nearest), None)
        best = own[0]["median_us"]
        out.append(
            {
                "M": M,
                "nearest": nearest,
                "nearest_us": keys[nearest],
                "other": other,
                "other_us": keys.get(other) if other is not None else None,
                "default_us": next((r["median_us"] for r in own if "default" in str(r["origin"])), None),
                "best_us": best,
                "cost_pct": 100 * (keys[nearest] / best - 1),
            }
        )
    columns = ["M", "nearest", "nearest_us", "other", "other_us", "default_us", "best_us", "cost_pct"]
    return pd.DataFrame(out, columns=columns)


def shipped(tuning: Tuning) -> pd.DataFrame:
    """Return the tiles that other projects ship, measured in our kernel, beside the chosen ones.

    Returns:
        One row per M and release: M, release, w13, w2, us, chosen_us, slower_pct.
    """
    rows = choose.records(tuning.rows)
    best = {point.M: point.us for point in choose.points(rows)}
    out = [
        {
            "M": r["M"],
            "release": name,
            "w13": r["w13"],
            "w2": r["w2"],
            "us": r["median_us"],
            "chosen_us": best[r["M"]],
            "slower_pct": 100 * (r["median_us"] / best[r["M"]] - 1),
        }
        for r in choose.finals(rows)
        for name in str(r["origin"]).split(", ")
        if name not in ("search", "default")
    ]
    return pd.DataFrame(out, columns=["M", "release", "w13", "w2", "us", "chosen_us", "slower_pct"])
