import json
import sys
from pathlib import Path
from typing import Any

import bench_builder
import pandas as pd
import pytest
from bench_builder import row

from moe_lab import cli, runs
from moe_lab.runs import bench_runs, rows
from moe_lab.spec import bench_options
from moe_lab.spec.errors import UserError

# A measuring process in place of ours: writes a header and two rows, then does what the test says.
CHILD = """
import json, os, signal, sys, time
out = sys.argv[sys.argv.index("--out") + 1]
with open(out, "w") as file:
    for line in json.loads({lines!r}):
        file.write(json.dumps(line) + "\\n")
    file.flush()
    sys.stderr.write("1/2 [00:01<00:01]")
    {end}
"""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Make `python -m moe_lab.gpu` a script that ends as told; returns what it is called with."""
    calls = []

    def set_up(end: str, lines: list | None = None) -> list:
        given = [bench_builder.header(), row("auto", "graph", 5.0), row("two_kernel", "graph", 9.0)]
        script = tmp_path / "child.py"
        script.write_text(CHILD.format(lines=json.dumps(given if lines is None else lines), end=end))
        popen = bench_runs.subprocess.Popen

        def start(argv, **options):
            if "moe_lab.gpu" not in argv:  # nvidia-smi, on a machine that has it
                return popen(argv, **options)
            calls.append(argv)
            return popen([sys.executable, str(script), *argv[3:]], **options)

        monkeypatch.setattr(bench_runs.subprocess, "Popen", start)
        monkeypatch.setattr(bench_runs, "find_spec", lambda name: object())
        return calls

    return set_up


def bench(folder: Path, *options: str) -> int:
    return cli.main(["bench", "align", "--name", "h200/x", "--profiles", str(folder), *options])


def test_bench_starts_the_workload_and_keeps_its_rows_as_a_run(child, tmp_path: Path, capfd) -> None:
    calls = child('file.write(json.dumps({"complete": True}) + "\\n")')
    assert bench(tmp_path, "--tokens", "1", "4", "--routing", "zipf:1.0") == 0
    assert calls[0][1:-1] == [
        "-m",
        "moe_lab.gpu",
        "bench-align",
        "--tokens",
        "1,4",
        "--routing",
        "zipf:1.0",
        "--out",
    ]
    out, err = capfd.readouterr()
    assert "1/2 [00:01<00:01]" in err, "the progress bar comes through"
    assert out == f"{tmp_path / 'h200' / 'x'}\n"
    run = runs.load("h200/x", root=tmp_path)
    assert run.rows()["median_us"].tolist() == [5.0, 9.0]
    assert run.manifest["tool"]["name"] == "moe_lab bench align"
    assert run.manifest["command"] == [
        *("moe-lab", "bench", "align", "--tokens", "1,4", "--routing", "zipf:1.0", "--name", "x"),
    ]
    assert run.manifest["rows"]["complete"] is True
    assert run.manifest["gpu"]["sm_count"] == 132


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ('file.write(\'{"tokens": 4, "me\'); file.flush(); os._exit(3)', "stopped with exit code 3"),
    ],
    ids=["killed", "dies-within-a-line"],
)
def test_bench_keeps_the_rows_of_a_process_that_dies(child, tmp_path: Path, capfd, end: str, said: str) -> None:
    child(end)
    assert bench(tmp_path) == 1
    assert f"moe-lab: The benchmark {said}; the 2 rows that it had measured are kept.\n" in capfd.readouterr().err
    run = runs.load("h200/x", root=tmp_path)
    assert len(run.rows()) == 2
    assert run.manifest["rows"]["complete"] is False


def test_bench_that_dies_before_a_row_leaves_nothing(child, tmp_path: Path, capfd) -> None:
    child("os._exit(3)", [bench_builder.header()])
    assert bench(tmp_path) == 2
    assert "stopped with exit code 3 before it measured anything" in capfd.readouterr().err
    assert not (tmp_path / "h200").exists()


def test_bench_refuses_a_taken_name_before_it_measures(child, tmp_path: Path, capfd) -> None:
    calls = child("pass")
    (tmp_path / "h200" / "x").mkdir(parents=True)
    assert bench(tmp_path) == 2
    assert "There already is a run 'h200/x'" in capfd.readouterr().err
    assert calls == []


def test_bench_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd) -> None:
    monkeypatch.setattr(bench_runs, "find_spec", lambda name: None)
    assert bench(tmp_path) == 2
    assert "pip install 'moe-lab[gpu]'" in capfd.readouterr().err


def test_bench_says_how_many_rows_have_no_times(child, tmp_path: Path, capfd) -> None:
    lines = [bench_builder.header(), row("auto", "graph", 5.0), row("small", "graph", None, error="RuntimeError: no")]
    child('file.write(json.dumps({"complete": True}) + "\\n")', lines)
    assert bench(tmp_path) == 0
    assert "1 of 2 rows have an error instead of times" in capfd.readouterr().err


def test_bench_process_takes_the_same_options() -> None:
    workload = pytest.importorskip("moe_lab.gpu.__main__", reason="needs the gpu extra", exc_type=ImportError)
    argv = ["--tokens", "1,2", "--experts", "8", "--topk", "1", "--block-m", "16", "--kernels", "2", "--table"]
    parser = workload.argparse.ArgumentParser()
    bench_options.add("align", parser)
    asked = parser.parse_args(argv)
    assert bench_options.argv("align", asked) == argv
    child = workload.parser().parse_args(["bench-align", *bench_options.argv("align", asked), "--out", "x"])
    assert vars(child).items() >= vars(asked).items()


def test_import_bench_reads_both_forms_and_gives_back_every_value(tmp_path: Path) -> None:
    kernels = [["void sort<int, 4>(int*)", 1.5], ["place", 0.25]]
    lines = [
        row("auto", "graph", 5.25, launches=2, deterministic=True, kernels_warm_us=kernels),
        row("small", "graph", None, tokens=1, deterministic=False, error='ValueError: "bad", see there'),
        row("(empty)", "eager", 3.5, launches=1, kernels_warm_us=[]),
    ]
    old = tmp_path / "old.json"
    old.write_text(json.dumps({k: v for k, v in bench_builder.header().items() if k != "key"} | {"rows": lines}))
    for path in (old, bench_builder.write(tmp_path / "new.json", lines)):
        run = bench_runs.import_bench([path], f"h200/{path.stem}", root=tmp_path / "profiles")
        table = run.rows()
        assert list(table.columns) == list(lines[0])
        assert table["launches"].tolist() == [2, pd.NA, 1]
        assert table["deterministic"].tolist() == [True, False, pd.NA]
        assert table["median_us"].tolist() == [5.25, pd.NA, 3.5]
        assert table["kernels_warm_us"].tolist() == [[tuple(k) for k in kernels], None, []]
        assert table["error"].tolist() == [pd.NA, lines[1]["error"], pd.NA]
        assert table["routing"].tolist() == ["uniform"] * 3
        assert table["E"].tolist() == [256] * 3
        assert run.manifest["rows"]["complete"] is (None if path is old else True)


def test_import_bench_keeps_constant_columns_out_of_the_csv(tmp_path: Path) -> None:
    path = bench_builder.write(tmp_path / "a.json", bench_builder.rows(experts=(256,)))
    run = bench_runs.import_bench([path], "x", root=tmp_path)
    head = run.report.read_text().splitlines()[0].split(",")
    assert {"E", "topk", "block_m", "routing", "seed", "error"}.isdisjoint(head)
    assert run.manifest["rows"]["constants"]["E"] == 256
    assert run.path == tmp_path / "h200" / "x"


def test_import_bench_of_ten_thousand_rows_is_small(tmp_path: Path) -> None:
    tokens = [2**i for i in range(17)]
    lines = bench_builder.rows(tokens, (8, 16, 32, 64, 128, 256, 512), (1, 2, 4, 8))[:10_000]
    run = bench_runs.import_bench([bench_builder.write(tmp_path / "a.json", lines)], "x", root=tmp_path)
    assert run.manifest["rows"]["count"] == 10_000
    assert sum(p.stat().st_size for p in run.path.iterdir()) < 2_000_000


def test_import_bench_joins_parts_of_one_machine_only(tmp_path: Path, capfd) -> None:
    one = bench_builder.write(tmp_path / "one.json", bench_builder.rows(experts=(128,)))
    two = bench_builder.write(tmp_path / "two.json", bench_builder.rows(experts=(256,)))
    other = bench_builder.write(tmp_path / "other.json", [row("auto", "graph", 1.0, E=8)], gpu={"name": "NVIDIA L40"})
    place = ["--name", "h200/all", "--profiles", str(tmp_path)]
    assert cli.main(["import", str(one), str(two), *place]) == 0
    run = runs.load("h200/all", root=tmp_path)
    assert set(run.rows()["E"]) == {128, 256}
    assert run.manifest["command"].count("bench-align") == 2
    place += ["--overwrite"]
    assert cli.main(["import", str(one), str(other), *place]) == 2
    assert "differ in gpu" in capfd.readouterr().err
    assert cli.main(["import", str(one), str(one), *place]) == 2
    assert "hold two measurements of one case (tokens=1, E=128" in capfd.readouterr().err


def test_import_bench_takes_out_paths_and_secrets(tmp_path: Path) -> None:
    settings = {"routing": ["replay:/home/ada/ids.npy"]}
    command = ["HF_TOKEN=abc", "/home/ada/bin/python", "-m", "moe_lab.gpu"]
    lines = [row("auto", "graph", 1.0), row("small", "graph", None, error="OSError: /home/ada/x.so: cannot open")]
    path = bench_builder.write(tmp_path / "a.json", lines, settings=settings, command=command)
    run = bench_runs.import_bench([path], "h200/x", root=tmp_path)
    kept = "".join(p.read_text() for p in run.path.iterdir())
    assert "ada" not in kept
    assert "abc" not in kept
    assert "OSError: x.so: cannot open" in kept


def test_run_says_which_of_rows_and_launches_it_has(tmp_path: Path, capfd) -> None:
    path = bench_builder.write(tmp_path / "a.json", [row("auto", "graph", 1.0)])
    run = bench_runs.import_bench([path], "h200/x", root=tmp_path)
    with pytest.raises(UserError, match="'h200/x' is a benchmark: it has rows, but no launches; give a capture"):
        run.launches()
    with pytest.raises(UserError, match="is a capture, not a benchmark"):
        runs.load("h200/qwen3-30b-a3b_decode_b16_ctx2048").rows()
    assert cli.main(["runs", "--profiles", str(tmp_path)]) == 0
    assert "bench align, 1 row\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"bench": "align"}\n', "has no rows"),
        ('{"bench": "align"}\n{"tokens": 1\n{"tokens": 2}\n', "cannot be read as a benchmark's result"),
    ],
    ids=["no-rows", "torn-in-the-middle"],
)
def test_import_bench_of_a_damaged_file_is_one_sentence(tmp_path: Path, text: str, sentence: str, capfd) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert cli.main(["import", str(path), "--profiles", str(tmp_path)]) == 2
    assert sentence in capfd.readouterr().err


def test_run_with_a_damaged_csv_is_one_sentence(tmp_path: Path) -> None:
    path = bench_builder.write(tmp_path / "a.json", [row("auto", "graph", 1.0), row("auto", "eager", 2.0)])
    run = bench_runs.import_bench([path], "h200/x", root=tmp_path)
    run.report.write_text(run.report.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"The rows in rows\.csv cannot be read \(it has 0 rows instead of 2\)"):
        run.rows()


def test_torch_trace_is_no_result_of_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text('{"schemaVersion": 1, "deviceProperties": [], "bench": 1}')
    assert not rows.is_result(path)


HEAD = {
    "bench": "align",
    "key": ["M"],
    "gpu": {"name": "NVIDIA H200"},
    "versions": {},
    "command": ["x"],
    "settings": {},
}
ROW = '{"M": 1, "median_us": 5.0}'


@pytest.mark.parametrize(
    ("changes", "rows", "said"),
    [
        ({"gpu": "x"}, [ROW], "gpu"),
        ({"gpu": [1]}, [ROW], "gpu"),
        ({"gpu": {"name": 5}}, [ROW], "name"),
        ({"gpu": {"name": "a" * 300}}, [ROW], "255"),
        ({"gpu": {"name": "NVIDIA H200", "sm_count": -1}}, [ROW], "sm_count"),
        ({"command": 5}, [ROW], "command"),
        ({"command": [5]}, [ROW], "command"),
        ({"key": "M"}, [ROW], "key"),
        ({"key": [["M"]]}, [ROW], "key"),
        ({"versions": {"torch": 2}}, [ROW], "versions"),
        ({"settings": 5}, [ROW], "settings"),
        ({"date": 5}, [ROW], "date"),
        ({"bench": None}, [ROW], "bench"),
        ({"rows": {"a": 1}}, [], "rows"),
        ({"rows": [1, 2]}, [], "rows"),
        ({}, [ROW, '{"M": [1, 2]}'], "row 2 has no single value in 'M'"),
        ({}, [ROW, '{"M": {"a": [1]}}'], "row 2 has no single value in 'M'"),
        ({}, ["[1]", ROW], "line 2"),
        ({}, ["5", ROW], "line 2"),
        ({}, [ROW, "null"], "line 3"),
        ({}, ['{"M": NaN}', ROW], "line 2"),
        ({}, ['{"M": 1e400}', ROW], "line 2"),
        ({}, ['{"M": 99999999999999999999}', ROW], "64 bits"),
        ({}, ["[" * 100_000, ROW], "line 2"),
        ({}, [ROW, "garbage"], "line 3"),
        ({}, [ROW, json.dumps(HEAD), ROW], "line 3 begins another result"),
        ({}, ['{"M": 1, "error": 5}'], "row 1 has no text in 'error'"),
        ({}, ['{"M": 1, "median_us": "5"}'], "row 1 has no number from 0 up in 'median_us'"),
        ({}, ['{"M": 1, "median_us": -5}'], "row 1 has no number from 0 up in 'median_us'"),
        ({}, ['{"M": "1"}'], "row 1 has no whole number from 0 up in 'M'"),
        ({}, [ROW, '{"M": 2, "backend": 5}'], "row 2 has no text in 'backend'"),
        ({}, ['{"M": 1, "correct": "yes"}'], "row 1 has no true or false in 'correct'"),
        ({}, ['{"M": 1, "pct_of_roofline": true}'], "row 1 has no number in 'pct_of_roofline'"),
        ({}, ['{"M": 1, "kernels_us": [["a", "b"]]}'], "row 1 has no list of names and numbers in 'kernels_us'"),
        ({}, [], "has no rows"),
        ({}, ['{"M": 1'], "truncated"),
    ],
    ids=range(36),
)
def test_a_result_of_wrong_types_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], rows: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    path.write_text("\n".join([json.dumps(HEAD | changes), *rows]) + "\n")
    assert cli.main(["import", str(path), "--name", "h200/x", "--profiles", str(tmp_path / "p")]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence
    assert sentence.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_a_last_line_that_was_not_finished_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    path.write_text("\n".join([json.dumps(HEAD), ROW, '{"M": 2, "median_us": 5.']))
    assert cli.main(["import", str(path), "--name", "h200/x", "--profiles", str(tmp_path)]) == 0
    run = runs.load("h200/x", root=tmp_path)
    assert run.rows().to_dict("records") == [{"M": 1, "median_us": 5.0}]
    assert run.manifest["rows"]["complete"] is False


@pytest.mark.parametrize(
    ("change", "csv", "said"),
    [
        ({"count": 3}, None, "instead of 3"),
        ({"columns": {"M": "Int64", "N": "Int64"}}, None, "no 'N'"),
        ({}, "M\n1\n9999999999999999999999\n", "whole number"),
        ({}, "M\n1\n²\n", "whole number"),
        ({}, "M\n1\n" + "1" * 200_000 + "\n", "field"),
        ({}, b"M\n1\n\xff\n", "UTF-8"),
        ({}, "", "not enough"),
        ({"columns": {"M": "pairs"}, "names": {"M": ["a"]}}, "M\n-1=1\n0=1\n", "not within"),
        ({"columns": {"M": "json"}}, "M\n[\n1\n", "truncated"),
    ],
    ids=range(9),
)
def test_rows_that_do_not_fit_are_one_sentence(tmp_path: Path, change: Any, csv: Any, said: str) -> None:
    content = "M\n1\n2\n" if csv is None else csv
    path = tmp_path / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    known = {"count": 2, "columns": {"M": "Int64"}, "constants": {}, "names": {}} | change
    with pytest.raises(UserError, match=rf"^The rows in rows\.csv cannot be read \(.*{said}.*\); import"):
        rows.read(path, known)


def test_import_of_a_result_hides_secrets_hosts_and_users_and_says_how_many(tmp_path: Path, capsys) -> None:
    header = bench_builder.header() | {
        "command": ["python", "--token", "planted1", "-H", "Authorization: Bearer planted2"],
        "settings": {"host": "Far-Node-9.cluster.local", "HF_TOKEN": "planted3", "env": {"API_KEY": "planted4"}},
        "measured": {"node": "far-node-9"},
    }
    failed = row("auto", "graph", 5.0) | {"error": "far-node-9 HF_TOKEN=planted5 https://u:planted6@h/x /home/ada/x.py"}
    result = tmp_path / "rows.json"
    result.write_text("\n".join(json.dumps(line) for line in (header, failed, {"complete": True})))
    assert cli.main(["import", str(result), "--name", "h200/x", "--profiles", str(tmp_path)]) == 0
    kept = "".join(p.read_text() for p in (tmp_path / "h200" / "x").iterdir()).lower()
    assert not [word for word in ("planted", "far-node", "cluster.local", "ada") if word in kept]
    hidden = json.loads((tmp_path / "h200" / "x" / "run.json").read_text())["hidden"]
    assert (hidden["secret"], hidden["host"] >= 1, hidden["path"]) == (6, True, 1)
    assert capsys.readouterr().err.startswith("hidden: 6 secrets, ")


def test_import_of_a_result_keeps_versions_and_names_that_matter(tmp_path: Path) -> None:
    header = bench_builder.header()
    header["versions"] = {**header["versions"], "driver": "580.159.4.2"}
    result = tmp_path / "rows.json"
    result.write_text("\n".join(json.dumps(line) for line in (header, row("two_kernel", "graph", 5.0))))
    run = bench_runs.import_bench([result], "h200/x", root=tmp_path)
    assert run.manifest["versions"]["driver"] == "580.159.4.2"
    assert run.rows()[["algorithm", "median_us"]].values.tolist() == [["two_kernel", 5.0]]
