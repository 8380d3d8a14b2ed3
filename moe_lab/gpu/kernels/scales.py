# SPDX-License-Identifier: Apache-2.0
"""How products take the scales of their factors."""

import triton.language as tl

from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.quantise import GROUP
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError


@jit
def add_scaled(acc, x_tile, w_tile, scale, SWAP: tl.constexpr):
    """Return acc + scale * x_tile @ w_tile^T, where the product is an fp32 sum over this step of K alone.

    x_tile is [m, k], w_tile [n, k], scale [m], and acc [m, n], or [n, m] with SWAP: wgmma wants 64 rows in its first
    factor.
    """
    if SWAP:
        acc += tl.dot(w_tile, x_tile.T) * scale[None, :]
    else:
        acc += tl.dot(x_tile, w_tile.T) * scale[:, None]
    return acc


@jit
def scaled(acc, x_scales, w_scales, row, expert, column, gemm_n, valid, SCALES: tl.constexpr):
    """Return sums [m, n] over all of K, multiplied by the scales of both factors.

    row [m] is the row of x, valid [m] whether it is a pair's, column is [n]. See ``scaling`` for SCALES.
    """
    if SCALES == "tensor":
        return acc * (tl.load(x_scales) * tl.load(w_scales + expert))
    acc = acc.to(tl.float32) * tl.load(w_scales + expert * gemm_n + column, mask=column < gemm_n, other=0.0)[None, :]
    if SCALES == "token":
        acc = acc * tl.load(x_scales + row, mask=valid, other=0.0)[:, None]
    return acc


def scaling(numbers: Weights) -> str:
    """Return where a product applies the scales of its factors.

    ``block``: every 128 of K, a scale for a row's group times one for a block of 128 columns; ``token``: after the sum,
    one per row and one per column; ``channel``: the same, but none per row; ``tensor``: after the sum, one for all rows
    and one per expert; ``group``: before the product, to weights as they are widened; ``none``: no scales.
    """
    if not isinstance(numbers, Quantised):
        return "none"
    block, activations = (known := formats.get(numbers.format)).weight_block, known.activation_block
    if not activations:
        return "channel" if block == (1, 0) else "group"
    return "token" if block == (1, 0) else "tensor" if block == (0, 0) else "block"


def swapped(tile: Tile, scales: str) -> bool:
    """Return whether a product of e4m3 computes y^T = w x^T: wgmma takes 64 rows of its first factor, or more.

    Args:
        tile: of the product.
        scales: what ``scaling`` returns.

    Raises:
        UserError: the tile spans several blocks of weights, so it has no single scale.
    """
    if scales == "block" and (tile.block_k != GROUP or tile.block_n > GROUP):
        raise UserError(
            f"fp8_block needs tiles with block_k {GROUP} and block_n up to {GROUP}, not {tile.block_k} and "
            f"{tile.block_n}."
        )
    # Widened weights are in registers, where wgmma takes its first factor but never its second.
    return scales in ("group", "channel") or (scales != "none" and tile.block_m < 64 <= tile.block_n)
