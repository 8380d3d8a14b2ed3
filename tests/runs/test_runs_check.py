"""`moe-lab runs check`: what is left in a run, wherever it lies."""

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from checkout import REPO
from nsys_builder import NsysBuilder

from moe_lab.cli import main
from moe_lab.runs.redact import search

TOKEN = "hf_LEAKabcdefghijklmnop"
PROFILES = REPO / "profiles"


def run_folder(root: Path, **manifest: object) -> Path:
    """Make the folder of a run with a manifest."""
    folder = root / "h200" / "one"
    folder.mkdir(parents=True)
    known = {"schema": 1, "name": "h200/one", "report": "report.json", "gpu": {"name": "NVIDIA H200"}, **manifest}
    (folder / "run.json").write_text(json.dumps(known))
    return folder


def deleted_from_sqlite(path: Path) -> None:
    """Write a database whose token lies in no table any longer, but in a free page."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("CREATE TABLE t (id INTEGER, value TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"name {i} token {TOKEN}") for i in range(500)])
        database.execute("DELETE FROM t")
        database.commit()


def in_sqlite(path: Path, encoding: str = "UTF-8") -> None:
    """Write a database with a token in a column that is named like others."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA encoding = '{encoding}'")
        database.execute('CREATE TABLE "a ""b" (value TEXT)')
        database.execute('INSERT INTO "a ""b" VALUES (?)', (f"x {TOKEN}",))
        database.commit()


WRITERS = {
    "report.json": lambda p: p.write_text(json.dumps({"a": [{"b": TOKEN}]})),
    "twice.json": lambda p: p.write_text(f'{{"a": "{TOKEN}", "a": "x"}}'),
    "escaped.json": lambda p: p.write_text('{"a": "hf\\u005fLEAKabcdefghijklmnop"}'),
    "broken.json": lambda p: p.write_text(f'{{"a": "{TOKEN}"'),
    "report.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps({"a": TOKEN}).encode())),
    "named_wrongly.txt": lambda p: p.write_bytes(gzip.compress(gzip.compress(TOKEN.encode()))),
    "rows.csv": lambda p: p.write_text(f"name,us\nk,1\n{TOKEN},2\n"),
    "more_cells.csv": lambda p: p.write_text(f"name\nk,1,{TOKEN}\n"),
    "table.sqlite": in_sqlite,
    "wide.sqlite": lambda p: in_sqlite(p, "UTF-16le"),
    "free.sqlite": deleted_from_sqlite,
    "bytes.bin": lambda p: p.write_bytes(b"\x00\xff\x01" + TOKEN.encode() + b"\x00\xfe"),
    f"{TOKEN}.txt": lambda p: p.write_text("nothing"),
    "link": lambda p: p.symlink_to(f"/data/{TOKEN}"),
}


@pytest.mark.parametrize("file", WRITERS)
def test_check_finds_a_token_in_every_kind_of_file_and_does_not_say_it(file, tmp_path, capsys):
    WRITERS[file](run_folder(tmp_path) / file)
    assert main(["runs", "check", "--profiles", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("h200/one: ")
    assert "1 secret" in said
    assert "LEAK" not in said


@pytest.mark.parametrize(
    ("manifest", "kind"),
    [
        ({"command": ["serve", "--api-key", "LEAK"]}, "secret"),
        ({"tool": {"name": "nsys", "options": ["--env-var=HF_TOKEN=LEAK"]}}, "secret"),
        ({"workload": {"hostname": "node17"}}, "host name"),
        ({"workload": {"user": ["ada"]}}, "user name"),
        ({"settings": {"note": "GPU-8d2a1c7e-0000-1111-2222-333344445555"}}, "device id"),
        ({"settings": {"note": "10.1.2.3"}}, "address"),
        ({"settings": {"out": "/data/ada/rows.json"}}, "path"),
    ],
)
def test_check_finds_every_kind_in_a_manifest(manifest, kind, tmp_path, capsys):
    folder = run_folder(tmp_path, **manifest)
    assert main(["runs", "check", str(folder)]) == 1
    assert capsys.readouterr().out == f"one: run.json: 1 {kind}\n"


def test_check_of_what_was_hidden_already_finds_nothing(tmp_path, capsys):
    command = ["serve", "--api-key", "[redacted]", "user@host:x", "http://host:80", "--k=[redacted]"]
    manifest = {"command": command, "hidden": {"secret": 2, "host": 1}, "versions": {"cuda": "12.3.4.5"}}
    run_folder(tmp_path, **manifest, workload={"host": "[redacted]", "num_tokens": 5})
    assert main(["runs", "check", "--profiles", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 run, nothing found\n"


def test_check_takes_names_and_folders_and_says_what_it_cannot_read(tmp_path, capsys, monkeypatch):
    folder = run_folder(tmp_path)
    for given in ("h200/one", "one", str(folder), str(folder / "run.json")):
        assert main(["runs", "--profiles", str(tmp_path), "check", given]) == 0
    assert main(["runs", "check", "--profiles", str(tmp_path), "two"]) == 2
    assert main(["runs", "check", "--profiles", str(tmp_path / "none")]) == 2
    (folder / "report.json.gz").write_bytes(b"\x1f\x8b damaged")
    assert main(["runs", "check", str(folder)]) == 2
    (folder / "report.json.gz").write_bytes(gzip.compress(bytes(100)))
    monkeypatch.setattr(search, "UNPACKED", 99)
    assert main(["runs", "check", str(folder)]) == 2
    assert "unpacks to more than" in capsys.readouterr().err


def test_check_searches_a_run_whose_manifest_is_broken(tmp_path, capsys):
    (run_folder(tmp_path) / "run.json").write_text(f"not JSON, but {TOKEN}")
    assert main(["runs", "check", "--profiles", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "h200/one: run.json: 1 secret\n"


def test_times_whose_bytes_spell_a_path_are_none_and_paths_in_names_are_hidden(tmp_path, capsys):
    """A capture of a transformers model: names of modules with a path, and times in which a path can be read."""
    b, at = NsysBuilder(), int.from_bytes(b"/ab/cd", "big")
    module = "{'Module': 'model.model.layers.0.mlp', 'Inputs': [[16, 2048]], 'Cache': '/data/ada/qwen3/cache'}"
    b.push(module, at, at + 900)
    b.push("model.model.layers.0.mlp.experts file:///data/ada/modeling.py", at + 10, at + 800, registered=True)
    b.launch(at + 20, 1, gpu=(at + 100, at + 200), name="kernel<&/data/ada/qwen3.cu:12>")
    b.row("PROCESSES", globalPid=1, pid=1, name="/data/ada/bin/python3")
    b.row("TARGET_INFO_SYSTEM_ENV", name="EnvVars", value="PYTHONPATH=/data/ada/src")
    source = b.write(tmp_path / "report.sqlite")
    assert search.search(source), "the export itself holds paths"
    assert main(["import", str(source), "--name", "h100/qwen3", "--profiles", str(tmp_path / "profiles")]) == 0
    [kept] = (tmp_path / "profiles").rglob("report.sqlite")
    assert b"/ab/cd" in kept.read_bytes(), "the time is there as it was"
    assert b"/data/ada" not in kept.read_bytes()
    assert main(["runs", "check", str(tmp_path / "profiles")]) == 0, capsys.readouterr().out


def test_runs_of_the_repository_hold_nothing_to_hide(capsys):
    if not PROFILES.is_dir():
        pytest.skip("the package has no profiles")
    assert main(["runs", "check", str(PROFILES)]) == 0, capsys.readouterr().out
