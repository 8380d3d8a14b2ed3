# SPDX-License-Identifier: Apache-2.0
"""``moe-lab view``: one page for any report, or the report as a trace for Perfetto."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_lab.runs import Run
    from moe_lab.spec.launches import Launches

RUN = "RUN"  # stands for the run in the parameters of a notebook
INFO = {
    "about": "one page for any run or report; or a trace for Perfetto",
    "shows": {
        "moe-lab view RUN_OR_REPORT [--out DIR] [--perfetto FILE]": (
            "what is in this report, whatever it is? Of a trace how busy the GPU was, roles, kernels, ranges, gaps, "
            "graphs, and a timeline that zooms; of counters and benchmarks the notebook about them. `--perfetto` "
            "writes a trace for ui.perfetto.dev and chrome://tracing instead"
        ),
    },
}
# What a run holds -> the notebook that is about it, and its parameters; all else is a trace.
TRACE: tuple[str, dict[str, Any]] = ("00_any_report", {"run": RUN})
PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "bench experts": ("02_m_sweep", {"sweep_run": RUN, "other_runs": [], "format_runs": ""}),
    "bench align": ("04_align_sort", {"bench_run": RUN, "capture_run": "", "counters_run": ""}),
    "bench tune": ("06_tuning", {"tuning_run": RUN}),
    "bench ep": ("08_expert_parallel", {"bench_runs": [RUN], "model": ""}),
    "bench inspect": ("10_static", {"static_run": RUN, "align_run": ""}),
    "counters": ("03_kernel_counters", {"counter_runs": [RUN], "timeline_run": ""}),
    "counters of AMD": ("05_rocprof_compute", {"folders": RUN}),
}


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
    notebook, parameters = PAGES.get(_holds(found), TRACE)
    filled = {name: _filled(value, given) for name, value in parameters.items()}
    built = report.build([notebook], out=arguments.out, parameters=filled, single_file=True)
    page = built.pages[0]
    if page.failed:
        print(f"moe-lab: the page failed: {page.failed}", file=sys.stderr)
        return 1
    print(page.html)
    return 0


def _holds(found: "Run") -> str:
    """Return what a run holds, as in ``PAGES``; counters of kernels that no page is about are refused."""
    from moe_lab.analysis.gemms import gemms
    from moe_lab.runs.parse import format_of
    from moe_lab.spec.errors import UserError

    if found.is_bench:
        return f"bench {found.manifest['bench']}"
    kind = format_of(found.report)
    if not kind.startswith("ncu_"):
        return "counters of AMD" if kind == "rocprof_compute" else "a trace"
    if gemms(found.launches(), {}, {}).empty:
        said = "These counters are of no kernel in a range w13 or w2, which the page of counters is about"
        raise UserError(f"{said}; `moe-lab counters` prints those of any kernel.")
    return "counters"


def _filled(value: Any, run: str) -> Any:
    return [run if one == RUN else one for one in value] if isinstance(value, list) else run if value == RUN else value


def _write(launches: "Launches", path: Path) -> None:
    from moe_lab.runs import perfetto
    from moe_lab.spec.errors import UserError

    try:
        with path.open("x") as file:
            json.dump({"displayTimeUnit": "ns", "traceEvents": list(perfetto.events(launches))}, file, default=int)
    except FileExistsError:
        raise UserError(f"'{path.name}' exists already; give the name of a new file.") from None
