# SPDX-License-Identifier: Apache-2.0
"""Quantised weights as Marlin reads them: tiles of 16 x 64 in the order of the tensor cores' registers.

The order follows from ``mma.m16n8k16``: of a tile of 16 rows along K and 64 columns, a lane of a warp holds rows 2i,
2i + 1, 2i + 8 and 2i + 9 (i = lane % 4) of column lane / 4 in each block of 8 columns. A lane's numbers are stored
together, in the order in which a few instructions widen two at a time. Scales lie in the order of the lanes' columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from moe_lab.gpu.formats import Biased, Quantised, apart
from moe_lab.gpu.formats._four_bits import unpack

TILE = 1024  # numbers of a tile of 16 x 64
BY_GROUP = tuple(row + 8 * column for row in range(8) for column in range(8))
BY_ROW = tuple(2 * four + at for four in range(4) for at in (0, 1, 8, 9, 16, 17, 24, 25))
TWO_AT_A_TIME = {4: (0, 2, 4, 6, 1, 3, 5, 7), 8: (0, 2, 1, 3)}  # of the numbers in 32 bits


@dataclass(frozen=True)
class Packed:
    """Weights of all experts [E, columns, depth] in Marlin's layout.

    Attributes:
        values: [E, depth / 16, 16 * columns * bits / 32] int32.
        scales: [E, groups, columns] bf16, e8m0 (mxfp4) or e4m3 (nvfp4).
        zeros: [E, groups, columns / 8] int32; None = the zero is the same for all.
        matrix_scales: [E] fp32; None = there are none.
        bias: [E, columns] in the dtype of the tokens; None = there is none.
        columns: rows of a matrix as the layer has it, which are columns of the product.
        depth: along which the product sums.
    """

    values: Tensor
    scales: Tensor
    zeros: Tensor | None
    matrix_scales: Tensor | None
    bias: Tensor | None
    columns: int
    depth: int


def padded(w: Quantised | Biased, shards: int, rows: int, columns: int, group: int) -> Quantised | Biased:
    """Return weights [E, shards * old rows, old columns] with more of both: [E, shards * rows, columns].

    The rows stand for zeros. The columns may be anything finite: they are multiplied by zeros.

    Args:
        w: weights.
        shards: matrices on top of each other, of which each gets ``rows`` rows: gate and up.
        rows: of each of them, afterwards.
        columns: afterwards.
        group: columns that share a scale; 0 = all.
    """
    weights, bias = apart(w)
    assert isinstance(weights, Quantised)
    old = w.shape[-1]

    def grown(tensor: Tensor) -> Tensor:
        if tensor is weights.matrix_scales:
            return tensor
        stands_for = old // tensor.shape[-1] if tensor is weights.values else group or columns
        more = -(-columns // stands_for) - tensor.shape[-1]
        plain = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor  # e4m3 cannot be padded
        shares = plain.unflatten(1, (shards, -1))
        return pad(shares, (0, more, 0, rows - shares.shape[2])).flatten(1, 2).view(tensor.dtype)

    if bias is None:
        return weights.each(grown)
    more = pad(bias.unflatten(1, (shards, -1)), (0, rows - bias.shape[1] // shards)).flatten(1)
    return Biased(weights.each(grown), more)


def packed(weights: Quantised | Biased, group: int) -> Packed:
    """Return weights [E, columns, depth] of 4 or 8 bits in Marlin's layout, expert by expert.

    Args:
        weights: columns and depth are multiples of 64.
        group: numbers along depth that share a scale; 0 = all.
    """
    w, bias = apart(weights)
    assert isinstance(w, Quantised)
    _, columns, depth = w.shape
    bits = 4 if w.values.dtype == torch.uint8 else 8
    order = _order(bits, w.values.device)
    values = torch.stack([_tiles(one, bits, order) for one in w.values])
    zeros = None if w.zeros is None else torch.stack([_zeros(one) for one in w.zeros])
    by_row = torch.tensor(BY_ROW, device=values.device)
    by = torch.tensor(BY_GROUP, device=values.device) if group and group < depth else by_row
    scales = _moved(w.scales.mT, by)
    if w.format in ("mxfp4", "nvfp4"):
        scales = _moved(scales, torch.tensor((0, 2, 1, 3), device=by.device))
        scales = scales.view(torch.float8_e8m0fnu) if w.format == "mxfp4" else _shifted(scales)
    else:
        scales = scales.bfloat16()
    # 2^119 undoes what widening leaves out: the bias of e2m1 in bf16, 2^126, but for the scales' 2^7.
    matrix_scales = None if w.matrix_scales is None else w.matrix_scales.flatten() * 2.0**119
    bias = None if bias is None else _moved(bias, by_row)
    return Packed(values, scales, zeros, matrix_scales, bias, columns, depth)


def _order(bits: int, device: torch.device) -> Tensor:
    """Return for each place of a tile which of its numbers, 16 rows of 16 columns four times, is stored there."""
    lane = torch.arange(32, device=device).view(-1, 1, 1, 1)
    block, half = torch.arange(4, device=device).view(-1, 1, 1), torch.arange(2, device=device).view(-1, 1)
    row = 2 * (lane % 4) + torch.tensor((0, 1, 8, 9), device=device)
    order = 256 * block + 16 * row + 8 * half + lane // 4  # [32, 4, 2, 4]
    pairs = torch.tensor(TWO_AT_A_TIME[bits], device=device)
    return order.view(-1, len(pairs))[:, pairs].flatten()


def _tiles(values: Tensor, bits: int, order: Tensor) -> Tensor:
    """Return one expert's values [columns, depth / numbers a byte] as [depth / 16, 16 * columns * bits / 32] int32."""
    # int8 is stored with 128 added, in which the highest bit differs.
    codes = unpack(values) if bits == 4 else values.view(torch.uint8) ^ 128
    columns, depth = codes.shape
    tiles = codes.T.reshape(depth // 16, 16, columns // 16, 16).transpose(1, 2).reshape(-1, TILE)[:, order]
    return words(tiles, bits).view(depth // 16, -1)


def words(codes: Tensor, bits: int) -> Tensor:
    """Return codes [..., n] uint8, the first in the lowest bits, as [..., n * bits / 32] int32."""
    stored = codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4
    return stored.contiguous().view(torch.int32)


def _moved(rows: Tensor, order: Tensor) -> Tensor:
    """Return [..., columns] with the columns of each len(order) in another order."""
    return rows.reshape(*rows.shape[:-1], -1, len(order))[..., order].flatten(-2)


def _zeros(zeros: Tensor) -> Tensor:
    """Return one expert's zero points [columns, groups] as [groups, columns / 8] int32."""
    by, pairs = (torch.tensor(order, device=zeros.device) for order in (BY_GROUP, TWO_AT_A_TIME[4]))
    return words(_moved(_moved(zeros.T[None], by), pairs)[0], 4)


def _shifted(scales: Tensor) -> Tensor:
    """Return positive e4m3 [E, groups, columns] times 2^7, with five bits of exponent and no sign.

    Those are the upper bytes of fp16 without its sign. What is below 2 then is lost.
    """
    numbers = scales.half() * 2**7
    bits = torch.where(numbers < 2, 0, numbers).view(torch.int16) << 1
    return bits.view(torch.float8_e4m3fn)[..., 1::2].contiguous()
