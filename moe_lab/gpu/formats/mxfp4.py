# SPDX-License-Identifier: Apache-2.0
"""e2m1 weights in groups of 32 of a row, each with a power of two as its scale; activations stay bf16."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.formats._four_bits import e2m1_codes, e2m1_values, grouped, pack, spread, unpack

INFO = {
    "about": "e2m1 weights, an e8m0 scale (a power of two) for 32 of a row; bf16 activations",
    "needs": ["torch"],
    "source": "OCP Microscaling Formats specification 1.0; gpt-oss, arXiv 2508.10925",
    "dtype": "bf16",
    "weight_bits": 4,
    "activation_bits": 16,
    "weight_block": (1, 32),
    "scale_bytes": 1,
    "engine": "mxfp4_w4a16",
}

GROUP, BIAS = 32, 127


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]; columns must be even, the last group may be smaller.

    The scale is the power of two below the group's largest value, divided by 4, which is e2m1's largest power of two.

    Returns:
        values [..., rows, columns / 2] uint8, scales [..., rows, ceil(columns / 32)] uint8: 127 plus the exponent.
    """
    if w.dim() > 2:  # expert by expert: all of them in fp32 would not fit into memory
        return Quantised.stack([quantise(one) for one in w])
    numbers = grouped(w, GROUP)
    # frexp's mantissa is below 1, so its exponent is one more than that of the power of two below.
    exponent = (torch.frexp(numbers.abs().amax(-1)).exponent - 3).clamp(-BIAS, BIAS)
    codes = e2m1_codes(torch.ldexp(numbers, -exponent[..., None]))
    return Quantised("mxfp4", pack(codes, w.shape[1]), (exponent + BIAS).to(torch.uint8))


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by its power of two, in ``dtype``."""
    exponents = spread(w.scales.int() - BIAS, GROUP, w.shape[-1])
    return torch.ldexp(e2m1_values(unpack(w.values), dtype), exponents)
