import contextlib
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from moe_lab.gpu import routing
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.kernels.norm import add_rms_norm_torch
from moe_lab.gpu.kernels.rope import rope_cache_torch, rotary_table
from moe_lab.gpu.kernels.router import fused_route
from moe_lab.gpu.layer import DecoderLayer, Shape
from moe_lab.spec import models, ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import Attention, Model, Router

SILENT = ranges.marker("none")
TINY = {
    "tiny-qwen": Model(64, 48, 8, 2, 1, Attention("gqa", 4, 2, 16, qk_norm=True, rope_theta=1e6), Router(), "test"),
    "tiny-glm": Model(
        64, 32, 8, 2, 1, Attention("gqa", 4, 1, 16), Router("sigmoid", bias=True, scaling=2.5), "test", shared_experts=1
    ),
    "tiny-oss": Model(
        64, 64, 4, 2, 1, Attention("gqa", 4, 4, 16), Router("softmax_topk"), "test", activation="swigluoai"
    ),
}
PREFILL, DECODE = Shape("prefill", 2, input_len=5), Shape("decode", 3, context=6)


@pytest.fixture(autouse=True)
def _tiny_presets(monkeypatch):
    for name, m in TINY.items():
        monkeypatch.setitem(models.MODELS, name, m)


def reference(layer, hidden, residual):
    """The layer in fp64 and plain torch: attention by explicit scores and mask, experts by the oracle."""
    w, shape, a = layer.weights, layer.shape, layer.model.attention
    x, stream = add_rms_norm_torch(hidden, residual, w.input_norm, 1e-6)
    k_cache, v_cache = layer.k_cache.clone(), layer.v_cache.clone()
    table = rotary_table(k_cache.shape[1], a.head_dim, a.rope_theta, layer.device)
    q = rope_cache_torch(x @ w.qkv.T, k_cache, v_cache, *table, shape.start, w.qk_norm, 1e-6)
    group = a.heads // a.kv_heads
    k, v = (c.double().repeat_interleave(group, dim=2) for c in (k_cache, v_cache))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k) / a.head_dim**0.5
    seen = torch.arange(k.shape[1])[None] <= shape.start + torch.arange(shape.tokens)[:, None]
    scores = scores.masked_fill(~seen.to(layer.device), float("-inf"))
    attended = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(shape.M, -1).to(x.dtype)
    x, stream = add_rms_norm_torch(attended @ w.o.T, stream, w.post_attention_norm, 1e-6)
    chosen = layer.forced or routing.route(x @ w.gate.T, layer.model.router, layer.model.topk, w.gate_bias)
    y = torch_loop.moe(x, w.w13, w.w2, *chosen, problem=layer.problem, mark=SILENT, dtype=torch.float64)
    if w.shared13 is not None:
        shared_experts = replace(layer.problem, topk=1, apply_router_weight_on_input=False)
        one = torch.zeros(shape.M, 1, dtype=torch.long, device=x.device)
        shared = w.shared13[None], w.shared2[None], torch.ones_like(one, dtype=torch.float32), one
        y = y + torch_loop.moe(x, *shared, problem=shared_experts, mark=SILENT, dtype=torch.float64)
    return y, stream


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("shape", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_layer_matches_plain_torch(name, shape, device):
    """fp32, so that routing does not flip between two nearly equal logits; no two axes have the same size."""
    layer = DecoderLayer(name, shape, format="fp32", device=device)
    inputs = layer.inputs()
    expected, expected_stream = reference(layer, *inputs)
    y, stream = layer.forward(*inputs, SILENT)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stream, expected_stream, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["torch_loop", "fused_moe"])
def test_decode_continues_a_prefill(backend, device):
    """The last token of a prefill of 6 equals a decode at position 5 over the cache that the prefill left."""
    options = {"format": "fp32", "backend": backend, "device": device}
    prefill = DecoderLayer("tiny-qwen", Shape("prefill", 2, input_len=6), **options)
    hidden, residual = prefill.inputs()
    y, stream = prefill.forward(hidden, residual, SILENT)
    decode = DecoderLayer("tiny-qwen", Shape("decode", 2, context=5), **options)
    for cache, filled in ((decode.k_cache, prefill.k_cache), (decode.v_cache, prefill.v_cache)):
        cache[:, :5] = filled[:, :5]
    last = torch.tensor([5, 11], device=device)
    again, again_stream = decode.forward(hidden[last], residual[last], SILENT)
    torch.testing.assert_close(again, y[last], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again_stream, stream[last], rtol=1e-4, atol=1e-5)


class Recorder(TorchDispatchMode):
    """Keeps every torch operator that computes, with the path of ranges it ran in."""

    def __init__(self):
        super().__init__()
        self.path, self.paths, self.operators = [], [], []

    @contextlib.contextmanager
    def mark(self, name):
        self.path.append(name)
        self.paths.append("/".join(self.path))
        yield
        self.path.pop()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view:
            self.operators.append(("/".join(self.path), str(function)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_every_operation_lies_in_a_named_leaf_range(shape, device):
    layer = DecoderLayer("tiny-glm", shape, format="fp32", device=device)
    inputs, recorder = layer.inputs(), Recorder()
    with recorder:
        layer.forward(*inputs, recorder.mark)
    mlp = [f"layers.0/mlp/{s}" for s in ("router", "align", "w13", "act", "w2", "combine", "shared_experts")]
    leaves = ["layers.0/input_norm", "layers.0/self_attn", "layers.0/post_attention_norm", *mlp]
    assert recorder.paths == ["layers.0", *leaves[:3], "layers.0/mlp", *mlp]
    assert {path for path, _ in recorder.operators} == set(leaves)


def test_forced_routing_replaces_the_result_of_the_router_but_not_its_work(device, monkeypatch):
    forced = routing.synthetic("hot", 3, 8, 2, device=device)
    layer = DecoderLayer("tiny-qwen", DECODE, format="fp32", forced=forced, device=device)
    inputs, routed = layer.inputs(), []
    monkeypatch.setattr(
        "moe_lab.gpu.layer.fused_route", lambda x, *rest: routed.append(x.shape) or fused_route(x, *rest)
    )
    y, _ = layer.forward(*inputs, SILENT)
    assert layer.routing is forced
    assert routed == [(3, 8)]
    torch.testing.assert_close(y.double(), reference(layer, *inputs)[0], rtol=1e-4, atol=1e-4)


def test_random_layer_keeps_values_sane_in_half_precision(device):
    layer = DecoderLayer("tiny-qwen", DECODE, format="fp16", device=device)
    y, stream = layer.forward(*layer.inputs(), SILENT)
    assert y.isfinite().all()
    assert 0.01 < float(y.float().std()) < 10
    assert 0.5 < float(stream.float().std()) < 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "deepseek-v3"}, "cannot build; choose one of: qwen3-30b-a3b"),
        ({"name": "gpt-2"}, "No model preset is called 'gpt-2'"),
        ({"format": "fp8"}, "There is no format 'fp8'; choose one of"),
        ({"format": "fp8_block", "backend": "torch_grouped"}, "torch_grouped does not take fp8_block here, only"),
        ({"backend": "magic"}, "No experts plugin is called 'magic'"),
        ({"align": "magic"}, "No align plugin is called 'magic'"),
        ({"backend": "torch_loop", "align": "torch_ref"}, "'torch_loop' has no align stage to choose"),
    ],
)
def test_layer_refuses_what_it_cannot_build(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        DecoderLayer(**({"name": "tiny-qwen", "shape": DECODE, "device": "cpu"} | arguments))


def test_shape_refuses_an_empty_batch():
    with pytest.raises(UserError, match="Need batch >= 1"):
        Shape("decode", 0)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [Shape("prefill", 2, input_len=100), Shape("decode", 16, context=300)], ids=str)
def test_layer_replays_in_a_cuda_graph_as_it_runs_eagerly(shape, device):
    layer = DecoderLayer("qwen3-30b-a3b", shape, device=device)
    inputs = layer.inputs()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        eager = [t.clone() for t in layer.forward(*inputs, SILENT)]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer.forward(*inputs, SILENT)
    graph.replay()
    for a, b in zip(captured, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backend", "format"),
    [("hopper", "fp8_block"), ("fused_moe", "fp8_block"), ("grouped", "fp8_tensor"), ("auto", "fp8_token")],
)
@pytest.mark.parametrize("shape", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_layer_in_fp8_is_as_near_to_the_layer_before_as_its_roundings(shape, backend, format, device, monkeypatch):
    """Every product's factors are rounded to e4m3: 4 of them in a row, each some 4 to 6 % of the RMS off."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs compute capability 9.0")
    attention = Attention("gqa", 8, 2, 64, qk_norm=True, rope_theta=1e6)
    monkeypatch.setitem(models.MODELS, "tiny-fp8", Model(256, 128, 8, 2, 1, attention, Router(), "test"))
    layer = DecoderLayer("tiny-fp8", shape, format=format, backend=backend, device=device)
    hidden, residual = layer.inputs()
    marked = []

    @contextlib.contextmanager
    def mark(name):
        marked.append(name)
        yield

    y, stream = layer.forward(hidden, residual, mark)
    layer.forced = layer.routing  # rounding may choose other experts
    expected, expected_stream = reference(layer, hidden, residual)
    error = (y.double() - expected).norm() / expected.norm()
    assert 0.01 < float(error) < 0.25
    assert (stream.double() - expected_stream.double()).norm() / expected_stream.double().norm() < 0.1
    assert any("quant" in name for name in marked)
    monkeypatch.setitem(models.MODELS, "tiny-odd", Model(192, 64, 8, 2, 1, attention, Router(), "test"))
    with pytest.raises(UserError, match="multiples of 128"):
        DecoderLayer("tiny-odd", shape, format="fp8_block", backend="hopper", device=device)
