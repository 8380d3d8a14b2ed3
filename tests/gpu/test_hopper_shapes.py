"""What the Hopper kernel is compiled for: arithmetic and text, so it needs no GPU."""

import shutil
import subprocess

import pytest

pytest.importorskip("triton")

from moe_lab.gpu.experts import hopper
from moe_lab.gpu.kernels._nvrtc import text_of
from moe_lab.gpu.kernels.hopper import MOST_PAIRS, SOURCE, Shape, shared_bytes, sorts_itself, wgmma
from moe_lab.gpu.kernels.hopper.widened import macros as macros_of
from moe_lab.spec.models import MODELS
from moe_lab.spec.problem import MoEProblem

H200_SHARED_BYTES = 232448


@pytest.mark.parametrize("format", ["bf16", "fp8_block", "int4_w4a16_g32_zeros", "int8", "int8_w8a16", "mxfp4"])
@pytest.mark.parametrize("E", [8, 128, 512, 1024, 2048])
def test_default_shapes_fit_a_block_with_and_without_its_own_sort(E, format):
    for M in (1, 8, 9, 128, 512, 1024, 2048, 4096, 16384, 65536):
        problem = MoEProblem(M, 2048, 768, E, min(8, E), format)
        shape = hopper.default_shape(problem)
        assert shared_bytes(shape, E, 0, format) <= H200_SHARED_BYTES
        inside = sorts_itself(problem.rows_useful, E, shape, H200_SHARED_BYTES, format)
        if inside:
            assert problem.rows_useful <= inside
            assert shared_bytes(shape, E, inside, format) <= H200_SHARED_BYTES
        else:
            assert problem.rows_useful > MOST_PAIRS[0]


def test_eight_experts_of_many_rows_leave_no_room_to_sort_8192_pairs():
    """mixtral-8x7b at M = 4096: tiles of 176 tokens fill the shared memory."""
    assert sorts_itself(8192, 8, Shape(2, 176, 16, 4), H200_SHARED_BYTES) == 0
    assert sorts_itself(8192, 128, Shape(2, 128, 16, 4), H200_SHARED_BYTES) == 8192


def test_tiles_are_padded_to_what_the_kernel_has_products_for():
    for name in MODELS:
        for M in (1, 16, 256, 1024, 4096, 16384):
            problem = MoEProblem.preset(name, M)
            shape = hopper.default_shape(problem)
            assert shape.max_n % shape.step == 0
            assert hopper.block_m(problem) == shape.step
            text = wgmma(shape, "bf16")
            assert f"X({shape.step})" in text
            assert f"X({shape.max_n})" in text
            assert text.count("wgmma.mma_async") == 3 * (shape.max_n // shape.step)


def test_one_product_names_each_accumulator_once():
    text = wgmma(Shape(1, 8, 8, 4), "f16")
    assert 'm64n8k16.f32.f16.f16"\n"{%0, %1, %2, %3}, a, b, 1, 1, 1, 0, 0;' in text
    assert text.count('"+f"(d[') == 4


def test_a_product_of_bf16_may_have_its_first_factor_in_registers():
    text = wgmma(Shape(1, 8, 8, 4), "bf16")
    assert 'm64n8k16.f32.bf16.bf16"\n"{%0, %1, %2, %3}, {%4, %5, %6, %7}, b, 1, 1, 1, 0; }"' in text
    assert ': "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(0x40000040)); }' in text


def test_products_of_e4m3_are_of_32_columns_and_the_first_adds_nothing():
    text = wgmma(Shape(2, 128, 128, 4, rows=True), "e4m3")
    assert text.count("wgmma.mma_async") == 2, "one size, adding and not"
    assert "m64n128k32.f32.e4m3.e4m3" in text
    assert ", a, b, 0, 1, 1; }" in text


@pytest.mark.parametrize("E", [8, 129, 1024])
@pytest.mark.parametrize("most_pairs", [0, *MOST_PAIRS])
@pytest.mark.parametrize(
    ("shape", "format"),
    [
        (Shape(1, 8, 8, 9), "bf16"),
        (Shape(2, 64, 8, 4), "bf16"),
        (Shape(2, 176, 16, 4), "bf16"),
        (Shape(1, 8, 8, 9), "fp8_block"),
        (Shape(2, 40, 8, 4), "fp8_block"),
        (Shape(2, 128, 128, 4, rows=True), "fp8_block"),
        (Shape(1, 8, 8, 20), "int4_w4a16"),
        (Shape(2, 32, 8, 8), "int4_w4a16_g32_zeros"),
        (Shape(1, 128, 16, 5), "nvfp4"),
        (Shape(1, 8, 8, 12), "int8_w8a16"),
        (Shape(2, 48, 8, 4), "int8_w8a16"),
        (Shape(1, 8, 8, 12), "int8"),
        (Shape(2, 48, 8, 4), "int8"),
    ],
)
def test_shared_bytes_are_those_of_the_layout(shape, format, most_pairs, E):
    """The layout is standard C++ and holds Python's sum to it, as every launch does on a GPU."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    layout = "".join(SOURCE.with_name(name).read_text() for name in ("stored.cuh", "layout.cuh"))
    defined = {
        "__device__": "",
        "MBLK": shape.units,
        "MAX_N": shape.max_n,
        "STAGES": shape.stages,
        "E": E,
        "MOST_PAIRS": most_pairs,
        "BIASES": 0,
    }
    defined |= {"FP8": int(format == "fp8_block"), "ROWS": int(shape.rows), **dict(macros_of(format))}
    for added in (0, 8):
        asked = shared_bytes(shape, E, most_pairs, format) + added
        macros = [f"-D{k}={v}" for k, v in {**defined, "SHARED": asked}.items()]
        command = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-", *macros]
        done = subprocess.run(command, input=layout, text=True, capture_output=True)
        assert (done.returncode == 0) == (added == 0), done.stderr


def test_text_of_a_kernel_holds_its_headers_once_and_no_other_include():
    text, headers = text_of(SOURCE), sorted(SOURCE.parent.glob("*.cuh"))
    assert "#include" not in text
    assert headers
    assert all(text.count(header.read_text()) == 1 for header in headers)
