# SPDX-License-Identifier: Apache-2.0
"""``moe-lab import``: make runs from profiler reports and benchmark results."""

import argparse
import re
from pathlib import Path

from moe_lab.cli._print import add_destination, destination, print_run
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options
from moe_lab.spec.guard.entry import one_line

INFO = {
    "about": "make a redacted run from an existing report or benchmark result",
    "shows": {
        "moe-lab import REPORT [--name X] [--keep N]": (
            "keep a report of nsys, ncu, torch.profiler, rocprofv3 or rocprof-compute as a run, without "
            "environment, host, user and paths; or results of a benchmark that another machine wrote"
        ),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "report",
        type=Path,
        nargs="+",
        metavar="REPORT",
        help="report of a profiler, or results of a benchmark (several: parts of one)",
    )
    parser.add_argument("--name", help="name of the run: RUN or GPU/RUN (default: the report's file name)")
    parser.add_argument("--root", type=options.pattern, metavar="REGEX", help="with --keep: the ranges that are roots")
    parser.add_argument("--keep", type=options.count, metavar="N", help="keep the first N instances of each root range")
    parser.add_argument("--max-mb", type=options.amount, metavar="MB", help="refuse a run with a larger report")
    add_destination(parser, name="")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Make a run from the report of each rank, or from results of a benchmark, and print its folder."""
    from moe_lab import runs
    from moe_lab.runs import bench_runs, rows

    if arguments.root and not arguments.keep:
        raise UserError("--root chooses the ranges for --keep; give --keep N too.")
    # The report's name without its endings, in characters that a run may have; it must not look like an option.
    name = arguments.name or re.sub(r"[^A-Za-z0-9_.+-]+", "_", arguments.report[0].name.split(".")[0]).lstrip(".+-")
    place = destination(arguments)
    if all(map(rows.is_result, arguments.report)):
        if arguments.keep or arguments.max_mb:
            raise UserError("--keep and --max-mb are for reports; a benchmark's result is kept as it is.")
        print_run(bench_runs.import_bench(arguments.report, name, **place))
        return
    for path in arguments.report:
        _refuse_others(path)
    if any(map(rows.is_result, arguments.report)):
        raise UserError("Reports and benchmark results cannot be one run; import them one by one.")
    run = runs.import_report(
        arguments.report,
        name,
        **place,
        keep_root=arguments.root,
        keep_instances=arguments.keep,
        max_bytes=int(arguments.max_mb * 1e6) if arguments.max_mb else None,
    )
    print_run(run)


def _refuse_others(path: Path) -> None:
    """Raise UserError for a file that belongs to another command, and name that command."""
    from moe_lab.spec.configs import engines

    takes = {".ipynb": ("a notebook", "moe-lab report"), ".whl": ("a wheel", "moe-lab peers add")}
    what = takes.get(path.suffix)
    if engines.is_theirs(path) or (path.name.startswith("E=") and ",backend=" in path.name):
        what = ("a file of tiles", "moe-lab configs import")
    if what:
        raise UserError(f"'{one_line(path.name, 120)}' is {what[0]}, not a report; give it to `{what[1]}`.")
