# SPDX-License-Identifier: Apache-2.0
"""Weights in the order in which ``hopper_moe`` and ``few`` read them: once for all calls."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import AnyWeights, Quantised, apart
from moe_lab.gpu.kernels.hopper import eight_bits, four_bits

UNIT_ROWS, STEP_BYTES = 128, 128  # of a unit; of a row of it


def prepare(w13: AnyWeights, w2: AnyWeights) -> tuple[Tensor, Tensor]:
    """Return both weights as the kernel reads them: [E, bytes], uint8, contiguous.

    A unit holds 128 rows by 128 bytes; an expert's lie in the order [units, steps, 128, 128]. Rows past the last are
    zero. A thread of a warpgroup holds rows r and r + 8 of each 16, so r is a gate row and r + 8 its up row in w13; in
    w2 they, and those 64 rows further on, are neighbouring features. The eight 16-byte chunks of row r lie in the order
    of the 128-byte swizzle, chunk c at c ^ (r % 8). In ``fp8_block`` an expert's units are followed by their scales,
    fp32 [units / 2, steps, 2, 2]: for each of two units those of the rows r and of the rows r + 8. Weights of four and
    eight bits lie as ``four_bits.units`` and ``eight_bits.units`` say; scales of rows follow those of eight. Then come
    biases; both are fp32 [units, 2, 4, 8, 2]: of 64 rows, warps, rows r and r + 8.

    Args:
        w13: [E, 2N, K], gate rows then up rows; rows of K and N numbers are multiples of 128 bytes.
        w2: [E, K, N].
    """
    (w13, b13), (w2, b2) = apart(w13), apart(w2)
    values13, values2 = (w.values if isinstance(w, Quantised) else w for w in (w13, w2))
    N, device = values13.shape[1] // 2, values13.device
    half, warp, up, lane = torch.meshgrid(
        *(torch.arange(n, device=device) for n in (2, 4, 2, 8)), indexing="ij"
    )  # of the 128 rows of a unit
    units13 = torch.arange(2 * N // UNIT_ROWS, device=device)[:, None]
    rows13 = units13 * 64 + (warp * 16 + lane * 2 + half).flatten() + up.flatten() * N
    units2 = torch.arange(-(-values2.shape[1] // UNIT_ROWS), device=device)[:, None]
    rows2 = units2 * UNIT_ROWS + (warp * 32 + lane * 4 + half * 2 + up).flatten()
    tails13, tails2 = _of_rows(b13, rows13), _of_rows(b2, rows2)
    if not (isinstance(w13, Quantised) and isinstance(w2, Quantised)):
        return _units(values13, rows13, tails13), _units(values2, rows2, tails2)
    if four_bits.widened(w13.format):
        return four_bits.units(w13, rows13, tails13), four_bits.units(w2, rows2, tails2)
    if w13.format in eight_bits.FORMATS:
        by13, by2 = _of_rows(eight_bits.row_scales(w13), rows13), _of_rows(eight_bits.row_scales(w2), rows2)
        return eight_bits.units(w13, rows13, by13 + tails13), eight_bits.units(w2, rows2, by2 + tails2)
    gate, up_scales = w13.scales.float().chunk(2, 1)
    scales13 = torch.stack([gate, up_scales], -1)[..., None, :].expand(*gate.shape, 2, 2)
    paired = torch.nn.functional.pad(w2.scales.float(), (0, 0, 0, w2.scales.shape[1] % 2))
    scales2 = paired.unflatten(1, (-1, 2)).transpose(2, 3)[..., None].expand(-1, -1, -1, 2, 2)
    return _units(values13, rows13, [scales13, *tails13]), _units(values2, rows2, [scales2, *tails2])


def _of_rows(numbers: Tensor | None, rows: Tensor) -> list[Tensor]:
    """Return what an expert's weights are followed by for its [E, rows] numbers: nothing, or [E, units, 2, 4, 8, 2]."""
    if numbers is None:
        return []
    inside = rows < numbers.shape[1]
    taken = numbers.float()[:, rows.clamp(max=numbers.shape[1] - 1)] * inside
    return [taken.view(len(numbers), len(rows), 2, 4, 2, 8).transpose(-1, -2)]


def _units(w: Tensor, rows: Tensor, tails: list[Tensor]) -> Tensor:
    """Return w [E, rows, k] as units of the given rows [units, 128], and behind them what else an expert has, fp32."""
    E, most, k = w.shape
    chunk = torch.arange(8, device=w.device)
    swizzled = chunk[:, None] ^ chunk[None, :]  # [row % 8, place] -> chunk
    inside = (rows < most).flatten()[:, None]
    steps = k * w.itemsize // STEP_BYTES
    size = rows.numel() * steps * STEP_BYTES
    tail = sum(one[0].numel() * 4 for one in tails)
    result = torch.empty((E, size + tail), dtype=torch.uint8, device=w.device)
    for expert in range(E):  # one at a time, so that no second copy of all weights is needed
        wide = w[expert].view(torch.int64)
        taken = wide[rows.clamp(max=most - 1).flatten()] * inside
        chunks = taken.view(len(rows), UNIT_ROWS // 8, 8, steps, 8, 2).permute(0, 3, 1, 2, 4, 5)
        units = chunks[:, :, :, chunk[:, None], swizzled].contiguous()
        result[expert, :size] = units.view(torch.uint8).flatten()
        if tails:
            result[expert, size:] = torch.cat([one[expert].flatten() for one in tails]).view(torch.uint8)
    return result
