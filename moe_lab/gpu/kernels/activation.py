"""Gated activations over [rows, 2N] (gate columns, then up columns) -> [rows, N], computed in fp32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit
from moe_lab.spec.errors import UserError

ACTIVATIONS = ("silu", "swigluoai")
# gpt-oss model card (arXiv 2508.10925, section 2): clamped SwiGLU with a residual connection.
ALPHA, LIMIT = 1.702, 7.0


@jit
def gated(gate, up, SWIGLUOAI: tl.constexpr, ALPHA: tl.constexpr, LIMIT: tl.constexpr):
    """Return act(gate) * up of fp32 gate and up."""
    if SWIGLUOAI:
        gate = tl.minimum(gate, LIMIT)
        up = tl.minimum(tl.maximum(up, -LIMIT), LIMIT)
        return (up + 1.0) * gate * tl.sigmoid(gate * ALPHA)
    return gate * tl.sigmoid(gate) * up


@jit
def gated_activation_kernel(
    gate_up,  # [rows, 2N]
    y,  # [rows, N], out
    order,  # [rows] int32: rows whose pair is >= numel are padding; any pointer when not SORTED
    numel,
    rows,
    N,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    SWIGLUOAI: tl.constexpr,
    SORTED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Do one [BLOCK_ROWS, BLOCK_N] tile of y."""
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    mask = (row < rows) & (column < N)
    if SORTED:
        mask = mask & (tl.load(order + row, mask=row < rows, other=numel) < numel)
    at = gate_up + row * 2 * N + column
    gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(at + N, mask=mask, other=0.0).to(tl.float32)
    result = gated(gate, up, SWIGLUOAI, ALPHA, LIMIT)
    tl.store(y + row * N + column, result.to(y.dtype.element_ty), mask=mask)


def gated_activation(gate_up: Tensor, activation: str, order: Tensor | None = None, numel: int = 0) -> Tensor:
    """Return act(gate) * up [rows, N] in the dtype of the input.

    Args:
        gate_up: [rows, 2N] fp32, fp16 or bf16, contiguous.
        activation: one of ``ACTIVATIONS``.
        order: [rows] int32, the pair of each row if rows are sorted and padded: padding is neither read nor written.
        numel: number of pairs; a larger or equal entry of ``order`` means padding.

    Raises:
        UserError: an unknown activation.
    """
    check_activation(activation)
    check_device(gate_up)
    rows, N = gate_up.shape[0], gate_up.shape[1] // 2
    y = torch.empty((rows, N), dtype=gate_up.dtype, device=gate_up.device)
    if rows == 0:
        return y
    block_rows, block_n = (1, 256) if rows < 512 else (8, 256)
    gated_activation_kernel[(triton.cdiv(rows, block_rows), triton.cdiv(N, block_n))](
        gate_up,
        y,
        gate_up if order is None else order,
        numel,
        rows,
        N,
        ALPHA=ALPHA,
        LIMIT=LIMIT,
        SWIGLUOAI=activation == "swigluoai",
        SORTED=order is not None,
        BLOCK_ROWS=block_rows,
        BLOCK_N=block_n,
        num_warps=1 if block_rows == 1 else 4,
    )
    return y


def gated_activation_torch(gate_up: Tensor, activation: str) -> Tensor:
    """Reference of ``gated_activation``, in the dtype of the input throughout."""
    check_activation(activation)
    gate, up = gate_up.chunk(2, dim=-1)
    if activation == "silu":
        return torch.nn.functional.silu(gate) * up
    gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
    return (up + 1) * gate * torch.sigmoid(gate * ALPHA)


def check_activation(activation: str) -> None:
    """Raise UserError unless the activation is known."""
    if activation not in ACTIVATIONS:
        raise UserError(f"Activation '{activation}' is unknown; choose one of: {', '.join(ACTIVATIONS)}.")
