"""``moe-lab counters``: hardware counters of every kernel."""

import argparse
import sys
from typing import TYPE_CHECKING

from moe_lab.cli._print import aligned

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
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the counters of every kernel of a run or report: a column a kernel, a line a counter."""
    from moe_lab import runs
    from moe_lab.analysis.counters import counters_table

    metrics = arguments.metrics.split(",") if arguments.metrics else None
    table = counters_table(runs.load(arguments.source).launches(), metrics)
    for note in table.attrs["notes"]:
        print(f"note: {note}", file=sys.stderr)
    if arguments.format == "csv":
        print(table.to_csv(index=False, float_format="%.6g"), end="")
    elif arguments.format == "json":
        print(table.to_json(orient="records", indent=1))
    else:
        print(aligned(_sideways(table)))


def _sideways(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with a column a kernel; lines in which nothing is known are left out."""
    import pandas as pd

    cells = table.dropna(axis="columns", how="all").astype(object).T
    rows = [[name, *(f"{v:.6g}" if isinstance(v, float) else v for v in cells.loc[name])] for name in cells.index]
    return pd.DataFrame(rows, columns=["", *(str(n) for n in range(1, len(table) + 1))])
