"""Run folders: complete or absent, small, and without anything of the machine or its user."""

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from nsys_builder import GENERATIONS, NsysBuilder, pid, tid
from nsys_runs import graph, real

from moe_lab import cli, runs
from moe_lab.analysis.breakdown import breakdown
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

SECRETS = (
    *("hf_topsecret", "sk-live-4242", "ada.lovelace", "analytical-engine", "/home/ada", "difference_engine"),
    *("worker-thread-name", "confidential-process", "GPU-uuid-1234", "0000:17:00.0", "deleted-secret"),
)


def report(generation="2026.2"):
    """Return eager work of two processes, a graph, copies, overlapping requests, an open range, lost kernels."""
    b = graph(generation)
    for process in (1, 2):
        b.push("step", 3000, 4000, process=process, thread=2)
        b.launch(3010, 70, gpu=(5000, 5100), process=process, thread=2)
        b.call(3020, 3022, 71, process=process, thread=2)
        b.memcpy(5100, 5150, 71, process=process)
    b.event(60, "request 1", 6000, 6050)
    b.event(60, "request 2", 6020, 6090)
    b.event(60, "elsewhere", 6020, 6090, end_thread=2)
    b.launch(6030, 80, gpu=(7000, 7010))
    b.event(75, "moe_lab", 0, None, registered=True, domain=3)
    b.push("open", 7000, None, registered=True, domain=3)
    b.launch(7010, 81, gpu=(8000, 8010))
    b.kernel(9000, 9010, None)
    for i in range(50):
        b.call(7100 + 10 * i, 7105 + 10 * i, 500 + i, name="cudaEventRecord")
    return b


def plant(b):
    """Put secrets wherever an export has them."""
    environment = "HF_TOKEN=hf_topsecret\nKEY=sk-live-4242\nUSER=ada.lovelace\n" + "X=difference_engine\n" * 300
    b.row("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=environment)
    b.string(environment)  # and once more as a long string
    for name, value in (("HOST", "analytical-engine"), ("USER", "ada.lovelace"), ("PARAM_INPUT_PATH", "/home/ada/x")):
        b.row(b.meta_table, name=f"EXPORT_{name}", value=value)
    b.row("TARGET_INFO_SYSTEM_ENV", name="Hostname", value="analytical-engine")
    b.row("TARGET_INFO_SYSTEM_ENV", name="NvDriverVersion", value="570.86")
    b.row("TARGET_INFO_GPU", id=0, name="NVIDIA H200", smCount=132, uuid="GPU-uuid-1234", busLocation="0000:17:00.0")
    b.row("ThreadNames", nameId=b.string("worker-thread-name"), priority=1, globalTid=tid())
    b.row("PROCESSES", globalPid=pid(), pid=1, name="/home/ada/confidential-process --token hf_topsecret")
    b.row("ProcessStreams", globalPid=pid(), filenameId=b.string("/home/ada/log"), contentId=b.string("sk-live-4242"))
    b.event(34, "a mark of ada.lovelace", 5, None)
    b.push("load /home/ada/weights.bin on analytical-engine", 100_000, 100_100)
    b.launch(100_010, 900, gpu=(100_200, 100_300), name="kernel_from_/home/ada/k.cu")
    return b


def every_byte(folder):
    return b"".join(p.read_bytes() + p.name.encode() for p in sorted(folder.rglob("*")) if p.is_file())


@pytest.mark.parametrize("generation", GENERATIONS)
def test_import_lets_no_secret_survive(generation, tmp_path):
    source = plant(report(generation)).write(tmp_path / "ada.sqlite")
    with sqlite3.connect(source) as db:  # deleted rows stay in free pages
        db.execute("CREATE TABLE gone (x TEXT)")
        db.executemany("INSERT INTO gone VALUES (?)", [("deleted-secret" * 50,)] * 100)
        db.commit()
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("DROP TABLE gone")
    before = source.read_bytes()
    assert all(secret.encode() in before for secret in SECRETS), "the test plants what it looks for"
    manifest = {
        "command": [
            "/home/ada/venv/bin/python",
            "HF_TOKEN=hf_topsecret",
            "--api-key",
            "sk-live-4242",
            "/home/ada/run.py",
        ],
        "workload": {"weights": "/home/ada/w", "host": "analytical-engine", "M": 16},
        "tool": {"options": ["-o", "/home/ada/out"]},
    }
    run = runs.import_report(source, "secret", root=tmp_path / "profiles", manifest=manifest)
    everything = every_byte(tmp_path / "profiles")
    assert [s for s in SECRETS if s.encode() in everything] == []
    for process in (pid(1), pid(2)):  # real process and thread ids are not kept either
        assert process.to_bytes(8, "big") not in everything
    assert (run.manifest["gpu"]["name"], run.manifest["versions"]["driver"]) == ("NVIDIA H200", "570.86")
    assert run.manifest["workload"]["M"] == 16
    assert len(run.manifest["redacted"]) >= 4
    names = set(run.launches().ranges["name"])
    assert "load weights.bin on host" in names


@pytest.mark.parametrize("generation", GENERATIONS)
def test_import_changes_no_number(generation, tmp_path):
    source = report(generation).write(tmp_path / "run.sqlite")
    original, imported = parse_report(source), runs.import_report(source, "h200/x", root=tmp_path / "p").launches()
    assert_same_numbers(original, imported)
    table = original.table.columns.tolist()
    pd.testing.assert_frame_equal(original.table[table], imported.table[table])


def test_import_changes_no_number_of_a_real_export(tmp_path):
    source = real("h100_2gpu_1s.sqlite")
    run = runs.import_report(source, "h100/x", root=tmp_path)
    assert_same_numbers(parse_report(source), run.launches())
    everything = every_byte(tmp_path)
    assert [s for s in (b"DESKTOP-KBEMEQS", b"rich-wsl", b"/home/", b"LD_LIBRARY_PATH") if s in everything] == []


def assert_same_numbers(original, imported):
    for root in (None, "step|aten::linear"):
        left, right = breakdown(original, root, spread=True), breakdown(imported, root, spread=True)
        pd.testing.assert_frame_equal(left, right, check_exact=True)
        assert left.attrs == right.attrs
    pd.testing.assert_frame_equal(original.memberships, imported.memberships)
    assert {k: v for k, v in original.meta.items() if k != "warnings"} == {
        k: v for k, v in imported.meta.items() if k != "warnings"
    } | {"date": original.meta["date"]}


def test_import_drops_calls_that_launched_nothing(tmp_path):
    source = report().write(tmp_path / "run.sqlite")
    run = runs.import_report(source, "h200/x", root=tmp_path / "p")
    with sqlite3.connect(run.report) as db:
        names = {n for (n,) in db.execute("SELECT value FROM StringIds")}
        calls = db.execute("SELECT count(*) FROM CUPTI_ACTIVITY_KIND_RUNTIME").fetchone()[0]
    assert "cudaEventRecord" not in names
    assert calls == 8  # 2 replays, 2 x 2 calls in `step`, 2 eager launches


def test_import_keeps_the_first_instances_of_the_roots(tmp_path):
    b = NsysBuilder()
    b.push("run", 0, 10**7)
    for i in range(50):
        at = 10_000 * i
        b.push("moe_lab|M=1", at, at + 5000)
        b.push("w13", at + 10, at + 2000)
        b.launch(at + 20, i, gpu=(at + 3000, at + 3000 + 10 * (i + 1)))
        b.launch(at + 3000, 100 + i, gpu=(at + 6000, at + 6001))
    source = b.write(tmp_path / "run.sqlite")
    run = runs.import_report(source, "h200/x", root=tmp_path / "p", keep_instances=3)
    got = breakdown(run.launches())
    assert got["instances"].tolist() == [3, 3, 3]
    assert got["total_kernel_sum_ms"].tolist() == pytest.approx([63e-6, 60e-6, 3e-6])
    assert any("first 3 instances" in s for s in run.manifest["redacted"])
    assert run.report.stat().st_size < source.stat().st_size


def test_import_keeps_the_captured_stages_of_the_replays_it_keeps(tmp_path):
    source = graph(replays=tuple((1000 * i, i) for i in range(1, 9))).write(tmp_path / "run.sqlite")
    run = runs.import_report(source, "h200/x", root=tmp_path / "p", keep_instances=2)
    got = run.launches()
    assert got.table["attribution"].tolist() == ["graph_node"] * 4
    assert breakdown(got, "w13|w2")["instances"].tolist() == [2, 2, 2 + 2]
    assert got.meta["warnings"] == []


def test_import_refuses_a_report_that_stays_too_large(tmp_path):
    source = report().write(tmp_path / "run.sqlite")
    with pytest.raises(UserError, match=r"more than the 0\.0 MB allowed; keep fewer instances"):
        runs.import_report(source, "h200/x", root=tmp_path / "p", max_bytes=1000)
    assert not (tmp_path / "p").exists()


def test_import_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    source = report().write(tmp_path / "run.sqlite")
    runs.import_report(source, "h200/first", root=tmp_path / "p")
    monkeypatch.setattr(runs.json, "dumps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runs.import_report(source, "h200/second", root=tmp_path / "p")
    with pytest.raises(ZeroDivisionError):
        runs.import_report(source, "other/third", root=tmp_path / "p")
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["h200"]
    assert [p.name for p in (tmp_path / "p" / "h200").iterdir()] == ["first"]


def test_import_replaces_a_run_only_when_told(tmp_path):
    source = report().write(tmp_path / "run.sqlite")
    runs.import_report(source, "h200/x", root=tmp_path / "p", manifest={"command": ["old"]})
    with pytest.raises(UserError, match="There already is a run 'h200/x'"):
        runs.import_report(source, "h200/x", root=tmp_path / "p")
    run = runs.import_report(source, "h200/x", root=tmp_path / "p", manifest={"command": ["new"]}, overwrite=True)
    assert run.manifest["command"] == ["new"]
    assert [p.name for p in (tmp_path / "p" / "h200").iterdir()] == ["x"]


def test_import_refuses_a_bad_report_and_a_bad_name(tmp_path):
    source = report().write(tmp_path / "run.sqlite")
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        runs.import_report(broken, "h200/x", root=tmp_path / "p")
    for name in ("../x", "a/b/c", "", ".hidden", "h200/a b"):
        with pytest.raises(UserError, match="cannot be the name of a run"):
            runs.import_report(source, name, root=tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_import_takes_a_graph_level_report_only_when_told(tmp_path):
    b = NsysBuilder(graph_mode="Graph")
    b.push("prefill", 0, 100)
    b.launch(10, 1, gpu=(20, 30))
    b.replay(50, 2)
    source = b.write(tmp_path / "run.sqlite")
    with pytest.raises(UserError, match="--cuda-graph-trace=node"):
        runs.import_report(source, "h200/x", root=tmp_path / "p")
    run = runs.import_report(source, "h200/x", root=tmp_path / "p", allow_graph_level=True)
    assert "missing from every number" in run.launches().meta["warnings"][0]


def test_import_names_the_folder_after_the_gpu(tmp_path):
    source = plant(report()).write(tmp_path / "run.sqlite")
    assert runs.import_report(source, "decode", root=tmp_path).manifest["name"] == "h200/decode"
    assert runs.import_report(report().write(source), "decode", root=tmp_path).manifest["name"] == "unknown/decode"


def test_manifest_has_every_key_and_null_for_what_is_unknown(tmp_path):
    source = report().write(tmp_path / "run.sqlite")
    given = {
        "gpu": {"name": "NVIDIA H200", "clocks_mhz": {"sm": 1980}},
        "versions": {"torch": "2.13.0", "driver": None},
    }
    run = runs.import_report(source, "h200/x", root=tmp_path / "p", manifest=given)
    saved = json.loads((run.path / "run.json").read_text())
    assert saved == run.manifest
    keys = {
        "schema",
        "name",
        "tool",
        "command",
        "date",
        "gpu",
        "versions",
        "workload",
        "report",
        "redacted",
        "source_report",
    }
    assert keys <= set(saved)
    assert saved["schema"] == 1
    assert saved["command"] is None
    assert saved["workload"] is None
    unknown = dict.fromkeys(("sm_count", "memory_bytes", "compute_capability"))
    assert saved["gpu"] == {"name": "NVIDIA H200", **unknown, "clocks_mhz": {"sm": 1980}}
    assert saved["versions"]["torch"] == "2.13.0"
    assert saved["versions"]["driver"] is None
    assert saved["tool"] == {"name": "nsys", "version": "2026.2.1.99"}
    assert saved["source_report"] == {"schema": "3.25.0", "size_bytes": source.stat().st_size}


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A profiles folder with three runs, found through the environment."""
    source = report().write(tmp_path / "run.sqlite")
    for name in ("h200/decode", "h200/prefill", "h100/decode"):
        runs.import_report(source, name, root=tmp_path / "p")
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path / "p"))
    return tmp_path / "p"


def test_load_takes_names_folders_and_reports(profiles, tmp_path):
    by_name = runs.load("h200/decode")
    assert by_name.manifest["name"] == "h200/decode"
    assert runs.load("prefill").manifest["name"] == "h200/prefill"
    assert runs.load(profiles / "h200" / "decode") == by_name
    assert runs.load(profiles / "h200" / "decode" / "run.json") == by_name
    bare = runs.load(tmp_path / "run.sqlite")
    assert bare.manifest == {"name": "run.sqlite"}
    assert len(bare.launches().table) == len(by_name.launches().table)


@pytest.mark.parametrize("name", ["decode", "h200/none", "nothing.sqlite"])
def test_load_lists_the_runs_there_are(profiles, name):
    with pytest.raises(UserError, match=rf"There is no run or report '{name}'.*h100/decode"):
        runs.load(name)


def test_list_runs_is_sorted_and_ignores_unfinished_folders(profiles):
    (profiles / "h200" / ".x.tmp").mkdir()
    (profiles / "h200" / ".x.tmp" / "run.json").write_text("{")
    assert [r.manifest["name"] for r in runs.list_runs()] == ["h100/decode", "h200/decode", "h200/prefill"]
    assert runs.list_runs(profiles / "none") == []


def test_load_says_that_a_manifest_is_broken(profiles):
    (profiles / "h200" / "decode" / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"decode/run\.json cannot be read"):
        runs.load("h200/decode")


@pytest.mark.parametrize("inside", [".", "notebooks"])
def test_profiles_are_found_from_the_project_and_its_notebooks(inside, tmp_path, monkeypatch):
    monkeypatch.delenv("MOE_LAB_PROFILES", raising=False)
    (tmp_path / "profiles").mkdir()
    (tmp_path / inside).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / inside)
    assert runs.profiles_root().resolve() == tmp_path / "profiles"


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        "[",
        DEEP,
        '{"a": ' + DEEP,
        "5",
        '{"name": 5}',
        '{"name": ""}',
        '{"gpu": "x"}',
        '{"gpu": {"name": 5}}',
        '{"gpu": {"sm_count": "132"}}',
        '{"tool": 5}',
        '{"tool": {"name": [1]}}',
        '{"rows": 5, "bench": "align"}',
        '{"rows": {"count": -1, "columns": {}, "constants": {}, "names": {}}, "bench": "align"}',
        '{"rows": {"count": 1, "columns": {}, "constants": {}, "names": {}}}',
        '{"rows": {"count": 1, "columns": {"M": "what"}, "constants": {}, "names": {}}, "bench": "align"}',
        '{"report": 5}',
        '{"report": "../../secret"}',
        '{"report": "/etc/passwd"}',
        '{"workload": "x"}',
        '{"workload": {"problem": {"E": "8"}}}',
        '{"workload": {"points": [{"root": 5}]}}',
        '{"command": 5}',
        '{"command": [5]}',
        '{"versions": {"torch": 2}}',
        '{"redacted": "all"}',
        '{"date": 20200101}',
        '{"graph_level": NaN}',
        "\\xff",
    ],
    ids=range(28),
)
def test_one_broken_run_does_not_hide_the_others(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("bad", content), ("good", '{"name": "g/good"}')):
        folder = tmp_path / "g" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(text.encode())
    assert cli.main(["runs", "--profiles", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split() == ["g/good", "-", "-"]
    assert said.err.startswith("moe-lab: bad/run.json cannot be read (")
    assert said.err.count("\n") == 1
    assert cli.main(["breakdown", str(tmp_path / "g" / "bad")]) == 2
    assert capsys.readouterr().err == said.err
    (tmp_path / "g" / "good" / "run.json").unlink()
    assert cli.main(["runs", "--profiles", str(tmp_path)]) == 2
    assert capsys.readouterr().err == said.err


@pytest.mark.parametrize("absolute", [False, True])
def test_folder_without_a_report_is_called_one(absolute, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="There is no report in the folder 'folder'"):
        runs.load(tmp_path / "folder" if absolute else "folder", root=tmp_path / "profiles")
    assert runs.shown("/") == "/"
