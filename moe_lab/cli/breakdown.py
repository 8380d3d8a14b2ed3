# SPDX-License-Identifier: Apache-2.0
"""``moe-lab breakdown``: the time of every range."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_lab.cli._print import add_format, add_traced, fitted, print_csv, print_notes, records, time, traced
from moe_lab.spec.guard import options

if TYPE_CHECKING:
    import pandas as pd

MOSTLY_PCT = 50.0  # of the kernel time in ranges; if there is less, a hint points to --roles
# Left out in this order if the terminal is too narrow.
SPARE = [f"{name}{end}" for name in ("busy", "gap", "span") for end in ("_min", "_max")]
SPARE += ["busy", "gap", "instances", "span", "kernels", "pct_of_root"]
INFO = {
    "about": "time per range of a run or report",
    "shows": {
        (
            "moe-lab breakdown RUN_OR_REPORT [--root REGEX] [--roles auto|none|FILE] [--stages-of RUN_OR_REPORT] "
            "[--depth N] [--top N] [--sort start|time|name] [--spread] [--window auto|all] "
            "[--format table|csv|json]"
        ): (
            "how much time does each range take, and how much could not be attributed? `--roles auto` "
            "tells kernels that lie in no stage by their names; a report without ranges has one row per role "
            "anyway; `--stages-of` takes the stages of a graph's kernels from a trace of the same step without graphs"
        ),
    },
}


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
        metavar="auto|none|FILE",
        help="give kernels in no stage a role by their names, with the rules of every engine or those in a YAML file "
        "(default: only if no kernel lies in a range)",
    )
    parser.add_argument("--spread", action="store_true", help="also the smallest and largest instance of each time")
    parser.add_argument("--depth", type=options.few, metavar="N", help="leave out deeper ranges; roots have depth 0")
    parser.add_argument(
        "--top",
        type=options.whole(0, options.COUNT),
        default=0,
        metavar="N",
        help="only the N rows of most kernel time and the ranges around them; 0 = all",
    )
    parser.add_argument(
        "--sort", choices=("start", "time", "name"), default="start", help="order of the ranges within one range"
    )
    add_traced(parser)
    add_format(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the time per range of a run or report."""
    from moe_lab.analysis.breakdown import breakdown, selected
    from moe_lab.spec import roles

    launches = traced(arguments)
    words = {None: None, "auto": True, "none": False}  # anything else is the name of a file
    rules = words[arguments.roles] if arguments.roles in words else roles.load(Path(arguments.roles))
    table = breakdown(launches, arguments.root, spread=arguments.spread, roles=rules)
    shown = selected(table, depth=arguments.depth, sort=arguments.sort, top=arguments.top)
    coverage = table.attrs["coverage"]
    notes = [*table.attrs["notes"], *_hints(coverage, len(table) - len(shown))]
    print_notes(notes)
    if arguments.format == "csv":
        # CSV has no place beside its table, so every row carries the coverage.
        print_csv(shown.assign(**{f"coverage_{name}": value for name, value in coverage.items()}))
    elif arguments.format == "json":
        print(json.dumps({"notes": notes, "coverage": coverage, "ranges": records(shown)}, indent=1))
    else:
        print(_tree(shown))
        print("\nkernels and times: medians per instance. pct_of_root: of the kernel time of all roots.")
        print(_covered(coverage))


def _hints(coverage: dict[str, Any], hidden: int) -> list[str]:
    """Return sentences on what to ask for next."""
    hints = [f"{hidden} more rows are left out by --depth or --top."] if hidden else []
    inside = coverage["in_range_pct"]
    if coverage["by_name_pct"] is None and inside is not None and inside < MOSTLY_PCT:
        said = f"{100 - inside:.2f} % of the kernel time lies in no range"
        hints.append(f"{said}; --roles auto tells kernels by their names.")
    return hints


def _covered(coverage: dict[str, Any]) -> str:
    """Return the coverage of the attribution as one line, without shares that are not known."""
    shares = {
        "of it in the roots": coverage["in_root_pct"],
        "in any range": coverage["in_range_pct"],
        "of the roots' time in a stage": coverage["in_stage_pct"],
        "of it has its role by name": coverage["by_name_pct"],
        f"of the time of {coverage['graph_kernels']} graph kernels in the range of their capture": coverage[
            "in_capture_pct"
        ],
    }
    said = [f"{value:.2f} % {what}" for what, value in shares.items() if value is not None]
    total = f"{coverage['kernels']} kernels, {time(1e3 * coverage['kernel_time_ms'])}"
    return f"coverage: {', '.join([total, *said])}."


def _tree(table: "pd.DataFrame") -> str:
    shown = table.drop(columns=["path", "depth", "total_kernel_sum_ms"])
    shown["name"] = ["  " * int(d or 0) + n for d, n in zip(table["depth"].fillna(0), table["name"], strict=True)]
    shown["kernels"] = [f"{k:g}" for k in table["kernels"]]
    shown["pct_of_root"] = [f"{p:.2f}" for p in table["pct_of_root"]]
    return fitted(shown, SPARE)
