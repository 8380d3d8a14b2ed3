# SPDX-License-Identifier: Apache-2.0
"""Inputs for triton_kernels' matmul_ogs: the routing as one bit per expert, and SiLU for its epilogue."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit


@jit
def pack_kernel(
    topk_ids,  # [M, TOPK]
    bits,  # [words, rows] uint32, out
    zeros,  # [E rounded up to 32] int32, out
    M,
    E,
    rows,
    TOPK: tl.constexpr,
    WORDS: tl.constexpr,  # a power of two, at least words
    BLOCK_M: tl.constexpr,
):
    """Set bit (id % 32) of word (id // 32) of each token, and clear ``zeros``."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    word = tl.arange(0, WORDS)
    packed = tl.zeros((BLOCK_M, WORDS), dtype=tl.uint32)
    for slot in tl.static_range(TOPK):
        expert = tl.load(topk_ids + row * TOPK + slot, mask=row < M, other=-1)
        bit = (tl.full((BLOCK_M,), 1, tl.uint32) << (expert & 31).to(tl.uint32))[:, None]
        packed |= tl.where((expert >> 5)[:, None] == word[None, :], bit, 0)
    words = tl.cdiv(E, 32)
    tl.store(bits + word[None, :] * rows + row[:, None], packed, mask=(row < rows)[:, None] & (word < words)[None, :])
    if tl.program_id(0) == 0:
        expert_id = tl.arange(0, WORDS * 32)
        tl.store(zeros + expert_id, tl.zeros((WORDS * 32,), dtype=tl.int32), mask=expert_id < words * 32)


@triton.jit(repr=lambda _: "_gated_silu")
@no_type_check
def gated_silu(pairs, alpha):
    """Return silu(gate) * up in fp32, for columns gate, up, gate, up, ...; alpha is the factor in the sigmoid."""
    gate, up = tl.split(tl.reshape(pairs, (pairs.shape[0], pairs.shape[1] // 2, 2)))
    gate = gate.to(tl.float32)
    return gate / (1 + tl.exp(-alpha * gate)) * up.to(tl.float32)


def pack(topk_ids: Tensor, E: int) -> tuple[Tensor, Tensor]:
    """Return the routing as bits, and as many zeros as a token has bits.

    Args:
        topk_ids: [M, topk] int32, contiguous.
        E: experts.

    Returns:
        bits [M, ceil(E / 32)] uint32, stored column by column, and zeros [32 * ceil(E / 32)] int32.
    """
    check_device(topk_ids)
    M, topk = topk_ids.shape
    words, rows = triton.cdiv(E, 32), 32 * triton.cdiv(M, 32)
    bits = torch.empty((words, rows), dtype=torch.uint32, device=topk_ids.device)
    zeros = torch.empty(32 * words, dtype=torch.int32, device=topk_ids.device)
    block_m = 32
    pack_kernel[(triton.cdiv(rows, block_m),)](
        *(topk_ids, bits, zeros, M, E, rows),
        TOPK=topk,
        WORDS=triton.next_power_of_2(words),
        BLOCK_M=block_m,
        num_warps=1,
    )
    return bits.T[:M], zeros
