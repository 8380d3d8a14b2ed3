# SPDX-License-Identifier: Apache-2.0
"""``moe-lab inspect``: compile kernels for GPUs that this machine lacks, and store and print what their code says."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moe_lab.cli._print import add_destination, destination, fitted
from moe_lab.spec import bench_options
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.options import Defaults

if TYPE_CHECKING:
    import pandas as pd

    from moe_lab.runs import Run

INFO = {
    "about": "compile kernels for GPUs that are not there: registers, instructions, occupancy",
    "shows": {
        (
            "moe-lab inspect [RUN] [--name X] [--kernel experts|align|router|NAME] [--arch "
            "gfx942,sm_90,...] [--m 1,64,4096] [--format bf16,fp8_block] [--html DIR]"
        ): (
            "what does each kernel become on a GPU that is not here? Compiles our kernels and those of "
            "vLLM's, SGLang's and triton_kernels' wheels on the CPU as their launchers would there: registers, "
            "spills, shared memory, occupancy, tensor instructions, inner loop, and what is amiss ([how, and "
            "checked against ncu](static.md)); "
            "`--html` writes a page per kernel with its source beside its code"
        ),
    },
}
NAME = "name of the run: RUN, in the folder static, or FOLDER/RUN; with a RUN to print: not needed"


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.formatter_class = Defaults
    parser.add_argument("run_name", nargs="?", metavar="RUN", help="print this run instead of compiling")
    bench_options.add("inspect", parser)
    parser.add_argument("--name", default="inspect", help=NAME)
    add_destination(parser, "")
    pages = "also write a page per kernel here: its source beside its machine code"
    parser.add_argument("--html", type=Path, metavar="DIR", help=pages)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compile, or load the given run, and print its table and findings; returns 1 if the process failed."""
    from moe_lab import runs
    from moe_lab.analysis import static
    from moe_lab.pages.static import findings
    from moe_lab.runs import static_runs

    code = 0
    if arguments.run_name:
        found = runs.load(arguments.run_name, root=arguments.profiles)
        if found.manifest.get("bench") != static_runs.BENCH:
            raise UserError(f"'{runs.shown(arguments.run_name)}' holds no compiled code; give one of moe-lab inspect.")
    else:
        found, code = _compiled(arguments)
    rows = found.rows()
    print(fitted(_shown(static.kernels(rows))))
    for one in findings.all_of(rows):
        print(f"\n{one}")
    print(f"\n{found.path}", file=sys.stderr)  # stdout holds only the result
    return 1 if code else 0


def _compiled(arguments: argparse.Namespace) -> "tuple[Run, int]":
    """Compile, and write the pages if a folder is given for them; return the run and the exit code of the process."""
    from moe_lab.report import kernel_code
    from moe_lab.runs import static_runs
    from moe_lab.spec.guard import places

    argv, pages = bench_options.argv("inspect", arguments), kernel_code.Pages()
    if arguments.html is None:
        return static_runs.inspect(argv, arguments.name, **destination(arguments))
    kept = {"overwrite": arguments.overwrite, "ours": kernel_code.is_ours, "what": "folder of such pages"}
    folder = arguments.html.resolve()
    with places.claim(folder.parent, folder.name, **kept) as held:
        done = static_runs.inspect(argv, arguments.name, **destination(arguments), seen=pages.add)
        pages.write(held.fresh())
        print(held.finish() / "index.html", file=sys.stderr)
    return done


def _shown(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table without empty columns, GPUs that their architecture names, and a model that all rows have."""
    said = ["gpu"] * (table["gpu"].nunique() == table["arch"].nunique()) + ["model"] * (table["model"].nunique() == 1)
    return table.drop(columns=said).dropna(axis="columns", how="all")
