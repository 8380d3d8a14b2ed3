# SPDX-License-Identifier: Apache-2.0
"""How products take the scales of their factors."""

import torch
import triton.language as tl

from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels._device import is_hip
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
def add_scaled_twice(acc, x_tile, w_tile, x_scale, w_scale):
    """Return acc + w_scale * (w_tile @ x_tile^T) * x_scale, an fp32 sum over this step of K alone.

    acc is [n, m], x_tile [m, k], w_tile [n, k], w_scale [n], x_scale [m]; w_tile is in registers, as wgmma's first
    factor may be.
    """
    return acc + tl.dot(w_tile, x_tile.T) * w_scale[:, None] * x_scale[None, :]


@jit
def scales_of_columns(scales, row, group, groups):
    """Return the scales of rows [m] of x at a group, out of scales [rows, groups] fp32, for ``whole``: [m] or [m, 4].

    Rows of x are columns of sums here, and a thread has a quarter of them: loaded as such, their addresses alone take
    m / 2 registers. Of as many numbers as threads, which four bytes a scale are from 32 rows on, Triton loads each once
    and hands them on in shared memory. A group behind the last is the last, so that a step can load the next one's.
    """
    at = scales + row * groups + tl.minimum(group, groups - 1)
    if row.shape[0] < 32:
        found = tl.load(at)
    else:
        found = tl.load(at.to(tl.pointer_type(tl.uint8), bitcast=True)[:, None] + tl.arange(0, 4)[None, :])
    return found


@jit
def whole(scales):
    """Return the scales [m] fp32 that ``scales_of_columns`` loaded, put together if they are bytes."""
    if len(scales.shape) == 2:
        byte = tl.arange(0, 4)[None, :]
        scales = tl.sum(scales.to(tl.int32) << (8 * byte), axis=1).to(tl.float32, bitcast=True)
    return scales


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

    ``block``: every 128 of K, a scale for a row's group times one for a block of 128 columns; ``groups``: the same, but
    one for each column; ``token``: after the sum, one per row and one per column; ``channel``: the same, but none per
    row; ``tensor``: after the sum, one for all rows and one per expert; ``group``: before the product, to weights as
    they are widened; ``none``: no scales.
    """
    if not isinstance(numbers, Quantised):
        return "none"
    block, activations = (known := formats.get(numbers.format)).weight_block, known.activation_block
    if not activations:
        return "channel" if block == (1, 0) else "group"
    if known.weight_bits == 4:
        return "groups"
    return "token" if block == (1, 0) else "tensor" if block == (0, 0) else "block"


def swapped(tile: Tile, scales: str) -> bool:
    """Return whether a product of e4m3 computes y^T = w x^T: wgmma takes 64 rows of its first factor, or more.

    Args:
        tile: of the product.
        scales: what ``scaling`` returns.

    Raises:
        UserError: the tile spans several blocks of weights, or groups of activations, so it has no single scale.
    """
    if scales == "groups" and tile.block_k != GROUP:
        raise UserError(f"Four bits with e4m3 activations need tiles with block_k {GROUP}, not {tile.block_k}.")
    if scales == "block" and (tile.block_k != GROUP or tile.block_n > GROUP):
        raise UserError(
            f"fp8_block needs tiles with block_k {GROUP} and block_n up to {GROUP}, not {tile.block_k} and "
            f"{tile.block_n}."
        )
    # Widened weights are in registers, where wgmma takes its first factor but never its second.
    return scales in ("group", "groups", "channel") or (scales != "none" and tile.block_m < 64 <= tile.block_n)


def check_product(format: str, device: torch.device) -> None:
    """Raise UserError for a format that multiplies in e4m3 on a GPU that cannot through Triton."""
    e4m3 = formats.get(format).product == "e4m3"
    if e4m3 and device.type == "cuda" and (is_hip() or torch.cuda.get_device_capability(device) < (8, 9)):
        raise UserError(
            "fp8 formats multiply in e4m3, which needs an NVIDIA GPU of compute capability 8.9 or more; "
            "choose bf16 here."
        )
