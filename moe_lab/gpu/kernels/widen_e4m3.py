# SPDX-License-Identifier: Apache-2.0
"""Weights of four bits widened to e4m3, for products with activations in e4m3: a few integer operations on four bytes.

int4: e4m3's bits 0 to 15 count in steps of 2^-9, so a number -8 to 7 is its sign and its size, and the step goes into
the scale. e2m1: an e4m3 of its group's exponent relative to the largest of a row's 128 columns, out of a table of
eight, which a byte permutation looks up. A word of four bytes gives its low codes as one word and its high ones as
another, so that columns are multiplied in the order of ``dealt``, and activations are stored in it.
"""

import triton.language as tl

from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.widen import rows_of_weights

# n is 1 where a low code c of the four is below 8: (c & 7 ^ 127 n) + 9 n is c - 8, or 128 + 8 - c; then the high ones.
_INT4: tl.constexpr = tl.constexpr(
    """{
    .reg .b32 n, s, c;
    shr.u32 s, $2, 3;
    lop3.b32 n, s, 0x01010101, 0, 0x0C;
    mul.lo.u32 s, n, 127;
    lop3.b32 c, $2, 0x07070707, s, 0x6A;
    mad.lo.u32 $0, n, 9, c;
    shr.u32 s, $2, 7;
    lop3.b32 n, s, 0x01010101, 0, 0x0C;
    mul.lo.u32 s, n, 127;
    shr.u32 c, $2, 4;
    lop3.b32 c, c, 0x07070707, s, 0x6A;
    mad.lo.u32 $1, n, 9, c;
    }"""
)
# Tables in $3 and $7 (the other six are those of the other three bytes, which are the same): sizes of the codes in
# their order, then low and high ones apart, then signs.
_E2M1: tl.constexpr = tl.constexpr(
    """{
    .reg .b32 c, d, s;
    and.b32 c, $2, 0x77777777;
    shr.u32 d, c, 16;
    prmt.b32 c, $3, $7, c;
    prmt.b32 d, $3, $7, d;
    shl.b32 s, $2, 4;
    prmt.b32 $0, c, d, 0x6420;
    lop3.b32 $0, $0, s, 0x80808080, 0xF8;
    prmt.b32 $1, c, d, 0x7531;
    lop3.b32 $1, $1, $2, 0x80808080, 0xF8;
    }"""
)


@jit
def dealt(numbers):
    """Return columns of [m, 128] in the order in which products take them: k to 32 (k / 8 % 4) + 16 (k % 2) + ...

    32 t + 8 j + 2 i + h, of t, j, i below 4 and h below 2, goes to 32 j + 16 h + 4 t + i: in a factor of wgmma that is
    in registers a thread has the columns 4 t to 4 t + 3 of every 16, so it has 32 columns of a row, 16 bytes.
    """
    parts = tl.reshape(numbers, [numbers.shape[0], 4, 4, 4, 2])
    return tl.reshape(tl.permute(parts, (0, 2, 4, 1, 3)), [numbers.shape[0], 128])


@jit
def scales_of_step(
    w_scales,  # [E, gemm_n, ceil(gemm_k / GROUP)] bf16, or uint8 (e8m0)
    expert,
    first,
    k,
    gemm_n,
    gemm_k,
    WIDEN: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Return a step's scales of rows as they are stored, [BLOCK_N], of e2m1 [BLOCK_N, 4]; behind the last step 0."""
    row, groups = first + tl.arange(0, BLOCK_N), tl.cdiv(gemm_k, GROUP)
    at = w_scales + (expert.to(tl.int64) * gemm_n + row) * groups + k // GROUP
    inside = (row < gemm_n) & (k < gemm_k)
    if WIDEN == "int4":
        scales = tl.load(at, mask=inside, other=0.0)
    else:
        group = tl.arange(0, 4)[None, :]
        inside = inside[:, None] & (k // GROUP + group < groups)
        scales = tl.load(at[:, None] + group, mask=inside, other=0)
    return scales


@jit
def in_e4m3(
    w,
    scales,  # as ``scales_of_step`` returns them
    expert,
    first,
    k,
    gemm_n,
    gemm_k,
    WIDEN: tl.constexpr,  # "int4" or "e2m1"
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PACKED: tl.constexpr,  # in words of four bytes, which the interpreter does not know
):
    """Return 128 columns of rows of weights in e4m3, ``dealt``, and what they are multiplied by, [BLOCK_N] fp32."""
    bytes = rows_of_weights(w, expert, first, k // 2, gemm_n, gemm_k // 2, TMA, EVEN_K, BLOCK_N, 64)
    if WIDEN == "int4":
        factor = scales.to(tl.float32) * 512
        low, high = int4_in_e4m3(bytes, PACKED)
    else:
        exponent = scales.to(tl.int32)
        base = tl.maximum(tl.max(exponent, axis=1), 7)
        factor = ((base - 6) << 23).to(tl.float32, bitcast=True)
        first4, last4 = e2m1_table(base[:, None] - exponent)  # [BLOCK_N, 4]
        first4 = tl.reshape(tl.broadcast_to(first4[:, :, None], [BLOCK_N, 4, 16]), [BLOCK_N, 64])
        last4 = tl.reshape(tl.broadcast_to(last4[:, :, None], [BLOCK_N, 4, 16]), [BLOCK_N, 64])
        low, high = e2m1_in_e4m3(bytes, first4, last4, PACKED)
    codes = tl.reshape(tl.join(low, high), [BLOCK_N, 128])
    return dealt(codes).to(tl.float8e4nv, bitcast=True), factor


@jit
def e2m1_table(below):
    """Return e4m3's bits of 0, 0.5, 1, 1.5 and of 2, 3, 4, 6, each four in a word, times 2^(6 - below).

    Exact up to 14; beyond, what is left of a step of 2^-9 is cut off. From 12 and 14 on, bits are counts of such steps,
    of which a shift by 5 leaves none.
    """
    low = (0x0C080400 >> tl.minimum(tl.maximum(below - 12, 0), 5)) & 0x0F0F0F0F
    low = tl.where(below < 12, 0x6C686000 - below * 0x08080800, low)
    high = (0x0C080604 >> tl.minimum(tl.maximum(below - 14, 0), 5)) & 0x0F0F0F0F
    high = tl.where(below < 14, 0x7C787470 - below * 0x08080808, high)
    return low, high


@jit
def int4_in_e4m3(bytes, PACKED: tl.constexpr):
    """Return e4m3's bits of (code - 8) / 512 of the low and of the high codes of bytes, each of the shape of bytes."""
    if PACKED:
        low, high = tl.inline_asm_elementwise(_INT4, "=&r,=&r,r", [bytes], (tl.uint8, tl.uint8), is_pure=True, pack=4)
    else:
        low, high = bytes & 15, bytes >> 4
        low = tl.where(low < 8, 136 - low, low - 8).to(tl.uint8)
        high = tl.where(high < 8, 136 - high, high - 8).to(tl.uint8)
    return low, high


@jit
def e2m1_in_e4m3(bytes, first4, last4, PACKED: tl.constexpr):
    """Return e4m3's bits of the low and of the high codes of bytes, out of tables of the same shape, int32."""
    if PACKED:
        low, high = tl.inline_asm_elementwise(
            _E2M1, "=&r,=&r,r,r,r,r,r,r,r,r,r", [bytes, first4, last4], (tl.uint8, tl.uint8), is_pure=True, pack=4
        )
    else:
        low, high = looked_up(bytes & 15, first4, last4), looked_up(bytes >> 4, first4, last4)
    return low, high


@jit
def looked_up(codes, first4, last4):
    """Return e4m3's bits of codes of e2m1."""
    size = (codes & 7).to(tl.int32)
    word = tl.where(size < 4, first4, last4)
    return ((word >> ((size & 3) * 8)) & 255).to(tl.uint8) | ((codes & 8) << 4)
