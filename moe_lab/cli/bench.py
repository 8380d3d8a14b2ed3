"""``moe-lab bench``: measure on this machine's GPU and keep the rows as a run."""

import argparse
import sys
from functools import partial

from moe_lab.cli._print import add_destination, destination, print_run
from moe_lab.spec import bench_options

INFO = {
    "about": "measure on this machine's GPU and keep the rows as a run",
    "shows": {
        (
            "moe-lab bench align --name X [--tokens 1,4,16,...,65536] [--experts 128,256] [--topk 8] "
            "[--block-m 64] [--routing uniform,zipf:1.2] [--algorithms auto,...]"
        ): (
            "which align & sort algorithm is quickest at which size? Keeps the rows as a run, also those "
            "of a process that dies"
        ),
        (
            "moe-lab bench experts --name X [--model NAME] [--m 1,2,4,...,16384] [--backends NAME,...] "
            "[--routing uniform,zipf:1.2] [--parts full,w13,w2]"
        ): (
            "which experts backend should run at how many tokens, and how far is it from the bound? "
            "Checks each against an fp64 oracle, times them interleaved; a crash costs one case"
        ),
    },
}
WHAT = {"align": "align algorithms over sizes", "experts": "experts backends over tokens"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per benchmark."""
    benches = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, about in WHAT.items():
        bench = benches.add_parser(
            name, help=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
        )
        bench_options.add(name, bench)
        add_destination(bench)
        bench.set_defaults(run=partial(run, name))  # both benchmarks share one function


def run(name: str, arguments: argparse.Namespace) -> int:
    """Run a benchmark and print the run's folder; returns 1 if the measuring process did not finish."""
    from moe_lab.runs import bench_runs

    run, code = bench_runs.measure(name, bench_options.argv(name, arguments), arguments.name, **destination(arguments))
    kept = run.manifest["rows"]
    if kept["failed"]:
        print(f"moe-lab: {kept['failed']} of {kept['count']} rows have an error instead of times.", file=sys.stderr)
    if code:
        said = f"The benchmark {bench_runs.stopped(code)}; the {kept['count']} rows that it had measured are kept."
        print(f"moe-lab: {said}", file=sys.stderr)
    print_run(run)
    return 1 if code else 0  # the rows are kept, but a script must notice that some are missing
