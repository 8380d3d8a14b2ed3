"""Activations to e4m3 in groups of 128 features of a row, alone or behind the activation; and how they are multiplied.

The numbers are those of ``formats/fp8_block.py``: the largest of a group becomes 448, and its scale is fp32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels._device import check_device, is_hip
from moe_lab.gpu.kernels._jit import jit
from moe_lab.gpu.kernels.activation import ALPHA, LIMIT, check_activation, gated
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec.errors import UserError

GROUP = 128


@jit
def quantise_kernel(
    x,  # [rows, features], or [rows, 2 * features] with an activation
    values,  # [rows, features], out
    scales,  # [rows, groups] fp32, out
    order,  # [rows] int32: rows of pairs from numel on are padding; None = none are
    numel,
    rows,
    features,
    groups,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    ACTIVATION: tl.constexpr,  # "none", "silu" or "swigluoai"
    BLOCK_ROWS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Do one group of BLOCK_ROWS rows."""
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    group = tl.program_id(1)
    column = (group * GROUP + tl.arange(0, GROUP))[None, :]
    real = row < rows
    if order is not None:
        real = real & (tl.load(order + row, mask=real, other=numel) < numel)
    mask = real[:, None] & (column < features)
    if ACTIVATION == "none":
        numbers = tl.load(x + row[:, None] * features + column, mask=mask, other=0.0).to(tl.float32)
    else:
        at = x + row[:, None] * 2 * features + column
        gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(at + features, mask=mask, other=0.0).to(tl.float32)
        numbers = gated(gate, up, ACTIVATION == "swigluoai", ALPHA, LIMIT)
    numbers = tl.where(mask, numbers, 0.0)
    largest = tl.max(tl.abs(numbers), axis=1)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    numbers = tl.minimum(tl.maximum(numbers / scale[:, None], -448.0), 448.0)
    tl.store(values + row[:, None] * features + column, numbers.to(values.dtype.element_ty), mask=mask)
    tl.store(scales + row * groups + group, scale, mask=real)


@jit
def add_scaled(acc, x_tile, w_tile, scale, SWAP: tl.constexpr):
    """Return acc + scale * x_tile @ w_tile^T, whose fp32 sum is of these steps of K alone.

    x_tile is [m, k], w_tile [n, k], scale [m], and acc [m, n]; with SWAP [n, m], since wgmma wants 64 rows first.
    """
    if SWAP:
        acc += tl.dot(w_tile, x_tile.T) * scale[None, :]
    else:
        acc += tl.dot(x_tile, w_tile.T) * scale[:, None]
    return acc


def stored_as(x: Tensor) -> torch.dtype:
    """Return what a kernel writes of e4m3: Triton's interpreter loses the carry of a mantissa that rounds up in it."""
    return torch.float8_e4m3fn if x.is_cuda else torch.float32  # there torch rounds


def program(rows: int, groups: int) -> dict[str, int]:
    """Return how many rows a program takes, and its warps: single rows while there are few, for a wide grid."""
    few = rows * groups < 4096
    return {"BLOCK_ROWS": 1 if few else 16, "num_warps": 1 if few else 4}


def quantise(x: Tensor, activation: str = "none", order: Tensor | None = None, numel: int = 0) -> Quantised:
    """Return x, or act(gate) * up of it, in e4m3: values [rows, features], scales [rows, ceil(features / 128)] fp32.

    Args:
        x: [rows, features] fp32, fp16 or bf16, contiguous; with an activation [rows, 2 * features], gates then ups.
        activation: ``none``, or one of ``activation.ACTIVATIONS``.
        order: [rows] int32, the pair of each row where rows are sorted and padded: padding stays unread and unwritten.
        numel: pairs; from there on ``order`` is padding.

    Raises:
        UserError: an unknown activation.
    """
    if activation != "none":
        check_activation(activation)
    check_device(x)
    rows, features = x.shape[0], x.shape[1] // (1 if activation == "none" else 2)
    groups = triton.cdiv(features, GROUP)
    values = torch.empty((rows, features), dtype=stored_as(x), device=x.device)
    scales = torch.empty((rows, groups), dtype=torch.float32, device=x.device)
    if rows:
        taken = program(rows, groups)
        quantise_kernel[(triton.cdiv(rows, taken["BLOCK_ROWS"]), groups)](
            *(x, values, scales, order, numel, rows, features, groups),
            ALPHA=ALPHA,
            LIMIT=LIMIT,
            ACTIVATION=activation,
            GROUP=GROUP,
            **taken,
        )
    return Quantised("fp8_block", values.to(torch.float8_e4m3fn), scales)


def parts(numbers: Weights) -> tuple[Tensor, Tensor | None]:
    """Return the values and the scales; without scales the tensor itself and None."""
    return (numbers.values, numbers.scales) if isinstance(numbers, Quantised) else (numbers, None)


def swapped(tile: Tile) -> bool:
    """Return whether a product of e4m3 computes y^T = w x^T: wgmma takes 64 rows of its first factor, or more.

    Raises:
        UserError: the tile is not of one block of weights, which has one scale.
    """
    if tile.block_k != GROUP or tile.block_n > GROUP:
        raise UserError(
            f"fp8_block needs tiles with block_k {GROUP} and block_n up to {GROUP}, not {tile.block_k} and "
            f"{tile.block_n}."
        )
    return tile.block_m < 64 <= tile.block_n


def check_e4m3(device: torch.device) -> None:
    """Refuse GPUs whose matrix units, as Triton drives them, have no e4m3.

    Raises:
        UserError: the device is one of them.
    """
    if device.type == "cuda" and (is_hip() or torch.cuda.get_device_capability(device) < (8, 9)):
        raise UserError(
            "fp8_block multiplies in e4m3, which needs an NVIDIA GPU of compute capability 8.9 or more; "
            "choose bf16 here."
        )
