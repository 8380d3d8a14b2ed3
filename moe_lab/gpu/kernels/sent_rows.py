# SPDX-License-Identifier: Apache-2.0
"""Rows as they travel between ranks in ``fp8_block``: e4m3 with its scales behind, in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.quantise import GROUP, e4m3_of, numbers_of, program


@jit
def sent_rows_kernel(
    x,  # [rows, features]
    values,  # e4m3, out: features of a row, and `apart` bytes on those of the next
    scales,  # fp32, out: groups of a row, likewise
    rows,
    features,
    apart,
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Quantise one group of BLOCK_ROWS rows."""
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    group = tl.program_id(1)
    column = (group * GROUP + tl.arange(0, GROUP))[None, :]
    real = row < rows
    mask = real[:, None] & (column < features)
    numbers, scale = e4m3_of(numbers_of(x, row, column, mask, features, "none", False, 0.0, 0.0))
    tl.store(values + row[:, None] * apart + column, numbers.to(values.dtype.element_ty), mask=mask)
    tl.store(scales + row * (apart // 4) + group, scale, mask=real)


def sent_rows(x: Tensor, apart: int) -> Tensor:
    """Return tokens x [M, K] as uint8 [M, apart]: K numbers in e4m3, an fp32 scale for each 128, and unspecified bytes.

    Args:
        x: fp16 or bf16, contiguous; K a multiple of 128.
        apart: bytes of a row, a multiple of 4.
    """
    check_device(x)
    (M, K), out = x.shape, torch.empty((len(x), apart), dtype=torch.uint8, device=x.device)
    if M:
        taken = program(M, K // GROUP)
        grid = triton.cdiv(M, taken["BLOCK_ROWS"]), K // GROUP
        parts = out[:, :K].view(torch.float8_e4m3fn), out[:, K:].view(torch.float32)
        sent_rows_kernel[grid](x, *parts, M, K, apart, GROUP=GROUP, **taken)
    return out
