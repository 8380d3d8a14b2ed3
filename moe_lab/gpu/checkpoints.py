# SPDX-License-Identifier: Apache-2.0
"""int4 weights as checkpoints of AWQ and GPTQ pack them -> the format ``int4_w4a16`` with their groups.

Both store a layer of K inputs and N outputs with N along the last dimension, so gate and up become the rows of w13 by
joining each of their tensors there: ``torch.cat([gate, up], -1)``. Experts are stacked in front.
"""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.formats._int4 import MIDDLE
from moe_lab.spec import formats
from moe_lab.spec.errors import UserError

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight columns is in bits 0 to 3 of a word, in bits 4 to 7, ...


def from_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Quantised:
    """Return the weights of AutoAWQ's GEMM packing.

    Args:
        qweight: [..., K, N / 8] int32.
        qzeros: [..., K / group, N / 8] int32.
        scales: [..., K / group, N] fp16 or bf16.

    Raises:
        UserError: groups that there is no format for.
    """
    place = torch.tensor(AWQ_ORDER, device=qweight.device).argsort()
    codes, zeros = (_nibbles(packed)[..., place].flatten(-2) for packed in (qweight, qzeros))
    return _quantised(codes, zeros, scales)


def from_gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None = None, *, v2: bool = False
) -> Quantised:
    """Return the weights of GPTQ's packing; without zero points if all of them are 8 (symmetric).

    Args:
        qweight: [..., K / 8, N] int32.
        qzeros: [..., K / group, N / 8] int32.
        scales: [..., K / group, N] fp16 or bf16.
        g_idx: [..., K] the group of each input; None = in order.
        v2: whether the checkpoint's format is ``gptq_v2``, which stores zero points as they are, not less 1.

    Raises:
        UserError: groups that there is no format for, or inputs that are not in the order of their groups.
    """
    codes = _nibbles(qweight).movedim(-1, -2).flatten(-3, -2)
    group = codes.shape[-2] // scales.shape[-2]
    if g_idx is not None and bool((g_idx != torch.arange(codes.shape[-2], device=g_idx.device) // group).any()):
        raise UserError("The groups of this GPTQ checkpoint are in another order (desc_act); give one without it.")
    zeros = (_nibbles(qzeros).flatten(-2) + (0 if v2 else 1)) & 15
    return _quantised(codes, None if bool((zeros == MIDDLE).all()) else zeros, scales)


def _nibbles(packed: Tensor) -> Tensor:
    """Return the eight numbers of each word [..., 8] int32, that in its lowest bits first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device)
    return (packed[..., None] >> shifts) & 15


def _quantised(codes: Tensor, zeros: Tensor | None, scales: Tensor) -> Quantised:
    """Return codes [..., K, N], zeros and scales [..., K / group, N] with N as rows, two codes a byte."""
    group = codes.shape[-2] // scales.shape[-2]
    name = f"int4_w4a16{'' if group == 128 else f'_g{group}'}{'' if zeros is None else '_zeros'}"
    formats.get(name)
    codes = codes.transpose(-1, -2)
    values = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
    by = scales.bfloat16().transpose(-1, -2).contiguous()
    return Quantised(name, values, by, None if zeros is None else zeros.to(torch.uint8).transpose(-1, -2).contiguous())
