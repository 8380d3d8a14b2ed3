# SPDX-License-Identifier: Apache-2.0
"""``moe-lab compare``: two runs side by side, with an exit code for CI."""

import argparse
import json
from typing import TYPE_CHECKING

from moe_lab.cli._print import fitted, print_csv, print_notes, records
from moe_lab.spec.guard import options

if TYPE_CHECKING:
    import pandas as pd

    from moe_lab.analysis.compare import Comparison

INFO = {
    "about": "two runs side by side; exit code 1 if the second is slower",
    "shows": {
        (
            "moe-lab compare A B [--threshold 5%] [--by stage|kernel|M|backend] [--root REGEX] [--top N] "
            "[--format text|json|csv|md]"
        ): (
            "what is slower in B than in A, captures, counters, benchmarks or compiled code: by how much and how "
            "surely, what differs besides, which kernels, grids and tiles changed; 1 on a regression beyond the "
            "threshold, for CI"
        ),
    },
}
SPARE = ("interval", "why")  # left out in this order if the terminal is too narrow


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("a", metavar="A", help="the run before: name, folder, or report file")
    parser.add_argument("b", metavar="B", help="the run after")
    parser.add_argument(
        "--threshold", type=options.percent, default=5.0, metavar="P%", help="changes up to it are even (default: 5%%)"
    )
    parser.add_argument(
        "--by",
        choices=("stage", "kernel", "M", "backend"),
        help="what a row is; default: stages of a capture, kernels of counters, cases of a benchmark",
    )
    parser.add_argument("--root", type=options.pattern, metavar="REGEX", help="of captures: ranges to compare")
    parser.add_argument(
        "--top", type=options.whole(0, options.COUNT), default=20, metavar="N", help="rows of text and md; 0 = all"
    )
    parser.add_argument("--format", choices=("text", "json", "csv", "md"), default="text")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison; returns 1 if B is worse than A beyond the threshold."""
    from moe_lab.pages import api

    found = api.compare(arguments.a, arguments.b, arguments.root, by=arguments.by, threshold_pct=arguments.threshold)
    if arguments.format == "csv":
        print_csv(found.table)
    elif arguments.format == "json":
        print(json.dumps(_data(found), indent=1))
    else:
        print("\n\n".join(_parts(found, arguments.top, markdown=arguments.format == "md")))
    print_notes([] if arguments.format == "json" else found.notes)
    return 1 if len(found.regressions) else 0


def _data(found: "Comparison") -> dict[str, object]:
    from moe_lab.pages.compare import findings

    return {
        "kind": found.kind,
        "a": found.names[0],
        "b": found.names[1],
        "threshold_pct": found.threshold_pct,
        "differences": records(found.differences),
        "compared": found.compared,
        "regressions": len(found.regressions),
        "rows": records(found.table),
        "groups": records(found.groups),
        "findings": [one.data() | {"rows": []} for one in findings.all_of(found) if one],
        "notes": found.notes,
    }


def _parts(found: "Comparison", top: int, markdown: bool) -> list[str]:
    """Return paragraphs: what differs besides, the sentences, and the tables of what is not even."""
    from moe_lab.pages.compare import findings, tables

    said = [("- " if markdown else "") + str(one) for one in findings.all_of(found) if one]
    every = tables.rows(found, everything=False)
    kept = tables.ranked(found.table.loc[every.index]).head(top or len(every)).index.sort_values()
    names = [f"{side}: {name}" for side, name in zip("AB", found.names, strict=True)]
    drawn = [
        _drawn(table, markdown) if len(table) else "" for table in (found.differences, found.groups, every.loc[kept])
    ]
    rest = f"{len(every) - len(kept)} more rows; --top 0 shows them." if len(every) > len(kept) else ""
    above = tables.same(found) if drawn[2] else ""
    return [part for part in ("\n".join(names), drawn[0], "\n".join(said), drawn[1], above, drawn[2], rest) if part]


def _drawn(table: "pd.DataFrame", markdown: bool) -> str:
    shown = table.assign(
        **{c: table[c].map("{:+.1f} %".format, na_action="ignore") for c in table if c == "change_pct"}
    )
    shown = shown.rename(columns={"change_pct": "change"})
    if not markdown:
        return fitted(shown, SPARE)
    cells = shown.astype(object).where(shown.notna(), "")
    lines = [
        list(map(str, cells)),
        ["---"] * len(cells.columns),
        *([_cell(v) for v in row] for row in cells.to_numpy()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return (f"{value:.2f}" if isinstance(value, float) else str(value)).replace("|", "\\|")
