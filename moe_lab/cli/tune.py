"""``moe-lab tune``: find tiles for a backend's GEMMs within a time budget."""

import argparse
import sys

from moe_lab.cli._print import NAME, add_destination, destination
from moe_lab.spec import bench_options
from moe_lab.spec.guard.options import Defaults, seconds

INFO = {
    "about": "find tiles of a backend's GEMMs in a given time",
    "shows": {
        ("moe-lab tune --name X [--model NAME] [--m 1,2,4,...,16384] [--backend fused_moe|grouped] [--budget 5m]"): (
            "which tiles should the expert GEMMs take at how many tokens? Compiles in parallel, halves "
            "the field round by round, checks every result; a rerun goes on where the budget ended"
        ),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.formatter_class = Defaults
    bench_options.add("tune", parser)
    add_destination(parser, f"{NAME}; an unfinished one goes on", "start again, and replace a run of that name")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Find tiles, store the rows as a run with its file of tiles, and print both; returns 1 if it is not finished."""
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
