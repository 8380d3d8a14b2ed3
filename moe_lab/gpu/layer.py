# SPDX-License-Identifier: Apache-2.0
"""One decoder layer with random weights and a range around every stage: prefill or decode, eager or CUDA graph.

Ranges: ``layers.0`` > ``input_norm``, ``self_attn``, ``post_attention_norm``, ``mlp`` > ``router``, the backend's
stages, ``shared_experts`` (in models that have them). Residual adds are part of the norms, as in the serving engines,
so every kernel lies in a named leaf. Not modelled: attention sinks, sliding windows, query-key bias, and layers without
rotary embedding.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.experts import load
from moe_lab.gpu.formats import quantise
from moe_lab.gpu.kernels.linear import linear
from moe_lab.gpu.kernels.norm import add_rms_norm
from moe_lab.gpu.kernels.rope import rope_cache, rotary_table
from moe_lab.gpu.kernels.router import MOST_EXPERTS, fused_route
from moe_lab.gpu.ranks import RankedExperts
from moe_lab.gpu.routing import Routing, route
from moe_lab.gpu.shared_experts import SharedExperts
from moe_lab.gpu.weights import DTYPES, random_weights
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import MODELS, Model, model
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """What one forward of the layer processes.

    Attributes:
        phase: ``prefill``: input_len tokens per sequence, causal. ``decode``: one token per sequence, at position
            ``context``.
        batch: sequences.
        input_len: tokens per sequence in prefill.
        context: tokens already in the KV cache of each sequence in decode.
    """

    phase: Literal["prefill", "decode"]
    batch: int
    input_len: int = 2048
    context: int = 2048

    def __post_init__(self) -> None:
        if self.batch < 1 or self.input_len < 1 or self.context < 0:
            raise UserError(
                f"Need batch >= 1, input_len >= 1, context >= 0; got {self.batch}, {self.input_len}, {self.context}."
            )

    @property
    def tokens(self) -> int:
        """Tokens per sequence."""
        return self.input_len if self.phase == "prefill" else 1

    @property
    def start(self) -> int:
        """Position of the first token."""
        return 0 if self.phase == "prefill" else self.context

    @property
    def M(self) -> int:  # noqa: N802
        """Tokens of the batch."""
        return self.batch * self.tokens


class DecoderLayer:
    """One decoder layer of a preset, ready to run.

    Attributes:
        problem: the MoE part.
        shape: what a forward processes.
        weights: see ``Weights``; as drawn, before quantisation to the format.
        experts_weights: w13 and w2 in the format, as the backend prepared them.
        projections: qkv and o in the format.
        shared: the shared experts in the format, all in one; None = the model has none.
        backend: the experts plugin.
        routing: of the latest forward; after a CUDA-graph capture, of the latest replay.
    """

    def __init__(
        self,
        name: str,
        shape: Shape,
        *,
        format: str = "bf16",
        backend: str = "fused_moe",
        align: str | None = None,
        forced: Routing | None = None,
        parallel: Parallel | None = None,
        comm: str = "",
        overlap: bool = False,
        device: torch.device | str = "cuda",
        seed: int = 0,
    ) -> None:
        """Draw the weights and fill the KV cache.

        Args:
            name: model preset with grouped-query attention.
            shape: phase and sizes.
            format: of the weights of attention and experts, and of the activations that they are multiplied with; the
                router, the norms and the cache use its dtype.
            backend: experts plugin.
            align: align plugin, for backends that take one; None for the backend's own default.
            forced: a routing to use instead of the router's result; the router's kernels run all the same.
            parallel: which rank has which experts, each rank with tokens of its own; None = one GPU has all.
            comm: comm plugin, where there are ranks.
            overlap: whether ranks compute their shared experts while rows travel.
            device: where it runs.
            seed: of weights and cache.

        Raises:
            UserError: an unknown preset, format or plugin, an MLA preset, a format, activation or biases that the
                backend does not take, or an align plugin for a backend that takes none.
        """
        self.model, self.name, self.shape, self.forced = gqa_model(name), name, shape, forced
        self.problem = MoEProblem.preset(name, shape.M, format)
        self.device = torch.device(device)
        self.backend, info = load(backend)
        refuse(backend, info, self.problem, self.device)
        self.options = _align_option(backend, align)
        self.align = self.options.get("align", info.get("align"))
        self.weights = w = random_weights(self.model, DTYPES[self.problem.dtype], self.device, seed)
        # Once, as an engine does when it loads a model: a forward pays only for its activations.
        prepare = getattr(self.backend, "prepare", lambda w13, w2: (w13, w2))
        self.ranked: RankedExperts | None = None
        if parallel is not None:
            how: dict[str, Any] = {"comm": comm, "backend": backend, "overlap": overlap}
            self.ranked = RankedExperts.make(self.problem, parallel, self.device, **how)
            prepare = self.ranked.prepare
        self.experts_weights = prepare(*(quantise(each, format) for each in (w.w13, w.w2)))
        self.projections = {name: quantise(getattr(w, name), format) for name in ("qkv", "o")}
        self.shared = None
        if w.shared13 is not None and w.shared2 is not None:
            both = quantise(w.shared13, format), quantise(w.shared2, format)
            self.shared = SharedExperts((both,), self.model.activation)
        self.k_cache, self.v_cache = self._random_cache(seed + 1)
        a = self.model.attention
        self.cos, self.sin = rotary_table(self.k_cache.shape[1], a.head_dim, a.rope_theta, self.device)
        self.routing: Routing | None = None

    def _random_cache(self, seed: int) -> Tensor:
        """Return random keys and values for every position, [2, batch, length, kv_heads, head_dim]."""
        a, length = self.model.attention, self.shape.start + self.shape.tokens
        size = 2, self.shape.batch, length, a.kv_heads, a.head_dim
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.empty(size, dtype=self.weights.o.dtype, device=self.device).normal_(generator=generator)

    def inputs(self, seed: int = 2) -> tuple[Tensor, Tensor]:
        """Return random (hidden, residual), each [M, K], as the previous layer would hand them over."""
        generator = torch.Generator(self.device).manual_seed(seed)
        both = torch.empty((2, self.shape.M, self.model.K), dtype=self.weights.o.dtype, device=self.device)
        hidden, residual = both.normal_(generator=generator)
        return hidden, residual

    @torch.no_grad()
    def forward(self, hidden: Tensor, residual: Tensor, mark: Mark) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            hidden: [M, K], output of the previous layer.
            residual: [M, K]; hidden + residual is the residual stream.
            mark: opens the ranges.

        Returns:
            (hidden, residual), each [M, K]; their sum is the residual stream after this layer.
        """
        w = self.weights
        with mark("layers.0"):
            with mark("input_norm"):
                hidden, residual = add_rms_norm(hidden, residual, w.input_norm, EPS)
            with mark("self_attn"):
                hidden = self._attention(hidden)
            with mark("post_attention_norm"):
                hidden, residual = add_rms_norm(hidden, residual, w.post_attention_norm, EPS)
            with mark("mlp"):
                hidden = self._mlp(hidden, mark)
        return hidden, residual

    def _attention(self, x: Tensor) -> Tensor:
        """Return [M, K] for x [M, K]; first writes this step's keys and values into the cache."""
        a, shape, gains = self.model.attention, self.shape, self.weights.qk_norm
        caches = self.k_cache, self.v_cache
        q = rope_cache(linear(x, self.projections["qkv"]), *caches, self.cos, self.sin, shape.start, gains, EPS)
        k, v = (cache.transpose(1, 2) for cache in caches)  # [batch, kv_heads, length, head_dim]
        if shape.phase == "decode":
            # With one token per sequence, the heads of a group become query rows over the same keys, so that no key is
            # read twice.
            q = q.reshape(shape.batch, a.kv_heads, a.heads // a.kv_heads, a.head_dim)
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = functional.scaled_dot_product_attention(
                q.transpose(1, 2), k, v, is_causal=True, enable_gqa=True
            ).transpose(1, 2)
        return linear(y.reshape(shape.M, a.heads * a.head_dim), self.projections["o"])

    def _mlp(self, x: Tensor, mark: Mark) -> Tensor:
        """Return [M, K] for x [M, K]."""
        w = self.weights
        with mark("router"):
            # Plain torch launches many kernels; it stands in only where the fused kernel cannot hold all experts.
            rule = fused_route if self.model.E <= MOST_EXPERTS else route
            routing = rule(functional.linear(x, w.gate), self.model.router, self.model.topk, w.gate_bias)
        self.routing = self.forced or routing
        if self.ranked:
            return self.ranked(x, self.experts_weights, *self.routing, mark, self.shared)
        more = {"problem": self.problem, "mark": mark} | self.options
        y: Tensor = self.backend.experts(x, *self.experts_weights, *self.routing, **more)
        if self.shared:
            with mark("shared_experts"):
                y = self.shared(x, y)
        return y


def gqa_model(name: str) -> Model:
    """Return a preset whose attention the layer can build; UserError for an unknown one or one with MLA."""
    m = model(name)
    if m.attention.kind != "gqa":
        able = ", ".join(n for n, other in MODELS.items() if other.attention.kind == "gqa")
        raise UserError(
            f"{name} has multi-head latent attention (MLA), which the layer cannot build; choose one of: {able}."
        )
    return m


def _align_option(backend: str, align: str | None) -> dict[str, Any]:
    """Return the keyword arguments that hand an align plugin to the backend."""
    if align is None:
        return {}
    if "align" not in plugins.info("experts", backend):
        raise UserError(f"The experts backend '{backend}' has no align stage to choose; leave --align out.")
    plugins.load("align", align)  # an unknown or unavailable one fails here, not in the first forward
    return {"align": align}
