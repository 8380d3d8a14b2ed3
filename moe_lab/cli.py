"""The command line: parse arguments, call one function, print its table."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_lab import __version__
from moe_lab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 when a notebook failed, 2 for a mistake the message explains."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except UserError as error:
        print(f"moe-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moe-lab: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moe-lab", description="Profile fused Mixture-of-Experts layers and say where their time goes."
    )
    parser.add_argument("--version", action="version", version=f"moe-lab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_report(commands)
    _add_breakdown(commands)
    _add_capture(commands)
    _add_import(commands)
    runs = commands.add_parser("runs", help="list the runs in profiles/")
    runs.add_argument("--profiles", type=Path, metavar="DIR", help="profiles folder")
    runs.set_defaults(run=_runs)
    doctor = commands.add_parser("doctor", help="what this machine can capture, and what to do about the rest")
    doctor.add_argument("--format", choices=("table", "json"), default="table")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="run notebooks, write self-contained HTML and reports/index.html")
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
    report.set_defaults(run=_report)


def _add_breakdown(commands: Any) -> None:
    breakdown = commands.add_parser("breakdown", help="time per range of a run or report")
    breakdown.add_argument("source", metavar="RUN_OR_REPORT", help="run name, run folder, or report file")
    breakdown.add_argument(
        "--root", metavar="REGEX", help="ranges to take as roots (default: moe_lab's own, else every top-level range)"
    )
    breakdown.add_argument("--format", choices=("table", "csv", "json"), default="table")
    breakdown.set_defaults(run=_breakdown)


def _add_capture(commands: Any) -> None:
    capture = commands.add_parser("capture", help="profile a command and keep it as a run")
    tools = capture.add_subparsers(dest="tool", required=True, metavar="TOOL")
    nsys = tools.add_parser(
        "nsys", help="Nsight Systems", usage="moe-lab capture nsys --name NAME [options] -- COMMAND ..."
    )
    nsys.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    nsys.add_argument(
        "--graph-trace", choices=("node", "graph"), default="node", help="CUDA graphs: each kernel, or one row a replay"
    )
    nsys.add_argument(
        "--window",
        choices=("all", "profiler-api"),
        help="trace all, or cudaProfilerStart to Stop (default: profiler-api for moe_lab.workload, else all)",
    )
    nsys.add_argument(
        "--nsys-option", action="append", default=[], metavar="OPTION", help="a further option for `nsys profile`"
    )
    _add_destination(nsys)
    nsys.add_argument("workload", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the command to profile")
    nsys.set_defaults(run=_capture_nsys)


def _add_import(commands: Any) -> None:
    importer = commands.add_parser("import", help="make a redacted run from an existing report")
    importer.add_argument("report", type=Path, metavar="REPORT", help=".sqlite or .nsys-rep")
    importer.add_argument("--name", required=True, help="name of the run: RUN or GPU/RUN")
    _add_destination(importer)
    importer.set_defaults(run=_import)


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profiles", type=Path, metavar="DIR", help="profiles folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a run of that name")


def _report(arguments: argparse.Namespace) -> int:
    from moe_lab import report

    parameters = {name: _value(text) for name, text in arguments.parameter}
    built = report.build(
        arguments.notebooks or None,
        out=arguments.out,
        parameters=parameters,
        grid=arguments.grid,
        show_code=arguments.show_code,
    )
    failed = [page for page in built.pages if page.failed]
    for page in failed:
        print(f"moe-lab: '{page.title}' failed: {page.failed}", file=sys.stderr)
    print(built.index)
    return 1 if failed else 0


def _breakdown(arguments: argparse.Namespace) -> None:
    from moe_lab import runs
    from moe_lab.analysis.breakdown import breakdown

    table = breakdown(runs.load(arguments.source).launches(), arguments.root)
    coverage = table.attrs["coverage"]
    if arguments.format == "csv":
        print(table.to_csv(index=False, float_format="%.6g"), end="")
    elif arguments.format == "json":
        print(json.dumps({"coverage": coverage, "ranges": json.loads(table.to_json(orient="records"))}, indent=1))
    else:
        print(_tree(table))
        print("\nkernels and times: medians per instance. pct_of_root: share of all kernel time of the roots.")
        print("; ".join(f"{name} {value:.6g}" for name, value in coverage.items() if value is not None))


def _tree(table: "pd.DataFrame") -> str:
    shown = table.drop(columns=["path", "depth"])
    shown["name"] = ["  " * int(d or 0) + n for d, n in zip(table["depth"].fillna(0), table["name"], strict=True)]
    return _aligned(shown)


def _aligned(table: "pd.DataFrame") -> str:
    """Return the table as text: the first column left-aligned, numbers with four significant decimals, NA as '-'."""
    rows = [list(table.columns), *([_cell(v) for v in row] for row in table.itertuples(index=False))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _capture_nsys(arguments: argparse.Namespace) -> None:
    from moe_lab.capture import nsys

    workload = arguments.workload[1:] if arguments.workload[:1] == ["--"] else arguments.workload
    window = arguments.window or nsys.default_window(workload)
    options = nsys.Options(arguments.graph_trace, window, tuple(arguments.nsys_option))
    run = nsys.capture(
        workload, arguments.name, options=options, root=arguments.profiles, overwrite=arguments.overwrite
    )
    print(run.path)


def _import(arguments: argparse.Namespace) -> None:
    from moe_lab import runs

    run = runs.import_report(arguments.report, arguments.name, root=arguments.profiles, overwrite=arguments.overwrite)
    print(run.path)


def _runs(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from moe_lab import runs

    rows = []
    for run in runs.list_runs(arguments.profiles):
        workload = run.manifest.get("workload") or {}
        what = " ".join(str(workload[k]) for k in ("model", "phase", "M", "backend") if workload.get(k) is not None)
        rows.append(
            {
                "run": run.manifest["name"],
                "gpu": (run.manifest.get("gpu") or {}).get("name"),
                "date": run.manifest.get("date"),
                "what": what,
            }
        )
    if not rows:
        raise UserError(
            "There are no runs; make one with `moe-lab capture nsys --name X -- COMMAND` or `moe-lab import`."
        )
    print(_aligned(pd.DataFrame(rows)))


def _doctor(arguments: argparse.Namespace) -> None:
    from moe_lab.doctor import examine

    checks = examine()
    if arguments.format == "json":
        print(json.dumps([c.as_dict() for c in checks], indent=1))
        return
    width = max(len(c.name) for c in checks)
    for check in checks:
        if check.found:
            print(f"ok       {check.name.ljust(width)}  {check.found}")
        else:
            print(
                f"missing  {check.name.ljust(width)}  costs: {check.costs}\n{' ' * (width + 11)}get it: {check.remedy}"
            )


def _value(text: str) -> Any:
    """Read a parameter's value: JSON where it is JSON (16, 0.5, true, [1, 2]), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
