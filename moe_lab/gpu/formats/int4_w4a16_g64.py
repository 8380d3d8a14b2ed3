# SPDX-License-Identifier: Apache-2.0
"""int4 weights in groups of 64 of a row, each with a bf16 scale; activations stay bf16."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised, _int4

INFO = {
    "about": "int4 weights, a bf16 scale for 64 of a row; bf16 activations",
    "needs": ["torch"],
    "source": "GPTQ, arXiv 2210.17323, symmetric; groups of 64",
    "dtype": "bf16",
    "weight_bits": 4,
    "activation_bits": 16,
    "weight_block": (1, 64),
    "scale_bytes": 2,
    "weights_rounded": True,
    "engine": "int4_w4a16",
    "family": "int4_w4a16",
}

GROUP = 64


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]: scales [..., rows, ceil(columns / 64)] bf16."""
    return _int4.quantise(w, "int4_w4a16_g64", GROUP)


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant, in ``dtype``."""
    return _int4.dequantise(w, dtype, GROUP)
