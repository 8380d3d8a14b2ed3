# SPDX-License-Identifier: Apache-2.0
"""NVIDIA Nsight Systems: kernels, API calls, ranges and CUDA graphs of any command."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_lab.runs.capture import Traced, _tools, option, window
from moe_lab.runs.capture._tools import Tool
from moe_lab.runs.capture._work import Work
from moe_lab.spec.errors import UserError

INFO = {
    "about": "NVIDIA Nsight Systems: kernels, API calls, ranges, CUDA graphs",
    "needs": [],
    "shows": {
        "moe-lab capture nsys --name X -- COMMAND ...": "profile any command",
    },
}

INSTALL_PATTERNS = (
    "/usr/local/cuda/bin/nsys",
    "/usr/local/cuda-*/bin/nsys",
    "$CUDA_HOME/bin/nsys",
    "/opt/nvidia/nsight-systems*/*/bin/nsys",
    "/opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "/opt/nvidia/nsight-systems*/bin/nsys",
    "/usr/lib/nsight-systems/*/nsys",
    "/usr/local/cuda*/nsight-systems*/target-linux-*/nsys",
    # Bundled with Nsight Compute, therefore last: it needs libdw, which it does not bring.
    "/opt/nvidia/nsight-compute/*/host/target-linux-*/nsys",
)
HOW_TO_GET = "install Nsight Systems (package nsight-systems of NVIDIA's CUDA repository) or put nsys on PATH"


@dataclass(frozen=True)
class Options:
    """How to trace; see the help of each option."""

    window: str = window("cudaProfilerStart to Stop")
    extra: tuple[str, ...] = option((), "--nsys-option", metavar="OPTION", help="another option for nsys profile")


def available() -> Tool | str:
    """Return this machine's nsys, or a sentence on why there is none and how to get it."""
    return _tools.available("nsys", INSTALL_PATTERNS, HOW_TO_GET)


def command(nsys: str, workload: Sequence[str], out: str, options: Options) -> list[str]:
    """Return the argv that profiles ``workload`` into ``out``.nsys-rep and ``out``.sqlite. Pure."""
    window = ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"] if options.window == "profiler-api" else []
    return [
        nsys,
        "profile",
        "--trace=cuda,nvtx",
        "--cuda-graph-trace=node",  # by default a replay is one block, without its kernels
        "--sample=none",
        "--cpuctxsw=none",
        *window,
        "--export=sqlite",
        "--force-overwrite=true",
        *options.extra,
        "-o",
        out,
        *workload,
    ]


def export_command(nsys: str, report: str, out: str) -> list[str]:
    """Return the argv that turns a .nsys-rep into a .sqlite. Pure."""
    return [nsys, "export", "--type=sqlite", "--force-overwrite=true", "-o", out, report]


def export_sqlite(report: Path, out: Path) -> None:
    """Write ``out`` (.sqlite) from a .nsys-rep; raises UserError: nsys is missing or cannot read the report."""
    nsys = available()
    if isinstance(nsys, str):
        raise UserError(nsys)
    done = subprocess.run(export_command(str(nsys.path), str(report), str(out)), capture_output=True, text=True)
    if done.returncode or not out.exists():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
        raise UserError(
            f"nsys {nsys.version} could not export {report.name} ({last[0].strip()}); export it to SQLite with "
            "the nsys version that wrote it, then import the .sqlite."
        )


def trace(work: Work, tool: Tool, workload: Sequence[str], options: Options) -> Traced:
    """Profile the command."""
    argv = command(str(tool.path), workload, str(work.folder / "report"), options)
    work.run(argv, "nsys")
    return Traced(_traced(work.folder, options), argv[2 : argv.index("-o")])


def _traced(folder: Path, options: Options) -> Path:
    if (folder / "report.sqlite").exists():
        return folder / "report.sqlite"
    if list(folder.glob("*.qdstrm")):  # nsys's own format before its importer has made a report of it
        raise UserError(
            "nsys traced the command but its importer could not run, most often because libdw is missing; "
            "install it (package libdw1 or elfutils-libs) and capture again."
        )
    hint = (
        " between cudaProfilerStart and cudaProfilerStop; try --window all" if options.window == "profiler-api" else ""
    )
    raise UserError(f"nsys wrote no report: it saw nothing to trace{hint}.")
