# SPDX-License-Identifier: Apache-2.0
"""DeepEP V1 between the GPUs of a host: its high-throughput kernels, with room for the most rows.

The usual call makes the host wait for the number of rows; with room for the most of them it does not, and a CUDA graph
can capture it. Rows that did not come have ids of -1. In ``fp8_block`` a row travels with its scales behind it, where
experts read them, instead of in a tensor of their own: it has as many bytes. Its waits for a rank that does not come
end after 100 s.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, distributed

from moe_lab.gpu.comm import Received, Sizes
from moe_lab.gpu.comm._deepep import kept, library
from moe_lab.gpu.comm._wire import Wire, check_even, wire
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.ranges import Mark

INFO = {
    "about": "DeepEP V1, high-throughput kernels within a host: room for the most rows, so works in CUDA graphs",
    "needs": ["torch", "triton", "deep_ep"],
    "install": "pip install tokenspeed-deepep==1.2.1.post20251110; libnvshmem_host.so.3 on LD_LIBRARY_PATH",
    "source": "https://github.com/deepseek-ai/DeepEP",
    "layout": "standard",
    "ranks": "any",
    "stages": ["dispatch", "combine"],
    "formats": ["bf16", "fp8_block"],
    "devices": ["cuda"],
}

RANKS = (2, 4, 8)  # within a host, that it has settings for
MOST_ROW = 16_368  # bytes of a row, half of which a warp holds at once


@dataclass(frozen=True)
class Room:
    """How tokens travel, and the library's buffer."""

    wire: Wire
    buffer: Any


def prepare(parallel: Parallel, sizes: Sizes) -> Room:
    """Make the buffer, one of a size for all rooms of the process.

    Raises:
        UserError: ranks, placement or sizes that it does not take, a library that does not load, or what
            ``_wire.wire`` refuses.
    """
    if parallel.ranks not in RANKS:
        raise UserError(f"deepep is for {', '.join(map(str, RANKS))} ranks of one host, not {parallel.ranks}.")
    check_even("deepep", parallel)
    between = wire(parallel, sizes)
    if between.row % 32 or between.row > MOST_ROW:
        raise UserError(
            f"deepep sends rows of a multiple of 32 bytes, at most {MOST_ROW:,}, not {between.row:,}; use another way."
        )
    return Room(between, _buffer(parallel.ranks, 2 * sizes.K))


@cache
def _buffer(ranks: int, row: int) -> Any:
    """Return the library's buffer for rows of that many bytes."""
    Buffer = library()
    settings = Buffer.get_dispatch_config(ranks), Buffer.get_combine_config(ranks)
    size = max(each.get_nvl_buffer_size_hint(row, ranks) for each in settings)
    return kept(Buffer(distributed.group.WORLD, size, 0, explicitly_destroy=True))


def dispatch(
    x: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, parallel: Parallel, mark: Mark, room: Room
) -> Received:
    """Send every token once to each rank that holds experts of it; see ``moe_lab.gpu.comm``.

    Args:
        x: [M, K] bf16.
        topk_ids: [M, topk] integer, -1 = dropped.
        topk_weights: [M, topk] fp32.
        parallel: the placement.
        mark: opens a range.
        room: of ``prepare``.
    """
    buffer, most = room.buffer, room.wire.sizes.tokens
    with mark("dispatch"):
        ids = topk_ids.long()
        to_rank, _, to_expert, needed, _ = buffer.get_dispatch_layout(ids, parallel.experts)
        rows, ids, weights, _, handle, _ = buffer.dispatch(
            room.wire.rows(x),
            num_tokens_per_rank=to_rank,
            num_tokens_per_expert=to_expert,
            is_token_in_rank=needed,
            topk_idx=ids,
            topk_weights=topk_weights.float(),
            num_worst_tokens=parallel.ranks * max(1, most),
        )
        return Received(room.wire.x(rows), ids, weights, state=(buffer, handle))


def combine(rows: Tensor, received: Received, *, mark: Mark) -> Tensor:
    """Return y [M, K]: the sums of each rank's experts [ranks * tokens, K] bf16, sent back and added up."""
    buffer, handle = received.state
    with mark("combine"):
        y: Tensor = buffer.combine(rows.contiguous(), handle)[0]
        return y
