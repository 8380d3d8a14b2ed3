import pandas as pd
import pytest
from kineto_builder import KinetoBuilder
from nsys_builder import NsysBuilder
from nsys_runs import graph

from moe_lab import cli, runs
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError


def two(tmp_path, overlap=False):
    """Return the reports of two ranks; of the second one the kernels take longer."""
    first = graph()
    second = graph(replays=((1000, 50), (2000, 51), (3000, 52)))
    if overlap:
        second.event(60, "request 1", 6000, 6050)
        second.event(60, "request 2", 6020, 6090)
        second.launch(6030, 80, gpu=(7000, 7010))
    return [b.write(tmp_path / f"of_{n}.sqlite") for n, b in enumerate((first, second))]


def test_reports_of_several_ranks_become_one_run_and_nothing_of_them_is_mixed(tmp_path):
    """GIVEN a report a rank WHEN they are imported THEN each launch keeps its rank, its own ranges and its process."""
    files = two(tmp_path, overlap=True)
    run = runs.import_report(files, "h200/two", root=tmp_path / "p")
    assert run.manifest["reports"] == ["report.sqlite", "rank1.report.sqlite"]
    whole, parts = runs.load("h200/two", root=tmp_path / "p").launches(), [parse_report(path) for path in files]
    assert whole.table.groupby("rank").size().tolist() == [len(part.table) for part in parts]
    assert whole.table.groupby("rank")["process"].unique().map(list).tolist() == [[0], [1]]
    assert whole.ranges.index.is_unique
    for rank, part in enumerate(parts):
        own = whole.table[whole.table["rank"] == rank].reset_index(drop=True)
        for column in ("range_id", "launch_range_id", "capture_range_id"):
            theirs = part.table[column].map(part.ranges["path"])
            pd.testing.assert_series_equal(own[column].map(whole.ranges["path"]), theirs)
        assert own["duration_ns"].tolist() == part.table["duration_ns"].tolist()
    inside = [
        whole.memberships[c].map(of)
        for c, of in (("operation", whole.table["rank"]), ("range_id", whole.ranges["process"]))
    ]
    assert [column.tolist() for column in inside] == [[1], [1]], "the second request crosses the first"
    assert "compare within a rank only" in whole.meta["warnings"][-1]


def test_a_run_of_one_report_says_nothing_of_reports_and_has_no_rank(tmp_path):
    run = runs.import_report(two(tmp_path)[0], "h200/one", root=tmp_path / "p")
    assert "reports" not in run.manifest
    assert run.launches().table["rank"].isna().all()


def test_kernels_by_rank_say_of_how_many_the_rank_is_known(tmp_path, capsys):
    b = NsysBuilder()
    b.push("moe_lab|M=1|rank=4", 0, 50, process=1)
    for process in (1, 2):
        b.launch(10, 7, gpu=(1000, 1010), process=process)
    assert cli.main(["kernels", str(b.write(tmp_path / "r.sqlite")), "--by", "rank"]) == 0
    assert "1 of 2 kernels (50.00 % of their time) have a rank" in capsys.readouterr().err


def test_processes_of_one_report_are_the_ranks_that_their_roots_say(tmp_path):
    """GIVEN three processes, one that says a rank, one none, one two of them WHEN it is read THEN only one is known."""
    b = NsysBuilder()
    said = {1: ["moe_lab|M=1|rank=4"] * 2, 2: ["moe_lab|M=1"], 3: ["moe_lab|rank=0", "moe_lab|rank=1"]}
    for process, names in said.items():
        for turn, name in enumerate(names):
            b.push(name, 100 * turn, 100 * turn + 50, process=process)
            b.launch(100 * turn + 10, 7 + turn, gpu=(1000 + turn, 1001 + turn), process=process)
    table = parse_report(b.write(tmp_path / "r.sqlite")).table
    known = table.groupby("process")["rank"].unique().map(list).tolist()
    assert known == [[4], [pd.NA], [pd.NA]]


def trace(rank, path):
    b = KinetoBuilder(distributedInfo={"backend": "nccl", "rank": rank, "host": "analytical-engine"})
    b.push("w13", 0, 100)
    b.launch(10, 5, gpu=(200, 300))
    return b.write(path)


def test_a_trace_states_its_own_rank_and_keeps_it_in_a_run(tmp_path):
    files = [trace(rank, tmp_path / f"{rank}.json") for rank in (3, 1)]
    run = runs.import_report(files, "h200/x", root=tmp_path / "p")
    assert run.launches().table["rank"].tolist() == [3, 1]
    assert b"analytical-engine" not in b"".join(path.read_bytes() for path in run.path.iterdir())


def test_two_reports_of_one_rank_are_refused_before_anything_is_written(tmp_path):
    files = [trace(3, tmp_path / f"{n}.json") for n in range(2)]
    with pytest.raises(UserError, match="Two of the reports are of the same rank"):
        runs.import_report(files, "h200/x", root=tmp_path / "p")
    assert not list(tmp_path.glob("p/*/*"))


def test_a_report_that_is_named_outside_of_its_run_is_refused(tmp_path):
    run = runs.import_report(two(tmp_path), "h200/two", root=tmp_path / "p")
    manifest = run.path / "run.json"
    manifest.write_text(manifest.read_text().replace("rank1.report.sqlite", "../../of_1.sqlite"))
    with pytest.raises(UserError, match="cannot be read"):
        runs.load("h200/two", root=tmp_path / "p")


def test_the_command_line_takes_a_report_a_rank(tmp_path, capsys):
    files = [str(path) for path in two(tmp_path)]
    assert cli.main(["import", *files, "--name", "h200/two", "--profiles", str(tmp_path / "p")]) == 0
    assert "two" in capsys.readouterr().out
    (tmp_path / "rows.json").write_text('{"bench": "align"}\n{"M": 1}\n')
    assert cli.main(["import", files[0], str(tmp_path / "rows.json"), "--name", "x", "--profiles", str(tmp_path)]) == 2
    assert "cannot be one run" in capsys.readouterr().err
