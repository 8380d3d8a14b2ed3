# SPDX-License-Identifier: Apache-2.0
"""Weights of eight bits in the order in which the kernel reads and widens them (``widen.cuh``)."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised

UNIT_ROWS, COLUMNS = 128, 128  # of a unit; of a step
UNIT_BYTES = UNIT_ROWS * COLUMNS  # of a unit and step
FORMATS = ("int8", "int8_w8a16")
MEANT = 64.0  # widened numbers are so many times smaller


def row_scales(w: Quantised) -> Tensor:
    """Return what sums of rows are multiplied by, [E, rows] fp32."""
    return w.scales[..., 0] * MEANT


def units(w: Quantised, rows: Tensor, tails: list[Tensor]) -> Tensor:
    """Return w [E, rows, columns] as the kernel reads it: [E, bytes], uint8.

    A unit has the given rows [units, 128] of w; an expert's bytes are [units, steps], where a step has 128 columns, of
    which the last may lack half; then ``tails``, fp32 [E, ...]. A step has for each warp's 16 rows, of 64 and then of
    the other 64, and for each of four times 32 columns the words [8, 4, 2, 2] of rows r and r + 8, lanes of a row,
    parts of 16 columns, and the first or last eight of those. A word has two columns, each of r and of r + 8; a byte is
    a number plus 128.
    """
    steps, count = -(-w.shape[2] // COLUMNS), len(rows)
    size = count * steps * UNIT_BYTES
    tail = sum(one[0].numel() * 4 for one in tails)
    result = torch.empty((w.shape[0], size + tail), dtype=torch.uint8, device=rows.device)
    inside = (rows < w.shape[1]).flatten()[:, None]
    taken = rows.clamp(max=w.shape[1] - 1).flatten()
    for expert in range(w.shape[0]):  # one at a time, so that no second copy of all weights is needed
        numbers = torch.nn.functional.pad(w.values[expert][taken] * inside, (0, -w.shape[2] % COLUMNS))
        # Rows: 64, warp, r or r + 8, r; columns: step, 32, part, first or last eight, lane of the row, which of two.
        parts = (numbers.view(torch.uint8) ^ 128).view(count, 2, 4, 2, 8, steps, 4, 2, 2, 4, 2)
        result[expert, :size] = parts.permute(0, 5, 1, 2, 6, 4, 9, 7, 8, 10, 3).reshape(-1)
        result[expert, size:] = torch.cat([one[expert].flatten() for one in tails]).view(torch.uint8)
    return result
