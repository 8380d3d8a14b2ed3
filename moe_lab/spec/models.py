# SPDX-License-Identifier: Apache-2.0
"""Model presets: layer sizes of published models, one entry of ``models.json`` each, with its source."""

import re
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Literal

import msgspec

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import integer, one_line
from moe_lab.spec.guard.options import EXPERTS, SIZE


@dataclass(frozen=True)
class Attention:
    """Shape of the attention block.

    Attributes:
        kind: ``gqa`` (grouped-query attention) or ``mla`` (multi-head latent attention, DeepSeek-V2).
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        qk_norm: whether queries and keys are RMS-normalised per head.
        rope_theta: base of the rotary embedding.
    """

    kind: Literal["gqa", "mla"]
    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool = False
    rope_theta: float = 1e4


@dataclass(frozen=True)
class Router:
    """How a token's logits become its experts and their weights.

    Attributes:
        score: ``softmax`` over all experts, ``sigmoid`` per expert, or ``softmax_topk`` (softmax over the chosen).
        renormalise: whether the chosen weights are divided by their sum.
        groups: expert groups, of which the best ``topk_groups`` stay eligible (DeepSeek-V3); 1 = no grouping.
        topk_groups: groups that stay eligible.
        bias: whether a per-expert bias is added for the choice only (weights come from the unbiased score).
        scaling: factor on the weights (routed scaling factor).
    """

    score: Literal["softmax", "sigmoid", "softmax_topk"] = "softmax"
    renormalise: bool = True
    groups: int = 1
    topk_groups: int = 1
    bias: bool = False
    scaling: float = 1.0


@dataclass(frozen=True)
class Model:
    """One published model: the sizes of its MoE layer, with their source.

    Attributes:
        K: hidden size.
        N: intermediate size of an expert.
        E: routed experts.
        topk: experts per token.
        layers: decoder layers.
        format: of the experts in the published checkpoint, one of ``moe_lab.spec.formats``.
        shared_experts: experts that every token passes through, each of intermediate size N.
        source: where the sizes come from.
        checked: public code or copy of the configuration in which the figures were read again; empty = nowhere.
        activation: one of ``moe_lab.spec.problem.ACTIVATIONS``.
        apply_router_weight_on_input: whether the router weight multiplies the token before the experts (llama-4)
            instead of their result.
        biases: whether w13 and w2 of the experts have biases.
        transformers: the ``model_type`` under which transformers has the model; None = not stated.
    """

    K: int
    N: int
    E: int
    topk: int
    layers: int
    attention: Attention
    router: Router
    source: str
    checked: str = ""
    format: str = "bf16"
    shared_experts: int = 0
    activation: str = "silu"
    apply_router_weight_on_input: bool = False
    biases: bool = False
    transformers: str | None = None


MODELS = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=dict[str, Model])


def model(name: str) -> Model:
    """Return the preset called ``name``, or a layer of sizes such as ``2048x768x128x8`` (KxNxExTOPK).

    Such a layer has the default router, and as many heads of 128 features as its tokens are wide.

    Raises:
        UserError: there is no such preset, or the sizes cannot be.
    """
    if given := sizes(name):
        heads = max(1, given[0] // 128)
        return Model(*given, 1, Attention("gqa", heads, gcd(heads, 8), 128), Router(), "sizes as given")
    if name not in MODELS:
        raise UserError(f"No model preset is called '{name}'; choose one of: {', '.join(MODELS)}, or KxNxExTOPK.")
    return MODELS[name]


def sizes(text: str) -> tuple[int, int, int, int] | None:
    """Return K, N, E and topk of ``2048x768x128x8``, or None for any other text, such as a preset's name.

    Raises:
        UserError: one is out of bounds, or topk is larger than E.
    """
    if not re.fullmatch(r"[0-9]+(x[0-9]+){3}", text):
        return None
    bounds = (SIZE, SIZE, EXPERTS, EXPERTS)
    try:
        K, N, E, topk = (integer(part, range(1, most + 1)) for part, most in zip(text.split("x"), bounds, strict=True))
        if topk > E:
            raise ValueError(f"topk = {topk} is more than E = {E}")
    except ValueError as error:
        raise UserError(f"The sizes '{one_line(text, 60)}' are not valid ({error}); write KxNxExTOPK.") from None
    return K, N, E, topk
