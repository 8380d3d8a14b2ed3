# SPDX-License-Identifier: Apache-2.0
"""mxfp4 weights that are widened to e4m3; e4m3 activations in groups of 128 of a row with fp32 scales.

Of 128 columns of a row, a number is meant as the e4m3 that it is relative to the largest of their four scales, 2^b:
times 2^(6 - b), so that 6 becomes 384. That is exact for scales down to 2^(b - 14). Of smaller ones, what is left of
2^-9, e4m3's smallest step, is cut off: an error below 2^(b - 15), where the largest number may be 6 * 2^b. b is at
least -120.
"""

from dataclasses import replace

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _e4m3, mxfp4
from moe_lab.gpu.formats._four_bits import spread

INFO = {
    "about": "e2m1 weights, an e8m0 scale for 32 of a row; e4m3 activations in groups of 128 as they come, fp32 scales",
    "needs": ["torch"],
    "source": "OCP Microscaling Formats specification 1.0; activations as in fp8_block",
    "dtype": "bf16",
    "weight_bits": 4,
    "activation_bits": 8,
    "weight_block": (1, 32),
    "activation_block": (1, 128),
    "scale_bytes": 1,
    "activation_scale_bytes": 4,
    "activation_roundoff": 0.0625,
    "product": "e4m3",
    "engine": "mxfp4_w4afp8",
}

GROUP, COLUMNS, BIAS = 32, 128, 127
LEAST = 7  # 127 plus b: then 2^(b - 6) is a normal number in fp32


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns] as ``mxfp4`` does; a group of zeros has the smallest scale.

    Returns:
        values [..., rows, columns / 2] uint8, scales [..., rows, ceil(columns / 32)] uint8: 127 plus the exponent.
    """
    stored = mxfp4.quantise(w)
    zeros = torch.nn.functional.pad(stored.values & 0x77, (0, -stored.values.shape[-1] % (GROUP // 2)))
    empty = zeros.unflatten(-1, (-1, GROUP // 2)).amax(-1) == 0
    return replace(stored, format="mxfp4_w4a8", scales=stored.scales.masked_fill(empty, 0))


def quantise_activations(x: Tensor) -> Quantised:
    """Return activations in groups of a row: values [rows, features] e4m3, scales [rows, ceil(features / 128)] fp32."""
    return _e4m3.quantise(x, "mxfp4_w4a8", (1, COLUMNS))


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant, of weights or activations, in ``dtype``."""
    if w.values.dtype != torch.uint8:
        return _e4m3.dequantise(w, dtype, (1, COLUMNS))
    whole = torch.nn.functional.pad(w.scales, (0, -w.scales.shape[-1] % (COLUMNS // GROUP)))
    base = whole.unflatten(-1, (-1, COLUMNS // GROUP)).amax(-1).clamp(min=LEAST)
    step = torch.exp2(spread(base.double() - BIAS - 15, COLUMNS, w.shape[-1]))  # what is 2^-9 in e4m3
    return ((mxfp4.dequantise(w, torch.float64) / step).trunc() * step).to(dtype)
