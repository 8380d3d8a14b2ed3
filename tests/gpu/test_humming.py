"""The adapter of Humming around a layer in plain torch, with Humming's layouts of weights, zero points and tiles."""

import importlib
import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import assert_right, make

from moe_lab.gpu.bench.examine import load
from moe_lab.gpu.formats import Quantised, dense
from moe_lab.spec import ranges
from moe_lab.spec.errors import UserError

TILES = [[0, 8, {"block_shape": [8, 128, 64]}], [8, 16, {"block_shape": [16, 128, 64]}]]


def numbers(packed, bits):
    """int32 [..., n] as unsigned numbers [..., n * 32 / bits], the first in the lowest bits."""
    shifts = torch.arange(0, 32, bits)
    return (packed[..., None] >> shifts & (1 << bits) - 1).flatten(-2).float()


class Layer:
    """Humming's layer: what it is told of the weights is all that it knows."""

    def __init__(self, *, shape_n, shape_k, num_experts, weight_config, torch_dtype, has_bias):
        assert shape_n % 128 == shape_k % 128 == 0
        self.shape, self.kind, self.has_bias = (num_experts, shape_n, shape_k), weight_config, has_bias
        self.humming_config = f"{shape_n} x {shape_k}"

    def to(self, device):
        return self

    def load_from_tensors(self, tensors):
        assert ("bias" in tensors) == self.has_bias
        self.tensors = tensors

    def transform(self):
        given = self.tensors
        if self.kind == {"quant_method": "mxfp4"}:
            self.w = dense(Quantised("mxfp4", given["weight"], given["weight_scale"]), torch.float32)
            return
        bits, group = int(self.kind["dtype"][3:]), self.kind["group_size"] or self.shape[2]
        zeros = 1 << bits - 1
        if self.kind["has_zero_point"]:
            zeros = numbers(given["zero_point"].mT, bits).mT.repeat_interleave(group, -1)
        scales = given["weight_scale"].float().repeat_interleave(group, -1)
        self.w = (numbers(given["weight"], bits) - zeros) * scales
        assert self.w.shape == self.shape

    def __call__(
        self,
        x,
        *,
        outputs,
        sorted_ids,
        expert_ids,
        num_tokens_padded,
        top_k,
        valid_shape_m,
        compute_config,
        tuning_config,
    ):
        assert json.loads(compute_config) == {"gemm_type": "indexed"}
        assert valid_shape_m == len(outputs) == len(x) * top_k
        size = json.loads(tuning_config)["block_shape"][0]
        for row, pair in enumerate(sorted_ids[: int(num_tokens_padded)].tolist()):
            if pair < valid_shape_m:
                expert = int(expert_ids[row // size])
                y = self.w[expert] @ x[pair // top_k].float()
                outputs[pair] = y + (self.tensors["bias"][expert].float() if self.has_bias else 0)


def rule(*, layer_config, gemm_type):
    """One rule of tiles for w13 and another for w2, which must not share the sorted pairs."""
    assert gemm_type == "indexed"
    return TILES if layer_config == "256 x 256" else TILES[1:]


@pytest.fixture
def humming(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "moe_lab.gpu.experts.humming", raising=False)
    parts = {"": {}, ".layer": {"HummingLayer": Layer}, ".tune": {"get_heuristics_config": rule}}
    for part, names in parts.items():
        module = ModuleType(f"humming{part}")
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield importlib.import_module("moe_lab.gpu.experts.humming")
    del sys.modules["moe_lab.gpu.experts.humming"]


@pytest.mark.parametrize(
    ("format", "M", "biases"),
    [("int4_w4a16_g32_zeros", 3, False), ("int4_w4a16", 7, True), ("int8_w8a16", 3, False), ("mxfp4", 40, True)],
    ids=["zeros-8-and-16-rows", "padded-groups-biases", "int8", "more-than-its-rule-knows"],
)
def test_humming_gets_weights_pairs_and_tiles_as_it_takes_them(format, M, biases, humming, interpreter, poison):
    # 96 features of 256: K fills its multiple, N does not.
    problem, inputs = make((M, 256, 96, 4, 2, "uniform", "silu"), "cpu", format, biases)
    prepared = humming.prepare(inputs.w13, inputs.w2)
    y = humming.experts(inputs.x, *prepared, *inputs[3:], problem=problem, mark=ranges.marker("none"))
    if format == "int8_w8a16":  # its scales are bf16, which those of the other formats are already
        w13, w2 = (replace(w, scales=w.scales.bfloat16().float()) for w in (inputs.w13, inputs.w2))
        inputs = inputs._replace(w13=w13, w2=w2)
    assert_right(y, problem, inputs)


def test_humming_says_how_to_get_it_where_it_is_not():
    with pytest.raises(UserError, match=r"needs humming \(pip install humming-kernels\[cu13\]\)"):
        load("humming")
