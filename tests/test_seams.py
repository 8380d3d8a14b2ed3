"""A newcomer's tasks are one file or one entry each: the recipes of CONTRIBUTING.md, run as they stand there."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from kineto_builder import KinetoBuilder
from recipes import RECIPES, House, only

from moe_lab import cli, runs
from moe_lab.spec import plugins


def process(plugin: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "moe_lab.gpu", "--plugin", str(plugin), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})


def test_an_experts_backend_is_one_file(recipe, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "rows.json"
    sizes = ["--model", "64x32x8x2", "--m", "5", "--format", "fp32", "--parts", "full", "--repetitions", "1"]
    asked = ["bench-experts", "--backends", "newcomer", *sizes, "--device", "cpu", "--out", str(out)]
    done = process(recipe("experts backend"), *asked)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    [row] = [row for row in rows if row.get("backend")]
    assert (row["backend"], row["correct"], row["error"]) == ("newcomer", True, None)


def test_a_backend_from_outside_is_listed(recipe, capsys):
    assert cli.main(["--plugin", str(recipe("experts backend")), "backends"]) == 0
    assert "newcomer: one line" in capsys.readouterr().out


def test_an_align_algorithm_is_one_file(recipe):
    pytest.importorskip("torch")
    asked = ["align", "--algorithms", "newcomer", "--tokens", "4", "--experts", "8", "--topk", "2", "--device", "cpu"]
    done = process(recipe("align algorithm"), *asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["roots"] == ["moe_lab|phase=align|M=4|E=8|topk=2|block_m=64|align=newcomer"]


def test_a_format_is_one_file(recipe, tmp_path):
    pytest.importorskip("torch")
    backend = tmp_path / "its_backend.py"
    backend.write_text(only("experts backend").replace('["fp32", "bf16"]', '["newcomer"]'))
    sizes = ["--model", "64x32x8x2", "--m", "5", "--parts", "full", "--repetitions", "1", "--device", "cpu"]
    asked = ["--plugin", str(backend), "bench-experts", "--format", "newcomer", "--backends", "its_backend", *sizes]
    done = process(recipe("format"), *asked, "--out", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stderr
    [row] = [r for r in map(json.loads, (tmp_path / "rows.json").read_text().splitlines()) if r.get("backend")]
    assert (row["format"], row["correct"]) == ("newcomer", True)


def test_a_way_between_ranks_is_one_file(recipe):
    torch = pytest.importorskip("torch")
    plugins.take(["--plugin", str(recipe("way between ranks"))])
    comm = plugins.load("comm", "newcomer")
    x, ids, weights = torch.ones(3, 4), torch.zeros(3, 1, dtype=torch.int32), torch.ones(3, 1)
    received = comm.dispatch(x, ids, weights, parallel=None, mark=None)
    assert torch.equal(comm.combine(received.x, received, mark=None), x)


def test_a_command_is_one_file(recipe, capsys):
    path = str(recipe("command"))
    assert cli.main(["--plugin", path, "newcomer", "world"]) == 0
    assert capsys.readouterr().out == "hello world\n"
    with pytest.raises(SystemExit):
        cli.main([f"--plugin={path}", "--help"])
    assert "one line for --help" in capsys.readouterr().out


def test_a_profiler_is_one_file(recipe, tmp_path, monkeypatch, capsys):
    trace = KinetoBuilder()
    trace.metadata()
    trace.push("mlp", 100, 900)
    trace.launch(210, 1, gpu=(1000, 1010), name="gemm")
    trace.write(tmp_path / "made.json")
    tool = tmp_path / "bin" / "my-profiler"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 1.2 && exit\ncp {tmp_path}/made.json "$4"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    asked = ["capture", "newcomer", "--name", "h100/x", "--depth", "3", "--profiles", str(tmp_path / "p"), "--", "true"]
    assert cli.main(["--plugin", str(recipe("profiler")), *asked]) == 0, capsys.readouterr().err
    run = runs.load("h100/x", root=tmp_path / "p")
    assert run.manifest["tool"] == {"name": "newcomer", "version": "1.2", "options": ["--depth", "3"]}
    assert run.launches().table["name"].tolist() == ["gemm"]


def test_a_report_format_is_one_file(recipe, tmp_path, capsys):
    made = tmp_path / "a.mine"
    made.write_text("gemm,100\nact,20\n")
    asked = ["import", str(made), "--name", "x", "--profiles", str(tmp_path / "p")]
    assert cli.main(["--plugin", str(recipe("report format")), *asked]) == 0, capsys.readouterr().err
    run = runs.load("h100/x", root=tmp_path / "p")
    assert run.report.name == "report.mine"
    assert run.launches().table["duration_ns"].tolist() == [100, 20]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the project in which every recipe was followed."""
    house = House(tmp_path_factory.mktemp("house"))
    house.follow(*RECIPES)
    return house


def test_every_recipe_can_be_followed():
    files = "experts backend|align algorithm|format|way between ranks|command|profiler|report format|notebook"
    assert set(RECIPES) == {*files.split("|"), "engine's roles", "model preset", "column", "rule"}


def test_a_file_where_its_recipe_says_is_a_plugin_that_keeps_its_contract(house):
    said = "from moe_lab.spec import contract, plugins\nfor kind in plugins.FOLDERS:\n    if kind != 'assembly':\n"
    said += "        contract.check(kind, 'newcomer', plugins.info(kind, 'newcomer'))\n        print(kind)"
    assert house.python("-c", said).split() == [kind for kind in plugins.FOLDERS if kind != "assembly"]


def test_the_laws_hold_of_what_the_recipes_make(house):
    laws = ("test_architecture", "report/test_notebooks", "spec/test_schema", "spec/test_role_files")
    files = [f"tests/{law}.py" for law in laws]
    said = house.python("-m", "pytest", "-q", "-rA", *files, "-k", "tree or 90_mine or column or newcomer")
    assert all(name in said for name in ("readme_draws", "[90_mine]", "a_column_has", "[newcomer]"))


def test_the_tests_of_a_kind_pick_its_plugins_up_by_name(house):
    pytest.importorskip("torch")
    files = ("tests/gpu/test_experts.py", "tests/gpu/test_align.py")
    said = house.python("-m", "pytest", "-q", "-rA", *files, "-k", "newcomer")
    for test in ("matches_the_fp64_oracle", "multiplies_the_input_by_the_router_weight", "test_align.py::"):
        assert re.search(f"PASSED.*{test}.*newcomer", said), test


def test_the_readme_takes_a_command_a_profiler_and_a_notebook_from_their_files(house):
    said = "from moe_lab.pages import readme\nfrom moe_lab.report import notebooks\n"
    rows = house.python("-c", said + "print(readme.commands(), notebooks.listing(), sep='\\n')").splitlines()
    assert "| `moe-lab newcomer` | one line for --help |" in rows
    assert "| `moe-lab capture newcomer` | one line |" in rows
    assert "| [90_mine](notebooks/90_mine.ipynb) | Which kernel of a run takes the most time? |" in rows


def test_a_notebook_and_its_page_folder_are_found_and_drawn(house):
    house.python("-m", "moe_lab", "report", "90", "--out", "made")
    assert "takes 48" in (house.root / "made" / "90_mine.html").read_text()
    assert "Longest kernels" in (house.root / "made" / "index.html").read_text()


def test_a_preset_is_one_entry(house):
    pytest.importorskip("torch")
    sizes = ["--model", "newcomer", "--m", "5", "--format", "fp32", "--backends", "torch_loop", "--parts", "full"]
    asked = ["bench", "experts", "--name", "x", *sizes, "--repetitions", "1", "--device", "cpu", "--profiles", "runs"]
    house.python("-m", "moe_lab", *asked)
    [row] = runs.load("x", root=house.root / "runs").rows().to_dict("records")
    assert (row["model"], row["K"], row["correct"]) == ("newcomer", 64, True)


def test_a_column_is_one_line(house):
    columns = json.loads(house.python("-m", "moe_lab", "columns", "rows"))["rows"]
    assert columns["energy_j"] == {"dtype": "time", "unit": "J", "label": "energy", "meaning": "energy of a call"}
    assert "| `energy_j` | time | J | energy of a call |" in house.python("-m", "cogapp", "-P", "docs/columns.md")
    said = "import pandas as pd\nfrom moe_lab.pages.show.tables import Table, heads\n"
    said += "print(Table(pd.DataFrame({'energy_j': [1.5]}), heads('energy_j')).html())"
    assert re.search("energy<small>J</small>.*1.50", house.python("-c", said))


def test_a_rule_is_one_entry(house):
    said = "from gemm_rows import row, table\nfrom moe_lab.analysis import limits\n"
    said += "rows = [row('untuned 8192', registers_per_thread=count) for count in (255, 64)]\n"
    said += "print(*limits.limits(table(*rows))['limiter'], sep='\\n')"
    assert house.python("-c", said).splitlines() == ["spilled registers", "nothing alone"]
