# SPDX-License-Identifier: Apache-2.0
"""Dense products with weights in any format, for attention and shared experts."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from moe_lab.gpu.align import Alignment
from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels.fused_moe import fused_moe_gemm
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.gpu.kernels.scales import check_product
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import formats


def linear(x: Tensor, w: Weights) -> Tensor:
    """Return x @ w^T [rows, out] in the dtype of x.

    If weights have scales, the product is that of ``fused_moe`` with a single expert that has every row; a format of
    activations too quantises x in a separate launch.

    Args:
        x: [rows, in] fp32, fp16 or bf16, contiguous.
        w: [out, in] of the dtype of x, or in a format with scales.

    Raises:
        UserError: e4m3 on a GPU that does not multiply it.
    """
    if not isinstance(w, Quantised):
        return functional.linear(x, w)
    tokens: Weights = x
    if formats.get(w.format).activation_block:
        check_product(w.format, x.device)
        tokens = quantise(x, format=w.format)
    return scaled_linear(tokens, w, x.dtype)


def scaled_linear(x: Weights, w: Quantised, dtype: torch.dtype) -> Tensor:
    """Return x @ w^T [rows, out] in ``dtype``.

    Args:
        x: [rows, in] fp32, fp16 or bf16, contiguous; in the format of w if that is one of activations too.
        w: [out, in] in a format with scales.
        dtype: of the result.
    """
    rows = x.shape[0]
    tile = Tile(16 if rows <= 64 else 64 if rows <= 1024 else 128, 128, 128, 8, 4 if rows <= 1024 else 8, 3)
    one = w.each(lambda tensor: tensor[None])
    tiles = _one_expert(rows, tile.block_m, w.values.device)
    return fused_moe_gemm(x, one, tiles, rows, pairs_per_row=1, tile=tile, dtype=dtype)


@cache
def _one_expert(rows: int, block_m: int, device: torch.device) -> Alignment:
    """Return an alignment of rows in their order, all of expert 0; made once, since every call of a layer asks."""
    padded = -(-rows // block_m) * block_m
    order = torch.arange(padded, dtype=torch.int32, device=device).clamp_(max=rows)
    total = torch.full((1,), padded, dtype=torch.int32, device=device)
    return Alignment(order, torch.zeros(padded // block_m, dtype=torch.int32, device=device), total)
