# SPDX-License-Identifier: Apache-2.0
"""The steps between q/k/v projection and attention in one kernel: per-head RMSNorm, rotary embedding, KV-cache write.

The rotation pairs dimension i with i + head_dim / 2 (arXiv 2104.09864, in the half-split order of checkpoints).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.kernels._device import check_device
from moe_lab.gpu.kernels._jit import jit


@jit
def rope_cache_kernel(
    qkv,  # [batch * tokens, (heads + 2 * kv_heads) * HEAD_DIM]: q heads are overwritten
    k_cache,  # [batch, length, kv_heads, HEAD_DIM], out at start .. start + tokens
    v_cache,  # the same shape, out
    q_gain,  # [HEAD_DIM]
    k_gain,  # [HEAD_DIM]
    cos,  # [length, HEAD_DIM / 2] fp32
    sin,  # [length, HEAD_DIM / 2] fp32
    tokens,
    length,
    start,
    heads,
    kv_heads,
    eps,
    NORM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """Process BLOCK_HEADS heads of one token."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[:, None]
    half = tl.arange(0, HEAD_DIM // 2)[None, :]
    sequence = row // tokens
    position = start + row % tokens
    is_q = head < heads
    is_v = head >= heads + kv_heads
    mask = (head < heads + 2 * kv_heads) & (half < HEAD_DIM // 2)
    at = qkv + row * (heads + 2 * kv_heads) * HEAD_DIM + head * HEAD_DIM + half
    low = tl.load(at, mask=mask, other=0.0)
    high = tl.load(at + HEAD_DIM // 2, mask=mask, other=0.0)

    a = low.to(tl.float32)
    b = high.to(tl.float32)
    if NORM:
        scale = 1.0 / tl.sqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / HEAD_DIM + eps)
        a = a * scale[:, None] * tl.where(is_q, tl.load(q_gain + half), tl.load(k_gain + half)).to(tl.float32)
        high_gain = tl.where(is_q, tl.load(q_gain + HEAD_DIM // 2 + half), tl.load(k_gain + HEAD_DIM // 2 + half))
        b = b * scale[:, None] * high_gain.to(tl.float32)
    c = tl.load(cos + position * (HEAD_DIM // 2) + half)
    s = tl.load(sin + position * (HEAD_DIM // 2) + half)
    first = (a * c - b * s).to(low.dtype)
    second = (b * c + a * s).to(low.dtype)

    tl.store(at, first, mask=mask & is_q)
    tl.store(at + HEAD_DIM // 2, second, mask=mask & is_q)
    slot = (sequence * length + position) * kv_heads * HEAD_DIM + half
    k_at = k_cache + slot + (head - heads) * HEAD_DIM
    tl.store(k_at, first, mask=mask & (head >= heads) & (head < heads + kv_heads))
    tl.store(k_at + HEAD_DIM // 2, second, mask=mask & (head >= heads) & (head < heads + kv_heads))
    v_at = v_cache + slot + (head - heads - kv_heads) * HEAD_DIM
    tl.store(v_at, low, mask=mask & is_v)
    tl.store(v_at + HEAD_DIM // 2, high, mask=mask & is_v)


def rope_cache(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cos: Tensor,
    sin: Tensor,
    start: int,
    gains: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Rotate q in place, write rotated k and v into the caches, return q [batch, tokens, heads, head_dim], a view.

    Args:
        qkv: [batch * tokens, (heads + 2 * kv_heads) * head_dim], contiguous.
        k_cache: [batch, length, kv_heads, head_dim], contiguous; positions start .. start + tokens are written.
        v_cache: like k_cache.
        cos: [length, head_dim / 2] fp32.
        sin: like cos.
        start: position of the first token of each sequence.
        gains: weights [head_dim] of the q and of the k norm, or None for no norm.
        eps: of the norm.
    """
    check_device(qkv)
    batch, length, kv_heads, head_dim = k_cache.shape
    all_heads = qkv.shape[1] // head_dim
    heads, tokens = all_heads - 2 * kv_heads, qkv.shape[0] // batch
    q_gain, k_gain = gains or (cos, cos)
    rope_cache_kernel[(batch * tokens, triton.cdiv(all_heads, 8))](
        *(qkv, k_cache, v_cache, q_gain, k_gain, cos, sin, tokens, length, start, heads, kv_heads, eps),
        NORM=gains is not None,
        HEAD_DIM=head_dim,
        BLOCK_HEADS=8,
        num_warps=2,
    )
    return qkv.view(batch, tokens, all_heads, head_dim)[:, :, :heads]


def rope_cache_torch(
    qkv: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cos: Tensor,
    sin: Tensor,
    start: int,
    gains: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Reference of ``rope_cache``, except that q is a new tensor."""
    batch, _, kv_heads, head_dim = k_cache.shape
    split = qkv.view(batch, qkv.shape[0] // batch, -1, head_dim)
    tokens = split.shape[1]
    q, k, v = split.split([split.shape[2] - 2 * kv_heads, kv_heads, kv_heads], dim=2)
    at = slice(start, start + tokens)

    def rotate(t: Tensor, gain: Tensor | None) -> Tensor:
        t = t.float()
        if gain is not None:
            t = t * torch.rsqrt(t.square().mean(dim=-1, keepdim=True) + eps) * gain.float()
        low, high = t.chunk(2, dim=-1)
        c, s = cos[at, None], sin[at, None]
        return torch.cat([low * c - high * s, high * c + low * s], dim=-1).to(qkv.dtype)

    q_gain, k_gain = gains or (None, None)
    k_cache[:, at] = rotate(k, k_gain)
    v_cache[:, at] = v
    return rotate(q, q_gain)


def rotary_table(length: int, head_dim: int, theta: float, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return (cos, sin), each [length, head_dim / 2] fp32, of position * theta ** (-2i / head_dim)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float().to(device), angle.sin().float().to(device)
