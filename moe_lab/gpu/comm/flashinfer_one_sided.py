# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's one-sided all-to-all, TensorRT-LLM's: kernels that write into the other ranks' memory.

vLLM calls it flashinfer_nvlink_one_sided. Within a host its memory is shared by file descriptors; fabric handles and
MPI are for several hosts. Rows have a place for the most tokens of each rank, so nothing waits for counts. Its waits
for a rank that does not come end after minutes.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from flashinfer.comm import Mapping, trtllm_moe_alltoall
from flashinfer.comm.comm_backend import TorchDistBackend
from flashinfer.comm.mnnvl import MnnvlConfig, MnnvlMemory
from torch import Tensor, distributed

from moe_lab.gpu.comm import Received, Sizes
from moe_lab.gpu.comm._wire import Wire, check_even, wire
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "FlashInfer's one-sided all-to-all: writes into the peers' memory; no counts, works in CUDA graphs",
    "needs": ["torch", "triton", "flashinfer"],
    "install": "pip install flashinfer-python==0.6.18.post1; nvcc compiles it when it first runs",
    "source": "https://github.com/flashinfer-ai/flashinfer",
    "layout": "standard",
    "ranks": "any",
    "stages": ["dispatch", "combine"],
    "formats": ["fp16", "bf16", "fp8_block"],
    "devices": ["cuda"],
}

PADDING = 1024  # bytes: each part of its memory begins at a multiple of 128


@dataclass(frozen=True)
class Room:
    """The memory of all calls on this rank.

    Attributes:
        wire: how tokens travel.
        memory: what keeps the workspace there.
        shared: the workspace, and the library's description of it: the second and third argument of its calls.
    """

    wire: Wire
    memory: Any
    shared: tuple[Tensor, Tensor]

    @property
    def places(self) -> tuple[int, int, int, int]:
        """Return tokens that there is room for from each rank, this rank, ranks, and experts of a token."""
        sizes, parallel = self.wire.sizes, self.wire.parallel
        return max(1, sizes.tokens), parallel.rank, parallel.ranks, sizes.topk


def prepare(parallel: Parallel, sizes: Sizes) -> Room:
    """Make this rank's memory and find that of the others.

    Raises:
        UserError: a placement that it does not take, or what ``_wire.wire`` refuses.
    """
    check_even("flashinfer_one_sided", parallel)
    between, ranks, most = wire(parallel, sizes), parallel.ranks, max(1, sizes.tokens)
    mapping = _mapping(ranks, parallel.rank)
    rows = between.row + 8 * sizes.topk, sizes.K * between.dtype.itemsize
    size = trtllm_moe_alltoall.moe_a2a_get_workspace_size_per_rank(ranks, most, *rows) + PADDING
    memory = MnnvlMemory(mapping, size)
    workspace = memory.as_torch_strided_tensor(torch.uint8)
    described = trtllm_moe_alltoall.moe_a2a_initialize(workspace, parallel.rank, ranks, most)
    torch.cuda.synchronize(sizes.device)
    distributed.barrier()  # nobody writes before all memory is ready
    return Room(between, memory, (workspace, described))


@cache
def _mapping(ranks: int, rank: int) -> Any:
    """Return the library's description of the ranks, which then share memory by the process group."""
    mapping = Mapping(ranks, rank, gpus_per_node=ranks, tp_size=ranks, moe_ep_size=ranks)
    MnnvlMemory.initialize()
    MnnvlMemory.set_comm_from_config(mapping, MnnvlConfig(comm_backend=TorchDistBackend()))
    return mapping


def dispatch(
    x: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, parallel: Parallel, mark: Mark, room: Room
) -> Received:
    """Send every token once to each rank that holds experts of it; see ``moe_lab.gpu.comm``.

    Args:
        x: [M, K].
        topk_ids: [M, topk] integer, -1 = dropped.
        topk_weights: [M, topk] fp32.
        parallel: the placement.
        mark: opens a range.
        room: of ``prepare``.
    """
    with mark("dispatch"):
        ids = topk_ids.int().contiguous()
        given = [room.wire.rows(x), room.wire.coded(ids), topk_weights.float().contiguous()]
        most, rank, *more = room.places
        call = trtllm_moe_alltoall.moe_a2a_dispatch
        arrived, begin, _ = call(ids, given, *room.shared, most, rank, *more, parallel.experts)
        # What did not come keeps the ids of an earlier call otherwise.
        trtllm_moe_alltoall.moe_a2a_sanitize_expert_ids(arrived[1], *room.shared, rank, -1)
        rows, coded, weights = (part.flatten(0, 1) for part in arrived)
        return Received(room.wire.x(rows), room.wire.local(coded), weights, state=(room, begin, len(x)))


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return y [M, K]: the sums of each rank's experts [ranks * tokens, K], read back and added up."""
    room, begin, M = received.state
    most, rank, ranks, topk = room.places
    with mark("combine"):
        payload = rows.view(ranks, most, -1).contiguous()
        y: Tensor = trtllm_moe_alltoall.moe_a2a_combine(payload, M, *room.shared, most, rank, ranks, topk, begin)
        return y
