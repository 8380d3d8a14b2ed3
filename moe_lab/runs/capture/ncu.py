# SPDX-License-Identifier: Apache-2.0
"""NVIDIA Nsight Compute: hardware counters of the kernels of any command, or of chosen ranges."""

import os
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from moe_lab.runs.capture import Traced, _ncu_log, _tools, option, window
from moe_lab.runs.capture._facts import gpu_name
from moe_lab.runs.capture._tools import Tool, output
from moe_lab.runs.capture._work import Work
from moe_lab.runs.parse import parse_report
from moe_lab.spec import metrics
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options as types
from moe_lab.spec.guard.places import full_name
from moe_lab.spec.metrics import Metric, parts

INFO = {
    "about": "NVIDIA Nsight Compute: hardware counters of every kernel",
    "needs": [],
    "shows": {
        (
            'moe-lab capture ncu --name X [--set basic|roofline|full] [--ranges "moe_lab@w13/"] '
            "[--launch-count 1] -- COMMAND ..."
        ): (
            "hardware counters of each kernel with Nsight Compute: throughput, traffic, hit rates, "
            "occupancy, stalls ([which](../moe_lab/spec/metrics.csv))"
        ),
    },
}

INSTALL_PATTERNS = (
    "/usr/local/cuda/bin/ncu",
    "/usr/local/cuda-*/bin/ncu",
    "$CUDA_HOME/bin/ncu",
    "/opt/nvidia/nsight-compute/*/ncu",
    "/usr/lib/nsight-compute/ncu",
)
HOW_TO_GET = "install Nsight Compute (package nsight-compute of NVIDIA's CUDA repository) or put ncu on PATH"
_ALWAYS = ("launch__", "device__", "sm__maximum_warps")  # facts that every GPU has, which ncu does not list
_MOST = 20  # ranges and kernels named in a message
_PROBE_LAUNCHES = 1000  # kernels looked at, to list the ranges that exist


@dataclass(frozen=True)
class Options:
    """What to measure, and of which kernels; see the help of each option."""

    collect: str = option("full", "--set", choices=metrics.SETS, help="how much to measure (default: full)")
    wanted: str = option("", "--metrics", metavar="LIST", help="instead: columns or ncu names in spec/metrics.csv")
    ranges: tuple[str, ...] = option(
        (), "--ranges", metavar="FILTER", help='only kernels in ranges that match, such as "moe_lab@w13/"'
    )
    kernel: str = option("", "--kernel", type=types.pattern, metavar="REGEX", help="only kernels whose name matches")
    launch_count: int | None = option(
        None,
        "--launch-count",
        type=types.count,
        metavar="N",
        help="only the first N launches of each kernel, grid and block",
    )
    window: str = window("cudaProfilerStart to Stop")
    cache_control: str = option("all", "--cache-control", choices=("all", "none"), help="flush caches before each pass")
    expected: int | None = option(
        None, "--expect", type=types.count, metavar="N", help="how many kernels will be profiled, to show the time left"
    )
    extra: tuple[str, ...] = option((), "--ncu-option", metavar="OPTION", help="another option for ncu")
    keep_report: Path | None = option(
        None, "--keep-report", type=Path, metavar="FILE", help="also copy the .ncu-rep to FILE (it is not redacted)"
    )

    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics to measure."""
        return metrics.chosen(self.wanted) if self.wanted else metrics.of_set(self.collect)


def available() -> Tool | str:
    """Return this machine's ncu, or a sentence on why there is none and how to get it."""
    return _tools.available("ncu", INSTALL_PATTERNS, HOW_TO_GET)


def command(ncu: str, workload: Sequence[str], out: str, names: Sequence[str], options: Options) -> list[str]:
    """Return the argv that profiles ``workload`` into ``out``.ncu-rep, with ncu's messages in ``out``.log. Pure.

    Clocks are not locked, so that times compare with those of a timeline; the SM clock is one of the metrics.
    """
    count = options.launch_count
    return [
        ncu,
        "--target-processes=all",  # the command may be a launcher whose children run the kernels
        "--clock-control=none",
        f"--cache-control={options.cache_control}",
        "--nvtx",
        *(part for wanted in options.ranges for part in ("--nvtx-include", wanted)),
        *(["--profile-from-start=off"] if options.window == "profiler-api" else []),
        *(["--filter-mode=per-launch-config", f"--launch-count={count}"] if count else []),
        *([f"--kernel-name=regex:{options.kernel}"] if options.kernel else []),
        *options.extra,
        f"--metrics={','.join(names)}",
        f"--log-file={out}.log",
        "--force-overwrite",
        "--export",
        out,
        *workload,
    ]


def export_command(ncu: str, report: str) -> list[str]:
    """Return the argv that prints the raw page of a .ncu-rep. Pure."""
    return [ncu, "--import", report, "--csv", "--page", "raw", "--print-units", "base"]


def names_of(wanted: Sequence[Metric], known: Collection[str]) -> list[str]:
    """Return the name of each metric that this GPU has; metrics that it lacks are left out.

    ``known`` are the base names that ncu lists; empty = not known, then the first name of each metric is taken.
    """
    if not known:
        return [m.names[0] for m in wanted]
    usable = (next((n for n in m.names if all(_is_known(p, known) for p in parts(n))), None) for m in wanted)
    return list(dict.fromkeys(p for n in usable if n for p in parts(n)))


def _is_known(name: str, known: Collection[str]) -> bool:
    return name.startswith(_ALWAYS) or name in known or name.partition(".")[0] in known


def trace(work: Work, tool: Tool, workload: Sequence[str], options: Options) -> Traced:
    """Measure the counters of the command's kernels.

    Raises:
        UserError: ncu is not allowed to count, the command fails, or no kernel matches the filters.
    """
    work.name = full_name(work.name, gpu_name())  # unlike other reports, ncu's raw page does not name the GPU
    if options.keep_report:
        _check_copy(options.keep_report, work.overwrite)
    out = work.folder / "report"
    argv = command(str(tool.path), workload, str(out), names_of(options.metrics(), known_names(tool)), options)
    work.started()
    code, cost = _ncu_log.run(argv, out.with_suffix(".log"), work.env, options.expected)
    page = _page(tool, out, code, workload, options)
    if options.keep_report:
        shutil.copyfile(out.with_suffix(".ncu-rep"), options.keep_report)
        options.keep_report.chmod(0o600)  # the raw report is not redacted
    # Without the metrics: there may be hundreds, and `facts` says which set they are.
    flags = argv[1 : next(i for i, a in enumerate(argv) if a.startswith("--metrics="))]
    facts = {"metrics": options.wanted or options.collect, "replay": asdict(cost)}
    return Traced(page, flags, facts, {"name": gpu_name()})


def _check_copy(copy: Path, overwrite: bool) -> None:
    """Refuse a bad place for the copy of the report before minutes of replay, not afterwards."""
    if not copy.parent.is_dir() or not os.access(copy.parent, os.W_OK):
        raise UserError(f"--keep-report: the folder of '{copy.name}' cannot be written to; choose another one.")
    if os.path.lexists(copy) and (not overwrite or not copy.is_file() or copy.suffix != ".ncu-rep"):
        raise UserError(f"--keep-report: '{copy.name}' already exists; choose another file name.")


def known_names(tool: Tool) -> set[str]:
    """Return the base names of the metrics of this machine's GPU; empty where ncu does not say."""
    text = output([str(tool.path), "--query-metrics"], timeout_s=60) or ""
    # A table of name, type and unit between headings: only the names of metrics hold a double underscore.
    return {line.split()[0] for line in text.splitlines() if "__" in line.partition(" ")[0]}


def _page(ncu: Tool, out: Path, code: int, workload: Sequence[str], options: Options) -> Path:
    """Return the raw page of the report that ncu wrote."""
    reason = _ncu_log.explain(_ncu_log.read(out.with_suffix(".log")), code, ncu.version)
    if reason:
        raise UserError(reason)
    report = out.with_suffix(".ncu-rep")
    if not report.exists():
        raise UserError(_nothing(ncu, out.with_name("probe"), workload, options))
    return _export(ncu, report)


def _export(ncu: Tool, report: Path) -> Path:
    page = report.with_suffix(".csv")
    with page.open("w") as file:
        done = subprocess.run(
            export_command(str(ncu.path), str(report)), stdout=file, stderr=subprocess.PIPE, text=True
        )
    if done.returncode:
        raise UserError(f"ncu {ncu.version} could not export its report ({done.stderr.strip()[:120]}).")
    return page


def _nothing(ncu: Tool, out: Path, workload: Sequence[str], options: Options) -> str:
    """Return why no kernel was profiled; runs the command once more without filters, to see which kernels there are."""
    window = "; try --window all" if options.window == "profiler-api" else ""
    if not (options.ranges or options.kernel):
        return f"ncu saw no kernel run{window}."
    # One counter takes one pass per kernel, so this costs little more than the command itself.
    first = ("--launch-count", str(_PROBE_LAUNCHES))
    everything = replace(options, ranges=(), kernel="", launch_count=None, extra=first)
    argv = command(str(ncu.path), workload, str(out), ["launch__grid_size"], everything)
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    filters = " and ".join([*options.ranges, *([f"the kernel name {options.kernel}"] if options.kernel else [])])
    report = out.with_suffix(".ncu-rep")
    if not report.exists():
        return f"No kernel matched {filters}: ncu saw no kernel run at all{window}."
    seen = parse_report(_export(ncu, report))
    ranges = [
        f"{d}@{n}/" if d else f"{n}/" for d, n in seen.ranges[["domain", "name"]].drop_duplicates().fillna("").values
    ]
    kernels = seen.table["name"].drop_duplicates().tolist()
    there = f"ranges that exist: {', '.join(ranges[:_MOST]) or 'none'}; kernels: {', '.join(kernels[:_MOST])}"
    return f"No kernel matched {filters}; {there}."
