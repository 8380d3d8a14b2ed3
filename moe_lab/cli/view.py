"""``moe-lab view``: one page for any report, or the report as a trace for Perfetto."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_lab.spec.launches import Launches

INFO = {
    "about": "one page for any run or report; or a trace for Perfetto",
    "shows": {
        "moe-lab view RUN_OR_REPORT [--out DIR] [--perfetto FILE]": (
            "what is in this report, whatever it is? How busy the GPU was, roles, kernels, ranges, gaps, graphs, and a "
            "timeline that zooms; `--perfetto` writes it for ui.perfetto.dev and chrome://tracing instead"
        ),
    },
}
NOTEBOOK = "00_any_report"


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("source", metavar="RUN_OR_REPORT", help="run name, run folder, or report file")
    parser.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="DIR", help="folder of the page (default: reports)"
    )
    parser.add_argument("--perfetto", type=Path, metavar="FILE", help="write a trace of everything here instead")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page, or the trace, and print its path; returns 1 if the page failed."""
    from moe_lab import report, runs

    found = runs.load(arguments.source)
    if arguments.perfetto:
        _write(found.launches("all"), arguments.perfetto)
        print(arguments.perfetto)
        return 0
    given = str(found.path.resolve()) if os.path.exists(arguments.source) else arguments.source
    built = report.build([NOTEBOOK], out=arguments.out, parameters={"run": given}, single_file=True)
    page = built.pages[0]
    if page.failed:
        print(f"moe-lab: the page failed: {page.failed}", file=sys.stderr)
        return 1
    print(page.html)
    return 0


def _write(launches: "Launches", path: Path) -> None:
    from moe_lab.runs import perfetto
    from moe_lab.spec.errors import UserError

    try:
        with path.open("x") as file:
            json.dump({"displayTimeUnit": "ns", "traceEvents": list(perfetto.events(launches))}, file, default=int)
    except FileExistsError:
        raise UserError(f"'{path.name}' exists already; give the name of a new file.") from None
