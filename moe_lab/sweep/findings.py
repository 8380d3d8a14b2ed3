"""What the experts benchmark found, as sentences rendered from its tables."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from moe_lab import published
from moe_lab.analysis import sweep
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.sweep import Sweep
from moe_lab.findings import number, percent, time

PICKED = (1, 16, 256, 4096)  # Ms that get a sentence of their own, with the largest of the run


def all_of(bench: Sweep, rows: pd.DataFrame, skewed: pd.DataFrame, ours: str, baseline: str) -> list[str]:
    """Say which backend wins where and why; the first sentence is the headline.

    Args:
        bench: the benchmark.
        rows: of one model and routing, as ``analysis.sweep.at`` returns them.
        skewed: as ``analysis.sweep.skew`` returns it.
        ours: the backend that is looked at.
        baseline: what it is set against first.
    """
    if bench.run is None:
        return [bench.missing]
    if rows.empty:
        return [f"{bench.run.manifest['name']} has no times of this model and routing; give another.", *failures(bench)]
    return [
        headline(bench, rows, ours),
        *duels(rows, ours, baseline),
        _each("Quickest", places(rows)),
        _each("Changing places", changes(rows, ours, baseline)),
        _each("Against the bound", bound(rows, ours)),
        _each("Routing skew", uneven(skewed, ours)),
        _each("Padding", padding(rows, ours, baseline)),
        _each("Published sweep", [elsewhere()]),
        *state(bench, rows),
        *failures(bench),
    ]


def headline(bench: Sweep, rows: pd.DataFrame, ours: str) -> str:
    """Say at how many Ms ours is the quickest, and how far ahead of the best other it is on the whole."""
    gpu = str(((bench.run.manifest if bench.run else {}).get("gpu") or {}).get("name") or "an unknown GPU")
    where = f"On {gpu.removeprefix('NVIDIA ')}, {rows['model'].iloc[0]}, {rows['routing'].iloc[0]} routing"
    table = sweep.times(rows, ours, ours).dropna(subset="speedup_best")
    if table.empty:
        first = sweep.winners(rows)["winner"].value_counts()
        names = ", ".join(dict.fromkeys(rows["backend"]))
        return f"{where}: {first.index[0]} is the quickest at {first.iloc[0]} of {first.sum()} sizes, of: {names}."
    ahead = int((table["speedup_best"] >= 1).sum())
    mean = sweep.geometric_mean(table["speedup_best"])
    worst: Any = next(rows_of(table.nsmallest(1, "speedup_best")))
    most: Any = next(rows_of(table.nlargest(1, "speedup_best")))
    return (
        f"{where}: {ours} is the quickest at {ahead} of {len(table)} sizes, on the geometric mean {number(mean)} times "
        f"as fast as the best other, from {number(worst.speedup_best)} at M = {worst.M:,} ({worst.best}) to "
        f"{number(most.speedup_best)} at M = {most.M:,} ({most.best})."
    )


def duels(rows: pd.DataFrame, ours: str, baseline: str) -> list[str]:
    """Say at some Ms which of the two is ahead, by how much, and what it gains most by."""
    table = sweep.times(rows, ours, baseline).dropna(subset="speedup")
    sizes = sorted({*(m for m in PICKED if m in set(table["M"])), *table["M"].tail(1)})
    return [text for m in sizes if (text := _duel(rows, ours, baseline, int(m)))]


def _duel(rows: pd.DataFrame, ours: str, baseline: str, M: int) -> str:
    part = rows[rows["M"] == M].drop_duplicates("backend").set_index("backend").to_dict("index")
    quick, slow = sorted((ours, baseline), key=lambda name: float(part[name]["median_us"]))
    fast, late = part[quick], part[slow]
    times = f"{time(fast['median_us'] / 1e3)} against {time(late['median_us'] / 1e3)}"
    if fast["p80_us"] >= late["p20_us"]:
        return f"At M = {M:,}: {quick} and {slow} cannot be told apart ({times})."
    lead = percent(100 * (1 - fast["median_us"] / late["median_us"]))
    reason = _because(rows, quick, slow, M)
    return f"At M = {M:,}: {quick} is ahead of {slow} by {lead} ({times}){', because ' + reason if reason else ''}."


def _because(rows: pd.DataFrame, quick: str, slow: str, M: int) -> str:
    """Say what the quicker one gains by: a stage, by their kernels; else launches or, at the compute bound, padding."""
    rows = rows[rows["M"] == M]
    own, split = rows.set_index("backend"), sweep.stages(rows, [quick, slow])
    spent = {name: _grouped(split[split["backend"] == name]) for name in (quick, slow)}
    if all(spent.values()):
        gains = {key: spent[slow].get(key, 0.0) - spent[quick].get(key, 0.0) for key in ("w13", "w2", "the rest")}
        key = max(gains, key=lambda name: gains[name])
        if gains[key] > 0:
            pair = f"{time(spent[quick].get(key, 0.0) / 1e3)} there instead of {time(spent[slow].get(key, 0.0) / 1e3)}"
            names = {"w13": "w13 with the activation", "w2": "w2 with the sum", "the rest": "what is around the GEMMs"}
            return f"it gains most in {names[key]} (kernels of {pair})"
    if (own["bound_by"] == "memory").all():
        kernels = split.groupby("backend")["kernels"].sum()
        few, many = (int(kernels.get(name, 0)) for name in (quick, slow))
        return f"it takes {few} {'kernel' if few == 1 else 'kernels'} instead of {many}" if 0 < few < many else ""
    wastes = own["padding_waste_pct"]
    if wastes.reindex([quick, slow]).notna().all() and wastes[slow] > 1.05 * wastes[quick]:
        return f"it pads its rows by {percent(wastes[quick])} instead of {percent(wastes[slow])}"
    return ""


def _grouped(split: pd.DataFrame) -> dict[str, float]:
    """Return microseconds of w13 (with act), w2 (with combine) and the rest, comparable across what a backend fuses."""
    out: dict[str, float] = {}
    for row in rows_of(split):
        parts = row.stage.split("+")
        whole = {"w13", "w2"} <= set(parts)
        key = "w13" if {"w13", "act"} & set(parts) else "w2" if {"w2", "combine"} & set(parts) else "the rest"
        out["all" if whole else key] = out.get("all" if whole else key, 0.0) + row.us
    return {} if "all" in out else out


def places(rows: pd.DataFrame) -> list[str]:
    """Say which backend is the quickest from which M to which."""
    parts = []
    for name, group in groupby(rows_of(sweep.winners(rows)), key=lambda row: row.winner):
        sizes = [int(row.M) for row in group]
        parts.append(f"{name} at M = {sizes[0]:,}" if len(sizes) == 1 else f"{name} from {sizes[0]:,} to {sizes[-1]:,}")
    return parts


def changes(rows: pd.DataFrame, ours: str, baseline: str) -> list[str]:
    """Say where two backends change places: ours and the baseline, and the baseline with each other."""
    names = [name for name in dict.fromkeys(rows["backend"]) if name != baseline]
    parts = []
    for name in sorted(names, key=lambda n: n != ours)[:3]:
        found = list(rows_of(sweep.crossings(rows, name, baseline)))
        parts += [
            f"{row.after} overtakes {row.before} between M = {row.low:,} and {row.high:,} (about {number(row.M, 2)})"
            for row in found[:3]
        ]
    return parts


def bound(rows: pd.DataFrame, ours: str) -> list[str]:
    """Say what share of the roofline bound ours reaches, where it is highest and where lowest."""
    name = ours if (rows["backend"] == ours).any() else str(rows["backend"].iloc[0])
    own = rows[(rows["backend"] == name) & rows["pct_of_roofline"].notna()]
    if own.empty:
        return []
    low: Any = next(rows_of(own.nsmallest(1, "pct_of_roofline")))
    high: Any = next(rows_of(own.nlargest(1, "pct_of_roofline")))
    memory = own[own["bound_by"] == "memory"]["M"]
    limit = f"its bound is memory up to M = {int(memory.max()):,}" if len(memory) else "compute bounds it throughout"
    limit += " and compute from there on" if len(memory) and len(memory) < len(own) else ""
    return [
        f"{name} reaches {percent(low.pct_of_roofline)} of it at M = {low.M:,} and {percent(high.pct_of_roofline)} at "
        f"M = {high.M:,}",
        limit,
    ]


def uneven(skewed: pd.DataFrame, ours: str) -> list[str]:
    """Say what each routing costs ours at the largest M, beyond what its bound changes."""
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
    return parts


def padding(rows: pd.DataFrame, ours: str, baseline: str) -> list[str]:
    """Say how many rows of padding the two compute at the smallest and largest M."""
    parts = []
    for name in dict.fromkeys((ours, baseline)):
        own = rows[(rows["backend"] == name) & rows["padding_waste_pct"].notna()]
        for row in rows_of(own.iloc[[0, -1]].drop_duplicates("M")) if len(own) else ():
            more = (
                f"{percent(row.padding_waste_pct)} more rows than"
                if row.padding_waste_pct >= 0.05
                else "no more rows than"
            )
            parts.append(f"{name} computes {more} the useful ones at M = {row.M:,}")
    return parts


def elsewhere() -> str:
    """Say where the two backends of the published sweep change places."""
    table = published.sweep_table()
    first: Any = next(rows_of(table[table["speedup"] > 1].head(1)))
    last: Any = list(rows_of(table))[-1]
    return (
        f"on {published.SWEEP.setup.partition(',')[0]}, triton-kernels is the quicker one from M = {first.M:,} on, "
        f"{number(last.speedup)} times as fast as SGLang's at M = {last.M:,}"
    )


def state(bench: Sweep, rows: pd.DataFrame) -> list[str]:
    """Say whether the cache was cold, and when the GPU ran slower than asked for."""
    out = []
    cold = bench.measured.get("l2") or {}
    if cold and cold["ratio"] < 1:
        out.append(
            f"Not known: whether the L2 cache was cold. A read after the flush took {cold['ratio']} times a warm one, "
            "which no cache explains: the check failed."
        )
    elif cold and not cold["cold"]:
        out.append(
            f"Caution: the L2 cache was not cold (a read after the flush took {cold['ratio']} times a warm one)."
        )
    slowed = rows[rows["throttled"].notna() & (rows["throttled"] != "no")]
    if len(slowed):
        why = ", ".join(sorted({reason for text in slowed["throttled"] for reason in text.split(", ")}))
        sizes = [f"{int(m):,}" for m in sorted(set(slowed["M"]))]
        out.append(f"Clocks: the GPU ran below the clocks asked for ({why}) at M = {', '.join(sizes)}.")
    return out


def failures(bench: Sweep) -> list[str]:
    """Say which backends failed where, and whether the benchmark came to its end."""
    out = []
    for name, part in bench.failed.groupby("backend", sort=True):
        one: Any = next(rows_of(part))
        count = f"{len(part)} {'row' if len(part) == 1 else 'rows'}"
        out.append(f"Failed: {name} in {count}, for example at M = {one.M:,}: {str(one.error).rstrip('.')}.")
    if bench.run and bench.run.manifest["rows"].get("complete") is False:
        out.append("Caution: the benchmark was stopped before its end, so some sizes are missing.")
    return out


def _each(about: str, parts: Iterable[str] | Sequence[str]) -> str:
    said = [text for text in parts if text]
    return f"{about}: {'; '.join(said)}." if said else ""
