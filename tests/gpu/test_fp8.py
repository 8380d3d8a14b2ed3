"""Our Triton backends in the formats of e4m3: what quantises, and the layer against the dequantised oracle."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import quantised_layer
from quantised_layer import SILENT, make, run

from moe_lab.gpu import formats
from moe_lab.gpu.bench import examine
from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.experts import load, torch_loop
from moe_lab.gpu.formats import dense
from moe_lab.gpu.kernels.activation import gated_activation_torch
from moe_lab.gpu.kernels.linear import linear
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.spec import plugins, ranges
from moe_lab.spec.errors import UserError

BACKENDS = ["fused_moe", "grouped"]
BEHIND = ["fp8_tensor", "fp8_token"]  # scales behind the sum
# M, K, N, E, topk, routing, activation, tile (None = the default) and why.
CASES = [
    (1, 256, 128, 4, 2, "uniform", "silu", None, "one token"),
    (5, 128, 128, 16, 2, "uniform", "silu", None, "one step of K; most experts empty"),
    (19, 256, 192, 4, 2, "zipf:1.0", "swigluoai", None, "w13 has half a block of gates, w2 half a step"),
    (9, 160, 136, 4, 2, "uniform", "silu", None, "tails of 32 and 8 in every size"),
    (21, 320, 130, 3, 1, "hot", "silu", None, "N that is odd for aligned loads; all to one expert"),
    (67, 128, 128, 2, 2, "uniform", "silu", None, "tiles of 64 rows"),
    (20, 256, 128, 2, 2, "zipf:1.0", "silu", (32, 32, 128, 8, 4, 2), "tiles of a quarter of a block"),
    (9, 160, 256, 3, 2, "zipf:1.0", "swigluoai", None, "two whole groups of hidden features"),
    (0, 256, 128, 8, 2, "uniform", "silu", None, "no tokens"),
]
# The same for scales behind the sum.
CASES_BEHIND = [
    (1, 256, 128, 4, 2, "uniform", "silu", None, "one token"),
    (9, 128, 192, 3, 2, "zipf:1.0", "swigluoai", None, "tiles with 64 columns of none"),
    (5, 160, 136, 2, 2, "uniform", "silu", None, "tails of 32 and 8 in every size"),
    (5, 128, 128, 2, 1, "uniform", "silu", (64, 128, 128, 8, 4, 2), "tiles of 64 rows"),
    (9, 128, 128, 2, 2, "zipf:1.0", "silu", (32, 256, 64, 8, 4, 2), "tiles that a block of weights would not allow"),
    (0, 256, 128, 8, 2, "uniform", "silu", None, "no tokens"),
]


def assert_right(y, problem, inputs):
    """Within the bound of the oracle, and near torch that quantises at the same places.

    One scale of all hidden rows follows their largest, which bf16 gates and ups move by 2^-9: all numbers with it.
    """
    quantised_layer.assert_right(y, problem, inputs)
    same = torch_loop.experts(*inputs, problem=problem, mark=SILENT).double()
    assert float((y.double() - same).norm()) <= 0.06 * float(same.norm())


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=[case[-1] for case in CASES])
def test_fp8_block_matches_the_dequantised_oracle(name, case, device, poison):
    *sizes, tile, _ = case
    problem, inputs = make(sizes, device)
    assert_right(run(name, problem, inputs, tile=Tile(*tile) if tile else None), problem, inputs)


def test_grouped_gives_the_same_hidden_rows_in_one_launch_and_in_two(device, poison):
    """Within what a step of e4m3 makes of bf16 or fp16 hidden rows, which one launch does not round."""
    problem, inputs = make((9, 128, 256, 2, 2, "zipf:1.0", "silu"), device)
    tile = Tile(16, 128, 128, 8, 4, 3)
    one, two = (run("grouped", problem, inputs, tile=tile, fuse=fuse) for fuse in (True, False))
    assert float((one.double() - two.double()).norm()) <= 0.03 * float(two.double().norm())
    assert_right(one, problem, inputs)


@pytest.mark.parametrize("format", BEHIND)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", CASES_BEHIND, ids=[case[-1] for case in CASES_BEHIND])
def test_scales_behind_the_sum_match_the_dequantised_oracle(name, case, format, device, poison):
    *sizes, tile, _ = case
    problem, inputs = make(sizes, device, format)
    assert_right(run(name, problem, inputs, tile=Tile(*tile) if tile else None), problem, inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("format", ["fp8_block", *BEHIND])
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("M", [1, 7, 64, 65, 513, 3000])
def test_fp8_is_right_at_the_sizes_of_a_model_and_in_a_graph(name, M, format, device, poison):
    sizes = (M, 2048, 768, 128, 8, "zipf:1.0", "silu")
    problem, inputs = make(sizes, device, format)
    run(name, problem, inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(name, problem, inputs)
    for _ in range(2):
        _, fresh = make(sizes, device, format)
        for old, new in ((inputs.x, fresh.x), *zip(inputs[3:], fresh[3:], strict=True)):
            old.copy_(new)
        graph.replay()
        assert_right(y, problem, inputs)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_wrong_scale_of_weights_or_a_swap_of_two_is_seen(name, device):
    problem, inputs = make((9, 256, 256, 4, 2, "uniform", "silu"), device)
    oracle = Oracle(inputs, problem)
    for key, axis in (("w13", -2), ("w2", -1)):  # rows of the one, steps of the other
        weights = getattr(inputs, key)
        wrong = replace(weights, scales=weights.scales.roll(1, axis).contiguous())
        wrong.scales.select(axis, 0).mul_(3)
        assert not oracle.right(oracle.errors(run(name, problem, inputs._replace(**{key: wrong}))))


@pytest.mark.parametrize("format", BEHIND)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_wrong_scale_behind_the_sum_is_seen(name, format, device):
    problem, inputs = make((9, 128, 128, 4, 2, "uniform", "silu"), device, format)
    oracle = Oracle(inputs, problem)
    for key in ("w13", "w2"):
        weights = getattr(inputs, key)
        scales = weights.scales.roll(1, 1) if format == "fp8_token" else weights.scales * 3
        wrong = replace(weights, scales=scales)
        assert not oracle.right(oracle.errors(run(name, problem, inputs._replace(**{key: wrong}))))


@pytest.mark.parametrize("format", ["fp8_block", *BEHIND])
@pytest.mark.parametrize("name", BACKENDS)
def test_fp8_multiplies_the_input_by_the_router_weight_where_the_model_does(name, format, device, poison):
    problem, inputs = make((21, 128, 128, 4, 1, "uniform", "silu"), device, format)
    weights = torch.linspace(0.1, 0.9, 21, device=device)[:, None].contiguous()
    problem, inputs = replace(problem, apply_router_weight_on_input=True), inputs._replace(topk_weights=weights)
    oracle = Oracle(inputs, problem)
    assert oracle.right(oracle.errors(run(name, problem, inputs)))


@pytest.mark.parametrize("format", ["fp8_block", *BEHIND])
@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("features", [128, 200])
@pytest.mark.parametrize("activation", ["none", "silu", "swigluoai"])
def test_quantise_gives_what_the_format_gives(rows, features, activation, format, device, poison):
    dtype = torch.bfloat16 if device == "cuda" else torch.float16
    wide = features * (1 if activation == "none" else 2)
    x = (torch.randn(rows, wide, device=device) * 4.0 ** torch.randint(-4, 4, (rows, 1), device=device)).to(dtype)
    x[0, : wide // 2] = 0
    found = quantise(x, activation, format=format)
    numbers = x.float() if activation == "none" else gated_activation_torch(x.float(), activation)
    expected = plugins.load("formats", format).quantise_activations(numbers)
    torch.testing.assert_close(found.scales, expected.scales, rtol=1e-5, atol=0)
    assert found.values.dtype == torch.float8_e4m3fn
    apart = found.values.float() - expected.values.float()
    # Where a number lies between two of e4m3, the last bit of fp32 decides.
    assert float((apart != 0).float().mean()) < 2e-3
    assert bool((apart.abs() <= expected.values.float().abs() / 7 + 2**-9).all())


@pytest.mark.parametrize("format", ["fp8_block", *BEHIND])
def test_quantise_leaves_padding_rows_alone(format, device, poison):
    """Padding has no pair's number, and behind the padded rows an order may hold any: there rows are unwritten."""
    x = torch.randn(8, 512, device=device).half()
    x[[1, 4, 6, 7]] = float("nan")
    order, padded = (torch.tensor(t, dtype=torch.int32, device=device) for t in ([3, 9, 0, 1, 7, 2, 5, 4], [6]))
    found = quantise(x, "silu", order, 7, padded=padded, format=format)
    kept = [0, 2, 3, 5]
    numbers = dense(found, torch.float32)
    expected = gated_activation_torch(x.float(), "silu")
    torch.testing.assert_close(numbers[kept], expected[kept], rtol=0.07, atol=0.02)
    if format == "fp8_tensor":
        largest = expected[kept].abs().max() / 448
        torch.testing.assert_close(found.scales, largest[None, None], rtol=1e-5, atol=0)
    else:
        assert found.scales[[1, 4, 6, 7]].isnan().all(), "not written"


APART = ["quant", "align", "w13", "act+quant", "w2", "combine"]
# backend, format, N, options and the stages: a whole group of N in a tile of w13 is quantised there
STAGES = [
    *(("fused_moe", format, 128, {}, APART) for format in ("fp8_block", *BEHIND)),
    *(("grouped", format, 128, {}, ["quant", "align", "w13+act", "quant", "w2", "combine"]) for format in BEHIND),
    ("grouped", "fp8_block", 128, {}, ["quant", "align", "w13+act+quant", "w2", "combine"]),
    ("grouped", "fp8_block", 128, {"fuse": False}, APART),
    ("grouped", "fp8_block", 192, {}, APART),
]


@pytest.mark.parametrize(("name", "format", "N", "options", "stages"), STAGES)
def test_stages_of_fp8_say_where_it_quantises(name, format, N, options, stages, device):
    problem, inputs = make((9, 128, N, 4, 2, "uniform", "silu"), device, format)
    seen = []

    def mark(stage):
        seen.append(stage)
        return SILENT(stage)

    load(name)[0].experts(*inputs, problem=problem, mark=mark, **options)
    assert seen == stages
    assert all(map(ranges.stages_of, seen))


@pytest.mark.parametrize("tile", [Tile(16, 64, 64, 1, 4, 2), Tile(16, 256, 128, 1, 4, 2)])
def test_tiles_that_pass_a_block_of_weights_are_refused(tile, device):
    problem, inputs = make((3, 256, 128, 4, 2, "uniform", "silu"), device)
    with pytest.raises(UserError, match="fp8_block needs tiles with block_k 128 and block_n up to 128, not"):
        run("fused_moe", problem, inputs, tile=tile)


@pytest.mark.parametrize("format", BEHIND)
def test_auto_takes_triton_where_scales_come_behind_the_sum_and_others_refuse(format, device, poison):
    problem, inputs = make((9, 128, 128, 4, 2, "uniform", "silu"), device, format)
    auto, _ = load("auto")
    assert auto.possible(problem, inputs.x.device) == ("fused_moe", "grouped")
    assert_right(run("auto", problem, inputs), problem, inputs)
    for name in ("hopper", "deep_gemm"):
        with pytest.raises(UserError, match=f"{name} does not take {format} here, only: "):
            examine.refuse(name, plugins.info("experts", name), problem, torch.device("cuda"))


def test_gpus_without_e4m3_are_refused(monkeypatch):
    from moe_lab.gpu.kernels.scales import check_product

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match=r"compute capability 8\.9 or more; choose bf16 here"):
        check_product("fp8_token", torch.device("cuda", 0))


@pytest.mark.parametrize("format", ["fp8_block", *BEHIND, "mxfp4"])
def test_dense_products_of_the_layer_take_formats_with_scales(format, device, poison):
    dtype = torch.bfloat16 if device == "cuda" else torch.float16
    x, w = torch.randn(5, 160, device=device).to(dtype), formats.quantise(torch.randn(130, 160, device=device), format)
    rounded = formats.rounding(format)(x).double()
    expected = rounded @ dense(w, torch.float64).T
    assert float((linear(x, w).double() - expected).norm()) < 0.01 * float(expected.norm())
