"""``moe-lab workload``, alone and under a profiler."""

import sys

from moe_lab import cli
from moe_lab.cli import capture, workload
from moe_lab.runs import capture as captures


def test_a_workload_runs_with_its_own_options_and_gives_its_exit_code(monkeypatch):
    started = []
    monkeypatch.setattr(workload.subprocess, "Popen", lambda argv: started.append(argv) or argv)
    monkeypatch.setattr("moe_lab.spec.guard.children.wait", lambda process: 3)
    assert cli.main(["workload", "hf", "--layers", "1", "--help"]) == 3
    assert started == [[sys.executable, "-m", "moe_lab.gpu", "hf", "--layers", "1", "--help"]]


def test_a_workload_without_torch_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(workload, "find_spec", lambda name: None)
    assert cli.main(["workload", "layer"]) == 2
    assert capsys.readouterr().err == "moe-lab: A workload needs torch here: pip install 'moe-lab[gpu]'.\n"


def test_a_profiler_gets_the_program_that_a_workload_starts(monkeypatch):
    """So that it waits for the measured part, and one that must be in the program can be."""
    given = []
    monkeypatch.setattr(captures, "capture", lambda profiler, command, name, **rest: given.append(command))
    monkeypatch.setattr(capture, "print_run", lambda run: None)
    assert cli.main(["capture", "nsys", "--name", "x", "--", "bin/moe-lab", "workload", "hf", "--layers", "1"]) == 0
    assert given == [[sys.executable, "-m", "moe_lab.gpu", "hf", "--layers", "1"]]
    assert captures.default_window(given[0]) == "profiler-api"
