# SPDX-License-Identifier: Apache-2.0
"""Options of the benchmarks, each defined once, for both command lines and for the argv that one passes to the other.

A list is written with commas; ``1,2,4,...,64`` continues as it began, and several words are joined into one list.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from moe_lab.spec import plugins
from moe_lab.spec.architectures import listed as cards
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options as types
from moe_lab.spec.guard.entry import integer, one_line
from moe_lab.spec.problem import ACTIVATIONS

ALIGN_MODES, EXPERTS_MODES = ("graph", "eager", "eager+allocation"), ("graph", "eager")
PARTS = ("full", "w13", "w2")
TUNABLE = ("fused_moe", "grouped")
# The fields that together identify a row of the experts benchmark: a run that is resumed skips the keys it has.
EXPERTS_KEY = ("model", "M", "format", "routing", "seed", "backend", "part", "mode")
EP_KEY = ("model", "M", "format", "routing", "seed", "ranks", "comm", "backend", "part", "mode")


def listed(text: str, known: tuple[str, ...] = ()) -> list[str]:
    """Return the parts of a comma-separated list without repeats; UserError if it is empty or a part is not known."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [part for part in parts if known and part not in known]
    if wrong or not parts:
        raise UserError(
            f"'{one_line(text)}' must be a list of: {', '.join(known)}." if known else "The list is empty; name one."
        )
    return parts


def numbers(text: str, least: int = 0, most: int = types.TOKENS) -> list[int]:
    """Return the numbers of a comma-separated list without repeats; ``...`` continues the ratio of the two before it.

    Raises UserError if the text is not such a list, or a number is not within ``least`` to ``most``.
    """
    out: list[int] = []
    parts = [part.strip() for part in text.replace("…", "...").split(",")]  # some editors join the three dots
    try:
        for i, part in enumerate(parts):
            if part != "...":
                out.append(integer(part, range(least, most + 1)))
                continue
            last, ratio = integer(parts[i + 1], range(least, most + 1)), out[-1] // out[-2]
            if ratio < 2:  # the loop below would never end
                raise ValueError("it does not grow")
            while out[-1] * ratio < last:
                out.append(out[-1] * ratio)
    except (ValueError, IndexError, ZeroDivisionError):
        raise UserError(
            f"'{one_line(text, 60)}' is not a list of numbers from {least} to {most}; write for example 1,16,256 or "
            "1,2,4,...,16384."
        ) from None
    return list(dict.fromkeys(out))


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: of the parsed attribute; the flag is ``--name``.
        default: as one would type it.
        about: help text.
        of: argparse type of a single value, or the function that checks a list.
        metavar: LIST if the option takes a list.
        choices: allowed values; empty = anything that ``of`` accepts.
    """

    name: str
    default: Any
    about: str
    of: Callable[[str], Any] = str
    metavar: str | None = None
    choices: Sequence[str] = ()

    @property
    def flag(self) -> str:
        """The flag as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to a command line."""
        if self.metavar == "LIST":
            joined = {"nargs": "+", "action": _Joined, "const": self.of}
            parser.add_argument(self.flag, default=self.default, metavar="LIST", help=self.about, **joined)  # type: ignore[arg-type]
        elif self.default is False:
            parser.add_argument(self.flag, action="store_true", help=self.about)
        else:
            more = {"metavar": self.metavar} if self.metavar else {}
            kind = {"choices": self.choices} if self.choices else {"type": self.of}
            parser.add_argument(self.flag, default=self.default, help=self.about, **kind, **more)  # type: ignore[arg-type]


class _Joined(argparse.Action):
    """Join the words of a list and check it, but store its text: ``argv`` passes on what was typed."""

    as_text = True

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Store the list."""
        text = ",".join(values)
        try:
            found = self.const(text)
        except UserError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, text if self.as_text else found)


class _Split(_Joined):
    """The same, but store the values."""

    as_text = False


def add_list(
    parser: argparse.ArgumentParser, flag: str, default: str, about: str, of: Callable[[str], Any] = listed
) -> None:
    """Add an option that takes a list as the benchmarks do, and stores its values."""
    parser.add_argument(flag, nargs="+", action=_Split, const=of, default=of(default), metavar="LIST", help=about)


TOKENS = partial(numbers, least=0)
EXPERTS = partial(numbers, least=1, most=types.EXPERTS)
ROWS = partial(numbers, least=1, most=1024)
ROUTING = "uniform, zipf:S, balanced, hot or replay:FILE"
ABLE, RELEASE = "all that can run here, or some of:", "NAME@VERSION takes one release of a peer"
SHARED = Option("shared", 0, "shared experts computed as further ones of every token; model = its own", types.shared)
BIASES = Option("biases", "model", "of w13 and w2: as in the model, or by choice", choices=("model", "yes", "no"))
REPETITIONS = Option("repetitions", 50, "timed calls of each variant", types.count, "N")
CARDS = "architectures or GPUs: sm_90 takes the tiles of the H100, h200 those of the H200"
MODEL = "presets, or sizes as KxNxExTOPK"
M = Option("m", "1,2,4,...,16384", "tokens", TOKENS, "LIST")
DEVICE = Option("device", "cuda", "cpu runs Triton's interpreter: for tests only", choices=("cuda", "cpu"))


def of(bench: str) -> tuple[Option, ...]:
    """Return the options of ``align`` (all combinations of its lists), ``experts``, ``ep``, ``tune`` or ``inspect``."""
    format = Option("format", "bf16", f"one of: {_names('formats')}")
    formats = Option("format", "bf16", f"some of: {_names('formats')}", listed, "LIST")
    seed = Option("seed", 0, "seed of weights, tokens and routing", types.seed)
    if bench == "align":
        return (
            Option("tokens", "1,4,16,...,65536", "tokens", TOKENS, "LIST"),
            Option("experts", "128,256", "experts", EXPERTS, "LIST"),
            Option("topk", "8", "experts per token", EXPERTS, "LIST"),
            Option("block_m", "64", "rows per tile", ROWS, "LIST"),
            Option("routing", "uniform", ROUTING, listed, "LIST"),
            Option("algorithms", "all", f"{ABLE} {_names('align')}", listed, "LIST"),
            _some("modes", ALIGN_MODES),
            Option("kernels", "all", "sizes to profile kernel by kernel too: all, none, or tokens", listed, "LIST"),
            REPETITIONS,
            seed,
            Option("table", False, "also print the medians of the first mode to stderr"),
        )
    if bench == "experts":
        return (
            Option("model", "qwen3-30b-a3b", MODEL, listed, "LIST"),
            M,
            Option("backends", "all", f"{ABLE} {_names('experts')}; {RELEASE}", listed, "LIST"),
            Option("routing", "uniform", ROUTING, listed, "LIST"),
            _some("parts", PARTS),
            _some("modes", EXPERTS_MODES),
            formats,
            Option("activation", "model", "that of the model, or another", choices=("model", *ACTIVATIONS)),
            *(SHARED, BIASES, REPETITIONS, seed),
            Option("kernels", "all", "whether to profile each case kernel by kernel too", choices=("all", "none")),
            Option("patience", 300, "seconds after which a hanging backend is stopped", types.count, "S"),
            DEVICE,
        )
    if bench == "ep":
        return (
            Option("ranks", 2, "processes, each with a GPU of its own", types.whole(1, 64), "N"),
            Option("model", "deepseek-v3", MODEL, listed, "LIST"),
            Option("m", "8,128,1024,4096", "tokens of each rank", TOKENS, "LIST"),
            Option("comm", "all", f"all that can run here, or some of: {_names('comm')}", listed, "LIST"),
            Option("backend", "hopper", "experts backend that can leave out experts of other ranks", metavar="NAME"),
            Option("routing", "uniform", ROUTING, listed, "LIST"),
            Option("placement", "contiguous", "contiguous, or a JSON file: the experts of each rank", metavar="FILE"),
            *(format, SHARED, REPETITIONS, seed),
            Option("patience", 120, "seconds after which a rank that does not come is given up", types.count, "S"),
            DEVICE,
        )
    if bench == "inspect":
        return (
            Option("kernel", "all", "experts, align, router, all, or the name of a kernel", metavar="NAME"),
            Option("arch", "gfx90a,gfx942,gfx950,sm_80,sm_89,sm_90,sm_100,sm_120", CARDS, cards, "LIST"),
            Option("model", "qwen3-30b-a3b", MODEL, listed, "LIST"),
            Option("m", "1,64,4096", "tokens", TOKENS, "LIST"),
            formats,
            Option("backend", ",".join(TUNABLE), "also batched, hopper, or a peer's: NAME@VERSION", listed, "LIST"),
            Option("algorithms", "all", "align algorithms: all that are in Triton, or names", listed, "LIST"),
            Option("tiles", "tuned", "tuned where there are any, or the backend's own", choices=("tuned", "own")),
            Option("jobs", 0, "compile processes; 0 = one per core, at most 16", types.few, "N"),
            Option("patience", 120, "seconds after which a compilation counts as hung", types.count, "S"),
        )
    return (
        Option("model", "qwen3-30b-a3b", "preset, or sizes as KxNxExTOPK"),
        M,
        Option("between", 4, "sizes between those of --m at which to check the nearest tuned tile", types.few, "N"),
        Option("backend", "fused_moe", "backend whose tiles are tuned", choices=TUNABLE),
        Option("budget", "5m", "time budget: 90s, 5m or 1h; the same command resumes later", metavar="TIME"),
        format,
        Option("routing", "uniform", "uniform, zipf:S, balanced or hot", metavar="SPEC"),
        seed,
        Option("candidates", 40, "tiles to compile for each GEMM and block_m", types.count, "N"),
        Option("jobs", 0, "compile processes; 0 = one per core, at most 16", types.few, "N"),
        Option("patience", 120, "seconds after which a tile counts as hung", types.count, "S"),
        DEVICE,
    )


def _names(kind: str) -> str:
    return ", ".join(plugins.names(kind))


def _some(name: str, known: tuple[str, ...]) -> Option:
    return Option(name, ",".join(known), f"some of: {', '.join(known)}", partial(listed, known=known), "LIST")


def command(commands: Any, name: str, about: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
    """Return the parser of a new subcommand, whose help shows the defaults."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, formatter_class=types.Defaults)
    parser.set_defaults(run=run)
    return parser


def add(bench: str, parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark to a command line."""
    for option in of(bench):
        option.add(parser)


def argv(bench: str, options: argparse.Namespace) -> list[str]:
    """Return the options of a benchmark as command-line arguments, without those at their default."""
    words: list[str] = []
    for option in of(bench):
        value = getattr(options, option.name)
        if value != option.default:
            words += [option.flag] if value is True else [option.flag, str(value)]
    return words
