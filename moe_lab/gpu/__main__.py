"""The process with torch: ``python -m moe_lab.gpu layer``, ``experts`` and ``align`` get profiled, the rest measures.

It prints one line of JSON. ``python -m moe_lab.gpu ranges`` prints the cost of a range when no profiler listens.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from moe_lab.gpu.bench import align_command, experts_command
from moe_lab.gpu.bench.tune import command as tune
from moe_lab.gpu.inspect import command as inspect
from moe_lab.gpu.workloads import align, experts, layer
from moe_lab.gpu.workloads.window import range_api, say
from moe_lab.spec import plugins, ranges
from moe_lab.spec.errors import UserError

CPU_COMMANDS = ("layer", "align", "experts", "bench-experts", "tune")  # --device cpu runs them in Triton's interpreter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parser().parse_args(plugins.take(sys.argv[1:] if arguments is None else arguments))
    # Triton decides between compiler and interpreter when it is imported, which the commands do only as they run.
    if getattr(options, "device", "cpu") == "cpu" and options.command in CPU_COMMANDS:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    try:
        print(json.dumps(options.run(options)), flush=True)  # noqa: T201
    except UserError as error:
        say(str(error))
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m moe_lab.gpu", description="The process that gets profiled.")
    commands = top.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("ranges", help="print the cost of a range when no profiler listens, in nanoseconds")
    cost.set_defaults(run=lambda options: range_cost())
    for command in (layer, align, experts, align_command, experts_command, tune, inspect):
        command.add(commands)
    return top


def range_cost(repeats: int = 100_000) -> dict[str, Any]:
    """Return the nanoseconds to open and close a range, without and with this machine's API; fastest of five rounds."""
    cost: dict[str, Any] = {"repeats": repeats}
    for api in dict.fromkeys(("none", range_api())):
        mark = ranges.marker(api)
        rounds = []
        for _ in range(5):
            began = time.perf_counter_ns()
            for _ in range(repeats):
                with mark("w13"):
                    pass
            rounds.append((time.perf_counter_ns() - began) / repeats)
        cost[f"{api}_ns"] = round(min(rounds), 1)  # other load on the machine only ever adds
    return cost


if __name__ == "__main__":
    raise SystemExit(main())
