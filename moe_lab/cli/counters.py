# SPDX-License-Identifier: Apache-2.0
"""``moe-lab counters``: hardware counters of every kernel."""

import argparse
from typing import TYPE_CHECKING

from moe_lab.cli._print import add_format, aligned, print_csv, print_notes

if TYPE_CHECKING:
    import pandas as pd

INFO = {
    "about": "what the hardware counters of a run or report say of each kernel",
    "shows": {
        "moe-lab counters RUN_OR_REPORT [--metrics LIST] [--format table|csv|json]": (
            "what do those counters say of each kernel?"
        ),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("source", metavar="RUN_OR_REPORT", help="run name, run folder, or report file")
    parser.add_argument("--metrics", metavar="LIST", help="columns of moe_lab/spec/metrics.csv (default: main ones)")
    add_format(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the counters of every kernel of a run or report: one column per kernel, one line per counter."""
    from moe_lab import runs
    from moe_lab.analysis.counters import counters_table

    metrics = arguments.metrics.split(",") if arguments.metrics else None
    table = counters_table(runs.load(arguments.source).launches(), metrics)
    print_notes(table.attrs["notes"])
    if arguments.format == "csv":
        print_csv(table)
    elif arguments.format == "json":
        print(table.to_json(orient="records", indent=1))
    else:
        print(aligned(_sideways(table)))  # a kernel has more counters than a terminal has room for columns


def _sideways(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with one column per kernel, without lines in which nothing is known."""
    import pandas as pd

    cells = table.dropna(axis="columns", how="all").astype(object).T
    rows = [[name, *(f"{v:.6g}" if isinstance(v, float) else v for v in cells.loc[name])] for name in cells.index]
    return pd.DataFrame(rows, columns=["", *(str(n) for n in range(1, len(table) + 1))])
