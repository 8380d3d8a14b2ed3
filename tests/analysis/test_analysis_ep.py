"""Tables of the benchmark of several ranks, from rows whose times follow simple rules."""

from dataclasses import replace
from types import SimpleNamespace

import ep_builder
import pandas as pd
import pytest

from moe_lab.analysis import ep

MANIFEST = {"gpu": ep_builder.GPU, "measured": ep_builder.header()["measured"], "rows": {"complete": True}}


@pytest.fixture(scope="module")
def bench():
    cases = [
        *(ep_builder.rows(M) for M in (8, 128, 1024, 4096)),
        *(ep_builder.rows(M, "zipf:1.0") for M in (128, 4096)),
    ]
    table = pd.DataFrame([row for case in cases for row in case])
    return ep.Bench(SimpleNamespace(manifest=MANIFEST), table.reindex(columns=ep.COLUMNS))


def test_parts_are_set_against_their_floor(bench):
    parts = ep.parts(ep.timed([bench])).set_index(["routing", "M", "comm", "part"])
    one = parts.loc[("uniform", 4096, "symmetric", "dispatch")]
    size = 4096 * 1024 * 2 / 2
    assert one["over_floor"] == pytest.approx((6 + 1.25 * size / 370_000) / (size / 370_000 + 1.5))
    assert pd.isna(parts.loc[("uniform", 8, "symmetric", "full"), "over_floor"]), "no floor, no ratio"
    wide = ep.side_by_side(ep.parts(ep.timed([bench]))).set_index(["routing", "M", "comm"])
    assert len(wide) == 6 * 2
    assert wide.loc[("uniform", 4096, "symmetric"), "dispatch_over"] == one["over_floor"]


def test_a_rank_waits_for_the_experts_of_the_slowest(bench):
    table = ep.by_rank(ep.timed([bench])).set_index(["routing", "M", "comm", "rank"])
    pairs = table["pairs"]["zipf:1.0", 4096, "symmetric"]
    assert pairs.tolist() == [13107, 3276]
    waits = table["waits_us"]["zipf:1.0", 4096, "symmetric"]
    assert waits.tolist() == pytest.approx([0, 0.01 * (13107 - 3276)])
    assert table["waits_us"]["uniform"].max() < 1e-6


def test_placement_and_copies_make_the_fullest_rank_less_full(bench):
    """GIVEN experts with 40, 20, 10, 10 and four times 5 per cent of the pairs THEN balance gives 55 and 45."""
    table = ep.placements(ep.timed([bench]))
    case = table[(table["routing"] == "zipf:1.0") & (table["M"] == 4096)].set_index("placement")["over_mean"]
    assert case["as measured"] == pytest.approx(1.6, abs=1e-3)
    assert case["balanced"] == pytest.approx(1.1, abs=1e-3)
    assert case["balanced, 1 hottest on all ranks"] == pytest.approx(1.0, abs=1e-3)
    assert len(ep.experts(ep.timed([bench]))) == 2 * 8, "one case a routing"


def test_the_projection_is_what_was_measured_at_the_measured_ranks(bench):
    """GIVEN ways of a fixed time and a rate THEN the fit is exact, and twice the ranks are told by their bytes."""
    table = ep.projection([bench], [2, 4]).set_index(["comm", "M", "ranks"])
    two, four = (table.loc[("symmetric", 4096, count)] for count in (2, 4))
    assert two["experts_us"] == pytest.approx(40 + 0.01 * 8192)
    assert table["fit_pct"].max() < 1e-6
    fixed, rate = 6, 1.25 / 370_000
    needs = 1 - 6 * 5 / (8 * 7)  # a token misses the two experts of a rank with both of its own
    assert four["dispatch_us"] == pytest.approx(fixed + rate * 4096 * 3 * needs * 1024 * 2)
    assert four["total_us"] == pytest.approx(four[["dispatch_us", "experts_us", "combine_us"]].sum())
    assert ep.projection([ep.Bench(None, bench.rows.head(0), "missing")], [2]).empty
    rows = bench.rows.assign(comm=bench.rows["comm"].replace("symmetric", "deepep_low_latency"))
    table = ep.projection([replace(bench, rows=rows)], [4]).set_index(["comm", "M"])
    by_pair = table.loc[("deepep_low_latency", 4096), "dispatch_us"]
    assert by_pair == pytest.approx(fixed + rate * 4096 * 2 * 3 / 4 * 1024 * 2), "a token's two experts, 3 of 4 away"


def test_only_falls_back_to_the_first_value():
    table = pd.DataFrame({"comm": ["a", "b"]})
    assert ep.only(table, comm="b")["comm"].tolist() == ["b"]
    assert ep.only(table, comm="")["comm"].tolist() == ["a"]
    assert ep.only(table.head(0), comm="a").empty
