# SPDX-License-Identifier: Apache-2.0
"""``moe-lab report``: run notebooks and write pages."""

import argparse
import sys
from pathlib import Path
from typing import Any

from moe_lab.cli._print import aligned
from moe_lab.spec.guard import options

INFO = {
    "about": "run notebooks, write HTML that needs no network, and reports/index.html",
    "shows": {
        "moe-lab report [NOTEBOOK|DIR ...] [-p NAME VALUE] [--grid FILE] [--single-file]": (
            "run notebooks, ours or those of a folder, write HTML; `--single-file` for a page to send alone"
        ),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help="paths, folders or names; default: every notebook"
    )
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a notebook parameter",
    )
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="FILE",
        help="YAML: parameter names to lists of values; one page per point, and one table over all",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="DIR", help="output folder (default: reports)"
    )
    parser.add_argument("--show-code", action="store_true", help="show code cells (by default a button shows them)")
    parser.add_argument(
        "--single-file",
        action="store_true",
        help="put the scripts into each page, so that it can be sent alone (by default pages share them)",
    )
    parser.add_argument(
        "--jobs",
        type=options.whole(1, 64),
        default=0,
        metavar="N",
        help="notebooks at once (default: cores, up to 4, if all of ours run as they are; else 1: one may measure)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run notebooks and print the path of the index page; returns 1 if one failed."""
    from moe_lab import report as reports
    from moe_lab.report import points

    parameters = {name: _value(text) for name, text in arguments.parameter}
    built = reports.build(
        arguments.notebooks or None,  # none given = all
        out=arguments.out,
        parameters=parameters,
        grid=arguments.grid,
        show_code=arguments.show_code,
        single_file=arguments.single_file,
        at_a_time=arguments.jobs,
    )
    failed = [page for page in built.pages if page.failed]
    for page in failed:
        print(f"moe-lab: '{page.title}' failed: {page.failed}", file=sys.stderr)
    if arguments.grid:
        print(f"{aligned(points.table(built.pages))}\n")
    print(built.index)
    return 1 if failed else 0


def _value(text: str) -> Any:
    """Return a parameter's value: JSON if it is JSON (16, 0.5, true, [1, 2]), else the text itself."""
    from moe_lab.spec.guard.entry import decode_json

    try:
        return decode_json(text)
    except ValueError:
        return text
