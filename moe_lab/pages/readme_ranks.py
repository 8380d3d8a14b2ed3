# SPDX-License-Identifier: Apache-2.0
"""What docs/expert_parallel.md says about committed benchmarks of several ranks, as Markdown."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe_lab.analysis import ep
from moe_lab.pages import load
from moe_lab.pages.readme import table
from moe_lab.pages.show.findings import listed

FASTEST = "the fastest of these at each size"
PLACES = ("full", "overlapped", "fused")


def leads(run: str, ours: str = "symmetric") -> str:
    """Return how many times as long as ours each other way takes for a layer: geometric mean over M, and the least."""
    times = _full(run).pivot_table("median_us", ["model", "M"], "comm")
    others = times.drop(columns=ours)
    fastest = {FASTEST: others.min(axis=1)} if others.shape[1] > 1 else {}
    ratios = others.assign(**fastest).div(times[ours], axis=0)
    models = [name for name, _ in ratios.groupby("model")]
    lines = []
    for way in ratios.mean().sort_values(ascending=False).index:
        cells = [_mean(ratios[way].loc[[model]]) for model in models]
        shown = way if way == FASTEST else f"`{way}`"
        lines.append([shown, *cells, _mean(ratios[way]), f"{ratios[way].min():.2f}"])
    return table([f"times as long as `{ours}`", *models, "both", "least"], lines, left=[0])


def shared(run: str) -> str:
    """Return microseconds of a layer with its shared experts in three places, and what the later two save."""
    rows = ep.only(ep.timed([load.ep_bench(run)]), routing="uniform")
    times = rows.pivot_table("median_us", "M", "part")
    lines = []
    for M, one in times.iterrows():
        saved = [f"{one[place]:.0f} ({100 * (1 - one[place] / one['full']):.1f} %)" for place in PLACES[1:]]
        lines.append([M, f"{one['full']:.0f}", *saved, f"{one['shared']:.0f}"])
    head = ["tokens a rank", "at the end", "beside (saved)", "among the experts (saved)", "shared experts alone"]
    return table(head, lines)


def ways(runs: Sequence[str]) -> str:
    """Return a row per format, model and way: microseconds of the layer, of dispatch and of combine at each M."""
    rows = ep.timed([load.ep_bench(run) for run in runs])
    shown = rows[rows["part"].isin(["full", "dispatch", "combine"])]
    wide = shown.pivot_table("median_us", ["format", "model", "comm"], ["M", "part"])
    columns = [(M, part) for M in sorted(shown["M"].unique()) for part in ("full", "dispatch", "combine")]
    lines = [
        [format, model, f"`{comm}`", *(f"{us:.0f}" for us in wide.loc[(format, model, comm), columns])]
        for format, model, comm in wide.index
    ]
    heads = [f"layer, {M} tokens" if part == "full" else part for M, part in columns]
    return table(["format", "model", "way", *heads], lines, left=[0, 1, 2])


def more(run: str, than: str, way: str = "symmetric") -> str:
    """Return by how many percent a way's layer takes longer in one run than in another, at the sizes of both."""
    slow, fast = (_full(name).set_index(["comm", "model", "M"])["median_us"].loc[way] for name in (run, than))
    found = (100 * (slow / fast - 1)).dropna()
    parts = [f"{listed([f'{pct:.0f} %' for pct in own])} ({model})" for model, own in found.groupby("model")]
    sizes = listed([str(M) for M in found.index.get_level_values("M").unique()])
    return f"{listed(parts)} at {sizes} tokens a rank"


def _full(run: str) -> pd.DataFrame:
    """Rows of whole layers with uniform routing."""
    return ep.only(ep.timed([load.ep_bench(run)]), routing="uniform", part="full")


def _mean(ratios: pd.Series) -> str:
    return f"{np.exp(np.log(ratios.astype(float)).mean()):.2f}"
