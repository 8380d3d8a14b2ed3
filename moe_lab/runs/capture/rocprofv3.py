"""AMD's rocprofv3: kernels, HIP calls, copies and roctx ranges of any command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_lab.runs import Run
from moe_lab.runs.capture._facts import check_command, describe
from moe_lab.runs.capture._tools import Tool, find_tool, probe
from moe_lab.runs.capture._work import prepared
from moe_lab.runs.parse.rocprofv3 import sniff
from moe_lab.spec.errors import UserError

INFO = {"about": "AMD rocprofv3: kernels, HIP calls, copies, roctx ranges", "needs": []}

INSTALL_PATTERNS = ("/opt/rocm*/bin/rocprofv3", "$ROCM_PATH/bin/rocprofv3")
HOW_TO_GET = "install the ROCm package rocprofiler-sdk or put rocprofv3 on PATH"
TRACES = ("--kernel-trace", "--marker-trace", "--hip-trace", "--memory-copy-trace")


@dataclass(frozen=True)
class Options:
    """How to trace.

    Attributes:
        output_format: ``csv``, or ``rocpd`` (a database; ROCm 7 and later).
        extra: further arguments for rocprofv3.
    """

    output_format: str = "csv"
    extra: tuple[str, ...] = ()


def available() -> Tool | str:
    """Return the rocprofv3 of this machine, or the reason why there is none and how to get it."""
    path = find_tool("rocprofv3", INSTALL_PATTERNS)
    return probe(path) if path else f"rocprofv3 was not found; {HOW_TO_GET}."


def command(tool: str, workload: Sequence[str], out: str, options: Options) -> list[str]:
    """Return the argv that traces ``workload`` into the folder ``out``. Pure."""
    return [tool, *TRACES, "--output-format", options.output_format, *options.extra, "-d", out, "--", *workload]


def capture(
    workload: Sequence[str],
    name: str,
    *,
    options: Options | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Trace any command and keep the result as a redacted run folder.

    Args:
        workload: the command, one string an argument.
        name: ``<run>`` or ``<gpu>/<run>``.
        options: how to trace.
        root: profiles folder.
        overwrite: replace a run of that name.

    Raises:
        UserError: rocprofv3 is missing, the command fails, or nothing was traced.
    """
    check_command(workload, "rocprofv3")
    tool = available()
    if isinstance(tool, str):
        raise UserError(tool)
    options = options or Options()
    with prepared(name, root, overwrite) as work:
        out = work.folder / "trace"
        argv = command(str(tool.path), workload, str(out), options)
        code = work.run(argv)
        if code:
            raise UserError(f"The profiled command (or rocprofv3) stopped with exit code {code}, see its output above.")
        if not out.is_dir() or not sniff(out):
            raise UserError("rocprofv3 wrote no kernel trace: the command started no kernel on the GPU.")
        return work.keep(out, describe("rocprofv3", tool.version, argv[1 : argv.index("-d")], workload, work.said))
