"""Tables of README.md and docs/kernels.md in Markdown, from committed runs: for each GPU that has the run."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.analysis import align as align_bench
from moe_lab.analysis import leads, sweep
from moe_lab.analysis.phases import rows_of
from moe_lab.analysis.roofs import of_gpu

PEERS = ("vllm_triton", "sglang_triton", "triton_kernels", "torch_grouped")
TOKENS = (1, 16, 64, 128, 256, 1024, 4096)
NAMES = {
    "dram": ("reading", 2, "TB/s"),
    "l2": ("reading the L2 cache", 2, "TB/s"),
    "tensor": ("a large product", 0, "TFLOP/s"),
}


def benches(run: str) -> Iterator[tuple[str, sweep.Sweep]]:
    """Give (GPU, benchmark) of each folder in profiles/ that has an experts benchmark of that name."""
    for one in sorted(runs.list_runs(), key=lambda r: str(r.manifest["name"]), reverse=True):
        if str(one.manifest["name"]).rpartition("/")[2] == run and one.manifest.get("bench") == "experts":
            yield _gpu(one), sweep.load(str(one.manifest["name"]))


def _gpu(run: runs.Run) -> str:
    return str((run.manifest.get("gpu") or {}).get("name") or "an unknown GPU").removeprefix("NVIDIA ")


def roofs() -> str:
    """Return one line a GPU: its roofs as on every page, with how far their measurements lie apart."""
    names = {str((r.manifest.get("gpu") or {}).get("name")) for r in runs.list_runs() if r.manifest.get("measured")}
    lines = []
    for gpu in sorted(names, reverse=True):
        known = of_gpu(gpu)
        said = [_roof(one) for one in rows_of(known) if one.kind in NAMES]
        if "tensor" in set(known["kind"]):  # else only a copy was measured
            name, how = gpu.removeprefix("NVIDIA "), "by its newest benchmark (lowest to highest of all)"
            lines.append(f"What an {name} can do, {how}: {', '.join(said)}.\n")
    return "\n".join(lines)


def _roof(one: Any) -> str:
    what, digits, unit = NAMES[one.kind]
    value, low, high = (f"{v / 1e12:.{digits}f}" for v in (one.value, one.low, one.high))
    return f"{what} {value} {unit} ({low} to {high})"


def experts(run: str, ours: str = "auto") -> str:
    """Return the table of a sweep for each GPU: ours, its share of the bound, peers, and the lead over the best.

    Args:
        run: last part of its name.
        ours: the backend that is looked at.
    """
    return "\n".join(_experts(gpu, sweep.at(bench, ""), ours) for gpu, bench in benches(run))


def _experts(gpu: str, rows: pd.DataFrame, ours: str) -> str:
    us = rows.pivot_table("median_us", "M", "backend")
    peers = [name for name in PEERS if name in us]
    share = rows[rows["backend"] == ours].set_index("M")["pct_of_roofline"]
    head = [
        f"{gpu}, M",
        f"`{ours}`, µs",
        "% of the bound",
        *(f"`{n}`" for n in peers),
        "best peer at this M",
        "as fast",
    ]
    lines = [_line(head), "|" + "---:|" * len(head)]
    for one in rows_of(leads.leads(rows, ours)):
        times = [f"{us.loc[one.M, name]:.1f}" for name in peers]
        ratio = f"{one.speedup:.2f}" + ("" if one.verdict == "ahead" else f" ({one.verdict})")
        lines.append(_line([one.M, f"{one.ours_us:.1f}", percent(share[one.M]), *times, f"`{one.peer}`", ratio]))
    return "\n".join([*lines, ""])


def bounds(run: str, ours: str = "auto") -> str:
    """Return the bound at each M of a sweep and what sets it, a table for each GPU."""
    out = []
    for gpu, bench in benches(run):
        rows = sweep.at(bench, "")
        first = rows[rows["backend"] == ours].dropna(subset="roofline_us")
        cells = [_line([one.M, one.experts_hit, f"{one.roofline_us:.0f}", one.bound_by]) for one in rows_of(first)]
        head = [_line([f"{gpu}, M", "experts hit", "bound, µs", "bound by"]), "|---:|---:|---:|---|"]
        out.append("\n".join([*head, *cells, ""]))
    return "\n".join(out)


def against(run: str, ours: str = "auto") -> str:
    """Return a line a GPU of a sweep: share of the bound and lead over the best peer at each M."""
    out = []
    for gpu, bench in benches(run):
        rows, name = leads.with_ours(sweep.at(bench, ""), ours)
        share = rows[rows["backend"] == name].drop_duplicates("M").set_index("M")["pct_of_roofline"]
        found = leads.leads(rows, name).set_index("M")
        lines = [
            _line([f"{rows['model'].iloc[0]}, {gpu}, M =", *found.index]),
            "|---|" + "---:|" * len(found),
            _line([f"{name}, % of the bound", *(percent(share[M]) for M in found.index)]),
            _line(["times as fast as the best peer", *(f"{v:.2f}" for v in found["speedup"])]),
            _line(["best peer at this M", *(f"`{peer}`" for peer in found["peer"])]),
        ]
        out.append("\n".join([*lines, ""]))
    return "\n".join(out)


def align(run: str, names: Sequence[str], E: int = 256, topk: int = 8) -> str:
    """Return the microseconds of align algorithms over tokens, of one shape, replayed from a CUDA graph.

    Args:
        run: of the align benchmark.
        names: algorithms.
        E: experts.
        topk: experts per token.
    """
    rows = align_bench.at(align_bench.load(run), E, topk)
    wide = rows.pivot_table("median_us", "tokens", "algorithm")
    lines = [_line(["M", *(f"`{n}`" for n in names)]), "|" + "---:|" * (len(names) + 1)]
    for tokens, row in wide.reindex(columns=list(names)).iterrows():
        lines.append(_line([tokens, *("" if pd.isna(v) else f"{v:.1f}" for v in row)]))
    return "\n".join(lines)


def percent(value: Any) -> str:
    """Return a share of a bound in percent; ``!`` marks one over 100, of which the bound is wrong."""
    return "" if pd.isna(value) else f"{value:.0f}{' !' if value > 100 else ''}"


def models(names: Sequence[str], ours: str = "auto") -> str:
    """Return one row a model and GPU: the lead over the best peer at ``TOKENS``.

    Args:
        names: last parts of the runs' names.
        ours: a backend; where a run lacks it, the quickest of ours.
    """
    lines = [_line(["model, M =", *TOKENS]), "|---|" + "---:|" * len(TOKENS)]
    for name in names:
        for gpu, bench in benches(name):
            rows = sweep.at(bench, "")
            found = leads.leads(rows, ours).set_index("M")["speedup"]
            cells = [f"{found[M]:.2f}" if M in found.index else "" for M in TOKENS]
            lines.append(_line([f"{rows['model'].iloc[0]}, {gpu}", *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
