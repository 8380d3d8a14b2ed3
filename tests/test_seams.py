"""A newcomer's tasks are one file or one entry each: the recipes of CONTRIBUTING.md, run as they stand there."""

import json
import os
import re
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from checkout import REPO
from kineto_builder import KinetoBuilder

from moe_lab import cli, report, runs
from moe_lab.spec import contract, models, plugins

SECTIONS = re.findall(r"^## Add an? (.+?)\n(.*?)(?=^## |\Z)", (REPO / "CONTRIBUTING.md").read_text(), re.M | re.S)
RECIPES = {title: text.split("```")[1].removeprefix("python\n") for title, text in SECTIONS if "```python" in text}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write the file of a recipe into a folder outside of the package; no plugin of it is left afterwards."""
    monkeypatch.setenv(plugins.FILES, "")

    def write(title: str) -> Path:
        path = tmp_path / "newcomer.py"
        path.write_text(RECIPES[title])
        return path

    yield write
    for name in [m for m in sys.modules if m.startswith("moe_lab_plugin_")]:
        del sys.modules[name]


def process(plugin: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "moe_lab.gpu", "--plugin", str(plugin), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})


@pytest.mark.parametrize("kind", plugins.FOLDERS)
def test_every_plugin_keeps_the_contract_of_its_kind(kind):
    for name in plugins.names(kind):
        contract.check(kind, name, plugins.info(kind, name))
        if plugins.unavailable(kind, name) is None:
            contract.check_names(kind, name, plugins.load(kind, name))


@pytest.mark.parametrize("kind", plugins.FOLDERS)
def test_every_name_of_the_contract_is_read_somewhere(kind):
    # ways between ranks are held to their contract by the tests alone so far
    folders = [plugins.PACKAGE, REPO / "tests" / "gpu"]
    readers = [p.read_text() for f in folders for p in f.rglob("*.py") if p.name != "contract.py"]
    for name in contract.callables(kind):
        reads = re.compile(rf"\.{name}\b|attr\([^)]*\"{name}\"|\brun={name}\b")
        assert any(reads.search(text) for text in readers), name


def test_loading_lists_the_folder_of_a_kind_once(monkeypatch):
    listed, real = [], plugins._sources
    monkeypatch.setattr(plugins, "_sources", lambda kind: listed.append(kind) or real(kind))
    plugins.load("cli", "doctor")
    assert listed == ["cli"]


def test_an_annotated_info_is_an_info(recipe, capsys):
    path = recipe("command")
    path.write_text(path.read_text().replace("INFO =", "INFO: dict[str, str] ="))
    assert cli.main(["--plugin", str(path), "newcomer", "world"]) == 0
    assert capsys.readouterr().out == "hello world\n"


def test_the_help_of_capture_imports_no_pandas():
    said = "import sys; from moe_lab import cli\ntry: cli.main(['capture', '--help'])\n"
    said += "finally: print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, cwd=REPO)
    assert "rocprofv3" in done.stdout
    assert done.stdout.endswith("False\n")


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
    backend.write_text(RECIPES["experts backend"].replace('["fp32", "bf16"]', '["newcomer"]'))
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


def test_a_notebook_is_one_file(tmp_path):
    book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    parameters = nbformat.v4.new_code_cell("M = 33  # tokens", metadata={"tags": ["parameters"]})
    said = "from moe_lab.pages.show import findings\nfindings.show([findings.Finding('Size', f'M is {M}.')])"
    book.cells = [nbformat.v4.new_markdown_cell("# Mine\n\nWhat is M?"), parameters, nbformat.v4.new_code_cell(said)]
    nbformat.write(book, tmp_path / "90_mine.ipynb")
    [page] = report.build(
        [str(tmp_path / "90_mine.ipynb")], out=tmp_path / "o", parameters={}, grid=None, show_code=False
    ).pages
    assert (page.title, page.failed) == ("Mine", None)
    assert "M is 33." in page.headline


def test_a_preset_is_one_entry(tmp_path, monkeypatch):
    known = json.loads((REPO / "moe_lab" / "spec" / "models.json").read_text())
    name, entry = next(iter(known.items()))
    monkeypatch.setitem(models.MODELS, "newcomer", models.model(name))
    assert entry["K"] == models.model("newcomer").K


def test_an_entry_point_adds_a_plugin(tmp_path):
    package = tmp_path / "site" / "their_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "newcomer.py").write_text(RECIPES["command"])
    facts = tmp_path / "site" / "theirs-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[moe_lab.cli]\nnewcomer = their_package.newcomer\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    argv = [sys.executable, "-m", "moe_lab", "newcomer", "world"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=REPO)
    assert (done.returncode, done.stdout) == (0, "hello world\n"), done.stderr


def test_a_file_that_is_gone_is_named_with_the_variable(monkeypatch, capsys):
    monkeypatch.setenv(plugins.FILES, "/nowhere/gone.py")
    assert cli.main(["backends"]) == 2
    assert "$MOE_LAB_PLUGINS names gone.py, which does not exist" in capsys.readouterr().err


def test_a_wrong_info_is_refused_where_plugins_are_listed(recipe, capsys):
    path = recipe("experts backend")
    path.write_text(path.read_text().replace('"formats": ["fp32", "bf16"]', '"formats": 3'))
    assert cli.main(["--plugin", str(path), "backends"]) == 2
    assert "needs formats to be a list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is not a file; give --plugin"),
        ("x = 1\n", "has no INFO dictionary"),
        ("INFO = {'about': 'x'}\n", "does not say what it is"),
        ("INFO = {'about': 'x', 'kind': ['cli']}\n", "does not say what it is"),
        ("INFO = 3\n", "cannot be read as a plugin (TypeError)"),
        ("INFO = {'about': f'{x}', 'kind': 'cli'}\n", "cannot be read as a plugin (ValueError)"),
        ("INFO = {\n", "cannot be read as a plugin (SyntaxError)"),
        ("INFO = {'kind': 'cli', 'about': 'x', 'colour': 1}\n", "has no use for colour"),
        ("INFO = {'kind': 'cli', 'about': 1}\n", "needs about to be a str"),
        ("INFO = {'kind': 'cli', 'about': 'x'}\n", "has no 'add'"),
        ("INFO = {'kind': 'cli', 'about': 'x'}\nadd = 3\n", "'add' of the cli plugin 'newcomer' cannot be called"),
        ("INFO = {'kind': 'cli', 'about': 'x'}\nadd = print\ndef ad(): pass\n", "Nothing calls 'ad'"),
        ("INFO = {'kind': 'cli', 'about': 'x'}\n1 / 0\n", "fails to load (ZeroDivisionError"),
        ("INFO = {'kind': 'cli', 'about': 'x'}\n", "There already is a plugin of cli called 'doctor'"),
    ],
    ids=[
        "missing",
        "no-info",
        "no-kind",
        "kind-list",
        "no-dictionary",
        "no-literal",
        "no-python",
        "unknown-key",
        "wrong-type",
        "no-name",
        "no-callable",
        "unread-name",
        "broken",
        "clash",
    ],
)
def test_a_plugin_that_cannot_be_is_one_sentence(recipe, tmp_path, capsys, text, said):
    path = tmp_path / ("doctor.py" if said.startswith("There already") else "newcomer.py")
    if text is not None:
        path.write_text(textwrap.dedent(text))
    assert cli.main(["--plugin", str(path), "newcomer"]) == 2
    assert said in capsys.readouterr().err


def test_an_option_without_its_file_is_one_sentence(capsys):
    assert cli.main(["--plugin"]) == 2
    assert "'' is not a file; give --plugin" in capsys.readouterr().err
