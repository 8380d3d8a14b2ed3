"""Weights of eight bits as `hopper_moe` reads them: its `widen.cuh` compiled for the CPU, and its places of them."""

import ctypes
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from builders import emulated
from quantised_layer import SILENT, make
from unit_rows import row_of_w2, row_of_w13

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.experts import hopper
from moe_lab.gpu.formats import Biased, Quantised, quantise
from moe_lab.gpu.kernels.hopper import SOURCE, eight_bits, few
from moe_lab.spec.problem import MoEProblem

E, K, N = 2, 192, 64  # the last step has one half; a unit of w13, a unit and a half of w2


@pytest.fixture(scope="module")
def widen(tmp_path_factory):
    """The kernel's own `widen`: words [..., 2] int32 -> numbers [..., 4, 2], pairs of neighbouring columns."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    headers = [emulated.HEADER, SOURCE.with_name("stored.cuh"), emulated.HEADER.with_name("ptx.h")]
    text = "".join(f'#include "{path}"\n' for path in [*headers, SOURCE.with_name("widen.cuh")]).replace("\\", "/")
    text += 'extern "C" void all(u32 (*to)[4], u32 (*of)[2], int n) { while (n--) widen(to[n], of[n][0], of[n][1]); }'
    built: Path = tmp_path_factory.mktemp("widen") / "widen.so"
    macros = [f"-D{key}={value}" for key, value in {"WIDEN": "INT8", "GROUP": 1, "FP8": 0, "BIASES": 0}.items()]
    options = ["-std=c++17", "-w", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(built), *macros]
    subprocess.run([compiler, *options], input=text, text=True, check=True)
    library = ctypes.CDLL(str(built))

    def call(words):
        words = words.contiguous()
        to = torch.empty((*words.shape[:-1], 4), dtype=torch.int32)
        library.all(ctypes.c_void_p(to.data_ptr()), ctypes.c_void_p(words.data_ptr()), words.numel() // 2)
        return to.view(torch.bfloat16).view(*to.shape, 2).float()

    return call


def test_every_number_is_widened_exactly(widen):
    codes = torch.arange(256, dtype=torch.uint8)
    words = torch.stack([codes, codes.flip(0), codes.roll(7), codes.roll(99)] * 2, -1).view(torch.int32)
    first = torch.stack([codes, codes.flip(0), codes.roll(7), codes.roll(99)], -1).float() - 128
    found = widen(words) * eight_bits.MEANT
    assert torch.equal(found[:, 0], found[:, 2])
    assert torch.equal(found[:, :2].transpose(1, 2).flatten(1), first), "bytes: two columns, each of r and r + 8"


@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
def test_every_thread_finds_its_numbers_scales_and_biases(biases, widen):
    generator = torch.Generator().manual_seed(0)
    weights = []
    for shape in ((E, 2 * N, K), (E, K, N)):
        values = torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)
        w = Quantised("int8_w8a16", values, torch.rand(*shape[:2], 1, generator=generator))
        weights.append(Biased(w, torch.randn(shape[:2], generator=generator)) if biases else w)
    for w, stored, row_of in zip(weights, hopper.prepare(*weights), (partial(row_of_w13, N), row_of_w2), strict=True):
        meant, (_, rows, columns) = w.weights if biases else w, w.shape
        units, steps = -(-rows // 128), -(-columns // 128)
        assert stored.shape[1] == units * (steps * 16384 + 512 * (1 + biases))
        places = torch.cartesian_prod(*map(torch.arange, (units, 2, 4, 8, 2)))  # as OfRows reads them
        at = torch.tensor([row_of(unit, block, warp, up, r) for unit, block, warp, r, up in places.tolist()])
        inside = at < rows
        for expert in range(E):
            numbers = stored[expert, : units * steps * 16384].clone().view(torch.int32)
            # A thread's 16 bytes are of two parts; pairs: rows r and r + 8, then eight columns further on.
            wide = widen(numbers.view(units, steps, 2, 4, 4, 8, 4, 2, 2))
            # unit, step, block, warp, 32 columns, r, lane of the row, part, eight columns, r + 8, which of two
            wide = wide.unflatten(-2, (2, 2)).permute(0, 2, 3, 5, 9, 1, 4, 7, 8, 6, 10)
            wide = wide.reshape(units * 128, steps * 128)[:, :columns] * eight_bits.MEANT
            assert torch.equal(wide[inside], meant.values[expert, at[inside]].float())
            tails = stored[expert, units * steps * 16384 :].clone().view(torch.float32).view(1 + biases, -1)
            scales = meant.scales[expert, at[inside], 0]
            assert torch.equal(tails[0, inside], scales * eight_bits.MEANT)
            if biases:
                assert torch.equal(tails[1, inside], w.bias[expert, at[inside]])


def test_numbers_past_the_last_row_and_column_are_zero(widen):
    w = quantise(torch.ones(1, 192, 64).bfloat16(), "int8_w8a16")  # of w2: a unit and a half, half a step
    _, stored = hopper.prepare(quantise(torch.ones(1, 128, 192).bfloat16(), "int8_w8a16"), w)
    wide = widen(stored[0, : 2 * 16384].clone().view(torch.int32).view(-1, 2))
    assert wide.count_nonzero() == w.values.numel()


def test_few_pairs_of_eight_bits_are_left_to_the_kernel_of_any_number():
    assert few.default_shape(MoEProblem.preset("qwen3-30b-a3b", 1, "int8_w8a16"), 232448) is None


# M, K, N, E, topk, routing, activation, options, biases and why.
CASES = [
    (1, 64, 64, 4, 2, "uniform", "silu", {}, False, "half a step of K and of N"),
    (1, 2048, 768, 128, 8, "uniform", "silu", {}, False, "one token of Qwen3"),
    (4, 2048, 768, 128, 8, "uniform", "silu", {}, False, "four tokens"),
    (16, 2048, 768, 128, 8, "uniform", "silu", {}, False, "16 tokens"),
    (64, 2048, 768, 128, 8, "zipf:1.2", "silu", {}, False, "64 tokens, experts of several tiles"),
    (256, 2048, 768, 128, 8, "uniform", "silu", {}, False, "256 tokens"),
    (512, 2048, 768, 128, 8, "uniform", "silu", {}, True, "512 tokens, biases"),
    (3, 2880, 2880, 8, 4, "uniform", "swigluoai", {}, True, "the sizes of gpt-oss: the last step has one half"),
    (9, 320, 192, 8, 2, "uniform", "silu", {}, True, "units of w2 that are odd in number"),
    (40, 384, 384, 64, 2, "hot", "silu", {}, False, "experts without tokens, and one of several tiles"),
    (700, 640, 256, 4, 2, "zipf:1.0", "silu", {"own_sort": False, "split": True}, False, "two launches"),
    (1500, 384, 384, 4, 2, "zipf:1.0", "swigluoai", {}, True, "many tokens of an expert"),
    (0, 128, 64, 8, 2, "uniform", "silu", {}, False, "no tokens"),
]


@pytest.mark.gpu
@pytest.mark.parametrize("format", eight_bits.FORMATS)
@pytest.mark.parametrize("case", CASES, ids=[case[-1] for case in CASES])
def test_hopper_with_eight_bits_matches_the_oracle_launch_after_launch(case, format, device, poison):
    *sizes, options, biases, _ = case
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs compute capability 9.0")
    problem, inputs = make(sizes, device, format, biases)
    oracle, prepared = Oracle(inputs, problem), hopper.prepare(inputs.w13, inputs.w2)
    for _ in range(3):
        y = hopper.experts(inputs.x, *prepared, *inputs[3:], problem=problem, mark=SILENT, **options)
        errors = oracle.errors(y)
        assert oracle.right(errors), (errors, oracle.bound)
