"""Where runs go: nothing outside the named place is written or removed, one command makes a run at a time."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import bench_builder
import pytest
from bench_builder import row

from moe_lab import cli, runs
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard import places, scratch


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return bench_builder.write(tmp_path / "a.json", [row("auto", "graph", 5.0)])


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(folder))
    return folder


def bring(result: Path, root: Path, *more: str) -> int:
    return cli.main(["import", str(result), "--name", "h200/x", "--profiles", str(root), *more])


@pytest.mark.parametrize("kind", ["file", "folder", "other-json", "link", "dangling"])
def test_overwrite_replaces_nothing_that_is_no_run(kind: str, result: Path, tmp_path: Path, capfd) -> None:
    root, target, away = tmp_path / "p", tmp_path / "p" / "h200" / "x", tmp_path / "away"
    target.parent.mkdir(parents=True)
    away.mkdir()
    (away / "run.json").write_text('{"schema": 1, "name": "h200/x"}')
    if kind == "file":
        target.write_text("mine")
    elif kind in ("link", "dangling"):
        target.symlink_to(away if kind == "link" else tmp_path / "p" / "none")
    else:
        target.mkdir()
        (target / ("run.json" if kind == "other-json" else "mine")).write_text('{"my": "own"}')
    before = sorted(str(p) for p in tmp_path.rglob("*") if p.parent.name != "tmp")
    assert bring(result, root, "--overwrite") == 2
    assert capfd.readouterr().err.startswith("moe-lab: ")
    assert sorted(str(p) for p in tmp_path.rglob("*") if p.parent.name != "tmp") == before


def test_overwrite_replaces_a_run(result: Path, tmp_path: Path) -> None:
    assert bring(result, tmp_path / "p") == 0
    assert bring(result, tmp_path / "p") == 2
    assert bring(result, tmp_path / "p", "--overwrite") == 0
    assert [p.name for p in (tmp_path / "p" / "h200").iterdir()] == ["x"]


def test_of_four_imports_at_once_one_wins_and_the_others_say_so(result: Path, tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "moe_lab",
        "import",
        str(result),
        "--name",
        "h200/x",
        "--profiles",
        str(tmp_path / "p"),
    ]
    started = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 2, 2, 2]
    assert sum("already is a run" in text or "Another command is making" in text for text in said) == 3
    assert [p.name for p in (tmp_path / "p" / "h200").iterdir()] == ["x"]


def test_a_second_claim_is_refused_and_a_killed_one_is_cleaned(tmp_path: Path) -> None:
    with places.claim(tmp_path / "p", "h200/x") as claim:
        claim.fresh()
        with pytest.raises(UserError, match="Another command is making the run 'h200/x'"):
            places.claim(tmp_path / "p", "h200/x").__enter__()
    assert not (tmp_path / "p").exists()
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom moe_lab.spec.guard import places, scratch\n"
        f"c = places.claim(Path({str(tmp_path / 'p')!r}), 'h200/x'); c.__enter__().fresh()\n"
        f"s = scratch.private(Path({str(tmp_path / 'tmp')!r}))\n"
        "(s.__enter__().folder / 'raw').write_text('SECRET')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "p" / "h200").iterdir())) == len(list((tmp_path / "tmp").iterdir())) == 1
    (tmp_path / "tmp" / "moe_lab_of_somebody").mkdir()
    cli.main(["runs", "--profiles", str(tmp_path / "p")])
    assert list((tmp_path / "p" / "h200").iterdir()) == []
    assert [p.name for p in (tmp_path / "tmp").iterdir()] == ["moe_lab_of_somebody"]


def test_what_a_killed_command_had_moved_aside_comes_back(tmp_path: Path) -> None:
    hidden = tmp_path / "h200" / ".x.building"
    (hidden / "old").mkdir(parents=True)
    (hidden / "old" / "run.json").write_text("{}")
    os.close(scratch.own(hidden))
    places.sweep(tmp_path)
    assert (tmp_path / "h200" / "x" / "run.json").read_text() == "{}"
    assert not hidden.exists()


@pytest.mark.parametrize("name", ["x" * 300, "../x", "/etc/x/y", "a/" + "é" * 200, "a\x00b"])
def test_a_bad_name_is_one_sentence_before_the_command_runs(name: str, tmp_path: Path, capfd) -> None:
    mark = tmp_path / "ran"
    argv = ["capture", "torch", "--name", name, "--profiles", str(tmp_path / "p"), "--"]
    assert cli.main([*argv, sys.executable, "-c", f"open({str(mark)!r}, 'w')"]) == 2
    assert "cannot be the name of a run" in capfd.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("place", ["file", "null"])
def test_a_place_that_is_no_folder_is_one_sentence_before_the_command_runs(place: str, tmp_path: Path, capfd) -> None:
    (tmp_path / "file").write_text("mine")
    where, mark = {"file": str(tmp_path / "file"), "null": os.devnull}[place], tmp_path / "ran"
    argv = ["capture", "torch", "--name", "h200/x", "--profiles", where, "--"]
    assert cli.main([*argv, sys.executable, "-c", f"open({str(mark)!r}, 'w')"]) == 2
    assert "is a file, not a folder of runs" in capfd.readouterr().err
    assert not mark.exists()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_failure_after_the_command_keeps_and_names_the_raw_report(fault, tmp_path: Path, monkeypatch) -> None:
    from moe_lab.runs.capture import _work

    def fail(*arguments, **options):
        raise fault

    monkeypatch.setattr(_work, "import_report", fail)
    with pytest.raises((UserError, KeyboardInterrupt), match="is kept unredacted") as error:  # noqa: PT012, SIM117
        with _work.prepared("h200/x", tmp_path / "p", False) as work:
            report = work.folder / "report.sqlite"
            work.run([sys.executable, "-c", f"open({str(report)!r}, 'w').write('raw')"], "a profiler")
            work.keep(report, {})
    assert str(work.folder) in str(error.value)
    assert report.read_text() == "raw"
    assert stat.S_IMODE(work.folder.stat().st_mode) == 0o700
    assert not (tmp_path / "p").exists()
    scratch.sweep(work.folder.parent)
    assert report.exists(), "the next command leaves what was kept"


def test_sigterm_removes_what_was_being_made(tmp_path: Path) -> None:
    code = "import sys\nfrom moe_lab import cli\nsys.exit(cli.main(sys.argv[1:]))"
    child = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nimport time\ntime.sleep(60)"
    argv = [
        "capture",
        "torch",
        "--name",
        "h200/x",
        "--profiles",
        str(tmp_path / "p"),
        "--",
        sys.executable,
        "-c",
        child,
    ]
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    stand_in = tmp_path / "lib" / "torch"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text(child)
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "lib"), env.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", code, *argv], env=env, stderr=subprocess.PIPE, text=True)
    for _ in range(200):
        if (tmp_path / "ran").exists():
            break
        time.sleep(0.1)
    process.terminate()
    assert "moe-lab: stopped." in process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "p").exists()


def test_a_run_reads_no_file_outside_of_it(result: Path, tmp_path: Path) -> None:
    assert bring(result, tmp_path / "p") == 0
    folder = tmp_path / "p" / "h200" / "x"
    (tmp_path / "outside.csv").write_bytes((folder / "rows.csv").read_bytes())
    (folder / "rows.csv").unlink()
    (folder / "rows.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(UserError, match="outside the folder"):
        runs.load(folder).rows()
    said = json.loads((folder / "run.json").read_text())
    for named in ("../../../outside.csv", str(tmp_path / "outside.csv")):
        (folder / "run.json").write_text(json.dumps(said | {"report": named}))
        with pytest.raises(UserError):
            runs.load(folder).rows()


def test_profiles_do_not_depend_on_where_moe_lab_is_installed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MOE_LAB_PROFILES", raising=False)
    deep = tmp_path / "checkout" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert places.profiles_root() == Path("profiles")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "checkout" / ".git").mkdir()
    assert places.profiles_root() == Path("profiles"), "above the checkout is somebody else's"
    (tmp_path / "checkout" / "profiles").mkdir()
    assert places.profiles_root() == tmp_path / "checkout" / "profiles"
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path / "named"))
    assert places.profiles_root() == tmp_path / "named"


@pytest.mark.parametrize("name", ["4242_kernel_trace.csv", "more"])
def test_an_import_follows_no_link_out_of_the_folder(name: str, tmp_path: Path, capfd) -> None:
    folder, away = tmp_path / "trace", tmp_path / "away"
    folder.mkdir()
    away.mkdir()
    header = "Kernel_Name,Agent_Id,Process_Id,Thread_Id,Correlation_Id,Start_Timestamp,End_Timestamp\n"
    for path in (away / "4242_kernel_trace.csv", folder / "1_kernel_trace.csv"):
        path.write_text(f"{header}k,1,1,1,1,10,20\n")
    (folder / name).symlink_to(away if name == "more" else away / name)
    assert cli.main(["import", str(folder), "--name", "x/y", "--profiles", str(tmp_path / "p")]) == 2
    assert f"'{name}' would lie outside the folder 'trace'" in capfd.readouterr().err
    assert not (tmp_path / "p").exists()


def test_the_next_command_says_what_it_removed_of_a_killed_one(result: Path, tmp_path: Path, temporary: Path, capfd):
    left, hidden = temporary / "moe_lab_left", tmp_path / "p" / "h200" / ".y.building"
    for folder in (left, hidden):
        folder.mkdir(parents=True)
        (folder / "report.nsys-rep").write_bytes(b"x" * 1_200_000)
        os.close(scratch.own(folder))
        os.utime(folder / scratch.OWNER, (1_700_000_000, 1_700_000_000))
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(1_700_000_000))
    assert bring(result, tmp_path / "p") == 0
    said = capfd.readouterr().err.splitlines()
    what = f"moe-lab: removed what a killed command had left (1 file, 1.2 MB, begun {begun})"
    assert said[:2] == [f"{what} from the folder for temporary files.", f"{what} in 'h200'."]
    assert not left.exists()
    assert not hidden.exists()
    assert bring(result, tmp_path / "p", "--overwrite") == 0
    assert "removed" not in capfd.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_a_place_that_is_no_folder_is_said_where_runs_are_read(place: str, tmp_path: Path, capfd, monkeypatch) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["runs", "--profiles", str(tmp_path / place)]) == 2
    assert "folder of runs" in capfd.readouterr().err
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path / place))
    assert cli.main(["breakdown", "h200/none"]) == 2
    assert "folder of runs" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\x00b"])
def test_a_name_that_no_file_can_have_is_no_run(name: str, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    assert cli.main(["breakdown", name]) == 2
    said = capfd.readouterr().err
    assert said.startswith("moe-lab: There is no run or report '")
    assert len(said) < 300


@pytest.mark.parametrize(
    ("file", "takes"),
    [
        ("a.ipynb", "moe-lab report"),
        ("vllm-1-py3-none-any.whl", "moe-lab peers add"),
        ("E=8,N=14336,device_name=NVIDIA_H200.json", "moe-lab configs import"),
        ("E=8,N=16,K=16,dtype=bf16,backend=fused_moe.json", "moe-lab configs import"),
    ],
)
def test_import_says_which_command_takes_a_file(file: str, takes: str, tmp_path: Path, capfd) -> None:
    (tmp_path / file).write_text("{}")
    assert bring(tmp_path / file, tmp_path / "p") == 2
    assert capfd.readouterr().err.endswith(f"not a report; give it to `{takes}`.\n")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", ["x" * 300, os.devnull])
@pytest.mark.parametrize("command", ["import", "configs"])
def test_what_is_no_file_is_no_report_and_no_tiles(command: str, name: str, tmp_path: Path, capfd) -> None:
    more = {"import": ["import", name, "--profiles"], "configs": ["configs", "import", name, "--out"]}[command]
    assert cli.main([*more, str(tmp_path / "p")]) == 2
    said = capfd.readouterr().err
    assert "There is no r" in said or "is not in a format" in said
    assert not (tmp_path / "p").exists()
