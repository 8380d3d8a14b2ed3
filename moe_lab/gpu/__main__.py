# SPDX-License-Identifier: Apache-2.0
"""The process with torch: ``python -m moe_lab.gpu layer``, ``hf``, ``experts`` and ``align`` get profiled.

The other commands measure. Each prints one line of JSON; ``python -m moe_lab.gpu ranges`` that of the cost of a range
when no profiler listens.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from moe_lab.gpu.workloads.window import range_api, say
from moe_lab.spec import plugins, ranges
from moe_lab.spec.errors import REFUSED, RefusedError, UserError
from moe_lab.spec.guard.options import Strict

DEVICE = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
DEVICE.add_argument("--device", nargs="?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = plugins.take(sys.argv[1:] if arguments is None else arguments)
    # Triton decides between compiler and interpreter when it is imported, which parser() does.
    device, _ = DEVICE.parse_known_args(words)
    with _interpreter() if device.device == "cpu" else nullcontext():
        options = parser().parse_args(words)
        options.words = words  # what ranks are started with
        try:
            result = options.run(options)
            if result is not None:  # of several ranks one speaks for all
                print(json.dumps(result), flush=True)  # noqa: T201
        except UserError as error:
            if not isinstance(error, RefusedError):
                say(str(error))
            return REFUSED
    return 0


@contextmanager
def _interpreter() -> Iterator[None]:
    """Let Triton interpret, and leave the environment as it was: a later command of this process may be for a GPU."""
    found = os.environ.get("TRITON_INTERPRET")
    os.environ.setdefault("TRITON_INTERPRET", "1")
    try:
        yield
    finally:
        if found is None:
            del os.environ["TRITON_INTERPRET"]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from moe_lab.gpu.bench import align_command, ep_command, experts_command
    from moe_lab.gpu.bench.tune import command as tune
    from moe_lab.gpu.inspect import command as inspect
    from moe_lab.gpu.workloads import align, experts, hf, layer

    top = Strict(prog="python -m moe_lab.gpu", description="The process that gets profiled.")
    commands = top.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("ranges", help="print the cost of a range when no profiler listens, in nanoseconds")
    cost.set_defaults(run=lambda options: range_cost())
    for command in (layer, hf, align, experts, align_command, experts_command, ep_command, tune, inspect):
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
