"""Our Triton backends with weights that are widened in registers, and in int8: the layer against the oracle."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from quantised_layer import SILENT, assert_right, make, run

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.kernels.activation import gated_activation_torch
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.kernels.widen import widening
from moe_lab.spec import formats, plugins
from moe_lab.spec.ranges import stages_of

BACKENDS = ["fused_moe", "grouped"]
FORMATS = {name: formats.get(name) for name in plugins.names("formats")}
WIDENED = [name for name, known in FORMATS.items() if known.weight_block and not known.activation_block]
# M, K, N, E, topk, routing, activation, tile (None = the default), format and why.
CASES = [
    (1, 128, 64, 8, 2, "uniform", "silu", None, "mxfp4", "one token, most experts empty"),
    (5, 256, 64, 2, 1, "hot", "silu", (16, 32, 256, 1, 4, 2), "int4_w4a16_zeros", "a step holds two groups"),
    (5, 128, 64, 2, 2, "uniform", "silu", (32, 64, 32, 8, 4, 2), "int4_w4a16", "a group holds four steps"),
    (67, 64, 32, 2, 2, "uniform", "silu", None, "mxfp4", "tiles of 64 rows"),
    (0, 128, 64, 8, 2, "uniform", "silu", None, "mxfp4", "no tokens"),
]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("format", [*(name for name in WIDENED if "_g64" not in name), "int8"])
def test_weights_of_few_bits_match_the_dequantised_oracle(name, format, device, poison):
    """Sizes with tails: 32 of a step and of a group of 128 in K, 8 in N."""
    problem, inputs = make((5, 160, 72, 2, 2, "uniform", "swigluoai"), device, format)
    assert_right(run(name, problem, inputs), problem, inputs)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=[case[-1] for case in CASES])
def test_widened_weights_are_right_whatever_the_tile(name, case, device, poison):
    *sizes, tile, format, _ = case
    problem, inputs = make(sizes, device, format)
    assert_right(run(name, problem, inputs, tile=Tile(*tile) if tile else None), problem, inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("format", [*WIDENED, "int8"])
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("M", [1, 64, 513, 3000])
def test_weights_of_few_bits_are_right_at_the_sizes_of_a_model(name, M, format, device, poison):
    problem, inputs = make((M, 2048, 768, 128, 8, "zipf:1.0", "silu"), device, format)
    assert_right(run(name, problem, inputs), problem, inputs)


@pytest.mark.parametrize("format", [name for name in WIDENED if "_g" not in name])
def test_a_wrong_scale_or_zero_point_is_seen(format, device):
    problem, inputs = make((3, 128, 64, 2, 2, "uniform", "silu"), device, format)
    oracle = Oracle(inputs, problem)
    for key in ("scales", "zeros", "matrix_scales"):
        if (tensor := getattr(inputs.w2, key)) is None:
            continue
        wrong = tensor.clone()
        first = wrong[:, :1].float()
        wrong[:, :1] = (first * 2 if wrong.dtype.is_floating_point else first + 1).to(wrong.dtype)
        y = run("fused_moe", problem, inputs._replace(w2=replace(inputs.w2, **{key: wrong})))
        assert not oracle.right(oracle.errors(y)), key


@pytest.mark.parametrize("activation", ["none", "silu"])
def test_quantise_gives_int8_as_the_format_does(activation, device, poison):
    x = torch.randn(5, 400, device=device).half() * 4.0 ** torch.arange(-2, 3, device=device)[:, None].half()
    x[0] = 0
    found = quantise(x, activation, format="int8")
    numbers = x.float() if activation == "none" else gated_activation_torch(x.float(), activation)
    expected = plugins.load("formats", "int8").quantise_activations(numbers)
    torch.testing.assert_close(found.scales, expected.scales, rtol=1e-5, atol=0)
    apart = (found.values.int() - expected.values.int()).abs()
    assert apart.max() <= 1, "where a number lies between two, the last bit of fp32 decides"
    assert float(apart.float().mean()) < 2e-3


@pytest.mark.parametrize("name", ["grouped", "auto"])
def test_weights_alone_have_no_stage_that_quantises(name, device):
    problem, inputs = make((5, 128, 64, 2, 2, "uniform", "silu"), device, "mxfp4")
    seen = []

    def mark(stage):
        seen.append(stage)
        return SILENT(stage)

    run(name, problem, inputs, mark=mark)
    assert "quant" not in {stage for range in seen for stage in stages_of(range)}
    assert widening(inputs.w13)["WIDEN"] == "e2m1"
