"""A newcomer's tasks are one file or one entry each: the recipes of CONTRIBUTING.md, run as they stand there."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
from kineto_builder import KinetoBuilder
from recipes import RECIPES, House, only

from moe_lab import cli, runs
from moe_lab.spec import plugins


def gpu_command(plugin: Path, *arguments: str) -> int:
    """Return the exit status of ``python -m moe_lab.gpu``, here: its own child processes are processes still."""
    main = pytest.importorskip("moe_lab.gpu.__main__").main
    return main(["--plugin", str(plugin), *arguments])


def test_a_backend_from_outside_is_listed(recipe, capsys):
    assert cli.main(["--plugin", str(recipe("experts backend")), "backends"]) == 0
    assert "newcomer: one line" in capsys.readouterr().out


def test_an_align_algorithm_is_one_file(recipe, capsys):
    pytest.importorskip("torch")
    asked = ["align", "--algorithms", "newcomer", "--tokens", "4", "--experts", "8", "--topk", "2", "--device", "cpu"]
    assert gpu_command(recipe("align algorithm"), *asked) == 0
    roots = json.loads(capsys.readouterr().out)["roots"]
    assert roots == ["moe_lab|phase=align|M=4|E=8|topk=2|block_m=64|align=newcomer"]


def test_a_backend_and_a_format_are_one_file_each_also_for_the_process_that_measures(recipe, tmp_path):
    pytest.importorskip("torch")
    backend, out = tmp_path / "its_backend.py", tmp_path / "rows.json"
    backend.write_text(only("experts backend").replace('["fp32", "bf16"]', '["newcomer"]'))
    sizes = ["--model", "64x32x8x2", "--m", "5", "--parts", "full", "--repetitions", "1", "--device", "cpu"]
    asked = ["--plugin", str(backend), "bench-experts", "--format", "newcomer", "--backends", "its_backend", *sizes]
    assert gpu_command(recipe("format"), *asked, "--out", str(out)) == 0
    [row] = [r for r in map(json.loads, out.read_text().splitlines()) if r.get("backend")]
    assert (row["backend"], row["format"], row["correct"], row["error"]) == ("its_backend", "newcomer", True, None)


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


@pytest.fixture(scope="module")
def answers(house):
    """What each of ``ASKED`` prints in the house, or why it failed; one process, which imports everything once."""
    return json.loads(house.python("-c", ASK_ALL, json.dumps(ASKED)))


ASK_ALL = """
import contextlib, io, json, sys, traceback
answers = {}
for name, code in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            exec(code, {})
        except Exception:
            traceback.print_exc(file=out)
    answers[name] = out.getvalue()
print(json.dumps(answers))
"""
ASKED = {
    "kinds": """
from moe_lab.spec import contract, plugins
for kind in plugins.FOLDERS:
    if kind != "assembly":
        contract.check(kind, "newcomer", plugins.info(kind, "newcomer"))
        print(kind)
""",
    "readme": """
from moe_lab.pages import readme
from moe_lab.report import notebooks
print(readme.commands(), notebooks.listing(), sep="\\n")
""",
    "columns": "from moe_lab import cli; cli.main(['columns', 'rows'])",
    "docs": "from cogapp import Cog; Cog().main(['cog', '-P', 'docs/columns.md'])",
    "head": """
import pandas as pd
from moe_lab.pages.show.tables import Table, heads
print(Table(pd.DataFrame({"energy_j": [1.5]}), heads("energy_j")).html())
""",
    "limiters": """
from gemm_rows import row, table
from moe_lab.analysis import limits
rows = [row("untuned 8192", registers_per_thread=count) for count in (255, 64)]
print(*limits.limits(table(*rows))["limiter"], sep="\\n")
""",
}


def test_a_file_where_its_recipe_says_is_a_plugin_that_keeps_its_contract(answers):
    assert answers["kinds"].split() == [kind for kind in plugins.FOLDERS if kind != "assembly"]


@pytest.fixture(scope="module")
def verdicts(house):
    """What pytest says of the tests that take up what the recipes made."""
    names = (
        "test_architecture|report/test_notebooks|spec/test_schema|spec/test_role_files|gpu/test_experts|gpu/test_align"
    )
    files = [f"tests/{name}.py" for name in names.split("|")]
    return house.python("-m", "pytest", "-q", "-rA", *files, "-k", "tree or 90_mine or column or newcomer")


def test_the_laws_hold_of_what_the_recipes_make(verdicts):
    for test in (
        "map_draws",
        r"opens_with_title.*\[90_mine\]",
        "a_column_has",
        r"a_file_of_an_engine.*\[newcomer\]",
    ):
        assert re.search(f"PASSED.*{test}", verdicts), test


def test_the_tests_of_a_kind_pick_its_plugins_up_by_name(verdicts):
    pytest.importorskip("torch")
    for test in ("matches_the_fp64_oracle", "multiplies_the_input_by_the_router_weight", "test_align.py::"):
        assert re.search(f"PASSED.*{test}.*newcomer", verdicts), test


def test_the_docs_take_a_command_a_profiler_and_a_notebook_from_their_files(answers):
    rows = answers["readme"].splitlines()
    assert "| `moe-lab newcomer` | one line for --help |" in rows
    assert "| `moe-lab capture newcomer` | one line |" in rows
    assert "| [90_mine](../notebooks/90_mine.ipynb) | Which kernel of a run takes the most time? |" in rows


def test_a_notebook_and_its_page_folder_are_found_and_drawn(house):
    house.python("-m", "moe_lab", "report", "90", "--out", "made")
    assert "takes 48" in (house.root / "made" / "90_mine.html").read_text()
    assert "Longest kernels" in (house.root / "made" / "index.html").read_text()


def test_a_preset_is_one_entry_and_a_backend_one_file(house):
    pytest.importorskip("torch")
    sizes = ["--model", "newcomer", "--m", "5", "--format", "fp32", "--backends", "newcomer", "--parts", "full"]
    asked = ["bench", "experts", "--name", "x", *sizes, "--repetitions", "1", "--device", "cpu", "--profiles", "runs"]
    house.python("-m", "moe_lab", *asked)
    [row] = runs.load("x", root=house.root / "runs").rows().to_dict("records")
    assert (row["model"], row["K"], row["backend"], row["correct"]) == ("newcomer", 64, "newcomer", True)


def test_a_column_is_one_line(answers):
    columns = json.loads(answers["columns"])["rows"]
    assert columns["energy_j"] == {"dtype": "time", "unit": "J", "label": "energy", "meaning": "energy of a call"}
    assert "| `energy_j` | time | J | energy of a call |" in answers["docs"]
    assert re.search("energy<small>J</small>.*1.50", answers["head"])


def test_a_rule_is_one_entry(answers):
    assert answers["limiters"].splitlines() == ["spilled registers", "nothing alone"]
