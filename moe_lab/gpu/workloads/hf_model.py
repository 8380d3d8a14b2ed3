# SPDX-License-Identifier: Apache-2.0
"""Models of transformers with random weights, and the step of one that gets profiled.

A config comes from a preset, from sizes such as ``64x32x8x2``, or from a ``config.json``, whose number of layers alone
is changed. No weights are read, and nothing is downloaded.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moe_lab.spec import models
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line, read_json

# transformers' names for E and N, which differ from model to model.
SIZES = {
    "qwen3_moe": ("num_experts", "moe_intermediate_size"),
    "gpt_oss": ("num_local_experts", "intermediate_size"),
    "mixtral": ("num_local_experts", "intermediate_size"),
}
NEEDED = "transformers 5 is needed: pip install -c constraints.txt 'moe-lab[hf]'"


@dataclass(frozen=True)
class Asked:
    """What to run.

    Attributes:
        config: preset, sizes, or a folder with a ``config.json``.
        layers: decoder layers.
        phase: ``prefill`` or ``decode``.
        batch: sequences.
        tokens: prefill: tokens per sequence; decode: tokens in the cache before the first step.
        dtype: of weights and activations.
        device: where it runs.
        seed: of weights and tokens.
    """

    config: str
    layers: int
    phase: str
    batch: int
    tokens: int
    dtype: torch.dtype
    device: torch.device
    seed: int

    @property
    def name(self) -> str | None:
        """What the model is called in names of ranges; None for a folder, which may be called anything."""
        return None if Path(self.config).is_dir() else self.config

    @property
    def rows(self) -> int:
        """Tokens that go through the experts in a step: M."""
        return self.batch * (self.tokens if self.phase == "prefill" else 1)


def config_of(given: str, layers: int) -> dict[str, Any]:
    """Return the config with ``layers`` layers, as ``AutoConfig.for_model`` takes it.

    Raises:
        UserError: there is neither such a preset nor a folder with a ``config.json``, or it is not that of a decoder.
    """
    found = _stored(given) if Path(given).is_dir() else _preset(given)
    found = found.get("text_config") or found
    depth = found.get("num_hidden_layers", layers)
    if not isinstance(found.get("model_type"), str) or not isinstance(depth, int):
        raise UserError(f"The config.json of '{one_line(given, 60)}' names no model_type or no number of layers.")
    # What a config says layer by layer (kinds of attention, for example) is cut with the layers.
    cut = {k: v[:layers] if isinstance(v, list) and len(v) == depth else v for k, v in found.items()}
    cut.pop("quantization_config", None)  # it is about stored weights, of which there are none
    return cut | {"num_hidden_layers": layers}


def _stored(folder: str) -> dict[str, Any]:
    what, then = "a config of transformers", "give --config the folder of a model"
    return dict(read_json(Path(folder) / "config.json", dict[str, Any], what=what, then=then))


def _preset(name: str) -> dict[str, Any]:
    m = models.model(name)
    kind = "qwen3_moe" if models.sizes(name) else m.transformers
    if kind is None:
        able = ", ".join(n for n, other in models.MODELS.items() if other.transformers)
        raise UserError(f"{name} has no config of transformers here; give the folder of one, or one of: {able}.")
    experts, intermediate = SIZES[kind]
    a = m.attention
    heads = {"num_attention_heads": a.heads, "num_key_value_heads": a.kv_heads, "head_dim": a.head_dim}
    sizes = {"hidden_size": m.K, intermediate: m.N, experts: m.E, "num_experts_per_tok": m.topk}
    return {"model_type": kind, **sizes, **heads} | ({"norm_topk_prob": True} if kind == "qwen3_moe" else {})


def build(asked: Asked) -> nn.Module:
    """Return the model with random weights, in evaluation mode.

    Raises:
        UserError: transformers is missing or too old, or has no such model.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(NEEDED) from None
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise UserError(f"{NEEDED}; this is {transformers.__version__}.")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    fields = config_of(asked.config, asked.layers)
    torch.manual_seed(asked.seed)
    try:
        config = transformers.AutoConfig.for_model(**fields)
        with asked.device:
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=asked.dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what a config may say wrongly is known to transformers alone
        raise UserError(f"transformers cannot build '{fields['model_type']}': {one_line(str(error))}") from error
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def step_of(model: Any, asked: Asked) -> Callable[[], Tensor]:
    """Return a function that runs one forward and returns the last logits [batch, 1, vocabulary].

    Each step of decode appends a token to every sequence. All sequences of the batch share what their cache holds. One
    step is tried here.

    Raises:
        UserError: transformers cannot run the model, for example with so few of its layers.
    """
    generator = torch.Generator(asked.device).manual_seed(asked.seed + 1)
    vocabulary = model.config.get_text_config().vocab_size

    def tokens(batch: int, length: int) -> Tensor:
        return torch.randint(vocabulary, (batch, length), generator=generator, device=asked.device)

    @torch.no_grad()
    def step() -> Tensor:
        logits: Tensor = model(ids, logits_to_keep=1, **options).logits
        return logits

    try:
        options = _cached(model, asked, tokens) if asked.phase == "decode" else {"use_cache": False}
        ids = tokens(asked.batch, 1 if asked.phase == "decode" else asked.tokens)
        step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        said = f"transformers cannot run {asked.layers} layers of {type(model).__name__}"
        raise UserError(f"{said} ({one_line(str(error))}); try other --layers.") from error
    return step


@torch.no_grad()
def _cached(model: Any, asked: Asked, tokens: Callable[[int, int], Tensor]) -> dict[str, Any]:
    """Return the options of a step of decode: a cache of ``asked.tokens`` tokens for each sequence."""
    known = inspect.signature(model.forward).parameters
    name = "cache" if "cache" in known else "past_key_values"  # renamed within transformers 5
    # One sequence is run and its cache repeated: that of all at once would need their attention scores too.
    cache = model(tokens(1, asked.tokens), use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(asked.batch)
    return {"use_cache": True, name: cache}
