# SPDX-License-Identifier: Apache-2.0
"""Humming's grouped GEMM with weights of 4 or 8 bits, which it compiles when a range of rows is first asked for.

It gets sorted pairs, as Marlin does; the tile of so many pairs is that of its own rule. Align, activation and sum are
ours.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from humming.layer import HummingLayer
from humming.tune import get_heuristics_config
from torch import Tensor
from torch.nn.functional import pad

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.experts._marlin_layout import padded, words
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._tuned import align_of
from moe_lab.gpu.formats import Biased, Quantised, apart
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.gpu.kernels.combine import combine
from moe_lab.spec import formats
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "Humming's indexed GEMM, compiled when it is first called; align, activation and sum are ours",
    "needs": ["torch", "triton", "humming"],
    "install": "pip install humming-kernels[cu13]",
    "tried": ["0.1.19"],
    "hardware": "NVIDIA SM80+",
    "formats": ["int4_w4a16", "int8_w8a16", "mxfp4"],
    "cpu_formats": [],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "biases": True,
    "cuda_graph": True,
    "source": "https://github.com/vllm-project/humming",
}

KIND = {"gemm_type": "indexed"}
MULTIPLE = 128  # of both sizes of a matrix, for its tiles of four warps


@dataclass(frozen=True)
class Laid:
    """One product of all experts.

    Attributes:
        layer: Humming's, with the weights [E, columns, depth] in its layout.
        tiles: (more than so many pairs, up to so many, tile), as its rule has them for these sizes.
        columns: of the result.
        depth: along which it sums.
        said: a tile in JSON, as the layer takes it, by its rows.
    """

    layer: Any
    tiles: list[tuple[int, int, dict[str, Any]]]
    columns: int
    depth: int
    said: dict[int, str] = field(default_factory=dict)

    def tile(self, pairs: int) -> dict[str, Any]:
        """Return the tile for so many pairs; for more than its rule knows, the last."""
        return next((tile for low, high, tile in self.tiles if low < pairs <= high), self.tiles[-1][2])


def prepare(w13: Quantised | Biased, w2: Quantised | Biased) -> tuple[Laid, Laid]:
    """Return the weights in Humming's layout, with zeros up to sizes that its tiles divide."""
    _, K, N = w2.shape
    weights = apart(w2)[0]
    assert isinstance(weights, Quantised)
    block = formats.get(weights.format).weight_block
    group = block[1] if block else 0
    wide, high = (-(-size // MULTIPLE) * MULTIPLE for size in (K, N))
    first = padded(w13, w13.shape[1] // N, high, wide, group)
    return _laid(first, group), _laid(padded(w2, 1, wide, high, group), group)


def _laid(w: Quantised | Biased, group: int) -> Laid:
    weights, bias = apart(w)
    assert isinstance(weights, Quantised)
    E, columns, depth = weights.shape
    kind, tensors = _stored(weights, group)
    sizes = {"shape_n": columns, "shape_k": depth, "num_experts": E}
    how = {"weight_config": kind, "torch_dtype": torch.bfloat16, "has_bias": bias is not None}
    layer = HummingLayer(**sizes, **how).to(weights.values.device)
    layer.load_from_tensors(tensors if bias is None else tensors | {"bias": bias})
    layer.transform()
    tiles = get_heuristics_config(layer_config=layer.humming_config, **KIND)
    return Laid(layer, tiles, columns, depth)


def _stored(w: Quantised, group: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what Humming calls the format, and its tensors: values unsigned, zero points of eight rows in 32 bits."""
    if w.format == "mxfp4":
        return {"quant_method": "mxfp4"}, {"weight": w.values, "weight_scale": w.scales}
    bits = 4 if w.values.dtype == torch.uint8 else 8
    # int8 is stored with 128 added, in which the highest bit differs.
    codes = w.values if bits == 4 else w.values.view(torch.uint8) ^ 128
    tensors = {"weight": codes.view(torch.int32), "weight_scale": w.scales.bfloat16()}
    if w.zeros is not None:
        tensors["zero_point"] = words(w.zeros.mT, 4).mT.contiguous()
    return {"dtype": f"int{bits}", "group_size": group, "has_zero_point": w.zeros is not None}, tensors


def experts(
    x: Tensor, w13: Laid, w2: Laid, topk_weights: Tensor, topk_ids: Tensor, *, problem: MoEProblem, mark: Mark
) -> Tensor:
    """Return the layer's output [M, K] in bf16. No host synchronisation, but for the compiler in a first call."""
    if problem.M == 0:
        return torch.empty_like(x)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    rows13, rows2 = (w.tile(problem.rows_useful)["block_shape"][0] for w in (w13, w2))
    with mark("align"):
        sorted_by = {rows: align_of("auto")(topk_ids, rows, problem.E) for rows in {rows13, rows2}}
    with mark("w13"):
        wide = pad(x, (0, w13.depth - problem.K)) if w13.depth > problem.K else x
        gate_up = _product(wide, w13, sorted_by[rows13], problem)
    with mark("act"):
        hidden = gated_activation(gate_up, problem.activation)
    with mark("w2"):
        rows = _product(hidden, w2, sorted_by[rows2], problem)
    with mark("combine"):
        return combine(rows, problem.topk, topk_weights)[:, : problem.K].contiguous()


def _product(x: Tensor, w: Laid, pairs: Alignment, problem: MoEProblem) -> Tensor:
    """Return x @ w^T [pairs, columns] of x [M, depth] or [pairs, depth]."""
    count = problem.rows_useful
    y = x.new_empty((count, w.columns))
    # One tile alone, or it would compile those of all ranges.
    tile = w.said.get(count) or w.said.setdefault(count, json.dumps(w.tile(count)))
    ids = dict(zip(("sorted_ids", "expert_ids", "num_tokens_padded"), pairs, strict=True))
    how = {"top_k": count // len(x), "valid_shape_m": count, "compute_config": json.dumps(KIND), "tuning_config": tile}
    w.layer(x, outputs=y, **ids, **how)
    return y
