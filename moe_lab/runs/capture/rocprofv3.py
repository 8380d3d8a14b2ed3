# SPDX-License-Identifier: Apache-2.0
"""AMD's rocprofv3: kernels, HIP calls, copies and roctx ranges of any command."""

from collections.abc import Sequence
from dataclasses import dataclass

from moe_lab.runs.capture import Traced, _tools, option
from moe_lab.runs.capture._tools import Tool
from moe_lab.runs.capture._work import Work
from moe_lab.runs.parse.rocprofv3 import sniff
from moe_lab.spec.errors import UserError

INFO = {
    "about": "AMD rocprofv3: kernels, HIP calls, copies, roctx ranges",
    "needs": [],
    "shows": {
        "moe-lab capture rocprofv3 --name X -- COMMAND ...": "AMD: kernels, HIP calls and roctx ranges",
    },
}

INSTALL_PATTERNS = ("/opt/rocm*/bin/rocprofv3", "$ROCM_PATH/bin/rocprofv3")
HOW_TO_GET = "install the ROCm package rocprofiler-sdk or put rocprofv3 on PATH"
TRACES = ("--kernel-trace", "--marker-trace", "--hip-trace", "--memory-copy-trace")


@dataclass(frozen=True)
class Options:
    """How to trace; see the help of each option."""

    output_format: str = option("csv", "--output-format", choices=("csv", "rocpd"), help="what rocprofv3 writes")
    extra: tuple[str, ...] = option((), "--tool-option", metavar="OPTION", help="another option for rocprofv3")


def available() -> Tool | str:
    """Return this machine's rocprofv3, or a sentence on why there is none and how to get it."""
    return _tools.available("rocprofv3", INSTALL_PATTERNS, HOW_TO_GET)


def command(tool: str, workload: Sequence[str], out: str, options: Options) -> list[str]:
    """Return the argv that traces ``workload`` into the folder ``out``. Pure."""
    return [tool, *TRACES, "--output-format", options.output_format, *options.extra, "-d", out, "--", *workload]


def trace(work: Work, tool: Tool, workload: Sequence[str], options: Options) -> Traced:
    """Trace the command."""
    out = work.folder / "trace"
    argv = command(str(tool.path), workload, str(out), options)
    work.run(argv, "rocprofv3")
    if not out.is_dir() or not sniff(out):
        raise UserError("rocprofv3 wrote no kernel trace: the command started no kernel on the GPU.")
    return Traced(out, argv[1 : argv.index("-d")])
