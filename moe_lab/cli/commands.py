"""What the command line does: one function a command, which calls the package and prints a table."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from moe_lab.runs import Run


def report(arguments: argparse.Namespace) -> int:
    """Run notebooks and print the path of the index page; 1 if one failed."""
    from moe_lab import report as reports

    parameters = {name: _value(text) for name, text in arguments.parameter}
    built = reports.build(
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


def print_breakdown(arguments: argparse.Namespace) -> None:
    """Print the time per range of a run or report."""
    from moe_lab import runs
    from moe_lab.analysis import roles
    from moe_lab.analysis.breakdown import breakdown

    launches = runs.load(arguments.source).launches()
    if arguments.roles:
        launches = roles.apply(
            launches, roles.RULES if arguments.roles == "auto" else roles.load(Path(arguments.roles))
        )
    table = breakdown(launches, arguments.root, spread=arguments.spread)
    for warning in launches.meta["warnings"]:
        print(f"note: {warning}", file=sys.stderr)
    coverage = table.attrs["coverage"]
    if arguments.format == "csv":
        table = table.assign(**{f"coverage_{name}": value for name, value in coverage.items()})
        print(table.to_csv(index=False, float_format="%.6g"), end="")
    elif arguments.format == "json":
        rows = json.loads(table.to_json(orient="records"))
        print(json.dumps({"notes": launches.meta["warnings"], "coverage": coverage, "ranges": rows}, indent=1))
    else:
        print(_tree(table))
        print("\nkernels and times: medians per instance. pct_of_root: of the kernel time of all roots.")
        print(_covered(coverage))


def _covered(coverage: dict[str, Any]) -> str:
    """Return what the attribution reaches, as one line; shares that the report cannot give are left out."""
    shares = {
        "of it in the roots": coverage["in_root_pct"],
        "in any range": coverage["in_range_pct"],
        "of the roots' time in a stage": coverage["in_stage_pct"],
        f"of the time of {coverage['graph_kernels']} graph kernels in the range of their capture": coverage[
            "in_capture_pct"
        ],
    }
    said = [f"{value:.2f} % {what}" for what, value in shares.items() if value is not None]
    total = f"{coverage['kernels']} kernels, {coverage['kernel_time_ms']:.4f} ms"
    return f"coverage: {', '.join([total, *said])}."


def _tree(table: "pd.DataFrame") -> str:
    shown = table.drop(columns=["path", "depth", "total_kernel_sum_ms"])
    shown["name"] = ["  " * int(d or 0) + n for d, n in zip(table["depth"].fillna(0), table["name"], strict=True)]
    shown["kernels"] = [f"{k:g}" for k in table["kernels"]]
    shown["pct_of_root"] = [f"{p:.2f}" for p in table["pct_of_root"]]
    return aligned(shown)


def aligned(table: "pd.DataFrame") -> str:
    """Return the table as text: text columns left-aligned, numbers right-aligned with four decimals, NA as '-'."""
    rows = [list(table.columns), *([_cell(v) for v in row] for row in table.itertuples(index=False))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = [i == 0 or _is_text(table[name]) for i, name in enumerate(table.columns)]
    lines = (
        "  ".join(
            cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _is_text(column: "pd.Series[Any]") -> bool:
    return any(isinstance(v, str) and not v.replace(".", "").isdigit() for v in column)


def _cell(value: Any) -> str:
    import pandas as pd

    if value is None or pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def capture_nsys(arguments: argparse.Namespace) -> None:
    """Profile a command with Nsight Systems and print the run's folder."""
    from moe_lab.runs.capture import nsys
    from moe_lab.runs.capture._facts import default_window

    workload = command(arguments)
    window = arguments.window or default_window(workload)
    options = nsys.Options(window, tuple(arguments.nsys_option))
    run = nsys.capture(
        workload, arguments.name, options=options, root=arguments.profiles, overwrite=arguments.overwrite
    )
    print_run(run)


def capture_torch(arguments: argparse.Namespace) -> None:
    """Profile a Python command with torch.profiler and print the run's folder."""
    from moe_lab.runs.capture import torch_profiler

    options = torch_profiler.Options(arguments.window) if arguments.window else None
    run = torch_profiler.capture(
        command(arguments), arguments.name, options=options, root=arguments.profiles, overwrite=arguments.overwrite
    )
    print_run(run)


def print_run(run: "Run") -> None:
    """Print a run's folder, and on stderr what was hidden in it."""
    from moe_lab.runs import redact

    print(run.path)
    print(f"hidden: {redact.said(run.manifest.get('hidden') or {})}.", file=sys.stderr)


def command(arguments: argparse.Namespace) -> list[str]:
    """Return the command to profile, without the ``--`` before it."""
    return list(arguments.workload[1:] if arguments.workload[:1] == ["--"] else arguments.workload)


def bench_align(arguments: argparse.Namespace) -> int:
    """Measure align algorithms and print the run's folder; 1 if the measuring process did not come to its end."""
    from moe_lab.spec.bench_options import align_argv

    return bench("align", align_argv(arguments), arguments)


def bench(name: str, argv: list[str], arguments: argparse.Namespace) -> int:
    """Run a benchmark and print the run's folder; 1 if the measuring process did not come to its end."""
    from moe_lab.runs import bench_runs

    run, code = bench_runs.measure(name, argv, arguments.name, root=arguments.profiles, overwrite=arguments.overwrite)
    kept = run.manifest["rows"]
    if kept["failed"]:
        print(f"moe-lab: {kept['failed']} of {kept['count']} rows have an error instead of times.", file=sys.stderr)
    if code:
        said = f"The benchmark {bench_runs.stopped(code)}; the {kept['count']} rows that it had measured are kept."
        print(f"moe-lab: {said}", file=sys.stderr)
    print_run(run)
    return 1 if code else 0


def doctor(arguments: argparse.Namespace) -> None:
    """Print what this machine can capture."""
    from moe_lab.runs.doctor import examine

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
    from moe_lab.spec.guard.entry import decode_json

    try:
        return decode_json(text)
    except ValueError:
        return text
