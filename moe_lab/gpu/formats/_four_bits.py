# SPDX-License-Identifier: Apache-2.0
"""Numbers of four bits, two a byte, whose groups along a row share a scale: int4 and e2m1."""

import torch
from torch import Tensor

from moe_lab.spec.errors import UserError

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by their three bits; the fourth is the sign


def grouped(w: Tensor, group: int) -> Tensor:
    """Return w [rows, columns] in groups [rows, ceil(columns / group), group] fp32, the last filled up with zeros."""
    padded = torch.nn.functional.pad(w.float(), (0, -w.shape[-1] % group))
    return padded.view(w.shape[0], padded.shape[1] // group, group)


def spread(scales: Tensor, group: int, columns: int) -> Tensor:
    """Return the scale of each number: [..., groups] -> [..., columns]."""
    return scales.repeat_interleave(group, -1)[..., :columns]


def pack(codes: Tensor, columns: int) -> Tensor:
    """Return codes [rows, groups, group] of 0 to 15 two a byte, [rows, columns / 2] uint8, the even one low.

    Raises:
        UserError: an odd number of columns.
    """
    if columns % 2:
        raise UserError(f"Formats of 4 bits store two numbers a byte, so K and N must be even, not {columns}.")
    codes = codes.flatten(1)[:, :columns].to(torch.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4


def unpack(values: Tensor) -> Tensor:
    """Return the codes [..., columns] uint8 of packed values [..., columns / 2]."""
    return torch.stack([values & 15, values >> 4], -1).flatten(-2)


def e2m1_codes(numbers: Tensor) -> Tensor:
    """Return the codes of the nearest values of e2m1, a tie to the even code; beyond 6 it is 6."""
    size = numbers.abs().clamp(max=6.0)
    # Values lie 0.5 apart up to 2, then 1, then 2: half of the power of two below.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    table = torch.tensor(E2M1, device=numbers.device)
    return torch.bucketize((size / step).round() * step, table) + 8 * torch.signbit(numbers)


def e2m1_values(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of codes of e2m1."""
    table = torch.tensor((*E2M1, *(-value for value in E2M1)), dtype=dtype, device=codes.device)
    return table[codes.int()]
