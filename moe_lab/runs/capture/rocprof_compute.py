"""AMD's rocprof-compute (formerly omniperf): hardware counters of every kernel of any command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_lab.runs import Run
from moe_lab.runs.capture._facts import check_command, describe
from moe_lab.runs.capture._tools import Tool, find_tool, probe
from moe_lab.runs.capture._work import prepared
from moe_lab.runs.parse.rocprof_compute import sniff
from moe_lab.spec.errors import UserError

INFO = {"about": "AMD rocprof-compute: counters of every kernel, roofline", "needs": []}

INSTALL_PATTERNS = (
    "/opt/rocm*/bin/rocprof-compute",
    "$ROCM_PATH/bin/rocprof-compute",
    "/opt/rocm*/libexec/rocprofiler-compute/rocprof-compute",
    "/opt/rocm*/bin/omniperf",
)
HOW_TO_GET = "install the ROCm package rocprofiler-compute or put rocprof-compute on PATH"
NAME = "moe_lab"
OUTPUT_DIRECTORY_SINCE = (3, 5)  # --path went with 3.7.0


@dataclass(frozen=True)
class Options:
    """What to count.

    Attributes:
        kernels: only kernels whose names contain one of these; empty = all.
        blocks: only these metric tables, such as ``2``, ``16`` or ``17.1``; empty = all.
        roof_only: measure the roofs of the GPU and count what the roofline needs, nothing else.
        extra: further arguments for ``rocprof-compute profile``.
    """

    kernels: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    roof_only: bool = False
    extra: tuple[str, ...] = ()


def available() -> Tool | str:
    """Return the rocprof-compute of this machine, or the reason why there is none and how to get it."""
    path = find_tool("rocprof-compute", INSTALL_PATTERNS)
    return probe(path) if path else f"rocprof-compute was not found; {HOW_TO_GET}."


def command(tool: str, workload: Sequence[str], out: str, options: Options, version: str | None) -> list[str]:
    """Return the argv that counts ``workload`` into a workload folder in ``out``. Pure.

    Args:
        tool: the executable.
        workload: the command.
        out: folder.
        options: what to count.
        version: of the tool; it decides between ``-p`` and ``--output-directory``, which None takes.
    """
    return [
        tool,
        "profile",
        "-n",
        NAME,
        *(["-k", *options.kernels] if options.kernels else []),
        *(["-b", *options.blocks] if options.blocks else []),
        *(["--roof-only"] if options.roof_only else []),
        *options.extra,
        "-p" if _older(version) else "--output-directory",
        out,
        "--",
        *workload,
    ]


def _older(version: str | None) -> bool:
    numbers = [int(n) for n in (version or "").split(".") if n.isdigit()]
    return bool(numbers) and tuple(numbers[:2]) < OUTPUT_DIRECTORY_SINCE


def capture(
    workload: Sequence[str],
    name: str,
    *,
    options: Options | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Count a command's kernels and keep the result as a redacted run folder.

    Args:
        workload: the command, one string an argument; it runs once for each group of counters.
        name: ``<run>`` or ``<gpu>/<run>``.
        options: what to count; by default everything, for all kernels.
        root: profiles folder.
        overwrite: replace a run of that name.

    Raises:
        UserError: the tool is missing, the command fails, or nothing was counted.
    """
    check_command(workload, "rocprof-compute")
    tool = available()
    if isinstance(tool, str):
        raise UserError(tool)
    options = options or Options()
    with prepared(name, root, overwrite) as work:
        out = work.folder / "workloads"
        argv = command(str(tool.path), workload, str(out), options, tool.version)
        found = _counted(out, work.run(argv))
        flags = argv[2 : argv.index("-p" if "-p" in argv else "--output-directory")]
        return work.keep(found, describe("rocprof-compute", tool.version, flags, workload, work.said))


def _counted(out: Path, code: int) -> Path:
    if code:
        raise UserError(
            f"The profiled command (or rocprof-compute) stopped with exit code {code}, see its output above."
        )
    folders = sorted({p.parent for p in out.rglob("sysinfo.csv*")})
    if not folders or not sniff(folders[0]):
        raise UserError(
            "rocprof-compute wrote no workload folder: it saw no kernel to count; check that the command uses the GPU "
            "and that -k names its kernels."
        )
    return folders[0]
