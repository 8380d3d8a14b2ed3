# SPDX-License-Identifier: Apache-2.0
"""vLLM's Marlin for experts: weights of 4 or 8 bits, widened in registers; its grouped GEMM is a compiled library.

The wheel has it for SM80 as PTX, which the driver compiles for a newer GPU when a format is first used: about a minute
each, kept in CUDA's cache. Tiles of rows are chosen by vLLM's rule; align, activation and sum are ours, see ``_wheel``.
"""

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.experts._marlin_layout import Packed, packed, padded
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._tuned import align_of
from moe_lab.gpu.formats import Biased, Quantised, apart
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.gpu.kernels.combine import combine
from moe_lab.spec import formats, peers
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "vLLM's moe_wna16_marlin_gemm in its own layout of weights; align, activation and sum are ours",
    "needs": ["torch", "triton", "peer:marlin"],
    "install": "moe-lab peers add vllm==0.33.0",
    "peer": "marlin",
    "tried": ["vllm-0.33.0"],
    "hardware": "NVIDIA SM80+",
    "formats": ["int4_w4a16", "int8_w8a16", "mxfp4", "nvfp4"],
    "cpu_formats": [],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "biases": True,
    "cuda_graph": True,
    "source": "https://github.com/vllm-project/vllm",
}

# vLLM's numbers of its types: exponent bits, mantissa bits << 8, sign << 16, bias << 17, and what stands for NaN << 50.
UINT4, UINT4_BIAS_8 = 4 << 8, 4 << 8 | 8 << 17
UINT8_BIAS_128, E2M1 = 8 << 8 | 128 << 17, 2 | 1 << 8 | 1 << 16 | 1 << 49
IEEE_754 = 1 << 50
LOCKS = 4  # per multiprocessor


def tile_rows(rows: float) -> int:
    """Return the rows of a tile: the fewest that an expert's rows fill to less than nine tenths."""
    return next((size for size in (8, 16, 32, 48) if rows / size < 0.9), 64)


class Marlin:
    """The backend of one release.

    Attributes:
        peer: the release.
    """

    def __init__(self, version: str | None):
        """Find the release; nothing is loaded yet."""
        self.peer = peers.get("marlin", version)
        self._locks: dict[torch.device, Tensor] = {}

    @cached_property
    def _library(self) -> Any:
        torch.ops.load_library(str(self.peer.file("library")))
        return torch.ops._moe_C

    def prepare(self, w13: Quantised | Biased, w2: Quantised | Biased) -> tuple[Packed, Packed]:
        """Return the weights in Marlin's layout, with zeros up to sizes that its tiles divide."""
        _, K, N = w2.shape
        weights = apart(w2)[0]
        assert isinstance(weights, Quantised)
        block = formats.get(weights.format).weight_block
        group = block[1] if block else 0
        wide, high = _up(K, 128), _up(N, max(64, group))
        first, second = padded(w13, w13.shape[1] // N, high, wide, group), padded(w2, 1, wide, high, group)
        return packed(first, group), packed(second, group)

    def block_m(self, problem: MoEProblem) -> int:
        """Return the rows of a tile, for the mean rows of an expert."""
        return tile_rows(problem.rows_useful / problem.E)

    def experts(
        self,
        x: Tensor,
        w13: Packed,
        w2: Packed,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        problem: MoEProblem,
        mark: Mark,
    ) -> Tensor:
        """Return the layer's output [M, K] in bf16. No host synchronisation."""
        if problem.M == 0:
            return torch.empty_like(x)
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        block_m, format = self.block_m(problem), problem.format
        with mark("align"):
            tiles = align_of("auto")(topk_ids, block_m, problem.E)
        with mark("w13"):
            gate_up = self._product(x, w13, (tiles, block_m), format, topk_weights, topk=problem.topk)
        with mark("act"):
            hidden = gated_activation(gate_up, problem.activation)
        # With matrix scales it would multiply the bias by them too, if it multiplied by the router weights.
        weighted = w2.bias is None or w2.matrix_scales is None
        with mark("w2"):
            rows = self._product(hidden, w2, (tiles, block_m), format, topk_weights, weighted)
        with mark("combine"):
            y = combine(rows, problem.topk, None if weighted else topk_weights)
            return y[:, : problem.K].contiguous()

    def _product(
        self,
        x: Tensor,
        w: Packed,
        sorted_by: tuple[Alignment, int],
        format: str,
        weights: Tensor,
        weighted: bool = False,
        topk: int = 1,
    ) -> Tensor:
        """Return x @ w^T [rows * topk, columns] of x [rows, features]; ``weighted``: times the router weights.

        Args:
            x: with as many features as the layer has, or as the weights.
            w: the weights.
            sorted_by: the rows of each tile, and how many a tile has.
            format: of the weights.
            weights: [rows * topk] fp32.
            weighted: whether they multiply the result.
            topk: rows of the result for a row of x.
        """
        if x.device not in self._locks:
            count = torch.cuda.get_device_properties(x.device).multi_processor_count
            self._locks[x.device] = torch.zeros(LOCKS * count, dtype=torch.int32, device=x.device)
        x = pad(x, (0, w.depth - x.shape[1])) if w.depth > x.shape[1] else x
        y = x.new_empty((x.shape[0] * topk, w.columns))
        factors = x, y, w.values, w.bias, w.scales, None, w.matrix_scales, w.zeros, self._locks[x.device]
        (tiles, block_m), sizes = sorted_by, (x.shape[0], w.columns, w.depth)
        # Sums of parts in fp32 without atomics, zeros in integers, and tiles of columns of its own choice, as in vLLM.
        how = weighted, _type_id(format), *sizes, False, True, False, -1, -1, -1
        result: Tensor = self._library.moe_wna16_marlin_gemm(*factors, *tiles, weights, block_m, topk, *how)
        return result


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _type_id(format: str) -> int:
    if formats.get(format).engine != "int4_w4a16":
        return {"int8_w8a16": UINT8_BIAS_128 | IEEE_754, "mxfp4": E2M1, "nvfp4": E2M1}[format]
    return (UINT4 if format.endswith("zeros") else UINT4_BIAS_8) | IEEE_754


@cache  # keeps what the release has loaded
def at(version: str | None) -> Marlin:
    """Return the backend of one release; None = the one in the cache."""
    return Marlin(version)
