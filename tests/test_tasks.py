"""The ten tasks of examples/tasks.md: every command is followed, and what must come out comes out."""

import re
import shlex
from pathlib import Path

import pytest
from checkout import REPO

from moe_lab import cli
from moe_lab.spec import plugins

TEXT = (REPO / "examples" / "tasks.md").read_text()
TASKS = dict(re.findall(r"^## (\d+)\. .*?\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def code(task: str, after: str) -> list[str]:
    """Return what stands as code in the task's paragraph that begins with ``after``."""
    found = re.search(rf"^{after}: (.*?)(?:\n\n|\Z)", task, re.M | re.S)
    return re.findall(r"`([^`]+)`", found[1]) if found else []


def test_there_are_ten_tasks_and_each_says_what_must_come_out() -> None:
    assert list(TASKS) == [str(number) for number in range(1, 11)]
    assert all(code(task, "Must come out") or code(task, "Must be written") for task in TASKS.values())


@pytest.mark.usefixtures("without_profiler")
@pytest.mark.parametrize("number", TASKS)
def test_a_task_gives_what_must_come_out(
    number: str, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "bench experts" in TASKS[number]:
        pytest.importorskip("torch", reason="needs the gpu extra")
    monkeypatch.chdir(project)
    monkeypatch.setenv(plugins.FILES, "")
    commands = re.findall(r"^    moe-lab (.+)$", TASKS[number], re.M)
    stated = re.search(r"Exit code (\d)(?:, or\s(\d))?", TASKS[number])
    codes = [cli.main(shlex.split(command)) for command in commands]
    said = "".join(capsys.readouterr())
    assert set(codes) <= ({int(c) for c in stated.groups() if c} if stated else {0}), said
    for word in code(TASKS[number], "Must come out"):
        assert word in said
    if written := code(TASKS[number], "Must be written"):
        text = (project / written[0]).read_text()
        assert all(word in text for word in written[1:])
