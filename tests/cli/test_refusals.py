"""A mistake that a child process finds is said once, by that process, and ends every command with exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import bench_builder
import pytest

pytest.importorskip("torch")

from moe_lab import cli
from moe_lab.gpu import __main__ as gpu
from moe_lab.gpu.bench import supervise
from moe_lab.runs import bench_runs, tune
from moe_lab.spec.errors import RefusedError

SMALL = ["--device", "cpu", "--model", "64x32x4x2", "--format", "fp32"]
RANKS = ["--ranks", "2", *SMALL]
CAPTURE = ["capture", "torch", "--name", "x", "--profiles", "profiles", "--", "moe-lab", "workload"]


def said(argv: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> list[str]:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # a child without it compiles
    assert cli.main(argv) == 2
    assert list(folder.glob("profiles/*/*")) == []
    return capfd.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["bench", "experts", "--backends", "nope"], "No experts plugin is called 'nope'"),
        (["bench", "experts", *SMALL, "--backends", "hopper"], "hopper does not run on the CPU; choose another"),
        (["bench", "experts", "--device", "cpu"], "qwen3-30b-a3b has 603,979,776 weights, too many for the CPU"),
        (
            ["bench", "ep", "--device", "cpu", "--backend", "torch_loop"],
            "deepseek-v3 has 11,274,289,152 weights on each",
        ),
        (["bench", "ep", *RANKS, "--m", "9999999", "--backend", "torch_loop"], "M=9999999 is too much for the CPU"),
        (
            ["bench", "ep", *RANKS, "--m", "1", "--backend", "grouped"],
            "'grouped' cannot leave out experts of other ranks",
        ),
        (["tune", "--static", "nope"], "No architecture is called 'nope'"),
        (
            ["tune", "--device", "cpu", "--format", "fp32"],
            "qwen3-30b-a3b has 603,979,776 weights, too many for the CPU",
        ),
        (["inspect", "--backend", "nope", "--arch", "sm_90"], "'nope' is not inspected"),
    ],
)
def test_a_refusal_of_the_child_is_one_sentence(argv, sentence, tmp_path, monkeypatch, capfd) -> None:
    lines = said([*argv, "--name", "x", "--profiles", "profiles"], tmp_path, monkeypatch, capfd)
    assert len(lines) == 1
    assert lines[0].startswith("moe_lab.gpu: ")
    assert sentence in lines[0]


def test_a_refusal_of_a_profiled_workload_is_one_sentence(tmp_path, monkeypatch, capfd) -> None:
    lines = said([*CAPTURE, "layer", "--device", "cpu", "--model", "nope"], tmp_path, monkeypatch, capfd)
    assert [line[:46] for line in lines] == ["moe_lab.gpu: No model preset is called 'nope';"]


def test_a_refusal_of_all_ranks_is_one_sentence(tmp_path, monkeypatch, capfd) -> None:
    argv = [*("bench", "ep", "--name", "x", "--profiles", "profiles"), *RANKS, "--backend", "torch_loop"]
    lines = said([*argv, "--m", "1", "--routing", "replay:gone.pt"], tmp_path, monkeypatch, capfd)
    assert lines[0] == "moe_lab.gpu: The CPU checks results; its times say nothing about a GPU."
    assert [line for line in lines[1:] if "gone.pt" in line] == lines[1:2]
    assert lines[1].startswith("moe_lab.gpu: Rank 0 stops: There is no file 'gone.pt'")


def test_a_refusal_of_the_measuring_process_is_left_to_it(tmp_path, monkeypatch, capfd) -> None:
    """GIVEN a supervised process that says a sentence and exits with 2 THEN its supervisor adds none."""
    program = "import sys; print('No.', file=sys.stderr); sys.exit(2)"
    argv, watch = [sys.executable, "-c", program], supervise.watch
    monkeypatch.setattr(supervise, "watch", lambda _, *rest, **more: watch(argv, *rest, **more))
    words = ["bench-experts", *SMALL, "--m", "1", "--backends", "torch_loop", "--out", str(tmp_path / "rows")]
    assert gpu.main(words) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["moe_lab.gpu: The CPU checks results; its times say nothing about a GPU.", "No."]


@pytest.mark.parametrize("grows", [False, True])
def test_a_tuning_that_refuses_keeps_what_an_earlier_one_measured(grows, tmp_path, monkeypatch) -> None:
    """A sentence after something was measured does not cost the rows; one before it ends the command."""
    journal = tune.journal_path("h200/x", tmp_path)
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps(bench_builder.header()) + "\n")

    def wait(argv):
        with journal.open("a") as file:
            file.write("\n" * grows)
        return 2

    monkeypatch.setattr(bench_runs, "wait", wait)
    with pytest.raises(Exception, match="Nothing was measured" if grows else "The tuning refused") as raised:
        tune.measure([], "h200/x", budget="5m", root=tmp_path)
    assert isinstance(raised.value, RefusedError) is not grows
    assert journal.exists()


def test_a_bench_in_which_no_row_has_times_says_why_and_fails(tmp_path, monkeypatch, capfd) -> None:
    def start(argv, **_):
        out = Path(argv[argv.index("--out") + 1])
        rows = [bench_builder.row(name, "graph", None, error=f"{name} is not for this.") for name in ("auto", "small")]
        out.write_text("".join(json.dumps(line) + "\n" for line in [bench_builder.header(), *rows, {"complete": True}]))
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(bench_runs, "wait", lambda argv: start(argv).wait())
    assert cli.main(["bench", "align", "--name", "h200/x", "--profiles", str(tmp_path)]) == 1
    said = "2 of 2 rows have an error instead of times: auto is not for this, and for other reasons."
    assert said in capfd.readouterr().err
    assert (tmp_path / "h200" / "x" / "rows.csv").exists()


@pytest.mark.parametrize(
    ("argv", "usage", "sentence"),
    [
        (["doctor", "extra"], "usage: moe-lab doctor ", "unrecognized arguments: extra"),
        (["bench", "align", "--nope"], "usage: moe-lab bench align ", "unrecognized arguments: --nope"),
        (["inspect", "--arch", ""], "usage: moe-lab inspect ", "The list of architectures is empty; name one"),
    ],
)
def test_a_wrong_option_shows_the_usage_of_its_command(argv, usage, sentence, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*argv, *["--name", "x"] * (argv[0] == "bench")])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(usage)
    assert sentence in err


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.sqlite", "a.ncu-rep"])
def test_an_empty_report_is_called_empty(name, tmp_path, capsys) -> None:
    (tmp_path / name).touch()
    assert cli.main(["kernels", str(tmp_path / name)]) == 2
    assert (
        capsys.readouterr().err
        == f"moe-lab: {name} is empty: what should have written it was stopped; make it again.\n"
    )


def test_a_wrong_option_of_a_workload_shows_its_usage(capsys) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["layer", "--nope"])
    err = capsys.readouterr().err
    assert err.startswith("usage: python -m moe_lab.gpu layer ")
    assert "unrecognized arguments: --nope" in err
