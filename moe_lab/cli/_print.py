"""What commands share: tables as text, where a run goes, and what is said of it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from moe_lab.runs import Run

NAME = "name of the run: RUN or GPU/RUN"


def add_destination(
    parser: argparse.ArgumentParser, name: str = NAME, overwrite: str = "replace a run of that name"
) -> None:
    """Add the options that say where a run goes, which ``destination`` reads; an empty ``name`` leaves out --name."""
    if name:
        parser.add_argument("--name", required=True, help=name)
    parser.add_argument("--profiles", type=Path, metavar="DIR", help="profiles folder")
    parser.add_argument("--overwrite", action="store_true", help=overwrite)


def destination(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return root and overwrite, as everything that makes a run takes them."""
    return {"root": arguments.profiles, "overwrite": arguments.overwrite}


def print_run(run: "Run") -> None:
    """Print a run's folder, and on stderr what was hidden in it."""
    from moe_lab.runs import redact

    print(run.path)
    print(f"hidden: {redact.said(run.manifest.get('hidden') or {})}.", file=sys.stderr)


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
