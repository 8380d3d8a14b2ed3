# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu hf --config qwen3-30b-a3b --phase decode``: run a transformers model for a profiler.

The model has random weights and few layers. Each measured step lies in
``moe_lab|model=...|phase=...|M=...|backend=...``, which contains a range for each call of each module, as SGLang and
vLLM name them, and in the experts the stages of the backend that computes them.
"""

import argparse
from typing import Any

import torch

from moe_lab.gpu.bench import clock
from moe_lab.gpu.weights import DTYPES
from moe_lab.gpu.workloads import hf_model, layerwise
from moe_lab.gpu.workloads.hf_experts import OWN, Experts
from moe_lab.gpu.workloads.window import profiler_window, range_api
from moe_lab.spec import formats, models, plugins, ranges
from moe_lab.spec.bench_options import command
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import options as types


def add(commands: Any) -> None:
    """Add the subcommand to the parser of ``moe_lab.gpu``."""
    hf = command(commands, "hf", "run a model of transformers with random weights", run)
    presets = ", ".join(name for name, known in models.MODELS.items() if known.transformers)
    hf.add_argument("--config", default="qwen3-30b-a3b", help=f"{presets}; KxNxExTOPK; or a folder with a config.json")
    hf.add_argument("--layers", type=types.count, default=2, help="decoder layers")
    hf.add_argument("--phase", choices=("prefill", "decode"), default="decode", help="what a step does")
    hf.add_argument("--batch", type=types.tokens, default=16, help="sequences")
    hf.add_argument("--input-len", type=types.tokens, default=2048, help="prefill: tokens per sequence")
    hf.add_argument("--context", type=types.tokens, default=2048, help="decode: tokens in the KV cache at first")
    hf.add_argument("--format", default="bf16", help="of the experts; the rest of the model has its dtype")
    backends = ", ".join(plugins.names("experts"))
    hf.add_argument("--backend", default=OWN, help=f"experts: {OWN} (as they are), {backends}")
    hf.add_argument("--ranges", choices=layerwise.FORMS, default="sglang", help="whose names of modules")
    hf.add_argument("--iterations", type=types.count, default=5, help="measured steps")
    hf.add_argument("--warmup", type=types.count, default=3, help="steps before them")
    hf.add_argument("--seed", type=types.seed, default=0, help="of weights and tokens")
    hf.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: small models only")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build the model, warm it up, run it inside the profiler window, and return what it did.

    Also writes the result to the path in MOE_LAB_WORKLOAD_JSON, if that is set.

    Raises:
        UserError: no GPU, no transformers, an unknown config, too little memory, or a backend that cannot serve the
            model.
    """
    from moe_lab.gpu.workloads.record import finish  # imports Triton, which must come after --device is known

    asked = _asked(options)
    try:
        result = _profiled(asked, options)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{options.layers} layers of {options.config} do not fit in this GPU's memory with batch {options.batch}; "
            "lower --batch, --input-len or --context."
        ) from error
    return finish(result, options.device)


def _asked(options: argparse.Namespace) -> hf_model.Asked:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("No GPU is visible to torch; run on a GPU machine, or use --device cpu with a small model.")
    if min(options.iterations, options.warmup, options.layers, options.batch) < 1:
        raise UserError("Use at least one of layers, sequences, measured steps and steps before them.")
    tokens = options.input_len if options.phase == "prefill" else options.context
    if tokens < 1:
        raise UserError("Use at least one token per sequence.")
    dtype, device = DTYPES[formats.get(options.format).dtype], torch.device(options.device)
    return hf_model.Asked(
        options.config, options.layers, options.phase, options.batch, tokens, dtype, device, options.seed
    )


def _profiled(asked: hf_model.Asked, options: argparse.Namespace) -> dict[str, Any]:
    model = hf_model.build(asked)
    experts = Experts(model, asked.rows, options.format, asked.name)
    step = hf_model.step_of(model, asked)  # before the experts are replaced: what fails here is not the backend
    if options.backend != OWN:
        experts.replace(options.backend, asked.device)
    elif options.format != experts.problem.dtype:
        raise UserError(f"transformers computes its own experts in {experts.problem.dtype} here; choose a --backend.")
    clock.warm_up(step, options.warmup, asked.device)
    root = ranges.root_name(model=str(experts.problem.model), phase=asked.phase, M=asked.rows, backend=options.backend)
    experts.mark = mark = ranges.marker(range_api())

    def marked() -> None:  # the clock's events lie outside the range, so that it holds nothing else
        with mark(root):
            step()

    with profiler_window(options.device), layerwise.marked(model, options.ranges, mark):
        times = [round(clock.one_us(marked, asked.device) / 1e3, 6) for _ in range(options.iterations)]
    return _described(experts, asked, options, times)


def _described(
    experts: Experts, asked: hf_model.Asked, options: argparse.Namespace, times: list[float]
) -> dict[str, Any]:
    named = ("phase", "batch", "layers", "format", "backend", "ranges", "iterations", "warmup", "seed")
    hit = [int(ids.unique().numel()) for _, ids in sorted(experts.topk_ids.items())]
    result: dict[str, Any] = {name: getattr(options, name) for name in named}
    return result | {
        "workload": "hf",
        "model": experts.problem.model,
        "input_len": asked.tokens if asked.phase == "prefill" else None,
        "context": asked.tokens if asked.phase == "decode" else None,
        "M": asked.rows,
        "graph": False,
        # A layer's; not "problem", by which analysis takes a root for one call of the experts.
        "layer_problem": experts.problem.facts(),
        "experts_hit_by_layer": hit or None,
        "iteration_ms": times,
    }
