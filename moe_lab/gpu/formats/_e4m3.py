# SPDX-License-Identifier: Apache-2.0
"""Values in e4m3 with fp32 scales, for blocks of any size; the largest value of a block becomes 448."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised

LARGEST = 448.0  # the largest finite number in e4m3


def quantise(w: Tensor, format: str, block: tuple[int, int]) -> Quantised:
    """Return values [..., rows, columns] quantised in blocks; the last block of a row or column may be smaller.

    Args:
        w: weights or activations.
        format: name of the format, for the result.
        block: rows and columns that share a scale; 0 = all of them.

    Returns:
        values [..., rows, columns] e4m3, scales [..., row blocks, column blocks] fp32.
    """
    if w.dim() > 2:  # expert by expert: all of them in fp32 would not fit into memory
        return Quantised.stack([quantise(one, format, block) for one in w])
    rows, columns = w.shape
    high, wide = block[0] or max(1, rows), block[1] or columns
    padded = torch.nn.functional.pad(w.float(), (0, -columns % wide, 0, -rows % high))
    largest = padded.view(padded.shape[0] // high, high, padded.shape[1] // wide, wide).abs().amax((1, 3))
    scales = torch.where(largest > 0, largest / LARGEST, 1.0)  # a block of zeros must not be divided by 0
    # Clamped, because the rounded scale may take a quotient above 448, beyond which e4m3 has only NaN.
    values = (w.float() / _spread(scales, rows, columns, high, wide)).clamp(-LARGEST, LARGEST)
    return Quantised(format, values.to(torch.float8_e4m3fn), scales)


def dequantise(w: Quantised, dtype: torch.dtype, block: tuple[int, int]) -> Tensor:
    """Return the values that are meant: each multiplied by its scale, in ``dtype``."""
    rows, columns = w.values.shape[-2:]
    return w.values.to(dtype) * _spread(w.scales.to(dtype), rows, columns, block[0] or rows, block[1] or columns)


def _spread(scales: Tensor, rows: int, columns: int, high: int, wide: int) -> Tensor:
    return scales.repeat_interleave(high, -2).repeat_interleave(wide, -1)[..., :rows, :columns]
