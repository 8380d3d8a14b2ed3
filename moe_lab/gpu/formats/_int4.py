# SPDX-License-Identifier: Apache-2.0
"""int4 weights in groups along a row with bf16 scales, as AWQ and GPTQ have them; activations stay as they are.

A weight is (stored - zero) * scale, where stored is 0 to 15. Without zero points, zero is 8.
"""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.formats._four_bits import grouped, pack, spread, unpack

MIDDLE = 8  # the stored number that stands for 0 where groups have no zero points


def quantise(w: Tensor, format: str, group: int, zeros: bool = False) -> Quantised:
    """Return weights [..., rows, columns] in groups of a row; columns must be even, the last group may be smaller.

    Returns:
        values [..., rows, columns / 2] uint8, scales [..., rows, ceil(columns / group)] bf16 and, with ``zeros``, zero
        points of that shape, uint8.
    """
    if w.dim() > 2:  # expert by expert: all of them in fp32 would not fit into memory
        return Quantised.stack([quantise(one, format, group, zeros) for one in w])
    numbers = grouped(w, group)
    low, high = numbers.amin(-1).clamp(max=0), numbers.amax(-1).clamp(min=0)
    wide = (high - low) / 15 if zeros else torch.maximum(high, -low) / 7
    scales = torch.where(wide > 0, wide, 1.0).bfloat16()  # a group of zeros must not be divided by 0
    by = scales.float()
    zero = (-low / by).round().clamp(0, 15) if zeros else torch.full_like(by, MIDDLE)
    codes = ((numbers / by[..., None]).round() + zero[..., None]).clamp(0, 15)
    return Quantised(format, pack(codes, w.shape[1]), scales, zero.to(torch.uint8) if zeros else None)


def dequantise(w: Quantised, dtype: torch.dtype, group: int) -> Tensor:
    """Return the values that are meant: (stored - zero) * scale, in ``dtype``."""
    codes, columns = unpack(w.values).to(dtype), w.shape[-1]
    zero = MIDDLE if w.zeros is None else spread(w.zeros.to(dtype), group, columns)
    return (codes - zero) * spread(w.scales.to(dtype), group, columns)
