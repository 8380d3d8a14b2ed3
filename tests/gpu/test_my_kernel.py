"""The tutorial on a kernel of one's own: the commands of docs/my_kernel.md run as they stand there."""

import re
import shlex

import pytest
from checkout import REPO

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")

from moe_lab import cli, runs
from moe_lab.gpu import __main__ as gpu
from moe_lab.spec import plugins

PACKAGE = REPO / "examples" / "my_kernel"
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (.+)$", (REPO / "docs/my_kernel.md").read_text(), re.M)]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What ``pip install`` leaves of the package: its folder on the path, and its entry points beside it."""
    points = re.search(r'entry-points\."moe_lab\.experts"\]\n(.*)', (PACKAGE / "pyproject.toml").read_text(), re.S)[1]
    facts = tmp_path / "my_kernel-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-kernel\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[moe_lab.experts]\n" + points.replace('"', ""))
    monkeypatch.setenv("PYTHONPATH", f"{PACKAGE}:{tmp_path}:{REPO}")
    for folder in (tmp_path, PACKAGE):
        monkeypatch.syspath_prepend(folder)
    plugins._installed.cache_clear()
    yield
    plugins._installed.cache_clear()


def asked(*words: str) -> list[str]:
    """Return the arguments of the tutorial's only command that has all of these words."""
    [command] = [command[1:] for command in COMMANDS if {"moe-lab", *words} <= set(command)]
    return command


def test_a_file_is_a_backend_by_its_name(monkeypatch, capsys):
    monkeypatch.setenv(plugins.FILES, "")
    monkeypatch.chdir(REPO)
    assert cli.main(asked("--plugin")) == 0
    assert "sorted_loop: pairs sorted by expert" in capsys.readouterr().out


def test_a_package_is_listed_checked_timed_and_put_into_a_model(installed, tmp_path, capsys):
    assert cli.main(["backends"]) == 0
    assert ["moe-lab", "backends"] in COMMANDS
    assert "sorted_loop: pairs sorted by expert" in capsys.readouterr().out
    assert cli.main([*asked("bench"), "--profiles", str(tmp_path / "p")]) == 0, capsys.readouterr().err
    rows = runs.load("mine", root=tmp_path / "p").rows()
    assert set(zip(rows["backend"], rows["M"], rows["correct"], strict=True)) == {
        (backend, M, True) for backend in ("sorted_loop", "torch_loop") for M in (1, 5)
    }
    capsys.readouterr()
    assert gpu.main(asked("workload", "--device")[1:]) == 0  # what moe-lab workload starts
    assert '"backend": "sorted_loop"' in capsys.readouterr().out


def test_captures_of_the_tutorial_are_understood():
    for command in COMMANDS:
        if command[:2] == ["moe-lab", "capture"]:
            arguments = cli._parser(command[1:]).parse_args(command[1:])
            own = arguments.workload[arguments.workload.index("workload") + 1 :]
            assert gpu.parser().parse_args(own).phase == "decode"
