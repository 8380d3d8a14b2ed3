# SPDX-License-Identifier: Apache-2.0
"""What the align benchmark found, as sentences rendered from its tables."""

from dataclasses import replace
from itertools import groupby
from typing import Any

import pandas as pd

from moe_lab.analysis import align, rules
from moe_lab.analysis.align import Bench
from moe_lab.analysis.phases import rows_of
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, each, failures, listed, number, percent


def all_of(
    bench: Bench, duel: pd.DataFrame, split: pd.DataFrame, ours: str, baseline: str, E: int, topk: int
) -> list[Finding | None]:
    """Say which algorithm wins where and why; the first sentence is the headline.

    ``duel`` is ``analysis.align.duels`` of ours, ``split`` that of ``analysis.align_steps``; E and topk choose the
    shape of the sentences about a single one.
    """
    if bench.run is None:
        return [Finding("", bench.missing)]
    if duel.empty:
        why = f"{bench.run.manifest['name']} has no case with {ours} and another algorithm; give another algorithm."
        return [Finding("", why)]
    return [
        against(bench, duel, ours, baseline),
        without_floor(duel, baseline, E, topk),
        winners(bench, ours, E, topk),
        not_best(duel, ours),
        where(split, ours, baseline),
        limit(bench, ours, E, topk),
        calling(bench, ours, E, topk),
        waste(bench, E, topk),
        outliers(bench),
        *failures(bench, bench.failed, _case, "algorithm tokens E topk mode error"),
    ]


_DUEL = "tokens E topk routing rival ours_us theirs_us empty_us speedup speedup_net verdict"


def _us(value: float) -> str:
    return f"{number(value)}{NBSP}µs"


def _tokens(value: int) -> str:
    return f"{value:,} {'token' if value == 1 else 'tokens'}"


def _case(one: Any) -> str:
    return f"{_tokens(one.tokens)} x {one.topk} of {one.E} experts"


def against(bench: Bench, duel: pd.DataFrame, ours: str, baseline: str) -> Finding:
    """Say in how many cases ours is ahead of the baseline, and by how much."""
    rows = duel[duel["rival"] == baseline]
    if rows.empty:
        return Finding("", f"The run has no case with both {ours} and {baseline}.")
    ahead = int((rows["verdict"] == "ahead").sum())
    share = f"all {len(rows)} cases" if ahead == len(rows) > 1 else f"{ahead} of {len(rows)} cases"
    most: Any = next(rows_of(rows.nlargest(1, "speedup")))
    # A dict drops the second of two ends that read the same.
    ends = dict.fromkeys(number(value) for value in (rows["speedup"].min(), rows["speedup"].max()))
    spread = f"{' to '.join(ends)} times as fast"
    return Finding(
        f"On {bench.gpu}, {ours} is ahead of {baseline} in {share}, {spread}",
        f"{_us(most.ours_us)} against {_us(most.theirs_us)} at {_case(most)}.",
        findings.rows(rows.sort_values("speedup"), _DUEL),
        "problem" if (rows["verdict"] == "behind").any() else "normal",
        short=f"On {bench.gpu}, {ours} is ahead of {baseline} in {share}, {spread}.",
    )


def without_floor(duel: pd.DataFrame, baseline: str, E: int, topk: int) -> Finding | None:
    """Say what the ratios are after the time of an empty kernel is subtracted from both."""
    rows = align.first(duel[(duel["rival"] == baseline) & (duel["E"] == E) & (duel["topk"] == topk)])
    rows = rows.dropna(subset="speedup_net").sort_values("tokens")
    if rows.empty:
        return None
    ends = rows.iloc[[0, -1]].drop_duplicates("tokens")  # the smallest and the largest size, once if there is one
    parts = [
        f"at {_tokens(row.tokens)} {number(row.speedup)} times becomes {number(row.speedup_net)}"
        for row in rows_of(ends)
    ]
    floor = _us(float(rows["empty_us"].median()))
    said = f"with {topk} of {E} experts, {'; '.join(parts)}."
    return Finding(f"Without the {floor} that an empty kernel measures", said, findings.rows(ends, _DUEL))


def winners(bench: Bench, ours: str, E: int, topk: int) -> Finding | None:
    """Say which algorithm other than ours is quickest at how many tokens."""
    rows = align.at(bench, E, topk)
    rows = rows[~align.is_floor(rows)] if len(rows) else rows
    others = rows[rows["algorithm"] != ours].sort_values("median_us").drop_duplicates("tokens").sort_values("tokens")
    parts = []
    for name, group in groupby(rows_of(others), key=lambda row: row.algorithm):
        sizes = [row.tokens for row in group]
        where = f"at {_tokens(sizes[0])}" if len(sizes) == 1 else f"from {sizes[0]:,} to {_tokens(sizes[-1])}"
        parts.append(f"{name} {where}")
    said = [f"with {topk} of {E} experts, apart from {ours}, {listed(parts)}"] if parts else []
    return each("Quickest", said, findings.rows(others, "tokens algorithm median_us p20_us p80_us"))


def not_best(duel: pd.DataFrame, ours: str) -> Finding | None:
    """Say in how many cases another algorithm is quicker than ours, by how much at most, and where."""
    best = align.best_others(duel)
    clear = align.behind(duel)
    # The median of these is lower than ours, but only those in `clear` are ahead by more than noise.
    slower = best[best["lost_us"] > 0]
    even = slower[slower["verdict"] != "behind"]
    parts = []
    if clear.empty:
        parts.append(f"in none of {len(best)} cases is another algorithm ahead of {ours}")
    for row in rows_of(clear.head(1)):
        names = [f"{name} in {count}" for name, count in clear["rival"].value_counts().items()]
        parts.append(
            f"in {len(clear)} of {len(best)} cases another algorithm is ahead of {ours} ({listed(names)}), at most by "
            f"{percent(row.lost_pct)} ({_us(row.lost_us)}), at {_case(row)} "
            f"({row.rival})"
        )
    if len(even):
        parts.append(
            f"in {len(even)} more the quickest other has the lower median, by {_us(float(even['lost_us'].max()))} at "
            "most, but within the spread of the repetitions"
        )
    shown = findings.rows(pd.concat([clear, even]), f"{_DUEL} lost_us")
    found = each(f"Where {ours} is not the quickest", parts, shown, "problem" if len(clear) else "normal")
    if found is None or clear.empty:
        return found
    worst: Any = next(rows_of(clear.nlargest(1, "lost_us")))
    said = f"{worst.rival} is ahead of {ours} at {_case(worst)} by {_us(worst.lost_us)}"
    told = (
        f"In {len(clear)} of {len(best)} cases another algorithm is ahead of {ours}, by at most {_us(worst.lost_us)}."
    )
    change = f"Take the quicker one: {said}."
    return replace(found, stake_us=float(worst.lost_us), short=told, change=change)


def where(split: pd.DataFrame, ours: str, baseline: str) -> Finding | None:
    """Say on which step ours and the baseline spend their kernel time at the largest size, and in how many kernels."""
    both = split[split["algorithm"].isin([ours, baseline])] if len(split) else split
    # Sizes at which both were traced; a capture may hold only one of them.
    shared = [m for m in set(both["tokens"]) if both.loc[both["tokens"] == m, "algorithm"].nunique() == 2]
    rows = both[both["tokens"] == max(shared, default=0)]
    parts = []
    for name in (baseline, ours) if shared else ():
        part = rows[rows["algorithm"] == name]
        top: Any = next(rows_of(part.nlargest(1, "us")))
        count = int(part["kernels"].sum())
        parts.append(
            f"{name} spends {_us(float(part['us'].sum()))} in {count} {'kernel' if count == 1 else 'kernels'}, "
            f"{percent(float(top.pct))} of it on {top.step}"
        )
    said = [f"at {_tokens(max(shared))}, {listed(parts)}"] if shared else []
    return each("Where kernel time goes", said, findings.rows(rows, "algorithm tokens step us pct kernels"))


def limit(bench: Bench, ours: str, E: int, topk: int) -> Finding | None:
    """Say how far ours is from the time to move the data once, at the largest size."""
    speed = align.bandwidth(bench)
    rows = align.at(bench, E, topk)
    mine = rows[rows["algorithm"] == ours]
    if speed is None or mine.empty:
        return None
    last: Any = mine.iloc[-1]
    least = last.minimum_bytes / speed[0] * 1e6
    floor = rows[(rows["algorithm"] == align.EMPTY) & (rows["tokens"] == last.tokens)]["median_us"]
    rest = f", of which an empty kernel is {_us(float(floor.iloc[0]))}" if len(floor) else ""
    return Finding(
        "Data movement",
        f"at {_tokens(last.tokens)} x {topk} of {E} experts the GPU moves the least bytes "
        f"({number(last.minimum_bytes / 1e6)}{NBSP}MB) in {_us(least)} ({speed[1]}); {ours} takes "
        f"{_us(float(last.median_us))}{rest}.",
        findings.rows([last], "algorithm tokens minimum_bytes median_us"),
        stake_us=float(last.median_us) - least,
        short=f"At {_tokens(last.tokens)} {ours} takes {_us(float(last.median_us))} where moving the data once takes "
        f"{_us(least)}.",
    )


def calling(bench: Bench, ours: str, E: int, topk: int) -> Finding | None:
    """Say what eager calls and allocation add to a graph replay, at the smallest and largest size."""
    table = align.modes(bench, E, topk, [ours])
    names = {"eager": "an eager call", "eager+allocation": "one that allocates"}
    keys = {mode: f"{ours}|{mode}" for mode in ("graph", *names)}
    if table.empty or not set(keys.values()) <= set(table.columns):
        return None
    shown = table.iloc[[0, -1]].rename(columns={key: mode for mode, key in keys.items()})
    ends = table.iloc[[0, -1]].to_dict("records")
    parts = [
        f"at {_tokens(end['tokens'])} a graph replay of {ours} takes {_us(end[keys['graph']])}, "
        + listed([f"{said} {_us(end[keys[mode]])}" for mode, said in names.items()])
        for end in ends
    ]
    return each(
        "Ways of calling", parts, shown[["tokens", *keys]].add_suffix("_us").rename(columns={"tokens_us": "tokens"})
    )


def waste(bench: Bench, E: int, topk: int) -> Finding | None:
    """Say how many rows of padding each routing costs, at the smallest and largest size."""
    rows = align.padding(bench, E, topk)
    # One block_m is enough for the sentence; the figure has all.
    rows = rows[rows["block_m"] == rows["block_m"].iloc[0]] if len(rows) else rows
    if rows.empty:
        return None
    ends = pd.concat([part.iloc[[0, -1]] for _, part in rows.groupby("routing", sort=False)])
    parts = []
    for routing, part in ends.groupby("routing", sort=False):
        said = [f"{percent(row.padding_waste_pct)} at {_tokens(row.tokens)}" for row in rows_of(part)]
        parts.append(f"{routing} routing {listed(list(dict.fromkeys(said)))}")
    about = f"with {topk} of {E} experts and block_m {rows['block_m'].iloc[0]}, padding adds to the useful rows: "
    # With few tokens the GEMMs wait for weights, however much is padded.
    costs = ends.loc[ends["tokens"] == ends["tokens"].max(), "padding_waste_pct"] >= rules.PADDING_PCT
    return Finding("Padding", f"{about}{', '.join(parts)}.", ends, "problem" if costs.any() else "normal")


def outliers(bench: Bench) -> Finding | None:
    """Say which medians are far above both neighbours in tokens, and in which ways of calling."""
    rows = align.outliers(bench.timed)
    if rows.empty:
        return None
    rows = rows.assign(times=rows["median_us"] / rows[["low_us", "high_us"]].max(axis=1))
    one: Any = next(rows_of(rows.nlargest(1, "times")))
    modes = listed([f"{mode} in {count}" for mode, count in rows["mode"].value_counts().items()])
    return Finding(
        "Outliers",
        f"{len(rows)} of {len(bench.timed):,} medians are more than {align.OUTLIER:g} times both neighbours "
        f"in tokens ({modes}), so something disturbed them; marked, not left out. Most: {one.algorithm}, {one.mode}, "
        f"at {_case(one)} {_us(one.median_us)} between {_us(one.low_us)} and "
        f"{_us(one.high_us)} (p20 to p80 {number(one.p20_us)} to {_us(one.p80_us)}).",
        findings.rows(rows, "algorithm mode tokens E topk median_us low_us high_us p20_us p80_us"),
        "caution",
    )
