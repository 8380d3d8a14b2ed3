from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sweep_builder
from checkout import REPO
from sweep_builder import row

from moe_lab import report
from moe_lab.analysis import formats, leads, sweep
from moe_lab.pages import load
from moe_lab.pages.m_sweep import cautions, findings, plots, tables
from moe_lab.pages.show import palette
from moe_lab.runs import bench_runs
from moe_lab.spec import published
from moe_lab.spec.errors import UserError


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "profiles"
    folder.mkdir()
    monkeypatch.setenv("MOE_LAB_PROFILES", str(folder))
    return folder


def bench(profiles: Path, rows: list[dict[str, Any]], *, complete: bool = True, **header: Any) -> sweep.Sweep:
    path = sweep_builder.write(profiles / "a.json", rows, complete=complete, **header)
    bench_runs.import_bench([path], "h200/x", root=profiles, overwrite=True)
    return load.experts_bench("h200/x")


# At 1 ours takes half of a's time; at 16 it is slower by 10 %; at 256 the medians differ within the spread.
TIMES = {1: {"ours": 50.0, "a": 100.0, "b": 75.0}, 16: {"ours": 110.0, "a": 100.0, "b": 120.0}}
TIMES |= {256: {"ours": 200.0, "a": 201.0, "b": 300.0}}


def lines(**fields: Any) -> list[dict[str, Any]]:
    return [row(name, M, us, **fields) for M, given in TIMES.items() for name, us in given.items()]


def test_times_set_ours_beside_the_baseline_and_the_best_other(profiles: Path) -> None:
    table = sweep.times(sweep.at(bench(profiles, lines()), ""), "ours", "a").set_index("M")
    assert table["speedup"].tolist() == pytest.approx([2.0, 100 / 110, 201 / 200])
    assert table["best"].tolist() == ["b", "a", "a"]
    assert table["speedup_best"].tolist() == pytest.approx([1.5, 100 / 110, 201 / 200])
    assert table.loc[16, "ms|b"] == pytest.approx(0.12)
    assert table["roofline_ms"].is_monotonic_increasing


def test_times_without_one_of_the_two_leave_the_ratio_open(profiles: Path) -> None:
    rows = sweep.at(bench(profiles, lines()), "")
    assert sweep.times(rows, "auto", "a")["speedup"].isna().all()
    assert sweep.times(rows, "ours", "z")["speedup"].isna().all()
    assert sweep.times(rows, "ours", "z")["speedup_best"].notna().all()


def test_one_sweep_is_one_model_routing_part_and_mode(profiles: Path) -> None:
    other = lines(routing="hot") + lines(mode="eager") + lines(part="w13", stage="w13")
    both = bench(profiles, lines() + other + [row("ours", 1, 7.0, model="deepseek-v3")])
    assert len(sweep.at(both, "")) == len(lines())
    assert sweep.at(both, "deepseek-v3")["median_us"].tolist() == [7.0]
    assert set(sweep.at(both, "", "hot")["routing"]) == {"hot"}
    assert sweep.at(both, "", "zipf:9").empty


def test_ours_are_the_backends_whose_kernels_are_and_the_rest_are_peers() -> None:
    assert leads.own() == {"auto", "hopper", "grouped", "fused_moe", "torch_loop", "batched", "batched_loop"}
    peers = ["vllm_triton@0.15.0", "triton_kernels", "torch_grouped", "deep_gemm", "of_a_plugin_elsewhere"]
    assert all(leads.is_peer(name) for name in peers)
    assert not leads.is_peer("of_a_plugin_elsewhere", ours="of_a_plugin_elsewhere")


def test_lead_is_against_the_best_peer_of_each_m_and_never_our_own(profiles: Path) -> None:
    given = {1: (50.0, 40.0, 100.0, 75.0), 16: (110.0, 90.0, 100.0, 120.0), 256: (200.0, 201.0, 201.0, 300.0)}
    names = ("auto", "fused_moe", "vllm_triton", "torch_grouped")
    rows = [row(n, M, us) for M, times in given.items() for n, us in zip(names, times, strict=True)]
    found = leads.leads(sweep.at(bench(profiles, rows), ""), "auto")
    assert found["peer"].tolist() == ["torch_grouped", "vllm_triton", "vllm_triton"]
    assert found["speedup"].tolist() == pytest.approx([75 / 50, 100 / 110, 201 / 200])
    assert found["verdict"].tolist() == ["ahead", "behind", "even"]
    mine = [r for r in rows if r["backend"] != "auto"]
    without, name = leads.with_ours(sweep.at(bench(profiles, mine), ""), "auto")
    assert name == leads.OURS
    assert leads.leads(without, "auto")["ours_us"].tolist() == [40.0, 90.0, 201.0], "the quickest of ours"
    theirs, first = leads.with_ours(sweep.at(bench(profiles, [row("vllm_triton", 1, 9.0)]), ""), "auto")
    assert first == "vllm_triton"
    assert leads.leads(theirs, "auto").empty


def test_part_with_the_largest_excess_holds_the_same_work_in_both() -> None:
    def split(**stages: dict[str, float]) -> pd.DataFrame:
        rows = [{"backend": b, "stage": s, "us": us} for b, own in stages.items() for s, us in own.items()]
        return pd.DataFrame(rows)

    a = {"align+w13+act+w2": 182.0, "combine": 1.3}
    b = {"align": 1.6, "w13": 128.0, "act": 1.5, "w2": 70.0, "combine": 1.6}
    assert leads.largest_excess(split(a=a, b=b), "a", "b") == ("align+w13+act+w2", 182.0, pytest.approx(201.1))
    apart = {"align": 1.0, "w13": 100.0, "act": 1.0, "w2": 90.0, "combine": 1.0}
    assert leads.largest_excess(split(a=apart, b=b), "a", "b") == ("w13", 100.0, 128.0)
    fused = {"align": 7.0, "w13+act": 127.0, "w2+combine": 75.0}
    assert leads.largest_excess(split(a=a, b=fused), "a", "b") is None, "together they are one part"
    assert leads.largest_excess(split(a=a), "a", "b") is None
    assert leads.largest_excess(split(a=b, b=b), "a", "b") is None, "no part takes longer"


def test_winners_say_whether_the_next_can_be_told_apart(profiles: Path) -> None:
    table = sweep.winners(sweep.at(bench(profiles, lines()), "")).set_index("M")
    assert table["winner"].tolist() == ["ours", "a", "ours"]
    assert table["verdict"].tolist() == ["ahead", "ahead", "even"]
    assert table.loc[1, "lead_pct"] == pytest.approx(100 * (1 - 50 / 75))
    alone = sweep.winners(sweep.at(bench(profiles, [row("ours", 1, 5.0)]), ""))
    assert alone["next"].isna().all()


def test_crossing_lies_where_the_logarithms_meet(profiles: Path) -> None:
    rows = [row("a", 4, 100.0), row("b", 4, 200.0), row("a", 64, 400.0), row("b", 64, 200.0), row("a", 256, 9.0)]
    found = sweep.crossings(sweep.at(bench(profiles, rows), ""), "a", "b")
    assert found[["low", "high", "before", "after"]].to_numpy().tolist() == [[4, 64, "a", "b"]]
    assert found["M"].tolist() == pytest.approx([16.0]), "halfway between 4 and 64 on a logarithmic axis"
    assert sweep.crossings(sweep.at(bench(profiles, rows), ""), "a", "none").empty


def test_stages_add_up_the_kernels_of_a_call(profiles: Path) -> None:
    kernels = [["align|count", 1.0], ["align|place", 3.0], ["w13+act|gemm", 12.0], ["other|fill", 4.0]]
    rows = sweep.at(bench(profiles, [row("a", 1, 30.0, kernels_us=kernels), row("b", 1, 9.0)]), "")
    table = sweep.stages(rows, ["a", "b"]).set_index("stage")
    assert table["us"].to_dict() == {"align": 4.0, "w13+act": 12.0, "other": 4.0}
    assert table["pct"].tolist() == pytest.approx([20, 60, 20])
    assert table["kernels"].tolist() == [2, 1, 1]
    assert sweep.stages(rows, ["b"]).empty, "it was not traced"


def test_skew_takes_off_what_the_bound_itself_changes(profiles: Path) -> None:
    rows = [row("a", 64, 100.0), row("a", 64, 90.0, routing="hot", experts_hit=64)]
    table = sweep.skew(bench(profiles, rows), "", ["a"])
    bound = row("a", 64, 1.0, experts_hit=64)["roofline_us"] / row("a", 64, 1.0)["roofline_us"]
    assert table["ratio"].tolist() == pytest.approx([0.9])
    assert table["bound_ratio"].tolist() == pytest.approx([bound], rel=1e-3)
    assert table["ratio_net"].tolist() == pytest.approx([0.9 / bound], rel=1e-3)
    assert sweep.skew(bench(profiles, lines()), "", ["a"]).empty


def test_formats_stand_side_by_side_with_their_gain_over_bf16_and_their_error(profiles: Path) -> None:
    """The quickest backend of each format counts; a size that was not measured in bf16 has no gain."""
    plain = [row("ours", 1, 100.0), row("a", 1, 80.0)]
    coarse = {"format": "fp8_block", "error_vs_bf16_rms_rel": 0.06}
    fp8 = [row("ours", 1, 40.0, **coarse), row("a", 1, 50.0, **coarse), row("ours", 16, 60.0, **coarse)]
    benches = []
    for name, rows in (("h200/plain", plain), ("h200/fp8", fp8), ("h200/both", [*plain, *fp8])):
        bench_runs.import_bench([sweep_builder.write(profiles / "a.json", rows)], name, root=profiles)
        benches.append(load.experts_bench(name))
    *benches, both = benches
    assert formats.side_by_side([both]).equals(formats.side_by_side(benches)), "one run of two formats"
    table = formats.side_by_side(benches).set_index(["M", "format"])
    assert table["backend"].to_dict() == {(1, "bf16"): "a", (1, "fp8_block"): "ours", (16, "fp8_block"): "ours"}
    assert table["speedup"].isna().tolist() == [False, False, True]
    assert table.loc[(1, "fp8_block"), "speedup"] == pytest.approx(2.0)
    assert table.loc[(1, "fp8_block"), "error_vs_bf16_rms_pct"] == pytest.approx(6.0)
    assert [one.run.manifest["name"] for one in load.experts_benches("h200/f*")] == ["h200/fp8"]
    shown = tables.formats(formats.side_by_side(benches))
    assert shown.frame.set_index("M").loc[1, "median_us|fp8_block"] == 40.0
    assert plots.formats(formats.side_by_side(benches).head(2)).data[2].y == (2.0,)
    assert formats.side_by_side([load.experts_bench("")]).empty
    many = pd.concat([table.reset_index().query("M == 1").iloc[:1].assign(format=f"f{n}") for n in range(12)])
    assert len(plots.formats(many).data) == 24, "two panels; more formats than marks to tell lines apart"


def test_published_sweep_is_marked_and_has_the_crossing_of_the_article() -> None:
    table = published.sweep_table().set_index("M")
    assert table.loc[16, "speedup"] == pytest.approx(1.150 / 1.694)
    assert table.loc[8192, "speedup"] == pytest.approx(9.158 / 5.734)
    assert (table["speedup"] > 1).idxmax() == 128
    assert "L40" in published.SWEEP.label


def test_load_without_a_run_is_a_sentence_and_another_benchmark_an_error(profiles: Path) -> None:
    import bench_builder

    nothing = load.experts_bench("h200/none")
    assert "There is no run 'h200/none'" in nothing.missing
    assert "moe-lab bench experts --name none" in nothing.missing
    assert [*map(str, findings.all_of(nothing, sweep.at(nothing, ""), pd.DataFrame(), "auto", "a"))] == [
        nothing.missing
    ]
    path = bench_builder.write(profiles / "a.json", [bench_builder.row("auto", "graph", 1.0)])
    bench_runs.import_bench([path], "h200/align", root=profiles)
    with pytest.raises(UserError, match="is of the benchmark 'align', not of experts"):
        load.experts_bench("h200/align")


def said(own: sweep.Sweep, ours: str = "ours", baseline: str = "a") -> list[str]:
    rows = sweep.at(own, "")
    return [str(f) for f in findings.all_of(own, rows, sweep.skew(own, "", [ours, baseline]), ours, baseline) if f]


def test_findings_say_who_is_ahead_where_and_by_how_much(profiles: Path) -> None:
    sentences = [text.replace("\u00a0", " ") for text in said(bench(profiles, lines()))]
    assert sentences[0].startswith("On H200, qwen3-30b-a3b in bf16, uniform routing: ours is ahead of the best peer, ")
    assert "at 1 of 3 sizes, even at 1, behind at 1;" in sentences[0]
    ends = "from 0.909 at M = 16 (best peer at this M: a) to 1.50 at M = 1 (best peer at this M: b)."
    assert sentences[0].endswith(ends)
    assert "At M = 1: ours is ahead of the best peer at this M, b, by 33 % (50.0 µs against 75.0 µs)." in sentences
    slow = "At M = 16: The best peer at this M, a, is ahead of ours by 9.1 % (100 µs against 110 µs)."
    assert slow in sentences
    even = "At M = 256: ours and the best peer at this M, a, cannot be told apart (200 µs against 201 µs)."
    assert even in sentences
    assert "Quickest: ours at M = 1; a at M = 16; ours at M = 256." in sentences
    assert any("a overtakes ours between M = 1 and 16" in text for text in sentences)


@pytest.mark.parametrize(
    ("ours", "theirs", "us", "reason"),
    [
        # 28 of the 50 us between the calls lie in w13 with the activation.
        (
            {"w13": 10.0, "act": 2.0, "w2": 9.0},
            {"w13+act": 40.0, "w2": 30.0},
            100.0,
            "w13 and act take 12.0 µs instead of 40.0 µs, 56 % of that",
        ),
        ({"w13": 10.0, "w2": 9.0}, {"w13": 60.0, "w2": 9.0}, 100.0, "w13 take 10.0 µs instead of 60.0 µs, all of that"),
        ({"w13": 10.0, "w2": 9.0}, {"w13": 34.0, "w2": 9.0}, 100.0, ""),  # 24 of 50: less than half
        ({"w13": 10.0, "w2": 9.0}, {"w13": 80.0, "w2": 9.0}, 100.0, ""),  # 70 of 50: the trace does not fit the times
        ({"w13+w2": 40.0}, {"align+w13+w2": 90.0}, 100.0, ""),  # one part: no stage can be blamed
        (
            {"w13+act+w2": 40.0, "combine": 2.0},
            {"align": 20.0, "w13": 20.0, "w2": 20.0},
            99.0,
            "",
        ),  # fewer kernels are no reason
    ],
)
def test_findings_say_because_only_with_the_time_of_the_cause(
    profiles: Path, ours: dict[str, float], theirs: dict[str, float], us: float, reason: str
) -> None:
    pairs = (("ours", 50.0, ours, 100.0), ("a", us, theirs, 700.0))
    rows = [
        row(n, 1, t, kernels_us=[[f"{stage}|k", v] for stage, v in own.items()], padding_waste_pct=waste)
        for n, t, own, waste in pairs
    ]
    text = " ".join(said(bench(profiles, rows))).replace("\u00a0", " ")
    assert (f"because its kernels of {reason}" in text) if reason else ("because" not in text)


def test_other_runs_in_which_ours_is_behind_are_said(profiles: Path) -> None:
    text = str(cautions.behind([bench(profiles, lines())], "ours")).replace("\u00a0", " ")
    assert text.startswith("Behind the best peer in other runs: ours with qwen3-30b-a3b in bf16 on ")
    assert text.endswith(" at M = 16 (0.909 times as fast as a).")
    assert cautions.behind([bench(profiles, [row("ours", 1, 1.0), row("a", 1, 2.0)])], "ours") is None
    assert cautions.behind([], "ours") is None
    near = str(cautions.behind([bench(profiles, [row("ours", 1, 50.5), row("a", 1, 50.0)])], "ours"))
    assert near.endswith("(0.990 times as fast as a, within the spread of the repetitions).")
    formats = [
        row(n, 1, us, format=f) for f, n, us in (("bf16", "ours", 40.0), ("int8", "ours", 30.0), ("int8", "a", 20.0))
    ]
    found = cautions.behind([bench(profiles, formats)], "ours")
    assert found
    assert " in int8 on " in str(found)
    assert "bf16" not in str(found), "every format, each against its own peers"


def test_bound_that_is_exceeded_is_said_to_be_wrong_and_marked(profiles: Path) -> None:
    bound = row("ours", 16, 1.0)["roofline_us"]
    own = bench(profiles, [row("ours", 16, bound / 1.02), row("a", 16, 2 * bound)])
    rows = sweep.at(own, "")
    text = "\n".join(said(own)).replace("\u00a0", " ")
    assert "Wrong bound: at M = 16 it is exceeded, most by ours at M = 16 (102 % of it)" in text
    assert "this run measured 4.50 TB/s, 1 benchmark of this GPU 4.50 to 4.50." in text
    assert tables.winners(sweep.winners(rows)).html().count("wrong") == 2, "the style and the cell"
    assert "which is wrong" in plots.shares(rows, "ours").data[-1].customdata[0]
    right = bench(profiles, [row("ours", 16, bound / 0.999)])
    assert "Wrong bound" not in "\n".join(said(right))
    assert 'wrong"' not in tables.winners(sweep.winners(sweep.at(right, ""))).html()


def test_bound_that_only_the_average_of_its_roof_is_below_is_not_wrong(profiles: Path) -> None:
    """A run whose fastest read was 3 % above its roof: 102 % of the bound is no wrong bound, 104 % is one."""
    read = sweep_builder.ROOFS["read_bytes_per_s"]
    spread = {"read_bytes_per_s": {"low": 0.9 * read, "high": 1.03 * read, "repetitions": 20, "how": "reads"}}
    measured = {"roofs": sweep_builder.ROOFS | {"spread": spread}, "l2": sweep_builder.COLD}
    bounds = {M: row("ours", M, 1.0)["roofline_us"] for M in (1, 16)}
    rows = [row("ours", 1, bounds[1] / 1.02), row("ours", 16, bounds[16] / 1.04)]
    text = "\n".join(said(bench(profiles, rows, measured=measured))).replace("\u00a0", " ")
    assert "Wrong bound: at M = 16 it is exceeded" in text
    assert "Above what the card sustains: at M = 1 it is exceeded, most by ours at M = 1 (102 % of it), but not" in text


def test_rows_carry_the_roofs_by_which_their_percentages_are_derived(profiles: Path) -> None:
    given = row("ours", 16, 300.0, roof_bytes_per_s=4.5e12, roof_flops_per_s=7e14)
    found = sweep.at(bench(profiles, [given, row("a", 16, 310.0)]), "").set_index("backend").loc["ours"]
    memory, compute = found["minimum_bytes"] / 4.5e12 * 1e6, found["useful_gflop"] * 1e9 / 7e14 * 1e6
    assert found["pct_of_roofline"] == pytest.approx(100 * max(memory, compute) / found["median_us"], abs=1e-3)
    old = sweep.at(bench(profiles, [row("a", 16, 310.0, roof_bytes_per_s=None, roof_flops_per_s=None)]), "")
    assert old[["roof_bytes_per_s", "roof_flops_per_s"]].isna().all(axis=None)


def test_findings_warn_of_a_warm_cache_throttling_failures_and_an_early_end(profiles: Path) -> None:
    warm = {"roofs": sweep_builder.ROOFS, "l2": sweep_builder.COLD | {"ratio": 1.02, "cold": False}}
    rows = [*lines(throttled="power cap"), row("bad", 1, None, error="it is wrong")]
    text = "\n".join(said(bench(profiles, rows, complete=False, measured=warm)))
    assert "Caution: the L2 cache was not cold (a read after the flush took 1.02 times a warm one)" in text
    assert "(power cap) at M = 1, 16, 256" in text
    assert "Failed: bad in 1 row, for example at M = 1: it is wrong." in text
    assert "stopped before its end" in text
    failed = {"roofs": sweep_builder.ROOFS, "l2": sweep_builder.COLD | {"ratio": 0.4, "cold": False}}
    text = "\n".join(said(bench(profiles, rows, measured=failed)))
    assert "which no cache explains: the check failed" in text


def test_findings_without_ours_say_what_there_is(profiles: Path) -> None:
    first = said(bench(profiles, lines()), "auto", "z")[0]
    assert first.endswith("ours is the quickest at 2 of 3 sizes, of: ours, a, b.")


def test_plots_draw_what_the_tables_hold(profiles: Path) -> None:
    own = bench(profiles, sweep_builder.rows(routings=("uniform", "zipf:1.2")))
    rows = sweep.at(own, "")
    figure = plots.times(rows, "auto")
    drawn = {trace.name: trace for trace in figure.data}
    assert set(drawn) == {*sweep_builder.BACKENDS, "roofline bound"}
    assert list(drawn["auto"].y) == rows[rows["backend"] == "auto"]["median_us"].tolist()
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    assert max(plots.shares(rows, "auto").data[-1].y) == rows[rows["backend"] == "auto"]["pct_of_roofline"].max()
    bars = plots.stages(sweep.stages(rows, ["auto", "triton_kernels"]), ["auto", "triton_kernels"]).data
    assert {bar.name for bar in bars} == {"align", "w13", "w2", "w13+act", "w2+combine"}
    skewed = plots.skew(sweep.skew(own, "", ["auto"]), "auto").data
    assert [trace.name for trace in skewed] == ["auto, zipf:1.2"]


def test_colours_stay_the_same_and_releases_of_a_peer_share_theirs(profiles: Path) -> None:
    rows = sweep.at(bench(profiles, sweep_builder.rows()), "")
    two = pd.concat([rows, rows[rows["backend"] == "auto"].assign(backend="vllm_triton@0.14")])
    two = pd.concat([two, rows[rows["backend"] == "auto"].assign(backend="vllm_triton@0.15")])
    drawn = {trace.name: trace.line for trace in plots.times(two, "auto").data if trace.name != "roofline bound"}
    old, new = drawn["vllm_triton@0.14"], drawn["vllm_triton@0.15"]
    assert old.color == new.color == palette.of("vllm_triton")
    assert old.dash != new.dash
    alone = {t.name: t.line.color for t in plots.times(rows[rows["backend"] != "auto"], "x").data}
    assert all(drawn[name].color == color for name, color in alone.items() if name in drawn)
    assert len({line.color for line in drawn.values()}) == len({name.partition("@")[0] for name in drawn})


def test_tables_mark_what_is_published_and_give_a_sentence_for_nothing(profiles: Path) -> None:
    own = bench(profiles, sweep_builder.rows())
    times = sweep.times(sweep.at(own, ""), "auto", "vllm_triton")
    beside = tables.beside_published(times, "auto", "vllm_triton")
    assert beside.html().count("theirs") >= 30
    assert [c.key for c in beside.columns][1:4] == ["ms|auto", "ms|vllm_triton", "speedup"]
    assert "the L2 cache was cold" in tables.cold(own).sentence
    assert [c.key for c in tables.roofs(own).columns][:3] == ["what", "value", "unit"]
    assert "4.50" in tables.roofs(own).html()
    nothing = load.experts_bench("")
    for shown in (
        tables.summary(sweep.times(nothing.rows, "a", "b"), "a", "b"),
        tables.winners(sweep.winners(nothing.rows)),
        tables.details(nothing.rows),
        tables.roofs(nothing),
    ):
        assert isinstance(shown, tables.Note)


def test_notebook_runs_with_a_sweep_and_without(profiles: Path, tmp_path: Path) -> None:
    notebook = str(REPO / "notebooks" / "02_m_sweep.ipynb")
    bench(profiles, sweep_builder.rows([1, 256], routings=("uniform", "hot")))
    for name, figures, text in (
        (
            "h200/x",
            4,
            "auto is ahead of the best peer at 2 of 2 sizes",
        ),
        ("", 0, "No run was asked"),
    ):
        built = report.build([notebook], out=tmp_path / f"out{figures}", parameters={"sweep_run": name})
        (page,) = built.pages
        assert page.failed is None
        html = Path(page.html).read_text()
        assert text in html
        assert page.figures == figures
