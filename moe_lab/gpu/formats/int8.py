# SPDX-License-Identifier: Apache-2.0
"""int8 weights with a scale per row (output channel), int8 activations with a scale per token; scales are fp32."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _int8

INFO = {
    "about": "int8 weights with a scale per output channel, activations with one per token; fp32 scales",
    "needs": ["torch"],
    "source": "LLM.int8(), arXiv 2208.07339, section 2.1; compressed-tensors, W8A8",
    "dtype": "bf16",
    "weight_bits": 8,
    "activation_bits": 8,
    "weight_block": (1, 0),
    "activation_block": (1, 0),
    "scale_bytes": 4,
    "activation_roundoff": 0.00394,  # 1 / 254: half a step, of which the largest value has 127
    "even_steps": True,
    "product": "int8",
    "engine": "int8_w8a8",
}


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]: scales [..., rows, 1] fp32."""
    return _int8.quantise(w, "int8")


def quantise_activations(x: Tensor) -> Quantised:
    """Return activations [rows, features]: scales [rows, 1] fp32."""
    return quantise(x)


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by its scale, in ``dtype``."""
    return _int8.dequantise(w, dtype)
