"""Weights in the order in which ``hopper_moe`` reads them: once for all calls."""

import torch
from torch import Tensor

from moe_lab.gpu.formats import Quantised

UNIT_ROWS, STEP_BYTES = 128, 128  # of a unit; of a row of it


def prepare(w13: Tensor | Quantised, w2: Tensor | Quantised) -> tuple[Tensor, Tensor]:
    """Return both weights as the kernel reads them: [E, bytes], uint8, contiguous.

    A unit holds 128 rows by 128 bytes; an expert's lie in the order [units, steps, 128, 128]. Rows past the last are
    zero. A thread of a warpgroup holds rows r and r + 8 of each 16, so r is a gate row and r + 8 its up row in w13; in
    w2 they, and those 64 rows further on, are neighbouring features. The eight 16-byte chunks of row r lie in the order
    of the 128-byte swizzle, chunk c at c ^ (r % 8). In ``fp8_block`` an expert's units are followed by their scales,
    fp32 [units / 2, steps, 2, 2]: for each of two units those of the rows r and of the rows r + 8.

    Args:
        w13: [E, 2N, K], gate rows then up rows; rows of K and N numbers are multiples of 128 bytes.
        w2: [E, K, N].
    """
    values13, values2 = (w.values if isinstance(w, Quantised) else w for w in (w13, w2))
    N, device = values13.shape[1] // 2, values13.device
    half, warp, up, lane = torch.meshgrid(
        *(torch.arange(n, device=device) for n in (2, 4, 2, 8)), indexing="ij"
    )  # of the 128 rows of a unit
    units13 = torch.arange(2 * N // UNIT_ROWS, device=device)[:, None]
    rows13 = units13 * 64 + (warp * 16 + lane * 2 + half).flatten() + up.flatten() * N
    units2 = torch.arange(-(-values2.shape[1] // UNIT_ROWS), device=device)[:, None]
    rows2 = units2 * UNIT_ROWS + (warp * 32 + lane * 4 + half * 2 + up).flatten()
    if not (isinstance(w13, Quantised) and isinstance(w2, Quantised)):
        return _units(values13, rows13), _units(values2, rows2)
    gate, up_scales = w13.scales.float().chunk(2, 1)
    scales13 = torch.stack([gate, up_scales], -1)[..., None, :].expand(*gate.shape, 2, 2)
    paired = torch.nn.functional.pad(w2.scales.float(), (0, 0, 0, w2.scales.shape[1] % 2))
    scales2 = paired.unflatten(1, (-1, 2)).transpose(2, 3)[..., None].expand(-1, -1, -1, 2, 2)
    return _units(values13, rows13, scales13), _units(values2, rows2, scales2)


def _units(w: Tensor, rows: Tensor, scales: Tensor | None = None) -> Tensor:
    """Return w [E, rows, k] as units of the given rows [units, 128], and behind them an expert's scales."""
    E, most, k = w.shape
    chunk = torch.arange(8, device=w.device)
    swizzled = chunk[:, None] ^ chunk[None, :]  # [row % 8, place] -> chunk
    inside = (rows < most).flatten()[:, None]
    steps = k * w.itemsize // STEP_BYTES
    size = rows.numel() * steps * STEP_BYTES
    tail = 0 if scales is None else scales[0].numel() * 4
    result = torch.empty((E, size + tail), dtype=torch.uint8, device=w.device)
    for expert in range(E):  # one at a time, so that no second copy of all weights is needed
        wide = w[expert].view(torch.int64)
        taken = wide[rows.clamp(max=most - 1).flatten()] * inside
        chunks = taken.view(len(rows), UNIT_ROWS // 8, 8, steps, 8, 2).permute(0, 3, 1, 2, 4, 5)
        units = chunks[:, :, :, chunk[:, None], swizzled].contiguous()
        result[expert, :size] = units.view(torch.uint8).flatten()
        if scales is not None:
            result[expert, size:] = scales[expert].contiguous().view(torch.uint8).flatten()
    return result
