# SPDX-License-Identifier: Apache-2.0
"""Weights of four bits in the order in which both kernels read and widen them (``widen.cuh``)."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised
from moe_lab.gpu.formats._four_bits import unpack
from moe_lab.spec import formats

UNIT_ROWS, COLUMNS = 128, 128  # of a unit; of a step
HALF_BYTES = UNIT_ROWS * COLUMNS // 4
# Bits of a code, the lowest first, where a word holds the first of a pair; the second is 16 bits further on.
INT4_BITS = [[(3 + 4 * pair + bit) % 32 for bit in range(4)] for pair in range(4)]
E2M1_BITS = [[6, 7, 8, 15], [10, 11, 12, 19], [0, 1, 2, 9], [4, 5, 14, 13]]


def widened(format: str) -> bool:
    """Return whether a format's weights have four bits and its activations sixteen."""
    known = formats.get(format)
    return known.weight_bits == 4 and not known.activation_block


def _kind(format: str) -> str:
    if not format.startswith("int4"):
        return "E2M1"
    return "INT4_ZEROS" if format.endswith("_zeros") else "INT4"


def _group(format: str) -> int:
    block = formats.get(format).weight_block
    assert block is not None
    return block[1]


def unit_bytes(format: str) -> int:
    """Return the bytes of a unit and step: its scales, and 128 rows by 128 weights."""
    groups = COLUMNS // _group(format)
    pair = groups * {"E2M1": 2, "INT4": 4, "INT4_ZEROS": 8}[_kind(format)]  # of rows r and r + 8
    return UNIT_ROWS // 2 * pair + 2 * HALF_BYTES


def macros(format: str) -> tuple[tuple[str, str | int], ...]:
    """Return WIDEN and GROUP, which say to the kernel how weights are stored."""
    if not widened(format):
        return ("WIDEN", "WHOLE"), ("GROUP", 1)
    return ("WIDEN", _kind(format)), ("GROUP", _group(format))


def units(w: Quantised, rows: Tensor, tails: list[Tensor]) -> Tensor:
    """Return w [E, rows, columns] as the kernel reads it: [E, bytes], uint8.

    A unit has the given rows [units, 128] of w; an expert's bytes are [units, steps], where a step has 128 columns, of
    which the last may lack half; then ``tails``, fp32 [E, ...]; then a factor of the whole expert, fp32, and 12 bytes
    that nobody reads. A step has for each warp's 16 rows, of 64 and then of the other 64, first the scales, then for
    each of two halves the words [8, 4, 4] of rows r and r + 8, lanes of a row and parts of 16 columns.
    """
    kind, group, steps = _kind(w.format), _group(w.format), -(-w.shape[2] // COLUMNS)
    count = len(rows)
    size = count * steps * unit_bytes(w.format)
    end = size + sum(one[0].numel() * 4 for one in tails)
    result = torch.zeros((w.shape[0], end + 16), dtype=torch.uint8, device=rows.device)
    inside = (rows < w.shape[1]).flatten()[:, None]
    taken = rows.clamp(max=w.shape[1] - 1).flatten()
    for expert in range(w.shape[0]):  # one at a time, so that no second copy of all weights is needed
        one = w[expert]
        words = _words(_padded(unpack(one.values)[taken] * inside, COLUMNS), kind, count, steps)
        scales, factor = _scales(one, kind)
        of_rows = [_padded(s[taken] * inside, COLUMNS // group) for s in scales]
        layout = "bytes" if kind == "E2M1" else "pairs"
        first = _beside(of_rows, layout, count, steps)
        result[expert, :size] = torch.cat([first.unflatten(-1, (8, -1)), words], -1).flatten()
        behind = [*(one[expert].flatten() for one in tails), factor.float().view(1)]
        result[expert, size : end + 4] = torch.cat(behind).view(torch.uint8)
    return result


def _padded(rows: Tensor, multiple: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % multiple))


def _words(codes: Tensor, kind: str, count: int, steps: int) -> Tensor:
    """Return codes [count * 128, steps * 128] as bytes [count, steps, 8, HALF_BYTES / 4]."""
    # Rows: 64, warp, r or r + 8, r; columns: step, half, part, the first or last eight, lane of the row, which of two.
    parts = codes.view(count, 2, 4, 2, 8, steps, 2, 4, 2, 4, 2).int()
    parts = parts.permute(0, 5, 1, 2, 6, 4, 9, 7, 8, 3, 10)  # ..., part, pair of columns, row, which of two
    words = torch.zeros(parts.shape[:8], dtype=torch.int32, device=codes.device)
    for pair, bits in enumerate(E2M1_BITS if kind == "E2M1" else INT4_BITS):
        for second in range(2):
            code = parts[..., pair // 2, pair % 2, second]
            for bit, place in enumerate(bits):
                words |= (code >> bit & 1) << (place + 16 * second) % 32
    return words.contiguous().view(count, steps, 8, -1).view(torch.uint8)


def _scales(w: Quantised, kind: str) -> tuple[list[Tensor], Tensor]:
    """Return what the kernel multiplies by, and subtracts, for rows and groups of an expert, and its factor of all."""
    if w.format == "nvfp4":
        assert w.matrix_scales is not None
        return [w.scales.view(torch.uint8)], w.matrix_scales * 512
    if kind == "E2M1":
        most = w.scales.amax().int()
        return [(253 + w.scales.int() - most).clamp(min=0).to(torch.uint8)], torch.exp2(most.float() - 127)
    if w.zeros is not None:
        return [w.scales, -(128 + 8 * w.zeros.float()).bfloat16()], torch.full_like(w.scales[0, 0], 1 / 8)
    most = w.scales.float().abs().amax().clamp(min=2.0**-126).log2().floor()
    return [torch.ldexp(w.scales.double(), 127 - most).bfloat16()], 8 * torch.exp2(most)


def _beside(of_rows: list[Tensor], layout: str, count: int, steps: int) -> Tensor:
    """Return scales [count * 128, steps * groups] as bytes [count, steps, ...], those of r and r + 8 together."""
    several = torch.stack([s.view(count, 8, 2, 8, steps, -1) for s in of_rows], -1)
    order = (0, 4, 1, 3, 2, 5, 6) if layout == "bytes" else (0, 4, 1, 3, 5, 6, 2)
    return several.permute(order).contiguous().view(count, steps, -1).view(torch.uint8)
