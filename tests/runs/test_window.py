"""What of a report is analysed: between cudaProfilerStart and Stop, without warm-up; and how it is said."""

import pytest
from nsys_builder import NsysBuilder

from moe_lab import runs
from moe_lab.analysis.breakdown import breakdown
from moe_lab.cli import main


def steps(spans, names=None, busy=10):
    """Return a report of one range with two kernels of ``busy`` ns per span; the ranges are 100,000 ns apart."""
    b = NsysBuilder()
    for i, span in enumerate(spans):
        at = 100_000 * i
        b.push((names or ["step"] * len(spans))[i], at, at + 90)
        b.launch(at + 10, 2 * i + 1, gpu=(at + 20, at + 20 + busy))
        b.launch(at + 30, 2 * i + 2, gpu=(at + 20 + span - busy, at + 20 + span))
    return b


def window(b, start, stop=None, process=1, number=90):
    b.call(start, start + 5, number, name="cudaProfilerStart_v4000", process=process)
    if stop is not None:
        b.call(stop, stop + 5, number + 1, name="cudaProfilerStop_v4000", process=process)


def loaded(b, tmp_path):
    return runs.load(b.write(tmp_path / "run.sqlite"))


@pytest.mark.parametrize(
    ("start", "stop", "kernels"),
    [(150_000, 350_000, 4), (50_000, None, 6), (0, 390_000, 8), (400_000, 500_000, 8)],
    ids=["between", "never stopped", "everything", "nothing"],
)
def test_window_of_a_program_is_analysed_and_said(start, stop, kernels, tmp_path):
    b = steps([30] * 4)
    window(b, start, stop)
    run = loaded(b, tmp_path)
    got = run.launches()
    assert len(got.table) == kernels
    assert "in_window" not in got.table
    said = [w for w in got.meta["warnings"] if "cudaProfilerStart" in w]
    assert len(said) == (kernels < 8 or start == 400_000)
    assert len(run.launches("all").table) == 8


def test_small_copy_of_a_report_keeps_the_window(tmp_path):
    b = steps([30] * 4)
    window(b, 150_000, 350_000)
    run = runs.import_report(b.write(tmp_path / "a.sqlite"), "g/x", root=tmp_path / "p")
    assert len(run.launches().table) == 4
    assert len(run.launches("all").table) == 8


def test_process_without_the_calls_is_analysed_whole(tmp_path):
    b = steps([30] * 4)
    b.launch(20, 1, gpu=(50, 60), process=2, name="other")
    window(b, 150_000, 350_000)
    assert loaded(b, tmp_path).launches().table["name"].tolist() == ["gemm"] * 4 + ["other"]


@pytest.mark.parametrize(
    ("report", "instances"),
    [
        (steps([5000, 900, 30, 31, 32]), 3),
        (steps([30, 31, 5000, 32]), 4),  # one in the midst is no warm-up
        (steps([5000, 30, 31, 32], busy=15), 3),
        (steps([5000, 30, 31, 32], ["aten::mm"] * 4), 4),  # an operator has many sizes
    ],
    ids=["two", "midst", "busy", "operator"],
)
def test_slow_first_instances_are_set_apart_as_warm_up(report, instances, tmp_path, capsys):
    run = loaded(report, tmp_path)
    assert breakdown(run.launches())["instances"].iloc[0] == instances
    assert main(["breakdown", str(run.path)]) == 0
    assert ("left out as warm-up" in capsys.readouterr().err) == (instances == 3)


def test_first_instance_that_works_longer_is_no_warm_up(tmp_path):
    b = steps([30, 31, 32, 33])
    b.push("step", 1_000_000, 1_000_090)
    b.launch(1_000_010, 50, gpu=(1_000_020, 1_000_050))
    for row in b.rows["CUPTI_ACTIVITY_KIND_KERNEL"][:2]:  # a prefill before decodes
        row["end"] = row["start"] + 5000
    assert breakdown(loaded(b, tmp_path).launches())["instances"].iloc[0] == 5
