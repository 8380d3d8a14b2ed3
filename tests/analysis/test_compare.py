"""Two runs side by side: what is aligned, what counts as a change, and what is said with it."""

import numpy as np
import pandas as pd
import pytest
import sweep_builder
import tuning_builder
from nsys_builder import NsysBuilder
from nsys_runs import parsed
from scipy import stats

from moe_lab.analysis import compare
from moe_lab.analysis.compare import spread
from moe_lab.runs import Run
from moe_lab.spec.errors import UserError

US = 1000  # ns
NONE = Run("none", {"name": "none"})


def capture(tmp_path, kernels, instances=12, jitter=True, backend="fused_moe"):
    """Return launches of a root repeated; ``kernels`` are (stage, name, us, more) of each instance."""
    b, at, number = NsysBuilder(), 0, 0
    rng = np.random.default_rng(3)
    for _ in range(instances):
        b.push(f"moe_lab|model=m|M=16|backend={backend}", at, at + 900 * US)
        for stage, name, us, more in kernels:
            b.push(stage, at + 1, at + 50 * US)
            ns = int(us * US * (rng.normal(1, 0.01) if jitter else 1))
            b.launch(at + 2, number, gpu=(at + 10**7, at + 10**7 + ns), name=name, **more)
            at, number = at + 100 * US, number + 1
        at += 1000 * US
    return parsed(b, tmp_path)


W13, W2 = ("w13", "gemm", 100, {}), ("w2", "gemm2", 50, {})


def of(tmp_path, a, b, **options):
    sides = []
    for name, side in (("a", a), ("b", b)):
        (tmp_path / name).mkdir(exist_ok=True)
        sides.append(capture(tmp_path / name, **side))
    return compare.captures((NONE, NONE), tuple(sides), **options)


def test_a_slower_stage_is_found_with_its_interval_and_what_changed_in_it(tmp_path):
    slower = ("w13", "gemm", 120, {"grid": (9, 1, 1), "registers": 80})
    found = of(tmp_path, {"kernels": [W13, W2]}, {"kernels": [slower, W2]})
    rows = found.table.set_index("stage")
    assert rows["verdict"].to_dict() == {"w13": "slower", "w2": "even", "total": "slower"}
    assert rows.loc["w13", "why"] == "grid 8 → 9 blocks, registers a thread 64 → 80"
    assert rows.loc["w13", "ratio_low"] < rows.loc["w13", "ratio"] < rows.loc["w13", "ratio_high"]
    assert rows.loc["w13", "samples_a"] == 12
    assert list(found.regressions["stage"]) == ["w13", "total"]
    allowed = of(tmp_path, {"kernels": [W13]}, {"kernels": [slower]}, threshold_pct=25)
    assert allowed.regressions.empty


def test_fused_stages_are_set_against_the_sum_of_their_parts(tmp_path):
    fused = [("w13+act", "one", 105, {}), W2]
    apart = [W13, ("act", "silu", 5, {}), W2]
    found = of(tmp_path, {"kernels": apart, "jitter": False}, {"kernels": fused, "jitter": False}).table
    assert found["stage"].tolist() == ["w13+act", "w2", "total"]
    assert found["ratio"].tolist() == [1, 1, 1]
    assert found["why"].iloc[0] == "gemm, silu became one"


def test_experts_as_a_whole_are_set_against_the_sum_of_their_stages(tmp_path):
    """One run knows of its experts only where they begin and end, as in models of transformers."""
    router = ("router", "topk", 10, {})
    whole = {"kernels": [router, ("experts", "everything", 300, {})], "jitter": False}
    parts = {"kernels": [router, W13, W2, ("experts", "a copy", 5, {})], "jitter": False}
    found = of(tmp_path, whole, parts).table
    assert found[["stage", "time_a_us", "time_b_us"]].values.tolist() == [
        ["router", 10, 10],
        ["experts", 300, 155],
        ["total", 310, 165],
    ]
    assert "w13" in of(tmp_path, parts, parts).table["stage"].tolist(), "both know it"


def test_by_kernel_what_only_one_run_has_appears_or_vanishes(tmp_path):
    found = of(tmp_path, {"kernels": [W13, W2]}, {"kernels": [W13, ("w2", "other", 50, {})]}, by="kernel").table
    assert found[["kernel", "verdict"]].values.tolist() == [
        ["gemm", "even"],
        ["gemm2", "only in A"],
        ["other", "only in B"],
    ]


def test_a_key_with_one_value_a_run_does_not_keep_rows_apart_and_is_said_first(tmp_path):
    found = of(tmp_path, {"kernels": [W13], "backend": "grouped"}, {"kernels": [W13], "backend": "hopper"})
    assert found.compared == 2
    assert found.differences[["about", "fact", "a", "b"]].values.tolist() == [
        ["problem", "backend", "grouped", "hopper"]
    ]
    assert found.unlike


def test_a_benchmark_with_biases_differs_from_one_without():
    rows = pd.DataFrame({"biases": [False, True]}), pd.DataFrame({"backend": ["grouped"]})
    found = compare.context.differences(NONE, NONE, rows)
    assert found.fillna("").values.tolist() == [["problem", "biases", "yes", ""]]
    assert compare.context.differences(NONE, NONE, (rows[1], rows[1])).empty


def test_a_key_that_only_some_rows_state_keeps_rows_apart():
    a = pd.DataFrame({"backend": ["x", "x"], "tiles": pd.array([None, "untuned"], dtype="string")})
    b = pd.DataFrame({"backend": ["x"]})
    assert compare.context.constants(a, b, ["backend", "tiles"]).empty, "rows of A with and without it are not one"
    assert compare.context.constants(a.tail(1), b, ["tiles"])["a"].tolist() == ["untuned"]


def test_few_instances_have_no_interval_and_must_not_overlap(tmp_path):
    slower = [("w13", "gemm", 120, {})]
    found = of(tmp_path, {"kernels": [W13], "instances": 3}, {"kernels": slower, "instances": 3}).table
    assert found["p_holm"].isna().all()
    assert found["verdict"].tolist() == ["slower", "slower"]


def test_a_report_without_ranges_is_compared_by_the_launches_of_each_kernel(tmp_path):
    def bare(folder, us):
        folder.mkdir()
        b = NsysBuilder()
        for i in range(10):
            b.launch(i, i, gpu=(i * 10**6, i * 10**6 + (us + i % 2) * US), name="gemm")
        return parsed(b, folder)

    found = compare.captures((NONE, NONE), (bare(tmp_path / "a", 10), bare(tmp_path / "b", 20)))
    assert found.table[["kernel", "samples_a", "verdict"]].values.tolist() == [["gemm", 10, "slower"]]


def bench(rows, kind="experts"):
    return Run("none", {"name": "x", "bench": kind}), pd.DataFrame(rows).convert_dtypes()


def test_cases_of_a_benchmark_are_slower_if_their_quantiles_do_not_overlap():
    a = [
        sweep_builder.row("auto", 16, 100.0),
        sweep_builder.row("fused_moe", 16, 100.0),
        sweep_builder.row("grouped", 16, 9.0),
    ]
    b = [
        sweep_builder.row("auto", 16, 110.0),
        sweep_builder.row("fused_moe", 16, 110.0, p20_us=90.0),
        sweep_builder.row("grouped", 16, None, error="it failed"),
    ]
    (run, rows), (_, others) = bench(a), bench(b)
    found = compare.benchmarks((run, run), (rows, others))
    assert found.table["verdict"].tolist() == ["slower", "unclear", "fails"]
    assert found.table["ratio_low"].isna().all()
    assert "no interval can be given" in found.notes[0]
    assert found.table["why"].iloc[2] == "it failed"
    grouped = compare.benchmarks((run, run), (rows, others), by="M").groups
    assert grouped[["M", "cases", "slower", "quicker", "unclear"]].values.tolist() == [[16, 3, 2, 0, 1]]


def test_releases_of_a_peer_are_one_row_and_its_kernels_can_be_compared():
    kernels = {"stage": "full", "kernels_us": [["w13|old", 60.0], ["w2|same", 40.0]]}
    run, a = bench([sweep_builder.row("vllm_triton@0.15.0", 16, 100.0, version="0.15.0", **kernels)])
    changed = kernels | {"kernels_us": [["w13|new", 20.0], ["w2|same", 41.0]]}
    _, b = bench([sweep_builder.row("vllm_triton@0.33.0", 16, 61.0, version="0.33.0", **changed)])
    found = compare.benchmarks((run, run), (a, b)).table
    assert found[["verdict", "why"]].values.tolist() == [["quicker", "release 0.15.0 → 0.33.0; kernels old became new"]]
    by_kernel = compare.benchmarks((run, run), (a, b), by="kernel").table
    assert by_kernel[["kernel", "verdict"]].values.tolist() == [
        ["old", "only in A"],
        ["same", "even"],
        ["new", "only in B"],
    ]


def test_a_tuning_is_compared_by_the_tiles_that_it_chose():
    run, a = bench(tuning_builder.rows(), "tune")
    other = [row | {"median_us": row["median_us"] and 2 * row["median_us"]} for row in tuning_builder.rows()]
    found = compare.benchmarks((run, run), (a, bench(other, "tune")[1])).table
    assert found["ratio"].tolist() == [2, 2]


def static(**changed):
    row = {"arch": "sm_90", "gpu": "H100", "model": "m", "format": "bf16", "backend": "grouped", "algorithm": None}
    row |= {"stage": "w13", "kernel": "gemm", "M": 16, "launch": 0, "static_registers": 128, "local_accesses": 0}
    row |= {"static_instructions": 1000, "constants": "BLOCK_N=64 BLOCK_K=64", "error": None}
    return bench([row | changed], "inspect")


def test_compiled_code_is_worse_where_it_spills_or_no_longer_compiles():
    run, a = static()
    spilled = compare.benchmarks((run, run), (a, static(local_accesses=3, constants="BLOCK_N=128 BLOCK_K=64")[1]))
    assert spilled.table[["measure", "value_a", "value_b", "verdict", "why"]].values.tolist() == [
        ["spills", 0, 3, "worse", "BLOCK_N 64 → 128"]
    ]
    failed = compare.benchmarks((run, run), (a, static(error="out of shared memory")[1])).table
    assert failed[["measure", "verdict", "why"]].values.tolist() == [["compiles", "worse", "out of shared memory"]]
    assert compare.benchmarks((run, run), (a, static(static_registers=130)[1])).table.empty
    with pytest.raises(UserError, match="share no row"):
        compare.benchmarks((run, run), (a, static(arch="gfx942")[1]))


def test_a_call_that_refuses_now_is_worse_and_a_new_one_that_refuses_is_not():
    run, a = static()
    (kept,) = static(M=64)[1].to_dict("records")
    (refuses,) = static(stage=None, kernel=None, launch=None, error="it needs another GPU")[1].to_dict("records")
    before = pd.concat([a, static(M=64)[1]], ignore_index=True)
    after = bench([kept, refuses, refuses | {"format": "fp8_block"}], "inspect")[1]
    found = compare.benchmarks((run, run), (before, after)).table
    worse = found[found["verdict"] == "worse"]
    shown = worse[["format", "M", "measure", "why"]].values.tolist()
    assert shown == [["bf16", 16, "compiles", "it needs another GPU"]]


def test_holm_steps_down_as_its_definition_says():
    assert spread.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert spread.holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = [(rng.lognormal(0, 0.05, 20), 1.1 * rng.lognormal(0, 0.05, 20)) for _ in range(60)]
    found = spread.ratios(pd.DataFrame(draws, columns=["samples_a", "samples_b"]))
    covered = ((found["ratio_low"] <= 1.1) & (found["ratio_high"] >= 1.1)).sum()
    assert stats.binomtest(int(covered), 60, spread.LEVEL).pvalue > 0.001
