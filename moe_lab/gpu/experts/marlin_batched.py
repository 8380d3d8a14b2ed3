# SPDX-License-Identifier: Apache-2.0
"""vLLM's Marlin on rows by expert, as it runs behind a dispatch that leaves them so: another sort, the same product.

Every expert has room for all tokens, and a count says how many rows it has; the sort of the library lists those alone.
"""

from functools import cache

import torch
from torch import Tensor

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.experts._marlin_layout import Packed
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._room import check_room
from moe_lab.gpu.experts.marlin import Marlin, tile_rows
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.padded_rows import masked, place_rows
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "vLLM's Marlin behind its batched_moe_align_block_size; layout of rows, activation and sum are ours",
    "needs": ["torch", "triton", "peer:marlin"],
    "install": "moe-lab peers add vllm==0.33.0",
    "peer": "marlin",
    "hardware": "NVIDIA SM80+",
    "formats": ["int4_w4a16", "int8_w8a16", "mxfp4", "nvfp4"],
    "cpu_formats": [],
    "activations": ["silu", "gelu", "gelu_tanh", "relu2", "swigluoai", "silu_no_mul", "gelu_no_mul", "relu2_no_mul"],
    "inputs": ["batched"],
    "biases": True,
    "cuda_graph": True,
    "source": "https://github.com/vllm-project/vllm",
}


class MarlinBatched(Marlin):
    """The backend of one release."""

    def block_m(self, problem: MoEProblem) -> int:
        """Return the rows of a tile, for experts that have all tokens."""
        return tile_rows(problem.M)

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
        """Return the layer's output [M, K] in bf16. No host synchronisation.

        Raises:
            UserError: more tokens than experts get room for.
        """
        check_room("marlin_batched", problem.M)
        if problem.M == 0:
            return torch.empty_like(x)
        x, topk_weights = place_weight(x, topk_weights, problem, mark)
        rows, topk, format = problem.E * problem.M, problem.topk, problem.format
        with mark("dispatch"):
            place, counts = masked(topk_ids, problem.E, problem.M)
            placed = place_rows(x, place, rows, topk)
            assert isinstance(placed, Tensor)
        with mark("align"):
            sorted_by = self._sort(counts, problem)
            ones = topk_weights.new_ones(rows)  # unread, but it wants them
        with mark("w13"):
            gate_up = self._product(placed, w13, sorted_by, format, ones)
        with mark("act"):
            hidden = place_rows(gate_up, place, rows, topk, activation=problem.activation)
            assert isinstance(hidden, Tensor)
        with mark("w2"):
            out = self._product(hidden, w2, sorted_by, format, ones)
        with mark("combine"):
            return combine(out, topk, topk_weights, place)[:, : problem.K].contiguous()

    def _sort(self, counts: Tensor, problem: MoEProblem) -> tuple[Alignment, int]:
        """Return the rows of each tile, of E * M rows of which each expert has so many, and how many a tile has."""
        block_m = self.block_m(problem)
        tiles = problem.E * -(-problem.M // block_m)
        made = Alignment(*(counts.new_empty(size) for size in (tiles * block_m, tiles, 1)))
        self._library.batched_moe_align_block_size(problem.M, block_m, counts, *made)
        return made, block_m


@cache  # keeps what the release has loaded
def at(version: str | None) -> MarlinBatched:
    """Return the backend of one release; None = the one in the cache."""
    return MarlinBatched(version)
