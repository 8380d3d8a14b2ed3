# SPDX-License-Identifier: Apache-2.0
"""``moe-lab bench``: measure on this machine's GPU and keep the rows as a run."""

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

from moe_lab.cli._print import add_destination, destination, print_run
from moe_lab.spec import bench_options
from moe_lab.spec.guard.options import Defaults

if TYPE_CHECKING:
    from moe_lab.runs import Run

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
            "[--format bf16,fp8_block,...] [--routing uniform,zipf:1.2] [--parts full,w13,w2] [--on dask://HOST:PORT|dask://local:2|slurm:8]"
        ): (
            "which experts backend, in which format, should run at how many tokens, and how far is it from the bound? "
            "Checks each against an fp64 oracle, times them interleaved; a crash costs one case. "
            "`--on` takes the cases to [many GPUs or hosts](cluster.md)"
        ),
        (
            "moe-lab bench ep --name X --ranks 2 [--model NAME] [--m 8,128,1024,4096] [--format fp8_block] "
            "[--comm NAME,...] [--shared model] [--routing uniform,zipf:1.2,hot,replay:FILE] [--placement FILE]"
        ): (
            "what does it cost to share the experts out to several GPUs: dispatch, experts, combine and all of it, of "
            "the slowest rank, against the link? What do shared experts gain from running while rows travel? Each "
            "rank's result is checked against the layer of one process"
        ),
    },
}
ON = (
    "measure case by case on other machines, each on one GPU: dask://HOST:PORT (a running scheduler), dask://local:2 "
    "(workers here) or slurm:8 (jobs of one GPU); the same command goes on where it was stopped"
)
WHAT = {
    "align": "align algorithms over sizes",
    "experts": "experts backends over tokens",
    "ep": "experts on several ranks: dispatch, experts, combine",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per benchmark."""
    benches = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, about in WHAT.items():
        bench = benches.add_parser(name, help=about, formatter_class=Defaults, allow_abbrev=False)
        bench_options.add(name, bench)
        add_destination(bench)
        if name != "ep":  # its ranks need one host
            bench.add_argument("--on", metavar="PLACE", help=ON)
        bench.set_defaults(run=partial(run, name))  # both benchmarks share one function


def run(name: str, arguments: argparse.Namespace) -> int:
    """Run a benchmark and print the run's folder; returns 1 if the process did not finish or no row has times."""
    from moe_lab.runs import bench_runs, sweep

    if getattr(arguments, "on", None):
        made, failed = sweep.measure(name, arguments, arguments.name, arguments.on, **destination(arguments))
        for sentence in failed:
            print(f"moe-lab: {sentence}", file=sys.stderr)
        for one in made:
            print_run(one)
        return 1 if failed else 0
    run, code = bench_runs.measure(name, bench_options.argv(name, arguments), arguments.name, **destination(arguments))
    kept = run.manifest["rows"]
    if kept["failed"]:
        print(f"moe-lab: {_failures(run)}", file=sys.stderr)
    if code:
        said = f"The benchmark {bench_runs.stopped(code)}; the {kept['count']} rows that it had measured are kept."
        print(f"moe-lab: {said}", file=sys.stderr)
    print_run(run)
    # The rows are kept, but a script must notice that some are missing or that none has times.
    return 1 if code or kept["failed"] == kept["count"] else 0


def _failures(run: "Run") -> str:
    """Return how many rows have no times, and why most of them have none."""
    kept, why = run.manifest["rows"], run.rows()["error"].dropna().value_counts()
    others = ", and for other reasons" if len(why) > 1 else ""
    first = str(why.index[0]).rstrip(".")
    return f"{kept['failed']} of {kept['count']} rows have an error instead of times: {first}{others}."
