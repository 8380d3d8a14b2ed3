# SPDX-License-Identifier: Apache-2.0
"""Activations over [rows, 2N] (gate columns, then up columns), or [rows, N] without a gate -> [rows, N], in fp32."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit
from moe_lab.spec.problem import check_activation, has_gate

# gpt-oss model card (arXiv 2508.10925, section 2): clamped SwiGLU with a residual connection.
ALPHA, LIMIT = 1.702, 7.0


@jit
def activated(gate, up, ACTIVATION: tl.constexpr, MUL: tl.constexpr, ALPHA: tl.constexpr, LIMIT: tl.constexpr):
    """Return act(gate), multiplied by up if MUL, of fp32 gate and up; see ``constants``."""
    if ACTIVATION == "swigluoai":
        gate = tl.minimum(gate, LIMIT)
        up = tl.minimum(tl.maximum(up, -LIMIT), LIMIT)
        return (up + 1.0) * gate * tl.sigmoid(gate * ALPHA)
    if ACTIVATION == "silu":
        result = gate * tl.sigmoid(gate)
    elif ACTIVATION == "gelu":
        result = gate * (0.5 + 0.5 * tl.erf(gate * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":  # 1 + tanh(z) is 2 sigmoid(2 z)
        result = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        result = tl.maximum(gate, 0.0) * tl.maximum(gate, 0.0)
    if MUL:
        result = result * up
    return result


def constants(activation: str) -> dict[str, Any]:
    """Return the constants of ``activated`` for ``none`` or one of ``ACTIVATIONS``.

    ACTIVATION is ``none``, ``silu``, ``gelu``, ``gelu_tanh``, ``relu2`` or ``swigluoai``; MUL says whether up follows.
    """
    mul = activation != "none" and has_gate(activation)
    return {"ACTIVATION": activation.removesuffix("_no_mul"), "MUL": mul, "ALPHA": ALPHA, "LIMIT": LIMIT}


@jit
def gated_activation_kernel(
    gate_up,  # [rows, 2N], or [rows, N] without MUL
    y,  # [rows, N], out
    order,  # [rows] int32: rows whose pair is >= numel are padding; any pointer when not SORTED
    numel,
    rows,
    N,
    ALPHA: tl.constexpr,
    LIMIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MUL: tl.constexpr,
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
    at = gate_up + row * (2 * N if MUL else N) + column
    gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(at + N, mask=mask, other=0.0).to(tl.float32) if MUL else gate
    result = activated(gate, up, ACTIVATION, MUL, ALPHA, LIMIT)
    tl.store(y + row * N + column, result.to(y.dtype.element_ty), mask=mask)


def gated_activation(gate_up: Tensor, activation: str, order: Tensor | None = None, numel: int = 0) -> Tensor:
    """Return act(gate) * up, or act(gate) alone, [rows, N] in the dtype of the input.

    Args:
        gate_up: [rows, 2N], without a gate [rows, N]; fp32, fp16 or bf16, contiguous.
        activation: one of ``ACTIVATIONS`` of the problem.
        order: [rows] int32, the pair of each row if rows are sorted and padded: padding is neither read nor written.
        numel: number of pairs; a larger or equal entry of ``order`` means padding.

    Raises:
        UserError: an unknown activation.
    """
    check_activation(activation)
    check_device(gate_up)
    fixed = constants(activation)
    rows, N = gate_up.shape[0], gate_up.shape[1] // (2 if fixed["MUL"] else 1)
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
        SORTED=order is not None,
        BLOCK_ROWS=block_rows,
        BLOCK_N=block_n,
        num_warps=1 if block_rows == 1 else 4,
        **fixed,
    )
    return y


def gated_activation_torch(gate_up: Tensor, activation: str) -> Tensor:
    """Reference of ``gated_activation``, in the dtype of the input throughout."""
    check_activation(activation)
    gate, up = gate_up.chunk(2, dim=-1) if has_gate(activation) else (gate_up, None)
    if activation == "swigluoai":
        assert up is not None
        gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
        return (up + 1) * gate * torch.sigmoid(gate * ALPHA)
    result = _TORCH[activation.removesuffix("_no_mul")](gate)
    return result if up is None else result * up


_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu2": lambda x: functional.relu(x).square(),
}
