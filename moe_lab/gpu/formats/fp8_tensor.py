# SPDX-License-Identifier: Apache-2.0
"""e4m3 weights with one scale per expert and matrix, e4m3 activations with one scale for all rows; scales are fp32.

w13 of an expert has one scale: if a checkpoint has one each for the gate and the up half, engines take the larger when
they load it. All activations of a product share a scale, so the result of a token depends on the others of its call.
"""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _e4m3

INFO = {
    "about": "e4m3 weights with a scale per expert and matrix, activations with one for all rows; fp32 scales",
    "needs": ["torch"],
    "source": "compressed-tensors, FP8 by tensors; ModelOpt, FP8",
    "dtype": "bf16",
    "weight_bits": 8,
    "activation_bits": 8,
    "weight_block": (0, 0),  # of one expert: no format has a scale across experts
    "activation_block": (0, 0),
    "scale_bytes": 4,
    "activation_roundoff": 0.0625,  # 2 ** -4: e4m3 has three bits of mantissa
    "product": "e4m3",
    "engine": "fp8_w8a8",
}


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]: scales [..., 1, 1] fp32."""
    return _e4m3.quantise(w, "fp8_tensor", (0, 0))


def quantise_activations(x: Tensor) -> Quantised:
    """Return activations [rows, features]: scales [1, 1] fp32."""
    return quantise(x)


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by its scale, in ``dtype``."""
    return _e4m3.dequantise(w, dtype, (0, 0))
