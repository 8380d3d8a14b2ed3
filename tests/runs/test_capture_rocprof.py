"""Captures with AMD's tools: the argv literally, whole captures with stand-ins, the command line and the doctor."""

import shlex
import shutil
import stat
import sys
from pathlib import Path

import pytest
from checkout import REPO
from workload_builder import launch, sysinfo, write_csv

from moe_lab import cli
from moe_lab.runs import doctor
from moe_lab.runs.capture import _tools, capture, rocprof_compute, rocprofv3
from moe_lab.runs.capture._tools import Tool
from moe_lab.spec.errors import UserError

COUNT = rocprof_compute.Options(kernels=("moe_align",), blocks=("2", "16.1"))


@pytest.mark.parametrize(
    ("version", "spelling"),
    [
        ("2.0.0", "-p"),
        ("3.1.0", "-p"),
        ("3.4", "-p"),
        ("3.5.0", "--output-directory"),
        ("3.10.1", "--output-directory"),
        (None, "--output-directory"),
    ],
)
def test_count_command_is_the_documented_one_of_each_version(version: str | None, spelling: str) -> None:
    argv = rocprof_compute.command("rocprof-compute", ["python", "x.py", "-n", "1"], "out", COUNT, version)
    expected = ["rocprof-compute", "profile", "-n", "moe_lab", "-k", "moe_align", "-b", "2", "16.1", spelling, "out"]
    assert argv == [*expected, "--", "python", "x.py", "-n", "1"]


def test_roofline_command_is_the_documented_one() -> None:
    options = rocprof_compute.Options(roof_only=True, extra=("--roofline-data-type", "BF16"))
    argv = rocprof_compute.command("rocprof-compute", ["app"], "out", options, "3.1.0")
    expected = [
        "rocprof-compute",
        "profile",
        "-n",
        "moe_lab",
        "--roof-only",
        "--roofline-data-type",
        "BF16",
        "-p",
        "out",
    ]
    assert argv == [*expected, "--", "app"]


def test_trace_command_is_the_documented_one() -> None:
    argv = rocprofv3.command("rocprofv3", ["app", "--x"], "out", rocprofv3.Options(extra=("--kernel-rename",)))
    traces = ["--kernel-trace", "--marker-trace", "--hip-trace", "--memory-copy-trace"]
    assert argv == ["rocprofv3", *traces, "--output-format", "csv", "--kernel-rename", "-d", "out", "--", "app", "--x"]


@pytest.mark.parametrize(
    ("tool", "package"), [(rocprof_compute, "rocprofiler-compute"), (rocprofv3, "rocprofiler-sdk")]
)
def test_missing_tool_says_how_to_get_it(tool, package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_tools, "find_tool", lambda *_: None)
    with pytest.raises(UserError, match=f"install the ROCm package {package}"):
        capture(tool, [sys.executable, "-c", ""], "x", root=tmp_path)


def stand_in(folder: Path, name: str, version: str, leaves: str, code: int = 0) -> Path:
    """Make a tool that finds its output folder in its arguments, writes its command there, and then does ``leaves``."""
    path = folder / name
    path.write_text(
        "#!/bin/bash\n"
        f'if [ "$1" = --version ]; then echo "version: {version}"; exit; fi\n'
        'while [ $# -gt 0 ] && [ "$1" != -- ]; do case "$1" in -p|-d|--output-directory) out=$2;; esac; shift; done\n'
        f"{leaves}\nexit {code}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("version", ["3.1.0", "3.6.0"])
def test_counted_command_becomes_a_run(version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """The tool puts the folder of the GPU's model below the one it is given."""
    made = tmp_path / "made"
    sysinfo(made)
    write_csv(made / "pmc_perf.csv", [launch(0, "moe_align", SQ_WAVES=4)])
    tool = stand_in(tmp_path, "rocprof-compute", version, f'mkdir -p "$out"; cp -r {made} "$out/MI300X_A1"')
    monkeypatch.setattr(_tools, "find_tool", lambda *_: tool)
    profiles = tmp_path / "profiles"
    argv = ["capture", "rocprof-compute", "--name", "a", "-k", "moe_align", "-b", "2", "--profiles", str(profiles)]
    assert cli.main([*argv, "--", sys.executable, "/home/ada/x.py"]) == 0
    run = Path(capsys.readouterr().out.strip())
    assert run == profiles / "mi300x" / "a"
    manifest = (run / "run.json").read_text()
    assert f'"version": "{version}"' in manifest
    assert '"-k",' in manifest
    assert "ada" not in manifest


def test_traced_command_becomes_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    header = '"Kind","Agent_Id","Kernel_Name","Correlation_Id","Start_Timestamp","End_Timestamp","Grid_Size_X"'
    row = '"KERNEL_DISPATCH","Agent 4","gemm",1,10,30,64'
    leaves = f"mkdir -p \"$out/host/\"; printf '%s\\n%s\\n' '{header}' '{row}' > \"$out/host/7_kernel_trace.csv\""
    monkeypatch.setattr(_tools, "find_tool", lambda *_: stand_in(tmp_path, "rocprofv3", "1.1.0", leaves))
    argv = ["capture", "rocprofv3", "--name", "amd/t", "--profiles", str(tmp_path / "p"), "--", sys.executable]
    assert cli.main(argv) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "p" / "amd" / "t"


@pytest.mark.parametrize(
    ("leaves", "code", "sentence"), [("", 3, "exit code 3"), ("mkdir -p $out", 0, "saw no kernel|started no kernel")]
)
@pytest.mark.parametrize("tool", [rocprof_compute, rocprofv3], ids=["rocprof-compute", "rocprofv3"])
def test_failed_capture_says_why_and_keeps_nothing(
    tool, leaves: str, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_tools, "find_tool", lambda *_: stand_in(tmp_path, "tool", "3.1.0", leaves, code))
    profiles = tmp_path / "profiles"
    with pytest.raises(UserError, match=sentence):
        capture(tool, [sys.executable, "-c", ""], "x", root=profiles)
    assert not profiles.exists()


SHOWN = [line.strip() for line in (REPO / "docs" / "amd.md").read_text().splitlines()]


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("moe-lab capture")])
def test_commands_of_the_docs_are_understood(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, object] = {}

    def capture(profiler: object, workload: list[str], name: str, **options: object) -> object:
        asked.update(options, workload=workload, name=name, profiler=profiler)
        return type("Run", (), {"path": tmp_path, "manifest": {"hidden": {}}})()

    argv = shlex.split(line)[1:]
    tool = {"rocprof-compute": rocprof_compute, "rocprofv3": rocprofv3}[argv[1]]
    monkeypatch.setattr("moe_lab.runs.capture.capture", capture)
    assert cli.main(argv) == 0
    assert asked["profiler"] is tool
    assert asked["workload"][:3] == ["python", "-m", "moe_lab.gpu"]
    if tool is rocprof_compute:
        assert asked["options"] == rocprof_compute.Options(("moe_align",), ("2", "7", "15", "16", "17"))


def test_doctor_says_what_the_absence_of_amd_tools_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tools, "find_tool", lambda *_: None)
    monkeypatch.setattr(rocprofv3, "available", lambda: Tool(Path(shutil.which("true") or "true"), "1.1.0"))
    checks = {c.name: c for c in doctor.examine()}
    assert checks["rocprof-compute"].found is None
    assert "no kernel counters on AMD" in checks["rocprof-compute"].costs
    assert checks["rocprof-compute"].remedy == rocprof_compute.HOW_TO_GET
    assert checks["rocprofv3"].found == "1.1.0"
