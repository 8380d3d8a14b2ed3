"""The command line: what people type and read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_lab import cli


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
    assert cli.main(["doctor", "--format", "json"]) == 0
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


DECODE = Path(__file__).parents[1] / "profiles" / "h200" / "qwen3-30b-a3b_decode_b16_ctx2048" / "report.sqlite"


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
