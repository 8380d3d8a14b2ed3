# SPDX-License-Identifier: Apache-2.0
"""Random weights for a decoder layer and its experts, random tokens and routing, and the dtypes by name."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_lab.gpu.formats import Biased
from moe_lab.gpu.routing import Routing, synthetic
from moe_lab.spec.models import Model
from moe_lab.spec.problem import MoEProblem

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # by the names of ``MoEProblem``
PRODUCTS = {**DTYPES, "e4m3": torch.float8_e4m3fn, "int8": torch.int8}  # by the names of ``Format.product`` too


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
        w13: [E, 2N, K], gate rows then up rows; with biases [E, 2N] if the model has them.
        w2: [E, K, N]; with biases [E, K].
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
    w13: Tensor | Biased
    w2: Tensor | Biased
    shared13: Tensor | None
    shared2: Tensor | None


class Draw:
    """Draws normally distributed numbers directly on a device; the same ones for the same seed."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int):
        self._dtype, self._device = dtype, device
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *shape: int, deviation: float | None = None, mean: float = 0.0) -> Tensor:
        """Return a tensor; its standard deviation is 1 / sqrt(fan_in) by default."""
        # So the outputs of a product have about the deviation of its inputs.
        scale = 1 / math.sqrt(shape[-1]) if deviation is None else deviation
        drawn = torch.empty(shape, dtype=self._dtype, device=self._device)
        return drawn.normal_(mean, scale, generator=self._generator)


def expert_weights(problem: MoEProblem, device: torch.device, seed: int) -> tuple[Tensor | Biased, Tensor | Biased]:
    """Return w13 [E, 2N, K], or [E, N, K] without a gate, and w2 [E, K, N] in the problem's dtype, with its biases."""
    p, normal = problem, Draw(DTYPES[problem.dtype], device, seed)
    return _stacked(normal, p.biases, p.E, p.rows13, p.K), _stacked(normal, p.biases, p.E, p.K, p.N)


def _stacked(normal: Draw, biases: bool, E: int, rows: int, columns: int) -> Tensor | Biased:
    """Return weights [E, rows, columns], with biases [E, rows] of standard deviation 1 if they have some."""
    w = normal(E, rows, columns)
    return Biased(w, normal(E, rows, deviation=1.0)) if biases else w


def tokens(problem: MoEProblem, device: torch.device, seed: int) -> Tensor:
    """Return x [M, K] with standard deviation 1, in the problem's dtype."""
    # A seed of its own: with that of the weights, x would repeat their numbers.
    return Draw(DTYPES[problem.dtype], device, seed + 1)(problem.M, problem.K, deviation=1.0)


def drawn(spec: str, problem: MoEProblem, *, seed: int, device: torch.device) -> Routing:
    """Return a routing for a problem: ``synthetic`` to its routed experts, then its shared ones with weight 1."""
    p = problem.routed
    return with_shared(synthetic(spec, p.M, p.E, p.topk, seed=seed, device=device), problem)


def with_shared(routing: Routing, problem: MoEProblem) -> Routing:
    """Return a routing to the routed experts of a problem with its shared ones after them, each with weight 1."""
    (weights, ids), p, more = routing, problem, problem.shared
    if not more:
        return routing
    last = torch.arange(p.E - more, p.E, dtype=ids.dtype, device=ids.device).expand(len(ids), more)
    return Routing(torch.cat([weights, weights.new_ones(len(ids), more)], 1), torch.cat([ids, last], 1))


def random_weights(m: Model, dtype: torch.dtype, device: torch.device, seed: int) -> Weights:
    """Draw the weights of a layer, with gains near 1."""
    normal = Draw(dtype, device, seed)
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
        w13=_stacked(normal, m.biases, m.E, 2 * m.N, m.K),
        w2=_stacked(normal, m.biases, m.E, m.K, m.N),
        shared13=normal(2 * shared, m.K) if shared else None,
        shared2=normal(m.K, shared) if shared else None,
    )
