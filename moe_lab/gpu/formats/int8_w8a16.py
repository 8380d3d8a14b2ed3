# SPDX-License-Identifier: Apache-2.0
"""int8 weights with an fp32 scale per row (output channel); activations stay bf16."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _int8

INFO = {
    "about": "int8 weights, an fp32 scale per output channel; bf16 activations",
    "needs": ["torch"],
    "source": "compressed-tensors, W8A16",
    "dtype": "bf16",
    "weight_bits": 8,
    "activation_bits": 16,
    "weight_block": (1, 0),
    "scale_bytes": 4,
    "engine": "int8_w8a16",
}


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]: scales [..., rows, 1] fp32."""
    return _int8.quantise(w, "int8_w8a16")


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by its scale, in ``dtype``."""
    return _int8.dequantise(w, dtype)
