import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moe_lab import cli
from moe_lab.cli import configs as command
from moe_lab.spec import configs
from moe_lab.spec.configs import Point, Tuned, choose, engines, measured
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

SMALL, WIDE, OTHER = (16, 64, 128, 1, 4, 4), (16, 128, 64, 8, 8, 3), (64, 128, 64, 8, 4, 4)
H200 = "NVIDIA H200"


def tuned(**changes: Any) -> Tuned:
    points = (
        Point(1, SMALL, WIDE, 40.0),
        Point(16, SMALL, SMALL, 200.0),
        Point(256, OTHER, OTHER, 300.0, OTHER, 300.0),
    )
    given = {"backend": "fused_moe", "gpu": H200, "E": 128, "N": 768, "K": 2048, "topk": 8, "format": "bf16"}
    return Tuned(**(given | {"points": points, "versions": {"triton": "3.6.0"}} | changes))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_LAB_CONFIGS", str(tmp_path / "configs"))
    return tmp_path / "configs"


@pytest.fixture
def nothing_ships(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked for in ``folder`` alone."""
    monkeypatch.setattr(configs, "folders", lambda: (folder,))


def problem(M: int, **changes: Any) -> MoEProblem:
    return MoEProblem(**({"M": M, "K": 2048, "N": 768, "E": 128, "topk": 8} | changes))


def test_lookup_without_any_file_finds_nothing(nothing_ships: None) -> None:
    assert configs.tiles("fused_moe", problem(16), H200) is None
    assert configs.tiles("fused_moe", problem(16), None) is None


@pytest.mark.parametrize(
    ("M", "key"),
    [(1, 1), (3, 1), (4, 16), (5, 16), (63, 16), (64, 256), (65, 256), (10**6, 256)],
    ids=lambda v: str(v),
)
def test_lookup_takes_the_nearest_m_by_ratio_and_the_larger_of_two_equal(folder: Path, M: int, key: int) -> None:
    configs.write(tuned(), folder / "h200")
    found = next(p for p in tuned().points if key == p.M)
    assert configs.tiles("fused_moe", problem(M), H200) == (found.w13, found.w2)


def test_lookup_counts_rows_where_topk_differs(folder: Path) -> None:
    configs.write(tuned(), folder / "h200")
    assert configs.tiles("fused_moe", problem(2, topk=64), H200) == (SMALL, SMALL), "as many rows as 16 tokens to 8"


@pytest.mark.parametrize(
    "other",
    [{"E": 64}, {"N": 1536}, {"K": 4096}, {"format": "fp16"}, {"format": "fp8_block"}],
    ids=lambda o: next(iter(o)),
)
def test_lookup_needs_the_same_sizes_and_format(folder: Path, other: dict[str, Any]) -> None:
    configs.write(tuned(), folder / "h200")
    assert configs.tiles("fused_moe", problem(16), H200) is not None
    assert configs.tiles("fused_moe", problem(16, **other), H200) is None


def test_lookup_needs_the_same_gpu_and_backend(folder: Path) -> None:
    configs.write(tuned(), folder / "h200")
    assert configs.tiles("grouped", problem(16), H200) is None
    assert configs.tiles("fused_moe", problem(16), "NVIDIA X1") is None
    assert configs.tiles("fused_moe", problem(16), "NVIDIA H100 80GB HBM3") != configs.tiles(
        "fused_moe", problem(16), H200
    )


def test_a_file_comes_back_as_it_was_written(folder: Path) -> None:
    path = configs.write(tuned(origin="h200/x", date="2026-11-22"), folder / "h200")
    assert path.name == "E=128,N=768,K=2048,format=bf16,backend=fused_moe.json"
    assert configs.read(path) == tuned(origin="h200/x", date="2026-11-22")
    older = path.with_name("older.json")
    older.write_text(path.read_text().replace('"format": "bf16"', '"dtype": "bf16"'))
    assert configs.read(older) == configs.read(path), "a file of before there were formats"


def test_tiles_of_fp8_block_have_files_of_their_own_and_the_engines_name(folder: Path, tmp_path: Path) -> None:
    """GIVEN tiles of two formats WHEN one is looked up THEN it is its own; an engine has its own name."""
    configs.write(tuned(), folder / "h200")
    path = configs.write(tuned(format="fp8_block", points=(Point(1, OTHER, OTHER),)), folder / "h200")
    assert path.name == "E=128,N=768,K=2048,format=fp8_block,backend=fused_moe.json"
    assert configs.tiles("fused_moe", problem(16, format="fp8_block"), H200) == (OTHER, OTHER)
    (out,) = engines.export(configs.read(path), "vllm", tmp_path)
    assert out.name == "E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    back = engines.load(out, K=2048, topk=8)
    assert (back.format, back.points) == ("fp8_block", (Point(1, OTHER, OTHER),))
    other = out.rename(out.with_name(out.name.replace("fp8_w8a8", "int8_w8a8")))
    with pytest.raises(UserError, match=r"quantised weights \(int8_w8a8\), which fused_moe does not take"):
        engines.load(other, K=2048, topk=8)


def test_fp8_without_blocks_is_told_from_blocks_by_the_engines_names(folder: Path, tmp_path: Path) -> None:
    """GIVEN tiles of three formats of e4m3 WHEN engines take them THEN no name means blocks that has none."""
    formats = ("fp8_block", "fp8_tensor", "fp8_token")
    files = {
        (engine, format): engines.export(tuned(format=format), engine, tmp_path / engine)[0]
        for engine in engines.ENGINES
        for format in formats
    }
    stem = "E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8"
    assert files["vllm", "fp8_token"].name == files["vllm", "fp8_tensor"].name == f"{stem}.json"
    assert files["sglang", "fp8_tensor"].name == f"{stem}.json"
    assert files["sglang", "fp8_token"].name == f"{stem},per_channel_quant=True.json"
    taken = {key: engines.load(path, K=2048, topk=8).format for key, path in files.items()}
    assert taken == {
        **{(engine, "fp8_block"): "fp8_block" for engine in engines.ENGINES},
        **{(engine, "fp8_tensor"): "fp8_tensor" for engine in engines.ENGINES},
        ("vllm", "fp8_token"): "fp8_tensor",
        ("sglang", "fp8_token"): "fp8_token",
    }
    assert engines.load(files["vllm", "fp8_token"], K=2048, topk=8, format="fp8_token").format == "fp8_token"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda k: k.pop("M"), "it lacks 'M'"),
        (lambda k: k.update(M={}), "it has no M"),
        (lambda k: k.update(format="x"), "its format is 'x'"),
        (lambda k: k["M"]["1"]["w2"].update(block_m=32), "differ in block_m"),
        (lambda k: k["M"]["1"]["w2"].update(block_m=0), "is not a tile"),
    ],
    ids=["no-points", "empty", "format", "block-m", "zero"],
)
def test_a_broken_file_is_named_not_ignored(folder: Path, change: Any, said: str) -> None:
    path = configs.write(tuned(), folder / "h200")
    known = json.loads(path.read_text())
    change(known)
    path.write_text(json.dumps(known))
    with pytest.raises(UserError, match=said):
        configs.tiles("fused_moe", problem(16), H200)


def test_backends_take_tuned_tiles_only_on_that_gpu_and_explicit_ones_always(folder: Path, monkeypatch: Any) -> None:
    torch = pytest.importorskip("torch")
    from moe_lab.gpu.experts import _tuned, fused_moe, grouped
    from moe_lab.gpu.kernels.tile import Tile

    p, cpu = problem(1), torch.device("cpu")
    for plugin, name in ((fused_moe, "fused_moe"), (grouped, "grouped")):
        own, rows = plugin.tiles(p, cpu), plugin.block_m(p)
        configs.write(tuned(backend=name, points=(Point(1, OTHER, (64, 32, 64, 1, 4, 2), 1.0),)), folder / "h200")
        assert (plugin.tiles(p, cpu), plugin.block_m(p)) == (own, rows), "on the CPU its own"
        with monkeypatch.context() as patch:
            patch.setattr(_tuned, "gpu", lambda device=None: H200)
            assert plugin.tiles(p, cpu) == (Tile(*OTHER), Tile(64, 32, 64, 1, 4, 2))
            assert plugin.block_m(p) == 64
            assert plugin.tiles(p, cpu, Tile(*SMALL)) == (Tile(*SMALL), Tile(*SMALL))
            assert plugin.tiles(p, cpu, (Tile(*SMALL), Tile(*WIDE))) == (Tile(*SMALL), Tile(*WIDE))
            with pytest.raises(UserError, match="need the same block_m, not 16 and 64"):
                plugin.tiles(p, cpu, (Tile(*SMALL), Tile(*OTHER)))


# The names that both engines ship for these cases: vllm 0.15.0 and sglang 0.5.8.
@pytest.mark.parametrize(
    ("engine", "given", "name"),
    [
        ("vllm", {}, "E=128,N=768,device_name=NVIDIA_H200.json"),
        ("vllm", {"gpu": "NVIDIA H200 NVL"}, "E=128,N=768,device_name=NVIDIA_H200.json"),
        (
            "vllm",
            {"format": "fp8_block", "gpu": "NVIDIA H100 80GB HBM3"},
            "E=128,N=768,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json",
        ),
        ("vllm", {"format": "fp32"}, "E=128,N=768,device_name=NVIDIA_H200,dtype=float32.json"),
        ("sglang", {"gpu": "NVIDIA H200 NVL"}, "E=128,N=768,device_name=NVIDIA_H200_NVL.json"),
        (
            "sglang",
            {"format": "fp8_block", "gpu": "NVIDIA H20-3e", "down": True},
            "E=128,N=768,device_name=NVIDIA_H20-3e,dtype=fp8_w8a8,block_shape=[128, 128]_down.json",
        ),
    ],
    ids=["vllm", "vllm-nvl", "vllm-blocks", "vllm-fp32", "sglang-nvl", "sglang-down"],
)
def test_engine_file_names_are_those_they_look_for(engine: str, given: dict[str, Any], name: str) -> None:
    assert engines.file_name(**({"engine": engine, "E": 128, "N": 768, "gpu": H200, "format": "bf16"} | given)) == name


def test_export_for_vllm_has_one_tile_for_both_gemms(tmp_path: Path) -> None:
    one = Point(64, WIDE, SMALL, 10.0, SMALL, 11.0)
    (path,) = engines.export(tuned(points=(Point(8, SMALL, WIDE), one)), "vllm", tmp_path)
    assert path == tmp_path / "E=128,N=768,device_name=NVIDIA_H200.json"
    theirs = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1}
    theirs |= {"num_warps": 4, "num_stages": 4}
    assert json.loads(path.read_text()) == {"8": theirs, "64": theirs}, "w13's where one for both is not known"


def test_export_for_sglang_has_a_folder_per_triton_and_a_file_for_w2(tmp_path: Path) -> None:
    up, down = engines.export(tuned(versions={"triton": "3.6.0+git1"}), "sglang", tmp_path)
    assert up == tmp_path / "configs" / "triton_3_6_0" / "E=128,N=768,device_name=NVIDIA_H200.json"
    assert down.name == "E=128,N=768,device_name=NVIDIA_H200_down.json"
    assert json.loads(up.read_text())["1"]["BLOCK_SIZE_N"] == SMALL[1]
    assert json.loads(down.read_text())["1"]["BLOCK_SIZE_N"] == WIDE[1]
    back = engines.load(up, K=2048, topk=8)
    assert [(p.M, p.w13, p.w2) for p in back.points] == [(p.M, p.w13, p.w2) for p in tuned().points]
    assert (back.gpu, back.format, back.versions) == (H200, "bf16", {"triton": "3.6.0"})


def test_export_refuses_tiles_that_mean_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tune fused_moe"):
        engines.export(tuned(backend="grouped"), "vllm", tmp_path)
    with pytest.raises(UserError, match="which these do not state"):
        engines.export(tuned(versions=None), "sglang", tmp_path)


def test_engine_files_with_extra_keys_and_without_warps_are_read(tmp_path: Path) -> None:
    path = tmp_path / "E=8,N=14336,device_name=NVIDIA_A100-SXM4-80GB.json"
    config = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 32, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "USE_TMA": True}
    path.write_text(json.dumps({"triton_version": "3.5.1", "64": config | {"num_warps": 8}, "1": config}))
    assert engines.tiles(path) == {1: (16, 32, 64, 1, 4, 3), 64: (16, 32, 64, 1, 8, 3)}
    assert engines.load(path, K=4096, topk=2).gpu == "NVIDIA A100-SXM4-80GB"
    path.write_text(json.dumps({"1": {"BLOCK_SIZE_N": 32}}))
    with pytest.raises(UserError, match="cannot be read"):
        engines.tiles(path)


@pytest.mark.parametrize(
    "name", ["E=8,N=1,device_name=x,dtype=int4_w4a8.json", "E=8,N=1,device_name=x,dtype=a_down.json"]
)
def test_quantised_or_second_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"quantised|not named like"):
        engines.load(tmp_path / name, K=1, topk=1)


def test_engines_take_the_key_at_the_smallest_difference() -> None:
    assert engines.nearest({1: SMALL, 100: WIDE}, 40) == SMALL, "by ratio it would be 100"


def row(M: int, us: float | None, w13: Any = SMALL, w2: Any = SMALL, **fields: Any) -> dict[str, Any]:
    known = {"M": M, "E": 8, "N": 32, "K": 64, "topk": 2, "dtype": "bf16", "backend": "fused_moe", "phase": "final"}
    tiles = {
        "w13": configs.text(w13),
        "w2": configs.text(w2),
        "reference_us": 10.0,
        "correct": True,
        "origin": "search",
    }
    return known | tiles | {"median_us": us} | fields


def test_chosen_is_the_quickest_right_pair_relative_to_its_reference() -> None:
    rows = [
        row(4, 5.0, correct=False),
        row(4, None),
        row(4, 6.0, WIDE, WIDE, reference_us=8.0),
        row(4, 7.0, SMALL, WIDE),
        row(4, 1.0, phase="search"),
        row(9, 2.0, WIDE, SMALL),
    ]
    four, nine = choose.points(rows)
    assert (four.w13, four.w2, four.us) == (SMALL, WIDE, 7.0), "6 of 8 is more than 7 of 10"
    assert (four.one, four.one_us) == (WIDE, 6.0)
    assert (nine.w13, nine.one) == (WIDE, None)
    made = choose.tuned(rows, {"name": "h200/x", "gpu": {"name": H200}, "versions": {"triton": "3.6.0", "hip": None}})
    assert made is not None
    assert (made.gpu, made.E, made.versions, made.origin) == (H200, 8, {"triton": "3.6.0"}, "h200/x")
    assert choose.tuned([row(4, None)], {"name": "x"}) is None


def test_configs_lists_imports_and_exports(folder: Path, nothing_ships: None, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["configs"]) == 0
    assert "There are no tuned tiles" in capsys.readouterr().out
    (theirs,) = engines.export(tuned(), "vllm", tmp_path)
    assert cli.main(["configs", "import", str(theirs)]) == 2
    assert "give --model" in capsys.readouterr().err
    assert cli.main(["configs", "import", str(theirs), "--model", "qwen3-30b-a3b"]) == 0
    kept = folder / "h200" / tuned().file_name
    assert capsys.readouterr().out == f"{kept}\n"
    assert configs.tiles("fused_moe", problem(16), H200) == (SMALL, SMALL)
    assert cli.main(["configs", "--format", "json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["M"], listed["gpu"], listed["origin"]) == ("1 16 256", H200, theirs.name)
    assert cli.main(["configs", "export", str(kept), "--for", "vllm", "--out", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / theirs.name).read_text() == theirs.read_text()
    assert cli.main(["configs", "export", str(theirs), "--for", "vllm", "--out", str(tmp_path)]) == 2
    assert "engine's file already" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b", "gpt-oss-120b"])
def test_tiles_that_ship_are_those_of_their_run(folder: Path, capsys: Any, model: str) -> None:
    assert cli.main(["configs", "import", f"h200/tune_{model}"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.read_text() == (configs.PACKAGE / "h200" / path.name).read_text(), "import the tuning again, it changed"
    preset = MoEProblem.preset(model, 16, "bf16")
    (own,) = (p for p in configs.read(path).points if p.M == 16)
    assert configs.tiles("fused_moe", preset, H200) == (own.w13, own.w2)


def times(**changes: Any) -> measured.Measured:
    us = {16: {"hopper": 180.0, "fused_moe": 200.0}, 1024: {"hopper": 310.0, "fused_moe": 300.0}}
    given = {"gpu": H200, "E": 128, "N": 768, "K": 2048, "topk": 8, "format": "bf16", "us": us, "origin": "h200/x"}
    return measured.Measured(**(given | changes))


def test_the_quickest_backend_is_that_of_the_nearest_m_among_those_that_can(folder: Path) -> None:
    measured.write(times(), folder / "h200")
    found = measured.find(problem(1), H200)
    assert found == times()
    both = ("hopper", "fused_moe")
    assert [found.quickest(M, 8, both) for M in (1, 127, 128, 10**6)] == ["hopper", "hopper", "fused_moe", "fused_moe"]
    assert found.quickest(16, 8, ("fused_moe",)) == "fused_moe", "a GPU without the quickest"
    assert found.quickest(16, 8, ("grouped",)) is None
    assert found.quickest(2, 1024, both) == "fused_moe", "rows count, not tokens"
    assert measured.find(problem(1, format="fp16"), H200) is measured.find(problem(1), "NVIDIA H100") is None


@pytest.mark.parametrize(
    ("kernel", "backend"),
    [
        ("hopper_moe", "hopper"),
        ("fused_moe_gemm_kernel", "fused_moe"),
        ("grouped_gemm_kernel", "fused_moe"),
        ("grouped_persistent_gemm_kernel", "grouped"),
        ("persistent_gemm_kernel", "grouped"),
        ("fused_moe_kernel", None),
    ],
)
def test_a_row_of_auto_counts_for_the_backend_whose_kernel_it_launched_under_its_old_name_too(
    kernel: str, backend: str | None
) -> None:
    run = {"gpu": {"name": H200}, "name": "x", "M": 16, "E": 8, "N": 64, "K": 64, "topk": 2, "format": "bf16"}
    row = run | {"part": "full", "mode": "graph", "routing": "uniform", "backend": "auto", "median_us": 5.0}
    found = measured.of_run(pd.DataFrame([row | {"kernels_us": f"w13|{kernel}|3.0"}]), run)
    assert [dict(one.us) for one in found] == ([{16: {backend: 5.0}}] if backend else [])


def test_times_come_from_a_run_of_bench_experts_and_ship_for_the_h200(folder: Path, capsys: Any) -> None:
    assert cli.main(["configs", "import", "h200/experts_qwen3_sweep"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == folder / "h200"
    assert path.read_text() == (configs.PACKAGE / "h200" / path.name).read_text(), "import the sweep again, it changed"
    found = measured.read(path)
    assert sorted(found.us) == [2**n for n in range(15)]
    assert set(found.us[1]) == {"hopper", "grouped", "fused_moe"}, "auto stands for what it launched"


def test_a_file_of_times_that_is_none_says_how_to_make_one(folder: Path, capsys: Any) -> None:
    path = folder / "h200" / times().file_name
    path.parent.mkdir(parents=True)
    path.write_text('{"format": "else"}')
    with pytest.raises(UserError, match="moe-lab configs import RUN"):
        measured.read(path)
    assert cli.main(["configs", "import", "h200/align_sweep"]) == 2
    assert "is not a run of moe-lab tune" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda k: k.update(gpu=None), "'gpu' is null instead of a text"),
        (lambda k: k.update(gpu="a" * 300), "the GPU's name is"),
        (lambda k: k.update(gpu="../../x"), "the GPU's name is"),
        (lambda k: k.update(gpu=""), "the GPU's name is"),
        (lambda k: k.update(backend="../x"), "not a plain name"),
        (lambda k: k.update(versions=[1]), "'versions' is a list instead of a mapping"),
        (lambda k: k["problem"].update(E=-1), "E is -1"),
        (lambda k: k["problem"].update(E="/x"), "'problem.E' is a text instead of a whole number"),
        (lambda k: k["problem"].update(topk=129), "more than E"),
        (lambda k: k["problem"].update(format="../x"), "the format is"),
        (lambda k: k["M"]["1"]["w13"].update(block_n=10**30), "block_n is 1000"),
        (lambda k: k["M"]["1"]["w13"].update(block_n=48), "block_n is 48"),
        (lambda k: k["M"]["1"]["w13"].update(num_warps=64), "num_warps is 64"),
        (lambda k: k["M"]["1"]["w13"].update(num_stages=True), "instead of a whole number"),
        (lambda k: k["M"].update({"-1": k["M"]["1"]}), "not within"),
        (lambda k: k["M"].update({"²": k["M"]["1"]}), "not a whole number"),
        (lambda k: k["M"].update({"01": k["M"]["1"]}), "twice"),
        (lambda k: k["M"]["1"].update(us=-1.0), "not above zero"),
    ],
    ids=range(18),
)
def test_tiles_of_wrong_types_or_sizes_are_refused(
    folder: Path, change: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configs.write(tuned(), folder / "h200")
    known = json.loads(path.read_text())
    change(known)
    wrong = folder / "wrong.json"
    wrong.write_text(json.dumps(known))
    assert cli.main(["configs", "import", str(wrong), "--out", str(folder / "out")]) == 2
    sentence = capsys.readouterr().err
    assert re.search(said, sentence)
    assert sentence.startswith("moe-lab: 'wrong.json' cannot be read as tuned tiles (")
    assert not (folder / "out").exists()


def test_options_for_amd_that_are_the_compilers_own_are_left_out() -> None:
    assert configs.parse("16x64x64x1x4x2x0x0x1") == configs.parse("16x64x64x1x4x2")
    assert configs.text(configs.parse("16x64x64x1x4x2x0x16x1")) == "16x64x64x1x4x2x0x16x1"
    with pytest.raises(UserError, match="kpack is 3, not a number of 1 and 2"):
        configs.parse("16x64x64x1x4x2x0x16x3")


def test_times_below_zero_are_refused(tmp_path: Path) -> None:
    problem = {"E": 8, "N": 64, "K": 64, "topk": 2, "format": "bf16"}
    known = {"format": "moe_lab measured 1", "gpu": H200, "problem": problem, "us": {"1": {"grouped": -5.0}}}
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(known))
    with pytest.raises(UserError, match="not above zero"):
        measured.read(path)


AMD = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 2}


def imported(folder: Path, name: str, content: object, model: str = "qwen3-30b-a3b") -> tuple[int, list[Path]]:
    """GIVEN an engine's file, imported; returns the exit code and what is kept."""
    path = folder / name
    path.write_text(json.dumps(content))
    code = cli.main(["configs", "import", "--model", model, str(path), "--out", str(folder / "kept")])
    return code, sorted((folder / "kept").rglob("*.json"))


def test_tiles_of_another_triton_are_taken_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "version", lambda name: "3.6.0+git")
    monkeypatch.setattr(command, "find_spec", lambda name: object())
    name = "E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json"
    code, (kept,) = imported(tmp_path, name, {"triton_version": "3.4.0", "1": AMD | {"BLOCK_SIZE_K": 128}})
    assert (code, kept.name) == (0, "E=128,N=768,K=2048,format=fp8_block,backend=fused_moe.json")
    said = "The file was tuned with Triton 3.4.0, and here is 3.6.0+git: tune again where its tiles are slow."
    assert capsys.readouterr().err == f"note: {said}\n"


def test_keys_that_our_kernels_do_not_take_are_said_and_come_back_for_the_same_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"SPLIT_K": 4, "waves_per_eu": 2, "matrix_instr_nonkdim": 16, "kpack": 2, "grf_mode": "large"}
    monkeypatch.setattr(command, "version", lambda name: "3.5.1")
    content = {"triton_version": "3.5.0", "1": AMD | more, "64": AMD | {"SPLIT_K": 1, "kpack": 1}}
    code, (kept,) = imported(tmp_path, "E=128,N=768,device_name=AMD_Instinct_MI300X.json", content)
    said = capsys.readouterr().err
    asked = "SPLIT_K 4, grf_mode large"
    assert code == 0
    assert said.startswith(f"note: The file asks for {asked}: our kernels have no such option")
    assert said.count("note: ") == 1, "of a Triton that is this one, or nothing to compare with"
    with_amd, without = configs.read(kept).points
    assert (with_amd.w13[6:], len(without.w13)) == ((2, 16, 2), 6), "the options for AMD are part of a tile"
    assert cli.main(["configs", "export", str(kept), "--for", "vllm", "--out", str(tmp_path / "v")]) == 0
    assert capsys.readouterr().err == ""
    (back,) = (tmp_path / "v").glob("*.json")
    assert json.loads(back.read_text()) == content
    assert cli.main(["configs", "export", str(kept), "--for", "sglang", "--out", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().err == "note: SPLIT_K is left out: the kernel of sglang has no such argument.\n"
    up, down = sorted((tmp_path / "s" / "configs" / "triton_3_5_0").glob("*.json"))
    for path in (up, down):
        assert json.loads(path.read_text())["1"] == AMD | {k: v for k, v in more.items() if k != "SPLIT_K"}


def test_tiles_of_integers_and_four_bits_go_to_the_engines_and_back(tmp_path: Path, capsys) -> None:
    """Groups of int4 share a name, so the importer says which; a name that the engine never looks for is said."""
    for format, engine, said in (
        ("int8", "sglang", ""),
        ("int8_w8a16", "vllm", ""),
        ("int4_w4a16_g32_zeros", "vllm", ""),
        ("int8", "vllm", "note: vllm looks for no tiles of int8: it will not load the file.\n"),
        ("nvfp4", "sglang", "note: sglang looks for no tiles of nvfp4: it will not load the file.\n"),
    ):
        own = configs.write(tuned(format=format, versions={"triton": "3.6.0"}), tmp_path / "own")
        out = tmp_path / f"{engine}_{format}"
        assert cli.main(["configs", "export", str(own), "--for", engine, "--out", str(out)]) == 0
        path, captured = capsys.readouterr()
        assert captured == said
        again = ["configs", "import", "--model", "qwen3-30b-a3b", path.split()[0], "--out", str(tmp_path / "back")]
        assert cli.main([*again, "--dtype", format]) == 0
        assert configs.read(Path(capsys.readouterr().out.strip())).format == format
    assert cli.main([*again, "--dtype", "int8"]) == 2
    assert "The file is for nvfp4, not for int8." in capsys.readouterr().err


def test_a_file_that_says_nothing_more_gives_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"1": AMD | {"SPLIT_K": 1, "USE_TMA": False}}
    code, kept = imported(tmp_path, "E=128,N=768,device_name=NVIDIA_B200.json", content)
    assert (code, len(kept)) == (0, 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "model", "sizes", "said"),
    [
        ("E=128,N=384", "qwen3-30b-a3b", (2048, 8), None),
        ("E=128,N=96", "qwen3-30b-a3b", (2048, 8), None),
        ("E=8,N=14336", "mixtral-8x7b", (4096, 2), None),
        ("E=512,N=512", "2048x512x512x10", (2048, 10), None),
        (
            "E=8,N=14336",
            "qwen3-30b-a3b",
            None,
            r"\(E=128, N=768/tp\); give --model mixtral-8x7b or",
        ),
        ("E=128,N=1536", "qwen3-30b-a3b", None, "give --model qwen3-235b-a22b or KxNxExTOPK"),
        ("E=128,N=500", "qwen3-30b-a3b", None, "give --model KxNxExTOPK such as 2048x500x128x8"),
        ("E=512,N=512", "2048x512x256x10", None, "not for 2048x512x256x10"),
        ("E=0,N=512", "qwen3-30b-a3b", None, "not for"),
    ],
)
def test_an_engines_file_is_kept_for_a_model_of_its_sizes_only(
    tmp_path: Path,
    name: str,
    model: str,
    sizes: tuple[int, int] | None,
    said: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, kept = imported(tmp_path, f"{name},device_name=NVIDIA_H100_80GB_HBM3.json", {"1": AMD}, model)
    if sizes is None:
        assert (code, kept) == (2, [])
        assert re.search(str(said), capsys.readouterr().err)
    else:
        found = configs.read(kept[0])
        assert (code, found.K, found.topk, found.gpu) == (0, *sizes, "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("E=384,N=128,device_name=,dtype=int4_w4a8.json", r"is for quantised weights \(int4_w4a8\)"),
        ("E=256,N=128,device_name=X,dtype=int8_w8a8,block_shape=[128, 128]_down.json", "is for quantised weights"),
        ("E=16,N=128,device_name=X,per_channel_quant=True.json", "is for quantised weights"),
        ("E=256,N=512,device_name=NVIDIA_B200_down.json", "give 'E=256,N=512,device_name=NVIDIA_B200.json', the file"),
        ("E=256,N=512,device_name=.json", "does not name its GPU"),
        ("moe_sum_reduce_NVIDIA-H200_t8_h2048_bfloat16.json", "holds no tiles for the experts' GEMMs"),
        ("N=1536,K=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8.json", "holds no tiles for the experts' GEMMs"),
        ("E=²,N=1,device_name=X.json", "holds no tiles for the experts' GEMMs"),
    ],
)
def test_files_of_other_kernels_are_refused_with_the_reason(
    tmp_path: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported(tmp_path, name, {"1": AMD}) == (2, [])
    sentence = capsys.readouterr().err
    assert re.search(said, sentence)
    assert sentence.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"1": {"BLOCK_SIZE_M": 16, "num_warps": Infinity}}',
        '{"1": 5}',
        "[]",
        "{}",
        '{"1": [1]}',
        '{"1": {"BLOCK_M": 1}}',
        '{"x": {"BLOCK_SIZE_M": 16}}',
        '{"1": {"BLOCK_SIZE_M": 16.5}}',
        f'{{"0": {json.dumps(AMD)}}}',
        "{" * 1000,
    ],
    ids=range(10),
)
def test_an_engines_file_of_wrong_types_is_one_sentence(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "E=128,N=768,device_name=NVIDIA_H200.json"
    path.write_text(text)
    assert cli.main(["configs", "import", "--model", "qwen3-30b-a3b", str(path), "--out", str(tmp_path / "out")]) == 2
    assert re.fullmatch(r"moe-lab: 'E=128.*' cannot be read as an engine's tiles \(.*\n", capsys.readouterr().err)


def test_an_export_stays_below_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which these do not state"):
        engines.export(tuned(versions={"triton": "../../../x"}), "sglang", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_savings_of_one_file_do_not_meet(tmp_path: Path, monkeypatch: Any) -> None:
    path, replace = tmp_path / "a.json", configs.os.replace

    def between(source: str, target: Path) -> None:
        monkeypatch.setattr(configs.os, "replace", replace)
        configs.save({"second": 2}, path)
        replace(source, target)

    monkeypatch.setattr(configs.os, "replace", between)
    configs.save({"first": 1}, path)
    assert json.loads(path.read_text()) == {"first": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_take_tiles_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written to 'file'"):
        configs.save({}, tmp_path / "file" / "a.json")
    assert (tmp_path / "file").read_text() == "mine"
