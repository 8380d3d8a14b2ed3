from pathlib import Path
from typing import Any

import bench_builder
import pandas as pd
import pytest
from bench_builder import row

from moe_lab import report, runs
from moe_lab.analysis import align, align_steps
from moe_lab.pages import load
from moe_lab.pages.align_sort import findings, plots, tables
from moe_lab.runs import bench_runs
from moe_lab.spec import published
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import COLUMNS, RANGE_COLUMNS, Launches, tidy


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "profiles"
    folder.mkdir()
    monkeypatch.setenv("MOE_LAB_PROFILES", str(folder))
    return folder


def bench(profiles: Path, rows: list[dict[str, Any]], *, complete: bool = True, **header: Any) -> align.Bench:
    path = bench_builder.write(profiles / "a.json", rows, complete=complete, **header)
    bench_runs.import_bench([path], "h200/x", root=profiles, overwrite=True)
    return load.align_bench("h200/x")


def three(us: dict[str, tuple[float, float, float]], **case: Any) -> list[dict[str, Any]]:
    """GIVEN one case: algorithm -> (p20, median, p80)."""
    return [row(name, "graph", mid, p20_us=low, p80_us=high, **case) for name, (low, mid, high) in us.items()]


# ours is ahead of a by 2x, behind b by 10 %, even with c: medians differ, but the spreads overlap.
CASE = {"(empty)": (3.9, 4, 4.1), "ours": (9.9, 10, 10.1), "a": (19, 20, 21), "b": (8.9, 9, 9.1), "c": (9, 9.8, 10.2)}


def test_duels_say_who_is_ahead_with_and_without_the_floor(profiles: Path) -> None:
    duel = align.duels(bench(profiles, three(CASE)), "ours").set_index("rival")
    assert list(duel.index) == ["b", "c", "a"], "the quickest rival first"
    assert duel["verdict"].to_dict() == {"a": "ahead", "b": "behind", "c": "even"}
    assert duel.loc["a", "speedup"] == pytest.approx(2.0)
    assert duel.loc["a", "speedup_net"] == pytest.approx((20 - 4) / (10 - 4))
    assert duel["empty_us"].tolist() == [4, 4, 4]


def test_duels_leave_the_net_ratio_open_where_nothing_is_above_the_floor(profiles: Path) -> None:
    duel = align.duels(bench(profiles, three({"(empty)": (4, 4, 4), "ours": (3.9, 3.9, 3.9), "a": (8, 8, 8)})), "ours")
    assert duel["speedup_net"].isna().all()


def test_duels_compare_only_inside_one_case(profiles: Path) -> None:
    rows = three({"ours": (1, 1, 1)}, tokens=1) + three({"a": (2, 2, 2)}, tokens=16)
    assert align.duels(bench(profiles, rows), "ours").empty


def test_behind_lists_every_case_that_another_wins_and_worst_hides_no_topk(profiles: Path) -> None:
    rows = three(CASE, topk=8) + three(CASE | {"b": (4, 4.5, 5)}, topk=1) + three(CASE | {"b": (30, 30, 30)}, E=64)
    duel = align.duels(bench(profiles, rows), "ours")
    lost = align.behind(duel)
    assert lost[["E", "topk", "rival"]].to_numpy().tolist() == [[256, 1, "b"], [256, 8, "b"]]
    assert lost["lost_pct"].tolist() == pytest.approx([100 * 5.5 / 4.5, 100 / 9])
    worst = align.worst(duel).set_index("E")
    assert worst.loc[256, "speedup"] == pytest.approx(0.45)
    assert worst.loc[256, "topk"] == 1
    assert worst.loc[64, "rival"] == "c"
    against = align.rivals(duel).set_index("rival")
    assert against.loc["b", ["cells", "ahead", "even", "behind"]].tolist() == [3, 1, 0, 2]


def test_one_shape_is_the_routing_that_comes_first_in_the_run(profiles: Path) -> None:
    rows = three(CASE, routing="uniform") + three(CASE | {"ours": (1, 1, 1)}, routing="hot")
    both = bench(profiles, rows)
    assert align.at(both, 256, 8).set_index("algorithm").loc["ours", "median_us"] == 10
    assert align.speedups(align.duels(both, "ours"), "a", 8)["speedup"].tolist() == [2.0]


def test_limit_is_the_bytes_over_the_bandwidth_and_says_which(profiles: Path) -> None:
    own = bench(profiles, three(CASE, minimum_bytes=4_000_000))
    speed = align.bandwidth(own)
    assert speed == (4e12, "copy measured in the run")
    assert align.limit(align.at(own, 256, 8), speed)["us"].tolist() == pytest.approx([1.0])
    without = bench(profiles, three(CASE), gpu={"name": "NVIDIA H200"})
    assert align.bandwidth(without) is None
    rated = Launches(pd.DataFrame(), pd.DataFrame(), {"gpu": {"memory_bandwidth_bytes_per_s": 4.9e12}})
    assert align.bandwidth(without, rated) == (4.9e12, "theoretical peak by the driver")
    assert align.limit(align.at(without, 256, 8), None).empty


def test_peers_stand_beside_the_same_size_only(profiles: Path) -> None:
    sizes = [three(CASE, tokens=m, E=e) for m, e in ((16384, 256), (16384, 64), (2048, 256), (16, 128))]
    table = align.beside_peers(align.duels(bench(profiles, [line for lines in sizes for line in lines]), "ours"), "a")
    assert table[["tokens", "E"]].to_numpy().tolist() == [[16, 128], [16384, 256]], "topk 8 of 64 was not measured"
    assert table["vllm_us"].tolist() == [pd.NA, 87]
    assert table["sgl_kernel_us"].tolist() == [pd.NA, 92.0]
    assert set(published.ALIGN_PEERS) <= set(table.columns)


def test_load_without_a_run_is_a_sentence_and_a_capture_an_error(profiles: Path) -> None:
    nothing = load.align_bench("h200/none")
    assert "There is no run 'h200/none'" in nothing.missing
    assert "moe-lab bench align --name none" in nothing.missing
    assert align.duels(nothing, "auto").empty
    (profiles / "h200" / "cap").mkdir(parents=True)
    (profiles / "h200" / "cap" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is a capture, not a benchmark"):
        load.align_bench("h200/cap")


@pytest.mark.parametrize(
    ("algorithm", "kernels", "steps"),
    [
        # Committed runs hold two_kernel_triton and mb_atomic, plugins of the past, and kernels under their old names.
        ("two_kernel_triton", ["count_scan_kernel", "place_by_atomics_kernel"], ["count+cumsum", "place"]),
        ("multi_block", ["count_kernel", "place_kernel"], ["count", "cumsum+place"]),
        ("multi_block", ["count_kernel", "scan_kernel", "place_kernel"], ["count", "cumsum", "place"]),
        ("mb_atomic", ["count_kernel", "place_kernel"], ["count", "cumsum+place"]),
        ("auto", ["per_expert_kernel"], ["count+cumsum+place"]),
        ("auto", ["one_launch_kernel"], ["count+cumsum+place"]),
        ("auto", ["cooperative_align"], ["count+cumsum+place"]),
        ("radix_sort", ["DeviceRadixSortOnesweepKernel", "spread_kernel", "copy"], ["sort", "place", "other"]),
        ("no_such_plugin", ["count_kernel", "unknown"], ["count", "other"]),
    ],
)
def test_steps_follow_what_the_plugin_states(algorithm: str, kernels: list[str], steps: list[str]) -> None:
    assert align_steps.steps_of(algorithm, kernels) == steps


def captured() -> Launches:
    """GIVEN a capture: two_kernel called three times at M=1024, kernel times 10, 20, 60 and 1, 2, 3 us; another E."""
    calls = [(256, 10, 1), (256, 20, 2), (256, 60, 3), (64, 500, 500)]
    ranges, table = [], []
    for E, first, second in calls:
        root = f"moe_lab|phase=align|M=1024|E={E}|topk=8|block_m=64|align=two_kernel_triton"
        ranges += [{"name": root, "path": root}, {"name": "align", "path": f"{root}/align"}]
        for name, us in (("count_scan_kernel", first), ("place_by_atomics_kernel", second)):
            table.append({"kind": "kernel", "name": name, "duration_ns": us * 1000, "range_id": len(ranges) - 1})
    table.append({"kind": "memset", "name": "fill", "duration_ns": 9_000})  # the flush, in no range
    return Launches(tidy(pd.DataFrame(table), COLUMNS), tidy(pd.DataFrame(ranges), RANGE_COLUMNS), {})


def test_split_from_a_capture_is_the_median_over_calls() -> None:
    table = align_steps.from_capture(captured(), 256, 8).set_index("step")
    assert table["us"].to_dict() == {"count+cumsum": 20, "place": 2}
    assert table["pct"].tolist() == pytest.approx([100 * 20 / 22, 100 * 2 / 22])
    assert table["tokens"].tolist() == [1024, 1024]
    assert align_steps.from_capture(captured(), 128, 8).empty


def test_split_says_whether_it_is_from_a_capture_or_from_the_benchmark(profiles: Path) -> None:
    kernels = [["count_scan_kernel", 80.0], ["place_by_atomics_kernel", 20.0]]
    own = bench(profiles, [row("two_kernel", "graph", 110.0, kernels_warm_us=kernels), row("auto", "graph", 9.0)])
    run = runs.Run(profiles, {"name": "h200/steps", "workload": {"warm": False}})
    table, said = align_steps.split(own, align_steps.Capture(run, captured()), 256, 8)
    assert said == "From the capture h200/steps: medians over eager calls, L2 cache cold."
    assert table["us"].tolist() == [20, 2]
    elsewhere = runs.Run(profiles, {"name": "b200/steps", "gpu": {"name": "NVIDIA B200"}})
    table, said = align_steps.split(own, align_steps.Capture(elsewhere, captured()), 256, 8)
    assert said.startswith("The capture b200/steps is of NVIDIA B200, the benchmark of NVIDIA H200, so it is not used.")
    assert table["us"].tolist() == [80, 20], "the benchmark's own"
    missing = load.steps("h200/none")
    table, said = align_steps.split(own, missing, 256, 8)
    assert "There is no run 'h200/none'" in said
    assert said.endswith("one eager call per size, with warm caches.")
    assert table[["step", "us", "pct"]].to_numpy().tolist() == [["count+cumsum", 80, 80], ["place", 20, 20]]


def test_counters_say_which_call_and_step_a_kernel_is_of() -> None:
    given = captured()
    given.table["registers_per_thread"] = pd.array([20, 30] * 4 + [16], "Int64")
    given.table["cycles_elapsed"] = pd.array([330_000.0, 80_000.0] * 4 + [1.0], "Float64")
    given.table["grid_blocks"] = given.table["block_threads"] = pd.array([2] * 9, "Int64")
    table = align_steps.counters(align_steps.Capture(runs.Run(Path(), {"name": "x"}), given))
    assert table[["E", "step", "registers_per_thread", "cycles_elapsed"]].to_numpy().tolist() == [
        *([256, "count+cumsum", 20, 330_000], [256, "place", 30, 80_000]),
        *([64, "count+cumsum", 20, 330_000], [64, "place", 30, 80_000]),
    ]
    assert align_steps.counters(align_steps.Capture(None, None, "none")).empty


def say(own: align.Bench, ours: str = "ours", baseline: str = "a") -> list[str]:
    split = align_steps.from_bench(own, 256, 8)
    duels = align.duels(own, ours)
    found = [str(f) for f in findings.all_of(own, duels, split, ours, baseline, 256, 8) if f]
    return [text.replace("\u00a0", " ") for text in found if text]


def test_findings_name_winner_reason_and_every_loss(profiles: Path) -> None:
    kernels = {"ours": [["place_kernel", 1.0]], "a": [["count_scan_kernel", 9.0], ["place_by_atomics_kernel", 1.0]]}
    lines = [r | {"kernels_warm_us": kernels.get(r["algorithm"])} for r in three(CASE, minimum_bytes=4_000_000)]
    said = say(bench(profiles, lines))
    assert said[0] == (
        "On H200, ours is ahead of a in 1 of 1 cases, 2.00 times as fast: "
        "10.0 µs against 20.0 µs at 1,024 tokens x 8 of 256 experts."
    )
    assert "at 1,024 tokens 2.00 times becomes 2.67" in said[1]
    assert said[2] == "Quickest: with 8 of 256 experts, apart from ours, b at 1,024 tokens."
    assert said[3] == (
        "Where ours is not the quickest: in 1 of 1 cases another algorithm is ahead of ours (b in 1), at most by 11 % "
        "(1.00 µs), at 1,024 tokens x 8 of 256 experts (b)."
    )
    assert said[4] == (
        "Where kernel time goes: "
        "at 1,024 tokens, a spends 10.0 µs in 2 kernels, 90 % of it on count+cumsum and ours spends 1.00 µs in 1 "
        "kernel, 100 % of it on cumsum+place."
    )
    assert "in 1.00 µs (copy measured in the run); ours takes 10.0 µs, of which an empty kernel is 4.00 µs" in said[5]


def test_findings_tell_failures_and_an_early_end(profiles: Path) -> None:
    lines = [*three(CASE), row("small", "graph", None, error="RuntimeError: out of resource.")]
    said = say(bench(profiles, lines, complete=False))
    assert (
        said[-2]
        == "Failed: small in 1 row, for example at 1,024 tokens x 8 of 256 experts: RuntimeError: out of resource."
    )
    assert said[-1].startswith("Caution: the benchmark was stopped before its end")


def test_speedup_map_is_even_handed_around_one() -> None:
    rows = pd.DataFrame(
        {"tokens": [1, 1], "E": [8, 16], "speedup": [0.5, 4.0], "ours_us": [2.0, 1.0], "theirs_us": [1.0, 4.0]}
    )
    trace = plots.speedup_map(rows, "x").data[0]
    assert [list(line) for line in trace.z] == [[-1.0, 2.0]]
    assert (trace.zmin, trace.zmax) == (-2.0, 2.0)
    assert [list(line) for line in trace.text] == [["0.50", "4.0"]]


def test_curves_draw_the_floor_and_the_limit(profiles: Path) -> None:
    own = bench(profiles, three(CASE) + three(CASE, tokens=4096))
    rows = align.at(own, 256, 8)
    figure = plots.curves(rows, align.limit(rows, align.bandwidth(own)), "ours", "a copy")
    names = [trace.name for trace in figure.data]
    assert names[-3:] == ["ours", "empty kernel, same method", "moving the data"]
    assert not [name for name in names if name.startswith("(")]
    least = 10 ** figure.layout.yaxis.range[0]
    assert least < min(figure.data[-1].y[-1], min(figure.data[-2].y))


def notebook_page(profiles: Path, out: Path) -> report.Page:
    return report.build(["04"], out=out, parameters={}, grid=None, show_code=False).pages[0]


def test_notebook_without_runs_says_so(profiles: Path, tmp_path: Path) -> None:
    page = notebook_page(profiles, tmp_path / "out")
    assert page.failed is None
    assert page.headline.startswith("There is no run 'h200/align_sweep' of the align benchmark")
    assert page.figures == 0


def test_notebook_shows_a_sweep(profiles: Path, tmp_path: Path) -> None:
    path = bench_builder.write(profiles / "a.json", bench_builder.rows(routings=("uniform", "zipf:1.0")))
    bench_runs.import_bench([path], "h200/align_sweep", root=profiles)
    page = notebook_page(profiles, tmp_path / "out")
    assert page.failed is None
    assert page.figures == 5
    assert page.headline.startswith("On H200, auto is ahead of two_kernel in all 28 cases")
    text = page.html.read_text()
    for said in ("There is no run 'h200/align_counters'", "AMD MI GPUs, published", "one eager call per size"):
        assert said in text
    assert [entry["run"] for entry in page.provenance] == ["h200/align_sweep"]


def test_tables_say_what_is_missing() -> None:
    note = tables.behind(align.behind(align.duels(load.align_bench(""), "auto")), "auto")
    assert "no case in which another algorithm is ahead" in note._repr_mimebundle_()["text/plain"]


def test_outliers_are_far_above_both_neighbours_and_marked_in_plot_table_and_finding(profiles: Path) -> None:
    """GIVEN eager times of 5.3, 36.6 and 6.4 us, a slope, and an end WHEN only the first has both neighbours below."""
    given = {"auto": [5.0, 5.3, 36.6, 6.4, 7.0], "two_kernel": [5.0, 11.0, 23.0, 47.0, 100.0]}
    tokens = [64, 256, 1024, 4096, 16384]
    lines = [
        bench_builder.row(name, "eager", us, tokens=m)
        for name, times in given.items()
        for m, us in zip(tokens, times, strict=True)
    ]
    path = bench_builder.write(profiles / "a.json", lines)
    bench_runs.import_bench([path], "h200/odd", root=profiles)
    bench = load.align_bench("h200/odd")
    found = align.outliers(bench.timed)
    assert found[["algorithm", "tokens", "low_us", "high_us"]].to_numpy().tolist() == [["auto", 1024, 5.3, 6.4]]
    assert len(bench.timed) == 10, "marked, not left out"
    sentence = str(findings.outliers(bench)).replace("\u00a0", " ")
    assert "1 of 10 medians are more than 2 times both neighbours in tokens (eager in 1)" in sentence
    assert "at 1,024 tokens x 8 of 256 experts 36.6 µs between 5.30 µs and 6.40 µs" in sentence
    shown = tables.modes(align.modes(bench, 256, 8, ["auto", "two_kernel"])).html()
    assert shown.count('class="odd"') == 1
    assert "more than twice both neighbours" in shown
    drawn = {t.name: t for t in plots.curves(bench.timed, align.limit(bench.timed, None), "auto", "", found).data}
    assert list(drawn["auto"].marker.symbol) == ["circle", "circle", "x", "circle", "circle"]
    assert "an outlier" in drawn["auto"].customdata[2]
