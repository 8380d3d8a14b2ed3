"""``moe-lab breakdown``: the time of every range."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_lab.cli._print import aligned
from moe_lab.spec.guard import options

if TYPE_CHECKING:
    import pandas as pd

INFO = {"about": "time per range of a run or report"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("source", metavar="RUN_OR_REPORT", help="run name, run folder, or report file")
    parser.add_argument(
        "--root",
        type=options.pattern,
        metavar="REGEX",
        help="ranges to take as roots (default: moe_lab's own, else every top-level range)",
    )
    parser.add_argument(
        "--roles",
        metavar="auto|FILE",
        help="give kernels of engines that mark no stages a stage, by built-in rules or those of a YAML file",
    )
    parser.add_argument("--spread", action="store_true", help="also the smallest and largest instance of each time")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the time per range of a run or report."""
    from moe_lab import runs
    from moe_lab.analysis import roles
    from moe_lab.analysis.breakdown import breakdown

    launches = runs.load(arguments.source).launches()
    if arguments.roles:
        launches = roles.apply(
            launches, roles.RULES if arguments.roles == "auto" else roles.load(Path(arguments.roles))
        )
    table = breakdown(launches, arguments.root, spread=arguments.spread)
    for warning in launches.meta["warnings"]:
        print(f"note: {warning}", file=sys.stderr)
    coverage = table.attrs["coverage"]
    if arguments.format == "csv":
        table = table.assign(**{f"coverage_{name}": value for name, value in coverage.items()})
        print(table.to_csv(index=False, float_format="%.6g"), end="")
    elif arguments.format == "json":
        rows = json.loads(table.to_json(orient="records"))
        print(json.dumps({"notes": launches.meta["warnings"], "coverage": coverage, "ranges": rows}, indent=1))
    else:
        print(_tree(table))
        print("\nkernels and times: medians per instance. pct_of_root: of the kernel time of all roots.")
        print(_covered(coverage))


def _covered(coverage: dict[str, Any]) -> str:
    """Return what the attribution reaches, as one line; shares that the report cannot give are left out."""
    shares = {
        "of it in the roots": coverage["in_root_pct"],
        "in any range": coverage["in_range_pct"],
        "of the roots' time in a stage": coverage["in_stage_pct"],
        f"of the time of {coverage['graph_kernels']} graph kernels in the range of their capture": coverage[
            "in_capture_pct"
        ],
    }
    said = [f"{value:.2f} % {what}" for what, value in shares.items() if value is not None]
    total = f"{coverage['kernels']} kernels, {coverage['kernel_time_ms']:.4f} ms"
    return f"coverage: {', '.join([total, *said])}."


def _tree(table: "pd.DataFrame") -> str:
    shown = table.drop(columns=["path", "depth", "total_kernel_sum_ms"])
    shown["name"] = ["  " * int(d or 0) + n for d, n in zip(table["depth"].fillna(0), table["name"], strict=True)]
    shown["kernels"] = [f"{k:g}" for k in table["kernels"]]
    shown["pct_of_root"] = [f"{p:.2f}" for p in table["pct_of_root"]]
    return aligned(shown)
