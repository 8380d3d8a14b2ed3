"""What a plugin must be, wherever it comes from, and the one sentence where it cannot be one."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
from checkout import REPO
from recipes import only

from moe_lab import cli
from moe_lab.spec import contract, plugins


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


def test_the_help_of_capture_imports_no_pandas():
    said = "import sys; from moe_lab import cli\ntry: cli.main(['capture', '--help'])\n"
    said += "finally: print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, cwd=REPO)
    assert "rocprofv3" in done.stdout
    assert done.stdout.endswith("False\n")


def test_an_annotated_info_is_an_info(recipe, capsys):
    path = recipe("command")
    path.write_text(path.read_text().replace("INFO =", "INFO: dict[str, str] ="))
    assert cli.main(["--plugin", str(path), "newcomer", "world"]) == 0
    assert capsys.readouterr().out == "hello world\n"


def test_an_entry_point_adds_a_plugin(tmp_path):
    package = tmp_path / "site" / "their_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "newcomer.py").write_text(only("command"))
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
