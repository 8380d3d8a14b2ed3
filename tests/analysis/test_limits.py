"""What limits a GEMM: each rule where it fires and where it must not, on measured reference points."""

import pandas as pd
import pytest
from gemm_rows import GPU, POINTS, reference, row, table
from launches_fixture import phase

from moe_lab.analysis import limits, roofline, rules, tiles
from moe_lab.analysis.limits import limiter, stall_shares
from moe_lab.pages.kernel_counters import findings, limiters, tables

PEAKS = roofline.roofs(GPU, [])


@pytest.mark.parametrize(
    ("point", "w13", "w2"),
    [
        *[(p, "DRAM", "DRAM") for p in POINTS if p.endswith(" 16")],
        ("untuned 8192", "on-chip memory", "on-chip memory"),
        ("tuned 8192", "tensor pipe", "latency"),
        ("persistent 8192", "tensor pipe", "tensor pipe"),
    ],
)
def test_limiter_of_every_reference_point(point, w13, w2):
    assert [limiter(row(point, stage), PEAKS) for stage in ("w13", "w2")] == [w13, w2]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"sm_throughput_pct": None}, None),
        ({"mem_throughput_pct": None}, None),
        ({"dram_throughput_pct": 95.0}, "DRAM"),  # the busy memory is DRAM then, not the chip's
        ({"dram_throughput_pct": 90.0}, "on-chip memory"),  # DRAM is near, another memory is busier
        ({"dram_throughput_pct": 95.0, "l2_throughput_pct": 99.0}, "DRAM"),  # which counts what DRAM fills too
        ({"dram_throughput_pct": 64.0}, "on-chip memory"),
        ({"mem_throughput_pct": 74.0}, "on-chip memory"),
        ({"mem_throughput_pct": 69.0}, "nothing alone"),
        ({"mem_throughput_pct": 59.0}, "latency"),
        ({"mem_throughput_pct": 59.0, "l2_throughput_pct": 70.0}, "nothing alone"),
        ({"mem_throughput_pct": 59.0, "tensor_pipe_pct": 75.0}, "tensor pipe"),
        ({"mem_throughput_pct": 59.0, "grid_blocks": 100}, "too few blocks"),
        ({"mem_throughput_pct": 59.0, "tiles_computed": 131}, "too few blocks"),
        ({"mem_throughput_pct": 59.0, "grid_blocks": 100, "sm_count": None}, "latency"),
        ({"grid_blocks": 100}, "on-chip memory"),  # few blocks that keep memory busy are enough
        ({"dram_read_bytes": None}, "nothing alone"),  # without DRAM no one knows which memory it is
    ],
)
def test_limiter_follows_one_number_of_the_untuned_kernel_at_8192(changed, expected):
    assert limiter(row("untuned 8192", **changed), PEAKS) == expected


def test_on_chip_memory_is_named_where_both_were_counted():
    given = [
        row("untuned 8192", l1_throughput_pct=60.0, l2_throughput_pct=95.0),
        row("untuned 8192", "w2", l1_throughput_pct=95.0, l2_throughput_pct=60.0),
        row("untuned 8192", M=4096),
        row("tuned 8192", l1_throughput_pct=60.0, l2_throughput_pct=55.0),
    ]
    assert limits.limits(table(*given), PEAKS)["on_chip"].tolist() == ["L2", "L1", "L1 or L2", pd.NA]


@pytest.mark.parametrize(
    ("point", "waves", "fires"),
    [
        ("tuned 8192", 1.05, 100 * (1 - 1.05 / 2)),
        ("tuned 8192", 2.5, 100 * 0.5 / 3),
        ("tuned 8192", 26.2, None),  # 3 % idle
        ("tuned 8192", 3.0, None),
        ("tuned 8192", 0.5, None),  # less than a wave is no tail
        ("tuned 8192", None, None),
        ("tuned 16", 1.05, None),  # DRAM is the limit, whoever is idle
    ],
)
def test_tail_wave_fires_where_it_costs(point, waves, fires):
    found = limits.limits(table(row(point, working_waves=waves)), PEAKS)["tail_pct"].iloc[0]
    assert pd.isna(found) if fires is None else found == pytest.approx(fires)


@pytest.mark.parametrize(
    ("point", "padded", "fires"),
    [
        ("tuned 8192", 1.3 * 65536, 30),
        ("tuned 8192", 1.1 * 65536, None),
        ("untuned 16", 1328, None),  # nine times the rows, but masked rows read nothing and DRAM is the limit
        ("persistent 8192", None, None),
    ],
)
def test_padding_fires_where_rows_cost_time(point, padded, fires):
    found = limits.limits(table(row(point, rows_padded=padded)), PEAKS)["padding_pct"].iloc[0]
    assert pd.isna(found) if fires is None else found == pytest.approx(fires)


def test_empty_blocks_are_a_share_of_the_grid():
    rows = table(row("untuned 16", blocks_empty=2160), row("untuned 8192", blocks_empty=1488), row("tuned 16"))
    found = limits.limits(rows, PEAKS)["empty_pct"]
    assert found.iloc[0] == pytest.approx(100 * 2160 / 6144)
    assert found.iloc[1:].isna().all()


def test_stalls_are_shares_of_the_warps_time_and_the_rest_is_other():
    ratios = {"long_scoreboard": 9.44, "barrier": 2.78, "wait": 1.78, "selected": 1.0}
    given = row("tuned 16", **{f"stall_{k}_ratio": v for k, v in ratios.items()})
    shares = stall_shares(table(given), "w13", most=2)
    assert shares["reason"].tolist() == ["long scoreboard", "barrier", "other"]
    assert shares["pct"].tolist() == pytest.approx([62.93, 18.53, 18.53], abs=0.01)
    assert stall_shares(reference(), "w13").empty


def test_gaps_between_kernels_fire_from_a_tenth_of_the_span():
    """GIVEN a layer of 200 us without a gap, and one in which every kernel starts later."""
    close = phase().launches
    assert limits.gaps(close).empty
    table = close.table.copy()
    order = table["start_ns"].rank().astype("int64") - 1
    for column in ("start_ns", "end_ns"):
        table[column] += 50_000 * order
    found = limits.gaps(type(close)(table, close.ranges, close.meta))
    assert len(found) == 1
    assert found["gap_pct"].iloc[0] == pytest.approx(100 * found["gap_us"].iloc[0] / found["span_us"].iloc[0])
    assert found["gap_pct"].iloc[0] >= limits.GAPS_PCT


def test_a_new_limiter_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is, its evidence and what costs on top of it: tables, sentences and the page's table take all of it."""
    cold = rules.Rule(
        "cold clocks",
        lambda row, units: row["M"] == 8192,
        "limited by cold clocks",
        "a warmer GPU",
        share="l1_throughput_pct",
        hides=("tail_pct",),
    )
    monkeypatch.setattr(rules, "RULES", [cold, *rules.RULES])
    rows = table(row("untuned 8192", l1_throughput_pct=77.0, working_waves=1.05), row("untuned 8192", M=4096))
    found = limits.limits(rows, PEAKS)
    assert found["limiter"].tolist() == ["cold clocks", "on-chip memory"]
    assert (found["limiter_pct"].iloc[0], found["tail_pct"].isna().all()) == (77.0, True)
    headline = str(limiters.headline(found, "w13", "H200")).replace("\u00a0", " ")
    assert "cold clocks 77 %, compute 33 %, on chip 96 %, DRAM 14 %) is limited by cold clocks" in headline
    helps = limiters.helps(found, roofline.ceilings(rows, PEAKS))
    assert [f for f in helps if f.about == "Helps against cold clocks" and f.text.startswith("a warmer GPU")]
    assert "cold clocks" in tables.kernels(rows, found).html()


def test_a_new_cost_on_top_of_a_limiter_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    spills = rules.Extra("spill_pct", lambda row: 12.0, 10.0, "Spills", "waits {} of its time for spilled registers")
    monkeypatch.setattr(rules, "EXTRAS", [*rules.EXTRAS, spills])
    rows = table(row("untuned 8192"))
    said = " ".join(map(str, findings.extras(limits.limits(rows, PEAKS), tiles.switches(rows))))
    assert "Spills: at M = 8,192 w13 of" in said
