# SPDX-License-Identifier: Apache-2.0
"""``moe-lab tune``: find tiles for a backend's GEMMs within a time budget."""

import argparse
import sys

from moe_lab.cli._print import NAME, add_destination, destination, fitted
from moe_lab.spec import bench_options
from moe_lab.spec.guard.options import Defaults, seconds

INFO = {
    "about": "find tiles of a backend's GEMMs in a given time",
    "shows": {
        ("moe-lab tune --static gfx942,gfx950 --name X [--m 64,4096] [--candidates 40]"): (
            "which tiles would be worth timing on a GPU that is not here? Compiles them, with AMD's own options, and "
            "leaves out those that fail, spill, or are no better than another in occupancy, work per byte and tensor "
            "share ([table](static.md#tiles-for-amd))"
        ),
        ("moe-lab tune --name X [--model NAME] [--m 1,2,4,...,16384] [--backend fused_moe|grouped] [--budget 5m]"): (
            "which tiles should the expert GEMMs take at how many tokens? Compiles in parallel, halves "
            "the field round by round, checks every result; a rerun goes on where the budget ended"
        ),
    },
}

# Of the tiles that are worth timing.
SHOWN = ["arch", "M", "part", "tile", "static_registers", "static_smem_bytes", "static_occupancy_pct"]
SHOWN += ["tile_flop_per_byte", "loop_flop_per_instruction"]
REASONS = 3  # why tiles do not compile, of different ones


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.formatter_class = Defaults
    bench_options.add("tune", parser)
    parser.add_argument("--static", metavar="ARCH,...", help="only compile the tiles, for GPUs that are not here")
    add_destination(parser, f"{NAME}; an unfinished one goes on", "start again, and replace a run of that name")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Find tiles, store the rows as a run with its file of tiles, and print both; returns 1 if it is not finished."""
    if arguments.static:
        return _compile(arguments)
    from moe_lab.runs import tune

    seconds(arguments.budget)  # refuses a bad budget before anything starts
    argv = bench_options.argv("tune", arguments)
    kept, code = tune.measure(argv, arguments.name, budget=arguments.budget, **destination(arguments))
    rows = kept.manifest["rows"]
    if not rows["complete"]:
        print("moe-lab: not finished; the same command continues from here.", file=sys.stderr)
    print(kept.path)
    found = sorted(kept.path.glob("E=*.json"))  # files of tiles are named as in vLLM
    print(found[0] if found else "no M has a result yet")
    return 1 if code or not rows["complete"] else 0


def _compile(arguments: argparse.Namespace) -> int:
    """Compile the tiles, store the rows as a run, and print those that stay; returns 1 if the process failed."""
    from moe_lab.analysis import static_tiles
    from moe_lab.runs import static_runs

    argv = ["--static", arguments.static, *bench_options.argv("tune", arguments)]
    kept, code = static_runs.inspect(argv, arguments.name, **destination(arguments), command="tune")
    table = static_tiles.tiles(kept.rows())
    print(fitted(table.loc[table["why"].eq(""), SHOWN]))
    for row in static_tiles.summary(table).itertuples(index=False):
        print(
            f"{row.kept} of {row.tiles} tiles are worth timing on {row.arch}: {row.fail} do not compile, {row.spill} "
            f"spill, {row.outdone} are no better than another in anything that the code tells."
        )
    for error in table["error"].dropna().unique()[:REASONS]:
        print(f"Does not compile: {error}")
    print(kept.path, file=sys.stderr)
    return 1 if code else 0
