# SPDX-License-Identifier: Apache-2.0
"""Our Triton GEMMs in the batched layout [experts, most tokens, K] with counts: no sort, a room for each expert.

Engines compute so after a low-latency all-to-all, which delivers rows in that layout. Here every expert has room for
all tokens, since nothing else is certain without waiting for the device; ``dispatch`` puts the rows there, or between
ranks ``comm._batched``.
"""

import torch
from torch import Tensor

from moe_lab.gpu.comm import Received
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._tuned import Tiles, choose, quantised_tile
from moe_lab.gpu.formats import AnyWeights
from moe_lab.gpu.kernels._device import check_contiguous
from moe_lab.gpu.kernels.batched import batched_gemm
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.padded_rows import masked, place_rows
from moe_lab.gpu.kernels.quantise import parts
from moe_lab.gpu.kernels.scales import check_product
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import formats
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "Triton: rows placed in [experts, tokens, K] with counts, w13, activation, w2, combine",
    "needs": ["torch", "triton"],
    "hardware": "NVIDIA SM80+, AMD CDNA3+; the CPU under TRITON_INTERPRET=1 (fp32, fp16)",
    "formats": ["fp32", "fp16", "bf16", "fp8_block"],
    "cpu_formats": ["fp32", "fp16", "bf16"],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "inputs": ["batched"],
    "biases": True,
    "tile": True,
    "cuda_graph": True,
    "source": "moe_lab",
}


def experts(
    x: Tensor,
    w13: AnyWeights,
    w2: AnyWeights,
    topk_weights: Tensor,
    topk_ids: Tensor,
    *,
    problem: MoEProblem,
    mark: Mark,
    tile: Tiles | None = None,
) -> Tensor:
    """Return the layer's output [M, K] in the dtype of x, see ``moe_lab.gpu.experts``; topk_ids may be int64.

    ``tile`` is one configuration for both GEMMs, or one each for w13 and w2; None = ``tiles``.

    Raises:
        UserError: a format that the kernel or the GPU does not support, or an input that is not contiguous.
    """
    check_contiguous(x=x, w13=parts(w13)[0], w2=parts(w2)[0], topk_weights=topk_weights, topk_ids=topk_ids)
    if problem.M == 0:
        return torch.empty_like(x)
    x, topk_weights = place_weight(x, topk_weights, problem, mark)
    room = problem.M
    quant, scaled = ("quant+", room) if formats.get(problem.format).quantised else ("", None)
    with mark("align"):
        place, counts = masked(topk_ids, problem.E, room)
    with mark(f"{quant}dispatch"):
        rows = place_rows(x, place, problem.E * room, problem.topk, room=scaled)
    received = Received(rows, topk_ids, topk_weights, counts=counts, place=place)
    return batched(received, w13, w2, problem=problem, mark=mark, dtype=x.dtype, tile=tile)


def batched(
    received: Received,
    w13: AnyWeights,
    w2: AnyWeights,
    *,
    problem: MoEProblem,
    mark: Mark,
    dtype: torch.dtype,
    tile: Tiles | None = None,
) -> Tensor:
    """Return what the experts here make of each token, [tokens, K] in ``dtype``, from rows in the batched layout.

    Without ``topk_weights``, which a way between ranks may apply itself: of each row, in its place [E * room, K].

    Args:
        received: at least one token; in fp8_block its rows are as ``place_rows`` gives them.
        w13: [E, rows13, K].
        w2: [E, K, N].
        problem: its tile is taken; between ranks M and E are those of all ranks.
        mark: opens the ranges.
        dtype: of products.
        tile: see ``experts``.
    """
    x, counts, place = received.x, received.counts, received.place
    assert counts is not None
    assert place is not None
    check_product(problem.format, counts.device)
    rows, E = x.shape[0], counts.numel()
    gemm13, gemm2 = tiles(problem, counts.device, tile)
    quant, scaled = ("+quant", rows // E) if formats.get(problem.format).quantised else ("", None)
    with mark("w13"):
        gate_up = batched_gemm(x, w13, counts, tile=gemm13, dtype=dtype)
    with mark(f"act{quant}"):
        hidden = place_rows(gate_up, place, rows, problem.topk, room=scaled, activation=problem.activation)
    with mark("w2"):
        out = batched_gemm(hidden, w2, counts, tile=gemm2, dtype=dtype)
    if received.topk_weights is None:
        return out
    with mark("combine"):
        return combine(out, problem.topk, received.topk_weights, place, received.topk_ids)


def block_m(problem: MoEProblem) -> int:
    """Return the rows of a tile, to a multiple of which an expert's rows are computed."""
    return _default_tile(problem).block_m


def tiles(problem: MoEProblem, device: torch.device, tile: Tiles | None = None) -> tuple[Tile, Tile]:
    """Return the tiles of the w13 and the w2 GEMM, given or our own."""
    return choose("batched", problem, device, tile, _default_tile(problem))


def _default_tile(problem: MoEProblem) -> Tile:
    """Return a tile by the mean rows of an expert; not measured yet."""
    if formats.get(problem.format).quantised:
        return quantised_tile(problem)
    mean_rows = problem.rows_useful / problem.E
    rows = 16 if mean_rows <= 16 else 32 if mean_rows <= 32 else 64 if mean_rows <= 96 else 128
    if problem.dtype == "fp32":
        return Tile(rows, 64, 32, 1, 4, 3)
    return Tile(rows, 64 if rows <= 32 else 128, 128 if rows <= 32 else 64, 1, 4 if rows < 128 else 8, 4)
