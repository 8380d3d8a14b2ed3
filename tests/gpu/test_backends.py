"""Listing backends, and the adapters of other projects around kernels that stand for theirs."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from moe_lab import cli
from moe_lab.spec import plugins

torch = pytest.importorskip("torch")

from quantised_layer import assert_right
from wheel_builder import MOE, TILES, wheel

from moe_lab.gpu import routing
from moe_lab.gpu.bench import check, examine
from moe_lab.gpu.bench.check import Inputs
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.formats import Biased, quantise, rounding
from moe_lab.spec import ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.peers import fetch
from moe_lab.spec.problem import MoEProblem

PEERS = [
    "deep_gemm",
    "flashinfer_cutlass",
    "humming",
    "mega_moe",
    "moe_ops",
    "scattermoe",
    "sglang_triton",
    "sonic_moe",
    "triton_kernels",
    "vllm_triton",
]
# A grouped GEMM in plain torch with the launcher's signature of vLLM 0.15: what an adapter must get right around it.
LAUNCHER = """
import torch
import vllm._custom_ops
from vllm.triton_utils import triton, tl


class fused_moe_kernel:
    arg_names = ["a_ptr", "BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "naive_block_assignment"]


class fused_moe_kernel_gptq_awq:
    arg_names = ["SPLIT_K"]


def get_default_config(M, E, N, K, topk, dtype, block_shape=None):
    assert (dtype, block_shape) in (
        (None, None), ("fp8_w8a8", None), ("fp8_w8a8", [128, 128]), ("int8_w8a8", None), ("int8_w8a16", None),
        ("int4_w4a16", [0, 32]),
    )
    return {"BLOCK_SIZE_M": 16 if M <= E else 64, "SPLIT_K": 1}


def invoke_fused_moe_triton_kernel(
    A, B, C, A_scale, B_scale, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight,
    top_k, config, compute_type, use_fp8_w8a8, use_int8_w8a8, use_int8_w8a16, use_int4_w4a16, per_channel_quant,
    block_shape=None, B_bias=None,
):
    assert C.ndim == 3 and not use_int4_w4a16
    assert (use_fp8_w8a8 or use_int8_w8a8 or use_int8_w8a16) == (B_scale is not None)
    if use_fp8_w8a8:
        assert A.dtype == B.dtype == torch.float8_e4m3fn
        if block_shape:
            assert block_shape == [128, 128] and not per_channel_quant
            A_scale = A_scale.repeat_interleave(128, -1)[:, : A.shape[-1]]
            B_scale = B_scale.repeat_interleave(128, -1).repeat_interleave(128, -2)[:, : B.shape[1], : B.shape[2]]
        else:
            assert B_scale.stride(0) == (B.shape[1] if per_channel_quant else 1)
            assert A_scale.shape == (A.shape[0] if per_channel_quant else 1, 1)
        A, B = A.float() * A_scale, B.float() * B_scale
    elif B_scale is not None:
        assert B.dtype == torch.int8 and per_channel_quant and (A.dtype == torch.int8) == use_int8_w8a8
        A, B = A.float() * A_scale if use_int8_w8a8 else A.float(), B.float() * B_scale
    tiles = sorted_token_ids, expert_ids, num_tokens_post_padded, config["BLOCK_SIZE_M"]
    multiply(A, B, C, *tiles, topk_weights, mul_routed_weight, top_k, B_bias)


def invoke_fused_moe_wna16_triton_kernel(
    A, B, C, B_scale, B_zp, topk_weights, sorted_token_ids, expert_ids, num_tokens_post_padded, mul_routed_weight,
    top_k, config, compute_type, use_int8_w8a16, use_int4_w4a16, block_shape,
):
    assert use_int4_w4a16 and block_shape == [0, 32] and config["SPLIT_K"] == 1 and not should_moe_wna16_use_cuda()
    zero = 8 if B_zp is None else torch.stack([B_zp & 15, B_zp >> 4], 2).flatten(1, 2).repeat_interleave(32, -1)
    B = (torch.stack([B & 15, B >> 4], -1).flatten(-2).float() - zero) * B_scale.float().repeat_interleave(32, -1)
    A = A.float()
    tiles = sorted_token_ids, expert_ids, num_tokens_post_padded, config["BLOCK_SIZE_M"]
    multiply(A, B, C, *tiles, topk_weights, mul_routed_weight, top_k)


def multiply(
    A, B, C, sorted_token_ids, expert_ids, num_tokens_post_padded, size, topk_weights, weighted, top_k, bias=None
):
    flat = C.view(-1, C.shape[-1])
    for tile in range(int(num_tokens_post_padded) // size):
        pairs = [tile] if sorted_token_ids is None else sorted_token_ids[tile * size : (tile + 1) * size].tolist()
        for pair in pairs:
            if pair < flat.shape[0]:
                expert = int(expert_ids[tile])
                y = B[expert] @ A[pair // top_k] + (0 if bias is None else bias[expert])
                flat[pair] = y * topk_weights.view(-1)[pair] if weighted else y
"""
BATCHED = """
from vllm.triton_utils import triton, tl


def invoke_moe_batched_triton_kernel(
    A, B, C, expert_num_tokens, compute_type, A_scale, B_scale, B_zp, use_fp8_w8a8, use_int8_w8a16, use_int4_w4a16,
    config, per_act_token_quant, block_shape=None,
):
    assert use_fp8_w8a8 == (block_shape == [128, 128]) and config["BLOCK_SIZE_M"] and not per_act_token_quant
    for expert, rows in enumerate(expert_num_tokens.tolist()):
        a, b = A[expert, :rows].float(), B[expert].float()
        if use_fp8_w8a8:
            a *= A_scale[expert, :rows].repeat_interleave(128, -1)
            b *= B_scale[expert].repeat_interleave(128, 0).repeat_interleave(128, 1)
        C[expert, :rows] = a @ b.T
"""


def tile(rows: int, **more: object) -> dict[str, object]:
    """An entry of an engine's tuned file."""
    whole = {"BLOCK_SIZE_M": rows, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 32, "GROUP_SIZE_M": 1}
    return {**whole, "num_warps": 4, "num_stages": 3, **more}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GIVEN a wheel of vLLM in the cache; the adapter starts afresh."""
    monkeypatch.setenv("MOE_LAB_PEERS", str(tmp_path / "peers"))
    tiles = json.dumps({"4": tile(32), "40": tile(128)})
    kernels = {f"{MOE}/fused_moe.py": LAUNCHER, f"{MOE}/experts/fused_batched_moe.py": BATCHED}
    fetch.add(str(wheel(tmp_path, files={**kernels, f"{MOE}/configs/{TILES}": tiles})))
    plugins.load("experts", "vllm_triton").at.cache_clear()
    yield tmp_path
    plugins.load("experts", "vllm_triton").at.cache_clear()


def make(M: int, K: int = 24, N: int = 16, E: int = 8, topk: int = 2) -> tuple:
    problem = MoEProblem(M, K, N, E, topk, "fp32")
    tensors = torch.randn(M, K), torch.randn(E, 2 * N, K) * K**-0.5, torch.randn(E, K, N) * N**-0.5
    return problem, (*tensors, *routing.synthetic("uniform", M, E, topk, seed=M))


@pytest.mark.parametrize("M", [0, 1, 5, 33], ids=["none", "one-tile-a-pair", "default-tile", "larger-default-tile"])
def test_wheel_pipeline_gives_what_the_oracle_gives(cache: Path, interpreter, M: int, poison) -> None:
    problem, tensors = make(M)
    seen: list[str] = []

    def mark(stage):
        seen.append(stage)
        return ranges.marker("none")(stage)

    y = examine.load("vllm_triton")[0].experts(*tensors, problem=problem, mark=mark)
    expected = torch_loop.moe(*tensors, problem=problem, mark=ranges.marker("none"), dtype=torch.float64)
    assert torch.allclose(y.double(), expected, atol=1e-5)
    assert seen == (["align", "w13", "act", "w2", "combine"] if M else [])


def fp8(M: int, K: int = 256, N: int = 128, E: int = 8, topk: int = 2, format: str = "fp8_block") -> tuple:
    """A problem in e4m3, with tokens in fp16 since the interpreter has no bf16."""
    _, (x, w13, w2, *route) = make(M, K, N, E, topk)
    problem = MoEProblem(M, K, N, E, topk, format)
    return problem, (x.half(), quantise(w13, format), quantise(w2, format), *route)


def assert_fp8(y: torch.Tensor, problem: MoEProblem, tensors: tuple) -> None:
    """Within what the arithmetic of the format allows; a wrong scale is off by a quarter and more."""
    assert assert_right(y, problem, Inputs(*tensors)).bound.rms_rel < 0.15


@pytest.mark.parametrize("format", ["fp8_block", "fp8_tensor", "fp8_token"])
@pytest.mark.parametrize("M", [1, 5, 33], ids=["one-tile-a-pair", "few", "more"])
def test_wheel_pipeline_passes_values_and_scales_of_fp8(cache: Path, interpreter, M: int, format: str, poison) -> None:
    problem, tensors = fp8(M, format=format)
    seen: list[str] = []

    def mark(stage):
        seen.append(stage)
        return ranges.marker("none")(stage)

    y = examine.load("vllm_triton")[0].experts(*tensors, problem=problem, mark=mark)
    assert_fp8(y, problem, tensors)
    assert seen == ["quant", "align", "w13", "act+quant", "w2", "combine"]


@pytest.mark.parametrize("format", ["int8", "int8_w8a16", "int4_w4a16_g32", "int4_w4a16_g32_zeros"])
def test_wheel_pipeline_passes_integers_with_scales_and_zero_points(cache: Path, interpreter, format: str, poison):
    problem, (x, *w, ids, weights) = fp8(1, format=format)  # so few pairs that a tile for each is an option
    backend = examine.load("vllm_triton")[0]
    y = backend.experts(x, *backend.prepare(*w), ids, weights, problem=problem, mark=ranges.marker("none"))
    assert_fp8(y, problem, (x, *w, ids, weights))


@pytest.mark.parametrize(("format", "topk"), [("int8_w8a16", 2), ("fp8_token", 1)])
def test_wheel_pipeline_passes_biases_which_no_router_weight_of_the_input_multiplies(
    cache: Path, interpreter, format: str, topk: int, poison
) -> None:
    problem, (x, *w, ids, weights) = fp8(5, topk=topk, format=format)
    problem = dataclasses.replace(problem, biases=True, apply_router_weight_on_input=topk == 1)
    tensors = x, *(Biased(one, torch.randn(one.shape[:2])) for one in w), ids * 0.5, weights
    backend = examine.load("vllm_triton")[0]
    y = backend.experts(x, *backend.prepare(*tensors[1:3]), *tensors[3:], problem=problem, mark=ranges.marker("none"))
    assert_fp8(y, problem, tensors)


def test_wheel_pipeline_refuses_biases_that_a_kernel_or_a_release_cannot_add(
    cache: Path, interpreter, tmp_path
) -> None:
    problem, (x, *w, ids, weights) = fp8(5, format="fp16")
    given = MoEProblem(5, 256, 128, 8, 2, "int4_w4a16_g32", biases=True), torch.device("cuda")
    with pytest.raises(UserError, match="vllm_triton adds no biases in int4_w4a16_g32, which"):
        examine.refuse("vllm_triton", plugins.info("experts", "vllm_triton"), *given)
    files = {f"{MOE}/fused_moe.py": LAUNCHER.replace("B_bias", "other"), f"{MOE}/configs/{TILES}": "{}"}
    fetch.add(str(wheel(tmp_path, version="0.1", files=files)))
    both = (Biased(one, torch.zeros(one.shape[:2])) for one in w)
    backend = examine.load("vllm_triton@0.1")[0]
    with pytest.raises(UserError, match=r"vllm 0\.1 adds no biases; use another release"):
        backend.experts(x, *both, ids, weights, problem=problem, mark=ranges.marker("none"))


@pytest.mark.parametrize("format", ["fp16", "fp8_block"])
def test_batched_kernel_gets_rows_by_expert_and_their_counts(cache: Path, interpreter, format: str, poison) -> None:
    problem, tensors = fp8(5, format=format)
    backend = plugins.load("experts", "vllm_batched").VllmBatched(None)
    silent = ranges.marker("none")
    assert_fp8(backend.experts(*tensors, problem=problem, mark=silent), problem, tensors)
    with pytest.raises(UserError, match="up to 1024, not 1025"):
        backend.experts(*tensors, problem=dataclasses.replace(problem, M=1025), mark=silent)


def test_an_h100_takes_the_tuned_tiles_of_an_h200_for_fp8(cache: Path, interpreter, tmp_path, monkeypatch) -> None:
    names = {
        gpu: f"{MOE}/configs/E=8,N={N},device_name=NVIDIA_{gpu},dtype=fp8_w8a8,block_shape=[128,128].json"
        for gpu, N in (("H200", 128), ("H100_80GB_HBM3", 256))
    }
    tiles = {names["H200"]: json.dumps({"4": tile(32)}), names["H100_80GB_HBM3"]: json.dumps({"4": tile(128)})}
    other = names["H200"].replace("N=128", "N=256")
    files = {f"{MOE}/fused_moe.py": LAUNCHER, **tiles, other: json.dumps({"4": tile(16)})}
    fetch.add(str(wheel(tmp_path, version="7.7", files=files)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    backend = examine.load("vllm_triton@7.7")[0]
    assert [backend.block_m(MoEProblem(4, 256, N, 8, 2, "fp8_block")) for N in (128, 256, 384)] == [32, 128, 16]


class Grouped:
    """DeepGEMM's grouped products in plain torch, with its layouts of rows and scales."""

    @staticmethod
    def get_mk_alignment_for_contiguous_layout() -> int:
        return 128

    @staticmethod
    def dense(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        assert values.dtype == torch.float8_e4m3fn
        assert values.is_contiguous()
        high = values.shape[-2] // max(1, scales.shape[-2])
        return values.float() * scales.repeat_interleave(128, -1).repeat_interleave(high, -2)

    def m_grouped_fp8_gemm_nt_contiguous(self, a, b, d, groups) -> None:
        assert a[1].stride() == (1, a[0].shape[0]), "rows of a group next to each other"
        self.m_grouped_bf16_gemm_nt_contiguous(self.dense(*a), self.dense(*b), d, groups)

    def m_grouped_bf16_gemm_nt_contiguous(self, a, b, d, groups) -> None:
        for row, expert in enumerate(groups.tolist()):
            if expert >= 0:
                d[row] = (b[expert].float() @ a[row].float()).to(d.dtype)

    def m_grouped_fp8_gemm_nt_masked(self, a, b, d, counts, mean) -> None:
        E, room, _ = a[0].shape
        assert a[1].stride() == (a[1].shape[2] * room, 1, room)
        assert room % 128 == 0
        assert d.shape[:2] == (E, room)
        left, right = self.dense(*a), self.dense(*b)
        for expert, count in enumerate(counts.tolist()):
            d[expert, :count] = (left[expert, :count] @ right[expert].T).to(d.dtype)


@pytest.mark.parametrize("most_masked", [0, 256], ids=["contiguous", "masked"])
@pytest.mark.parametrize("M", [0, 1, 33])
def test_deep_gemm_gets_rows_and_scales_in_its_layouts(M: int, most_masked: int, interpreter, poison, monkeypatch):
    from moe_lab.gpu.experts import deep_gemm

    backend = deep_gemm.DeepGemm.__new__(deep_gemm.DeepGemm)
    vars(backend)["_library"] = Grouped()
    monkeypatch.setattr(deep_gemm, "MOST_MASKED", most_masked)
    monkeypatch.setattr(deep_gemm, "capability", lambda: (9, 0))
    problem, tensors = fp8(M)
    y = backend.experts(*tensors, problem=problem, mark=ranges.marker("none"))
    assert y.shape == (M, 256)
    if M:
        assert_fp8(y, problem, tensors)
    problem, tensors = make(M, 128, 64)
    y = backend.experts(*tensors, problem=problem, mark=ranges.marker("none"))
    expected = torch_loop.moe(*tensors, problem=problem, mark=ranges.marker("none"), dtype=torch.float64)
    assert torch.allclose(y.double(), expected, atol=1e-5)


def test_deep_gemm_refuses_what_its_fp8_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    from moe_lab.gpu.experts import deep_gemm

    backend = deep_gemm.DeepGemm.__new__(deep_gemm.DeepGemm)
    problem, tensors = fp8(1, N=64)
    with pytest.raises(UserError, match="multiples of 128 in fp8_block, not 256 and 64"):
        backend.experts(*tensors, problem=problem, mark=ranges.marker("none"))
    monkeypatch.setattr(deep_gemm, "capability", lambda: (10, 0))
    problem, tensors = fp8(1)
    with pytest.raises(UserError, match=r"on compute capability 9\.0 only"):
        backend.experts(*tensors, problem=problem, mark=ranges.marker("none"))


class Mega:
    """SGLang's mega MoE in plain torch, with its layouts of memory, weights and routing, on one rank."""

    ROOM = 384

    def __init__(self, pre_dispatch: bool, ranks: int = 1):
        self._C, self.ranks = self, ranks
        if pre_dispatch:
            self.mega_moe_pre_dispatch_sm90 = self.dispatch

    def get_token_alignment_for_mega_moe(self) -> int:
        return self.ROOM

    def get_symm_buffer_size_for_sm90_mega_moe(self, ranks, E, most, topk, K, N, dispatched, activation):
        assert (ranks, most % self.ROOM, dispatched, activation) == (self.ranks, 0, True, "swiglu")
        sizes = most * K, most * K // 32, most * topk * 8, most * topk * 4

        def cut(memory: torch.Tensor) -> tuple[torch.Tensor, ...]:
            assert not memory.any(), "its counters start at zero"
            x, scales, ids, weights, rest = memory.split([*sizes, 8])
            found = x, scales.view(torch.float32), ids.view(torch.int64), weights.view(torch.float32)
            return *(part.view(most, -1) for part in found), rest, rest

        return sum(sizes) + 8, cut

    @staticmethod
    def transform_weights_for_mega_moe_sm90(first, second):
        E, rows, K = first[0].shape
        pairs = first[0].view(E, 2, rows // 16, 8, K).transpose(1, 2)
        return (pairs.reshape(E, rows, K), first[1]), second

    @staticmethod
    def dispatch(x, ids, weights, values, scales, to_ids, to_weights, M) -> None:
        made = plugins.load("formats", "fp8_block").quantise_activations(x)
        assert ids.dtype == torch.int32
        for place, numbers in ((values, made.values), (scales, made.scales), (to_ids, ids), (to_weights, weights)):
            place[:M].copy_(numbers)

    def fp8_mega_moe(self, y, first, second, room) -> None:
        assert (room.group.rank(), room.handle.buffer_ptrs[0]) == (0, room.buffer.data_ptr())
        M, (E, rows, K) = len(y), first[0].shape
        assert (room.num_experts, room.num_topk) == (self.ranks * E, room.topk_idx.shape[1])
        assert len(room.handle.buffer_ptrs) == self.ranks
        apart = first[0].view(E, rows // 16, 2, 8, K).transpose(1, 2).reshape(E, rows, K)
        x, w13, w2 = (Grouped.dense(*pair) for pair in ((room.x[:M], room.x_sf[:M]), (apart, first[1]), second))
        for m in range(M):
            y[m] = 0
            for expert, weight in zip(room.topk_idx[m].tolist(), room.topk_weights[m].tolist(), strict=True):
                gate, up = (w13[expert] @ x[m]).chunk(2)
                hidden = rounding("fp8_block")((torch.nn.functional.silu(gate) * up)[None])[0]
                y[m] += (weight * (w2[expert] @ hidden)).to(y.dtype)


@pytest.mark.parametrize("pre_dispatch", [False, True], ids=["0.1.4", "later"])
@pytest.mark.parametrize("M", [0, 1, 33])
def test_mega_moe_gets_tokens_and_weights_in_its_memory(M: int, pre_dispatch: bool, interpreter, poison, monkeypatch):
    from moe_lab.gpu.experts import mega_moe

    backend = mega_moe.MegaMoe.__new__(mega_moe.MegaMoe)
    vars(backend).update(_library=Mega(pre_dispatch), _rooms={})
    monkeypatch.setattr(mega_moe, "capability", lambda: (9, 0))
    problem, (x, w13, w2, *route) = fp8(M, K=512, N=256)
    prepared = backend.prepare(w13, w2)
    for _ in range(2):  # the second call finds the memory of the first
        y = backend.experts(x, *prepared, *route, problem=problem, mark=ranges.marker("none"))
    assert y.shape == (M, 512)
    if M:
        assert_fp8(y, problem, (x, w13, w2, *route))


@pytest.mark.parametrize("M", [0, 5])
def test_mega_moe_of_a_rank_gets_its_own_weights_and_ids_among_all_experts(M, interpreter, poison, monkeypatch) -> None:
    """GIVEN rank 0 of two, whose tokens need only its experts WHEN it does the layer THEN it is that of one process."""
    from moe_lab.gpu.comm import Sizes
    from moe_lab.gpu.comm import mega_moe as between
    from moe_lab.gpu.experts import mega_moe
    from moe_lab.gpu.ranks import RankedExperts
    from moe_lab.spec.parallel import Parallel

    def shared(size: int, rank: int, device: torch.device):
        memory = torch.full((size,), 7, dtype=torch.uint8)
        return memory, [memory.data_ptr(), 0], None

    backend = mega_moe.MegaMoe.__new__(mega_moe.MegaMoe)
    vars(backend)["_library"] = Mega(pre_dispatch=False, ranks=2)
    met: list[str] = []
    monkeypatch.setattr(mega_moe, "at", lambda version: backend)
    monkeypatch.setattr(mega_moe, "capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(between, "wire", lambda *given: None)
    monkeypatch.setattr(between, "shared", shared)
    monkeypatch.setattr(between, "distributed", SimpleNamespace(barrier=lambda: met.append("all")))
    problem, (x, w13, w2, weights, ids) = fp8(M, K=512, N=256)
    parallel, ids = Parallel.contiguous(8, 2), ids % 4
    room = between.prepare(parallel, Sizes(M, 512, 2, "fp8_block", torch.device("cuda"), problem))
    assert met == ["all"], "nobody writes before all memory is zero"

    def layer(*given):
        return between.layer(*given[:-1], parallel=parallel, mark=given[-1], room=room)

    way = SimpleNamespace(name="mega_moe", parallel=parallel, whole=True, weights=between.weights, layer=layer)
    ranked = RankedExperts(problem, way, "hopper")
    assert ranked.computes == "mega_moe"
    y = ranked(x, ranked.prepare(w13, w2), weights, ids, ranges.marker("none"))
    assert y.shape == (M, 512)
    if M:
        assert_fp8(y, problem, (x, w13, w2, weights, ids))


@pytest.mark.parametrize(
    ("K", "N", "gpu", "said"),
    [
        (256, 256, (9, 0), "multiple of 512 and N that is one of 256 and at most 4096, not 256 and 256"),
        (512, 128, (9, 0), "not 512 and 128"),
        (512, 256, (10, 0), r"for compute capability 9\.0 only"),
    ],
)
def test_mega_moe_refuses_what_its_kernel_does_not_take(K, N, gpu, said, monkeypatch: pytest.MonkeyPatch) -> None:
    from moe_lab.gpu.experts import mega_moe

    monkeypatch.setattr(mega_moe, "capability", lambda: gpu)
    backend = mega_moe.MegaMoe.__new__(mega_moe.MegaMoe)
    problem, tensors = fp8(1, K=K, N=N, E=2)
    with pytest.raises(UserError, match=said):
        backend.experts(*tensors, problem=problem, mark=ranges.marker("none"))


@pytest.fixture
def flashinfer(monkeypatch: pytest.MonkeyPatch):
    """GIVEN FlashInfer's fused MoE in plain torch, up rows first."""
    module = ModuleType("flashinfer.fused_moe")

    def cutlass_fused_moe(x, ids, weights, w13, w2, dtype, scales, *, output, use_deepseek_fp8_block_scale) -> None:
        assert (x.dtype, ids.dtype, weights.dtype) == (dtype, torch.int32, torch.float32)
        assert use_deepseek_fp8_block_scale == bool(scales)
        first, second = map(Grouped.dense, (w13, w2), scales) if scales else (w13.float(), w2.float())
        rounded = rounding("fp8_block" if scales else "fp32")
        for m, row in enumerate(rounded(x.float())):
            up, gate = (first[ids[m].long()] @ row).chunk(2, dim=1)
            hidden = rounded(torch.nn.functional.silu(gate) * up)
            output[m] = (weights[m] @ (second[ids[m].long()] @ hidden[..., None])[..., 0]).to(dtype)

    module.cutlass_fused_moe = cutlass_fused_moe
    monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))
    monkeypatch.setitem(sys.modules, "flashinfer.fused_moe", module)
    yield importlib.import_module("moe_lab.gpu.experts.flashinfer_cutlass")
    del sys.modules["moe_lab.gpu.experts.flashinfer_cutlass"]


@pytest.mark.parametrize("M", [0, 1, 9])
def test_flashinfer_gets_up_rows_before_gate_rows_with_their_scales(M: int, flashinfer, monkeypatch, poison) -> None:
    monkeypatch.setattr(flashinfer, "capability", lambda: (9, 0))
    silent = ranges.marker("none")
    problem, (x, w13, w2, *route) = fp8(M)
    y = flashinfer.experts(x, *flashinfer.prepare(w13, w2), *route, problem=problem, mark=silent)
    assert y.shape == (M, 256)
    if M:
        assert_fp8(y, problem, (x, w13, w2, *route))
    problem, (x, w13, w2, *route) = make(M)
    y = flashinfer.experts(x, *flashinfer.prepare(w13, w2), *route, problem=problem, mark=silent)
    expected = torch_loop.moe(x, w13, w2, *route, problem=problem, mark=silent, dtype=torch.float64)
    assert torch.allclose(y.double(), expected, atol=1e-5)


def test_flashinfer_refuses_what_it_does_not_take_in_fp8(flashinfer, monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu, N, said in (((9, 0), 64, "multiples of 128 in fp8_block, not 256 and 64"), ((10, 0), 128, r"9\.0 only")):
        monkeypatch.setattr(flashinfer, "capability", lambda gpu=gpu: gpu)
        problem, tensors = fp8(1, N=N)
        with pytest.raises(UserError, match=said):
            flashinfer.experts(*tensors, problem=problem, mark=ranges.marker("none"))


def test_wheel_pipeline_takes_the_nearest_tuned_tile_else_the_projects_default(cache: Path, interpreter) -> None:
    backend = examine.load("vllm_triton")[0]
    tuned = [backend.block_m(MoEProblem(M, 24, 32, 8, 2, "fp32")) for M in (1, 21, 23, 900)]
    assert tuned == [32, 32, 128, 128], "keys 4 and 40"
    assert backend.config(MoEProblem(9, 24, 16, 8, 2, "fp32")) == {"BLOCK_SIZE_M": 64}, "no file for this N"


def test_wheel_pipeline_refuses_a_launcher_that_wants_more(cache: Path, interpreter, tmp_path: Path) -> None:
    more = LAUNCHER.replace("A, B, C,", "A, B, C, moon_phase,")
    fetch.add(str(wheel(tmp_path, version="9.9", files={f"{MOE}/fused_moe.py": more, f"{MOE}/configs/{TILES}": "{}"})))
    problem, tensors = make(5)
    backend, _ = examine.load("vllm_triton@9.9")
    with pytest.raises(UserError, match="needs moon_phase, which this adapter does not know"):
        backend.experts(*tensors, problem=problem, mark=ranges.marker("none"))
    assert examine.load("vllm_triton@1.2")[0].peer.version == "1.2"


@pytest.mark.parametrize(
    ("key", "value"), [("USE_TMA", True), ("SPLIT_K", 4), ("waves_per_eu", 2), ("half_warps", 1)], ids=lambda v: str(v)
)
def test_wheel_pipeline_refuses_a_tile_with_a_key_that_it_cannot_pass_on(
    cache: Path, interpreter, tmp_path, key, value
) -> None:
    tiles = json.dumps({"4": tile(32, **{key: value})})
    files = {f"{MOE}/fused_moe.py": LAUNCHER, f"{MOE}/configs/{TILES}": tiles}
    fetch.add(str(wheel(tmp_path, version="8.8", files=files)))
    with pytest.raises(UserError, match=f"{TILES} of vllm 8.8 has {key}, which this adapter cannot pass"):
        examine.load("vllm_triton@8.8")[0].config(MoEProblem(4, 24, 32, 8, 2, "fp32"))


def test_wheel_pipeline_takes_what_a_tile_says_of_the_default_as_said(cache: Path, interpreter, tmp_path) -> None:
    tiles = json.dumps({"triton_version": "3.6.0", "4": tile(32, USE_TMA=False, SPLIT_K=1)})
    files = {f"{MOE}/fused_moe.py": LAUNCHER, f"{MOE}/configs/{TILES}": tiles}
    fetch.add(str(wheel(tmp_path, version="8.9", files=files)))
    config = examine.load("vllm_triton@8.9")[0].config(MoEProblem(4, 24, 32, 8, 2, "fp32"))
    assert config == tile(32)


def test_only_peers_have_releases() -> None:
    with pytest.raises(UserError, match="'fused_moe' has no releases"):
        examine.load("fused_moe@1.0")


def test_ogs_weights_are_interleaved_and_n_major(cache: Path) -> None:
    pytest.importorskip("triton")
    from moe_lab.gpu.experts.triton_kernels import MatmulOgs

    w13, w2 = torch.randn(3, 8, 5), torch.randn(3, 5, 4)
    bias = torch.randn(3, 8)
    laid, other = MatmulOgs.prepare(object(), Biased(w13, bias), w2)  # type: ignore[arg-type]
    first, second = laid.weights, other.weights
    assert torch.equal(laid.bias[1], torch.stack([bias[1, :4], bias[1, 4:]], 1).flatten())
    assert other.bias is None
    assert torch.equal(first[1, :, 0::2], w13[1, :4].T), "gates in even columns"
    assert torch.equal(first[1, :, 1::2], w13[1, 4:].T), "ups in odd ones"
    assert torch.equal(second, w2.transpose(1, 2))
    assert first.stride(-1) == second.stride(-1) == 1


def test_ogs_gets_mxfp4_along_k_with_the_scales_of_128_numbers() -> None:
    pytest.importorskip("triton")
    from moe_lab.gpu.experts.triton_kernels import MatmulOgs

    adapter = MatmulOgs.__new__(MatmulOgs)
    wrap = SimpleNamespace(
        FP4="fp4", wrap_torch_tensor=lambda x, dtype=None: x, convert_layout=lambda x, kind, **how: x
    )
    names = "make_default_matmul_mxfp4_w_layout", "make_default_matmul_mxfp4_w_scale_layout"
    layout = SimpleNamespace(**dict.fromkeys(names, lambda mx_axis, **how: ("kind", {"mx_axis": mx_axis})))
    ogs = SimpleNamespace(PrecisionConfig=lambda weight_scale: weight_scale)
    adapter.__dict__["_modules"] = {"tensor": wrap, "tensor_details.layout": layout, "matmul_ogs": ogs}
    w13, w2 = quantise(torch.randn(3, 8, 64), "mxfp4"), quantise(torch.randn(3, 64, 4), "mxfp4")
    laid, other = adapter.prepare(w13, w2)
    first, scales, second = laid.weights, laid.precision, other.weights
    assert torch.equal(first[1, :, 0::2], w13.values[1, :4].T), "gates in even columns"
    assert torch.equal(first[1, :, 1::2], w13.values[1, 4:].T), "ups in odd ones"
    assert torch.equal(scales[1, :2, 1::2], w13.scales[1, 4:].T)
    assert scales.shape == (3, 4, 8)
    assert torch.equal(second, w2.values.mT)


@pytest.mark.parametrize(("M", "E", "topk"), [(1, 4, 2), (33, 70, 8), (64, 32, 1)])
def test_bits_of_the_routing_are_its_experts(M: int, E: int, topk: int, device, poison) -> None:
    from moe_lab.gpu.kernels.ogs import pack

    ids = routing.synthetic("uniform", M, E, topk, device=device).topk_ids
    bits, zeros = pack(ids, E)
    words = -(-E // 32)
    assert bits.shape == (M, words)
    found = [{32 * w + b for w in range(words) for b in range(32) if bits[m, w].item() >> b & 1} for m in range(M)]
    assert found == [set(row) for row in ids.tolist()]
    assert zeros.tolist() == [0] * 32 * words


def test_backends_lists_all_with_how_to_get_the_missing_ones(monkeypatch, capsys) -> None:
    monkeypatch.setenv("MOE_LAB_PEERS", "/nowhere")
    assert cli.main(["backends", "--format", "json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(found) == plugins.names("experts")
    for name in PEERS:
        assert {"about", "source", "formats", "activations", "hardware"} <= found[name].keys()
        if not found[name]["available"]:
            assert "pip install" in found[name]["reason"] or "moe-lab peers add" in found[name]["reason"]
    assert found["fused_moe"]["available"]
    assert cli.main(["backends"]) == 0
    out = capsys.readouterr().out
    assert "unavailable: needs vllm (pip install vllm, or moe-lab peers add vllm==" in out


def test_backends_of_a_cached_wheel_are_available_with_its_version(cache: Path, capsys) -> None:
    assert cli.main(["backends"]) == 0
    assert "available: vllm 1.2, wheel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (None, "no GPU is seen: on the CPU it takes fused_moe with its default tiles."),
        (
            "NVIDIA X9",
            "no times for NVIDIA X9: it takes hopper where that fits (compute capability 9.0, fp16 or bf16, K",
        ),
        ("NVIDIA X9", "else fused_moe, whose tiles are its own defaults."),
        ("NVIDIA H200", "the fastest as measured at E=128 N=2880 K=2880 bf16, E=128 N=768 K=2048 bf16"),
    ],
    ids=["no-gpu", "unknown", "unknown-tiles", "measured"],
)
def test_backends_says_what_auto_does_on_this_gpu(gpu, said: str, monkeypatch, capsys) -> None:
    from moe_lab.runs.capture import _facts

    monkeypatch.setattr(_facts, "gpu_name", lambda: gpu)
    assert cli.main(["backends"]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert "tried with: 0.15.0, 0.33.0" in out


def test_listing_backends_imports_none(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from moe_lab import cli\n"
        "assert cli.main(['backends']) == 0\n"
        "assert not [m for m in sys.modules if m.startswith('moe_lab.gpu.experts')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


FP8_PEERS = [(name, "fp8_block") for name in ("deep_gemm", "flashinfer_cutlass", "mega_moe")]
FP8_PEERS += [(f"{name}_triton", f"fp8_{kind}") for name in ("vllm", "sglang") for kind in ("block", "tensor", "token")]


@pytest.mark.gpu
@pytest.mark.parametrize("M", [1, 16, 257, 700], ids=["one", "few", "more-than-masked", "many"])
@pytest.mark.parametrize(("name", "format"), FP8_PEERS)
def test_peers_in_fp8_match_the_oracle_in_a_cuda_graph(name: str, format: str, M: int, device: str, poison) -> None:
    if plugins.unavailable("experts", name):
        pytest.skip("not here")
    problem = MoEProblem(M, 512, 256, 16, 4, format)
    x, first, second = torch.randn(M, 512), torch.randn(16, 512, 512) * 512**-0.5, torch.randn(16, 512, 256) / 16
    weights = [quantise(w.to(device, torch.bfloat16), format) for w in (first, second)]
    route = routing.synthetic("zipf:1.0", M, 16, 4, seed=M, device=device)
    inputs = check.Inputs(x.to(device, torch.bfloat16), *weights, *route)
    backend, silent = examine.load(name)[0], ranges.marker("none")
    with torch.cuda.stream(torch.cuda.Stream()):
        backend.experts(*inputs, problem=problem, mark=silent)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = backend.experts(*inputs, problem=problem, mark=silent)
    graph.replay()
    oracle = check.Oracle(inputs, problem)
    errors = oracle.errors(y)
    assert oracle.right(errors), (errors, oracle.bound)
