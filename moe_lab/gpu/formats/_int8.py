# SPDX-License-Identifier: Apache-2.0
"""int8 with a scale per row, which for weights is an output channel and for activations a token."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised

LARGEST = 127


def quantise(w: Tensor, format: str) -> Quantised:
    """Return values [..., rows, columns] int8 and scales [..., rows, 1] fp32: the largest of a row becomes 127."""
    if w.dim() > 2:  # expert by expert: all of them in fp32 would not fit into memory
        return Quantised.stack([quantise(one, format) for one in w])
    largest = w.float().abs().amax(-1, keepdim=True)
    scales = torch.where(largest > 0, largest / LARGEST, 1.0)  # a row of zeros must not be divided by 0
    return Quantised(format, (w.float() / scales).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales)


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by its scale, in ``dtype``."""
    return w.values.to(dtype) * w.scales.to(dtype)
