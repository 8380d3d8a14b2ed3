# SPDX-License-Identifier: Apache-2.0
"""Residual add and RMSNorm (arXiv 1910.07467) in one pass, computed in fp32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit


@jit
def add_rms_norm_kernel(
    x,  # [rows, K]
    residual,  # [rows, K]
    weight,  # [K]
    y,  # [rows, K], out
    summed,  # [rows, K], out
    K,
    eps,
    BLOCK_K: tl.constexpr,
):
    """Normalise one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_K)
    mask = column < K
    at = row * K + column
    total = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(summed + at, total.to(summed.dtype.element_ty), mask=mask)
    scale = 1.0 / tl.sqrt(tl.sum(total * total) / K + eps)
    gain = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + at, (total * scale * gain).to(y.dtype.element_ty), mask=mask)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (normalised [rows, K], x + residual [rows, K]) in the dtype of x.

    Args:
        x: [rows, K] fp32, fp16 or bf16, contiguous.
        residual: [rows, K], contiguous.
        weight: [K], the gain.
        eps: added to the mean square.
    """
    check_device(x)
    rows, K = x.shape
    y, summed = torch.empty_like(x), torch.empty_like(x)
    if rows:
        block_k = triton.next_power_of_2(K)
        warps = min(16, max(1, block_k // 512))
        add_rms_norm_kernel[(rows,)](x, residual, weight, y, summed, K, eps, BLOCK_K=block_k, num_warps=warps)
    return y, summed


def add_rms_norm_torch(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Reference of ``add_rms_norm``."""
    total = x.float() + residual.float()
    y = total * torch.rsqrt(total.square().mean(dim=-1, keepdim=True) + eps) * weight.float()
    return y.to(x.dtype), total.to(x.dtype)
