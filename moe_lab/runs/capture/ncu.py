"""NVIDIA Nsight Compute: hardware counters of the kernels of any command, in the ranges that one asks for."""

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

INFO = {"about": "NVIDIA Nsight Compute: hardware counters of every kernel", "needs": []}

INSTALL_PATTERNS = (
    "/usr/local/cuda/bin/ncu",
    "/usr/local/cuda-*/bin/ncu",
    "$CUDA_HOME/bin/ncu",
    "/opt/nvidia/nsight-compute/*/ncu",
    "/usr/lib/nsight-compute/ncu",
)
HOW_TO_GET = "install Nsight Compute (package nsight-compute of NVIDIA's CUDA repository) or put ncu on PATH"
_ALWAYS = ("launch__", "device__", "sm__maximum_warps")  # facts of the launch, which ncu does not list as counters
_MOST = 20  # ranges and kernels named in a message
_PROBE_LAUNCHES = 1000  # kernels looked at to list the ranges that exist


@dataclass(frozen=True)
class Options:
    """What to measure, of which kernels; the help of each option says more."""

    collect: str = option("full", "--set", choices=metrics.SETS, help="how much to measure (default: full)")
    wanted: str = option("", "--metrics", metavar="LIST", help="instead: columns or ncu names of spec/metrics.csv")
    ranges: tuple[str, ...] = option(
        (), "--ranges", metavar="FILTER", help='only kernels in such a range: "moe_lab@w13/"'
    )
    kernel: str = option("", "--kernel", type=types.pattern, metavar="REGEX", help="only kernels of such a name")
    launch_count: int | None = option(
        None,
        "--launch-count",
        type=types.count,
        metavar="N",
        help="only N launches of each kernel, grid and block",
    )
    window: str = window("cudaProfilerStart to Stop")
    cache_control: str = option("all", "--cache-control", choices=("all", "none"), help="flush caches before each pass")
    expected: int | None = option(
        None, "--expect", type=types.count, metavar="N", help="kernels to come, to show the time left"
    )
    extra: tuple[str, ...] = option((), "--ncu-option", metavar="OPTION", help="a further option for ncu")
    keep_report: Path | None = option(
        None, "--keep-report", type=Path, metavar="FILE", help="also copy the .ncu-rep (holds paths) to FILE"
    )

    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics to measure."""
        return metrics.chosen(self.wanted) if self.wanted else metrics.of_set(self.collect)


def available() -> Tool | str:
    """Return the ncu of this machine, or the reason why there is none and how to get it."""
    return _tools.available("ncu", INSTALL_PATTERNS, HOW_TO_GET)


def command(ncu: str, workload: Sequence[str], out: str, names: Sequence[str], options: Options) -> list[str]:
    """Return the argv that profiles ``workload`` into ``out``.ncu-rep and ncu's messages into ``out``.log. Pure.

    The clock is left alone, so that times compare with those of a timeline; the SM clock is among the metrics.
    """
    count = options.launch_count
    return [
        ncu,
        "--target-processes=all",
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
    """Return the name of each metric that this GPU knows; the others are left out.

    ``known`` are the base names that ncu lists; empty = not asked, so the best name of each metric.
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
        UserError: ncu may not count, the command fails, or no kernel matches the filters.
    """
    wanted, work.name = options.metrics(), full_name(work.name, gpu_name())  # its page does not name the GPU
    if options.keep_report:
        _check_copy(options.keep_report, work.overwrite)
    out = work.folder / "report"
    argv = command(str(tool.path), workload, str(out), names_of(wanted, known_names(tool)), options)
    work.started()
    code, cost = _ncu_log.run(argv, out.with_suffix(".log"), work.env, options.expected)
    page = _page(tool, out, code, workload, options)
    if options.keep_report:
        shutil.copyfile(out.with_suffix(".ncu-rep"), options.keep_report)
        options.keep_report.chmod(0o600)
    flags = argv[1 : next(i for i, a in enumerate(argv) if a.startswith("--metrics="))]
    facts = {"metrics": options.wanted or options.collect, "replay": asdict(cost)}
    return Traced(page, flags, facts, {"name": gpu_name()})


def _check_copy(copy: Path, overwrite: bool) -> None:
    """Refuse a place for the copy of the report before minutes of replay, not after."""
    if not copy.parent.is_dir() or not os.access(copy.parent, os.W_OK):
        raise UserError(f"--keep-report: no file can be written to the folder of '{copy.name}'; choose another one.")
    if os.path.lexists(copy) and (not overwrite or not copy.is_file() or copy.suffix != ".ncu-rep"):
        raise UserError(f"--keep-report: there already is a '{copy.name}'; choose another file name.")


def known_names(tool: Tool) -> set[str]:
    """Return the base names of the metrics of this machine's GPU; empty where ncu does not say."""
    text = output([str(tool.path), "--query-metrics"], timeout_s=60) or ""
    return {line.split()[0] for line in text.splitlines() if "__" in line.partition(" ")[0]}


def _page(ncu: Tool, out: Path, code: int, workload: Sequence[str], options: Options) -> Path:
    """Return the raw page of the report that ncu wrote."""
    log = out.with_suffix(".log")
    text = log.read_text(errors="replace") if log.exists() else ""
    reason = _ncu_log.explain(text, code, ncu.version)
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
    """Return why no kernel was profiled; runs the command once more, without filters, to see what there is."""
    window = "; try --window all" if options.window == "profiler-api" else ""
    if not (options.ranges or options.kernel):
        return f"ncu saw no kernel run{window}."
    # One counter and no filter: a pass a kernel, so this costs little more than the command itself.
    first = ("--launch-count", str(_PROBE_LAUNCHES))
    everything = replace(options, ranges=(), kernel="", launch_count=None, extra=first)
    argv = command(str(ncu.path), workload, str(out), ["launch__grid_size"], everything)
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    filters = " and ".join([*options.ranges, *([f"the kernel name {options.kernel}"] if options.kernel else [])])
    report = out.with_suffix(".ncu-rep")
    if not report.exists():
        return f"No kernel matched {filters}: ncu saw none run at all{window}."
    seen = parse_report(_export(ncu, report))
    ranges = [
        f"{d}@{n}/" if d else f"{n}/" for d, n in seen.ranges[["domain", "name"]].drop_duplicates().fillna("").values
    ]
    kernels = seen.table["name"].drop_duplicates().tolist()
    there = f"ranges that exist: {', '.join(ranges[:_MOST]) or 'none'}; kernels: {', '.join(kernels[:_MOST])}"
    return f"No kernel matched {filters}; {there}."
