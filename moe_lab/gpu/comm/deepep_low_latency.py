# SPDX-License-Identifier: Apache-2.0
"""DeepEP V1's low-latency mode between the GPUs of a host: a row for each pair, by expert, with counts.

A token travels once for each of its experts, quantised on the way in ``fp8_block``; results are multiplied by the
router's weights and summed where they come back. Nothing waits for the host, so a CUDA graph holds it. Dispatch and
combine have one of two memories each, in turn: no dispatch may follow another one. NVSHMEM makes them; within a host
it needs no InfiniBand. Waits for a rank that does not come end after 100 s, with the process.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, distributed

from moe_lab.gpu.comm import Received, Sizes
from moe_lab.gpu.comm._deepep import kept, library
from moe_lab.gpu.comm._wire import Wire, check_even, wire
from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.kernels.padded_rows import listed
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "DeepEP V1, low-latency kernels within a host: rows by expert, one for each pair; works in CUDA graphs",
    "needs": ["torch", "triton", "deep_ep"],
    "install": "pip install tokenspeed-deepep==1.2.1.post20251110; libnvshmem_host.so.3 on LD_LIBRARY_PATH",
    "source": "https://github.com/deepseek-ai/DeepEP",
    "layout": "batched",
    "ranks": "any",
    "stages": ["dispatch", "combine"],
    "formats": ["bf16", "fp8_block"],
    "devices": ["cuda"],
    "sends": "pairs",
}

RANKS = 8  # of a host
HIDDEN = (2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192)  # that its kernels are compiled for
TOKENS = 508  # its queues have room for 1024 requests, two for each token and two more; in steps of ``STEP``
TOPK = 11
STEP = 4  # rows of an expert are a multiple of it


@dataclass(frozen=True)
class Room:
    """How tokens travel, and the library's buffer."""

    wire: Wire
    buffer: Any

    @property
    def most(self) -> int:
        """Tokens of a rank that there is room for."""
        return _most(self.wire.sizes)


def prepare(parallel: Parallel, sizes: Sizes) -> Room:
    """Make the buffer, one for all rooms of the same sizes.

    Raises:
        UserError: ranks, placement or sizes that it does not take, a library that does not load, or what
            ``_wire.wire`` refuses.
    """
    if parallel.ranks > RANKS:
        raise UserError(f"deepep_low_latency is for up to {RANKS} ranks of one host here, not {parallel.ranks}.")
    check_even("deepep_low_latency", parallel)
    if sizes.K not in HIDDEN:
        sentence = f"deepep_low_latency has kernels for K of {', '.join(map(str, HIDDEN))}, not {sizes.K}"
        raise UserError(f"{sentence}; use another way.")
    if sizes.tokens > TOKENS or sizes.topk > TOPK:
        sentence = f"deepep_low_latency has room for {TOKENS} tokens of a rank and {TOPK} experts of each"
        raise UserError(f"{sentence}, not {sizes.tokens} and {sizes.topk}; use another way.")
    if sizes.problem and sizes.problem.apply_router_weight_on_input:
        raise UserError("deepep_low_latency multiplies results by router weights, not the input; use another way.")
    between = wire(parallel, sizes)
    return Room(between, _buffer(_most(sizes), sizes.K, parallel.ranks, parallel.experts))


def _most(sizes: Sizes) -> int:
    return -(-max(1, sizes.tokens) // STEP) * STEP


@cache
def _buffer(tokens: int, K: int, ranks: int, E: int) -> Any:
    """Return the library's buffer: others of the process have memory of their own, as places depend on the sizes."""
    Buffer = library()
    size = Buffer.get_low_latency_rdma_size_hint(tokens, K, ranks, E)
    more = {"num_qps_per_rank": E // ranks, "explicitly_destroy": True}
    return kept(Buffer(distributed.group.WORLD, 0, size, low_latency_mode=True, **more))


def dispatch(
    x: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, parallel: Parallel, mark: Mark, room: Room
) -> Received:
    """Send every token to each of its experts; see ``moe_lab.gpu.comm``. The weights stay here, for ``combine``.

    What is received has [local experts * ranks * ``room.most``, K] rows, in bf16 or e4m3.

    Args:
        x: [M, K] bf16.
        topk_ids: [M, topk] integer, -1 = dropped; those of a token differ.
        topk_weights: [M, topk] fp32.
        parallel: the placement.
        mark: opens a range.
        room: of ``prepare``.
    """
    most, topk = parallel.ranks * room.most, topk_ids.shape[1]
    with mark("dispatch"):
        ids, fp8 = topk_ids.long().contiguous(), room.wire.fp8
        call = room.buffer.low_latency_dispatch
        rows, counts, handle, *_ = call(x.contiguous(), ids, room.most, parallel.experts, use_fp8=fp8)
        arrived = Quantised("fp8_block", rows[0].flatten(0, 1), rows[1]) if fp8 else rows.flatten(0, 1)
        place = listed(counts, most, most * topk)
        state = room.buffer, handle, ids, topk_weights.float().contiguous()
        return Received(arrived, place.view(most, topk), None, state=state, counts=counts, place=place)


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return y [M, K]: rows [local experts * room, K] bf16 sent back, weighed and added up in fp32."""
    buffer, handle, ids, weights = received.state
    assert received.counts is not None
    with mark("combine"):
        by_expert = rows.view(received.counts.numel(), -1, rows.shape[1])
        y: Tensor = buffer.low_latency_combine(by_expert, ids, weights, handle)[0]
        return y
