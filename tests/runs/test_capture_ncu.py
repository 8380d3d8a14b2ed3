"""The ncu capture: the argv literally, its messages, and whole captures with a stand-in tool."""

import json
import re
import stat
import sys
from pathlib import Path

import pytest
from ncu_builder import ROOT, raw, stack

from moe_lab import cli
from moe_lab.runs import doctor
from moe_lab.runs.capture import _ncu_log, _tools, _work, capture, ncu
from moe_lab.spec.errors import UserError
from moe_lab.spec.metrics import of_set

TIME, SM = "gpu__time_duration.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed"
LOG = """==PROF== Connected to process 4711 (/home/ada/venv/bin/python3)
==PROF== Profiling "fused_moe" - 0: 0%....50%....100% - 9 passes
==PROF== Profiling "k, with a comma" - 1: 0%....50%....100% - 1 pass
==PROF== Profiling "old_form": 0%....50%....100% - 18 passes
==PROF== Profiling "half_way" - 3: 0%....50%
"""


def test_command_is_the_documented_one_for_any_command() -> None:
    argv = ncu.command("ncu", ["python", "-m", "engine"], "out/report", [TIME, SM], ncu.Options())
    assert argv == [
        "ncu",
        "--target-processes=all",
        "--clock-control=none",
        "--cache-control=all",
        "--nvtx",
        f"--metrics={TIME},{SM}",
        "--log-file=out/report.log",
        "--force-overwrite",
        "--export",
        "out/report",
        "python",
        "-m",
        "engine",
    ]


def test_filters_choose_ranges_kernels_window_and_one_launch_a_configuration() -> None:
    options = ncu.Options(
        ranges=("moe_lab@w13/", "moe_lab@w2/"),
        kernel="fused|grouped",
        launch_count=1,
        window="profiler-api",
        extra=("--replay-mode=application",),
    )
    argv = ncu.command("ncu", ["app"], "r", [TIME], options)
    assert argv[5:] == [
        *("--nvtx-include", "moe_lab@w13/", "--nvtx-include", "moe_lab@w2/"),
        *("--profile-from-start=off", "--filter-mode=per-launch-config", "--launch-count=1"),
        *("--kernel-name=regex:fused|grouped", "--replay-mode=application", f"--metrics={TIME}"),
        *("--log-file=r.log", "--force-overwrite", "--export", "r", "app"),
    ]


def test_export_command_is_the_documented_one() -> None:
    assert ncu.export_command("ncu", "r.ncu-rep") == [
        *("ncu", "--import", "r.ncu-rep", "--csv", "--page", "raw", "--print-units", "base")
    ]


def test_names_are_those_that_the_gpu_knows() -> None:
    """GIVEN a chip whose DRAM counters have other names and that has no tensor pipe
    WHEN names are chosen THEN the second name counts, and what has none is left out.
    """
    wanted = [m for m in of_set("full") if m.column in ("dram_read_bytes", "tensor_pipe_pct", "waves")]
    assert ncu.names_of(wanted, {"dram__bytes_op_read", "sm__cycles_active"}) == [
        "launch__waves_per_multiprocessor",
        "dram__bytes_op_read.sum",
    ]
    assert ncu.names_of(wanted, set()) == [m.names[0] for m in wanted]


def test_passes_are_read_from_the_messages_of_kernels_that_are_done() -> None:
    assert _ncu_log.passes(LOG) == [9, 1, 18]


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        (
            "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters",
            *(1, "NVreg_RestrictProfilingToAdminUsers=0"),
        ),
        (
            "==ERROR== Profiling is not supported on device 0. To find out supported GPUs refer --list-chips option.\n"
            "==WARNING== No kernels were profiled.",
            *(0, "Nsight Compute 2022.1 does not know this GPU; install a newer one"),
        ),
        ("==ERROR== The application returned an error code (3).", 3, r"exit code 3 \(The application returned"),
        ("", 9, "exit code 9, see above"),
        ("==WARNING== No kernels were profiled.", 0, None),
        (LOG, 0, None),
    ],
    ids=["no-permission", "too-old", "child-fails", "killed", "nothing-matched", "fine"],
)
def test_messages_are_explained(text: str, code: int, sentence: str | None) -> None:
    said = _ncu_log.explain(text, code, "2022.1")
    if sentence is None:
        assert said is None
    else:
        assert said is not None
        assert re.search(sentence, said)


STAND_IN = """#!{python}
import json, os, pathlib, sys
argv = sys.argv[1:]
if argv == ["--version"]:
    print("NVIDIA (R) Nsight Compute Command Line Profiler\\nCopyright (c) 2018-2025 NVIDIA\\nVersion 2025.3.1.0 (b 1)")
elif argv == ["--list-chips"]:
    print(pathlib.Path(os.environ["CHIPS_FILE"]).read_text())
elif argv == ["--query-metrics"]:
    print("Device NVIDIA H200 (GH100)\\n---- ----")
    print("gpu__time_duration  Counter  ns  time\\nsm__throughput  Throughput  %")
elif argv[0] == "--import":
    sys.stdout.write(pathlib.Path(argv[1]).read_text())
else:
    out = argv[argv.index("--export") + 1]
    log = next(a for a in argv if a.startswith("--log-file=")).partition("=")[2]
    filtered = "--nvtx-include" in argv
    pathlib.Path(os.environ["ARGV_FILE"]).write_text(json.dumps(argv))
    pathlib.Path(log).write_text(pathlib.Path(os.environ["LOG_FILE"]).read_text())
    if not (filtered and os.environ.get("MATCHES") == "0"):
        pathlib.Path(out + ".ncu-rep").write_text(pathlib.Path(os.environ["PAGE_FILE"]).read_text())
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder with argv.json after a capture; ncu is a script that copies a page."""
    tool = tmp_path / "ncu"
    tool.write_text(STAND_IN.format(python=sys.executable))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    kernel = {"name": "fused_moe", "grid": "(6144, 1, 1)", "block": "(128, 1, 1)", "values": {TIME: "129000", SM: "30"}}
    (tmp_path / "page").write_text(raw([kernel | {"stack": stack(ROOT, "w13")}], {TIME: "ns", SM: "%"}))
    (tmp_path / "log").write_text(LOG)
    for name, file in (("ARGV_FILE", "argv.json"), ("LOG_FILE", "log"), ("PAGE_FILE", "page")):
        monkeypatch.setenv(name, str(tmp_path / file))
    monkeypatch.setattr(_tools, "find_tool", lambda *_: tool)
    for asks in (ncu, _work):
        monkeypatch.setattr(asks, "gpu_name", lambda: "NVIDIA H200")
    return tmp_path


def test_capture_keeps_counters_options_and_what_replay_cost(stand_in: Path) -> None:
    kept = stand_in / "kept.ncu-rep"
    run = capture(
        ncu, [sys.executable, "-c", ""], "w13", root=stand_in / "profiles", options=ncu.Options(keep_report=kept)
    )
    assert run.manifest["name"] == "h200/w13"
    tool = run.manifest["tool"]
    assert (tool["name"], tool["version"], tool["metrics"]) == ("ncu", "2025.3.1", "full")
    assert tool["options"] == ["--target-processes=all", "--clock-control=none", "--cache-control=all", "--nvtx"]
    assert {k: tool["replay"][k] for k in ("kernels", "passes", "most_passes")} == {*()} or tool["replay"][
        "passes"
    ] == 28
    assert run.launches().table["sm_throughput_pct"].tolist() == [30]
    assert run.launches().ranges["name"].tolist() == [ROOT, "w13"]
    assert kept.exists()
    assert "gpu-box-17" not in run.report.read_text()
    asked = next(a for a in json.loads((stand_in / "argv.json").read_text()) if a.startswith("--metrics="))
    assert {TIME, SM, "launch__grid_size"} <= set(asked.partition("=")[2].split(","))
    assert "dram__bytes_read.sum" not in asked, "this GPU does not list it"


def test_filter_that_matches_nothing_lists_the_ranges_that_exist(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATCHES", "0")
    (stand_in / "log").write_text("==WARNING== No kernels were profiled.\n")
    with pytest.raises(
        UserError, match=r"No kernel matched moe_lab@w3/; ranges that exist: .*moe_lab@w13/; kernels: fused_moe\."
    ):
        capture(ncu, [sys.executable, "-c", ""], "x", options=ncu.Options(ranges=("moe_lab@w3/",)), root=stand_in / "p")
    assert not (stand_in / "p").exists()


def test_command_line_captures_and_shows_counters(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles = str(stand_in / "profiles")
    filters = ["--set", "basic", "--ranges", "moe_lab@w13/", "--launch-count", "1", "--kernel", "fused"]
    argv = ["capture", "ncu", "--name", "w13", *filters, "--profiles", profiles, "--", sys.executable, "-c", ""]
    assert cli.main(argv) == 0
    assert "--launch-count=1" in json.loads((stand_in / "argv.json").read_text())
    assert cli.main(["counters", str(stand_in / "profiles" / "h200" / "w13")]) == 0
    said = capsys.readouterr().out
    assert "sm_throughput_pct" in said
    assert "fused_moe" in said


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (
            "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters",
            r"The driver does not let this user read .* \(ERR_NVGPUCTRPERM\).*NVreg_RestrictProfilingToAdminUsers=0",
        ),
        (
            "==ERROR== Profiling is not supported on device 0. To find out supported GPUs refer --list-chips option.",
            r"Nsight Compute 2025\.3\.1 does not know this GPU; install a newer one",
        ),
        (
            "==WARNING== No kernels were profiled.",
            r"No kernel matched moe_lab@w3/; ranges that exist: .*moe_lab@w13/; kernels: fused_moe",
        ),
    ],
    ids=["no-permission", "too-old", "nothing-matched"],
)
def test_capture_that_cannot_count_is_one_sentence_and_exit_code_2(
    log: str, sentence: str, stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MATCHES", "0")
    (stand_in / "log").write_text(f"{log}\n")
    filters = ["--ranges", "moe_lab@w3/", "--profiles", str(stand_in / "p")]
    assert cli.main(["capture", "ncu", "--name", "x", *filters, "--", sys.executable, "-c", ""]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = [part for part in re.split(r"[\r\n]", said.err) if part.startswith("moe-lab: ")]
    assert re.search(sentence, line)
    assert not (stand_in / "p").exists()


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ("dram_read_bytes", "made without dram_read_bytes; measure again with `moe-lab capture ncu --set roofline`"),
        ("l2_hit_pct,ipc", "made without l2_hit_pct, ipc; measure again with `moe-lab capture ncu --set full`"),
    ],
)
def test_counters_that_were_not_measured_name_the_set_with_exit_code_2(
    metrics: str, sentence: str, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["counters", str(stand_in / "page"), "--metrics", metrics]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert sentence in said.err


CHIPS = "Supported chips: \n  tu102, tu104, ga100, ga102, ad102{more}"


@pytest.mark.parametrize(
    ("capability", "listed", "found", "remedy"),
    [
        ("9.0", CHIPS.format(more=", gh100"), "2025.3.1, knows this GPU", ""),
        ("8.6", CHIPS.format(more=""), "2025.3.1, knows this GPU", ""),
        ("9.0", CHIPS.format(more=""), None, "install a newer one"),
        ("99.0", CHIPS.format(more=""), "2025.3.1", ""),
        (None, CHIPS.format(more=""), "2025.3.1", ""),
        ("9.0", "", "2025.3.1", ""),
    ],
    ids=["listed", "family", "too-old", "unknown-gpu", "no-driver", "no-list"],
)
def test_doctor_holds_ncu_against_the_gpu(
    capability: str | None,
    listed: str,
    found: str | None,
    remedy: str,
    stand_in: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (stand_in / "chips").write_text(listed)
    monkeypatch.setenv("CHIPS_FILE", str(stand_in / "chips"))
    monkeypatch.setattr(_ncu_log, "compute_capability", lambda: capability)
    check = next(c for c in doctor.examine() if c.name == "ncu")
    assert check.found == found
    assert remedy in check.remedy
    assert bool(check.costs) == (found is None)
    if found is None:
        assert "version 2025.3.1 is too old for this GPU" in check.costs


@pytest.mark.parametrize(
    ("params", "administrator", "found"),
    [
        ("RmProfilingAdminOnly: 0\n", False, "permitted for every user"),
        ("RmProfilingAdminOnly: 1\n", True, "permitted (restricted to administrators, and this process is one)"),
        ("RmProfilingAdminOnly: 1\n", False, None),
    ],
    ids=["everyone", "administrator", "refused"],
)
def test_doctor_says_whether_counters_may_be_read(
    params: str, administrator: bool, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params").write_text(params)
    monkeypatch.setattr(doctor, "PARAMS", tmp_path / "params")
    monkeypatch.setattr(doctor, "_has_sys_admin", lambda: administrator)
    check = next(c for c in doctor.examine() if c.name == "hardware counters")
    assert check.found == found
    if found is None:
        assert "ERR_NVGPUCTRPERM" in check.costs
        assert "NVreg_RestrictProfilingToAdminUsers=0" in check.remedy


def test_missing_ncu_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_tools, "find_tool", lambda *_: None)
    with pytest.raises(UserError, match="install Nsight Compute"):
        capture(ncu, [sys.executable, "-c", ""], "x", root=tmp_path)


def test_name_that_is_taken_is_refused_before_anything_runs(stand_in: Path) -> None:
    (stand_in / "p" / "h200" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="already is a run 'h200/x'"):
        capture(ncu, [sys.executable, "-c", ""], "x", root=stand_in / "p")
    assert not (stand_in / "argv.json").exists()


def test_unknown_metric_is_refused_before_anything_runs(stand_in: Path) -> None:
    with pytest.raises(UserError, match="'speed' is not a metric"):
        capture(ncu, [sys.executable, "-c", ""], "x", options=ncu.Options(wanted="speed"), root=stand_in / "p")
    assert not (stand_in / "argv.json").exists()
