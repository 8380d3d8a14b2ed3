# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu experts``: run the experts part in ranges, for a profiler.

Each call lies in ``moe_lab|model=...|phase=experts|M=...|backend=...`` (with ``|tiles=...`` if they were chosen), which
contains the backend's own stages. The L2 cache is flushed before each call, outside these ranges. The result states for
each of these root ranges how many experts were hit, how many rows they got and which tiles computed them.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moe_lab.gpu.align import counted, padded
from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.experts import load
from moe_lab.gpu.formats import quantise
from moe_lab.gpu.routing import SPECS, parse_spec
from moe_lab.gpu.weights import drawn, expert_weights, tokens
from moe_lab.gpu.workloads.window import run_all
from moe_lab.spec import plugins, ranges
from moe_lab.spec.bench_options import BIASES, SHARED, TOKENS, add_list, command
from moe_lab.spec.configs.tile import AMD_FIELDS, FIELDS, parse
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options as types
from moe_lab.spec.guard.entry import integer
from moe_lab.spec.models import MODELS
from moe_lab.spec.problem import MoEProblem

if TYPE_CHECKING:
    from moe_lab.gpu.kernels.tile import Tile

PARTS = ("w13", "w2")
AUTO, UNTUNED = "auto", "untuned"
BLOCK_MS = (16, 32, 64, 128, 256)  # of backends that do not state their tiles, analysis tries these
TILES = (
    f"'{AUTO}' (the backend's own), '{UNTUNED}' (those of vLLM and SGLang without a tuned file) or "
    "block_m x block_n x block_k [x group_m [x num_warps [x num_stages]]], such as 64x64x32x8; on AMD all six and then "
    "x waves_per_eu x matrix_instr_nonkdim x kpack may follow"
)


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    experts = command(commands, "experts", "run the experts part", run)
    experts.add_argument("--model", default="qwen3-30b-a3b", help=f"preset: {', '.join(MODELS)}; or KxNxExTOPK")
    add_list(experts, "--m", "16,128,1024,8192", "tokens", TOKENS)
    add_list(experts, "--backend", "fused_moe", f"some of: {', '.join(plugins.names('experts'))}")
    add_list(experts, "--tiles", AUTO, TILES)
    experts.add_argument("--split", action="store_true", help="launch w13 and w2 separately, if one launch does both")
    experts.add_argument("--format", default="bf16", help=f"one of: {', '.join(plugins.names('formats'))}")
    for option in (SHARED, BIASES):
        option.add(experts)
    experts.add_argument("--routing", default="uniform", help=SPECS)
    experts.add_argument("--iterations", type=types.count, default=1, help="calls of each backend, M and tiles")
    experts.add_argument("--seed", type=types.seed, default=0, help="of weights, inputs and routing")
    experts.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu runs Triton's interpreter")


@dataclass(frozen=True)
class Call:
    """One experts call.

    Attributes:
        root: name of its range.
        run: makes the call, with a ``mark``.
        point: what the result says about it.
    """

    root: str
    run: Callable[[ranges.Mark], object]
    point: dict[str, Any]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Call every backend at every M with every choice of tiles inside the profiler window; return what was called.

    Also writes the result to the path in MOE_LAB_WORKLOAD_JSON, if that is set.

    Raises:
        UserError: no GPU, an unknown backend, model, dtype, routing or tile, or too little memory.
    """
    from moe_lab.gpu.workloads.record import finish  # imports Triton, which must come after --device is known

    _check(options)
    try:
        calls = _calls(options)
        run_all([(call.root, call.run) for call in calls], options.iterations, options.device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{options.model} with M = {max(options.m)} does not fit in this GPU's memory; lower --m, or choose a "
            "smaller --model."
        ) from error
    named = ("model", "format", "routing", "iterations", "seed")
    result: dict[str, Any] = {"workload": "experts", "backend": "+".join(options.backend), "phase": "experts"}
    result |= {name: getattr(options, name) for name in named} | {"points": [call.point for call in calls]}
    return finish(result, options.device)


def _check(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; run on a GPU machine, or use --device cpu with a small model.")
    if min(options.m) < 1 or options.iterations < 1:
        raise UserError("Use at least one token and one iteration.")
    parse_spec(options.routing)
    for backend in options.backend if AUTO not in options.tiles else ():
        if not plugins.info("experts", backend).get("tile"):
            raise UserError(f"The experts backend '{backend}' does not take tiles; leave --tiles out.")


def _calls(options: argparse.Namespace) -> list[Call]:
    device = torch.device(options.device)
    first = _problem(options, 1)
    for backend in options.backend:  # before weights are made, which takes longest
        refuse(backend, plugins.info("experts", backend), first, device)
    weights = [quantise(w, options.format) for w in expert_weights(first, device, options.seed)]
    calls = []
    for backend in options.backend:
        plugin, info = load(backend)
        w13, w2 = getattr(plugin, "prepare", lambda *both: both)(*weights)
        # Beside backends that take tiles, one that does not is called once.
        for M, chosen in product(options.m, options.tiles if info.get("tile") else [AUTO]):
            problem = _problem(options, M)
            calls.append(_call(plugin, backend, problem, chosen, (w13, w2), options))
    return calls


def _problem(options: argparse.Namespace, M: int) -> MoEProblem:
    return MoEProblem.preset(options.model, M, options.format, options.shared, options.biases)


def _call(
    plugin: Any,
    backend: str,
    problem: MoEProblem,
    chosen: str,
    weights: tuple[Tensor, Tensor],
    options: argparse.Namespace,
) -> Call:
    device = torch.device(options.device)
    routing = drawn(options.routing, problem, seed=options.seed, device=device)
    x = tokens(problem, device, options.seed)
    tile = None if chosen == AUTO else parse_tile(chosen, problem)
    more: dict[str, Any] = {} if tile is None else {"tile": tile}
    if options.split and plugins.info("experts", backend).get("split"):
        more["split"] = True
    named = {} if tile is None else {"tiles": chosen}  # two calls may not have one root range
    root = ranges.root_name(model=str(problem.model), phase="experts", M=problem.M, backend=backend, **named)

    def call(mark: ranges.Mark) -> object:
        return plugin.experts(x, *weights, *routing, problem=problem, mark=mark, **more)

    return Call(root, call, {"root": root} | _point(routing.topk_ids, problem, _stated(plugin, problem, device, tile)))


def _point(topk_ids: Tensor, problem: MoEProblem, tiles: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a call does: problem, experts hit, rows, and the tiles of w13 and w2 (None = unknown)."""
    counts = counted(topk_ids, problem.E)
    rows_padded = {str(m): int(padded(counts, m).sum()) for m in BLOCK_MS}
    block_m = tiles["w13"].get("block_m") if tiles else None
    return {
        "M": problem.M,
        "problem": problem.facts(),
        "experts_hit": int((counts > 0).sum()),
        "rows_useful": problem.rows_useful,
        "rows_padded": rows_padded.get(str(block_m)),
        "rows_padded_by_block_m": rows_padded,
        "tiles": tiles,
    }


def _stated(plugin: Any, problem: MoEProblem, device: torch.device, tile: "Tile | None") -> dict[str, Any] | None:
    """Return the tiles that a backend takes, with the field names of ``Tile``; None if it does not state them."""
    if hasattr(plugin, "tiles"):
        given = (tile,) if tile else ()
        return {part: asdict(t) for part, t in zip(PARTS, plugin.tiles(problem, device, *given), strict=True)}
    if not hasattr(plugin, "config"):
        return None
    # vLLM's and SGLang's own names, for backends that run their kernels.
    names = {"block_m": "BLOCK_SIZE_M", "block_n": "BLOCK_SIZE_N", "block_k": "BLOCK_SIZE_K", "group_m": "GROUP_SIZE_M"}
    config = plugin.config(problem)
    return {part: {ours: config.get(theirs) for ours, theirs in names.items()} for part in PARTS}


def parse_tile(text: str, problem: MoEProblem) -> "Tile":
    """Return the configuration that ``--tiles`` names.

    Args:
        text: ``untuned``, or sizes joined by x (see ``TILES``); by default the group is 1 row tile for tiles of up to
            32 rows and 8 above, with 4 warps and 3 stages.
        problem: decides between the two untuned configurations of vLLM's and SGLang's Triton kernel: 16x32x64 up to E
            tokens, 64x64x32 above.

    Raises:
        UserError: it is neither, one of the first three sizes is not a power of two of at least 16, or it has options
            for AMD on another GPU.
    """
    from moe_lab.gpu.kernels._device import is_hip
    from moe_lab.gpu.kernels.tile import Tile

    if text.count("x") + 1 == len((*FIELDS, *AMD_FIELDS)):
        if not is_hip():
            raise UserError(f"The last three numbers of '{text}' are options for AMD's GPUs; leave them out here.")
        return Tile(*parse(text))
    if text == UNTUNED:
        text = "16x32x64x1x4x3" if problem.M <= problem.E else "64x64x32x8x4x3"
    parts = text.split("x")
    try:
        m, n, k, *rest = (integer(part, range(1, 1025)) for part in parts)
    except ValueError:
        rest = [0] * 4  # refused below, as too many sizes are
    if len(rest) > 3:
        raise UserError(f"--tiles takes {TILES}; not '{text}'.")
    if any(size < 16 or size & (size - 1) for size in (m, n, k)):  # what tl.dot takes
        raise UserError(f"The sizes of a tile are powers of two from 16 up, which '{text}' has not.")
    group, warps, stages = [*rest, *(1 if m <= 32 else 8, 4, 3)[len(rest) :]]
    return Tile(m, n, k, group, warps, stages)
