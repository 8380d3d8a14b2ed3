"""e4m3 weights with one scale an expert and matrix, and e4m3 activations with one scale in all; all scales fp32.

w13 of an expert has one scale: where a checkpoint has one for the gate and one for the up half, engines take the larger
when they load it. A scale of activations is that of all rows of a product, so it depends on the other tokens of a call.
"""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _e4m3

INFO = {
    "about": "e4m3 weights with a scale an expert and matrix, activations with one in all as they come; fp32 scales",
    "needs": ["torch"],
    "source": "compressed-tensors, FP8 by tensors; ModelOpt, FP8",
    "dtype": "bf16",
    "weight_bits": 8,
    "activation_bits": 8,
    "weight_block": (0, 0),
    "activation_block": (0, 0),
    "scale_bytes": 4,
    "activation_roundoff": 0.0625,
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
    """Return what the numbers stand for, each multiplied by its scale in ``dtype``."""
    return _e4m3.dequantise(w, dtype, (0, 0))
