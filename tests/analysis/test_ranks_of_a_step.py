"""Tables of a capture of two ranks, from a report small enough to check by hand."""

from types import SimpleNamespace

import ep_builder
import launches_fixture
import pytest

from moe_lab.analysis import ranks
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    return parse_report(ep_builder.capture(tmp_path_factory.mktemp("ranks") / "report.sqlite"))


@pytest.fixture(scope="module")
def found(launches):
    return ranks.of_run(SimpleNamespace(manifest={}), launches)


def test_kernels_of_a_cuda_graph_are_told_by_rank_and_stage(launches, found):
    table = ranks.stages(found).set_index(["rank", "stage"])["time_us"]
    assert table[0].to_dict() == {
        **{"self_attn": 30, "dispatch": 20, "w13+act+w2": 100, "combine": 60, "shared_experts": 10}
    }
    assert table[1, "w13+act+w2"] == 120
    assert found.covered_pct == 100
    assert set(launches.table["attribution"]) == {"graph_node"}


def test_communication_is_hidden_only_while_its_own_rank_computes(found):
    """GIVEN combine from 150 to 210 us, and shared experts from 170 to 180 beside it THEN 10 us are hidden."""
    first, second = ranks.exposed(found).to_dict("records")
    assert (first["step_us"], first["communication_us"]) == (210, 80)
    assert (first["hidden_us"], first["exposed_us"], first["idle_us"]) == (10, 70, 0)
    assert first["exposed_pct"] == pytest.approx(100 * 70 / 210)
    assert second["communication_us"] == 60, "it comes last to combine and does not wait"


def test_the_rank_that_comes_last_is_told_where_there_is_one_clock(launches, found):
    table = ranks.arrivals(found).set_index(["stage", "rank"])
    assert table["late_us"].to_dict() == {**dict.fromkeys([("dispatch", 0), ("dispatch", 1), ("combine", 0)], 0)} | {
        ("combine", 1): 20
    }
    assert table["last_pct"].tolist() == [0, 0, 0, 100], "nobody is last where all begin together"
    apart = SimpleNamespace(manifest={"reports": ["report.sqlite", "rank1.report.sqlite"]})
    assert ranks.arrivals(ranks.of_run(apart, launches)).empty


def test_the_median_step_has_the_operations_of_all_ranks(found):
    one = ranks.median_step(found)
    assert (one["step"].nunique(), one["rank"].nunique(), len(one)) == (1, 2, 2 * len(ep_builder.STEP))
    assert one["start_us"].min() == 0


def test_a_capture_of_one_gpu_has_no_ranks():
    with pytest.raises(UserError, match="rank="):
        ranks.steps(launches_fixture.launches())
