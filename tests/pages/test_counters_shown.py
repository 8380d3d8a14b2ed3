"""Sentences about kernel counters: the conclusions that a reader must get unasked, and none without its numbers."""

import re

import pandas as pd
import pytest
from gemm_rows import GPU, reference, row, table

from moe_lab.analysis import gpus, limits, roofline, traffic
from moe_lab.analysis.captures import Captures
from moe_lab.pages import load
from moe_lab.pages.kernel_counters import findings, plots, tables
from moe_lab.spec import published

L2 = GPU["l2_cache_bytes"]


def said(rows, **more):
    given = Captures({}, rows.assign(gpu="H200"), {"H200": GPU}, **more)
    found = [str(f) for f in findings.all_of(given, gpus.each(given, [])) if f]
    return [s.replace("\u00a0", " ") for s in found if s]


def starting(sentences, about):
    return next((s for s in sentences if s.startswith(about)), "")


def test_headline_names_the_limiter_at_both_ends_unprompted():
    """At M = 8192 untuned tiles are limited on the chip at a third of the compute roof, a persistent kernel is not."""
    rows = reference()
    headline = said(rows[rows["backend"] != "vllm_triton"])[0]
    large, small = headline.split(". And ")
    shares = "on chip 96 %, compute 33 %, DRAM 14 %"
    assert f"w13 at M = 8,192 fused_moe untuned (64x64x32; {shares}) is limited by on-chip memory" in large
    assert "at 33 % of the compute roof; triton_kernels (persistent; compute 79 %, on chip 52 %, DRAM 37 %)" in large
    assert large.endswith("is limited by compute, not by memory")
    assert small.startswith(
        "at M = 16 fused_moe untuned (16x32x64; DRAM 84 %) and triton_kernels (persistent; DRAM 87 %)"
    )
    assert "are both bound by DRAM, near the roof" in small


def test_headline_leaves_out_the_single_tiles_of_a_sweep():
    rows = table(row("untuned 8192"), row("tuned 8192", series="fused_moe 128x256x64"))
    assert "fused_moe 128x256x64" not in said(rows)[0]
    assert "fused_moe 128x256x64" in starting(said(rows), "Helps against tensor pipe")


def test_on_chip_traffic_names_a_better_tile_predicted_or_checked():
    alone = starting(said(table(row("untuned 8192"))), "On-chip traffic")
    assert "takes 13.5 GB through L2 (by the model), 13.0 times the fewest bytes" in alone
    assert "128x256x64 tiles would take 5.44 GB, 60 % less, as predicted by the model" in alone
    launched = row("tuned 8192", backend="fused_moe", series="fused_moe 128x256x64", l2_sm_bytes=5.5e9)
    checked = starting(said(table(row("untuned 8192", l2_sm_bytes=13.4e9), launched)), "On-chip traffic")
    assert "takes 13.4 GB through L2 (counted)" in checked
    assert "60 % less by the model; launched in these runs they took 701 µs and 5.50 GB" in checked
    assert starting(said(table(row("untuned 16"))), "On-chip traffic") == ""


def test_findings_of_dram_tail_padding_and_stalls_need_their_numbers():
    plain = said(reference())
    for about in ("DRAM traffic", "Tail wave", "Padding", "Empty blocks", "Warps wait", "Launch gaps", "Caution"):
        assert starting(plain, about) == "", about
    rich = said(
        table(
            row("untuned 16", dram_write_bytes=2e6, blocks_empty=2160),
            row("tuned 8192", working_waves=1.05, rows_padded=90_000),
            row("untuned 8192", stall_barrier_ratio=3.0, stall_selected_ratio=1.0),
        ),
        missing=["There is no run 'x'."],
        gaps=pd.DataFrame([{"series": "fused_moe", "M": 16, "span_us": 400.0, "gap_us": 80.0, "gap_pct": 20.0}]),
    )
    assert "the kernels move 1.00 times the fewest bytes" in starting(rich, "DRAM traffic")
    assert "leaves 48 % of the SMs' time idle" in starting(rich, "Tail wave")
    assert "computes 37 % more rows than are useful" in starting(rich, "Padding")
    assert "launches 35 % of its blocks for nothing" in starting(rich, "Empty blocks")
    assert "fused_moe untuned (64x64x32) for barrier (75 % of their time)" in starting(rich, "Warps wait most, in w13")
    assert "at M = 16 20 % of 400 µs in fused_moe" in starting(rich, "Launch gaps")
    assert starting(rich, "Caution") == "Caution: There is no run 'x'."


def test_time_against_the_roofs_gives_both_ends():
    sentence = starting(said(reference()), "Time against the roofs")
    assert (
        "closest, w13 of vllm_triton at M = 16 takes 121 µs where the DRAM roof alone asks for 108 (90 %)" in sentence
    )
    assert "farthest, w2 of fused_moe untuned at M = 8,192 takes 778 µs" in sentence


def test_findings_without_counters_say_what_to_measure():
    columns = ("sm_throughput_pct", "mem_throughput_pct")
    assert said(table(row("tuned 16", **dict.fromkeys(columns))))[0].endswith("measure them with --set full.")
    nothing = Captures({}, pd.DataFrame(), {}, missing=["There is no run 'x'."])
    assert [*map(str, findings.all_of(nothing, []))] == ["There is no run 'x'."]


def test_published_counters_are_set_apart_and_only_beside_the_same_m():
    assert "another GPU" in starting(said(reference()), "Published counters")
    assert starting(said(table(row("untuned 16", M=17))), "Published counters") == ""
    theirs = published.w13_counters()
    assert theirs["published"].all()
    assert theirs.loc[(theirs["backend"] == "fused_moe") & (theirs["M"] == 8192), "grid_blocks"].item() == 27624
    assert tables.published_counters().html().count("theirs") >= 8 * len(theirs)


@pytest.mark.parametrize("rows", [reference(), reference().head(0)], ids=["rows", "none"])
def test_tables_show_every_row_or_say_that_there_is_none(rows):
    roofs = roofline.roofs(GPU, [])
    shown = {
        "kernels": tables.kernels(rows, limits.limits(rows, roofs)),
        "ceilings": tables.ceilings(roofline.ceilings(rows, roofs, L2), limits.limits(rows, roofs)),
        "traffic": tables.traffic(traffic.traffic(rows, L2)),
    }
    for name, one in shown.items():
        text = one._repr_mimebundle_()["text/html"]
        if len(rows):
            assert text.split("<tbody>")[1].count("<tr>") == len(rows), name
        else:
            assert "no run with the kernels of w13 or w2 was read" in text, name


def test_figures_hold_every_point_that_is_known():
    rows = reference().assign(sm_throughput_pct=lambda t: t["sm_throughput_pct"].where(t["M"] == 16))
    rows = rows[rows["stage"] == "w13"]
    figure = plots.over_m(rows, "w13")
    panels = {a.text for a in figure.layout.annotations}
    assert panels == {"compute (% of the theoretical peak)", "memory (% of the theoretical peak)", "L2 hits (%)"}, (
        "DRAM was not counted"
    )
    assert [len(t.x) for t in figure.data] == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    roofs = roofline.roofs(GPU, [])
    drawn = plots.roofline(roofline.points(rows, L2), roofs, "w13")
    slope = next(t for t in drawn.data if t.name == "DRAM theoretical peak")
    assert slope.y[0] / slope.x[0] == pytest.approx(4.814, abs=0.001)
    assert {t.name for t in drawn.data} >= {"tensor theoretical peak", "fused_moe untuned, L2", "triton_kernels, DRAM"}
    points = roofline.points(rows, L2)
    near = pd.concat([points, points[points["M"] == 16].assign(M=128)], ignore_index=True)
    drawn = plots.roofline(near, roofs, "w13")
    assert {t for trace in drawn.data for t in trace.text or ()} == {"", "M = 16, 128", "M = 8,192"}
    bars = plots.waterfall(traffic.traffic(rows, L2), "w13", 8192)
    first = bars.data[0]
    assert first.measure[:3] == ("absolute", "relative", "relative")
    assert sum(first.x[:3]) == pytest.approx(first.x[3])
    assert len(bars.data) == 3


@pytest.fixture(scope="module")
def committed():
    """The captures that the notebook reads: our kernels and others, and a timeline of all of them."""
    names = [f"h200/experts_counters_{kernels}" for kernels in ("auto", "untuned", "backends")]
    return load.beside_timeline(load.counts(names), "h200/experts_timeline_backends")


def test_committed_captures_meet_the_reference_of_the_same_tiles(committed):
    """Same tiles, another kernel and routing: equal grids, DRAM reads an expert within 5 %, memory within 5 points."""
    own = committed.table[committed.table["series"] == "fused_moe untuned"].set_index(["M", "stage"])
    for M, stage in ((16, "w13"), (16, "w2"), (8192, "w13"), (8192, "w2")):
        theirs, found = row(f"untuned {M}", stage), own.loc[(M, stage)]
        assert found["grid_blocks"] == theirs["grid_blocks"]
        each, wanted = (r["dram_read_bytes"] / r["experts_hit"] for r in (found, theirs))
        assert each == pytest.approx(wanted, rel=0.05)
        assert abs(found["mem_throughput_pct"] - theirs["mem_throughput_pct"]) < 5
        assert found["duration_us"] == pytest.approx(theirs["duration_us"], rel=0.08)


def test_committed_captures_say_unprompted_what_limits_them(committed):
    plain = [str(f).replace("\u00a0", " ") for f in findings.all_of(committed, gpus.each(committed)) if f]
    large, small = plain[0].split(". And ")
    shares = "on chip > 99.9 %, compute 43 %, DRAM 18 %"
    assert f"w13 at M = 8,192 fused_moe untuned (64x64x32; {shares}) is limited by" in large
    limited, *others = large.split("; fused_moe (128x256x64")
    assert limited.endswith("on-chip memory traffic (L2) at 43 % of the compute roof")
    assert others[0].endswith("are all limited by compute, not by memory")
    assert small.startswith("at M = 16 all 6 are bound by DRAM, near the roof (DRAM 84 % to 91 %)")
    fast = starting(plain, "Above what the card sustains")
    assert "w13+act of triton_kernels at M = 8,192 reaches 106 % of the tensor roof (the most of " in fast
    assert "the roof is 679.1 TFLOP/s, its spread 655 to 794.6" in fast
    assert "where the L2 roof alone asks for " in starting(plain, "Time against the roofs")
    assert starting(plain, "L2 throughput of ncu").endswith("it counts what DRAM fills too.")


def test_roof_that_is_exceeded_is_wrong_only_beyond_its_fastest_repetition(committed):
    """Of 700 TFLOP/s, at most 746: 102 % are 714 and within, 107 % are 749 and beyond; without a spread both are."""
    [found] = gpus.each(committed)
    costs = found.costs.head(2).assign(pct_of_floor=[102.0, 107.0], binding="tensor", series=["slow", "fast"])
    roof = {"kind": "tensor", "value": 700e12, "low": 640e12, "high": 746e12, "measured": True}
    wrong, fast = map(str, findings.over(costs, pd.DataFrame([roof])))
    assert wrong.startswith("Wrong bound: ")
    assert "of fast at M" in wrong
    assert "the most of 1 that" in wrong
    assert fast.startswith("Above what the card sustains, below its fastest repetition, so no wrong bound: ")
    assert "of slow at M" in fast
    assert "700\u00a0TFLOP/s, its spread 640 to 746" in fast
    wrong, fast = findings.over(costs, pd.DataFrame([roof | {"low": None, "high": None}]))
    assert "the most of 2 that" in str(wrong)
    assert not fast
    assert findings.over(costs.assign(pct_of_floor=100.0), pd.DataFrame([roof])) == [None, None]


def test_limiter_of_a_kernel_is_the_same_in_both_tables(committed):
    [found] = gpus.each(committed)
    first, second = (
        re.findall(
            r'<td class="text">(DRAM|on-chip memory|tensor pipe|latency|too few blocks|nothing alone)</td>',
            shown.html(),
        )
        for shown in (tables.kernels(found.gemms, found.limits), tables.ceilings(found.costs, found.limits))
    )
    assert len(first) == len(second) == 48
    in_order = tables.kernels(found.gemms, found.limits).frame
    assert in_order.sort_index()["limiter"].tolist() == second
    own = found.costs.merge(found.limits, on=["series", "M", "stage"])
    units = own[own["limiter"].isin(["DRAM", "tensor pipe"])]
    assert (units["binding"].map({"dram": "DRAM", "tensor": "tensor pipe"}) == units["limiter"]).all()
    assert (own[["dram_pct", "l2_pct", "compute_pct"]].max(axis=1) + 1e-9 >= own["pct_of_floor"]).all()


def test_committed_captures_are_limited_as_their_counters_say(committed):
    [found] = gpus.each(committed)
    own = found.limits.set_index(["series", "M", "part"])["limiter"]
    assert set(own.xs(16, level="M")) == set(own.xs(128, level="M")) == {"DRAM"}
    assert own.index[own == "on-chip memory"].tolist() == [
        ("fused_moe untuned", M, part) for M in (1024, 8192) for part in ("w13", "w2")
    ]
    plain = said(committed.table)
    assert "w13+act of grouped at M = 1,024" in starting(plain, "Helps against DRAM")
    assert starting(plain, "Padding") == "", "masked rows read nothing from L2"
    assert "0.958 to 1.10 times the fewest bytes" in starting(plain, "DRAM traffic")


def test_committed_persistent_kernels_are_one_wave_without_empty_blocks(committed):
    rows = committed.table
    own = rows[rows["series"].isin(["hopper", "grouped", "triton_kernels"])]
    assert len(own) == 24
    assert own["persistent"].all()
    assert not rows.drop(own.index)["persistent"].any()
    assert set(own["grid_blocks"]) == {132, 264}
    assert own["waves"].max() == 1
    assert own["working_waves"].isna().all()
    assert not (own["blocks_empty"] > 0).any()
    hopper = own[own["series"] == "hopper"]
    assert hopper[["waves", "block_threads"]].drop_duplicates().to_numpy().tolist() == [[1, 512]]
    assert hopper["tile"].isna().all(), "the workload does not state it and the grid cannot tell"
    [found] = gpus.each(committed)
    costs = found.limits[found.limits["persistent"].fillna(False)]
    assert costs[["tail_pct", "empty_pct"]].isna().all(axis=None)


def test_committed_stage_with_a_reduce_of_its_own_writes_every_pair(committed):
    """matmul_ogs launches a kernel for the combine: its GEMM writes [pairs, K], and both times are shown."""
    own = committed.table[committed.table["stage"] == "w2+combine"].set_index("M")
    assert own["out_elements"].to_dict() == {M: 8 * M * 2048 for M in (16, 128, 1024, 8192)}
    assert own.loc[8192, "other_us"] == pytest.approx(72.3, abs=0.1)
    moved = traffic.traffic(committed.table).set_index(["stage", "M"])["dram_waste"]
    assert moved.loc[[("w2+combine", 8192)]].tolist() == [pytest.approx(0.98, abs=0.01)]
    assert "others" in tables.kernels(committed.table, limits.limits(committed.table)).html()


def test_tables_keep_fused_stages_with_their_gemm_and_figures_tell_backends_apart(committed):
    shown = tables.kernels(committed.table, limits.limits(committed.table)).html()
    stages = re.findall(r">(w13|w13\+act|w2|w2\+combine)<", shown)
    assert len(stages) == 48
    assert [s.startswith("w13") for s in stages] == [True] * 24 + [False] * 24
    looks = plots.styles(committed.table)
    assert len({color for color, _ in looks.values()}) == len(looks) == 6
    assert looks == plots.styles(committed.table.sort_values("M", kind="stable"))
    reasons = limits.stall_shares(committed.table, "w13").groupby("reason").size()
    assert len(reasons.drop("other")) == limits.NAMED_STALLS


def test_committed_timeline_agrees_with_the_times_under_ncu(committed):
    assert committed.table["timeline_us"].notna().all()
    assert committed.table["apart_pct"].abs().max() < 10
    assert committed.notes == [], "none is 15 % apart"
    assert set(committed.gaps["series"]) <= set(committed.table["series"]), "no gaps of kernels that were not counted"


def test_traffic_model_meets_the_committed_counters(committed):
    moved = traffic.traffic(committed.table, committed.gpus["H200"]["l2_cache_bytes"])
    assert moved["dram_error_pct"].abs().max() < 15
    model = moved.set_index("series")["model_error_pct"].dropna()
    alone, persistent = model.filter(regex="fused|vllm"), model.filter(regex="grouped|kernels")
    assert alone.between(-1, 21).all()
    assert persistent.between(-7, 90).all()
    small = moved[moved["tile"] == "64x64x32"]
    assert len(small) == 4
    assert small["model_error_pct"].max() < 4
