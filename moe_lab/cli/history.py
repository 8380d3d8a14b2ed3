# SPDX-License-Identifier: Apache-2.0
"""``moe-lab history``: one line a run over time, with change points."""

import argparse
import json
from typing import TYPE_CHECKING

from moe_lab.cli._print import add_format, fitted, print_csv, print_notes, records
from moe_lab.spec.guard import options

if TYPE_CHECKING:
    import pandas as pd

INFO = {
    "about": "one line a run over time, with change points",
    "shows": {
        "moe-lab history DIR_OR_PREFIX [--threshold 5%] [--format table|csv|json]": (
            "how did times change from run to run of the same thing, and after which run did they change for good?"
        ),
    },
}
HOW = (
    "change: geometric mean over the cases that a run shares with the one before. level: against the first run of its "
    "kind, GPU and cases. A change point is where the level changes by more than the threshold and by more than three "
    "times the noise between runs, which fewer than four runs do not tell."
)
SPARE = ("versions", "cases")  # left out in this order if the terminal is too narrow


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "where", metavar="DIR_OR_PREFIX", help="a folder of runs, or how names of runs begin: h100/experts_qwen3"
    )
    parser.add_argument(
        "--threshold", type=options.percent, default=5.0, metavar="P%", help="least change of level (default: 5%%)"
    )
    add_format(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the lines; runs of one series share cases."""
    from moe_lab.analysis import history
    from moe_lab.pages import load

    points, left = load.points(arguments.where)
    table = history.lines(points, arguments.threshold)
    if arguments.format == "csv":
        print_csv(table)
    elif arguments.format == "json":
        print(json.dumps({"notes": [*left, HOW], "runs": records(table)}, indent=1))
    else:
        print(fitted(_shown(table), SPARE))
    print_notes([] if arguments.format == "json" else [*left, HOW])


def _shown(table: "pd.DataFrame") -> "pd.DataFrame":
    shown = table.assign(
        change_pct=table["change_pct"].map("{:+.1f} %".format, na_action="ignore"),
        level_pct=table["level_pct"].map("{:.1f} %".format),
    )
    return shown.rename(columns={"change_pct": "change", "level_pct": "level", "changed_point": "change point"})
