# SPDX-License-Identifier: Apache-2.0
"""int4 weights in groups of 128 of a row with bf16 scales; e4m3 activations in groups of 128 with fp32 scales.

Engines write w4afp8 or W4A8 of the same weights with other scales: SGLang has one for all activations of a matrix, from
the checkpoint (w4afp8.py, "static"); vLLM one for a token, and e4m3 scales of groups with an fp32 one for a row of
weights (compressed_tensors_moe_w4a8_fp8.py). Here activations are those of fp8_block.
"""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _e4m3, _int4

INFO = {
    "about": "int4 weights, a bf16 scale for 128 of a row; e4m3 activations in groups of 128 as they come, fp32 scales",
    "needs": ["torch"],
    "source": "SGLang, W4AFP8; vLLM, W4A8: both with other scales of activations",
    "dtype": "bf16",
    "weight_bits": 4,
    "activation_bits": 8,
    "weight_block": (1, 128),
    "activation_block": (1, 128),
    "scale_bytes": 2,
    "activation_scale_bytes": 4,
    "activation_roundoff": 0.0625,
    "product": "e4m3",
    "engine": "int4_w4afp8",
}

GROUP = 128


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]; columns must be even, the last group may be smaller.

    Returns:
        values [..., rows, columns / 2] uint8, scales [..., rows, ceil(columns / 128)] bf16.
    """
    return _int4.quantise(w, "int4_w4a8", GROUP)


def quantise_activations(x: Tensor) -> Quantised:
    """Return activations in groups of a row: values [rows, features] e4m3, scales [rows, ceil(features / 128)] fp32."""
    return _e4m3.quantise(x, "int4_w4a8", (1, GROUP))


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant, of weights or activations, in ``dtype``."""
    if w.values.dtype == torch.uint8:
        return _int4.dequantise(w, dtype, GROUP)
    return _e4m3.dequantise(w, dtype, (1, GROUP))
