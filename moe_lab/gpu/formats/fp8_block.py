# SPDX-License-Identifier: Apache-2.0
"""e4m3 weights in blocks of 128 x 128 and e4m3 activations in groups of 128 features, each with an fp32 scale."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _e4m3

INFO = {
    "about": "e4m3 weights in 128x128 blocks, activations in groups of 128 as they come; fp32 scales",
    "needs": ["torch"],
    "source": "DeepSeek-V3, arXiv 2412.19437, section 3.3; Qwen3-*-FP8",
    "dtype": "bf16",
    "weight_bits": 8,
    "activation_bits": 8,
    "weight_block": (128, 128),
    "activation_block": (1, 128),
    "scale_bytes": 4,
    "activation_roundoff": 0.0625,
    "product": "e4m3",
    "engine": "fp8_w8a8",
}

BLOCK = 128


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]: scales [..., ceil(rows / 128), ceil(columns / 128)] fp32."""
    return _e4m3.quantise(w, "fp8_block", (BLOCK, BLOCK))


def quantise_activations(x: Tensor) -> Quantised:
    """Return activations [rows, features] in groups of a row: scales [rows, ceil(features / 128)] fp32."""
    return _e4m3.quantise(x, "fp8_block", (1, BLOCK))


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by its scale, in ``dtype``."""
    # Activations have a scale for each row, weights for 128 of them.
    high = BLOCK if w.values.shape[-2] != w.scales.shape[-2] else 1
    return _e4m3.dequantise(w, dtype, (high, BLOCK))
