"""NVIDIA Nsight Systems: kernels, API calls, ranges and CUDA graphs of any command."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from moe_lab import __version__
from moe_lab.capture._tools import Tool, find_tool, output, probe
from moe_lab.errors import UserError
from moe_lab.runs import Run, import_report

INFO = {"about": "NVIDIA Nsight Systems: kernels, API calls, ranges, CUDA graphs", "needs": [], "vendor": "nvidia"}

INSTALL_PATTERNS = (
    "/usr/local/cuda/bin/nsys",
    "/usr/local/cuda-*/bin/nsys",
    "$CUDA_HOME/bin/nsys",
    "/opt/nvidia/nsight-systems*/*/bin/nsys",
    "/opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "/opt/nvidia/nsight-systems*/bin/nsys",
    "/usr/lib/nsight-systems/*/nsys",
    "/usr/local/cuda*/nsight-systems*/target-linux-*/nsys",
    # The one bundled with Nsight Compute; it needs libdw.
    "/opt/nvidia/nsight-compute/*/host/target-linux-*/nsys",
)
HOW_TO_GET = "install Nsight Systems (package nsight-systems of NVIDIA's CUDA repository) or put nsys on PATH"


@dataclass(frozen=True)
class Options:
    """How to trace.

    Attributes:
        graph_trace: ``node`` (each kernel of a CUDA graph; what attribution needs) or ``graph`` (one row a replay).
        window: ``all`` (the whole command) or ``profiler-api`` (between cudaProfilerStart and cudaProfilerStop).
        extra: further arguments for ``nsys profile``.
    """

    graph_trace: str = "node"
    window: str = "all"
    extra: tuple[str, ...] = ()


def available() -> Tool | str:
    """Return the nsys of this machine, or the reason why there is none and how to get it."""
    path = find_tool("nsys", INSTALL_PATTERNS)
    return probe(path) if path else f"nsys was not found; {HOW_TO_GET}."


def command(nsys: str, workload: Sequence[str], out: str, options: Options) -> list[str]:
    """Return the argv that profiles ``workload`` into ``out``.nsys-rep and ``out``.sqlite. Pure."""
    window = ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"] if options.window == "profiler-api" else []
    return [
        nsys,
        "profile",
        "--trace=cuda,nvtx",
        f"--cuda-graph-trace={options.graph_trace}",
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
    """Write ``out`` (.sqlite) from a .nsys-rep.

    Raises:
        UserError: nsys is missing or cannot read the report.
    """
    nsys = _nsys()
    done = subprocess.run(export_command(str(nsys.path), str(report), str(out)), capture_output=True, text=True)
    if done.returncode or not out.exists():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
        raise UserError(
            f"nsys {nsys.version} could not export {report.name} ({last[0].strip()}); export it to SQLite with "
            "the nsys version that wrote it, then import the .sqlite."
        )


def default_window(workload: Sequence[str]) -> str:
    """Return ``profiler-api`` for moe_lab's own workload, which marks its measured part, else ``all``."""
    return "profiler-api" if any(part in ("moe_lab.workload", "moe_lab/workload.py") for part in workload) else "all"


def capture(
    workload: Sequence[str],
    name: str,
    *,
    options: Options | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Profile any command and keep the result as a redacted run folder.

    Args:
        workload: the command, one string an argument.
        name: ``<run>`` or ``<gpu>/<run>``.
        options: how to trace; by default node-level graphs and the window of ``default_window``.
        root: profiles folder.
        overwrite: replace a run of that name.

    Raises:
        UserError: nsys is missing, the command fails, or nothing was traced.
    """
    if not workload:
        raise UserError(
            "There is no command to profile; put it after '--': moe-lab capture nsys --name X -- python ..."
        )
    if shutil.which(workload[0]) is None:
        raise UserError(f"The command '{workload[0]}' was not found; check its spelling or give its path.")
    nsys = _nsys()
    options = options or Options(window=default_window(workload))
    with tempfile.TemporaryDirectory(prefix="moe_lab_") as folder:
        said = Path(folder, "workload.json")
        argv = command(str(nsys.path), workload, str(Path(folder, "report")), options)
        code = subprocess.run(argv, env={**os.environ, "MOE_LAB_WORKLOAD_JSON": str(said)}).returncode
        report = _traced(Path(folder), code, options)
        flags = argv[2 : argv.index("-o")]
        manifest = _manifest(nsys, flags, workload, _said(said))
        return import_report(report, name, root=root, manifest=manifest, overwrite=overwrite)


def _nsys() -> Tool:
    found = available()
    if isinstance(found, str):
        raise UserError(found)
    return found


def _traced(folder: Path, code: int, options: Options) -> Path:
    if code:
        raise UserError(
            f"The profiled command (or nsys) stopped with exit code {code}, see its output above; nothing was kept."
        )
    if (folder / "report.sqlite").exists():
        return folder / "report.sqlite"
    if list(folder.glob("*.qdstrm")):
        raise UserError(
            "nsys traced the command but its importer could not run, most often because libdw is missing; "
            "install it (package libdw1 or elfutils-libs) and capture again."
        )
    hint = (
        " between cudaProfilerStart and cudaProfilerStop; try --window all" if options.window == "profiler-api" else ""
    )
    raise UserError(f"nsys wrote no report: it saw nothing to trace{hint}.")


def _said(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text())) if path.exists() else None


def _manifest(nsys: Tool, flags: Sequence[str], workload: Sequence[str], said: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is known of the capture; ``import_report`` redacts it and adds what the report says."""
    versions = dict((said or {}).get("versions", {}))
    gpu = dict((said or {}).get("gpu") or {})
    clocks = _clocks()
    if clocks:
        gpu["clocks_mhz"] = clocks
    return {
        "tool": {"name": "nsys", "version": nsys.version, "options": list(flags)},
        "command": list(workload),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "gpu": gpu,
        "versions": {"driver": driver_version(), **versions, "moe_lab": __version__},
        "workload": said,
    }


def driver_version() -> str | None:
    """Return the NVIDIA driver's version, or None without one."""
    return _query("driver_version")


def _query(field: str) -> str | None:
    smi = find_tool("nvidia-smi")
    text = output([str(smi), f"--query-gpu={field}", "--format=csv,noheader,nounits"]) if smi else None
    return text.strip().splitlines()[0].strip() if text and text.strip() else None


def _clocks() -> dict[str, int]:
    """Return the SM and memory clocks in MHz just after the capture, and the highest that the card allows."""
    fields = {"sm": "clocks.sm", "sm_max": "clocks.max.sm", "mem": "clocks.mem"}
    values = (_query(",".join(fields.values())) or "").split(",")
    return {k: int(v) for k, v in zip(fields, values, strict=False) if v.strip().isdigit()}
