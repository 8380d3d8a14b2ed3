"""Kernels summed by what they share, of any report."""

import sqlite3

import pandas as pd
import pytest
from nsys_builder import NsysBuilder
from nsys_runs import graph, parsed, real

from moe_lab.analysis.kernels import BY, sums
from moe_lab.runs.parse import parse_report
from moe_lab.runs.ranks import together
from moe_lab.spec.errors import UserError

US = 1000  # ns


def report():
    """Return three launches of a kernel of 1, 2 and 9 us and one of another of 4 us, with a copy, without a range."""
    b = NsysBuilder()
    for number, (name, us) in enumerate([("gemm", 1), ("gemm", 9), ("norm", 4), ("gemm", 2)]):
        b.launch(number, number, gpu=(100 * US * number, (100 * number + us) * US), name=name)
    b.call(50, 51, 99)
    b.memcpy(10**6, 2 * 10**6, 99)
    return b


def test_kernels_of_a_report_without_a_range_are_summed_by_name(tmp_path):
    got = sums(parsed(report(), tmp_path))
    assert got["name"].tolist() == ["gemm", "norm"]
    assert got["launches"].tolist() == [3, 1]
    assert got["total_ms"].tolist() == [0.012, 0.004]
    assert got["pct_of_kernels"].tolist() == [75, 25], "copies are no kernels"
    assert got[["median_us", "mean_us", "min_us", "max_us"]].values.tolist() == [[2, 4, 1, 9], [4, 4, 4, 4]]


def test_kernels_of_a_graph_are_summed_by_stage_range_and_several_together(tmp_path):
    launches = parsed(graph(), tmp_path)
    by_stage = sums(launches, "stage").set_index("stage")
    assert by_stage["launches"].to_dict() == {"w13": 2, "w2": 2}
    assert by_stage["total_ms"].to_dict() == {"w13": 20e-6, "w2": 10e-6}
    assert sums(launches, "range")["range"].tolist() == ["moe_lab|M=1/mlp/w13", "moe_lab|M=1/mlp/w2"]
    both = sums(launches, ["device", "name"])
    assert both[["device", "name", "launches"]].values.tolist() == [[0, "up", 2], [0, "down", 2]]


def test_module_paths_are_summed_as_the_stage_that_they_are(tmp_path):
    b = NsysBuilder()
    for layer in (0, 1):
        b.push(f"model.layers.{layer}.self_attn", 100 * layer, 100 * layer + 50)
        b.launch(100 * layer + 10, layer, gpu=(1000 * layer, 1000 * layer + 10))
    b.launch(300, 3, gpu=(5000, 5001))
    got = sums(parsed(b, tmp_path), "stage")
    assert got["launches"].tolist() == [2, 1]
    assert got["stage"][0] == "self_attn"
    assert pd.isna(got["stage"][1]), "no range, no stage"


def test_a_root_restricts_what_is_summed(tmp_path):
    launches = parsed(graph(), tmp_path)
    got = sums(launches, root="^w2$")
    assert got[["name", "launches", "pct_of_kernels"]].values.tolist() == [["down", 2, 100]]
    with pytest.raises(UserError, match="No range name matches 'none such'"):
        sums(launches, root="none such")


def test_ranks_are_rows(tmp_path):
    parts = []
    for rank in (0, 1):
        b = NsysBuilder()
        b.launch(1, 1, gpu=(0, (rank + 1) * US))
        parts.append(parse_report(b.write(tmp_path / f"{rank}.sqlite")))
    got = sums(together(parts), "rank")
    assert got[["rank", "total_ms"]].values.tolist() == [[1, 0.002], [0, 0.001]]


def test_a_report_without_start_times_or_without_kernels_has_sums(tmp_path):
    launches = parsed(report(), tmp_path)
    launches.table["start_ns"] = pd.array([pd.NA] * len(launches.table), dtype="Int64")
    assert sums(launches, ["stage", "name"])["launches"].tolist() == [3, 1]
    launches.table["kind"] = "memcpy"
    assert len(sums(launches)) == 0


def test_unknown_durations_are_not_zero(tmp_path):
    launches = parsed(report(), tmp_path)
    launches.table["duration_ns"] = launches.table["duration_ns"].where(launches.table["name"] != "norm")
    got = sums(launches).set_index("name")
    assert pd.isna(got.loc["norm", "total_ms"])
    assert got.loc["norm", "launches"] == 1
    assert got.loc["gemm", "pct_of_kernels"] == 100


@pytest.mark.parametrize("by", ["colour", "", [], ["name", "colour"]])
def test_what_kernels_cannot_be_summed_by_is_one_sentence(by, tmp_path):
    with pytest.raises(UserError, match="choose from name, role, operators, stage, range, rank"):
        sums(parsed(report(), tmp_path), by)


def test_sums_of_a_real_report_are_those_of_its_rows():
    path = real("h100_2gpu_1s.sqlite")
    ask = "SELECT s.value, count(*), sum(end - start) FROM CUPTI_ACTIVITY_KIND_KERNEL k JOIN StringIds s"
    with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as file:
        theirs = {name: (n, ns) for name, n, ns in file.execute(f"{ask} ON s.id = k.shortName GROUP BY s.value")}
    launches = parse_report(path)
    ours = sums(launches)
    assert {
        r.name_: (r.launches, round(r.total_ms * 1e6)) for r in ours.rename(columns={"name": "name_"}).itertuples()
    } == theirs
    for by in BY:
        assert sums(launches, by)["total_ms"].sum() == pytest.approx(ours["total_ms"].sum())
