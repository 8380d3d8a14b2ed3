# SPDX-License-Identifier: Apache-2.0
"""What readers of the experts benchmark must not miss: exceeded bounds, and where ours is behind."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import roofs, sweep
from moe_lab.analysis.leads import leads
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.sweep import Sweep
from moe_lab.pages.show import findings
from moe_lab.pages.show.findings import NBSP, Finding, Severity, number, percent

MOST = 4  # cases in a sentence; its rows have the others


def behind(others: Sequence[Sweep], ours: str) -> Finding | None:
    """Say where ours is behind the best peer's median in other runs: the first model and routing, every format of each.

    In a run without ``ours``, our quickest backend takes its place.
    """
    parts, told = list[tuple[float, str]](), list[dict[str, Any]]()
    for bench, format in ((one, str(name)) for one in others for name in dict.fromkeys(one.timed["format"])):
        rows = sweep.at(bench, "", format=format)
        found = leads(rows, ours) if len(rows) else rows
        for one in rows_of(found[found["speedup"] < 1]) if len(found) else ():
            what = f"{one.ours} with {rows['model'].iloc[0]} in {format} on {bench.gpu} at M = {one.M:,}"
            spread = "" if one.verdict == "behind" else ", within the spread of the repetitions"
            lost = one.ours_us - one.peer_us
            parts.append((lost, f"{what} ({number(one.speedup)} times as fast as {one.peer}{spread})"))
            told.append({"gpu": bench.gpu, "model": rows["model"].iloc[0], "format": format, **one._asdict()})
    if not told:
        return None
    told.sort(key=lambda row: row["peer_us"] - row["ours_us"])
    shown = findings.rows(told, "gpu model format M ours ours_us peer peer_us speedup verdict")
    more = f"; and in {len(parts) - MOST} more cases" if len(parts) > MOST else ""
    worst = told[0]
    where = f"{worst['model']} in {worst['format']} on {worst['gpu']} at M = {worst['M']:,}"
    return Finding(
        "Behind the best peer in other runs",
        f"{'; '.join(text for _, text in sorted(parts, reverse=True)[:MOST])}{more}.",
        shown,
        "problem",
        stake_us=worst["ours_us"] - worst["peer_us"],
        short=f"{worst['ours']} is {number(worst['speedup'])} times as fast as {worst['peer']} with {where}.",
        change=f"Run {worst['peer']} instead of {worst['ours']} with {where}.",
    )


def over(bench: Sweep, rows: pd.DataFrame) -> list[Finding]:
    """Say what exceeds its bound, and how far apart the measurements of the roof lie.

    The bound is wrong if even the fastest repetition of the run's roof is exceeded; otherwise the card was, for a
    moment, quicker than it can sustain.
    """
    above = rows[(rows["pct_of_roofline"] > 100).fillna(False)]
    found = above.groupby("bound_by", sort=False) if bench.run is not None else ()
    return [said for by, own in found for said in _over(bench, own, "dram" if by == "memory" else "tensor")]


def _over(bench: Sweep, above: pd.DataFrame, kind: str) -> Iterable[Finding]:
    mine = roofs.of_kind(roofs.of_run(bench.run), kind) if bench.run else None
    tera = "TFLOP/s" if kind == "tensor" else "TB/s"
    said = f"; this run measured {number(mine['value'] / 1e12)}{NBSP}{tera}" if mine else ""
    for roof in rows_of(bench.roofs[bench.roofs["kind"] == kind]):
        said += f", {roof.runs} {'benchmarks' if roof.runs > 1 else 'benchmark'} of this GPU "
        said += f"{number(roof.low / 1e12)} to {number(roof.high / 1e12)}"
    # Beyond the fastest repetition, which is at least 100 % of the roof.
    beyond = above["pct_of_roofline"] > (100 * mine["high"] / mine["value"] if mine else 100)
    wrong: tuple[str, str, Severity] = ("Wrong bound", "so the GPU can do more than the roof says", "problem")
    moment = "but not its roof's fastest repetition: no wrong bound"
    for rows, (about, why, severity) in (
        (above[beyond], wrong),
        (above[~beyond], ("Above what the card sustains", moment, "caution")),
    ):
        for most in rows_of(rows.nlargest(1, "pct_of_roofline")):
            sizes = ", ".join(f"{m:,}" for m in sorted(set(rows["M"])))
            yield Finding(
                about,
                f"at M = {sizes} it is exceeded, most by {most.backend} at M = {most.M:,} "
                f"({percent(most.pct_of_roofline)} of it), {why}{said}.",
                findings.rows(rows, "backend M median_us roofline_us bound_by pct_of_roofline"),
                severity,
            )
