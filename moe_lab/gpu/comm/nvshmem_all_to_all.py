# SPDX-License-Identifier: Apache-2.0
"""Torch's NVSHMEM all_to_all_vdev both ways: lengths stay on the device, so nothing waits and CUDA graphs hold it.

Not all_to_all_vdev_2d, which sorts by expert too: it takes at most 16 experts a rank, and a block for each. Rows are
put in order and taken out of it by operations of torch and kernels of ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from moe_lab.gpu.comm import Received, Sizes
from moe_lab.gpu.comm._wire import Wire, wire
from moe_lab.gpu.kernels.combine import combine as summed
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "torch's NVSHMEM all_to_all_vdev, lengths on the device: no counts on the host, works in CUDA graphs",
    "needs": ["torch", "triton", "nvidia.nvshmem", "TORCH_SYMMMEM=NVSHMEM", "TORCH_SYMMMEM_NBLOCKS=64"],
    "install": "pip install nvidia-nvshmem-cu13, and set TORCH_SYMMMEM=NVSHMEM and TORCH_SYMMMEM_NBLOCKS=64",
    "source": "https://github.com/pytorch/pytorch",
    "layout": "standard",
    "ranks": "any",
    "stages": ["dispatch", "combine"],
    "formats": ["fp16", "bf16", "fp8_block"],
    "devices": ["cuda"],
}

LINE = 128  # bytes: its blocks, so many for each rank, share out the bytes of a rank's rows, which they must divide


@dataclass(frozen=True)
class Room:
    """The memory of all calls on this rank, which NVSHMEM shares.

    Attributes:
        wire: how tokens travel.
        group: name of the process group.
        sent: [rows, message / 8] int64, messages in order of their rank; rows = ranks * tokens.
        arrived: the same.
        done: [rows, K], results of what arrived.
        returned: the same, of what was sent.
        splits: [ranks] int64, messages to each rank.
        there: [2, ranks] int64: messages from each rank, and where they begin.
        back: the same for results.
    """

    wire: Wire
    group: str
    sent: Tensor
    arrived: Tensor
    done: Tensor
    returned: Tensor
    splits: Tensor
    there: Tensor
    back: Tensor


def prepare(parallel: Parallel, sizes: Sizes) -> Room:
    """Make this rank's memory; all ranks do so together.

    Raises:
        UserError: NVSHMEM or a size that it does not take, or what ``_wire.wire`` refuses.
    """
    from torch.distributed import _symmetric_memory as symmetric

    between = wire(parallel, sizes, LINE)
    if sizes.K * between.dtype.itemsize % LINE:
        raise UserError(f"nvshmem_all_to_all takes K that is a multiple of {LINE // 2}, not {sizes.K}.")
    if not symmetric.is_nvshmem_available():
        raise UserError("torch finds no NVSHMEM here; put the folder of libnvshmem_host.so.3 on LD_LIBRARY_PATH.")
    group = distributed.group.WORLD
    assert group is not None  # ``wire`` saw to that
    rows, ranks = parallel.ranks * max(1, sizes.tokens), parallel.ranks
    messages, results = (rows, between.message // 8), (rows, sizes.K)
    places = messages, messages, results, results, (ranks,), (2, ranks), (2, ranks)
    types = *(2 * [torch.int64]), *(2 * [between.dtype]), *(3 * [torch.int64])
    parts = [symmetric.empty(size, dtype=dtype, device=sizes.device) for size, dtype in zip(places, types, strict=True)]
    for part in parts:
        symmetric.rendezvous(part, group)
    return Room(between, group.group_name, *parts)


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
        needed = room.wire.needed(topk_ids)  # [ranks, M]
        pairs = needed.numel()
        # What is not needed goes to a place behind all others.
        place = torch.where(needed.flatten(), needed.flatten().cumsum(0) - 1, pairs)
        tokens = torch.arange(len(x), device=x.device).repeat(parallel.ranks)
        source = tokens.new_zeros(pairs + 1).scatter_(0, place, tokens)[:pairs]
        messages = room.wire.packed(room.wire.rows(x), room.wire.coded(topk_ids), topk_weights)
        torch.index_select(messages.view(torch.int64), 0, source, out=room.sent[:pairs])
        room.splits.copy_(needed.sum(dim=1))
        torch.ops.symm_mem.all_to_all_vdev(room.sent, room.arrived, room.splits, room.there, room.group)
        rows, ids, weights = room.wire.unpacked(room.arrived.view(torch.uint8))
        came = torch.arange(len(ids), device=x.device) < room.there[0].sum()
        ids = torch.where(came[:, None], room.wire.local(ids), -1)
        return Received(rows, ids, weights, state=(room, torch.where(place < pairs, place, -1)))


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return y [M, K]: the sums of each rank's experts [ranks * tokens, K], sent back and added up in fp32."""
    room, place = received.state
    ranks = room.wire.parallel.ranks
    with mark("combine"):
        room.done.copy_(rows)
        torch.ops.symm_mem.all_to_all_vdev(room.done, room.returned, room.there[0], room.back, room.group)
        of_token = place.view(ranks, -1).T.contiguous().int()
        return summed(room.returned, ranks, place=of_token.flatten(), topk_ids=of_token)
