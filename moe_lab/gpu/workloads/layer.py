# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu layer --phase decode --batch 16 --graph``: run one decoder layer for a profiler.

It warms up with ranges off. Then, between cudaProfilerStart and cudaProfilerStop, it captures the CUDA graph (with the
layer's ranges open, so that a profiler sees in which range each node was created) and runs the measured iterations,
each in one root range. With ``--ranks`` each rank does so on a GPU of its own, with tokens and attention of its own
and a share of the experts; its root ranges name it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moe_lab.gpu.bench import clock
from moe_lab.gpu.workloads.window import meet, profiler_window, range_api
from moe_lab.spec import plugins, ranges
from moe_lab.spec.bench_options import command
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options as types
from moe_lab.spec.models import MODELS, model
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem

if TYPE_CHECKING:
    from moe_lab.gpu.layer import DecoderLayer


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    layer = command(commands, "layer", "run one decoder layer", run_layer)
    layer.add_argument("--model", default="qwen3-30b-a3b", help=f"preset: {', '.join(MODELS)}; or KxNxExTOPK")
    layer.add_argument("--phase", choices=("prefill", "decode"), default="decode", help="what a forward does")
    layer.add_argument("--batch", type=types.tokens, default=16, help="sequences")
    layer.add_argument("--input-len", type=types.tokens, default=2048, help="prefill: tokens per sequence")
    layer.add_argument("--context", type=types.tokens, default=2048, help="decode: tokens already in the KV cache")
    # --dtype is the name of this option from before there were formats.
    layer.add_argument("--format", "--dtype", default="bf16", help=f"one of: {', '.join(plugins.names('formats'))}")
    layer.add_argument("--backend", default="fused_moe", help=f"experts: {', '.join(plugins.names('experts'))}")
    layer.add_argument("--align", help=f"align plugin of the backend: {', '.join(plugins.names('align'))}")
    layer.add_argument("--routing", default="router", help="router, uniform, zipf:S, balanced, hot or replay:FILE")
    layer.add_argument("--graph", action="store_true", help="capture a CUDA graph and replay it")
    layer.add_argument("--iterations", type=types.count, default=5, help="measured iterations")
    layer.add_argument("--warmup", type=types.count, default=3, help="iterations before them")
    layer.add_argument("--ranks", type=types.whole(1, 64), default=1, help="GPUs that share the experts")
    layer.add_argument("--comm", default="nccl_all_to_all", help=f"between ranks: {', '.join(plugins.names('comm'))}")
    layer.add_argument("--overlap", action="store_true", help="ranks: shared experts while rows travel")
    layer.add_argument("--patience", type=types.count, default=120, help="seconds to wait for another rank")
    layer.add_argument("--seed", type=types.seed, default=0, help="of weights, inputs and routing")
    layer.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu runs Triton's interpreter: small batches only"
    )
    layer.add_argument(
        "--save-topk-ids", type=Path, metavar="FILE", help="write the routing as .pt or .npy for replay:FILE"
    )


def run_layer(options: argparse.Namespace) -> dict[str, Any] | None:
    """Run the layer on one GPU, or start the ranks and return None; rank 0 speaks for all."""
    _check(options)
    if options.ranks == 1:
        return measure(options)
    from moe_lab.gpu import launch

    if not launch.is_rank(options.ranks):
        launch.again(options)
        return None
    with launch.joined(options.device, options.patience) as (rank, _):
        return measure(options, rank)


def measure(options: argparse.Namespace, rank: int = 0) -> dict[str, Any] | None:
    """Build the layer, warm it up, run it inside the profiler window, and return what it did; of ranks only the first.

    Also writes the result to the path in MOE_LAB_WORKLOAD_JSON, if that is set.

    Raises:
        UserError: options that do not fit together, a missing GPU, or too little memory.
    """
    from moe_lab.gpu.workloads.record import describe, finish  # imports Triton, which must come after --device is known

    try:
        layer = _build(options, rank)
        hidden, residual = layer.inputs(options.seed + 2 + rank)
        mark = ranges.marker(range_api())
        silent = ranges.marker("none")
        device = torch.device(options.device)
        clock.warm_up(lambda: layer.forward(hidden, residual, silent), options.warmup, device)
        with profiler_window(options.device):
            step = _step(layer, hidden, residual, mark, options.graph)
            name = ranges.root_name(**_named(options, layer.shape.M), **({"rank": rank} if options.ranks > 1 else {}))

            def marked() -> None:  # the clock's events lie outside the range, so that it holds nothing else
                with mark(name):
                    step()

            times = []
            for _ in range(options.iterations):
                meet()  # else a rank's launches, and not its work, would make the others wait
                times.append(round(clock.one_us(marked, device) / 1e3, 6))
        if rank:
            return None
        result = describe(layer, vars(options), times) | _named(options, layer.shape.M)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{options.model} {options.phase} with batch {options.batch} does not fit in this GPU's memory; "
            "lower --batch, --input-len or --context, or choose a smaller --model."
        ) from error
    if options.save_topk_ids:
        from moe_lab.gpu.routing import save_topk_ids

        assert layer.routing is not None
        save_topk_ids(layer.routing.topk_ids, options.save_topk_ids)
    return finish(result, options.device)


def _named(options: argparse.Namespace, M: int) -> dict[str, Any]:
    """Return what a root range and the result name."""
    named = {"model": options.model, "phase": options.phase, "M": M, "backend": options.backend}
    return named | ({"comm": options.comm, "ranks": options.ranks} if options.ranks > 1 else {})


def _check(options: argparse.Namespace) -> None:
    if options.iterations < 1 or options.warmup < 1:
        raise UserError(
            "Use --iterations and --warmup of at least 1: the first call compiles kernels and must not be measured."
        )
    if options.ranks > 1 and options.align:
        raise UserError("On several ranks the backend chooses the align algorithm; leave --align out.")
    if options.overlap and (options.ranks == 1 or not model(options.model).shared_experts):
        raise UserError("--overlap is for several --ranks and a --model with shared experts; leave it out.")
    if options.device == "cpu" and options.graph:
        raise UserError("CUDA graphs need a GPU; leave --graph out on the CPU.")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; run on a GPU machine, or use --device cpu with a small batch.")
    if options.graph and not plugins.info("experts", options.backend).get("cuda_graph", False):
        raise UserError(
            f"The experts backend '{options.backend}' waits for the GPU and cannot be captured; leave --graph out."
        )


def _build(options: argparse.Namespace, rank: int) -> "DecoderLayer":
    from moe_lab.gpu.layer import DecoderLayer, Shape, gqa_model
    from moe_lab.gpu.ranks import routed

    shape = Shape(options.phase, options.batch, options.input_len, options.context)
    m = gqa_model(options.model)
    parallel, forced = Parallel.contiguous(m.E, options.ranks, rank), None
    device = torch.device("cuda", torch.cuda.current_device()) if options.device == "cuda" else torch.device("cpu")
    if options.routing != "router":
        # Weights that add up as the model's do, or the result would be of another size.
        more = {"seed": options.seed, "device": device, "scaling": m.router.scaling}
        forced = routed(options.routing, shape.M, MoEProblem.preset(options.model, shape.M), parallel, **more)
    return DecoderLayer(
        options.model,
        shape,
        format=options.format,
        backend=options.backend,
        align=options.align,
        forced=forced,
        parallel=parallel if options.ranks > 1 else None,
        comm=options.comm,
        overlap=options.overlap,
        device=device,
        seed=options.seed,
    )


def _step(layer: "DecoderLayer", hidden: Any, residual: Any, mark: ranges.Mark, graph: bool) -> Callable[[], object]:
    """Return the step of an iteration: the forward, or the replay of a graph captured here with the ranges open."""
    if not graph:
        return lambda: layer.forward(hidden, residual, mark)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        outputs = layer.forward(hidden, residual, mark)

    def replay() -> object:
        captured.replay()
        return outputs  # keeps their memory alive, to which the graph writes

    return replay
