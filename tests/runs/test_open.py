"""One way from a name or a command to a run."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkout import REPO

from moe_lab import runs
from moe_lab.runs import capture
from moe_lab.runs.parse import format_of
from moe_lab.spec.errors import UserError

PROFILES = REPO / "profiles"
STEPS = PROFILES / "h200" / "align_steps"


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs are those of the repository."""
    monkeypatch.setenv("MOE_LAB_PROFILES", str(PROFILES))


@pytest.mark.parametrize("asked", ["h200/align_steps", "align_steps", str(STEPS), str(STEPS / "run.json")])
def test_a_run_opens_by_every_form_of_its_name(asked: str) -> None:
    assert runs.open(asked).run == runs.load("h200/align_steps")


def test_a_report_file_opens_by_its_path() -> None:
    report = runs.load("h200/align_steps").report
    opened = runs.open(str(report)).run
    assert opened is not None
    assert opened.report == report


def test_a_missing_run_is_one_sentence_with_what_was_asked_how_to_make_it_and_what_there_is() -> None:
    found = runs.open("h200/none", "moe-lab bench align --name none", bench="align")
    assert found.run is None
    assert found.missing == (
        "There is no run 'h200/none' of the align benchmark; `moe-lab bench align --name none` on a GPU makes one. "
        "There are: h100/align_sweep, h100/align_vllm, h200/align_sweep."
    )
    captures = runs.open("none", "moe-lab capture nsys --name none -- COMMAND").missing
    assert captures.startswith("There is no run 'none'; `moe-lab capture nsys --name none -- COMMAND` on a GPU makes")
    assert "h200/align_steps" in captures
    assert "tune_" not in captures, "benchmarks are no captures"
    assert runs.open("").missing.startswith("No run was asked for.")


def test_a_run_of_another_benchmark_is_refused() -> None:
    with pytest.raises(UserError, match="'h200/align_sweep' is of the benchmark 'align', not of experts"):
        runs.open("h200/align_sweep", bench="experts")


def test_a_folder_that_is_there_but_holds_no_report_is_an_error_and_no_missing_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no report in the folder"):
        runs.open(str(tmp_path))


def test_a_command_is_started_only_where_commands_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda argv, **k: started.append(argv))
    monkeypatch.setattr(capture, "capture", lambda profiler, command, name: started.append(command))
    for asked in ("moe-lab capture nsys --name x -- python -m moe_lab.gpu layer", "python -m moe_lab.gpu layer"):
        assert runs.open(asked).run is None
    assert started == []
    runs.open("python -m x 'a b'", commands=True)
    assert started == [["python", "-m", "x", "a b"]]


def test_a_capture_command_runs_the_command_line_and_opens_the_run_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], **_: object) -> SimpleNamespace:
        asked.append(argv)
        return SimpleNamespace(returncode=0, stdout=f"words of the workload\n{STEPS}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    found = runs.open("moe-lab capture ncu --name align_steps -- python -m moe_lab.gpu align", commands=True).run
    assert found == runs.load("h200/align_steps")
    tail = ["capture", "ncu", "--name", "align_steps", "--", "python", "-m", "moe_lab.gpu", "align"]
    assert asked == [[sys.executable, "-m", "moe_lab", *tail]]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("moe-lab capture nsys --name x", "(COMMAND|command)"),
        ("moe-lab capture nope --name x -- true", "nope"),
        ("python 'x", "close its quotation marks"),
    ],
)
def test_a_command_that_fails_is_one_sentence(command: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        runs.open(command, commands=True)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("counter_collection.csv", '"Correlation_Id","Dispatch_Id"\n', "give the folder"),
        ("1_results.pftrace", "x", "--output-format csv"),
        ("run.qdrep", "x", "nsys export"),
    ],
)
def test_formats_of_profilers_that_are_not_read_say_which_to_make(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        format_of(tmp_path / name)
