# SPDX-License-Identifier: Apache-2.0
"""AMD's rocprof-compute (formerly omniperf): hardware counters of every kernel of any command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_lab.runs.capture import Traced, _tools, option
from moe_lab.runs.capture._tools import Tool
from moe_lab.runs.capture._work import Work
from moe_lab.runs.parse.rocprof_compute import sniff
from moe_lab.spec.errors import UserError

INFO = {
    "about": "AMD rocprof-compute: counters of every kernel, roofline",
    "needs": [],
    "shows": {
        "moe-lab capture rocprof-compute --name X [-k KERNEL] [-b ID] [--roof-only] -- COMMAND ...": (
            "AMD: hardware counters of each kernel ([what the numbers mean](amd.md))"
        ),
    },
}

INSTALL_PATTERNS = (
    "/opt/rocm*/bin/rocprof-compute",
    "$ROCM_PATH/bin/rocprof-compute",
    "/opt/rocm*/libexec/rocprofiler-compute/rocprof-compute",
    "/opt/rocm*/bin/omniperf",
)
HOW_TO_GET = "install the ROCm package rocprofiler-compute or put rocprof-compute on PATH"
NAME = "moe_lab"
OUTPUT_DIRECTORY_SINCE = (3, 5)  # 3.7.0 no longer takes --path


@dataclass(frozen=True)
class Options:
    """What to count; see the help of each option."""

    kernels: tuple[str, ...] = option((), "-k", "--kernel", metavar="NAME", help="count only this kernel")
    blocks: tuple[str, ...] = option((), "-b", "--block", metavar="ID", help="count only this table")
    roof_only: bool = option(False, "--roof-only", help="measure the roofs and what the roofline needs")
    extra: tuple[str, ...] = option((), "--tool-option", metavar="OPTION", help="another option for rocprof-compute")


def available() -> Tool | str:
    """Return this machine's rocprof-compute, or a sentence on why there is none and how to get it."""
    return _tools.available("rocprof-compute", INSTALL_PATTERNS, HOW_TO_GET)


def command(tool: str, workload: Sequence[str], out: str, options: Options, version: str | None) -> list[str]:
    """Return the argv that counts ``workload`` into a workload folder in ``out``. Pure.

    The tool's version decides between ``-p`` and ``--output-directory``; if it is None, the latter is taken.
    """
    numbers = [int(n) for n in (version or "").split(".") if n.isdigit()]
    older = bool(numbers) and tuple(numbers[:2]) < OUTPUT_DIRECTORY_SINCE
    return [
        tool,
        "profile",
        "-n",
        NAME,
        *(["-k", *options.kernels] if options.kernels else []),
        *(["-b", *options.blocks] if options.blocks else []),
        *(["--roof-only"] if options.roof_only else []),
        *options.extra,
        "-p" if older else "--output-directory",
        out,
        "--",
        *workload,
    ]


def trace(work: Work, tool: Tool, workload: Sequence[str], options: Options) -> Traced:
    """Count what the command's kernels do; the command runs once for each group of counters."""
    out = work.folder / "workloads"
    argv = command(str(tool.path), workload, str(out), options, tool.version)
    work.run(argv, "rocprof-compute")
    return Traced(_counted(out), argv[2 : argv.index("-p" if "-p" in argv else "--output-directory")])


def _counted(out: Path) -> Path:
    folders = sorted({p.parent for p in out.rglob("sysinfo.csv*")})
    if not folders or not sniff(folders[0]):
        raise UserError(
            "rocprof-compute wrote no workload folder: it saw no kernel to count; check that the command uses the GPU "
            "and that -k names its kernels."
        )
    return folders[0]
