"""Model presets: the figures of published models' layers, one entry each, with their source."""

from dataclasses import dataclass
from typing import Literal

from moe_lab.spec.errors import UserError


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
    """How logits become weights and experts.

    Attributes:
        score: ``softmax`` over all experts, ``sigmoid`` per expert, or ``softmax_topk`` (softmax over the chosen).
        renormalise: whether the chosen weights are divided by their sum.
        groups: expert groups; ``topk_groups`` of them stay (DeepSeek-V3); 1 = no grouping.
        topk_groups: groups that stay.
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
    """One published model: the figures of its MoE layer, with their source.

    Attributes:
        K: hidden size.
        N: intermediate size of an expert.
        E: routed experts.
        topk: experts per token.
        layers: decoder layers.
        shared_experts: experts that every token passes through, each of intermediate size N.
        source: where the figures come from.
        activation: ``silu`` (silu(gate) * up) or ``swigluoai`` (gpt-oss: clamped (up + 1) * gate * sigmoid(1.702 gate))
        apply_router_weight_on_input: whether the router weight multiplies the token before the experts (llama-4)
            instead of what they return.
    """

    K: int
    N: int
    E: int
    topk: int
    layers: int
    attention: Attention
    router: Router
    source: str
    shared_experts: int = 0
    activation: str = "silu"
    apply_router_weight_on_input: bool = False


MODELS: dict[str, Model] = {
    "qwen3-30b-a3b": Model(
        K=2048,
        N=768,
        E=128,
        topk=8,
        layers=48,
        attention=Attention("gqa", heads=32, kv_heads=4, head_dim=128, qk_norm=True, rope_theta=1e6),
        router=Router("softmax"),
        source="config.json of Qwen/Qwen3-30B-A3B; Qwen3 Technical Report, arXiv 2505.09388, table 2",
    ),
    "qwen3-235b-a22b": Model(
        K=4096,
        N=1536,
        E=128,
        topk=8,
        layers=94,
        attention=Attention("gqa", heads=64, kv_heads=4, head_dim=128, qk_norm=True, rope_theta=1e6),
        router=Router("softmax"),
        source="config.json of Qwen/Qwen3-235B-A22B; Qwen3 Technical Report, arXiv 2505.09388, table 2",
    ),
    "deepseek-v3": Model(
        K=7168,
        N=2048,
        E=256,
        topk=8,
        layers=61,
        attention=Attention("mla", heads=128, kv_heads=128, head_dim=128),
        router=Router("sigmoid", groups=8, topk_groups=4, bias=True, scaling=2.5),
        source="config.json of deepseek-ai/DeepSeek-V3; technical report, arXiv 2412.19437, section 4.2",
        shared_experts=1,
    ),
    "kimi-k2": Model(
        K=7168,
        N=2048,
        E=384,
        topk=8,
        layers=61,
        attention=Attention("mla", heads=64, kv_heads=64, head_dim=128, rope_theta=5e4),
        router=Router("sigmoid", bias=True, scaling=2.827),
        source="config.json of moonshotai/Kimi-K2-Instruct; Kimi K2, arXiv 2507.20534, table 2",
        shared_experts=1,
    ),
    "mixtral-8x7b": Model(
        K=4096,
        N=14336,
        E=8,
        topk=2,
        layers=32,
        attention=Attention("gqa", heads=32, kv_heads=8, head_dim=128, rope_theta=1e6),
        router=Router("softmax"),
        source="config.json of mistralai/Mixtral-8x7B-v0.1; Mixtral of Experts, arXiv 2401.04088, table 1",
    ),
    "gpt-oss-120b": Model(
        K=2880,
        N=2880,
        E=128,
        topk=4,
        layers=36,
        attention=Attention("gqa", heads=64, kv_heads=8, head_dim=64, rope_theta=1.5e5),
        router=Router("softmax_topk", renormalise=False),
        source="config.json of openai/gpt-oss-120b; model card, arXiv 2508.10925, section 2",
        activation="swigluoai",
    ),
    "glm-4.5": Model(
        K=5120,
        N=1536,
        E=160,
        topk=8,
        layers=92,
        attention=Attention("gqa", heads=96, kv_heads=8, head_dim=128, qk_norm=True, rope_theta=1e6),
        router=Router("sigmoid", bias=True, scaling=2.5),
        source="config.json of zai-org/GLM-4.5; GLM-4.5, arXiv 2508.06471, table 1",
        shared_experts=1,
    ),
    "llama-4-maverick": Model(
        K=5120,
        N=8192,
        E=128,
        topk=1,
        layers=48,
        attention=Attention("gqa", heads=40, kv_heads=8, head_dim=128, rope_theta=5e5),
        router=Router("sigmoid", renormalise=False),
        source="text_config in config.json of meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        shared_experts=1,
        apply_router_weight_on_input=True,
    ),
}


def model(name: str) -> Model:
    """Return the preset called ``name``.

    Raises:
        UserError: there is no such preset.
    """
    if name not in MODELS:
        raise UserError(f"No model preset is called '{name}'; choose one of: {', '.join(MODELS)}.")
    return MODELS[name]
