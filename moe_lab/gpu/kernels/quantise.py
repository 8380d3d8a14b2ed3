"""Activations to e4m3, alone or behind the activation; and how they are multiplied.

The numbers are those of ``formats/fp8_*.py``: the largest of all that share a scale becomes 448, and the scale is fp32.
One scale of all rows (``fp8_tensor``) needs the largest number before any is stored: a launch of its own finds it, and
the next computes the activation again instead of reading it. vLLM does the same in three launches (activation, largest,
quantise) with as many bytes and bf16 hidden rows.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels._device import check_device, is_hip
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT, check_activation, gated
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError

GROUP = 128


@jit
def numbers_of(x, row, column, mask, features, ACTIVATION: tl.constexpr, ALPHA: tl.constexpr, LIMIT: tl.constexpr):
    """Return x [rows, features], or act(gate) * up of x [rows, 2 * features], at rows and columns in fp32; 0 if masked.

    row is [m], column [1, n], mask [m, n].
    """
    if ACTIVATION == "none":
        numbers = tl.load(x + row[:, None] * features + column, mask=mask, other=0.0).to(tl.float32)
    else:
        at = x + row[:, None] * 2 * features + column
        gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(at + features, mask=mask, other=0.0).to(tl.float32)
        numbers = gated(gate, up, ACTIVATION == "swigluoai", ALPHA, LIMIT)
    return tl.where(mask, numbers, 0.0)


@jit
def e4m3_of(numbers, most=None):
    """Return numbers [m, n] for e4m3 and their scales [m], by each row's own largest or by ``most`` [m]."""
    if most is None:
        most = tl.max(tl.abs(numbers), axis=1)
    scale = tl.where(most > 0, most / 448.0, 1.0)
    return tl.minimum(tl.maximum(numbers / scale[:, None], -448.0), 448.0), scale


@jit
def largest_kernel(
    x,  # as of quantise_kernel
    largest,  # [PARTS] fp32, out: of the tiles that each program did
    order,
    numel,
    rows,
    features,
    groups,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Find the largest of the groups program, program + PARTS, ... of BLOCK_ROWS rows each."""
    most = tl.zeros((BLOCK_ROWS, GROUP), dtype=tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS) * groups, PARTS):
        row = (tile // groups * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        column = (tile % groups * GROUP + tl.arange(0, GROUP))[None, :]
        real = row < rows
        if order is not None:
            real = real & (tl.load(order + row, mask=real, other=numel) < numel)
        mask = real[:, None] & (column < features)
        most = tl.maximum(most, tl.abs(numbers_of(x, row, column, mask, features, ACTIVATION, ALPHA, LIMIT)))
    tl.store(largest + tl.program_id(0), tl.max(tl.max(most, axis=1), axis=0))


@jit
def quantise_kernel(
    x,  # [rows, features], or [rows, 2 * features] with an activation
    values,  # [rows, features], out
    scales,  # [rows, groups] fp32, out; with ``largest`` [1]
    largest,  # [PARTS] fp32, whose largest is that of all rows; None = every group has a scale
    order,  # [rows] int32: rows of pairs from numel on are padding; None = none are
    numel,
    rows,
    features,
    groups,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    ACTIVATION: tl.constexpr,  # "none", "silu" or "swigluoai"
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Do one group of BLOCK_ROWS rows."""
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    group = tl.program_id(1)
    column = (group * GROUP + tl.arange(0, GROUP))[None, :]
    real = row < rows
    if order is not None:
        real = real & (tl.load(order + row, mask=real, other=numel) < numel)
    mask = real[:, None] & (column < features)
    numbers = numbers_of(x, row, column, mask, features, ACTIVATION, ALPHA, LIMIT)
    if largest is None:
        numbers, scale = e4m3_of(numbers)
    else:
        most = tl.max(tl.load(largest + tl.arange(0, PARTS)), axis=0)
        numbers, scale = e4m3_of(numbers, tl.zeros((BLOCK_ROWS,), dtype=tl.float32) + most)
    tl.store(values + row[:, None] * features + column, numbers.to(values.dtype.element_ty), mask=mask)
    if largest is None:
        tl.store(scales + row * groups + group, scale, mask=real)
    else:  # of row 0 alone, which has that of all
        tl.store(scales + row, scale, mask=(row == 0) & (group == 0))


@jit
def add_scaled(acc, x_tile, w_tile, scale, SWAP: tl.constexpr):
    """Return acc + scale * x_tile @ w_tile^T, whose fp32 sum is of these steps of K alone.

    x_tile is [m, k], w_tile [n, k], scale [m], and acc [m, n]; with SWAP [n, m], since wgmma wants 64 rows first.
    """
    if SWAP:
        acc += tl.dot(w_tile, x_tile.T) * scale[None, :]
    else:
        acc += tl.dot(x_tile, w_tile.T) * scale[:, None]
    return acc


@jit
def scaled(acc, x_scales, w_scales, row, expert, column, gemm_n, valid, SCALES: tl.constexpr):
    """Return sums [m, n] over all of K times the scales of their factors.

    row, valid are [m]: of x, and which rows are pairs; column is [n]. See ``scaling`` for SCALES.
    """
    if SCALES == "token":
        x_scale = tl.load(x_scales + row, mask=valid, other=0.0)
        w_scale = tl.load(w_scales + expert * gemm_n + column, mask=column < gemm_n, other=0.0)
        return acc * x_scale[:, None] * w_scale[None, :]
    return acc * (tl.load(x_scales) * tl.load(w_scales + expert))


def stored_as(x: Tensor) -> torch.dtype:
    """Return what a kernel writes of e4m3: Triton's interpreter loses the carry of a mantissa that rounds up in it."""
    return torch.float8_e4m3fn if x.is_cuda else torch.float32  # there torch rounds


def program(rows: int, groups: int, group: int = GROUP) -> dict[str, int]:
    """Return how many rows a program takes, and its warps: single rows while there are few, for a wide grid.

    Args:
        rows: of all.
        groups: of a row.
        group: features of one, a power of two.
    """
    few = rows * groups < 4096
    block_rows = 1 if few else max(1, 2048 // group)
    return {"BLOCK_ROWS": block_rows, "num_warps": max(1, min(8, block_rows * group // (256 if few else 512)))}


@cache
def _block(format: str) -> tuple[int, int]:
    """Return the rows and features of activations that share a scale; looked up once, since a look-up reads a file."""
    return formats.get(format).activation_block or (1, GROUP)


def quantise(
    x: Tensor, activation: str = "none", order: Tensor | None = None, numel: int = 0, *, format: str = "fp8_block"
) -> Quantised:
    """Return x, or act(gate) * up of it, in e4m3: values [rows, features], scales as the format has them, fp32.

    Args:
        x: [rows, features] fp32, fp16 or bf16, contiguous; with an activation [rows, 2 * features], gates then ups.
        activation: ``none``, or one of ``activation.ACTIVATIONS``.
        order: [rows] int32, the pair of each row where rows are sorted and padded: padding stays unread and unwritten.
        numel: pairs; from there on ``order`` is padding.
        format: ``fp8_block``, ``fp8_tensor`` or ``fp8_token``.

    Raises:
        UserError: an unknown activation.
    """
    if activation != "none":
        check_activation(activation)
    check_device(x)
    rows, features = x.shape[0], x.shape[1] // (1 if activation == "none" else 2)
    high, wide = _block(format)
    group = wide or (triton.next_power_of_2(features) if high else GROUP)
    groups = triton.cdiv(features, group)
    values = torch.empty((rows, features), dtype=stored_as(x), device=x.device)
    scales = torch.empty((rows, groups) if high else (1, 1), dtype=torch.float32, device=x.device)
    if rows:
        taken = program(rows, groups, group)
        tiles = triton.cdiv(rows, taken["BLOCK_ROWS"])
        # Programs that look for the largest: each of the next launch reads what all of them found.
        count = 1 if high else min(512, triton.next_power_of_2(tiles * groups))
        sizes = order, numel, rows, features, groups
        fixed = {"ALPHA": ALPHA, "LIMIT": LIMIT, "ACTIVATION": activation, "GROUP": group, "PARTS": count, **taken}
        largest = None if high else torch.empty(count, dtype=torch.float32, device=x.device)
        if largest is not None:
            largest_kernel[(count,)](x, largest, *sizes, **fixed)
        quantise_kernel[(tiles, groups)](x, values, scales, largest, *sizes, **fixed)
    return Quantised(format, values.to(torch.float8_e4m3fn), scales)


def parts(numbers: Weights) -> tuple[Tensor, Tensor | None]:
    """Return the values and the scales; without scales the tensor itself and None."""
    return (numbers.values, numbers.scales) if isinstance(numbers, Quantised) else (numbers, None)


def scaling(numbers: Weights) -> str:
    """Return where a product takes the scales of its factors.

    ``block``: every 128 of K, of a row's group and of a block of 128 columns; ``token``: behind the sum, of a row and
    of a column; ``tensor``: behind the sum, of all rows and of an expert; ``none``: there are none.
    """
    return numbers.format.removeprefix("fp8_") if isinstance(numbers, Quantised) else "none"


def swapped(tile: Tile, scales: str) -> bool:
    """Return whether a product of e4m3 computes y^T = w x^T: wgmma takes 64 rows of its first factor, or more.

    Args:
        tile: of the product.
        scales: of ``scaling``.

    Raises:
        UserError: the tile is not of one block of weights, which has one scale.
    """
    if scales == "block" and (tile.block_k != GROUP or tile.block_n > GROUP):
        raise UserError(
            f"fp8_block needs tiles with block_k {GROUP} and block_n up to {GROUP}, not {tile.block_k} and "
            f"{tile.block_n}."
        )
    return scales != "none" and tile.block_m < 64 <= tile.block_n


def check_e4m3(device: torch.device) -> None:
    """Refuse GPUs whose matrix units, as Triton drives them, have no e4m3.

    Raises:
        UserError: the device is one of them.
    """
    if device.type == "cuda" and (is_hip() or torch.cuda.get_device_capability(device) < (8, 9)):
        raise UserError(
            "fp8 formats multiply in e4m3, which needs an NVIDIA GPU of compute capability 8.9 or more; "
            "choose bf16 here."
        )
