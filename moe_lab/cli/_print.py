# SPDX-License-Identifier: Apache-2.0
"""What commands share: tables as text, where a run is stored, and what is printed about it."""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing pandas would slow down --help
    import pandas as pd

    from moe_lab.runs import Run
    from moe_lab.spec.launches import Launches

NAME = "name of the run: RUN or GPU/RUN"


def add_destination(
    parser: argparse.ArgumentParser, name: str = NAME, overwrite: str = "replace a run of that name"
) -> None:
    """Add the options for where a run is stored, which ``destination`` reads; an empty ``name`` leaves out --name."""
    if name:
        parser.add_argument("--name", required=True, help=name)
    parser.add_argument("--profiles", type=Path, metavar="DIR", help="profiles folder")
    parser.add_argument("--overwrite", action="store_true", help=overwrite)


def destination(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return root and overwrite as keyword arguments for everything that makes a run."""
    return {"root": arguments.profiles, "overwrite": arguments.overwrite}


def print_run(run: "Run") -> None:
    """Print a run's folder, and on stderr what was hidden in the run."""
    from moe_lab.runs import redact

    print(run.path)  # alone on stdout, for scripts
    print(f"hidden: {redact.said(run.manifest.get('hidden') or {})}.", file=sys.stderr)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add the option --format."""
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def add_traced(parser: argparse.ArgumentParser) -> None:
    """Add the options --window and --stages-of, which ``traced`` reads."""
    parser.add_argument(
        "--window",
        choices=("auto", "all"),
        default="auto",
        help="auto: between cudaProfilerStart and Stop where the program calls them, without warm-up; all: everything",
    )
    parser.add_argument(
        "--stages-of",
        metavar="RUN_OR_REPORT",
        help="a trace of a step without CUDA graphs: kernels outside of stages get the stage of the same kernel there",
    )


def traced(arguments: argparse.Namespace) -> "Launches":
    """Return the launches of the source, with the stages of another report if --stages-of names one."""
    from moe_lab import runs
    from moe_lab.analysis.two_parts import with_stages_of

    launches = runs.load(arguments.source).launches(arguments.window)
    other = arguments.stages_of
    return with_stages_of(launches, runs.load(other).launches()) if other else launches


def print_notes(sentences: Sequence[str]) -> None:
    """Print notes on stderr, so that stdout holds only the result."""
    for sentence in sentences:
        print(f"note: {sentence}", file=sys.stderr)


def records(table: "pd.DataFrame") -> Any:
    """Return the rows as JSON values; NA is null."""
    return json.loads(table.to_json(orient="records"))  # pandas knows how to write NA and its own numbers


def print_csv(table: "pd.DataFrame") -> None:
    """Print a table as CSV; NA is empty."""
    print(table.to_csv(index=False, float_format="%.6g"), end="")


def fitted(table: "pd.DataFrame", spare: Sequence[str] = ()) -> str:
    """Return the table as text for people: times in a suitable unit, and no wider than the terminal.

    If the terminal is too narrow, columns in ``spare`` are left out first, in that order and with a note; then long
    texts in the widest column are cut in the middle. Output that is not a terminal gets all columns at full width.
    """
    shown = table.copy()
    for name in table.columns:
        if found := re.fullmatch(r"(.+)_(ms|us)(_min|_max)?", str(name)):
            us = table[name].astype("Float64") * (1000 if found[2] == "ms" else 1)
            shown[name] = [None if missing else time(value) for value, missing in zip(us, us.isna(), strict=True)]
            shown = shown.rename(columns={name: found[1] + (found[3] or "")})
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    widths = {name: max([len(name), *map(len, map(_cell, shown[name]))]) for name in map(str, shown)}
    widest = max(widths, key=lambda name: widths[name])
    gone = []
    for name in spare:
        # Two spaces lie between columns; the widest column can be cut, but not below NARROWEST.
        if sum(widths.values()) - widths[widest] + NARROWEST + 2 * len(widths) > width and name in widths:
            del widths[name]
            gone.append(name)
    if gone:
        print_notes([f"the terminal is too narrow for {', '.join(gone)}; --format csv has everything."])
    room = max(NARROWEST, width - sum(widths.values()) + widths[widest] - 2 * len(widths))
    shown[widest] = [text if len(text) <= room else _cut(text, room) for text in map(_cell, shown[widest])]
    return aligned(shown[list(widths)])


NARROWEST = 24  # least characters of the widest column


def time(us: float) -> str:
    """Return a time in us, ms or s, whichever is suitable: ``123.2 us``, ``1.503 ms``."""
    value, unit = (us, "us") if us < 1e3 else (us / 1e3, "ms") if us < 1e6 else (us / 1e6, "s")
    # Four digits in all, and at least one decimal.
    return f"{value:.{max(1, 4 - len(str(int(value))))}f} {unit}" if value else "0"


def _cut(text: str, room: int) -> str:
    """Return a text without its middle, because kernel names differ at both ends."""
    tail = (room - 3) // 3
    return f"{text[: room - 3 - tail]}...{text[len(text) - tail :]}"


def aligned(table: "pd.DataFrame") -> str:
    """Return the table as text: text columns left-aligned, numbers right-aligned with four decimals, NA as '-'."""
    rows = [list(table.columns), *([_cell(v) for v in row] for row in table.itertuples(index=False))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    # The first column names the row.
    left = [i == 0 or _is_text(table[name]) for i, name in enumerate(table.columns)]
    lines = (
        "  ".join(
            cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _is_text(column: "pd.Series[Any]") -> bool:
    # Times with a unit are aligned like numbers.
    return any(isinstance(v, str) and not re.fullmatch(r"[\d.]+( (us|ms|s))?", v) for v in column)


def _cell(value: Any) -> str:
    import pandas as pd

    if value is None or pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
