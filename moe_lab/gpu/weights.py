"""Random weights of one decoder layer, and the dtypes that weights have."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_lab.spec.problem import Model

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # by the names of ``MoEProblem``


@dataclass(frozen=True)
class Weights:
    """Weights of the layer, all in the layer's dtype except ``gate_bias`` (fp32).

    Attributes:
        input_norm: [K].
        qkv: [(heads + 2 * kv_heads) * head_dim, K].
        qk_norm: gains [head_dim] of q and k, or None.
        o: [K, heads * head_dim].
        post_attention_norm: [K].
        gate: [E, K].
        gate_bias: [E] fp32, or None.
        w13: [E, 2N, K], gate rows then up rows.
        w2: [E, K, N].
        shared13: [2 * shared * N, K], or None.
        shared2: [K, shared * N], or None.
    """

    input_norm: Tensor
    qkv: Tensor
    qk_norm: tuple[Tensor, Tensor] | None
    o: Tensor
    post_attention_norm: Tensor
    gate: Tensor
    gate_bias: Tensor | None
    w13: Tensor
    w2: Tensor
    shared13: Tensor | None
    shared2: Tensor | None


def random_weights(m: Model, dtype: torch.dtype, device: torch.device, seed: int) -> Weights:
    """Draw normal weights of deviation 1 / sqrt(fan_in), and gains near 1, directly on the device."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, deviation: float | None = None, mean: float = 0.0) -> Tensor:
        scale = 1 / math.sqrt(shape[-1]) if deviation is None else deviation
        return torch.empty(shape, dtype=dtype, device=device).normal_(mean, scale, generator=generator)

    a, shared = m.attention, m.shared_experts * m.N
    return Weights(
        input_norm=normal(m.K, deviation=0.1, mean=1.0),
        qkv=normal((a.heads + 2 * a.kv_heads) * a.head_dim, m.K),
        qk_norm=(normal(a.head_dim, deviation=0.1, mean=1.0), normal(a.head_dim, deviation=0.1, mean=1.0))
        if a.qk_norm
        else None,
        o=normal(m.K, a.heads * a.head_dim),
        post_attention_norm=normal(m.K, deviation=0.1, mean=1.0),
        gate=normal(m.E, m.K),
        gate_bias=normal(m.E, deviation=0.05).float() if m.router.bias else None,
        w13=normal(m.E, 2 * m.N, m.K),
        w2=normal(m.E, m.K, m.N),
        shared13=normal(2 * shared, m.K) if shared else None,
        shared2=normal(m.K, shared) if shared else None,
    )
