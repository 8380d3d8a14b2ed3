"""The page of experts on several ranks: what it says of made-up runs, and without any."""

import ep_builder
import pandas as pd
import pytest

import moe_lab
from moe_lab import runs
from moe_lab.analysis import ep, overlap, ranks
from moe_lab.pages import load
from moe_lab.pages.expert_parallel import findings, plots, tables
from moe_lab.runs import bench_runs


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Return (benches, parts, by_rank, placed, projected, captured) of made-up runs."""
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    bench_runs.import_bench([ep_builder.write(tmp_path / "rows.jsonl")], "h200/ep", root=tmp_path)
    runs.import_report(ep_builder.capture(tmp_path / "report.sqlite"), "h200/step", root=tmp_path)
    benches, captured = [load.ep_bench("h200/ep"), load.ep_bench("h200/none")], load.ranked("h200/step")
    rows = ep.timed(benches)
    return benches, ep.parts(rows), ep.by_rank(rows), ep.placements(rows), ep.projection(benches, [2, 8]), captured


def test_the_page_says_who_waits_what_is_exposed_and_what_is_missing(read):
    said = [str(finding).replace("\u00a0", " ") for finding in findings.all_of(*read) if finding]
    assert said[0] == (
        "On 2 H200, experts of made-up in bf16 take 162 µs at 4,096 tokens of each, 25 % of it dispatch and "
        "combine by symmetric."
    )
    assert "1.40 times as long with allgather_reducescatter" in said[1]
    told = " ".join(said)
    assert "rank 1 waits 98.3 µs at M = 4,096, zipf:1.0" in told
    assert "the experts of rank 0 take longest, 171 µs for 13,107 pairs against 72.8 µs for 3,276" in told
    assert "it would have 1.10 balanced or 1.00 balanced, 1 hottest on all ranks" in told
    assert "70.0 µs of the step of rank 0, 210 µs, are communication while it computes nothing (33 %)" in told
    assert "rank 1 begins combine 20.0 µs after the first rank (median), and is the last in 100 % of the steps" in told
    assert "100 % of the kernel time of 3 steps on 2 ranks lies in a stage of its rank" in told
    assert "Projection, not measured: made-up in bf16 would take" in told
    assert said[-1].startswith("Caution: There is no run 'h200/none' of the ep benchmark; `moe-lab bench ep")


def test_the_page_says_what_overlapping_saves_and_where_it_costs():
    case = {"model": "made-up+1", "format": "bf16", "routing": "uniform", "comm": "symmetric"}
    us = {8: {"shared": 20, "full": 200, "overlapped": 190}, 4096: {"shared": 300, "full": 2000, "overlapped": 2040}}
    us[8]["fused"] = 180
    rows = [case | {"M": M, "part": part, "median_us": value} for M, own in us.items() for part, value in own.items()]
    saved = overlap.saved(pd.DataFrame(rows))
    said = str(findings.shared_experts(saved)).replace("\u00a0", " ")
    assert "saves 10.0 µs of 200 µs at M = 8 (made-up+1, bf16, symmetric)" in said
    assert "and costs 40.0 µs of 2.00 ms at M = 4,096" in said
    assert "among the routed ones they are quicker in 1 of 1 cases" in said
    assert "-2.0" in tables.overlap(saved).html().replace("\u2212", "-")
    assert findings.shared_experts(saved[:0]) is None


@pytest.mark.parametrize(
    ("faster", "said"), [((0,), "; 1 row is below the floor,"), ((0, 1), "; 2 rows are below the floor,")]
)
def test_a_floor_that_is_passed_is_said_to_be_wrong(faster, said):
    case = {
        "part": "dispatch",
        "comm": "symmetric",
        "model": "x",
        "format": "bf16",
        "routing": "uniform",
        "floor_us": 10.0,
    }
    rows = pd.DataFrame(
        [case | {"M": M, "median_us": 9.0 if n in faster else 12.0} for n, M in enumerate((8, 128, 512))]
    )
    text = str(findings.over_floor(rows.assign(over_floor=rows["median_us"] / 10), "dispatch"))
    assert f"{said} which is wrong there: the link can do more than was measured in that run." in text


def test_figures_have_a_lane_or_a_panel_for_each_rank_and_size(read):
    _, parts, by_rank, _, projected, captured = read
    assert len(plots.times(parts).data) == 2, "a line for each way, and no floor where none is known"
    one = ep.only(by_rank, comm="symmetric", routing="zipf:1.0")
    assert list(plots.ranks(one).data[0].y) == [f"M = {m}, rank {rank}" for m in ("128", "4,096") for rank in (0, 1)]
    step = plots.step(ranks.median_step(captured.found))
    assert {trace.name for trace in step.data} >= {"dispatch, between GPUs", "w13+act+w2"}
    hatched = plots.projection(ep.only(projected, comm="symmetric"), [2])
    assert hatched.data[0].marker.pattern.shape == ("", "/"), "what was not measured is hatched"


def test_two_benchmarks_of_several_ranks_compare_way_by_way(read):
    found = moe_lab.compare("h200/ep", "h200/ep")
    assert len(found.table) == 6 * 2 * 4, "six cases, two ways, four parts"
    assert set(found.table["ratio"]) == {1.0}


def test_without_a_run_the_page_has_sentences_in_place_of_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    benches, captured = [load.ep_bench("h100/ep")], load.ranked("h100/step")
    rows = ep.timed(benches)
    parts, by_rank, placed = ep.parts(rows), ep.by_rank(rows), ep.placements(rows)
    projected = ep.projection(benches, [2])
    said = [finding for finding in findings.all_of(benches, parts, by_rank, placed, projected, captured) if finding]
    assert [finding.severity for finding in said] == ["caution"]
    assert "moe-lab capture nsys" in captured.missing
    for frame in (ep.side_by_side(parts), ep.experts(rows), projected):
        assert frame.empty
    assert tables.by_rank(by_rank, "nothing").sentence == "nothing"
