# SPDX-License-Identifier: Apache-2.0
"""SGLang's DeepGEMM: one launch that dispatches, computes the experts and combines, see ``experts/mega_moe.py``.

Its waits for a rank that does not come end after a minute, by a trap that ends the process.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, distributed

from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.comm import Sizes
from moe_lab.gpu.comm._wire import check_even, shared, wire
from moe_lab.gpu.experts import mega_moe
from moe_lab.gpu.formats import Quantised
from moe_lab.spec import plugins
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "SGLang's DeepGEMM fp8_mega_moe: dispatch, experts and combine in one launch; works in CUDA graphs",
    "needs": ["torch", "triton", "tvm_ffi", "peer:sgl_deep_gemm"],
    "install": "pip install apache-tvm-ffi==0.1.11 and moe-lab peers add sgl-deep-gemm==0.1.4; nvcc at CUDA_HOME",
    "source": "https://github.com/sgl-project/DeepGEMM",
    "layout": "standard",
    "ranks": "any",
    "stages": ["quant", "dispatch+w13+act+w2+combine"],
    "formats": ["fp8_block"],
    "devices": ["cuda"],
    "whole": True,
}


@dataclass(frozen=True)
class Room:
    """The memory of all calls on this rank, and the layer that it is for."""

    memory: SimpleNamespace
    problem: MoEProblem


def prepare(parallel: Parallel, sizes: Sizes) -> Room:
    """Make this rank's memory and find that of the others.

    Raises:
        UserError: an activation, size, GPU or placement that the kernel does not take, or what ``_wire.wire``
            refuses.
    """
    problem = cast(MoEProblem, sizes.problem)
    refuse("mega_moe", plugins.info("experts", "mega_moe"), problem, sizes.device)
    mega_moe.check(problem)
    check_even("mega_moe", parallel)
    wire(parallel, sizes)

    def make(size: int) -> tuple[Tensor, list[int], object]:
        memory, begins, mapping = shared(size, parallel.rank, sizes.device)
        memory.zero_()
        torch.cuda.synchronize(sizes.device)
        distributed.barrier()  # nobody writes before all memory is filled
        return memory, begins, mapping

    return Room(mega_moe.at(None).make_room(problem, parallel.rank, make, parallel.ranks), problem)


def weights(w13: Quantised, w2: Quantised) -> tuple[Quantised, Quantised]:
    """Return the weights of this rank's experts as the kernel takes them."""
    return mega_moe.at(None).prepare(w13, w2)


def layer(
    x: Tensor,
    weights: tuple[Quantised, Quantised],
    topk_weights: Tensor,
    topk_ids: Tensor,
    *,
    parallel: Parallel,
    mark: Mark,
    room: Room,
) -> Tensor:
    """Return the layer's output [M, K] in bf16 for the tokens of this rank; all ranks call it together.

    Args:
        x: [M, K] bf16; M may be 0.
        weights: of ``weights``.
        topk_weights: [M, topk] fp32.
        topk_ids: [M, topk] integer, numbers among all experts; -1 = dropped.
        parallel: the placement.
        mark: opens a range.
        room: of ``prepare``.
    """
    return mega_moe.at(None).layer(x, *weights, topk_weights, topk_ids, room.problem, mark, room.memory)
