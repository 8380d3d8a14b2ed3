"""The nsys capture: the argv literally, and a whole capture with a stand-in tool."""

import stat
import sys
from pathlib import Path

import pytest

from moe_lab.runs.capture import _tools, capture, nsys
from moe_lab.runs.capture._facts import default_window
from moe_lab.spec.errors import UserError


def test_command_is_the_documented_one_for_any_command() -> None:
    argv = nsys.command("nsys", ["python", "-m", "engine", "--x", "1"], "out/report", nsys.Options())
    assert argv == [
        "nsys",
        "profile",
        "--trace=cuda,nvtx",
        "--cuda-graph-trace=node",
        "--sample=none",
        "--cpuctxsw=none",
        "--export=sqlite",
        "--force-overwrite=true",
        "-o",
        "out/report",
        "python",
        "-m",
        "engine",
        "--x",
        "1",
    ]


def test_command_limits_the_trace_to_the_profiler_window_without_ending_the_program() -> None:
    argv = nsys.command("nsys", ["app"], "r", nsys.Options("profiler-api", ("--gpu-metrics-devices=0",)))
    assert "--capture-range=cudaProfilerApi" in argv
    assert "--capture-range-end=stop" in argv
    assert argv.index("--gpu-metrics-devices=0") < argv.index("-o") < argv.index("app")


def test_export_command_is_the_documented_one() -> None:
    argv = nsys.export_command("nsys", "run.nsys-rep", "run.sqlite")
    assert argv == ["nsys", "export", "--type=sqlite", "--force-overwrite=true", "-o", "run.sqlite", "run.nsys-rep"]


@pytest.mark.parametrize(
    ("workload", "window"),
    [
        (["python", "-m", "moe_lab.gpu", "layer"], "profiler-api"),
        (["python", "-m", "sglang.bench_one_batch"], "all"),
    ],
)
def test_only_our_workload_is_known_to_mark_its_window(workload: list[str], window: str) -> None:
    assert default_window(workload) == window


def test_missing_nsys_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_tools, "find_tool", lambda *_: None)
    with pytest.raises(UserError, match="install Nsight Systems"):
        capture(nsys, [sys.executable, "-c", ""], "x", root=tmp_path)


def test_missing_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such-program"):
        capture(nsys, ["no-such-program"], "x", root=tmp_path)


@pytest.mark.parametrize(
    ("leaves", "code", "sentence"),
    [
        ("", 3, "exit code 3"),
        ("touch $out.qdstrm", 0, "libdw"),
        ("", 0, "nothing to trace"),
    ],
    ids=["child-fails", "importer-fails", "nothing-traced"],
)
def test_failed_capture_says_why_and_keeps_nothing(
    leaves: str, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in = tmp_path / "nsys"
    stand_in.write_text(
        "#!/bin/bash\n"
        'if [ "$1" = --version ]; then echo "NVIDIA Nsight Systems version 2025.3.1.90"; exit; fi\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done\n'
        f"{leaves}\nexit {code}\n"
    )
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(_tools, "find_tool", lambda *_: stand_in)
    profiles = tmp_path / "profiles"
    with pytest.raises(UserError, match=sentence):
        capture(nsys, [sys.executable, "-c", ""], "x", root=profiles)
    assert not profiles.exists() or not any(profiles.rglob("*"))
