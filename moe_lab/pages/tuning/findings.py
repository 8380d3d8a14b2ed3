# SPDX-License-Identifier: Apache-2.0
"""What a tuning found, as sentences rendered from its tables."""

from typing import Any

import pandas as pd

from moe_lab.analysis import tuning
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.tuning import Tuning
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import Finding, each, percent, time

LEAST_PCT = 0.05  # less would read as 0.0 %


def all_of(run: Tuning) -> list[Finding | None]:
    """Say what tuning gains, where, and what a lookup costs; the first sentence is the headline."""
    if run.run is None:
        return [Finding("", run.missing)]
    best = tuning.chosen(run)
    if best.empty:
        why = f"{run.run.manifest['name']} has no M with a result yet; run the same tuning again to go on."
        return [Finding("", why)]
    first: Any = next(rows_of(run.rows[run.rows["phase"] == "final"]))
    where = f"On {run.gpu}, {first.model}, {first.format}, {first.backend}"
    return [
        headline(best, where),
        tiles(best),
        single(best),
        keys(tuning.between(run)),
        others(tuning.shipped(run)),
        effort(run, best),
    ]


def headline(best: pd.DataFrame, where: str) -> Finding:
    """Say what tuning gains; the most time that a call at one M saves is at stake."""
    known = best.dropna(subset="gain_pct").astype({"gain_pct": float})
    told = findings.rows(best, "M w13 w2 us default_us gain_pct")
    if known.empty or known["gain_pct"].max() < LEAST_PCT:
        return Finding(where, f"{gain(best)}.", told)
    saved = known["default_us"].astype(float) - known["us"].astype(float)
    most: Any = next(rows_of(known.loc[[saved.idxmax()]]))
    name = where.removeprefix("On ")
    return Finding(
        where,
        f"{gain(best)}.",
        told,
        stake_us=float(saved.max()),
        short=f"Tuned tiles save {percent(float(known['gain_pct'].median()))} of a call on the median of "
        f"{_sizes(len(known))} ({name}).",
        change=f"Keep the tuned tiles (`moe-lab configs`): at M = {most.M:,} a call takes {time(most.us / 1e3)} "
        f"instead of {time(most.default_us / 1e3)}.",
    )


def gain(best: pd.DataFrame) -> str:
    """Say how much time the tuned tiles save over the backend's own tile."""
    known = best.dropna(subset="gain_pct").astype({"gain_pct": float})
    if known.empty:
        return f"tiles were found for {_sizes(len(best))}, none of which the backend's own tile could run"
    most: Any = next(rows_of(known.nlargest(1, "gain_pct")))
    if most.gain_pct < LEAST_PCT:
        return f"no tile is quicker than the backend's own at any of {_sizes(len(known))}"
    return (
        f"tuned tiles save {percent(float(known['gain_pct'].median()))} of a call against the backend's own on the "
        f"median of {_sizes(len(known))}, most at M = {most.M:,}, {percent(most.gain_pct)} "
        f"({time(most.us / 1e3)} instead of {time(most.default_us / 1e3)})"
    )


def _sizes(count: int) -> str:
    return f"{count} size{'' if count == 1 else 's'}"


def tiles(best: pd.DataFrame) -> Finding:
    """Say how many rows the best tile has in which range of M."""
    block_m = best["w13"].str.split("x").str[0].astype(int)
    changed = block_m != block_m.shift()  # a new range of M begins here
    spans = [
        f"{block_m[part.index[0]]} at M = {part.min():,}" + (f" to {part.max():,}" if len(part) > 1 else "")
        for _, part in best["M"].astype(int).groupby(changed.cumsum())
    ]
    return Finding("Rows of the best tile", f"{'; '.join(spans)}.", findings.rows(best, "M w13 w2"))


def single(best: pd.DataFrame) -> Finding | None:
    """Say what it costs to use one tile for both GEMMs, as vLLM does."""
    known = best.dropna(subset="one_pct").astype({"one_pct": float})
    if known.empty:
        return None
    most: Any = next(rows_of(known.nlargest(1, "one_pct")))
    said = (
        f"it costs {percent(float(known['one_pct'].median()))} on the median, most at M = {most.M:,}, "
        f"{percent(most.one_pct)}."
    )
    same = "at every size the best pair is one tile."
    shown = findings.rows(known, "M w13 w2 us one one_us one_pct")
    return Finding("One tile for both GEMMs", same if most.one_pct < 0.05 else said, shown)


def keys(between: pd.DataFrame) -> Finding | None:
    """Say what the nearest key costs between the tuned Ms."""
    if between.empty:
        return None
    worst: Any = next(rows_of(between.nlargest(1, "cost_pct")))
    return Finding(
        "Nearest key",
        f"at {_sizes(len(between))} between the tuned ones its tiles cost "
        f"{percent(float(between['cost_pct'].median()))} on the median against the best measured there, most at "
        f"M = {worst.M:,}, {percent(worst.cost_pct)} (key {worst.nearest:,}).",
        findings.rows(between, "M nearest nearest_us best_us cost_pct"),
        stake_us=float(worst.nearest_us) - float(worst.best_us),
        short=f"At M = {worst.M:,} the tiles of the nearest key, {worst.nearest:,}, cost {percent(worst.cost_pct)}.",
        change=f"Tune M = {worst.M:,} too: the tiles of M = {worst.nearest:,} cost {percent(worst.cost_pct)} there.",
    )


def others(shipped: pd.DataFrame) -> Finding | None:
    """Say how much slower the tiles that other projects ship are in our kernel than the best."""
    parts = [
        f"{name}'s are {percent(max(0.0, float(slower.median())))} slower on the median of {_sizes(len(slower))}"
        for name, slower in shipped.groupby("release")["slower_pct"]
    ]
    shown = findings.rows(shipped, "M release w13 w2 us chosen_us slower_pct")
    return each("Shipped tiles in our kernel", parts, shown)


def effort(run: Tuning, best: pd.DataFrame) -> Finding:
    """Say how many kernels were compiled, and how far the chosen tiles are from the best ever seen."""
    compiled = run.rows[run.rows["phase"] == "compile"]
    wrong = int(compiled["error"].notna().sum())
    seen = best["over_seen_pct"].dropna().astype(float)
    most = f"; the chosen GEMMs take at most {percent(float(seen.max()))} more than the best ever seen"
    far = most if len(seen) else ""
    complete = run.run is None or run.run.manifest["rows"]["complete"]
    ended = "" if complete else "; the budget ended before all were measured"
    said = f"{len(compiled):,} kernels compiled, {wrong:,} of them could not be run{far}{ended}."
    shown = findings.rows(best, "M tried failed over_seen_pct")
    return Finding("Search", said, shown, "normal" if complete else "caution")
