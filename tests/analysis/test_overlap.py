"""What overlapping saves, from literal rows."""

import pandas as pd
import pytest

from moe_lab.analysis import overlap

CASE = {"model": "made-up+1", "format": "bf16", "routing": "uniform"}


def parts(M, comm, **us):
    """Return rows of ``ep.parts`` with a time for each part."""
    return [CASE | {"M": M, "comm": comm, "part": part, "median_us": value} for part, value in us.items()]


def test_what_is_saved_is_the_difference_of_both_wholes_and_may_be_negative():
    """GIVEN a way with parts, one without, and one that measured no overlap THEN the first two have a row."""
    rows = parts(8, "a", full=100, dispatch=10, experts=60, combine=12, shared=18, overlapped=90, fused=88)
    rows += parts(8, "whole", full=50, shared=18, overlapped=55) + parts(8, "b", full=40, dispatch=1, combine=1)
    table = overlap.saved(pd.DataFrame(rows)).set_index("comm")
    assert list(table.index) == ["a", "whole"]
    assert table.loc["a", overlap.COLUMNS].tolist() == pytest.approx([18, 22, 100, 88, 90, 10, 10])
    assert table.loc["whole", ["saved_us", "saved_pct"]].tolist() == pytest.approx([-5, -10])
    assert table.loc["whole", ["travel_us", "fused_us"]].isna().all()


def test_without_shared_experts_there_are_no_rows():
    assert overlap.saved(pd.DataFrame(parts(8, "b", full=40, dispatch=1, combine=1))).empty
