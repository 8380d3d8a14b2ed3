# SPDX-License-Identifier: Apache-2.0
"""A backend in the place of a transformers model's own experts.

transformers 5 keeps the experts of a layer as one module with ``gate_up_proj`` and ``down_proj`` for all experts, and
states how they lie: transposed, gate and up rows interleaved, with biases. That module's forward is replaced.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.experts import load
from moe_lab.gpu.formats import Biased, quantise
from moe_lab.spec import formats, plugins, ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

OWN = "transformers"  # in place of a backend's name: what transformers itself does
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


class Experts:
    """What a model's experts are, and the backend that computes them.

    Attributes:
        problem: sizes of a layer's experts.
        modules: the experts of each layer that has some, in the order of the layers.
        mark: opens the backend's ranges.
        topk_ids: [M, topk] int32 of the last call of each layer; empty where transformers computes itself.
    """

    def __init__(self, model: Any, M: int, format: str, name: str | None = None):
        """Find the experts; raises UserError if the model has none, or none that another forward can replace."""
        self.modules = [m for m in model.modules() if _fused(m)]
        if not self.modules:
            raise UserError(
                f"The first layers of {type(model).__name__} have no experts that are one module with gate_up_proj and "
                "down_proj; give more --layers, or another --config."
            )
        first, config = self.modules[0], model.config.get_text_config()
        E, K, N = stacked(first)[1].shape
        topk = int(config.num_experts_per_tok)
        known = _activation(first, config), name or config.model_type
        self.problem = MoEProblem(M, K, N, E, topk, format, *known, biases=getattr(first, "has_bias", False))
        self.mark: ranges.Mark = ranges.marker("none")
        self.topk_ids: dict[int, Tensor] = {}

    def replace(self, backend: str, device: torch.device) -> None:
        """Let a backend compute the experts of every layer.

        Raises:
            UserError: it is unknown, does not take this problem, or the experts have what no backend computes.
        """
        info = plugins.info("experts", backend.partition("@")[0])
        # Those of a model without its checkpoint are 0, and a backend need not add them.
        able = formats.adds_biases(info, self.problem.format)
        if self.problem.biases and not able and not any(_biased(module) for module in self.modules):
            self.problem = replace(self.problem, biases=False)
        refuse(backend, info, self.problem, device)
        plugin, _ = load(backend)
        prepare = getattr(plugin, "prepare", lambda *both: both)
        for layer, module in enumerate(self.modules):
            both = stacked(module, self.problem.biases)
            weights = prepare(*(quantise(w, self.problem.format) for w in both))
            module.forward = partial(self._forward, plugin.experts, weights, layer)

    def _forward(
        self, experts: Callable[..., Tensor], weights: Any, layer: int, *given: Tensor, **named: Tensor
    ) -> Tensor:
        """Return [M, K] for x [M, K], the chosen experts [M, topk] and their weights [M, topk], in this order."""
        x, ids, scores = [*given, *named.values()]
        topk_ids, topk_weights = ids.to(torch.int32).contiguous(), scores.float().contiguous()
        self.topk_ids[layer] = topk_ids
        problem = replace(self.problem, M=x.shape[0])
        return experts(x.contiguous(), *weights, topk_weights, topk_ids, problem=problem, mark=self.mark)


def _fused(module: nn.Module) -> bool:
    weights = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    stated = hasattr(module, "is_transposed") and hasattr(module, "is_concatenated")
    return stated and all(isinstance(w, Tensor) and w.ndim == 3 for w in weights)


def stacked(module: Any, biases: bool = False) -> tuple[Tensor | Biased, Tensor | Biased]:
    """Return w13 [E, 2N, K], gate rows then up rows, and w2 [E, K, N], both contiguous, of an experts module.

    With ``biases`` each has its own, [E, 2N] and [E, K].
    """
    w13, w2 = module.gate_up_proj.detach(), module.down_proj.detach()
    if module.is_transposed:
        w13, w2 = w13.transpose(1, 2), w2.transpose(1, 2)
    w13, w2 = _halves(w13, module), w2.contiguous()
    if not biases:
        return w13, w2
    b13, b2 = module.gate_up_proj_bias.detach(), module.down_proj_bias.detach()
    return Biased(w13, _halves(b13, module)), Biased(w2, b2.contiguous())


def _halves(rows: Tensor, module: Any) -> Tensor:
    """Return gate rows, then up rows, [E, 2N, ...] contiguous, of an experts module's order."""
    if module.is_concatenated:
        return rows.contiguous()
    return torch.cat([rows[:, 0::2], rows[:, 1::2]], 1)  # they are gate, up, gate, up, ...


def _activation(module: Any, config: Any) -> str:
    """Return the name of the activation of an experts module, which is not always that of its config."""
    if (getattr(module, "alpha", None), getattr(module, "limit", None)) == (1.702, 7.0):
        return "swigluoai"
    name = str(getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None))
    own = type(module)._apply_gate.__name__ != "_default_apply_gate"
    if own or name not in ACTIVATIONS or getattr(module, "has_post_expert_norm", False):
        raise UserError(f"{type(module).__name__} does more than {name} between its products, which no backend does.")
    return ACTIVATIONS[name]


def _biased(module: Any) -> bool:
    return bool(module.gate_up_proj_bias.any()) or bool(module.down_proj_bias.any())
