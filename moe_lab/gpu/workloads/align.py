# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu align``: call align algorithms eagerly, in ranges, for a profiler.

Each call is in ``moe_lab|phase=align|M=...|E=...|topk=...|block_m=...|align=...`` > ``align``. The L2 cache is flushed
before each call, outside these ranges, as in the benchmark.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch

from moe_lab.gpu.routing import SPECS, parse_spec, synthetic
from moe_lab.gpu.workloads.window import run_all
from moe_lab.spec import plugins, ranges
from moe_lab.spec.bench_options import EXPERTS, ROWS, TOKENS, add_list, command
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options as types


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    align = command(commands, "align", "call align algorithms", run)
    add_list(align, "--algorithms", "auto", f"some of: {', '.join(plugins.names('align'))}")
    add_list(align, "--tokens", "16,1024,16384", "tokens", TOKENS)
    add_list(align, "--experts", "256", "experts", EXPERTS)
    add_list(align, "--topk", "8", "experts per token", EXPERTS)
    add_list(align, "--block-m", "64", "rows per tile", ROWS)
    align.add_argument("--routing", default="uniform", help=SPECS)
    align.add_argument("--iterations", type=types.count, default=5, help="calls of each algorithm and size")
    align.add_argument("--seed", type=types.seed, default=0, help="of the routing")
    align.add_argument("--warm", action="store_true", help="leave the L2 cache as the previous call left it")
    align.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu runs Triton's interpreter")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Call every algorithm at every size inside the profiler window, and return what was called.

    Also writes the result to the path in MOE_LAB_WORKLOAD_JSON, if that is set.

    Raises:
        UserError: no GPU, an unknown algorithm or routing, or impossible sizes.
    """
    from moe_lab.gpu.workloads.record import finish  # imports Triton, which must come after --device is known

    _check(options)
    calls, left_out = _calls(options)
    run_all(calls, options.iterations, options.device, options.warm)
    named = ("algorithms", "tokens", "experts", "topk", "block_m", "routing", "iterations", "seed", "warm")
    result = {"workload": "align"} | {name: getattr(options, name) for name in named}
    result |= {"roots": [root for root, _ in calls], "left_out": left_out}
    return finish(result, options.device)


def _check(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; run on a GPU machine, or use --device cpu with few tokens.")
    if min(options.topk) > max(options.experts) or options.iterations < 1 or min(options.tokens) < 0:
        raise UserError("Use topk <= experts, at least one iteration, and no negative tokens.")
    parse_spec(options.routing)


def _calls(options: argparse.Namespace) -> tuple[list[tuple[str, Callable[[ranges.Mark], object]]], list[str]]:
    """Return (name of its root range, call) for each algorithm and size, and sentences on what is left out."""
    from moe_lab.gpu.align import workspace

    calls: list[tuple[str, Callable[[ranges.Mark], object]]] = []
    left_out: list[str] = []
    sizes = product(options.experts, options.tokens, options.topk, options.block_m)
    for E, M, topk, block_m in ((E, M, topk, block_m) for E, M, topk, block_m in sizes if topk <= E):
        ids = synthetic(options.routing, M, E, topk, seed=options.seed, device=options.device).topk_ids
        for name in options.algorithms:
            plugin, most = plugins.load("align", name), plugins.info("align", name).get("most_pairs")
            if most is not None and ids.numel() > most:
                left_out.append(f"{name} takes up to {most} pairs, not {ids.numel()}.")
                continue
            out = workspace(plugin, ids, block_m, E)  # allocated here, so that a range holds only the algorithm
            root = ranges.root_name(phase="align", M=M, E=E, topk=topk, block_m=block_m, align=name)
            calls.append((root, partial(_call, partial(plugin.align, ids, block_m, E, out=out))))
    if not calls:
        raise UserError("Nothing to call: every algorithm was left out. " + " ".join(left_out))
    return calls, left_out


def _call(align: Callable[[], object], mark: ranges.Mark) -> None:
    with mark("align"):
        align()
