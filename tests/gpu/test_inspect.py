"""The process that compiles for GPUs that are not there; Triton really compiles, on the CPU of the test."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

import torch

from moe_lab.gpu.__main__ import main
from moe_lab.gpu.bench.tune.case import sizes as sizes_of
from moe_lab.gpu.inspect import cases, cuda, tiles
from moe_lab.gpu.inspect.cuda import compiler
from moe_lab.gpu.inspect.record import record, told
from moe_lab.gpu.kernels import _nvrtc
from moe_lab.gpu.kernels.hopper import SOURCE
from moe_lab.runs import assembly
from moe_lab.spec import architectures, configs
from moe_lab.spec.errors import UserError

PLUGIN = """
import os
import torch
import triton
import triton.language as tl

INFO = {"kind": "align", "about": "what can go wrong", "needs": ["torch", "triton"], "deterministic": True}


@triton.jit
def ones_kernel(x, N: tl.constexpr):
    tl.store(x + tl.arange(0, N), 1)


class Deadly:
    dtype = torch.int32

    def data_ptr(self):  # what Triton asks of an argument when it compiles
        os._exit(9)


def align(topk_ids, block_m, E):
    ones_kernel[(1,)](topk_ids, N=16)
    ones_kernel[(1,)](Deadly(), N=16)
    ones_kernel[(1,)](topk_ids, N=3)
    ones_kernel[lambda known: (known["N"] // 16,)](topk_ids, 32, num_warps=2)  # as vLLM and SGLang launch theirs
"""


def inspected(folder: Path, *options: str, plugin: Path | None = None) -> list[dict]:
    out = folder / "rows.json"
    before = ["--plugin", str(plugin)] if plugin else []
    argv = [sys.executable, "-m", "moe_lab.gpu", *before, "inspect", *options, "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    header, *rows, last = [json.loads(line) for line in out.read_text().splitlines()]
    assert header["bench"] == "inspect"
    assert last == {"complete": True}
    assert not [p for p in out.with_name("rows.json.code").iterdir() if p.suffix != ".txt"], "listings alone are left"
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("inspect")


@pytest.fixture(scope="module")
def rows(folder) -> list[dict]:
    sizes = ["--model", "256x128x8x2", "--m", "4", "--format", "bf16,fp8_block"]
    some = ["--backend", "fused_moe", "--algorithms", "one_launch,two_kernel", "--arch", "sm_90,gfx942"]
    return inspected(folder, *sizes, *some)


def test_a_row_is_a_launch_in_the_order_of_the_call(rows) -> None:
    calls = [(r["arch"], r["format"], r["stage"], r["kernel"]) for r in rows if r["backend"]]
    hopper = [call[1:] for call in calls if call[0] == "sm_90"]
    gemm, combine = "fused_moe_gemm_kernel", "combine_kernel"
    plain = [("w13", gemm), ("act", "gated_activation_kernel"), ("w2", gemm), ("combine", combine)]
    scaled = [("quant", "quantise_kernel"), ("w13", gemm), ("act+quant", "quantise_kernel"), ("w2", gemm)]
    assert hopper == [("bf16", *one) for one in plain] + [
        ("fp8_block", *one) for one in [*scaled, ("combine", combine)]
    ]
    aligned = {r["kernel"] for r in rows if r["algorithm"] and r["arch"] == "sm_90"}
    assert aligned == {"one_launch_kernel", "router_kernel", "count_scan", "place"}


def test_a_call_that_refuses_is_a_row_with_its_reason(rows) -> None:
    refused = [r for r in rows if r["error"] and r["arch"] == "gfx942"]
    known = [(r["backend"], r["algorithm"], r["format"], r["kernel"]) for r in refused]
    assert known == [("fused_moe", None, "fp8_block", None), (None, "two_kernel", "bf16", None)]
    assert "compute capability 8.9" in refused[0]["error"]
    assert "CUDA C++ kernels need an NVIDIA GPU" in refused[1]["error"]


def test_cuda_is_compiled_by_what_is_here_or_says_what_it_needs(rows, folder) -> None:
    (place,) = (r for r in rows if r["kernel"] == "place")
    assert (place["grid_blocks"], place["constants"]) == (1, "BINS=32 BLOCK_M=16 ID=int DROP=0 RELABEL=0")
    if place["error"]:
        with pytest.raises(UserError, match=re.escape(place["error"])):
            compiler()
        return
    assert place["num_warps"] == 8
    listing = assembly.read((folder / "rows.json.code" / place["listing"]).read_text())
    assert listing.kernel == "place", "the file has another one too"
    lines = {str(one.place) for one in listing.instructions}
    assert any(line.startswith("two_kernel.cu:") for line in lines)


def test_a_cuda_launch_is_noted_with_its_whole_text(monkeypatch) -> None:
    """As hopper's launcher asks for it: headers, source before the file, shared memory."""
    monkeypatch.setattr(_nvrtc, "check", lambda device, shared: None)
    monkeypatch.setattr(_nvrtc, "architecture", lambda device: "sm_90a")
    before = _nvrtc.compiled, _nvrtc.start
    macros, memory = (("STAGES", 4), ("ALPHA", "1.5f"), ("ID", "long long")), torch.zeros(8)

    def call(mark) -> None:
        with mark("w13"):
            _nvrtc.launch(SOURCE, "hopper_moe", 132, 512, memory, 1, macros=macros, prelude="// ours\n", shared=99)

    (launch,) = record(call)
    assert told(launch) == {
        **{"kernel": "hopper_moe", "stage": "w13", "grid_blocks": 132},
        "constants": "STAGES=4 ID=long-long",
    }
    assert (launch.block_threads, launch.shared, launch.source.architecture) == (512, 99, "sm_90a")
    text = launch.source.text
    assert text.startswith('#line 1 "/generated/prelude.cuh"\n// ours\n#line 1 "')
    header = SOURCE.with_name("gather.cuh")
    assert f'#line 1 "{header}"\n{header.read_text()}#line ' in text
    assert before == (_nvrtc.compiled, _nvrtc.start)


def test_a_compiler_that_fails_says_its_first_error_without_folders(monkeypatch, tmp_path) -> None:
    def failing(*given) -> bytes:
        raise RuntimeError("/home/me/a.cuh(3): warning: unused\n/home/me/a.cuh(4): error: no such thing\n")

    monkeypatch.setattr(cuda, "compiler", lambda: ("nvcc 1.0", failing))
    source = cuda.Source(SOURCE, "hopper_moe", (("NEVER", 1),), "", "sm_90a")
    with pytest.raises(UserError, match=r"^nvcc 1\.0 fails: a\.cuh\(4\): error: no such thing$"):
        cuda.CudaLaunch(source, (1,), 512, 0, "").compiled(tmp_path)


def test_a_launch_is_that_of_the_launcher_on_that_gpu(rows) -> None:
    w13 = {r["arch"]: r for r in rows if r["stage"] == "w13" and r["format"] == "bf16"}
    assert "BLOCK_M=16 BLOCK_N=64 BLOCK_K=128" in w13["sm_90"]["constants"]
    assert w13["sm_90"]["grid_blocks"] == 8 * 256 // 64, "4 * 2 pairs are at most 8 tiles of 16 rows"
    assert w13["sm_90"]["num_stages"] == 4, "as many as fit into shared memory"
    assert w13["gfx942"]["num_stages"] == 2, "one buffer on AMD"


def test_registers_allow_as_many_waves_as_llvm_states(rows, folder) -> None:
    card = architectures.find("gfx942")
    texts = [
        (folder / "rows.json.code" / r["listing"]).read_text() for r in rows if r["arch"] == "gfx942" and not r["error"]
    ]
    for text in texts:
        facts = assembly.read(text).facts
        # LLVM does not know of the shared memory, which Triton allocates at the launch.
        found = architectures.occupancy(card, 1, facts["static_registers"], 0, facts["static_sgprs"])
        stated = re.search(r"; Occupancy: (\d+)", text)
        assert found.blocks == int(stated[1]) * architectures.SIDES
    assert len(texts) > 3


def test_a_compiler_that_dies_or_refuses_costs_one_launch(tmp_path) -> None:
    plugin = tmp_path / "mishaps.py"
    plugin.write_text(PLUGIN)
    options = ["--kernel", "align", "--algorithms", "mishaps", "--arch", "gfx942", "--m", "4", "--model", "64x32x8x2"]
    rows = inspected(tmp_path, *options, plugin=plugin)
    assert [r["launch"] for r in rows] == [0, 1, 2, 3]
    assert rows[0]["error"] is None
    assert rows[1]["error"] == "the compiling process stopped with exit code 9"
    assert "power of 2" in rows[2]["error"]
    assert (rows[3]["error"], rows[3]["num_warps"], rows[3]["grid_blocks"]) == (None, 2, 2)
    assert rows[3]["constants"] == "N=32"


def test_the_interpreter_leaves_nothing_to_compile(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["inspect", "--out", str(tmp_path / "x")]) == 2
    assert "With TRITON_INTERPRET=1 there is nothing to compile" in capsys.readouterr().err


def test_tiles_of_both_gemms_are_compiled_with_the_backends_own_for_the_other(monkeypatch, tmp_path) -> None:
    planned = {}
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(tiles, "compiled", lambda cases, *rest: planned.update(cases) or [])
    sizes = ["--model", "256x128x8x2", "--m", "4", "--candidates", "3"]
    assert main(["tune", "--static", "gfx942,gfx950", *sizes, "--out", str(tmp_path / "x")]) == 0
    assert [card.arch for card in planned] == ["gfx942", "gfx950"]
    first, *_, last = planned[architectures.find("gfx942")]
    assert (first.part, first.tile, last.part) == ("w13", "16x64x128x1x4x2", "w2")
    assert len({(case.part, case.tile) for case in planned[architectures.find("gfx942")]}) == 2 * 2 * 3
    w13, w2 = last._pair()
    assert w13.block_m == w2.block_m
    assert configs.text(sizes_of(w2)) == last.tile
    launches = [SimpleNamespace(stage=stage) for stage in ("align", "w13+act", "w2", "combine")]
    monkeypatch.setattr(cases, "record", lambda call: launches)
    assert [launch.stage for launch in first.launches()] == ["w13+act"]
