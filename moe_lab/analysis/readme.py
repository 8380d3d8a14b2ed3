"""Tables of README.md and docs/kernels.md in Markdown, from committed runs: for each GPU that has the run."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from moe_lab import runs
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
