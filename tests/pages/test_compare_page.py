"""The page of two runs: sentences, tables and figures of a comparison."""

import pytest
from checkout import REPO

import moe_lab
from moe_lab import runs
from moe_lab.analysis import compare
from moe_lab.pages.compare import findings, plots, tables

FP8 = "h100/qwen3-30b-a3b-fp8_decode_b16_ctx2048_"


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(REPO / "profiles"))


def test_a_capture_is_told_in_three_sentences_and_drawn_with_its_intervals():
    found = moe_lab.compare(f"{FP8}sglang_triton", f"{FP8}auto")
    said = [one for one in findings.all_of(found) if one]
    assert [one.about for one in said] == ["", "Caution", "Quicker"]
    assert all(one.is_brief() for one in said)
    rows = tables.changes(found)
    drawn = plots.changes(rows, found.threshold_pct)
    assert {trace.name for trace in drawn.data} == {"even", "quicker"}
    quicker = next(trace for trace in drawn.data if trace.name == "quicker")
    assert len(quicker.error_x.array) == 3
    assert "quantise_" in tables.compared(found).html(), "what changed stands beside the row"


def test_a_benchmark_is_drawn_over_its_sizes_and_what_appeared_is_named():
    found = moe_lab.compare("h200/experts_qwen3_sweep", "h100/experts_qwen3_sweep", by="M")
    said = {one.about: one.text for one in findings.all_of(found) if one}
    assert "deep_gemm" in said["Appeared: only in B"]
    assert "GPU H200 → H100 80GB HBM3" in said["Caution"]
    titles = [title for title, _, _ in tables.over_sizes(found)]
    assert titles == ["routing uniform, mode graph", "routing uniform, mode eager", "routing zipf:1.2, mode graph"]
    _, size, rows = tables.over_sizes(found)[0]
    assert len(plots.ratios(rows, size).data) == rows["series"].nunique()
    assert "geometric mean" in tables.groups(found).html()


def test_compiled_code_has_measures_and_no_figure():
    found = moe_lab.compare("static/qwen3-30b-a3b", "static/qwen3-30b-a3b")
    assert str(findings.all_of(found)[0]) == "B is worse than A in 0 measures of 300 launches and better in 0."
    assert tables.changes(found).empty
    assert tables.over_sizes(found) == []


def test_of_compiled_code_it_is_said_which_kernels_gained_what_and_where():
    run = runs.load("static/h100_counters_peers")
    before = run.rows()
    after = before.copy()
    gemm = before["kernel"].eq("fused_moe_kernel") & before["stage"].eq("w13")
    after.loc[gemm, "static_registers"] += 40
    after.loc[before["kernel"].eq("combine_kernel") & before["M"].eq(16), "error"] = "it no longer fits"
    found = compare.benchmarks((run, run), (before, after))
    said = {one.about: one for one in findings.all_of(found) if one}
    assert list(said) == ["", "No longer compiles", "More registers"]
    assert said["No longer compiles"].text == "combine_kernel on sm_90 (1 launch)."
    assert said["More registers"].text == "fused_moe_kernel on sm_90 (4 launches, at most 63 → 103)."
    assert len(said["More registers"].rows) == 4
