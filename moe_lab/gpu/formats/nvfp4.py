# SPDX-License-Identifier: Apache-2.0
"""e2m1 weights in groups of 16 of a row with e4m3 scales, and an fp32 scale for each matrix; activations stay bf16."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.formats._four_bits import E2M1, e2m1_codes, e2m1_values, grouped, pack, spread, unpack

INFO = {
    "about": "e2m1 weights, an e4m3 scale for 16 of a row and an fp32 one for each matrix; bf16 activations",
    "needs": ["torch"],
    "source": "NVIDIA ModelOpt, NVFP4 with weights alone",
    "dtype": "bf16",
    "weight_bits": 4,
    "activation_bits": 16,
    "weight_block": (1, 16),
    "scale_bytes": 1,
    "matrix_scale_bytes": 4,
    "engine": "nvfp4_w4a16",
}

GROUP, LARGEST_SCALE = 16, 448.0


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns]; columns must be even, the last group may be smaller.

    The largest scale of a matrix becomes 448, and the largest number of a group 6.

    Returns:
        values [..., rows, columns / 2] uint8, scales [..., rows, ceil(columns / 16)] e4m3, matrix_scales [..., 1, 1]
        fp32.
    """
    if w.dim() > 2:  # expert by expert: all of them in fp32 would not fit into memory
        return Quantised.stack([quantise(one) for one in w])
    numbers = grouped(w, GROUP)
    most = numbers.abs().amax(-1) / E2M1[-1]
    whole = most.amax() / LARGEST_SCALE
    whole = torch.where(whole > 0, whole, 1.0)  # a matrix of zeros must not be divided by 0
    scales = (most / whole).to(torch.float8_e4m3fn)
    by = scales.float() * whole
    codes = e2m1_codes(numbers / torch.where(by > 0, by, 1.0)[..., None])
    return Quantised("nvfp4", pack(codes, w.shape[1]), scales, matrix_scales=whole.view(1, 1))


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return the values that are meant: each multiplied by the scales of its group and its matrix, in ``dtype``."""
    assert w.matrix_scales is not None
    scales = spread(w.scales.to(dtype), GROUP, w.shape[-1]) * w.matrix_scales.to(dtype)
    return e2m1_values(unpack(w.values), dtype) * scales
