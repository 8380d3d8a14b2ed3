"""Captures of several GPUs on one page: own roofs, no comparison across GPUs, and what one vendor lacks is NA."""

import re
from pathlib import Path

import checkout
import counters_run
import pandas as pd
import pytest
from gemm_rows import GPU, row, table
from rocprofv3_builder import call, kernel, marker, write
from workload_builder import launch, sysinfo, write_csv

from moe_lab import report, runs
from moe_lab.analysis import gpus
from moe_lab.analysis.captures import Captures
from moe_lab.pages import load
from moe_lab.pages.kernel_counters import findings, plots, tables
from moe_lab.pages.show import provenance
from moe_lab.spec.ranges import root_name

DATA = checkout.DATA / "rocprof-compute"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real folders in ../shared/data/rocprof-compute are not here")
H200 = "h200/experts_counters_fused_moe"
COUNTED = {
    "GRBM_GUI_ACTIVE": 8000,
    "TCP_TCC_READ_REQ_sum": 80,
    "TCP_TCC_WRITE_REQ_sum": 10,
    "TCP_TCC_ATOMIC_WITH_RET_REQ_sum": 4,
    "TCP_TCC_ATOMIC_WITHOUT_RET_REQ_sum": 6,
    "TCC_HIT_sum": 30,
    "TCC_MISS_sum": 10,
}


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    counters_run.make(tmp_path)
    return tmp_path


def amd(folder, roofs=None, **changed):
    """Make a workload folder of rocprof-compute with one launch of 4 us, on an MI300X; return its path."""
    sysinfo(folder, **changed)
    write_csv(folder / "pmc_perf.csv", [launch(0, "gemm", 1000, 5000, **COUNTED)])
    if roofs:
        write_csv(folder / "roofline.csv", [{"device": 0, **roofs}])
    return str(folder)


def two():
    """Return the captures of an H200 and of an MI300X, one row each; the second ran a tile that the first did not."""
    launched = row("tuned 8192", backend="fused_moe", series="fused_moe 128x256x64", l2_sm_bytes=5.5e9)
    other = {"name": "AMD Instinct MI300X", "sm_count": 304}
    rows = table(row("untuned 8192"), launched).assign(gpu=["H200", "MI300X"])
    return Captures({}, rows, {"H200": GPU, "MI300X": other})


def test_one_gpu_gets_no_column_and_several_get_one_in_every_table(profiles):
    alone = gpus.each(load.counts([H200]))
    assert [one.gpu for one in alone] == ["H200"]
    assert gpus.together(alone) is alone[0]
    both = gpus.each(load.counts([H200, amd(profiles / "MI300X_A1")]))
    whole = gpus.together(both)
    assert [one.gpu for one in both] == ["H200", "MI300X"]
    for name in gpus.FRAMES:
        assert "gpu" not in getattr(alone[0], name)
        assert all("gpu" in getattr(one, name) for one in (*both, whole)), name
        assert len(getattr(whole, name)) == sum(len(getattr(one, name)) for one in both)
    assert ">GPU</th>" not in tables.kernels(alone[0].gemms, alone[0].limits).html()
    text = tables.kernels(whole.gemms, whole.limits).html()
    assert ">GPU</th>" in text
    assert [text.index(">H200<") < text.index(">MI300X<"), text.count(">MI300X<")] == [True, 1]


def test_kernels_of_amd_without_ranges_are_rows_by_name_with_na_where_a_counter_has_no_counterpart(profiles):
    """80 reads of 128 B, 10 writes and 10 atomics of 64 B pass between vL1D and L2; 30 of 40 requests hit L2."""
    found = load.counts([amd(profiles / "MI300X_A1")])
    [kernel] = found.table.to_dict("records")
    assert (kernel["series"], kernel["name"], kernel["gpu"], kernel["timed_by"]) == (
        *("gemm", "gemm", "MI300X"),
        "rocprof-compute",
    )
    assert (kernel["duration_us"], kernel["grid_blocks"], kernel["block_threads"]) == (4, 10, 256)
    assert (kernel["registers_per_thread"], kernel["smem_bytes"], kernel["sm_count"]) == (52, 5120, 304)
    assert (kernel["l2_sm_bytes"], kernel["l2_hit_pct"]) == (80 * 128 + 10 * 64 + 10 * 64, 75)
    unknown = ["M", "stage", "part", "sm_throughput_pct", "mem_throughput_pct", "dram_read_bytes", "waves", "tile"]
    assert all(pd.isna(kernel[column]) for column in unknown)
    assert "MI300X_A1: the report has no ranges, so backend, M and stage are not known" in found.notes[0]
    assert found.notes[1].startswith("Counters of an AMD GPU: an SM is a CU")
    assert load.counts([str(profiles / "MI300X_A1")], M=[16]).table.empty


def test_roofs_of_amd_are_those_of_its_own_roofline_csv(profiles):
    measured = {"HBMBw": 4000.0, "L2Bw": 20_000.0, "MFMABF16Flops": 900_000.0}
    h200, with_roofs = gpus.each(load.counts([H200, amd(profiles / "MI300X_A1", measured)]))
    assert with_roofs.roofs.set_index("kind")["value"].to_dict() == {"dram": 4e12, "tensor": 9e14, "l2": 2e13}
    assert h200.roofs.set_index("kind")["value"]["dram"] == pytest.approx(4.814e12, rel=1e-3)
    [cost] = with_roofs.costs.to_dict("records")
    assert cost["l2_us"] == pytest.approx(11520 / 2e13 * 1e6)
    assert (cost["binding"], cost["dram_bytes_from"]) == ("l2", "not known")
    without = gpus.each(load.counts([H200, amd(profiles / "MI300X_B")]))[1]
    assert without.roofs.empty
    assert without.costs["floor_us"].isna().all()


def test_kernels_of_amd_with_roctx_ranges_have_stage_and_m_and_no_counters(profiles, tmp_path):
    root = root_name(model="qwen3-30b-a3b", phase="experts", M=16, backend="fused_moe")
    folder = write(
        tmp_path / "trace",
        kernels=[kernel("fused", 3, 5000, 9000), kernel("fused", 5, 9000, 11_000)],
        markers=[marker(root, 1, 1000, 1400), marker("w13", 2, 1010, 1100), marker("w2", 4, 1200, 1300)],
        calls=[call("hipLaunchKernel", 3, 1020, 1030), call("hipLaunchKernel", 5, 1210, 1220)],
    )
    found = load.counts([H200, str(folder)])
    own = found.table[found.table["gpu"] == "MI300X"]
    assert own[["series", "M", "stage", "duration_us", "smem_bytes"]].to_numpy().tolist() == [
        ["fused_moe", 16, "w13", 4, 2048],
        ["fused_moe", 16, "w2", 2, 2048],
    ]
    assert own[["sm_throughput_pct", "l2_hit_pct", "blocks_per_sm"]].isna().all(axis=None)
    assert gpus.each(found)[1].limits["limiter"].isna().all()


def test_what_other_tiles_took_is_looked_up_on_the_same_gpu_only():
    found = two()
    assert gpus.each(found, [])[0].others["counted_us"].isna().all()
    [same] = gpus.each(Captures({}, found.table.assign(gpu="H200"), {"H200": GPU}), [])
    assert same.others["counted_us"].notna().any()


def test_share_of_dram_is_of_the_gpus_own_roof():
    """1.045 GB in 1503 us are 695 GB/s: 14 % of 4.8 TB/s, 99 % of 0.7 TB/s."""
    slow = {**GPU, "name": "NVIDIA L40", "memory_bandwidth_bytes_per_s": 0.7e12}
    rows = table(row("untuned 8192"), row("untuned 8192")).assign(gpu=["H200", "L40"])
    parts = gpus.each(Captures({}, rows, {"H200": GPU, "L40": slow}), [])
    assert [one.limits["dram_pct"].item() for one in parts] == pytest.approx([14.4, 99.3], abs=0.1)
    assert [one.limits["limiter"].item() for one in parts] == ["on-chip memory", "DRAM"]


def test_timeline_gives_times_to_its_own_gpu_only(tmp_path):
    ours, timeline = "h200/experts_counters_untuned", "h200/experts_timeline_backends"
    text = (runs.load(ours).report).read_text()
    l40 = tmp_path / "l40.csv"
    l40.write_text(text.replace("NVIDIA H200", "NVIDIA L40"))
    counted = load.counts([ours, str(l40)])
    joined = load.beside_timeline(counted, timeline)
    assert joined.table.groupby("gpu")["timeline_us"].count().to_dict() == {"H200": 8, "L40": 0}
    assert joined.table["duration_us"].tolist() == counted.table["duration_us"].tolist()
    assert joined.notes == []
    assert joined.gaps["gpu"].unique().tolist() == ["H200"]
    assert [len(one.gemms) for one in gpus.each(joined)] == [8, 8]
    other = load.beside_timeline(load.counts([str(l40)]), timeline)
    assert "timeline_us" not in other.table
    assert other.notes == [f"The timeline {timeline} is of H200, so no counters here get its times."]


def test_findings_name_the_gpu_of_each_and_what_is_not_known(profiles):
    found = load.counts([amd(profiles / "MI300X_A1"), H200])
    said = [str(f).replace("\u00a0", " ") for f in findings.all_of(found, gpus.each(found)) if f]
    assert said[0].startswith("On H200, w13 at M = 8,192 fused_moe untuned")
    assert said[1].startswith("On MI300X, too little was counted to say what limits the expert GEMMs; no AMD counter")
    assert any(s.startswith("Helps against DRAM on H200: ") for s in said)
    assert any(s.startswith("Time against the roofs on H200: closest, w13 of ") for s in said)
    unknown = next(s for s in said if s.startswith("Not known on MI300X: "))
    assert "compute throughput, memory throughput, L2 throughput, DRAM throughput, tensor pipe and bytes" in unknown
    assert "roofs of DRAM, L2 and tensor, which nothing measured, so none is drawn" in unknown
    general = ("On ", "Published", "Not known on ", "Caution")
    assert all(" on H200: " in s or s.startswith(general) for s in said)
    alone = load.counts([H200])
    assert not [
        s
        for s in map(str, findings.all_of(alone, gpus.each(alone)))
        if " on H200: " in s and not s.startswith("Not known")
    ]


def test_figures_tell_gpus_apart():
    both = gpus.each(two(), [])
    rows = gpus.together(both).gemms
    drawn = plots.over_m(rows[rows["stage"] == "w13"], "w13").data
    assert {(t.name, t.marker.symbol) for t in drawn} == {
        ("fused_moe untuned, H200", "circle"),
        ("fused_moe 128x256x64, MI300X", "square-open"),
    }
    figures = [plots.roofline(one.points, one.roofs, "w13") for one in both]
    assert [f.layout.xaxis.title.text.rsplit(", ", 1)[-1] for f in figures] == ["H200", "MI300X"]
    assert [any("peak" in t.name for t in f.data) for f in figures] == [True, False]
    assert plots.waterfall(both[1].moved, "w13", 8192).layout.xaxis.title.text.endswith(", MI300X")


def test_runs_of_one_name_are_told_apart_and_no_sentence_holds_a_path(profiles):
    folders = [amd(profiles / place / "MI300X_A1") for place in ("before", "after")]
    found = load.counts([*folders, H200, str(profiles / "gone")])
    assert [*found.runs] == ["MI300X_A1", "MI300X_A1 (2)", H200]
    assert found.table["run"].unique().tolist() == [*found.runs]
    assert [*found.gpus] == ["MI300X", "H200"]
    assert [*found.named_runs()] == ["MI300X_A1", "MI300X_A1 (2)", "experts_counters_fused_moe"]
    assert found.missing[0].startswith("There is no run 'gone'; `moe-lab capture")
    assert str(profiles) not in " ".join([*found.notes, *found.missing])
    assert provenance.table(found.named_runs()).html().count("AMD Instinct MI300X") == 2


def test_runs_without_a_gpu_name_are_not_taken_for_one_gpu(profiles):
    text = (profiles / H200 / "report.csv").read_text().replace("NVIDIA H200", "")
    for name in ("a.csv", "b.csv"):
        (profiles / name).write_text(text)
    found = load.counts([str(profiles / "a.csv"), str(profiles / "b.csv")])
    assert [*found.gpus] == ["an unknown GPU (a.csv)", "an unknown GPU (b.csv)"]


def test_runs_are_found_by_the_last_part_of_their_name_and_by_a_path_from_the_current_folder(profiles, monkeypatch):
    amd(profiles / "elsewhere" / "workloads" / "MI300X_A1")
    monkeypatch.chdir(profiles / "elsewhere")
    found = load.counts(["experts_counters_fused_moe", "workloads/MI300X_A1", "workloads/gone", ""])
    assert [*found.runs] == [H200, "MI300X_A1"]
    assert [said.partition(";")[0] for said in found.missing] == [
        "There is no run 'workloads/gone'",
        "No run was asked for",
    ]


@real
@pytest.mark.parametrize("name", ["MI200", "MI300X_A1", "MI350"])
def test_real_folder_stands_beside_the_committed_counters(name):
    found = load.counts(["h200/experts_counters_auto", str(DATA / name)])
    h200, amd_part = gpus.each(found)
    assert (h200.amd, amd_part.amd) == (False, True)
    [kernel] = amd_part.gemms.to_dict("records")
    assert (kernel["series"], kernel["grid_blocks"], kernel["block_threads"]) == ("vecCopy", 4096, 256)
    assert kernel["l2_sm_bytes"] == pytest.approx(2 * 8_388_608), "a copy of 8 MiB reads and writes them once"
    assert 30 < kernel["l2_hit_pct"] < 40
    assert sorted(amd_part.roofs["kind"]) == (["dram", "l2", "tensor"] if name == "MI200" else [])


@pytest.mark.parametrize("given", ["built", pytest.param("real", marks=real)])
def test_notebook_shows_a_committed_run_beside_an_amd_folder(given, tmp_path):
    folder = amd(tmp_path / "MI300X_A1") if given == "built" else str(DATA / "MI300X_A1")
    parameters = {"counter_runs": ["h200/experts_counters_auto", folder]}
    done = report.build(["03"], out=tmp_path / "out", parameters=parameters, grid=None, show_code=False)
    [page] = done.pages
    assert page.failed is None
    assert page.headline.startswith("On H200, w13: at M = 16 DRAM limits ")
    assert page.figures == 5
    text = re.sub(r"<script>.*?</script>", "", page.html.read_text(), flags=re.S)
    assert "<strong>Not known on MI300X.</strong>" in text
    assert text.count(">GPU</th>") >= 5
    assert "compute unit (CU)" in text, "the glossary"
    assert str(Path(folder).parent) not in text
