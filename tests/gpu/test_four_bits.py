"""Weights of four bits as `hopper_moe` reads them, decoded here thread by thread as its `widen.cuh` does."""

from functools import partial

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from quantised_layer import SILENT, make
from unit_rows import row_of_w2, row_of_w13

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.experts import hopper
from moe_lab.gpu.formats import Biased, dense, quantise
from moe_lab.gpu.kernels.hopper import four_bits

FORMATS = [
    "int4_w4a16",
    "int4_w4a16_g32",
    "int4_w4a16_g64",
    "int4_w4a16_zeros",
    "int4_w4a16_g32_zeros",
    "mxfp4",
    "nvfp4",
]
E, K, N = 2, 192, 64  # the last step has one half; a unit of w13, a unit and a half of w2


@pytest.mark.parametrize("format", FORMATS)
def test_every_thread_finds_its_weights_and_scales(format):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 1e-3])[:, None, None]  # experts of different sizes have factors of their own
    dense13, dense2 = (torch.randn(shape, generator=generator) * sizes for shape in ((E, 2 * N, K), (E, K, N)))
    weights = [quantise(w.bfloat16(), format) for w in (dense13, dense2)]
    for w, stored, row_of in zip(weights, hopper.prepare(*weights), (partial(row_of_w13, N), row_of_w2), strict=True):
        meant, (_, rows, columns) = dense(w, torch.float64), w.shape
        read = torch.zeros_like(meant)
        for expert in range(E):
            for unit, row, column, value in numbers(stored[expert], format, -(-rows // 128), columns):
                if (at := row_of(unit, *places(row))) < rows:
                    read[expert, at, column] = value
        limit = 2.0**-8 if format.startswith("int4") else 0.0  # int4 is rounded to bf16, e2m1 stays exact
        assert ((read - meant).abs() <= limit * meant.abs()).all()


def places(row):
    """Of 64 rows, warp, r or r + 8, r."""
    return row // 64, row // 16 % 4, row // 8 % 2, row % 8


def numbers(stored, format, units, columns):
    """Yield (unit, row, column, value) of an expert's bytes."""
    kind, group = dict(four_bits.macros(format)).values()
    steps, size = -(-columns // 128), four_bits.unit_bytes(format)
    factor = stored[-16:-12].clone().view(torch.float32).item()
    for unit in range(units):
        for step in range(steps):
            one = stored[(unit * steps + step) * size :][:size].clone()
            slabs = one.view(8, -1)  # of 64 rows and warp
            words = slabs[:, -1024:].reshape(8, -1).view(torch.int32).view(2, 4, 2, 32, 4).tolist()  # half, lane, part
            scales = slabs[:, :-1024].reshape(64, -1)
            values = [scale_values(scale, format, kind) for scale in scales]
            for column in range(step * 128, min(columns, step * 128 + 128)):
                at = column % 128
                half, part, eight, lane_of_row, second = at // 64, at // 16 % 4, at // 8 % 2, at // 2 % 4, at % 2
                for row in range(128):
                    block, warp, up, lane = places(row)
                    word = words[block][warp][half][lane * 4 + lane_of_row][part] & 0xFFFFFFFF
                    code = code_of(word, 2 * eight + up, second, kind)
                    scale = values[(block * 4 + warp) * 8 + lane]
                    yield unit, row, column, number(code, scale, up, at // group, kind) * factor


def code_of(word, pair, second, kind):
    """The four bits at the places where the kernel's masks and shifts look for them."""
    if kind != "E2M1":
        return rotated(word, -4 * pair - 16 * second) >> 3 & 15
    if pair < 3:
        bits = rotated(word, (0, -4, 6)[pair]) >> 16 * second
        return bits >> 6 & 7 | (bits >> 15 & 1) << 3
    bits = word >> 16 * second
    return bits >> 4 & 3 | (bits >> 14 & 1) << 2 | (bits >> 13 & 1) << 3


def rotated(word, left):
    left %= 32
    return (word << left | word >> 32 - left) & 0xFFFFFFFF


def scale_values(scale, format, kind):
    """Of rows r and r + 8, as numbers."""
    if kind != "E2M1":
        return scale.view(torch.bfloat16).double().tolist()
    if format == "mxfp4":
        return (2.0 ** (scale.double() - 253)).tolist()
    return (scale.view(torch.float8_e4m3fn).double() / 512).tolist()


def number(code, scale, up, group, kind):
    """What the kernel makes of a code, without rounding the product to bf16."""
    if kind == "INT4":
        return (code - 8) / 8 * scale[2 * group + up] * 2.0**-127
    if kind == "INT4_ZEROS":
        return (128 + 8 * code + scale[4 * group + 2 + up]) * scale[4 * group + up]
    value = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)[code & 7] * (-1 if code & 8 else 1)
    return value * scale[up * len(scale) // 2 + group]


@pytest.mark.parametrize("format", ["bf16", "mxfp4", "fp8_block"])
def test_biases_lie_behind_the_weights_in_the_order_of_the_rows(format):
    rows, columns = (256, 128) if format == "fp8_block" else (192, 64)
    b13, b2 = torch.arange(2.0 * columns), torch.arange(1.0, rows + 1)
    w13, w2 = torch.ones(1, 2 * columns, rows), torch.ones(1, rows, columns)
    both = [Biased(quantise(w.bfloat16(), format), b[None]) for w, b in ((w13, b13), (w2, b2))]
    for stored, biases in zip(hopper.prepare(*both), (b13, b2), strict=True):
        units = -(-len(biases) // 128)
        end = stored.shape[1] - (16 if format == "mxfp4" else 0)
        read = stored[0, end - units * 512 : end].clone().view(torch.float32).view(units, 2, 4, 8, 2)
        for unit, half, warp, lane, up in torch.cartesian_prod(*map(torch.arange, read.shape)).tolist():
            at = row_of_w2(unit, half, warp, up, lane)
            if biases is b13:
                at = row_of_w13(columns, unit, half, warp, up, lane)
            assert read[unit, half, warp, lane, up] == (biases[at] if at < len(biases) else 0)


# M, K, N, E, topk, routing, activation, options, format, biases and why.
CASES = [
    (1, 64, 64, 4, 2, "uniform", "silu", {}, "mxfp4", False, "half a step of K and of N"),
    (1, 2048, 768, 128, 8, "uniform", "silu", {}, "int4_w4a16", False, "one token of Qwen3"),
    (3, 2880, 2880, 8, 4, "uniform", "swigluoai", {}, "mxfp4", True, "gpt-oss: the last step has one half; biases"),
    (9, 320, 192, 8, 2, "uniform", "silu", {}, "int4_w4a16_g64", True, "units of w2 that are odd in number"),
    (33, 384, 384, 8, 2, "uniform", "silu", {}, "int4_w4a16_g32_zeros", False, "four groups a step, with zero points"),
    (300, 384, 128, 8, 4, "hot", "silu", {}, "nvfp4", True, "experts of several tiles"),
    (
        700,
        640,
        256,
        4,
        2,
        "zipf:1.0",
        "silu",
        {"own_sort": False, "split": True},
        "int4_w4a16_zeros",
        False,
        "two launches",
    ),
    (500, 256, 128, 16, 2, "uniform", "silu", {"shape": (2, 48, 8, 6)}, "mxfp4", False, "products of 48 columns"),
    (1500, 384, 384, 4, 2, "zipf:1.0", "silu", {}, "int4_w4a16", True, "many tokens of an expert"),
    (40, 384, 128, 8, 2, "uniform", "silu", {}, "fp8_block", True, "biases in e4m3"),
    (3000, 384, 128, 8, 2, "uniform", "silu", {}, "fp8_block", True, "biases in e4m3, many tokens"),
    (200, 384, 128, 8, 2, "uniform", "silu", {}, "bf16", True, "biases in bf16"),
]


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=[case[-1] for case in CASES])
def test_hopper_with_four_bits_or_biases_matches_the_oracle_launch_after_launch(case, device, poison):
    *sizes, options, format, biases, _ = case
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs compute capability 9.0")
    problem, inputs = make(sizes, device, format, biases)
    options = {key: hopper.Shape(*value) if key == "shape" else value for key, value in options.items()}
    oracle, prepared = Oracle(inputs, problem), hopper.prepare(inputs.w13, inputs.w2)
    for _ in range(3):
        y = hopper.experts(inputs.x, *prepared, *inputs[3:], problem=problem, mark=SILENT, **options)
        errors = oracle.errors(y)
        assert oracle.right(errors), (errors, oracle.bound)
