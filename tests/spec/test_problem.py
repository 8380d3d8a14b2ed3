import json
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest

from moe_lab.spec import formats, models
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import MODELS, Attention, Model, Router, model
from moe_lab.spec.problem import MoEProblem


@pytest.mark.parametrize(
    ("name", "moe_layers", "billions"),
    [
        # Weights of the routed experts alone, from the published totals less attention, embeddings and dense layers.
        ("qwen3-30b-a3b", 48, 29.0),
        ("qwen3-30b-a3b-fp8", 48, 29.0),
        ("qwen3-235b-a22b", 94, 227.1),
        ("qwen3-next-80b-a3b", 48, 77.3),
        ("deepseek-v3", 58, 653.9),
        ("deepseek-v3.2", 58, 653.9),
        ("kimi-k2", 60, 1014.7),
        ("kimi-k2-thinking", 60, 1014.7),
        ("mixtral-8x7b", 32, 45.1),
        ("gpt-oss-120b", 36, 114.7),
        ("gpt-oss-20b", 24, 19.1),
        ("glm-4.5", 89, 336.0),
        ("glm-4.6", 89, 336.0),
        ("minimax-m2", 62, 224.7),
        ("llama-4-maverick", 24, 386.5),
    ],
)
def test_preset_adds_up_to_the_published_size(name, moe_layers, billions):
    m = MODELS[name]
    assert moe_layers * m.E * 3 * m.N * m.K / 1e9 == pytest.approx(billions, abs=0.1)
    assert moe_layers <= m.layers
    assert m.source
    assert m.checked
    assert formats.get(m.format).dtype == "bf16"


def test_useful_flops_count_each_pair_once_per_weight():
    p = MoEProblem(M=10, K=4, N=3, E=8, topk=2)
    assert p.rows_useful == 20
    assert p.useful_flops("w13") == 20 * (2 * 3) * 4 * 2
    assert p.useful_flops("w2") == 20 * 4 * 3 * 2
    assert p.useful_flops() == p.useful_flops("w13") + p.useful_flops("w2")


def test_a_preset_is_one_entry_of_figures_that_a_layer_takes(tmp_path):
    """GIVEN the file of presets WHEN an entry is added THEN it reads as one; none says what no layer takes."""
    given = json.loads(Path(models.__file__).with_suffix(".json").read_text())
    assert list(given) == list(MODELS)
    for entry in given.values():
        for found, kind in ((entry, Model), (entry["attention"], Attention), (entry["router"], Router)):
            assert found.keys() <= {field.name for field in fields(kind)}
    given["mine"] = given["mixtral-8x7b"] | {"topk": 4}
    assert msgspec.convert(given, dict[str, Model])["mine"] == replace(MODELS["mixtral-8x7b"], topk=4)


def test_sizes_are_taken_wherever_a_preset_is():
    p = MoEProblem.preset("2048x768x128x8", 16, "fp16")
    assert p == MoEProblem(16, 2048, 768, 128, 8, "fp16", model="2048x768x128x8")
    assert model("2048x768x128x8").attention == Attention("gqa", 16, 8, 128), "as wide as a token"
    with pytest.raises(UserError, match="topk = 9 is more than E = 8"):
        MoEProblem.preset("64x64x8x9", 1)


def test_executed_flops_count_padded_rows():
    p = MoEProblem(M=10, K=4, N=3, E=8, topk=2)
    assert p.executed_flops(64) == 6 * 64 * 3 * 4
    assert p.executed_flops(p.rows_useful) == p.useful_flops()


def test_minimum_bytes_read_hit_experts_once():
    p = MoEProblem(M=10, K=4, N=3, E=8, topk=2, format="fp32")
    weights = 5 * 3 * 3 * 4
    assert p.minimum_bytes(5) == (weights + 2 * 10 * 4) * 4
    assert p.minimum_bytes(5, "w13") == (5 * 2 * 3 * 4 + 10 * 4 + 20 * 6) * 4
    assert p.minimum_bytes(5, "w2") == (5 * 3 * 4 + 20 * 3 + 20 * 4) * 4


def test_minimum_bytes_of_a_decode_batch_are_the_weights():
    """Qwen3-30B-A3B, 128 experts: 1.2 GB of weights against 0.13 MB of activations."""
    p = MoEProblem.preset("qwen3-30b-a3b", 16)
    assert p.minimum_bytes(128) == 128 * 3 * 768 * 2048 * 2 + 2 * 16 * 2048 * 2


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"M": -1}, "sizes must be positive"),
        ({"K": 0}, "sizes must be positive"),
        ({"topk": 9}, "cannot exceed E=8"),
        ({"format": "int7"}, "There is no format 'int7'; choose one of: bf16, fp16, fp32, fp8_block"),
    ],
)
def test_problem_refuses_what_cannot_be(sizes, sentence):
    with pytest.raises(UserError, match=sentence):
        MoEProblem(**({"M": 1, "K": 4, "N": 3, "E": 8, "topk": 2} | sizes))


def test_model_names_the_presets_when_asked_for_another():
    with pytest.raises(UserError, match=r"qwen3-30b-a3b, qwen3-30b-a3b-fp8, qwen3-235b-a22b, .*, or KxNxExTOPK"):
        model("gpt-2")
