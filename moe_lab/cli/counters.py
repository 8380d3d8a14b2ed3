"""The commands of hardware counters: measure them, and show them."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from moe_lab.cli.commands import aligned, command, print_run

if TYPE_CHECKING:
    import pandas as pd


def capture_ncu(arguments: argparse.Namespace) -> None:
    """Measure a command's hardware counters with Nsight Compute and print the run's folder."""
    from moe_lab.runs.capture import ncu
    from moe_lab.runs.capture._facts import default_window

    workload = command(arguments)
    options = ncu.Options(
        collect=arguments.set,
        wanted=arguments.metrics,
        ranges=tuple(arguments.ranges),
        kernel=arguments.kernel,
        launch_count=arguments.launch_count,
        window=arguments.window or default_window(workload),
        cache_control=arguments.cache_control,
        expected=arguments.expect,
        extra=tuple(arguments.ncu_option),
    )
    run = ncu.capture(
        workload,
        arguments.name,
        options=options,
        root=arguments.profiles,
        overwrite=arguments.overwrite,
        keep_report=arguments.keep_report,
    )
    print_run(run)


def print_counters(arguments: argparse.Namespace) -> None:
    """Print the counters of every kernel of a run or report: a column a kernel, a line a counter."""
    from moe_lab import runs
    from moe_lab.analysis.counters import counters_table

    metrics = arguments.metrics.split(",") if arguments.metrics else None
    table = counters_table(runs.load(arguments.source).launches(), metrics)
    for note in table.attrs["notes"]:
        print(f"note: {note}", file=sys.stderr)
    if arguments.format == "csv":
        print(table.to_csv(index=False, float_format="%.6g"), end="")
    elif arguments.format == "json":
        print(table.to_json(orient="records", indent=1))
    else:
        print(aligned(_sideways(table)))


def _sideways(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with a column a kernel; lines in which nothing is known are left out."""
    import pandas as pd

    cells = table.dropna(axis="columns", how="all").astype(object).T
    rows = [[name, *(_short(v) for v in cells.loc[name])] for name in cells.index]
    return pd.DataFrame(rows, columns=["", *(str(n) for n in range(1, len(table) + 1))])


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
