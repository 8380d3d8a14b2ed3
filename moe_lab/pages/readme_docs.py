# SPDX-License-Identifier: Apache-2.0
"""What docs/kernels.md and docs/backends.md say about committed runs and plugins, as Markdown."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_lab.analysis import align, align_steps, leads, phases, sweep, tuning
from moe_lab.analysis.phases import rows_of
from moe_lab.pages import load, readme
from moe_lab.spec import plugins

SHOWN = ("auto", "multi_block", "two_kernel")


def empty(run: str) -> str:
    """Return what the align benchmark measures for empty kernels: for one, and for two that wait for each other."""
    rows = load.align_bench(run).rows
    found = rows[(rows["mode"] == "graph") & rows["algorithm"].isin([align.EMPTY, "(2 empty)"])]
    low, high = (found.groupby("algorithm")["median_us"].quantile(q) for q in (0.1, 0.9))
    one, two = (f"{low[n]:.1f} to {high[n]:.1f}" for n in (align.EMPTY, "(2 empty)"))
    return f"one empty kernel {one} us and two that wait for each other {two} (four fifths of the cases lie between)"


def duels(run: str, rivals: Sequence[str], ours: str = "auto") -> str:
    """Return in how many cases of an align sweep ours is ahead of, even with and behind each of some rivals."""
    table = align.rivals(align.duels(load.align_bench(run), ours)).set_index("rival").loc[list(rivals)]
    parts = [
        f"`{one.Index}` {one.ahead} of {one.cells}"
        + "".join(f", {n} {word}" for n, word in ((one.even, "even"), (one.behind, "behind")) if n)
        for one in rows_of(table)
    ]
    return f"`{ours}` is ahead of {'; '.join(parts)}."


def counters(run: str, algorithms: Sequence[str] = SHOWN) -> str:
    """Return the counters of the kernels of some align algorithms, from a capture with Nsight Compute."""
    table = align_steps.counters(load.steps(run, load.COUNT))
    head = ["kernel of", "does", "us", "active multiprocessors", "sectors a store", "warps wait for"]
    lines = []
    for one in rows_of(table[table["algorithm"].isin(list(algorithms))]):
        numbers = [f"{v:.1f}" for v in (one.duration_us, one.active_sms, one.sectors_per_store_request)]
        lines.append([f"`{one.algorithm}`", one.step, *numbers, one.stalls])
    return readme.table(head, lines, left=[0, 1, 5])


def gain(run: str, launch_us: float, ours: str = "auto") -> str:
    """Return for each GPU of a sweep how far the best peers are from the bound, and ours from the bound plus a launch.

    ``launch_us`` is what the launch of a kernel that only reads adds.
    """
    return "\n".join(_gain(gpu, sweep.at(bench, ""), launch_us, ours) for gpu, bench in readme.benches(run))


def _gain(gpu: str, rows: pd.DataFrame, launch_us: float, ours: str) -> str:
    found = leads.leads(rows, ours).set_index("M")
    bound = rows[rows["backend"] == ours].drop_duplicates("M").set_index("M")["roofline_us"].loc[found.index]
    far, near = (sweep.geometric_mean(found["peer_us"] / b) for b in (bound, bound + launch_us))
    of = [f"{100 * (bound[M] + launch_us) / found.loc[M, 'ours_us']:.0f}" for M in found.index]
    return (
        f"* {gpu}: on the geometric mean over {len(found)} M the bound is {far:.2f} times as fast as the best peers, "
        f"{near:.2f} with the launch; `{ours}` is {sweep.geometric_mean(found['speedup']):.2f} times as fast. "
        f"Bound and launch are, of the time of `{ours}` from M = {min(found.index)} to {max(found.index)}, "
        f"{', '.join(of)} %."
    )


def quickest(run: str, ours: Sequence[str]) -> str:
    """Return the microseconds of the quickest of some backends in each format of a run of the experts benchmark."""
    rows = load.experts_bench(run).timed
    rows = rows[rows["backend"].isin(list(ours)) & (rows["part"] == "full") & (rows["mode"] == "graph")]
    best = rows.sort_values("median_us").drop_duplicates(["format", "M"])
    wide = best.pivot_table("median_us", "format", "M", sort=False).sort_values(best["M"].min())
    who = best.groupby("format")["backend"].agg(lambda names: ", ".join(f"`{name}`" for name in sorted(set(names))))
    lines = [[f"`{format}`", who[format], *(f"{us:.0f}" for us in times)] for format, *times in wide.itertuples()]
    return readme.table(["format, M =", "by", *wide.columns], lines, left=[0, 1])


def tuned(names: Sequence[str]) -> str:
    """Return one row per tuning and GPU: what its tiles save, and what the nearest key costs."""
    head = ["model, GPU", "sizes", "compiled", "saved, median", "saved, most", "shipped tiles, median", "nearest key"]
    lines = [_tuned(gpu, load.tuned(run)) for name in names for gpu, run in readme.named(name, "tune")]
    return readme.table(head, lines, left=[0, 5, 6])


def _tuned(gpu: str, run: tuning.Tuning) -> list[Any]:
    best, between = tuning.chosen(run), tuning.between(run)
    known = best.dropna(subset="gain_pct").astype({"gain_pct": float})
    most: Any = next(rows_of(known.nlargest(1, "gain_pct")))
    model, format = (run.rows[column].dropna().iloc[0] for column in ("model", "format"))
    others = tuning.shipped(run).groupby("release")
    shipped = [f"{name} {own['slower_pct'].median():.1f} % slower" for name, own in others]
    costs = between["cost_pct"].astype(float) if len(between) else between
    key = f"median {costs.median():.1f} %, most {costs.max():.1f} % of {len(costs)} M" if len(costs) else ""
    compiled = int((run.rows["phase"] == "compile").sum())
    cells = [
        f"{model}{'' if format == 'bf16' else f' in {format}'}, {gpu}",
        len(best),
        compiled,
        f"{known['gain_pct'].median():.1f} %",
    ]
    return [*cells, f"{most.gain_pct:.1f} % at M = {most.M}", "; ".join(shipped), key]


def plugins_of(kind: str) -> str:
    """Return one row per plugin of a kind: its name, what it is, what it runs on or between, and where it is from."""
    known = {name: plugins.info(kind, name) for name in plugins.names(kind)}
    extra = [key for key in ("hardware", "ranks") if any(key in info for info in known.values())]
    rows = (
        [f"`{name}`", *(str(info.get(key, "")).replace("|", "\\|") for key in ("about", *extra, "source"))]
        for name, info in known.items()
    )
    return readme.table(["name", "what", *extra, "from"], rows, left=range(3 + len(extra)))


def figures() -> dict[str, Any]:
    """Return the figures of README and docs/measured.md by name, each of which is ``docs/figures/<name>.png``."""
    from moe_lab.pages.layer_breakdown import plots
    from moe_lab.pages.m_sweep import plots as sweep_plots

    runs = {"prefill": "h200/qwen3-30b-a3b_prefill_b16x2048", "decode": "h200/qwen3-30b-a3b_decode_b16_ctx2048"}
    found = {"stages": plots.stage_shares(phases.share_rows(load.layers(runs, r"(^|\.)layers\.0$")))}
    for gpu in ("h200", "h100"):
        rows = sweep.at(load.experts_bench(f"{gpu}/experts_qwen3_sweep"), "")
        found[f"experts_{gpu}"] = sweep_plots.shares(rows, "auto")
    return found
