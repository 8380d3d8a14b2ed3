# SPDX-License-Identifier: Apache-2.0
"""Tiles of weights: as they are stored, or widened in registers from fewer bits to the dtype of the tokens."""

from typing import Any

import triton.language as tl

from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels._jit import jit
from moe_lab.spec import formats


@jit
def rows_of_weights(
    w,  # [E, gemm_n, gemm_k]; with TMA the descriptor of [E * gemm_n, gemm_k]
    expert,
    first,
    k,
    gemm_n,
    gemm_k,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Return rows first, first + 1, ... of an expert's weights at step k, [BLOCK_N, BLOCK_K], as they are stored."""
    if TMA:
        tile = w.load([expert * gemm_n + first, k])
    else:
        column, depth = first + tl.arange(0, BLOCK_N), k + tl.arange(0, BLOCK_K)
        at = w + (expert.to(tl.int64) * gemm_n + column)[:, None] * gemm_k + depth[None, :]
        inside = column[:, None] < gemm_n
        if not EVEN_K:
            inside = inside & (depth[None, :] < gemm_k)
        tile = tl.load(at, mask=inside, other=0.0)
    return tile


@jit
def widened(
    w,
    w_scales,  # [E, gemm_n, ceil(gemm_k / GROUP)] bf16, uint8 (e8m0) or e4m3; not read for int8
    w_zeros,  # the same, uint8; None = 8 stands for 0
    expert,
    first,
    k,
    gemm_n,
    gemm_k,
    DTYPE: tl.constexpr,
    WIDEN: tl.constexpr,  # "int4", "e2m1" or "int8", see ``widening``
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Return rows of weights as ``rows_of_weights`` does, but the numbers that they stand for, in DTYPE."""
    if WIDEN == "int8":  # the scale of a row comes after the sum
        tile = rows_of_weights(w, expert, first, k, gemm_n, gemm_k, TMA, EVEN_K, BLOCK_N, BLOCK_K).to(DTYPE)
    else:
        bytes = rows_of_weights(w, expert, first, k // 2, gemm_n, gemm_k // 2, TMA, EVEN_K, BLOCK_N, BLOCK_K // 2)
        PART: tl.constexpr = GROUP if GROUP < BLOCK_K else BLOCK_K  # numbers of a step that share a scale
        codes = tl.reshape(tl.join(bytes & 15, bytes >> 4), [BLOCK_N, BLOCK_K // PART, PART])
        column = first + tl.arange(0, BLOCK_N)[:, None]
        group = (k + tl.arange(0, BLOCK_K // PART)[None, :] * PART) // GROUP
        groups = tl.cdiv(gemm_k, GROUP)
        at = (expert.to(tl.int64) * gemm_n + column) * groups + group
        inside = (column < gemm_n) & (group < groups)
        scale = tl.load(w_scales + at, mask=inside, other=0.0)
        if scale.dtype == tl.uint8:
            scale = (scale.to(tl.int32) << 23).to(tl.float32, bitcast=True)
        if WIDEN == "e2m1":
            numbers = e2m1_numbers(codes, DTYPE)
        elif w_zeros is None:
            numbers = (codes.to(tl.int8) - 8).to(DTYPE)
        else:
            zero = tl.load(w_zeros + at, mask=inside, other=0).to(tl.int8)
            numbers = (codes.to(tl.int8) - zero[:, :, None]).to(DTYPE)
        tile = tl.reshape(numbers * scale.to(DTYPE)[:, :, None], [BLOCK_N, BLOCK_K])
    return tile


@jit
def e2m1_numbers(codes, DTYPE: tl.constexpr):
    """Return the numbers of codes of e2m1, in bf16 or fp16, put together from their bits."""
    MANTISSA: tl.constexpr = 7 if tl.bfloat16 == DTYPE else 10
    HALF: tl.constexpr = (126 if tl.bfloat16 == DTYPE else 14) << MANTISSA  # the bits of 0.5
    size = (codes & 7).to(tl.int16)
    # Two bits of exponent and one of mantissa, except that 0 and 1 are 0 and 0.5.
    bits = tl.where(size > 1, (size << (MANTISSA - 1)) + HALF, size * HALF)
    return (bits | ((codes & 8).to(tl.int16) << 12)).to(DTYPE, bitcast=True)


def widening(w: Weights) -> dict[str, Any]:
    """Return the constants of ``widened`` or ``in_e4m3``, with WIDEN ``none`` for what is multiplied as stored."""
    known = formats.get(w.format) if isinstance(w, Quantised) else None
    if known is None or known.weight_block is None or (known.activation_block and known.weight_bits == 8):
        return {"WIDEN": "none", "GROUP": 1}
    kind = "int8" if known.weight_bits == 8 else "int4" if known.name.startswith("int4") else "e2m1"
    return {"WIDEN": kind, "GROUP": max(1, known.weight_block[1])}
