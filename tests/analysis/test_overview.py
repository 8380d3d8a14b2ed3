"""What can be said of any report: how busy its GPUs were, and what lay between their operations."""

import json

import pytest
from nsys_builder import NsysBuilder

from moe_lab import runs
from moe_lab.analysis import kernels, overview
from moe_lab.cli import main
from moe_lab.pages.any_report import findings, plots, tables


@pytest.fixture
def report(tmp_path):
    """Two plain kernels that overlap, then two replays of a graph of two kernels; times in ns."""
    b = NsysBuilder()
    b.push("step", 0, 100_000)
    b.launch(10, 1, gpu=(1000, 4000), name="a")
    b.launch(20, 2, gpu=(2000, 3000), name="b", stream=8)
    for number, at in ((50, 20_000), (51, 60_000)):
        b.replay(at - 100, number)
        b.kernel(at, at + 1000, number, node=101, name="c")
        b.kernel(at + 3000, at + 4000, number, node=102, name="d")
    return b.write(tmp_path / "run.sqlite")


def test_gaps_are_between_the_last_end_and_the_next_start_whatever_the_stream(report):
    found = overview.gaps(overview.operations(runs.load(report).launches()))
    rows = found[["gap_us", "before", "after", "in_graph"]].values.tolist()
    # Two replays are two launches: what lies between them is no gap within a graph.
    assert rows[:2] == [[36.0, "d", "c", False], [16.0, "a", "c", False]]
    assert rows[2:] == [[2.0, "c", "d", True]] * 2
    sizes = overview.gap_sizes(found)
    assert sizes[["size", "gaps"]].values.tolist() == [["2 to 10 us", 2], ["10 to 100 us", 2]]


def test_gpu_is_busy_while_any_stream_is_and_graphs_are_counted(report):
    row = overview.devices(overview.operations(runs.load(report).launches())).iloc[0]
    assert (row["kernels"], row["kernel_sum_ms"], row["busy_ms"]) == (6, 0.008, 0.007)
    assert row["span_ms"] == pytest.approx(0.063)
    assert row["gap_ms"] == pytest.approx(0.056)
    assert row["graph_pct"] == pytest.approx(100 * 4 / 6)


REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"


def of_ranks(*processes):
    """A report of a GPU a process: each reduces 3 us, from 1 us later on than the one before, and multiplies 2 us."""
    b = NsysBuilder()
    for turn in (0, 100_000):
        for number, process in enumerate(processes):
            at = turn + 1000 * number
            b.launch(at, turn + 1, gpu=(at + 10_000, at + 13_000), name=REDUCE, process=process, stream=8)
            b.launch(at, turn + 2, gpu=(at + 12_000, at + 14_000), process=process)
    return b


def test_communication_that_nothing_hides_and_the_gpu_that_comes_last_are_said(tmp_path):
    launches = runs.load(of_ranks(1, 2).write(tmp_path / "run.sqlite")).launches()
    found = overview.operations(launches)
    rows = overview.devices(found)
    assert rows[["device", "communication_ms", "exposed_ms"]].values.tolist() == [[0, 0.006, 0.004], [1, 0.006, 0.004]]
    late = overview.arrivals(found)
    assert late.values.tolist() == [[REDUCE, 0, 2, 0.0, 0.0], [REDUCE, 1, 2, 1.0, 100.0]]
    gaps = overview.gaps(found)
    parts = rows, kernels.sums(launches, "role"), overview.gap_sizes(gaps), overview.waits(gaps), []
    said = [finding.text.replace("\u00a0", " ") for finding in findings.all_of(*parts)]
    assert "GPU 0 communicates for 6.00 µs, of which nothing hides 4.00 µs." in said


def test_ranks_with_a_report_each_may_number_their_gpus_alike(tmp_path):
    files = [of_ranks(1).write(tmp_path / f"{rank}.sqlite") for rank in range(2)]
    launches = runs.import_report(files, "h100/two", root=tmp_path / "p").launches()
    found = overview.operations(launches)
    rows = overview.devices(found)
    assert rows["device"].tolist() == ["0 of rank 0", "0 of rank 1"]
    assert rows["kernels"].tolist() == [4, 4]
    assert found.groupby("device")["start_us"].min().tolist() == [0, 0]
    assert overview.arrivals(found, launches.meta["one_clock"]).empty


def test_page_says_what_is_there_for_a_report_without_roles(report):
    launches = runs.load(report).launches()
    found = overview.operations(launches)
    devices, gaps = overview.devices(found), overview.gaps(found)
    said = findings.all_of(
        devices, kernels.sums(launches, "role"), overview.gap_sizes(gaps), overview.waits(gaps), ["a note"]
    )
    assert said[0].text == "The GPU ran 6 kernels and was busy 11 % of 63.0 µs.".replace(" %", "\u00a0%").replace(
        " µs", "\u00a0µs"
    )
    assert "no kernel has a stage" in said[1].text
    # 52 us lie between launches, all before the first kernel of a replay; 2 us in each launch are none of them.
    assert said[-2].text.replace("\u00a0", " ") == "100 % of the 52.0 µs between launches lies before c, 2 times."
    assert said[-1].severity == "caution"
    assert sum(len(trace.x) for trace in plots.timeline(found).data) == 6
    assert "between launches" in tables.sizes(overview.gap_sizes(gaps)).html()


def test_trace_for_perfetto_has_every_operation_and_range_and_replaces_no_file(report, tmp_path, capsys):
    out = tmp_path / "trace.json"
    assert main(["view", str(report), "--perfetto", str(out)]) == 0
    events = json.loads(out.read_text())["traceEvents"]
    spans = {(e["name"], e["cat"]): e for e in events if e["ph"] == "X"}
    assert len([e for e in events if e["ph"] == "X"]) == 7
    assert spans["step", "range"]["ts"] == 0
    assert spans["step", "range"]["dur"] == 100
    assert (spans["b", "kernel"]["ts"], spans["b", "kernel"]["dur"]) == (2.0, 1.0)
    assert spans["b", "kernel"]["args"]["path"] == "step"
    tracks = {(e["pid"], e.get("tid")) for e in events if e["ph"] == "M"}
    assert all((e["pid"], e["tid"]) in tracks for e in spans.values())
    assert main(["view", str(report), "--perfetto", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
