# SPDX-License-Identifier: Apache-2.0
"""``moe-lab kernels``: the kernels of any report, summed."""

import argparse
import json
from typing import TYPE_CHECKING

from moe_lab.cli._print import add_format, add_traced, fitted, print_csv, print_notes, records, time, traced
from moe_lab.spec.guard import options

if TYPE_CHECKING:
    import pandas as pd

    from moe_lab.spec.launches import Launches

INFO = {
    "about": "sums, counts, medians and shares of the kernels of a run or report",
    "shows": {
        (
            "moe-lab kernels RUN_OR_REPORT [--by name|role|operators|stage|range|rank|...] [--root REGEX] [--stages-of "
            "RUN_OR_REPORT] [--top N] [--sort total|launches|median|...] [--window auto|all] "
            "[--format table|csv|json]"
        ): ("which kernels take the time of any report, with or without ranges: counts, sums, medians, shares"),
    },
}
BY = ("name", "role", "operators", "stage", "range", "rank", "process", "device", "stream")
SORTS = {
    **{"total": "total_ms", "launches": "launches", "median": "median_us", "mean": "mean_us"},
    **{"min": "min_us", "max": "max_us"},
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("source", metavar="RUN_OR_REPORT", help="run name, run folder, or report file")
    parser.add_argument(
        "--by",
        default="name",
        metavar="LIST",
        help=f"what the kernels of one row have in common: {', '.join(BY)}, or several of these (operators: those in "
        "names of torch.compile)",
    )
    parser.add_argument(
        "--root", type=options.pattern, metavar="REGEX", help="only kernels in ranges whose name matches (default: all)"
    )
    parser.add_argument("--top", type=options.whole(0, options.COUNT), default=20, metavar="N", help="rows; 0 = all")
    parser.add_argument(
        "--sort", choices=[*SORTS, "name"], default="total", help="largest first; name: in alphabetical order"
    )
    add_traced(parser)
    add_format(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the kernels of a run or report, one row for those that have in common what was asked for."""
    from moe_lab.analysis.kernels import sums

    launches = traced(arguments)
    by = arguments.by.split(",")
    table = sums(launches, by, arguments.root)
    if arguments.sort == "name":
        table = table.sort_values(by, kind="stable")  # here and below: of equal rows the longest total first
    else:
        table = table.sort_values(SORTS[arguments.sort], ascending=False, kind="stable")
    shown = table.head(arguments.top or len(table))
    notes = [*launches.meta["warnings"], *_with(table), *_left_out(table.iloc[len(shown) :])]
    print_notes(notes)
    if arguments.format == "csv":
        print_csv(shown)
    elif arguments.format == "json":
        print(json.dumps({"notes": notes, "kernels": records(shown)}, indent=1))
    else:
        print(
            fitted(shown.assign(pct_of_kernels=shown["pct_of_kernels"].map("{:.2f}".format, na_action="ignore")), SPARE)
        )
        print(f"\n{_summary(launches, table)}")


SPARE = ("min", "mean", "max", "median")  # left out in this order if the terminal is too narrow


WITH = {
    "role": "have a role, by range or name.",
    "rank": "have a rank, by ranges or traces that name one; --by process keeps those of others apart.",
    "operators": "list operators in their names, as those of torch.compile do; what others compute is not told there.",
}


def _with(table: "pd.DataFrame") -> list[str]:
    """Return sentences on how many kernels have what is not known of all."""
    said = []
    for column in (c for c in WITH if c in table):
        known = table[table[column].notna()]
        share = f"{known['pct_of_kernels'].sum():.2f} % of their time"
        said.append(f"{known['launches'].sum()} of {table['launches'].sum()} kernels ({share}) {WITH[column]}")
    return said


def _left_out(rest: "pd.DataFrame") -> list[str]:
    share = rest["pct_of_kernels"].sum()
    return [f"{len(rest)} more rows have {share:.2f} % of the time; --top 0 shows them."] if len(rest) else []


def _summary(launches: "Launches", table: "pd.DataFrame") -> str:
    """Return what was counted, and what was not, as copies and fills are not kernels."""
    others = launches.table.loc[launches.table["kind"] != "kernel", "duration_ns"]
    said = f"{table['launches'].sum()} kernels, {time(table['total_ms'].sum() * 1e3)}"
    copies = f"; {len(others)} copies and fills beside them, {time(others.sum() / 1e3)}" if len(others) else ""
    return f"{said}{copies}."
