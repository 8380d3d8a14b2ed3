# SPDX-License-Identifier: Apache-2.0
"""What the experts benchmark found, as sentences rendered from its tables."""

from itertools import groupby
from typing import Any

import pandas as pd

from moe_lab.analysis import rules, sweep
from moe_lab.analysis.leads import largest_excess, leads, with_ours
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.sweep import Sweep
from moe_lab.pages.m_sweep.cautions import over
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import Finding, caution, each, failures, listed, number, percent, time
from moe_lab.spec import published

_LEADS = "M ours ours_us peer peer_us speedup verdict"
PICKED = (1, 16, 256, 4096)  # Ms that get a sentence of their own, with the largest of the run
MOST, ALL = 0.5, 1.05  # share of a difference that a part must explain to be its cause; traced times are not exact


def all_of(bench: Sweep, rows: pd.DataFrame, skewed: pd.DataFrame, ours: str, baseline: str) -> list[Finding | None]:
    """Say which backend wins where and why; the first sentence is the headline.

    ``rows`` are ``analysis.sweep.at`` of one model and routing, ``skewed`` is ``analysis.sweep.skew``.
    """
    if bench.run is None:
        return [Finding("", bench.missing)]
    failed = failures(bench, bench.failed, lambda one: f"M = {one.M:,}", "backend M routing error")
    if rows.empty:
        why = f"{bench.run.manifest['name']} has no times of this model and routing; give another."
        return [Finding("", why), *failed]
    return [
        headline(bench, rows, ours),
        *duels(rows, ours),
        places(rows),
        changes(rows, ours, baseline),
        bound(rows, ours),
        *over(bench, rows),
        uneven(skewed, ours),
        padding(rows, ours, baseline),
        elsewhere(),
        *state(bench, rows),
        *failed,
    ]


def headline(bench: Sweep, rows: pd.DataFrame, ours: str) -> Finding:
    """Say at how many Ms ours is ahead of the best peer, and by how much overall."""
    model, format, routing = (rows[column].iloc[0] for column in ("model", "format", "routing"))
    where = f"On {bench.gpu}, {model} in {format}, {routing} routing"
    table = leads(rows, ours)
    if table.empty:
        first = sweep.winners(rows)["winner"].value_counts()
        names = ", ".join(dict.fromkeys(rows["backend"]))
        said = f"{first.index[0]} is the quickest at {first.iloc[0]} of {first.sum()} sizes, of: {names}."
        return Finding(where, said)
    # A geometric mean, because ratios multiply: twice and half as fast are even.
    counts = {verdict: int((table["verdict"] == verdict).sum()) for verdict in ("ahead", "even", "behind")}
    others = [f", {name} at {count}" for name, count in counts.items() if count and name != "ahead"]
    ends: list[Any] = [next(rows_of(table.nsmallest(1, "speedup"))), next(rows_of(table.nlargest(1, "speedup")))]
    low, high = (f"{number(end.speedup)} at M = {end.M:,} (best peer at this M: {end.peer})" for end in ends)
    name, mean = table["ours"].iloc[0], number(sweep.geometric_mean(table["speedup"]))
    ahead = f"at {counts['ahead']} of {len(table)} sizes"
    return Finding(
        where,
        f"{name} is ahead of the best peer, the quickest kernel of another project at each "
        f"M, {ahead}{''.join(others)}; on the geometric mean {mean} times as fast, from {low} to {high}.",
        findings.rows(table, _LEADS),
        short=f"{name} is ahead of the best peer {ahead}, {mean} times as fast on the geometric mean "
        f"({model}, {format}, {bench.gpu}).",
    )


def duels(rows: pd.DataFrame, ours: str) -> list[Finding]:
    """Say for some Ms whether ours or the best peer is ahead, by how much, and in which part most of that lies."""
    table = leads(rows, ours)
    sizes = {*PICKED, *table["M"].tail(1)}
    return [_duel(rows[rows["M"] == one.M], one) for one in rows_of(table) if one.M in sizes]


def _duel(rows: pd.DataFrame, one: Any) -> Finding:
    peer = f"the best peer at this M, {one.peer}"
    fast, late = sorted((one.ours_us, one.peer_us))
    times = f"{time(fast / 1e3)} against {time(late / 1e3)}"
    told = findings.rows([one], _LEADS)
    if one.verdict == "even":
        return Finding(f"At M = {one.M:,}", f"{one.ours} and {peer}, cannot be told apart ({times}).", told)
    names = (one.ours, one.peer) if one.verdict == "ahead" else (one.peer, one.ours)
    behind = one.verdict == "behind"
    first, second = (one.ours, f"{peer},") if one.verdict == "ahead" else (f"{peer[:1].upper()}{peer[1:]},", one.ours)
    lead = percent(100 * (1 - fast / late))
    said = f"{first} is ahead of {second} by {lead} ({times}){_because(rows, *names, late - fast)}."
    return Finding(
        f"At M = {one.M:,}",
        said,
        told,
        "problem" if behind else "normal",
        stake_us=late - fast if behind else 0.0,
        short=f"At M = {one.M:,} {names[0]} is ahead of {names[1]} by {lead} ({times}).",
        change=f"At M = {one.M:,} run {one.peer} instead of {one.ours}." if behind else "",
    )


def _because(rows: pd.DataFrame, quick: str, slow: str, gap_us: float) -> str:
    """Say in which part of the call most of the difference lies, from the kernels traced in the same run.

    Nothing is said unless that part explains more than half of the difference, and not more than all of it.
    """
    found = largest_excess(sweep.stages(rows, [quick, slow]), quick, slow)
    if found is None or not MOST < (found[2] - found[1]) / gap_us <= ALL:
        return ""
    part, fast, late = found
    # From 99.5 % on it would read as 100 %.
    share = f"{percent(100 * (late - fast) / gap_us)} of that" if late - fast < 0.995 * gap_us else "all of that"
    times = f"{time(fast / 1e3)} instead of {time(late / 1e3)}"
    return f", because its kernels of {listed(part.split('+'))} take {times}, {share}"


def places(rows: pd.DataFrame) -> Finding | None:
    """Say which backend is the quickest in which range of M."""
    table, parts = sweep.winners(rows), []
    for name, group in groupby(rows_of(table), key=lambda row: row.winner):
        sizes = [int(row.M) for row in group]
        parts.append(f"{name} at M = {sizes[0]:,}" if len(sizes) == 1 else f"{name} from {sizes[0]:,} to {sizes[-1]:,}")
    return each("Quickest", parts, findings.rows(table, "M winner ms next lead_pct verdict"))


def changes(rows: pd.DataFrame, ours: str, baseline: str) -> Finding | None:
    """Say where a backend and the baseline change places, ours first."""
    names = [name for name in dict.fromkeys(rows["backend"]) if name != baseline]
    first = sorted(names, key=lambda n: n != ours)[:3]
    found = pd.concat([sweep.crossings(rows, name, baseline).head(3) for name in (*first, baseline)])
    parts = [
        f"{row.after} overtakes {row.before} between M = {row.low:,} and {row.high:,} (about {number(row.M, 2)})"
        for row in rows_of(found)
    ]
    return each("Changing places", parts, found)


def bound(rows: pd.DataFrame, ours: str) -> Finding | None:
    """Say which share of the roofline bound ours reaches, where it is highest and where lowest."""
    rows, name = with_ours(rows, ours)
    own = rows[(rows["backend"] == name) & rows["pct_of_roofline"].notna()]
    own = findings.rows(own, "backend M median_us roofline_us bound_by pct_of_roofline")
    if own.empty:
        return None
    low: Any = next(rows_of(own.nsmallest(1, "pct_of_roofline")))
    high: Any = next(rows_of(own.nlargest(1, "pct_of_roofline")))
    memory = own[own["bound_by"] == "memory"]["M"]
    limit = f"its bound is memory up to M = {int(memory.max()):,}" if len(memory) else "compute bounds it throughout"
    limit += " and compute from there on" if len(memory) and len(memory) < len(own) else ""
    lowest = f"{name} reaches {percent(low.pct_of_roofline)} of it at M = {low.M:,}"
    lost = own.assign(lost_us=own["median_us"] - own["roofline_us"])
    most: Any = next(rows_of(lost.nlargest(1, "lost_us")))
    beyond = f"At M = {most.M:,} {name} takes {time(most.lost_us / 1e3)} more than the {most.bound_by} bound"
    return Finding(
        "Against the bound",
        f"{lowest} and {percent(high.pct_of_roofline)} at M = {high.M:,}; {limit}.",
        own,
        stake_us=max(0.0, float(most.lost_us)),
        short=f"{beyond}, of which it reaches {percent(most.pct_of_roofline)}.",
        change=f"{beyond}: look there first, with the counters of notebook 03." if most.lost_us > 0 else "",
    )


def uneven(skewed: pd.DataFrame, ours: str) -> Finding | None:
    """Say what each routing costs ours at the largest M, beyond the change of the bound."""
    own = skewed[skewed["backend"] == ours] if len(skewed) else skewed
    parts = []
    for routing, part in own.groupby("routing", sort=False) if len(own) else ():
        last: Any = list(rows_of(part.sort_values("M")))[-1]
        worst: Any = next(rows_of(part.nlargest(1, "ratio_net")))
        parts.append(
            f"with {routing} routing {ours} takes {number(last.ratio)} times the uniform time at M = {last.M:,} (the "
            f"bound alone {number(last.bound_ratio)}), at worst {number(worst.ratio_net)} net of the bound, at "
            f"M = {worst.M:,}"
        )
    return each("Routing skew", parts, findings.rows(own, "M routing ratio bound_ratio ratio_net"))


def padding(rows: pd.DataFrame, ours: str, baseline: str) -> Finding | None:
    """Say how many padding rows ours and the baseline compute at the smallest and largest M."""
    parts, told = [], [rows.head(0)]
    for name in dict.fromkeys((ours, baseline)):
        own = rows[(rows["backend"] == name) & rows["padding_waste_pct"].notna()]
        ends = own.iloc[[0, -1]].drop_duplicates("M") if len(own) else own
        told.append(ends)
        for row in rows_of(ends):
            waste = row.padding_waste_pct
            more = f"{percent(waste)} more rows than" if waste >= 0.05 else "no more rows than"
            parts.append(f"{name} computes {more} the useful ones at M = {row.M:,}")
    ends = pd.concat(told)
    # Under a memory bound padding is free.
    costs = (ends["padding_waste_pct"] >= rules.PADDING_PCT) & (ends["bound_by"] == "compute")
    shown = findings.rows(ends, "backend M rows_useful rows_padded padding_waste_pct bound_by")
    return each("Padding", parts, shown, "problem" if costs.any() else "normal")


def elsewhere() -> Finding:
    """Say where the two backends of the published sweep change places."""
    table = published.sweep_table()
    first: Any = next(rows_of(table[table["speedup"] > 1].head(1)))
    last: Any = next(rows_of(table.tail(1)))
    return Finding(
        "Published sweep",
        f"on {published.SWEEP.setup.partition(',')[0]}, triton-kernels is the quicker one from M = {first.M:,} on, "
        f"{number(last.speedup)} times as fast as SGLang's at M = {last.M:,}.",
        table,
    )


def state(bench: Sweep, rows: pd.DataFrame) -> list[Finding]:
    """Say whether the cache was cold, and when the GPU ran below the requested clocks."""
    out = []
    cold = bench.measured.get("l2") or {}
    if cold and cold["ratio"] < 1:
        said = f"whether the L2 cache was cold. A read after the flush took {cold['ratio']} times a warm one, "
        said += "which no cache explains: the check failed."
        out.append(Finding("Not known", said, severity="caution"))
    elif cold and not cold["cold"]:
        said = f"the L2 cache was not cold (a read after the flush took {cold['ratio']} times a warm one)."
        out.append(caution(said))
    slowed = rows[rows["throttled"].notna() & (rows["throttled"] != "no")]
    if len(slowed):
        why = ", ".join(sorted({reason for text in slowed["throttled"] for reason in text.split(", ")}))
        sizes = [f"{int(m):,}" for m in sorted(set(slowed["M"]))]
        said = f"the GPU ran below the clocks asked for ({why}) at M = {', '.join(sizes)}."
        out.append(Finding("Clocks", said, findings.rows(slowed, "backend M sm_mhz power_w throttled"), "caution"))
    return out
