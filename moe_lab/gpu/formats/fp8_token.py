# SPDX-License-Identifier: Apache-2.0
"""e4m3 weights with a scale per row (output channel), e4m3 activations with a scale per token; scales are fp32."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _e4m3

INFO = {
    "about": "e4m3 weights with a scale per output channel, activations with one per token; fp32 scales",
    "needs": ["torch"],
    "source": "compressed-tensors, FP8_DYNAMIC; ModelOpt, FP8_PER_CHANNEL_PER_TOKEN",
    "dtype": "bf16",
    "weight_bits": 8,
    "activation_bits": 8,
    "weight_block": (1, 0),
    "activation_block": (1, 0),
    "scale_bytes": 4,
    "activation_roundoff": 0.0625,  # 2 ** -4: e4m3 has three bits of mantissa
    "product": "e4m3",
    "engine": "fp8_w8a8",
}


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]: scales [..., rows, 1] fp32."""
    return _e4m3.quantise(w, "fp8_token", (1, 0))


def quantise_activations(x: Tensor) -> Quantised:
    """Return activations [rows, features]: scales [rows, 1] fp32."""
    return quantise(x)


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by its scale, in ``dtype``."""
    return _e4m3.dequantise(w, dtype, (1, 0))
