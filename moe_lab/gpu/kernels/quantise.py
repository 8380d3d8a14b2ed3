# SPDX-License-Identifier: Apache-2.0
"""Quantisation of activations to e4m3 or int8, alone or fused with the activation function.

The result is that of ``formats/fp8_*.py`` and ``formats/int8.py``: the largest of the values that share a scale becomes
448, or 127; scales are fp32.
One scale for all rows (``fp8_tensor``) needs the largest value before any is stored: a first launch finds it, and the
second computes the activation again instead of reading it. vLLM does the same in three launches (activation, largest,
quantise) with as many bytes and bf16 hidden rows.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.formats import AnyWeights, Quantised, Weights, apart
from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.activation import activated, constants
from moe_lab.gpu.kernels.widen_e4m3 import dealt
from moe_lab.spec import formats
from moe_lab.spec.problem import check_activation

GROUP = 128


@jit
def numbers_of(
    x,
    row,  # [m]
    column,  # [1, n]
    mask,  # [m, n]
    features,
    ACTIVATION: tl.constexpr,
    MUL: tl.constexpr,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
):
    """Return in fp32 the values of x [rows, features] or act of them, 0 where masked.

    With MUL it is act(gate) * up of x [rows, 2 * features].
    """
    at = x + row[:, None] * (2 * features if MUL else features) + column
    numbers = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION != "none":
        up = tl.load(at + features, mask=mask, other=0.0).to(tl.float32) if MUL else numbers
        numbers = activated(numbers, up, ACTIVATION, MUL, ALPHA, LIMIT)
    return tl.where(mask, numbers, 0.0)


@jit
def is_pair(row, order, padded, numel, rows):
    """Return which of the rows [m] are pairs: below ``rows``, and not padding where they are in an order."""
    real = row < rows
    if padded is not None:
        real = real & (row < tl.load(padded))
    if order is not None:
        real = real & (tl.load(order + row, mask=real, other=numel) < numel)
    return real


@jit
def e4m3_of(numbers, most=None, INT8: tl.constexpr = False):
    """Return values [m, n] scaled for e4m3 or int8 and their scales [m], by the largest of each row or ``most`` [m]."""
    LARGEST: tl.constexpr = 127.0 if INT8 else 448.0
    if most is None:
        most = tl.max(tl.abs(numbers), axis=1)
    scale = tl.where(most > 0, most / LARGEST, 1.0)
    numbers = tl.minimum(tl.maximum(numbers / scale[:, None], -LARGEST), LARGEST)
    if INT8:
        numbers = tl.floor(numbers + 0.5)
    return numbers, scale


@jit
def largest_kernel(
    x,  # see quantise_kernel
    largest,  # [PARTS] fp32, out: the largest of each program
    order,
    padded,
    numel,
    rows,
    features,
    groups,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MUL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Find the largest absolute value in tiles of BLOCK_ROWS rows and a group: tiles program, program + PARTS, ..."""
    most = tl.zeros((BLOCK_ROWS, GROUP), dtype=tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS) * groups, PARTS):
        row = (tile // groups * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        column = (tile % groups * GROUP + tl.arange(0, GROUP))[None, :]
        real = is_pair(row, order, padded, numel, rows)
        mask = real[:, None] & (column < features)
        most = tl.maximum(most, tl.abs(numbers_of(x, row, column, mask, features, ACTIVATION, MUL, ALPHA, LIMIT)))
    tl.store(largest + tl.program_id(0), tl.max(tl.max(most, axis=1), axis=0))


@jit
def quantise_kernel(
    x,  # [rows, features], or [rows, 2 * features] with an activation
    values,  # [rows, features], out
    scales,  # [rows, groups] fp32, out; with ``largest`` [1]
    largest,  # [PARTS] fp32, whose maximum is that of all rows; None = every group has its own scale
    order,  # [rows] int32: rows whose pair is >= numel are padding; None = no padding
    padded,  # [1] int32: from this row on, order is unspecified
    numel,
    rows,
    features,
    groups,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    ACTIVATION: tl.constexpr,  # this and MUL: see activation.constants
    MUL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    INT8: tl.constexpr,
    DEAL: tl.constexpr,  # store groups of 128 ``dealt`` and whole: values are [rows, groups * 128]
):
    """Quantise one group of BLOCK_ROWS rows."""
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    group = tl.program_id(1)
    column = (group * GROUP + tl.arange(0, GROUP))[None, :]
    real = is_pair(row, order, padded, numel, rows)
    mask = real[:, None] & (column < features)
    numbers = numbers_of(x, row, column, mask, features, ACTIVATION, MUL, ALPHA, LIMIT)
    if largest is None:
        numbers, scale = e4m3_of(numbers, None, INT8)
    else:
        most = tl.max(tl.load(largest + tl.arange(0, PARTS)), axis=0)
        numbers, scale = e4m3_of(numbers, tl.zeros((BLOCK_ROWS,), dtype=tl.float32) + most)
    if DEAL:
        tl.store(
            values + row[:, None] * (groups * GROUP) + column,
            dealt(numbers.to(values.dtype.element_ty)),
            mask=real[:, None],
        )
    else:
        tl.store(values + row[:, None] * features + column, numbers.to(values.dtype.element_ty), mask=mask)
    if largest is None:
        tl.store(scales + row * groups + group, scale, mask=real)
    else:  # all rows share the scale, so one program writes it
        tl.store(scales + row, scale, mask=(row == 0) & (group == 0))


def stored_as(x: Tensor) -> torch.dtype:
    """Return the dtype in which a kernel stores e4m3."""
    # Triton's interpreter loses the carry of a mantissa that rounds up in e4m3, so on the CPU torch rounds afterwards.
    return torch.float8_e4m3fn if x.is_cuda else torch.float32


def program(rows: int, groups: int, group: int = GROUP) -> dict[str, int]:
    """Return how many rows a program processes, and its warps: one row if there are few, for a wide grid.

    Args:
        rows: number of rows.
        groups: groups per row.
        group: features per group, a power of two.
    """
    few = rows * groups < 4096
    block_rows = 1 if few else max(1, 2048 // group)
    return {"BLOCK_ROWS": block_rows, "num_warps": max(1, min(8, block_rows * group // (256 if few else 512)))}


@cache
def _block(format: str) -> tuple[tuple[int, int], bool]:
    """Return the rows and features of activations that share a scale, and whether weights are widened to e4m3."""
    known = formats.get(format)  # cached, since a look-up reads a file
    return known.activation_block or (1, GROUP), known.weight_bits == 4


def quantise(
    x: Tensor,
    activation: str = "none",
    order: Tensor | None = None,
    numel: int = 0,
    *,
    padded: Tensor | None = None,
    format: str = "fp8_block",
    into: tuple[Tensor, Tensor] | None = None,
) -> Quantised:
    """Return x, or act(gate) * up of it, in e4m3 or int8: values [rows, features], and scales as the format has them.

    For weights of four bits, values are as ``widen_e4m3.dealt`` has them, filled up with zeros to whole groups of 128.

    Args:
        x: [rows, features] fp32, fp16 or bf16, contiguous; with a gated activation [rows, 2 * features], gate then up.
        activation: ``none``, or one of ``ACTIVATIONS`` of the problem.
        order: [rows] int32, the pair of each row if rows are sorted and padded: padding is neither read nor written.
        numel: number of pairs; a larger or equal entry of ``order`` means padding.
        padded: [1] int32, rows that ``order`` is specified for (``num_tokens_post_padded``); None = all.
        format: one that has a block of activations.
        into: contiguous values and scales to write; None = new ones.

    Raises:
        UserError: an unknown activation.
    """
    if activation != "none":
        check_activation(activation)
    check_device(x)
    acts = constants(activation)
    rows, features = x.shape[0], x.shape[1] // (2 if acts["MUL"] else 1)
    (high, wide), deal = _block(format)
    group = wide or (triton.next_power_of_2(features) if high else GROUP)
    groups = triton.cdiv(features, group)
    int8 = format == "int8"
    columns = groups * group if deal else features
    values = torch.empty((rows, columns), dtype=torch.int8 if int8 else stored_as(x), device=x.device)
    scales = torch.empty((rows, groups) if high else (1, 1), dtype=torch.float32, device=x.device)
    if into:
        values, scales = into[0] if into[0].dtype == values.dtype else values, into[1]
    if rows:
        taken = program(rows, groups, group)
        tiles = triton.cdiv(rows, taken["BLOCK_ROWS"])
        # Programs that find the largest value; few, because each program of the next launch reads all their results.
        count = 1 if high else min(512, triton.next_power_of_2(tiles * groups))
        sizes = order, padded, numel, rows, features, groups
        fixed = {"GROUP": group, "PARTS": count, **acts, **taken}
        largest = None if high else torch.empty(count, dtype=torch.float32, device=x.device)
        if largest is not None:
            largest_kernel[(count,)](x, largest, *sizes, **fixed)
        quantise_kernel[(tiles, groups)](x, values, scales, largest, *sizes, INT8=int8, DEAL=deal, **fixed)
    if into and values is not into[0]:
        into[0].copy_(values)
    return Quantised(format, values if int8 else values.to(torch.float8_e4m3fn), scales)


def parts(numbers: AnyWeights) -> tuple[Tensor, Tensor | None]:
    """Return values and scales; for a plain tensor, the tensor itself and None."""
    numbers, _ = apart(numbers)
    return (numbers.values, numbers.scales) if isinstance(numbers, Quantised) else (numbers, None)


def stored(w: Weights) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the values of weights, their scales, zero points and scales of matrices; None for what they lack."""
    return (w.values, w.scales, w.zeros, w.matrix_scales) if isinstance(w, Quantised) else (w, None, None, None)
