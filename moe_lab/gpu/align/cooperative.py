# SPDX-License-Identifier: Apache-2.0
"""Align & sort on NVIDIA in one cooperative launch of CUDA C++, see ``cooperative.cu``.

What CUDA offers over Triton here: ranks by warp votes, tables in shared memory with free indexing, and 64-bit words
that blocks can wait for. So each block reads its ids once, and the blocks exchange data once, in one launch.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from moe_lab.gpu.align import Buffers, launcher
from moe_lab.gpu.align._pairs import bins_of
from moe_lab.gpu.kernels._device import multiprocessors, shared_memory_bytes
from moe_lab.gpu.kernels._nvrtc import id_type, launch
from moe_lab.spec.errors import UserError

INFO = {
    "about": "CUDA C++, one launch: blocks keep their pairs on chip and exchange counts once, as tagged words; stable",
    "needs": ["torch", "triton", "cuda.bindings", "cuda.core"],
    "deterministic": True,
    "zeroed": True,
    "steps": {"cooperative_align": "count+cumsum+place"},
    "source": "moe_lab; distributed counting as in SGLang's multi-block align, words with flags as in NCCL's LL",
}

SOURCE = Path(__file__).with_suffix(".cu")
MOST_BLOCKS = 128  # the exchange reads blocks ** 2 tables of counts
PHASES = ("count", "publish", "sort", "collect", "scan", "place")
# (threads, pairs per thread, most blocks of that shape), best first; measured on an H200, docs/kernels.md. More than 16
# pairs do not fit into a thread's registers.
SHAPES = (
    *((512, 1, 16), (512, 2, 64), (512, 4, 128), (512, 8, 128)),
    *((1024, 1, 16), (1024, 2, 64), (1024, 4, 128), (1024, 8, 128), (1024, 16, 128)),
)


class Plan(NamedTuple):
    """How pairs are spread over the GPU.

    Attributes:
        threads: threads per block.
        items: pairs per thread.
        blocks: blocks, which must all be resident at the same time.
    """

    threads: int
    items: int
    blocks: int


def plan(numel: int, E: int, most_blocks: int = MOST_BLOCKS, most_shared: int = 1 << 20) -> Plan | None:
    """Return how to spread the pairs, or None if there are too many.

    Args:
        numel: pairs.
        E: experts; a block has at least as many threads.
        most_blocks: blocks that can run at the same time.
        most_shared: bytes of shared memory per block.
    """
    for threads, items, blocks in SHAPES:
        chosen = Plan(threads, items, max(1, triton.cdiv(numel, threads * items)))
        fits = threads >= bins_of(E) and shared_bytes(chosen, E) <= most_shared
        if fits and chosen.blocks <= min(blocks, most_blocks):
            return chosen
    return None


def plan_on(device: torch.device, numel: int, E: int) -> Plan | None:
    """Return ``plan`` for a GPU."""
    return plan(numel, E, multiprocessors(device), shared_memory_bytes(device.index))


def scratch(numel: int, E: int) -> int:
    """Return the int32 entries of scratch memory that a call needs on any GPU; zero before the first call."""
    chosen = plan(numel, E)
    return 0 if chosen is None or chosen.blocks == 1 else MOST_BLOCKS + chosen.blocks * bins_of(E) // 2


def shared_bytes(chosen: Plan, E: int) -> int:
    """Return the bytes of ``Shared`` in the source, which refuses to compile for another size."""
    BINS = bins_of(E)
    counts = chosen.threads // 32 * (BINS // 2 + 1) * 4
    parts = chosen.threads // (BINS // 4) * 4 * (BINS // 4 + 8) * 8
    ids = chosen.threads * chosen.items * 4
    return ids + -(-max(counts, parts) // 8) * 8 + (4 * BINS + 34) * 4


def fill(
    topk_ids: Tensor,
    block_m: int,
    E: int,
    out: Buffers,
    expert_map: Tensor,
    drop: bool,
    relabel: bool,
    clocks: Tensor | None = None,
) -> None:
    """Fill ``out.alignment``, see ``moe_lab.gpu.align.launcher``; ids outside 0..E-1 are dropped.

    ``out.scratch`` must be zero before its first call, and then serve only calls of these sizes, one at a time.
    ``clocks`` [MOST_BLOCKS, 8] int64, out: the clock of each block's multiprocessor at its start and at the end of each
    of ``PHASES``.

    Raises:
        UserError: not an NVIDIA GPU of compute capability 8.0 or later, or more pairs than fit on chip.
        ValueError: ``out`` is for other sizes.
    """
    numel = topk_ids.numel()
    chosen = plan_on(topk_ids.device, numel, E)
    if chosen is None:
        raise UserError(f"'cooperative' cannot hold {numel} pairs on this GPU's multiprocessors; use 'auto'.")
    if out.scratch.numel() != scratch(numel, E):
        raise ValueError("out is for other sizes; make it with zeroed scratch memory, sized by cooperative.scratch.")
    launch(
        SOURCE,
        "cooperative_align",
        chosen.blocks,
        chosen.threads,
        *(topk_ids, expert_map, *out.alignment, out.scratch, numel, E),
        *([] if clocks is None else [clocks]),
        macros=(
            *(("THREADS", chosen.threads), ("ITEMS", chosen.items), ("BINS", bins_of(E)), ("BLOCK_M", block_m)),
            *(("MOST_BLOCKS", MOST_BLOCKS), ("SHARED", shared_bytes(chosen, E))),
            *(("ID", id_type(topk_ids)), ("DROP", int(drop)), ("RELABEL", int(relabel))),
            *([] if clocks is None else [("PHASES", 1)]),
        ),
        shared=shared_bytes(chosen, E),
        cooperative=chosen.blocks > 1,
    )


align = launcher(__name__, INFO, fill, scratch)
