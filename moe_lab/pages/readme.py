# SPDX-License-Identifier: Apache-2.0
"""Tables of README.md and docs/ in Markdown, from committed runs, for each GPU that has the run."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import align as align_bench
from moe_lab.analysis import bench_rows, ep, leads, support, sweep
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.roofs import of_gpu
from moe_lab.pages import load
from moe_lab.pages.show.findings import listed
from moe_lab.spec import plugins

PEERS = ("vllm_triton", "sglang_triton", "triton_kernels", "deep_gemm", "torch_grouped")
PROJECTS = {"vllm": "vLLM", "sglang": "SGLang"}
TOKENS = (1, 16, 64, 128, 256, 1024, 4096)
NAMES = {
    "dram": ("reading", 2, "TB/s"),
    "l2": ("reading the L2 cache", 2, "TB/s"),
    "tensor": ("a large product", 0, "TFLOP/s"),
}


def commands() -> str:
    """Return the table of commands: the rows stated by each command and profiler, else its name and description."""
    shown: dict[str, str] = {}
    for kind, words in (("cli", "moe-lab"), ("capture", "moe-lab capture")):
        for name in plugins.names(kind):
            info = plugins.info(kind, name)
            called = info.get("called", name).strip("_").replace("_", "-")
            shown |= info.get("shows", {f"{words} {called}": info["about"]})
    rows = ((f"`{usage}`", answers) for usage, answers in sorted(shown.items()))
    # A bare | would end the cell.
    return table(["command", "answers"], [[cell.replace("|", r"\|") for cell in row] for row in rows], left=[0, 1])


def backends() -> str:
    """Return the matrix of backends and formats: where stored runs tried a cell."""
    grid = support.grid(support.matrix(None, load.experts_benches("*")))
    rows = ([f"`{name}`", *cells] for name, *cells in grid.itertuples(index=False))
    return table([str(column) for column in grid.columns], rows, left=range(grid.shape[1]))


def tried() -> str:
    """Return the same matrix in brief, of backends that a stored run tried: a full circle where, an empty one else."""
    grid = support.grid(support.matrix(None, load.experts_benches("*"))).set_index("backend")
    brief = grid.map(lambda cell: {"": "", "stated": "○"}.get(cell, "●"))
    brief = brief[(brief == "●").any(axis=1)]
    rows = ([f"`{name}`", *cells] for name, *cells in brief.itertuples())
    return table(["backend", *brief.columns], rows, left=range(1 + brief.shape[1]))


def benches(run: str) -> Iterator[tuple[str, sweep.Sweep]]:
    """Yield (GPU, benchmark) for each folder in profiles/ that has an experts benchmark of that name."""
    for gpu, name in named(run, "experts"):
        yield gpu, load.experts_bench(name)


def named(run: str, bench: str) -> Iterator[tuple[str, str]]:
    """Yield (GPU, full name of the run) for each folder in profiles/ that has such a run of that benchmark."""
    for one in sorted(runs.list_runs(), key=lambda r: str(r.manifest["name"]), reverse=True):
        if str(one.manifest["name"]).rpartition("/")[2] == run and one.manifest.get("bench") == bench:
            yield bench_rows.BenchRun(one, pd.DataFrame()).gpu, str(one.manifest["name"])


def roofs() -> str:
    """Return one line per GPU: its roofs, as on every page, with the spread of their measurements."""
    # Only benchmarks measure roofs.
    names = {str((r.manifest.get("gpu") or {}).get("name")) for r in runs.list_runs() if r.manifest.get("measured")}
    lines = []
    for gpu in sorted(names, reverse=True):
        known = of_gpu(gpu, runs.list_runs())
        said = [_roof(one) for one in rows_of(known) if one.kind in NAMES]
        if "tensor" in set(known["kind"]):  # otherwise only a copy was measured
            name, how = gpu.removeprefix("NVIDIA "), "by its newest benchmark (lowest to highest of all)"
            lines.append(f"What an {name} can do, {how}: {', '.join(said)}.\n")
    return "\n".join(lines)


def _roof(one: Any) -> str:
    what, digits, unit = NAMES[one.kind]
    value, low, high = (f"{v / 1e12:.{digits}f}" for v in (one.value, one.low, one.high))
    return f"{what} {value} {unit} ({low} to {high})"


def releases(run: str) -> str:
    """Return one line per GPU that has the run: when it was measured, and the release of each peer's kernels."""
    found = ((gpu, str(bench.run.manifest.get("date") if bench.run else "")[:10], bench) for gpu, bench in benches(run))
    return "\n".join(f"* {gpu}, {date}: {listed(_peers(bench))}." for gpu, date, bench in found)


def _peers(bench: sweep.Sweep) -> list[str]:
    """Return ``vllm_triton of vLLM 0.15.0`` for each peer of a run, from the releases in its settings."""
    manifest: dict[str, Any] = bench.run.manifest if bench.run else {}
    settings = manifest.get("settings") or {}
    # A run of several parts has a list of settings: those of the first count.
    stated: dict[str, Any] = (settings[0] if isinstance(settings, list) else settings).get("releases") or {}
    torch = f"PyTorch {(manifest.get('versions') or {}).get('torch')}"
    return [
        f"`{name}` of {_release(name, known['version']) if known else torch}"
        for name, known in stated.items()
        if leads.is_peer(name)
    ]


def _release(name: str, version: str) -> str:
    """Return ``vLLM 0.15.0``; the version of a package inside another project's wheel names that project."""
    wheel, dash, number = version.rpartition("-")
    if dash:
        return f"{PROJECTS.get(wheel, wheel)} {number}'s wheel"
    return f"{PROJECTS.get(name.partition('_')[0], name)} {version}"


def not_ahead(names: Sequence[str]) -> str:
    """Return a sentence on how many sizes ``auto`` is ahead of the best peer at, with each size at which it is not.

    In a run without ``auto``, our quickest backend takes its place.
    """
    count, ahead, others = 0, 0, []
    for name in names:
        for gpu, bench in benches(name):
            rows = sweep.at(bench, "")
            for one in rows_of(leads.leads(rows, "auto")):
                count, ahead = count + 1, ahead + (one.verdict == "ahead")
                what = f"{rows['model'].iloc[0]} on the {gpu} at M = {one.M}: {one.verdict}, {one.speedup:.2f} times"
                others += [] if one.verdict == "ahead" else [f"{what} as fast as `{one.peer}`"]
    return f"Ahead of the best peer at {ahead} of {count} sizes{'; not so: ' if others else ''}{'; '.join(others)}."


def experts(run: str, ours: str = "auto") -> str:
    """Return the table of a sweep for each GPU: ours, its share of the bound, peers, and the lead over the best one."""
    return "\n".join(_experts(gpu, sweep.at(bench, ""), ours) for gpu, bench in benches(run))


def _experts(gpu: str, rows: pd.DataFrame, ours: str) -> str:
    us = rows.pivot_table("median_us", "M", "backend")
    peers = [name for name in PEERS if name in us]
    share = rows[rows["backend"] == ours].set_index("M")["pct_of_roofline"]
    named = (f"`{n}`" for n in peers)
    head = [f"{gpu}, M", f"`{ours}`, µs", "% of the bound", *named, "best peer at this M", "as fast"]
    lines = []
    for one in rows_of(leads.leads(rows, "auto")):
        times = [f"{us.loc[one.M, name]:.1f}" for name in peers]
        ratio = f"{one.speedup:.2f}" + ("" if one.verdict == "ahead" else f" ({one.verdict})")
        lines.append([one.M, f"{one.ours_us:.1f}", percent(share[one.M]), *times, f"`{one.peer}`", ratio])
    return table(head, lines) + "\n"


def bounds(run: str, ours: str = "auto") -> str:
    """Return the bound at each M of a sweep and what sets it, a table for each GPU."""
    out = []
    for gpu, bench in benches(run):
        rows = sweep.at(bench, "")
        first = rows[rows["backend"] == ours].dropna(subset="roofline_us")
        cells = [[one.M, one.experts_hit, f"{one.roofline_us:.0f}", one.bound_by] for one in rows_of(first)]
        out.append(table([f"{gpu}, M", "experts hit", "bound, µs", "bound by"], cells, left=[3]) + "\n")
    return "\n".join(out)


def against(run: str, ours: str = "auto", format: str = "") -> str:
    """Return a table per GPU of a sweep: share of the bound and lead over the best peer at each M.

    An empty format stands for the first of the run, and is not named.
    """
    out = []
    for gpu, bench in benches(run):
        rows, name = leads.with_ours(sweep.at(bench, "", format=format), ours)
        share = rows[rows["backend"] == name].drop_duplicates("M").set_index("M")["pct_of_roofline"]
        found = leads.leads(rows, name).set_index("M")
        lines = [
            [f"{name}, % of the bound", *(percent(share[M]) for M in found.index)],
            ["times as fast as the best peer", *(f"{v:.2f}" for v in found["speedup"])],
            ["best peer at this M", *(f"`{peer}`" for peer in found["peer"])],
        ]
        model = rows["model"].iloc[0] + (f" in {format}" if format else "")
        out.append(table([f"{model}, {gpu}, M =", *found.index], lines, left=[0]) + "\n")
    return "\n".join(out)


def between(run: str) -> str:
    """Return a table per model of a benchmark of several ranks: microseconds of each way at each M, and the floor."""
    rows = ep.only(ep.timed([load.ep_bench(run)]), routing="uniform", part="full")
    out = []
    for model, found in rows.groupby("model"):
        wide = found.pivot_table("median_us", "comm", "M").sort_values(found["M"].max())
        lines = [[f"`{comm}`", *(f"{us:.0f}" for us in times)] for comm, *times in wide.itertuples()]
        lines.append(["floor", *(f"{us:.0f}" for us in found.groupby("M")["floor_us"].min())])
        out.append(table([f"{model}, tokens a rank", *wide.columns], lines, left=[0]) + "\n")
    return "\n".join(out)


def aligns(run: str, names: Sequence[str], E: int = 256, topk: int = 8) -> str:
    """Return ``align`` for each GPU that has the run."""
    return "\n\n".join(align(name, names, E, topk, f"{gpu}, tokens") for gpu, name in named(run, "align"))


def align(run: str, names: Sequence[str], E: int = 256, topk: int = 8, head: str = "M") -> str:
    """Return the time in us of align algorithms over tokens, for one shape, replayed from a CUDA graph.

    ``names`` in parentheses are empty kernels; ``head`` is the head of the first column.
    """
    rows = align_bench.at(load.align_bench(run), E, topk)
    wide = rows.pivot_table("median_us", "tokens", "algorithm")
    lines = [
        [tokens, *("" if pd.isna(v) else f"{v:.1f}" for v in row)]
        for tokens, row in wide.reindex(columns=list(names)).iterrows()
    ]
    return table([head, *(f"`{n}`" for n in names)], lines)


def percent(value: Any) -> str:
    """Return a share of a bound in percent; ``!`` marks a share over 100, whose bound is wrong."""
    return "" if pd.isna(value) else f"{value:.0f}{' !' if value > 100 else ''}"


def models(names: Sequence[str], ours: str = "auto") -> str:
    """Return one row per model and GPU: the lead over the best peer at ``TOKENS``."""
    lines = []
    for name in names:
        for gpu, bench in benches(name):
            rows = sweep.at(bench, "")
            found = leads.leads(rows, "auto").set_index("M")["speedup"]
            cells = [f"{found[M]:.2f}" if M in found.index else "" for M in TOKENS]
            lines.append([f"{rows['model'].iloc[0]}, {gpu}", *cells])
    return table(["model, M =", *TOKENS], lines, left=[0])


def line(cells: Sequence[Any]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], left: Sequence[int] = ()) -> str:
    """Return a Markdown table, aligned to the right except for the columns ``left``."""
    sides = "|".join("---" if i in left else "---:" for i in range(len(head)))
    return "\n".join([line(head), f"|{sides}|", *map(line, rows)])
