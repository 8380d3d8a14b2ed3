"""Captures of the experts workload as rows: problem and tiles from run.json, counters and geometry from the report."""

import counters_run
import gemm_rows
import pandas as pd
import pytest
from checkout import REPO
from ncu_builder import raw, stack

from moe_lab.analysis import bench_rows, gemms, join
from moe_lab.analysis.limits import beside, limits
from moe_lab.analysis.traffic import traffic
from moe_lab.pages import load
from moe_lab.runs.parse import parse_report

TIME, SMS = "gpu__time_duration.sum", "launch__sm_count"
ROOT = counters_run.root("untuned 8192")


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    return tmp_path


def test_run_gives_a_row_a_backend_m_and_gemm_with_problem_tiles_and_counters(profiles):
    run = counters_run.make(profiles)
    assert sum(p.stat().st_size for p in run.path.iterdir()) < 100_000
    found = load.counts(["h200/experts_counters_fused_moe"])
    table = found.table
    assert table[["series", "M", "stage"]].to_numpy().tolist() == [
        [gemm_rows.row(p)["series"], gemm_rows.row(p)["M"], s] for p in gemm_rows.POINTS for s in ("w13", "w2")
    ]
    assert found.gpus["H200"]["l2_cache_bytes"] == gemm_rows.GPU["l2_cache_bytes"]
    assert found.gpus["H200"]["memory_bandwidth_bytes_per_s"] == gemm_rows.GPU["memory_bandwidth_bytes_per_s"]
    w13 = table[(table["series"] == "fused_moe untuned") & (table["M"] == 8192)].iloc[0]
    assert (w13["gemm_n"], w13["gemm_k"], w13["experts_hit"], w13["element_bytes"]) == (1536, 2048, 128, 2)
    assert (w13["duration_us"], w13["sm_throughput_pct"], w13["dram_read_bytes"]) == (1503, 33, 1.045e9)
    assert (w13["tile"], w13["tile_source"], w13["rows_padded"]) == ("64x64x32", "workload", 69632)
    assert (w13["tiles_computed"], w13["blocks_empty"], w13["persistent"]) == (26112, 1488, False)
    # 48 kB + 1 kB of shared memory: four blocks on an SM.
    assert (w13["blocks_per_sm"], w13["limiter"]) == (4, "smem")
    assert w13["waves"] == pytest.approx(27600 / 528)
    assert w13["working_waves"] == pytest.approx(26112 / 528)
    persistent = table[table["series"] == "triton_kernels"]
    assert persistent["persistent"].tolist() == [True] * 4
    assert persistent[["tile", "working_waves", "tiles_computed"]].isna().all(axis=None)


def test_load_keeps_the_backends_and_m_that_are_asked_for(profiles):
    counters_run.make(profiles)
    name = "h200/experts_counters_fused_moe"
    table = load.counts([name], ["fused_moe", "vllm_triton"], [16]).table
    assert set(table["backend"]) == {"fused_moe", "vllm_triton"}
    assert set(table["M"]) == {16}
    none = load.counts([name], ["nope"])
    assert none.table.empty
    assert none.notes == [f"{name}: they have no range w13 or w2 of this backend and M."]


def test_run_that_is_not_there_becomes_a_sentence(profiles):
    found = load.counts(["h200/experts_counters_peers"])
    assert found.table.empty
    assert found.missing[0].startswith("There is no run 'h200/experts_counters_peers'; `moe-lab capture ncu --name")
    assert limits(found.table).empty
    assert bench_rows.some(found.table) == gemms.of_stage(found.table, "w13") == []


def page(tmp_path, kernels, name="page.csv"):
    path = tmp_path / name
    units = {TIME: "ns", SMS: "", "sm__throughput.avg.pct_of_peak_sustained_elapsed": "%"}
    path.write_text(raw(kernels, units))
    return parse_report(path)


def kernel(name, stage, us, root=ROOT, grid=1):
    values = {TIME: str(1000 * us), SMS: "132"}
    own = {"name": name, "grid": f"({grid}, 1, 1)", "block": "(128, 1, 1)", "stack": stack(root, *stage)}
    return own | {"values": values}


def test_counters_of_no_gemm_warn_of_nothing(recwarn):
    found = load.counts([str(REPO / "profiles" / "h200" / "align_counters")]).table
    assert beside(found, limits(found)).empty
    assert not [warning for warning in recwarn if warning.filename.endswith(("gemms.py", "limits.py", "load.py"))]


def test_longest_kernel_of_a_stage_is_its_gemm_and_fused_stages_are_their_first(tmp_path):
    found = page(
        tmp_path,
        [
            kernel("quantise", ["w13+act"], 5),
            kernel("gemm", ["w13+act"], 100),
            kernel("gemm", ["w13+act"], 110),
            kernel("fill", ["w2"], 2),
            kernel("align", ["align"], 3),
            kernel("other", ["w2"], 9, root="a range of someone else"),
        ],
    )
    table = gemms.gemms(found, {}, {})
    assert table[["stage", "part", "name", "launches", "duration_us", "other_us"]].to_numpy().tolist() == [
        ["w13+act", "w13", "gemm", 2, 105, 5],
        ["w2", "w2", "fill", 1, 2, 0],
    ]
    assert table["M"].tolist() == [8192, 8192], "from the range's name"
    assert table[["K", "tile", "gemm_n", "rows_useful"]].isna().all(axis=None)
    assert len(gemms.of_stage(table, "w13")[0]) == 1


def test_fused_stages_write_less(tmp_path):
    """GIVEN w13 with its activation and w2 with the combine THEN they write [pairs, N] and [M, K]."""
    sizes = {"M": 8192, "K": 2048, "N": 768, "E": 128, "topk": 8, "dtype": "bf16"}
    workload = {"problem": sizes, "experts_hit": 128, "rows_useful": 65536}
    stages = ("w13+act", "w2+combine", "w13", "w2")
    table = gemms.gemms(page(tmp_path, [kernel("k", [s], 1) for s in stages]), workload, {})
    wanted = [65536 * 768, 8192 * 2048, 65536 * 1536, 65536 * 2048]
    assert table["out_elements"].tolist() == wanted
    fewest = traffic(table)["minimum_bytes"].tolist()
    assert [fewest[2] - fewest[0], fewest[3] - fewest[1]] == [2 * 65536 * 768, 2 * (65536 - 8192) * 2048]
    assert [len(t) for t in gemms.of_stage(table, "w2")] == [2]


def test_workload_of_one_layer_states_its_problem_for_every_root():
    workload = {"problem": {"M": 16}, "experts_hit": 80}
    assert gemms.point(workload, "moe_lab|M=16") is workload
    assert gemms.point({"points": [{"root": "a"}, {"root": "b", "M": 2}]}, "b") == {"root": "b", "M": 2}
    assert gemms.point({"points": []}, "b") == gemms.point({"workload": "align"}, "b") == {}


def timeline(tmp_path, kernels):
    found = page(tmp_path, kernels, "timeline.csv")
    table = found.table.assign(start_ns=0, end_ns=found.table["duration_ns"])
    return type(found)(table, found.ranges, found.meta)


def test_join_takes_the_median_of_the_same_launch_and_warns_where_times_are_apart(tmp_path):
    counted = gemms.gemms(page(tmp_path, [kernel("k", [s], us, grid=g) for s, us, g in SAME]), {}, {})
    times = [("w13", 100, 1), ("w13", 104, 1), ("w13", 90, 1), ("w13", 1, 2), ("w2", 50, 1)]
    known = timeline(tmp_path, [kernel("k", [s], us, grid=g) for s, us, g in times])
    out = join.join(counted, known)
    assert out["timeline_us"].tolist() == [100, 50]
    assert out["apart_pct"].tolist() == pytest.approx([14, 16])
    [note] = out.attrs["notes"]
    assert note.startswith(
        "w2 of fused_moe untuned at M = 8,192 took 58.0 us under ncu and 50.0 us in the timeline, +16"
    )


SAME = [("w13", 114, 1), ("w2", 58, 1)]


def test_join_says_which_kernels_the_timeline_lacks(tmp_path):
    counted = gemms.gemms(page(tmp_path, [kernel("k", ["w13"], 100), kernel("k", ["w2"], 50)]), {}, {})
    other = ROOT.replace("|tiles=untuned", "")
    known = timeline(tmp_path, [kernel("k", ["w13"], 100, root=other), kernel("k", ["w2"], 50)])
    out = join.join(counted, known)
    assert pd.isna(out["timeline_us"].iloc[0])
    assert out["timeline_us"].iloc[1] == 50
    [note] = out.attrs["notes"]
    assert note.endswith("for 1 of 2 rows: w13 of fused_moe untuned at M = 8192.")


def test_join_without_its_run_says_so_and_keeps_ncus_times(profiles):
    counters_run.make(profiles)
    found = load.counts(["h200/experts_counters_fused_moe"])
    assert load.beside_timeline(found, "") is found
    missing = load.beside_timeline(found, "h200/nowhere")
    assert missing.missing[0].startswith("There is no run 'h200/nowhere'; `moe-lab capture nsys --name")
    assert "timeline_us" not in missing.table
