# SPDX-License-Identifier: Apache-2.0
"""Factors of a product as Hopper's tensor memory accelerator loads them."""

from typing import Any

import torch
from torch import Tensor

from moe_lab.gpu.kernels._device import is_hip
from moe_lab.gpu.kernels.tile import Tile


def described(x: Tensor, w: Tensor, tile: Tile, gather: bool) -> tuple[Any, Any]:
    """Return x and w as TMA takes them; gathered rows are not adjacent, so x is then loaded through pointers.

    Args:
        x: [rows, gemm_k], contiguous.
        w: [E, gemm_n, gemm_k], contiguous; in four bits [E, gemm_n, gemm_k / 2] uint8.
        tile: of the product.
        gather: whether rows of x are gathered.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    depth = tile.block_k // 2 if w.dtype == torch.uint8 else tile.block_k
    weights = TensorDescriptor.from_tensor(w.view(-1, w.shape[2]), [tile.block_n, depth])
    return x if gather else TensorDescriptor.from_tensor(x, [tile.block_m, tile.block_k]), weights


def has_tma(x: Tensor, gemm_k: int) -> bool:
    """Return whether TMA can load rows of gemm_k elements like ``x``: types of up to 16 bits, strides of 16 bytes."""
    if not x.is_cuda or is_hip() or x.element_size() > 2 or gemm_k * x.element_size() % 16:
        return False
    return torch.cuda.get_device_capability(x.device)[0] >= 9
