"""Weights of four bits with activations in e4m3: what is widened and how, and the layer against the oracle."""

import re
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import quantised_layer
import triton.language as tl
from quantised_layer import SILENT, make, run

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.formats import dense, mxfp4, mxfp4_w4a8
from moe_lab.gpu.kernels import widen_e4m3
from moe_lab.gpu.kernels.linear import linear
from moe_lab.gpu.kernels.quantise import quantise
from moe_lab.gpu.kernels.tile import Tile
from moe_lab.gpu.kernels.widen_e4m3 import e2m1_in_e4m3, e2m1_table, int4_in_e4m3
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

BACKENDS = ["fused_moe", "grouped"]
FORMATS = ["int4_w4a8", "mxfp4_w4a8"]
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# M, K, N, E, topk, routing, activation, tile (None = the default) and why.
CASES = [
    (3, 160, 40, 2, 2, "uniform", "swigluoai", None, "tails of 32 and 8 in every size"),
    (3, 128, 64, 4, 1, "hot", "silu", (32, 128, 128, 8, 4, 2), "scales of rows by bytes; experts that are not hit"),
    (0, 128, 64, 8, 2, "uniform", "silu", None, "no tokens"),
]


def assert_right(y, problem, inputs):
    quantised_layer.assert_right(y, problem, inputs)
    same = torch_loop.experts(*inputs, problem=problem, mark=SILENT).double()
    assert float((y.double() - same).norm()) <= 0.06 * float(same.norm())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=[case[-1] for case in CASES])
def test_four_bits_times_e4m3_match_the_dequantised_oracle(name, format, case, device, poison):
    *sizes, tile, _ = case
    problem, inputs = make(sizes, device, format)
    assert_right(run(name, problem, inputs, tile=Tile(*tile) if tile else None), problem, inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("M", [1, 64, 213, 3000])
def test_four_bits_times_e4m3_are_right_at_the_sizes_of_a_model_and_in_a_graph(name, M, format, device, poison):
    problem, inputs = make((M, 2048, 768, 32, 8, "zipf:1.0", "silu"), device, format)
    run(name, problem, inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(name, problem, inputs)
    inputs.x.copy_(inputs.x.flip(0) * 1.5)
    graph.replay()
    assert_right(y, problem, inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("tile", [(16, 32, 128, 1, 4, 3), (64, 128, 128, 8, 8, 4), (128, 128, 128, 8, 8, 3)])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", BACKENDS)
def test_four_bits_times_e4m3_are_right_whatever_the_tile(name, format, tile, device, poison):
    problem, inputs = make((300, 704, 352, 6, 2, "zipf:1.0", "silu"), device, format)
    assert_right(run(name, problem, inputs, tile=Tile(*tile)), problem, inputs)


@pytest.mark.parametrize("name", BACKENDS)
def test_scales_of_a_row_that_lie_far_apart_are_cut_as_the_format_says(name, device, poison):
    """GIVEN scales 0 to 24 octaves apart WHEN multiplied THEN it is the oracle's layer, though e4m3 has 15 octaves.

    One hidden activation decides nearly all of a token's result, and its one rounding may be an unlucky draw.
    """
    torch.manual_seed(0)
    problem, inputs = make((2, 160, 40, 2, 1, "uniform", "silu"), device, "mxfp4_w4a8")
    apart = [replace(w, scales=w.scales - torch.randint_like(w.scales, 24)) for w in (inputs.w13, inputs.w2)]
    inputs = inputs._replace(w13=apart[0], w2=apart[1])
    assert_right(run(name, problem, inputs), problem, inputs)


@pytest.mark.parametrize(("name", "format"), [*zip(BACKENDS, FORMATS, strict=True)])
def test_a_wrong_scale_or_a_swap_of_two_is_seen(name, format, device):
    problem, inputs = make((5, 256, 64, 2, 1, "uniform", "silu"), device, format)
    oracle, wrong = Oracle(inputs, problem), inputs.w13.scales.roll(1, -1).contiguous()
    wrong[..., 0] += 2 if format == "mxfp4_w4a8" else 0.05
    y = run(name, problem, inputs._replace(w13=replace(inputs.w13, scales=wrong)))
    assert not oracle.right(oracle.errors(y))


@pytest.mark.parametrize("below", [0, 5, 11, 12, 13, 14, 15, 17, 18, 30])
def test_a_number_is_exact_down_to_14_octaves_below_the_largest_scale_and_cut_off_beyond(below):
    codes = torch.arange(16).repeat(4)
    w = mxfp4.Quantised("mxfp4", (codes[::2] | codes[1::2] << 4).to(torch.uint8)[None].repeat(1, 2), torch.empty(0))
    scales = torch.tensor([[127, 127 - below, 127, 127 - below]], dtype=torch.uint8)
    w = replace(w, scales=scales)
    exact, meant = mxfp4.dequantise(w, torch.float64), mxfp4_w4a8.dequantise(w, torch.float64)
    error = (exact - meant).abs()
    assert bool((error < 2.0**-15).all())
    assert bool((meant.abs() <= exact.abs()).all())
    assert bool((error == 0).all()) == (below <= 14)


def test_a_group_of_zeros_does_not_push_the_others_of_its_row_below_e4m3():
    w = torch.full((1, 128), 2.0**-30)
    w[0, 32:64] = 0
    torch.testing.assert_close(dense(mxfp4_w4a8.quantise(w), torch.float32), w, rtol=0, atol=0)


@triton.jit
def widen_kernel(bytes, below, low, high, INT4: tl.constexpr, PACKED: tl.constexpr):
    at = tl.arange(0, 256)[:, None] * 4 + tl.arange(0, 4)[None, :]
    given = tl.load(bytes + at)
    if INT4:
        first, second = int4_in_e4m3(given, PACKED)
    else:
        first4, last4 = e2m1_table(tl.load(below + at))
        first, second = e2m1_in_e4m3(given, first4, last4, PACKED)
    tl.store(low + at, first)
    tl.store(high + at, second)


@pytest.mark.parametrize("below", [None, 0, 11, 12, 13, 14, 15, 16, 18, 22, 40])
def test_every_byte_is_widened_to_what_its_codes_mean(below, device):
    """PACKED on a GPU, for which the lines that it runs are computed below on the CPU."""
    given = torch.arange(1024, device=device).view(256, 4).to(torch.uint8)
    given = (given + torch.arange(256, device=device, dtype=torch.uint8)[:, None]).contiguous()
    low, high = torch.empty_like(given), torch.empty_like(given)
    octaves = torch.full((256, 4), below or 0, dtype=torch.int32, device=device)
    widen_kernel[(1,)](given, octaves, low, high, INT4=below is None, PACKED=device == "cuda")
    for found, codes in ((low, given & 15), (high, given >> 4)):
        assert found.view(torch.float8_e4m3fn).double().tolist() == meant(codes, below).tolist()


def meant(codes, below):
    if below is None:
        return (codes.double() - 8) / 512
    size = torch.tensor(E2M1, dtype=torch.float64, device=codes.device)[(codes & 7).int()]
    size = (size * 2.0 ** (6 - below) * 512).trunc() / 512
    return torch.where(codes > 7, -size, size)


def executed(text, registers):
    """Compute lines of PTX on 32-bit words."""
    for line in re.sub(r"[{}]", "", text).split(";"):
        if not (found := line.split()) or found[0] == ".reg":
            continue
        to, *names = [word.strip(",") for word in found[1:]]
        values = [registers[n] if n in registers else int(n, 0) for n in names]
        registers[to] = OPERATIONS[found[0].split(".")[0]](*values) & 0xFFFFFFFF
    return registers["$0"], registers["$1"]


def lop3(a, b, c, table):
    bits = ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32))
    return sum((table >> bit & 1) << i for i, bit in enumerate(bits))


def prmt(a, b, choice):
    eight = (a | b << 32).to_bytes(8, "little")
    assert not choice & 0x8888
    return sum(eight[choice >> 4 * i & 7] << 8 * i for i in range(4))


OPERATIONS = {
    "shr": lambda a, n: a >> n,
    "shl": lambda a, n: a << n,
    "and": lambda a, b: a & b,
    "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "lop3": lop3,
    "prmt": prmt,
}


@pytest.mark.parametrize("kind", ["int4", "e2m1"])
def test_the_instructions_for_four_bytes_do_the_same(kind):
    text = {"int4": widen_e4m3._INT4, "e2m1": widen_e4m3._E2M1}[kind].value
    codes = torch.arange(256, dtype=torch.uint8)
    for first in range(0, 256, 4):
        word = int.from_bytes(bytes([first, first + 1, 255 - first, first + 3]), "little")
        given = {"$2": word, "$3": 0x6C686000, "$7": 0x7C787470}
        four = codes.new_tensor(list(word.to_bytes(4, "little")))
        for found, which in zip(executed(text, given), (four & 15, four >> 4), strict=True):
            stored = codes.new_tensor(list(found.to_bytes(4, "little"))).view(torch.float8_e4m3fn)
            assert stored.double().tolist() == meant(which, None if kind == "int4" else 0).tolist()


@pytest.mark.parametrize("features", [128, 200])
def test_quantise_stores_whole_groups_in_the_order_of_products(features, device, poison):
    x = torch.randn(5, features, device=device).half()
    found = quantise(x, format="int4_w4a8")
    expected = plugins.load("formats", "int4_w4a8").quantise_activations(x)
    torch.testing.assert_close(found.scales, expected.scales, rtol=1e-5, atol=0)
    whole = torch.nn.functional.pad(expected.values.float(), (0, -features % 128)).unflatten(1, (-1, 4, 4, 4, 2))
    dealt = whole.permute(0, 1, 3, 5, 2, 4).flatten(1)
    torch.testing.assert_close(found.values.float(), dealt, rtol=0.07, atol=2**-9)
    assert float((found.values.float() != dealt).float().mean()) < 2e-3


@pytest.mark.parametrize("name", BACKENDS)
def test_w4a8_multiplies_the_input_by_the_router_weight_and_adds_biases(name, device, poison):
    problem, inputs = make((3, 128, 64, 2, 1, "uniform", "silu"), device, "int4_w4a8", biases=True)
    weights = torch.linspace(0.1, 0.9, 3, device=device)[:, None].contiguous()
    problem, inputs = replace(problem, apply_router_weight_on_input=True), inputs._replace(topk_weights=weights)
    oracle = Oracle(inputs, problem)
    assert oracle.right(oracle.errors(run(name, problem, inputs)))


@pytest.mark.parametrize("format", FORMATS)
def test_dense_products_take_w4a8(format, device, poison):
    dtype = torch.bfloat16 if device == "cuda" else torch.float16
    plugin = plugins.load("formats", format)
    x, w = torch.randn(5, 160, device=device).to(dtype), plugin.quantise(torch.randn(72, 160, device=device))
    rounded = dense(plugin.quantise_activations(x), torch.float64)
    expected = rounded @ dense(w, torch.float64).T
    assert float((linear(x, w).double() - expected).norm()) < 0.01 * float(expected.norm())


@pytest.mark.parametrize("name", BACKENDS)
def test_tiles_of_other_steps_are_refused(name, device):
    problem, inputs = make((3, 128, 64, 4, 2, "uniform", "silu"), device, "int4_w4a8")
    with pytest.raises(UserError, match="need tiles with block_k 128, not 64"):
        run(name, problem, inputs, tile=Tile(16, 64, 64, 1, 4, 2))


def test_auto_takes_triton(device):
    problem = MoEProblem(3, 128, 64, 4, 2, "int4_w4a8")
    assert plugins.load("experts", "auto").possible(problem, torch.device(device)) == ("fused_moe", "grouped")
