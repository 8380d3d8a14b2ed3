import json
import sys
from pathlib import Path

import pytest
from checkout import SAMPLES

from moe_lab import cli, runs
from moe_lab.runs import bench_runs, static_runs

HEADER = {"schema": 2, "bench": "inspect", "key": ["gpu", "M", "backend", "launch"], "gpu": None, "settings": {}}
HEADER |= {"versions": {"triton": "3.7.1"}, "command": ["python", "-m", "moe_lab.gpu", "inspect"]}
CALL = {"model": "qwen3-30b-a3b", "format": "bf16", "M": 4096, "backend": "fused_moe", "algorithm": None}
LAUNCH = {"launch": 0, "kernel": "fused_moe_gemm_kernel", "stage": "w13", "grid_blocks": 2298, "error": None}
LAUNCH |= {"constants": "BLOCK_M=128", "num_warps": 8, "num_stages": 3, "static_smem_bytes": 98304}
H100 = {"gpu": "NVIDIA H100 80GB HBM3", "arch": "sm_90"}
MI300X = {"gpu": "AMD Instinct MI300X", "arch": "gfx942"}
REFUSED = {"launch": None, "kernel": None, "stage": None, "error": "fp8_block needs another GPU."}

CHILD = """
import json, pathlib, shutil, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
code = out.with_name(out.name + ".code")
code.mkdir()
for sample in ("sass_sm90", "amdgcn_gfx942"):
    shutil.copy({samples!r} + "/" + sample + ".txt", code)
out.write_text("".join(json.dumps(line) + "\\n" for line in json.loads({lines!r})))
sys.exit({code})
"""


@pytest.fixture
def compiling(monkeypatch, tmp_path):
    """Make ``python -m moe_lab.gpu inspect`` a script that writes rows and two listings."""

    def set_up(rows: list, code: int = 0) -> None:
        script = tmp_path / "child.py"
        lines = json.dumps([HEADER, *rows, {"complete": True}])
        script.write_text(CHILD.format(samples=str(SAMPLES), lines=lines, code=code))
        popen = bench_runs.subprocess.Popen
        monkeypatch.setattr(
            bench_runs.subprocess, "Popen", lambda argv, **rest: popen([sys.executable, str(script), *argv[3:]], **rest)
        )
        monkeypatch.setattr(static_runs, "find_spec", lambda name: object())

    return set_up


ROWS = [
    H100 | CALL | LAUNCH | {"listing": "sass_sm90.txt"},
    MI300X | CALL | LAUNCH | {"static_smem_bytes": 49152, "listing": "amdgcn_gfx942.txt"},
    MI300X | CALL | {"format": "fp8_block", "backend": "grouped"} | REFUSED,
]


def test_compiled_code_is_a_run_like_any_other(compiling, tmp_path, capsys) -> None:
    compiling(ROWS)
    assert cli.main(["inspect", "--name", "x", "--arch", "sm_90", "--profiles", str(tmp_path / "p")]) == 0
    said = capsys.readouterr()
    assert "fused_moe_gemm_kernel" in said.out
    assert said.out.split()[:3] == ["arch", "format", "backend"], "one model and a GPU for each architecture"
    assert "1 kernel in 3 launches compiled for sm_90 and gfx942; 1 of these launches cannot be." in said.out
    run = runs.load("static/x", root=tmp_path / "p")
    assert run.what == "bench inspect, 3 rows"
    assert run.manifest["command"] == ["moe-lab", "inspect", "--arch", "sm_90", "--name", "x"]
    assert sorted(p.name for p in run.path.iterdir()) == ["rows.csv", "run.json"]
    capsys.readouterr()
    assert cli.main(["runs", "--profiles", str(tmp_path / "p")]) == 0
    assert "static/x" in capsys.readouterr().out
    assert cli.main(["inspect", "static/x", "--profiles", str(tmp_path / "p")]) == 0
    assert capsys.readouterr().out == said.out


def test_a_row_has_what_its_listing_says_and_what_follows_from_it(compiling, tmp_path) -> None:
    compiling(ROWS)
    rows = static_runs.inspect([], "x", root=tmp_path)[0].rows()
    hopper, amd, refused = (row for _, row in rows.iterrows())
    assert (hopper.static_registers, hopper.static_smem_bytes, hopper.tensor_unit) == (200, 98304, "wgmma")
    assert (hopper.static_occupancy_pct, hopper.occupancy_limit) == (12.5, "registers")
    assert hopper.loop_loads == [("16", 12)]
    assert dict(amd.blocks_by) == {"registers": 1, "scalar registers": 10, "shared memory": 1, "warps": 4, "blocks": 16}
    assert rows["static_vgprs"].isna().tolist() == [True, False, True]
    assert refused.error == "fp8_block needs another GPU."
    assert "listing" not in rows


def test_a_block_that_no_multiprocessor_holds_is_the_rows_error(compiling, tmp_path) -> None:
    compiling([MI300X | CALL | LAUNCH | {"static_smem_bytes": 70000, "listing": "amdgcn_gfx942.txt"}])
    (row,) = static_runs.inspect([], "x", root=tmp_path)[0].rows().to_dict("records")
    assert row["error"] == "It needs 70000 bytes of shared memory per thread block; this GPU allows 65536."
    assert row["static_registers"] == 184


def test_pages_are_written_beside_the_run_and_only_over_pages(compiling, tmp_path, capsys) -> None:
    compiling(ROWS)
    argv = ["inspect", "--profiles", str(tmp_path / "p"), "--html", str(tmp_path / "pages"), "--name"]
    assert cli.main([*argv, "x"]) == 0
    names = ["gfx942_w13_fused_moe_gemm_kernel.html", "index.html", "sm_90_w13_fused_moe_gemm_kernel.html"]
    assert sorted(p.name for p in (tmp_path / "pages").iterdir()) == names
    assert cli.main([*argv, "y"]) == 2
    assert "There already is a folder of such pages 'pages'" in capsys.readouterr().err
    assert cli.main([*argv, "x", "--overwrite"]) == 0
    (tmp_path / "pages" / "index.html").write_text("mine")
    assert cli.main([*argv, "x", "--overwrite"]) == 2
    assert (tmp_path / "pages" / "index.html").read_text() == "mine"


def test_tiles_that_compile_are_a_run_and_those_worth_timing_are_shown(compiling, tmp_path, capsys) -> None:
    amd = MI300X | CALL | LAUNCH | {"static_smem_bytes": 49152, "listing": "amdgcn_gfx942.txt", "part": "w13"}
    amd |= {"constants": "BLOCK_M=128 BLOCK_N=256 BLOCK_K=64", "tile": "128x256x64x8x8x2"}
    compiling([amd, amd | {"tile": "128x256x64x8x8x2x0x16x1", "launch": 1}])
    argv = ["tune", "--static", "gfx942", "--m", "4096", "--name", "x", "--profiles", str(tmp_path)]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert said.count("128x256x64") == 1
    assert "1 of 2 tiles are worth timing on gfx942: 0 do not compile, 0 spill, 1 are no better than another" in said
    command = ["moe-lab", "tune", "--static", "gfx942", "--m", "4096", "--name", "x"]
    assert runs.load("static/x", root=tmp_path).manifest["command"] == command


@pytest.mark.parametrize("listing", ["../rows.json", "gone.txt"])
def test_a_listing_that_is_not_there_is_no_run(compiling, tmp_path: Path, capsys, listing) -> None:
    compiling([H100 | CALL | LAUNCH | {"listing": listing}])
    assert cli.main(["inspect", "--name", "x", "--profiles", str(tmp_path / "p")]) == 2
    assert "A listing cannot be read" in capsys.readouterr().err


def test_a_refusal_of_the_process_is_one(compiling, tmp_path, capsys) -> None:
    compiling(ROWS, code=2)
    assert cli.main(["inspect", "--profiles", str(tmp_path / "p")]) == 2
    assert capsys.readouterr().err == "", "the process has said it"
    assert not (tmp_path / "p" / "static").exists() or not list((tmp_path / "p" / "static").iterdir())


def test_a_run_of_something_else_is_refused(tmp_path, capsys) -> None:
    folder = tmp_path / "p" / "h100" / "x"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"schema": 1, "name": "h100/x"}))
    assert cli.main(["inspect", "h100/x", "--profiles", str(tmp_path / "p")]) == 2
    assert "'h100/x' holds no compiled code; give one of moe-lab inspect." in capsys.readouterr().err
