"""The command line: what people type and read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPO

from moe_lab import cli
from moe_lab.runs import doctor
from moe_lab.spec import bench_options, models, plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import terminal
from moe_lab.spec.guard.options import seconds


def test_the_matrix_of_backends_is_filtered_and_names_what_there_is(capsys):
    assert cli.main(["backends", "--matrix", "--backend", "torch_loop", "--only", "mxfp4", "--format", "json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)
    stated = cell["backend"], cell["format"], cell["inputs"], cell["hardware"]
    assert stated == (
        "torch_loop",
        "mxfp4",
        "standard",
        "any",
    )
    assert cli.main(["backends", "--matrix", "--only", "fp9"]) == 2
    assert "No format is called 'fp9'; choose one of: bf16, " in capsys.readouterr().err
    assert cli.main(["backends", "--ways", "--backend", "hopper"]) == 2
    assert "--backend and --only choose cells of the matrix; add --matrix." in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["backends", "--ways", "--matrix"])


def test_ways_between_ranks_are_listed_with_what_each_needs(capsys, monkeypatch):
    monkeypatch.setattr(plugins, "_found", lambda module: module != "deep_ep")
    assert cli.main(["backends", "--ways", "--format", "json"]) == 0
    ways = {way["name"]: way for way in json.loads(capsys.readouterr().out)}
    assert [*ways] == plugins.names("comm")
    assert (ways["local"]["available"], ways["deepep"]["available"]) == (True, False)
    assert [ways[name]["sends"] for name in ("local", "allgather_reducescatter", "symmetric")] == [
        None,
        "all",
        "needed",
    ]
    assert cli.main(["backends", "--ways"]) == 0
    said = capsys.readouterr().out
    assert "several ranks; a token once for each of its experts; rows by expert; formats bf16, fp8_block" in said
    assert "unavailable: needs deep_ep (pip install tokenspeed-deepep" in said


def test_mistake_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = cli.main(["breakdown", str(tmp_path / "absent.sqlite")])
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.startswith("moe-lab: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"not a database", b"SQLite format 3\0" + b"\0" * 84], ids=["empty", "text", "truncated"]
)
def test_unreadable_report_is_refused_without_traceback(content: bytes, tmp_path: Path) -> None:
    report = tmp_path / "broken.sqlite"
    report.write_bytes(content)
    done = subprocess.run([sys.executable, "-m", "moe_lab", "breakdown", str(report)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("moe-lab: ")


def test_failed_import_leaves_nothing_behind(tmp_path: Path) -> None:
    report = tmp_path / "broken.sqlite"
    report.write_bytes(b"not a database")
    profiles = tmp_path / "profiles"
    assert cli.main(["import", str(report), "--name", "x", "--profiles", str(profiles)]) == 2
    assert not profiles.exists() or not any(profiles.rglob("*"))


def test_doctor_prints_every_check_with_a_remedy_for_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--format", "json"]) in (0, 1)  # with and without a GPU
    checks = json.loads(capsys.readouterr().out)
    names = [
        "GPU",
        "driver",
        "torch",
        "triton",
        "cuda-core",
        "nvtx",
        "nsys",
        "ncu",
        "ncu-report",
        "rocprof-compute",
        "rocprofv3",
        "hardware counters",
    ]
    assert [c["name"] for c in checks] == names
    for check in checks:
        assert bool(check["found"]) != bool(check["costs"] and check["remedy"])


def test_start_up_loads_no_heavy_library() -> None:
    code = "import sys; from moe_lab import cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "plotly", "torch", "papermill"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), ("0.5", 0.5), ("true", True), ("[1, 2]", [1, 2]), ('"16"', "16"), ("layers.0", "layers.0")],
)
def test_parameter_values_are_read_as_json_else_text(text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def build(notebooks: object, **options: object) -> object:
        seen.update(options)
        return type("Built", (), {"pages": [], "index": "reports/index.html"})()

    monkeypatch.setattr("moe_lab.report.build", build)
    assert cli.main(["report", "-p", "x", text]) == 0
    assert seen["parameters"] == {"x": value}


def test_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m moe_lab doctor | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "Traceback" not in done.stderr


DECODE = REPO / "profiles" / "h200" / "qwen3-30b-a3b_decode_b16_ctx2048" / "report.sqlite"


def test_import_names_the_run_after_the_report_and_keeps_the_first_instances(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["import", str(DECODE), "--keep", "3", "--profiles", str(tmp_path)]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == tmp_path / "h200" / "report"
    assert cli.main(["breakdown", str(folder), "--format", "json"]) == 0
    ranges = json.loads(capsys.readouterr().out)["ranges"]
    assert {r["instances"] for r in ranges} == {3}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--root", "layers"], "--keep"), (["--max-mb", "0.001"], "MB"), (["--name", "a/b/c"], "name of a run")],
)
def test_import_refuses_what_it_cannot_do_and_leaves_nothing(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["import", str(DECODE), "--profiles", str(tmp_path / "p"), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


def test_breakdown_of_the_committed_decode_run_puts_its_graph_kernels_into_stages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["breakdown", str(DECODE.parent), "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["coverage"]["in_stage_pct"] >= 99
    stages = {r["name"]: r for r in said["ranges"]}
    assert {"router", "align", "w13", "act", "w2", "combine", "self_attn"} <= set(stages)
    assert {r["instances"] for r in stages.values()} == {20}


def test_breakdown_spread_gives_the_smallest_and_largest_instance(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["breakdown", str(DECODE.parent), "--spread", "--format", "json"]) == 0
    for row in json.loads(capsys.readouterr().out)["ranges"]:
        assert row["kernel_sum_ms_min"] <= row["kernel_sum_ms"] <= row["kernel_sum_ms_max"]


@pytest.mark.parametrize(
    "options",
    [
        ["import", "x", "--keep", "0"],
        ["import", "x", "--keep", "²"],
        ["import", "x", "--keep", "1_0"],
        ["import", "x", "--max-mb", "0"],
        ["import", "x", "--max-mb", "-1"],
        ["import", "x", "--max-mb", "nan"],
        ["import", "x", "--max-mb", "inf"],
        ["import", "x", "--keep", "1", "--root", "("],
        ["breakdown", "x", "--root", "a{99999999999}"],
        ["capture", "ncu", "--name", "x", "--kernel", "["],
        ["capture", "ncu", "--name", "x", "--launch-count", "-1"],
        ["bench", "align", "--name", "x", "--tokens", "9" * 31],
        ["bench", "align", "--name", "x", "--experts", "-1"],
        ["bench", "experts", "--name", "x", "--repetitions", "0"],
        ["tune", "--name", "x", "--jobs", "nan"],
    ],
    ids=lambda options: " ".join(options[-2:])[:30],
)
def test_options_out_of_bounds_are_refused_where_they_are_typed(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(options)
    assert f"argument {options[-2]}: '{options[-1][:5]}" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["0", "-5m", "nan", "inf", "5mm", "1e9", "٣m", ""])
def test_times_that_are_none_are_refused(budget: str) -> None:
    with pytest.raises(UserError, match="write 90s, 5m or 1h"):
        seconds(budget)
    assert seconds("1.5m") == 90


@pytest.mark.parametrize(
    "text", ["", "-1", "²", "1_0", "9" * 31, "9" * 5000, "1,1,...,8", "8,4,...,1", "...", "2147483648"]
)
def test_lists_of_tokens_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a list of numbers"):
        bench_options.numbers(text)
    assert bench_options.numbers("0, 1,2,...,16") == [0, 1, 2, 4, 8, 16]


@pytest.mark.parametrize("text", ["0x1x1x1", "1x1x1x2", f"{'9' * 30}x1x8x1", "1x1x99999x1"])
def test_sizes_out_of_bounds_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="write KxNxExTOPK"):
        models.sizes(text)
    assert models.sizes("2048x768x128x8") == (2048, 768, 128, 8)
    assert models.sizes("qwen3-30b-a3b") is None


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """GIVEN a command in which something happens that nobody foresaw."""

    def run(arguments: object) -> None:
        raise error

    monkeypatch.setattr("moe_lab.cli.runs.list_runs", run)
    return ["runs"]


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (UserError("a\x1b[31mb\nc"), "moe-lab: a\\x1b[31mb\\nc\n", 2),
        (PermissionError(13, "Permission denied", "/some/where/x"), "moe-lab: Permission denied: 'x'; choose", 2),
        (RecursionError("too deep"), "moe-lab: RecursionError (too deep): a defect of moe-lab; MOE_LAB_TRACEBACK=1", 2),
        (MemoryError(), "moe-lab: MemoryError (): a defect", 2),
        (KeyboardInterrupt(), "moe-lab: stopped.\n", 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_happens_is_one_sentence(
    error: BaseException, said: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MOE_LAB_TRACEBACK", raising=False)
    assert cli.main(failing(error, monkeypatch)) == code
    written = capsys.readouterr().err
    assert written.startswith(said)
    assert written.count("\n") == 1


def test_a_traceback_is_shown_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOE_LAB_TRACEBACK", "1")
    assert cli.main(failing(OverflowError("x"), monkeypatch)) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_output_holds_nothing_that_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.guarded():
        print("a\x1b]0;x\x07b\tc\r\x7f\u202e\ud800", "d")
    assert capsys.readouterr().out == "a\\x1b]0;x\\x07b\tc\\r\\u007f\\u202e\\ud800 d\n"


@pytest.mark.parametrize("setting", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1:strict"}])
def test_output_that_an_encoding_does_not_know_is_escaped(setting: dict[str, str]) -> None:
    code = "from moe_lab.spec.guard import terminal\nwith terminal.guarded(): print('µ → é')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, **setting}, check=True)
    assert done.stdout in (b"\\xb5 \\u2192 \\xe9\n", "µ \\u2192 é\n".encode("latin-1"))


def test_a_full_disk_below_the_output_is_one_sentence() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "moe_lab", "doctor"], stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "moe-lab: No space left on device; choose another place.\n"


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["breakdwn", "x"], "breakdown"),
        (["kernels", "x", "--tpo=3"], "--top"),
        (["doctor", "--format", "jsn"], "json"),
        (["bench", "experts", "--name", "x", "--backend", "hopper"], "--backends"),  # bench ep has --backend
    ],
)
def test_mistyped_words_are_answered_with_the_nearest_known_one(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2
    assert f"did you mean '{near}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", "ep", "--name", "x", "--shared", "two"], "'two' is not a whole number from 0 to 1024, nor 'model'"),
        (["backends", "--ways", "--engines"], "argument --engines: not allowed with argument --ways"),
    ],
)
def test_words_that_a_command_does_not_take_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_no_words_show_the_help_and_help_has_no_default_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "breakdown" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["bench", "align", "--help"])
    shown = capsys.readouterr().out
    assert "(default: None)" not in shown
    assert "(default: " in shown


@pytest.mark.parametrize(("gpu", "code"), [("NVIDIA H100", 0), (None, 1)])
def test_doctor_ends_in_a_summary_and_says_by_its_code_whether_anything_can_be_captured(
    gpu: str | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [doctor.Check("GPU", gpu), doctor.Check("driver", "NVIDIA 600"), doctor.Check("nsys", "2026.2")]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    assert cli.main(["doctor"]) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("can capture with nsys." if gpu else "nothing can be captured on this machine.")
