"""The command line: parse arguments and call one function of ``commands``."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_lab import __version__
from moe_lab.cli import amd as amd_commands
from moe_lab.cli import backends as backend_commands
from moe_lab.cli import commands, importing, stored, tuning
from moe_lab.cli import counters as counter_commands
from moe_lab.spec import bench_options
from moe_lab.spec.guard import options, places, scratch, terminal
from moe_lab.spec.metrics import SETS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if a notebook or benchmark failed, 2 for an explained mistake."""

    def run() -> int:
        arguments = _parser().parse_args(argv)
        profiles = getattr(arguments, "profiles", None) or places.profiles_root()
        for removed in [*scratch.sweep(Path(tempfile.gettempdir())), *places.sweep(profiles)]:
            print(f"moe-lab: {removed}", file=sys.stderr)
        return int(arguments.run(arguments) or 0)

    return terminal.ended(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moe-lab", description="Profile fused Mixture-of-Experts layers and say where their time goes."
    )
    parser.add_argument("--version", action="version", version=f"moe-lab {__version__}")
    subcommands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_report(subcommands)
    _add_breakdown(subcommands)
    _add_counters(subcommands)
    _add_capture(subcommands)
    _add_import(subcommands)
    _add_bench(subcommands)
    _add_backends(subcommands)
    tuning.add(subcommands)
    stored.add(subcommands)
    doctor = subcommands.add_parser("doctor", help="what this machine can capture, and what to do about the rest")
    doctor.add_argument("--format", choices=("table", "json"), default="table")
    doctor.set_defaults(run=commands.doctor)
    return parser


def _add_report(subcommands: Any) -> None:
    report = subcommands.add_parser("report", help="run notebooks, write self-contained HTML and reports/index.html")
    report.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="paths or names; default: every notebook")
    report.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a notebook parameter",
    )
    report.add_argument(
        "--grid", type=Path, metavar="FILE", help="YAML: parameter names to lists of values; one page a point"
    )
    report.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="DIR", help="output folder (default: reports)"
    )
    report.add_argument("--show-code", action="store_true", help="show code cells (by default a button shows them)")
    report.set_defaults(run=commands.report)


def _add_breakdown(subcommands: Any) -> None:
    breakdown = subcommands.add_parser("breakdown", help="time per range of a run or report")
    breakdown.add_argument("source", metavar="RUN_OR_REPORT", help="run name, run folder, or report file")
    breakdown.add_argument(
        "--root",
        type=options.pattern,
        metavar="REGEX",
        help="ranges to take as roots (default: moe_lab's own, else every top-level range)",
    )
    breakdown.add_argument(
        "--roles",
        metavar="auto|FILE",
        help="give kernels of engines that mark no stages a stage, by built-in rules or those of a YAML file",
    )
    breakdown.add_argument("--spread", action="store_true", help="also the smallest and largest instance of each time")
    breakdown.add_argument("--format", choices=("table", "csv", "json"), default="table")
    breakdown.set_defaults(run=commands.print_breakdown)


def _add_capture(subcommands: Any) -> None:
    capture = subcommands.add_parser("capture", help="profile a command and keep it as a run")
    tools = capture.add_subparsers(dest="tool", required=True, metavar="TOOL")
    nsys = tools.add_parser(
        "nsys", help="Nsight Systems", usage="moe-lab capture nsys --name NAME [options] -- COMMAND ..."
    )
    nsys.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    nsys.add_argument(
        "--window",
        choices=("all", "profiler-api"),
        help="trace all, or cudaProfilerStart to Stop (default: profiler-api for moe_lab.gpu, else all)",
    )
    nsys.add_argument(
        "--nsys-option", action="append", default=[], metavar="OPTION", help="a further option for `nsys profile`"
    )
    _add_destination(nsys)
    nsys.add_argument("workload", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the command to profile")
    nsys.set_defaults(run=commands.capture_nsys)
    torch = tools.add_parser(
        "torch", help="torch.profiler", usage="moe-lab capture torch --name NAME [options] -- python ..."
    )
    torch.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    torch.add_argument(
        "--window",
        choices=("all", "profiler-api"),
        help="trace all, or torch.cuda.profiler.start to stop (default: profiler-api for moe_lab.gpu, else all)",
    )
    _add_destination(torch)
    torch.add_argument("workload", nargs=argparse.REMAINDER, metavar="-- python ...", help="the command to profile")
    torch.set_defaults(run=commands.capture_torch)
    _add_amd(tools)
    _add_ncu(tools)


def _add_ncu(tools: Any) -> None:
    ncu = tools.add_parser(
        "ncu", help="Nsight Compute", usage="moe-lab capture ncu --name NAME [options] -- COMMAND ..."
    )
    ncu.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    ncu.add_argument("--set", choices=SETS, default="full", help="how much to measure (default: full)")
    ncu.add_argument(
        "--metrics", default="", metavar="LIST", help="instead: columns or ncu names of moe_lab/spec/metrics.csv"
    )
    ncu.add_argument(
        "--ranges", action="append", default=[], metavar="FILTER", help='only kernels in such a range: "moe_lab@w13/"'
    )
    ncu.add_argument("--kernel", default="", type=options.pattern, metavar="REGEX", help="only kernels of such a name")
    ncu.add_argument(
        "--launch-count", type=options.count, metavar="N", help="only N launches of each kernel, grid and block size"
    )
    ncu.add_argument("--cache-control", choices=("all", "none"), default="all", help="flush caches before each pass")
    ncu.add_argument(
        "--window",
        choices=("all", "profiler-api"),
        help="profile all, or cudaProfilerStart to Stop (default: profiler-api for moe_lab.gpu, else all)",
    )
    ncu.add_argument("--expect", type=options.count, metavar="N", help="kernels to come, to show the time left")
    ncu.add_argument("--ncu-option", action="append", default=[], metavar="OPTION", help="a further option for ncu")
    ncu.add_argument("--keep-report", type=Path, metavar="FILE", help="also copy the .ncu-rep (holds paths) to FILE")
    _add_destination(ncu)
    ncu.add_argument("workload", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the command to profile")
    ncu.set_defaults(run=counter_commands.capture_ncu)


def _add_counters(subcommands: Any) -> None:
    counters = subcommands.add_parser(
        "counters", help="what the hardware counters of a run or report say of each kernel"
    )
    counters.add_argument("source", metavar="RUN_OR_REPORT", help="run name, run folder, or report file")
    counters.add_argument("--metrics", metavar="LIST", help="columns of moe_lab/spec/metrics.csv (default: main ones)")
    counters.add_argument("--format", choices=("table", "csv", "json"), default="table")
    counters.set_defaults(run=counter_commands.print_counters)


def _add_amd(tools: Any) -> None:
    counters = _amd_tool(
        tools, "rocprof-compute", "AMD: counters of every kernel", amd_commands.capture_rocprof_compute
    )
    counters.add_argument("-k", "--kernel", action="append", default=[], metavar="NAME", help="count only this kernel")
    counters.add_argument("-b", "--block", action="append", default=[], metavar="ID", help="count only this table")
    counters.add_argument("--roof-only", action="store_true", help="measure the roofs and what the roofline needs")
    trace = _amd_tool(tools, "rocprofv3", "AMD: kernels, HIP calls, roctx ranges", amd_commands.capture_rocprofv3)
    trace.add_argument("--output-format", choices=("csv", "rocpd"), default="csv", help="what rocprofv3 writes")


def _amd_tool(tools: Any, name: str, about: str, run: Any) -> Any:
    tool = tools.add_parser(name, help=about, usage=f"moe-lab capture {name} --name NAME [options] -- COMMAND ...")
    tool.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    tool.add_argument("--tool-option", action="append", default=[], metavar="OPTION", help=f"a further one for {name}")
    _add_destination(tool)
    tool.add_argument("workload", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the command to profile")
    tool.set_defaults(run=run)
    return tool


def _add_import(subcommands: Any) -> None:
    importer = subcommands.add_parser("import", help="make a redacted run from an existing report or benchmark result")
    importer.add_argument(
        "report",
        type=Path,
        nargs="+",
        metavar="REPORT",
        help="report of a profiler, or results of a benchmark (several: parts of one)",
    )
    importer.add_argument("--name", help="name of the run: RUN or GPU/RUN (default: the report's file name)")
    importer.add_argument("--root", type=options.pattern, metavar="REGEX", help="with --keep: of which ranges")
    importer.add_argument(
        "--keep", type=options.count, metavar="N", help="keep the first N instances of each root range"
    )
    importer.add_argument("--max-mb", type=options.amount, metavar="MB", help="refuse a run with a larger report")
    _add_destination(importer)
    importer.set_defaults(run=importing.import_report)


def _add_bench(subcommands: Any) -> None:
    bench = subcommands.add_parser("bench", help="measure on this machine's GPU and keep the rows as a run")
    what = bench.add_subparsers(dest="what", required=True, metavar="WHAT")
    align = what.add_parser(
        "align", help="align algorithms over sizes", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    bench_options.add_align(align)
    align.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    _add_destination(align)
    align.set_defaults(run=commands.bench_align)
    experts = what.add_parser(
        "experts", help="experts backends over tokens", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    bench_options.add_experts(experts)
    experts.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    _add_destination(experts)
    experts.set_defaults(run=backend_commands.bench_experts)


def _add_backends(subcommands: Any) -> None:
    backends = subcommands.add_parser("backends", help="every experts backend: what it takes, and if it can run here")
    backends.add_argument("--format", choices=("table", "json"), default="table")
    backends.set_defaults(run=backend_commands.backends)
    peers = subcommands.add_parser("peers", help="kernels of other projects, read from released wheels")
    peers.add_argument("--format", choices=("table", "json"), default="table")
    actions = peers.add_subparsers(dest="action", metavar="[add REQUIREMENT]")
    add = actions.add_parser("add", help="download a wheel and unpack the files that run its kernels")
    add.add_argument("requirement", metavar="REQUIREMENT", help="such as vllm==0.15.0, or the path of a wheel")
    peers.set_defaults(run=backend_commands.peers_command)


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profiles", type=Path, metavar="DIR", help="profiles folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a run of that name")
