"""Options of the benchmarks: the same for ``moe-lab bench`` and for the process that it starts. Imports no torch."""

import argparse
from typing import Any

from moe_lab import plugins

MODES = ("graph", "eager", "eager+allocation")
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


def add_align(parser: argparse.ArgumentParser) -> None:
    """Add what the align benchmark can vary; every combination is measured."""
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS), metavar="M", help="tokens")
    parser.add_argument("--experts", type=int, nargs="+", default=[128, 256], metavar="E", help="experts")
    parser.add_argument("--topk", type=int, nargs="+", default=[8], metavar="N", help="experts per token")
    parser.add_argument("--block-m", type=int, nargs="+", default=[64], metavar="ROWS", help="rows of a tile")
    parser.add_argument(
        "--routing",
        nargs="+",
        default=["uniform"],
        metavar="SPEC",
        help="uniform, zipf:S, balanced, hot or replay:FILE",
    )
    parser.add_argument(
        "--algorithms",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help=f"all that are available here, or of: {', '.join(plugins.names('align'))}",
    )
    parser.add_argument(
        "--modes", nargs="+", default=list(MODES), choices=MODES, metavar="MODE", help=f"of: {', '.join(MODES)}"
    )
    parser.add_argument(
        "--kernels",
        nargs="+",
        default=["all"],
        metavar="M",
        help="all, none, or the tokens at which a profiler also reads the kernels of a call",
    )
    parser.add_argument("--repetitions", type=int, default=50, metavar="N", help="timed calls of each variant")
    parser.add_argument("--seed", type=int, default=0, help="of the routing")
    parser.add_argument("--table", action="store_true", help="also print the medians of the first mode on stderr")


_ALIGN = ("tokens", "experts", "topk", "block_m", "routing", "algorithms", "modes", "kernels", "repetitions", "seed")


def align_argv(options: argparse.Namespace) -> list[str]:
    """Return the options of ``add_align`` as arguments, those at their default left out."""
    parser = argparse.ArgumentParser()
    add_align(parser)
    argv: list[str] = []
    for name in _ALIGN:
        value: Any = getattr(options, name)
        if value != parser.get_default(name):
            argv += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return [*argv, "--table"] if options.table else argv
