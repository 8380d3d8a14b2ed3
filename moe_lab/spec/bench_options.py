"""Options of the benchmarks: the same for ``moe-lab bench`` and for the process that it starts. Imports no torch."""

import argparse
from typing import Any

from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options as types
from moe_lab.spec.guard.entry import integer, one_line

MODES = ("graph", "eager", "eager+allocation")
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


def add_align(parser: argparse.ArgumentParser) -> None:
    """Add what the align benchmark can vary; every combination is measured."""
    parser.add_argument("--tokens", type=types.tokens, nargs="+", default=list(TOKENS), metavar="M", help="tokens")
    parser.add_argument("--experts", type=types.experts, nargs="+", default=[128, 256], metavar="E", help="experts")
    parser.add_argument("--topk", type=types.experts, nargs="+", default=[8], metavar="N", help="experts per token")
    parser.add_argument("--block-m", type=types.rows, nargs="+", default=[64], metavar="ROWS", help="rows of a tile")
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
    parser.add_argument("--repetitions", type=types.count, default=50, metavar="N", help="timed calls of each variant")
    parser.add_argument("--seed", type=types.seed, default=0, help="of the routing")
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


EXPERTS_MODES = ("graph", "eager")
PARTS = ("full", "w13", "w2")
EXPERTS_M = "1,2,4,...,16384"
# What tells one row of the experts benchmark from every other.
EXPERTS_KEY = ("model", "M", "format", "routing", "seed", "backend", "part", "mode")


def add_experts(parser: argparse.ArgumentParser) -> None:
    """Add what the experts benchmark can vary; lists are separated by commas."""
    parser.add_argument("--model", default="qwen3-30b-a3b", metavar="LIST", help="presets, or sizes as KxNxExTOPK")
    parser.add_argument("--m", default=EXPERTS_M, metavar="LIST", help="tokens; 1,2,4,...,64 goes on as it began")
    parser.add_argument(
        "--backends",
        default="all",
        metavar="LIST",
        help=f"all that are available and can be captured, or of: {', '.join(plugins.names('experts'))}; NAME@VERSION "
        "takes one release of a peer",
    )
    parser.add_argument(
        "--routing", default="uniform", metavar="LIST", help="uniform, zipf:S, balanced, hot or replay:FILE"
    )
    parser.add_argument("--parts", default="full,w13,w2", metavar="LIST", help=f"of: {', '.join(PARTS)}")
    parser.add_argument("--modes", default="graph,eager", metavar="LIST", help=f"of: {', '.join(EXPERTS_MODES)}")
    parser.add_argument("--format", default="bf16", help=f"of: {', '.join(plugins.names('formats'))}")
    parser.add_argument("--repetitions", type=types.count, default=50, metavar="N", help="timed calls of each variant")
    parser.add_argument("--seed", type=types.seed, default=0, help="of weights, tokens and routing")
    parser.add_argument(
        "--kernels", default="all", choices=("all", "none"), help="whether a profiler reads the kernels"
    )
    parser.add_argument(
        "--patience",
        type=types.count,
        default=300,
        metavar="S",
        help="seconds after which a backend that hangs is stopped",
    )
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu runs Triton's interpreter: for tests only"
    )


_EXPERTS = ("model", "m", "backends", "routing", "parts", "modes", "format", "repetitions", "seed", "kernels")


def experts_argv(options: argparse.Namespace) -> list[str]:
    """Return the options of ``add_experts`` as arguments, those at their default left out."""
    parser = argparse.ArgumentParser()
    add_experts(parser)
    given = ((name, getattr(options, name)) for name in (*_EXPERTS, "patience", "device"))
    return [part for name, value in given if value != parser.get_default(name) for part in (f"--{name}", str(value))]


def listed(text: str, known: tuple[str, ...] = ()) -> list[str]:
    """Return the parts of a comma-separated list, each once.

    Raises:
        UserError: it is empty, or has one that is not known.
    """
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [part for part in parts if known and part not in known]
    if wrong or not parts:
        raise UserError(
            f"'{one_line(text)}' must be a list of: {', '.join(known)}." if known else "A list is empty; name one."
        )
    return parts


def numbers(text: str) -> list[int]:
    """Return the numbers of a comma-separated list; ``...`` goes on with the ratio of the two before it.

    Raises:
        UserError: it is no such list.
    """
    out: list[int] = []
    parts = [part.strip() for part in text.replace("…", "...").split(",")]
    try:
        for i, part in enumerate(parts):
            if part != "...":
                out.append(integer(part, range(types.TOKENS + 1)))
                continue
            last, ratio = integer(parts[i + 1], range(types.TOKENS + 1)), out[-1] // out[-2]
            if ratio < 2:
                raise ValueError("it does not grow")
            while out[-1] * ratio < last:
                out.append(out[-1] * ratio)
    except (ValueError, IndexError, ZeroDivisionError):
        raise UserError(
            f"'{one_line(text, 60)}' is no list of tokens from 0 to {types.TOKENS}; write for example 1,16,256 or "
            "1,2,4,...,16384."
        ) from None
    return list(dict.fromkeys(out))


TUNABLE = ("fused_moe", "grouped")
_TUNE = ("model", "m", "between", "backend", "budget", "format", "routing", "seed", "candidates", "jobs", "patience")


def add_tune(parser: argparse.ArgumentParser) -> None:
    """Add what a tuning can vary."""
    parser.add_argument("--model", default="qwen3-30b-a3b", help="preset, or sizes as KxNxExTOPK")
    parser.add_argument("--m", default=EXPERTS_M, metavar="LIST", help="tokens; 1,2,4,...,64 goes on as it began")
    parser.add_argument(
        "--between",
        type=types.few,
        default=4,
        metavar="N",
        help="Ms between them at which to judge the keys",
    )
    parser.add_argument("--backend", default="fused_moe", choices=TUNABLE, help="whose tiles")
    parser.add_argument("--budget", default="5m", metavar="TIME", help="when to stop: 90s, 5m or 1h; a rerun goes on")
    parser.add_argument("--format", default="bf16", help=f"of: {', '.join(plugins.names('formats'))}")
    parser.add_argument("--routing", default="uniform", metavar="SPEC", help="uniform, zipf:S, balanced, hot")
    parser.add_argument("--seed", type=types.seed, default=0, help="of weights, tokens and routing")
    parser.add_argument(
        "--candidates",
        type=types.count,
        default=40,
        metavar="N",
        help="tiles per GEMM and block_m to compile",
    )
    parser.add_argument(
        "--jobs",
        type=types.few,
        default=0,
        metavar="N",
        help="compiling processes; 0 = one a core, at most 16",
    )
    parser.add_argument(
        "--patience", type=types.count, default=120, metavar="S", help="seconds after which a tile counts as hung"
    )
    parser.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu runs Triton's interpreter: for tests only"
    )


def tune_argv(options: argparse.Namespace) -> list[str]:
    """Return the options of ``add_tune`` as arguments, those at their default left out."""
    parser = argparse.ArgumentParser()
    add_tune(parser)
    given = ((name, getattr(options, name)) for name in (*_TUNE, "device"))
    return [part for name, value in given if value != parser.get_default(name) for part in (f"--{name}", str(value))]


def seconds(text: str) -> float:
    """Return the seconds of ``90s``, ``5m``, ``1.5h`` or a number.

    Raises:
        UserError: it is no time above zero.
    """
    scale = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 1)
    try:
        value = types.amount(text[:-1] if text[-1:] in ("s", "m", "h") else text) * scale
    except argparse.ArgumentTypeError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UserError(f"'{one_line(text)}' is no time; write 90s, 5m or 1h.")
    return value
