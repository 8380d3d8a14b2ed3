# SPDX-License-Identifier: Apache-2.0
"""vLLM's own align & sort: moe_align_block_size of the compiled library in its wheel, for which two_kernel stands in.

It has no place for ids of -1: such a pair would be counted before the first expert.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.spec import peers

INFO = {
    "about": "vLLM's moe_align_block_size (CUDA), from the compiled library of its wheel",
    "needs": ["torch", "peer:marlin"],
    "install": "moe-lab peers add vllm==0.33.0",
    "deterministic": False,
    "drops": False,
    "steps": {
        "moe_align_block_size_kernel": "count+cumsum",
        "count_and_sort_expert_tokens": "place",
        "moe_align_block_size_small_batch": "count+cumsum+place",
    },
    "source": "https://github.com/vllm-project/vllm",
}


@cache
def _library() -> Any:
    torch.ops.load_library(str(peers.get("marlin").file("library")))
    return torch.ops._moe_C


def _fill(topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor, drop: bool, relabel: bool) -> None:
    rows, experts, total = out.alignment
    given = topk_ids, E, block_m, rows, experts, total, expert_map if drop else None
    _library().moe_align_block_size(*given)
    if relabel:  # as vLLM does it, behind its kernels; what follows the last tile may be any number
        experts.copy_(expert_map[experts.clamp(0, E - 1)])


align = launcher(__name__, INFO, _fill)
