"""e4m3 weights in blocks of 128 x 128 and e4m3 activations in groups of 128 features, each with an fp32 scale."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised

INFO = {
    "about": "e4m3 weights in 128x128 blocks, activations in groups of 128 as they come; fp32 scales",
    "needs": ["torch"],
    "source": "DeepSeek-V3, arXiv 2412.19437, section 3.3; Qwen3-*-FP8",
    "dtype": "bf16",
    "weight_bits": 8,
    "activation_bits": 8,
    "weight_block": (128, 128),
    "activation_group": 128,
    "scale_bytes": 4,
    "activation_roundoff": 0.0625,
    "product": "e4m3",
    "engine": "fp8_w8a8",
}

BLOCK = 128
LARGEST = 448.0  # of e4m3


def quantise(w: Tensor) -> Quantised:
    """Return weights [..., rows, columns] in blocks; the last block of a row or column may be smaller.

    Returns:
        values [..., rows, columns] e4m3, scales [..., ceil(rows / 128), ceil(columns / 128)] fp32.
    """
    if w.dim() > 2:  # expert by expert: in fp32 all at once would not fit
        parts = [quantise(one) for one in w]
        return Quantised("fp8_block", *(torch.stack([getattr(p, key) for p in parts]) for key in ("values", "scales")))
    return _quantise(w, BLOCK)


def quantise_activations(x: Tensor) -> Quantised:
    """Return activations [rows, features] in groups of a row: scales [rows, ceil(features / 128)] fp32."""
    return _quantise(x, 1)


def dequantise(w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return what the numbers stand for, each multiplied by its scale in ``dtype``."""
    (rows, columns), high = w.values.shape[-2:], BLOCK if w.values.shape[-2] != w.scales.shape[-2] else 1
    return w.values.to(dtype) * _spread(w.scales.to(dtype), rows, columns, high)


def _quantise(w: Tensor, high: int) -> Quantised:
    """Quantise [rows, columns] in blocks of ``high`` rows and 128 columns, the largest of each becoming 448."""
    rows, columns = w.shape
    padded = torch.nn.functional.pad(w.float(), (0, -columns % BLOCK, 0, -rows % high))
    blocks = padded.view(padded.shape[0] // high, high, padded.shape[1] // BLOCK, BLOCK)
    largest = blocks.abs().amax((1, 3))
    scales = torch.where(largest > 0, largest / LARGEST, 1.0)
    values = (w.float() / _spread(scales, rows, columns, high)).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return Quantised("fp8_block", values, scales)


def _spread(scales: Tensor, rows: int, columns: int, high: int) -> Tensor:
    wide = scales.repeat_interleave(high, -2).repeat_interleave(BLOCK, -1)
    return wide[..., :rows, :columns]
