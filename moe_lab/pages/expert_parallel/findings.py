# SPDX-License-Identifier: Apache-2.0
"""What several ranks cost and wait for, as sentences rendered from tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from moe_lab.analysis import ep, overlap, ranks
from moe_lab.analysis.bench_rows import BenchRun
from moe_lab.analysis.phases import rows_of
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import Finding, number, percent, time

INPUT = " ".join(ep.CASE)
CASE = f"{INPUT} comm"


def all_of(
    benches: Sequence[BenchRun],
    parts: pd.DataFrame,
    by_rank: pd.DataFrame,
    placed: pd.DataFrame,
    projected: pd.DataFrame,
    captured: ranks.Capture,
) -> list[Finding | None]:
    """Say what a layer on several ranks takes, and why; the first sentence is the headline.

    ``parts``, ``by_rank``, ``placed`` and ``projected`` are of ``analysis.ep``.
    """
    missing = [bench.missing for bench in benches if bench.missing]  # that there is no capture says its section
    said = [
        headline(benches, parts),
        quickest(parts),
        *(over_floor(parts, way) for way in ("dispatch", "combine")),
        shared_experts(overlap.saved(parts)),
        waiting(by_rank),
        balance(placed),
        exposure(captured),
        latest(captured),
        covered(captured),
        more_ranks(projected),
        *(finding for bench in benches for finding in failed(bench)),
    ]
    return [*said, *map(findings.caution, missing)]


def headline(benches: Sequence[BenchRun], parts: pd.DataFrame) -> Finding | None:
    """Say what the quickest way takes at the largest M, and which share of it is communication."""
    if parts.empty:
        return None
    bench = next(bench for bench in benches if bench.run)
    first = _same(parts[parts["part"] == "full"], bench.rows.iloc[0], "model format routing")
    best = _most(first[first["M"] == first["M"].max()].assign(quick=lambda t: -t["median_us"]), "quick")
    own = _same(parts, best, CASE)
    ways = own[own["part"].isin(["dispatch", "combine"])]["median_us"]
    share = f"{percent(100 * ways.sum() / best['median_us'])} of it dispatch and combine" if len(ways) else "all of it"
    said = (
        f"On {bench.rows['ranks'].iloc[0]} {bench.gpu}, experts of {best['model']} in {best['format']} take "
        f"{time(best['median_us'] / 1e3)} at {best['M']:,} tokens of each, {share} by {best['comm']}."
    )
    return Finding("", said, findings.rows(own, f"{CASE} part median_us floor_us"))


def quickest(parts: pd.DataFrame) -> Finding | None:
    """Say which way between ranks is quickest how often, and how far ahead of the others."""
    full = parts[parts["part"] == "full"]
    table = full.pivot_table(index=INPUT.split(), columns="comm", values="median_us").astype(float).dropna()
    if table.empty or table.shape[1] < 2:
        return None
    wins = table.idxmin(axis=1).value_counts()
    best = str(wins.index[0])
    ratio = np.exp(np.log(table.drop(columns=best).div(table[best], axis=0)).mean()).sort_values()
    others = [f"{number(float(times))} times as long with {name}" for name, times in ratio.items()]
    said = (
        f"{best} is the quickest in {wins.iloc[0]} of {len(table)} cases; a call takes {findings.listed(others)} "
        "(geometric means)."
    )
    rows = findings.rows(table.reset_index(), " ".join([INPUT, *map(str, table.columns)]))
    return Finding("Between ranks", said, rows)


def over_floor(parts: pd.DataFrame, way: str) -> Finding | None:
    """Say how far the quickest way is from its floor, at the smallest and the largest M."""
    rows = parts[(parts["part"] == way) & parts["over_floor"].notna()]
    if rows.empty:
        return None
    rows = rows.assign(quick=-rows["median_us"])
    ends = [_most(rows[rows["M"] == M], "quick") for M in dict.fromkeys((rows["M"].min(), rows["M"].max()))]
    said = " and ".join(
        f"{number(float(one['over_floor']))} times its floor of {time(one['floor_us'] / 1e3)} at M = {one['M']:,} "
        f"({one['comm']}, {one['model']} in {one['format']})"
        for one in ends
    )
    wrong = rows[rows["over_floor"] < 1]
    if len(wrong):
        said += f"; {len(wrong)} {'rows are' if len(wrong) > 1 else 'row is'} below the floor, which is wrong there: "
        said += "the link can do more than was measured in that run"
    stake = max(0.0, *(float(one["median_us"] - one["floor_us"]) for one in ends))
    table = findings.rows(pd.DataFrame(ends), f"{CASE} median_us floor_us over_floor")
    return Finding(f"{way.capitalize()} of the quickest way", f"{said}.", table, stake_us=stake)


def shared_experts(saved: pd.DataFrame) -> Finding | None:
    """Say what overlapping saves at best and at worst, and how often shared experts do better among the routed ones."""
    if saved.empty:
        return None
    ends = [_most(saved.assign(costs=-saved["saved_us"]), column) for column in ("saved_us", "costs")]
    said = " and ".join(
        f"{'saves' if one['saved_us'] > 0 else 'costs'} {time(abs(one['saved_us']) / 1e3)} of "
        f"{time(one['full_us'] / 1e3)} at M = {one['M']:,} ({one['model']}, {one['format']}, {one['comm']})"
        for one in ends[: min(2, len(saved))]
    )
    both = saved[saved["fused_us"].notna()]
    among = int((both["fused_us"] < both["overlapped_us"]).sum())
    said = f"to compute them while rows travel {said}"
    said += f"; among the routed ones they are quicker in {among} of {len(both)} cases." if len(both) else "."
    least = saved[["fused_us", "overlapped_us"]].min(axis=1)
    stake = max(0.0, float((saved["full_us"] - least).max()))
    change = "compute shared experts where the table has the least time" if stake else ""
    rows = findings.rows(saved, f"{CASE} {' '.join(overlap.COLUMNS)}")
    return Finding("Shared experts", said, rows, stake_us=stake, change=change)


def waiting(by_rank: pd.DataFrame) -> Finding | None:
    """Say which rank waits longest, and what the slowest one does meanwhile."""
    if by_rank.empty or not by_rank["waits_us"].max() > 0:
        return None
    most = _most(by_rank, "waits_us")
    case = _same(by_rank, most, CASE)
    slow = _most(case, "experts_us")
    said = (
        f"rank {most['rank']} waits {time(most['waits_us'] / 1e3)} at M = {most['M']:,}, {most['routing']} "
        f"({most['model']}, {most['format']}, {most['comm']}); the experts of rank {slow['rank']} take longest, "
        f"{time(slow['experts_us'] / 1e3)} for {slow['pairs']:,} pairs against {time(most['experts_us'] / 1e3)} for "
        f"{most['pairs']:,}."
    )
    change = "place experts by their load, see the table of placements" if slow["rank"] != most["rank"] else ""
    rows = findings.rows(case, f"{CASE} rank pairs dispatch_us experts_us combine_us waits_us")
    return Finding("Waiting", said, rows, "problem", float(most["waits_us"]), change=change)


def balance(placed: pd.DataFrame) -> Finding | None:
    """Say what other placements would make of the fullest rank, where that is fullest."""
    measured = placed[placed["placement"] == "as measured"]
    if measured.empty:
        return None
    worst = _most(measured, "over_mean")
    case = _same(placed, worst, INPUT)
    others: list[Any] = list(rows_of(case[case["placement"] != "as measured"]))
    # Copies of hot experts are told where they do more than to place each expert well.
    better = [row for row in others[1:] if row.over_mean < 0.995 * others[0].over_mean][:1]
    told = [f"{number(row.over_mean)} {row.placement}" for row in (others[0], *better)]
    said = (
        f"at M = {worst['M']:,}, {worst['routing']} ({worst['model']}), the fullest rank has "
        f"{number(float(worst['over_mean']))} times the mean pairs; by their pairs it would have "
        f"{' or '.join(told)}{'' if better else ', and copies of hot experts would add nothing'}."
    )
    return Finding("Load", said, findings.rows(case, f"{INPUT} placement fullest over_mean fewer_pct"))


def exposure(captured: ranks.Capture) -> Finding | None:
    """Say how much of a step is communication that nothing hides."""
    if captured.found is None:
        return None
    table = ranks.exposed(captured.found)
    most = _most(table, "exposed_us")
    said = (
        f"{time(most['exposed_us'] / 1e3)} of the step of rank {most['rank']:.0f}, {time(most['step_us'] / 1e3)}, are "
        f"communication while it computes nothing ({percent(most['exposed_pct'])}); {time(most['hidden_us'] / 1e3)} "
        "are hidden."
    )
    change = "compute shared experts, or tokens that are there already, while rows travel"
    rows = findings.rows(table, "rank step_us compute_us communication_us hidden_us exposed_us exposed_pct idle_us")
    return Finding("Exposed communication", said, rows, "problem", float(most["exposed_us"]), change=change)


def latest(captured: ranks.Capture) -> Finding | None:
    """Say which rank makes the others wait most in the captured steps."""
    table = ranks.arrivals(captured.found) if captured.found else pd.DataFrame()
    if table.empty:
        return None
    most = _most(table, "late_us")
    said = (
        f"rank {most['rank']} begins {most['stage']} {time(most['late_us'] / 1e3)} after the first rank (median), and "
        f"is the last in {percent(most['last_pct'])} of the steps."
    )
    return Finding("Who comes last", said, findings.rows(table, "stage rank late_us last_pct"))


def covered(captured: ranks.Capture) -> Finding | None:
    """Say how much of the kernel time of the steps lies in a stage."""
    if captured.found is None:
        return None
    table = captured.found.table
    said = (
        f"{percent(captured.found.covered_pct)} of the kernel time of {table['step'].nunique()} steps on "
        f"{table['rank'].nunique()} ranks lies in a stage of its rank."
    )
    return Finding("Attribution", said)


def more_ranks(projected: pd.DataFrame) -> Finding | None:
    """Say what the model expects on the most ranks at the largest M, and how well it fits what was measured."""
    if projected.empty:
        return None
    first = _same(projected, projected.iloc[0], "model format")
    most = first[(first["M"] == first["M"].max()) & (first["ranks"] == first["ranks"].max())]
    best: Any = most.sort_values("total_us").iloc[0]
    ways = 100 * (1 - best["experts_us"] / best["total_us"])
    said = (
        f"{best['model']} in {best['format']} would take {time(best['total_us'] / 1e3)} on {best['ranks']} ranks of "
        f"{best['M']:,} tokens with {best['comm']}, {percent(ways)} of it dispatch and combine, if all links were as "
        f"measured; the fit of its ways is off by up to {percent(best['fit_pct'])}."
    )
    own = _same(projected, best, "model format comm M")
    return Finding("Projection, not measured", said, own.head(findings.MOST_ROWS))


def failed(bench: BenchRun) -> list[Finding]:
    """Say which ways failed where."""
    wrong = bench.rows[bench.rows["error"].notna() & (bench.rows["part"] == "full")]
    columns = "comm model format routing M error"
    return findings.failures(bench, wrong, lambda row: f"M = {row.M}, {row.routing}, {row.format}", columns)


def _same(table: pd.DataFrame, one: Any, columns: str) -> pd.DataFrame:
    """Return the rows that have the values of one in some columns."""
    names = columns.split()
    found: pd.DataFrame = table[(table[names] == one[names]).all(axis=1)]
    return found


def _most(table: pd.DataFrame, column: str) -> Any:
    """Return the row with the largest value in a column."""
    return table.sort_values(column, kind="stable").iloc[-1]
