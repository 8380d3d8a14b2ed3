"""rocprof-compute's workload folders: each generation's form, what is wrong with a folder, redaction, the real ones."""

from pathlib import Path

import checkout
import numpy as np
import pandas as pd
import pytest
from workload_builder import launch, long_rows, old_launch, rocpd, sysinfo, write_csv

from moe_lab import runs
from moe_lab.analysis.kernels import top_kernels
from moe_lab.runs.parse import format_of, parse_report
from moe_lab.spec.errors import UserError

DATA = checkout.DATA / "rocprof-compute"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real folders in ../shared/data/rocprof-compute are not here")
GEMM = "void moe::gemm<float, (Act)1>(float*, int)"


def mi300(folder: Path, rows=None, **changed) -> Path:
    sysinfo(folder, **changed)
    write_csv(folder / "pmc_perf.csv", rows or [launch(0, GEMM, SQ_WAVES=40, Wave_Size_1=64, Correlation_ID_1=0)])
    return folder


def test_grid_counts_work_items_and_registers_and_memory_keep_their_meaning(tmp_path):
    """2400 work-items in groups of 256: 10 groups, the last not full."""
    found = parse_report(mi300(tmp_path / "MI300X_A1"))
    row = found.table.iloc[0]
    assert (row["grid_blocks"], row["block_threads"], row["duration_ns"], row["device"]) == (10, 256, 2000, 2)
    assert (row["registers_per_thread"], row["accumulation_registers_per_thread"]) == (52, 4)
    assert (row["scalar_registers_per_wave"], row["smem_bytes"], row["scratch_bytes_per_thread"]) == (48, 5120, 16)
    assert (row["name"], row["kind"], row["attribution"], row["wave_threads"]) == ("gemm", "kernel", "none", 64)
    assert pd.isna(row["stream"])
    assert found.meta["counters"] == ["SQ_WAVES"], "ids that each pass repeats are no counters"
    assert found.meta["gpu"] == {
        **{"name": "AMD Instinct MI300X", "chip": "gfx942", "memory_bytes": None, "compute_capability": None},
        **{"sm_count": 304, "warp_threads": 64},
    }


def test_oldest_form_is_read_and_names_lose_the_loaders_tail(tmp_path):
    sysinfo(tmp_path, gpu_model="MI200", gpu_arch="gfx90a", num_xcd="1")
    write_csv(tmp_path / "pmc_perf.csv", [old_launch(0, GEMM, TCC_EA_RDREQ_sum=7)])
    row = parse_report(tmp_path).table.iloc[0]
    assert (row["name_full"], row["wave_threads"], row["TCC_EA_RDREQ_sum"]) == (GEMM, 64, 7)


@pytest.mark.parametrize("tail", [" (.kd)", ".kd", " [clone .kd]", ""])
def test_every_tail_of_a_name_is_cut(tail, tmp_path):
    assert parse_report(mi300(tmp_path, [launch(0, GEMM + tail)])).table["name_full"].tolist() == [GEMM]


def test_counters_of_channels_become_their_sum_only_if_no_channel_is_lost(tmp_path):
    """GIVEN two L2 channels WHEN both are there THEN they are added, WHEN one is lost the sum is not known."""
    both = {"TCC_TAG[0]": 3, "TCC_TAG[1]": 4, "TCC_HIT[0]": 1, "TCC_HIT[1]": 1, "TCC_HIT_sum": 5, "TCC_REQ[0]": 9}
    table = parse_report(mi300(tmp_path, [launch(0, GEMM, **both)])).table
    assert table["TCC_TAG_sum"].tolist() == [7]
    assert table["TCC_HIT_sum"].tolist() == [5], "the tool's own sum wins"
    assert not [c for c in table if "TCC_REQ" in c or "[" in c]


def test_blank_and_infinite_values_are_not_known(tmp_path):
    rows = [launch(0, GEMM, SQ_WAVES="", TA_TA_BUSY_sum="inf", GRBM_COUNT="5e3"), launch(1, GEMM, SQ_WAVES=4)]
    table = parse_report(mi300(tmp_path, rows)).table
    assert np.isnan(table.loc[0, "SQ_WAVES"])
    assert np.isnan(table.loc[0, "TA_TA_BUSY_sum"])
    assert table["GRBM_COUNT"].tolist()[0] == 5000


def test_time_stamps_that_lost_their_digits_give_no_duration_and_say_so(tmp_path):
    """A folder of the tool's own tests has 8.1097E+14 as start and as end of every launch."""
    found = parse_report(mi300(tmp_path, [launch(0, GEMM, "8.1097E+14", "8.1097E+14"), launch(1, GEMM)]))
    assert found.table["duration_ns"].isna().tolist() == [True, False]
    assert found.table["start_ns"].isna().tolist() == [True, False]
    found = parse_report(mi300(tmp_path, [launch(0, GEMM, "8.1E+14", "8.1E+14"), launch(1, "act"), launch(2, "act")]))
    table = top_kernels(found).set_index("name")
    assert table.loc["act", "total_ms"] == 0.004
    assert np.isnan(table.loc["gemm", "total_ms"]), "not known is not 0"
    assert found.meta["warnings"][0].startswith("1 of 3 launches have no usable time stamps")


def test_accumulated_levels_come_from_their_own_files(tmp_path):
    """Rows of the level file in another order are matched by kernel, grid, work-group and order."""
    mi300(tmp_path, [launch(0, GEMM), launch(1, "act"), launch(2, GEMM)])
    rows = [launch(1, "act", SQ_ACCUM_PREV_HIRES=10), launch(0, GEMM, SQ_ACCUM_PREV_HIRES=20, TD_TD_BUSY_sum=1)]
    write_csv(tmp_path / "SQ_LEVEL_WAVES.csv", [*rows, launch(2, GEMM, SQ_ACCUM_PREV_HIRES=30, TD_TD_BUSY_sum=2)])
    table = parse_report(tmp_path).table
    assert table["SQ_LEVEL_WAVES_ACCUM"].tolist() == [20, 10, 30]
    assert table["TD_TD_BUSY_sum"].tolist()[0::2] == [1, 2]


def test_several_passes_are_joined_and_durations_are_their_median(tmp_path):
    """GIVEN three passes with durations 100, 200 and 500 THEN each counter comes from its pass, the duration is 200."""
    sysinfo(tmp_path, version="3")
    passes = [("SQ_WAVES", 1, 100), ("TCC_HIT_sum", 2, 200), ("TA_TA_BUSY_sum", 3, 500)]
    for i, (counter, value, ns) in enumerate(passes):
        rows = [launch(0, GEMM, 1000, 1000 + ns, **{counter: value, "Kernel_ID": 7}), launch(1, "act", 0, 10)]
        write_csv(tmp_path / f"pmc_perf_{i}.csv", rows if i else rows[::-1])
    found = parse_report(tmp_path)
    row = found.table[found.table["name"] == "gemm"].iloc[0]
    assert (row["SQ_WAVES"], row["TCC_HIT_sum"], row["TA_TA_BUSY_sum"], row["duration_ns"]) == (1, 2, 3, 200)
    assert found.meta["schema"] == "wide, several passes, sysinfo 3"


def long_example() -> list[dict]:
    """One launch counted in two passes of 100 and 300 ns, and another launch of the same kernel."""
    first = long_rows(1, GEMM, {"SQ_WAVES": 40}, 1000, 1100) + long_rows(1, GEMM, {"TCC_HIT_sum": 9}, 5000, 5300)
    return first + long_rows(2, GEMM, {"SQ_WAVES": 41, "TCC_HIT_sum": 8}, 9000, 9050)


@pytest.mark.parametrize("form", ["pmc_perf.csv", "pmc_perf.csv.gz", "results_0.csv", "results.db"])
def test_long_form_gives_one_row_a_launch_whatever_holds_it(form, tmp_path):
    sysinfo(tmp_path, version="3", num_hbm_channels=None, num_memory_channels="128")
    (rocpd if form.endswith(".db") else write_csv)(tmp_path / form, long_example())
    found = parse_report(tmp_path)
    assert found.table[["SQ_WAVES", "TCC_HIT_sum", "duration_ns"]].to_numpy().tolist() == [[40, 9, 200], [41, 8, 50]]
    assert found.table["grid_blocks"].tolist() == [10, 10]
    assert found.meta["machine"]["num_hbm_channels"] == 128, "it has another name since 3.8.0"


def test_folder_is_found_from_a_file_in_it_and_from_above_it(tmp_path):
    folder = mi300(tmp_path / "moe" / "MI300X_A1")
    assert {format_of(p) for p in (folder, folder / "pmc_perf.csv", tmp_path / "moe")} == {"rocprof_compute"}
    assert len(parse_report(tmp_path / "moe").table) == 1


def truncated(folder: Path) -> None:
    path = folder / "pmc_perf.csv"
    path.write_text(path.read_text()[:-30])


def unknown(folder: Path) -> None:
    write_csv(folder / "pmc_perf.csv", [{"KernelName": GEMM, "BeginNs": 1, "EndNs": 2}])


def other_program(folder: Path) -> None:
    write_csv(folder / "SQ_LEVEL_WAVES.csv", [launch(0, "another_kernel", SQ_ACCUM_PREV_HIRES=1)])


def other_gpu(folder: Path) -> None:
    write_csv(folder / "pmc_perf.csv", [launch(0, GEMM, TCC_EA_RDREQ_sum=1)])


def two_forms(folder: Path) -> None:
    (folder / "pmc_perf.csv").unlink()
    write_csv(folder / "pmc_perf_0.csv", [launch(0, GEMM)])
    write_csv(folder / "results_1.csv", long_example())


def empty(folder: Path) -> None:
    path = folder / "pmc_perf.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")


def no_counters(folder: Path) -> None:
    (folder / "pmc_perf.csv").unlink()


def no_machine(folder: Path) -> None:
    (folder / "sysinfo.csv").unlink()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (truncated, r"pmc_perf\.csv is truncated or not a readable CSV file"),
        (unknown, "is of a generation that moe-lab does not know: it has no Kernel_Name, Grid_Size"),
        (other_program, r"SQ_LEVEL_WAVES\.csv is of another program"),
        (other_gpu, "is mixed: its counters are not those of gfx942"),
        (two_forms, "mixes counter files of two forms"),
        (empty, r"pmc_perf\.csv has a header and no rows"),
        (no_counters, "has a sysinfo.csv but no counters"),
        (no_machine, "has counters but no sysinfo.csv"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_folder_gets_one_sentence_that_says_what_to_do(harm, sentence, tmp_path):
    harm(mi300(tmp_path / "w"))
    with pytest.raises(UserError, match=sentence) as said:
        parse_report(tmp_path / "w")
    assert "profile again with rocprof-compute" in str(said.value)
    assert "\n" not in str(said.value)
    assert str(tmp_path) not in str(said.value)


def test_run_of_a_folder_reads_the_same_and_names_no_machine(tmp_path):
    source = mi300(
        tmp_path / "w", [launch(0, "jit_/home/ada/k.hip on analytical-engine", SQ_WAVES=40), launch(1, GEMM)]
    )
    write_csv(source / "SQ_LEVEL_WAVES.csv", [launch(0, "jit_/home/ada/k.hip on analytical-engine"), launch(1, GEMM)])
    write_csv(source / "roofline.csv", [{"device": 0, "HBMBw": 4000.5}])
    (source / "log.txt").write_text("Path: /home/ada HF_TOKEN=hf_topsecret")
    run = runs.import_report(source, "counted", root=tmp_path / "profiles")
    assert run.manifest["name"] == "mi300x/counted"
    kept = b"".join(p.read_bytes() + p.name.encode() for p in sorted(run.path.rglob("*")) if p.is_file())
    for secret in (b"ada", b"analytical-engine", b"hf_topsecret", b"a Linux", b"a CPU"):
        assert secret not in kept
    before, after = parse_report(source), run.launches()
    columns = [c for c in before.table if c not in ("name", "name_full")]
    pd.testing.assert_frame_equal(before.table[columns], after.table[columns])
    assert {k: before.meta[k] for k in ("machine", "roofs", "gpu", "counters")} == {
        k: after.meta[k] for k in ("machine", "roofs", "gpu", "counters")
    }


@real
@pytest.mark.parametrize(
    ("name", "counters", "duration_ns"),
    [("MI200", 252, [20480, 16320, 15520]), ("MI300X_A1", 243, [None] * 3), ("MI350", 251, [21762, 16920, 16864])],
)
def test_real_folders_are_read_as_the_tool_wrote_them(name, counters, duration_ns):
    """The copy of 1048576 work-items in groups of 256, three times: 4096 groups of 4 wavefronts."""
    found = parse_report(DATA / name)
    assert found.table["grid_blocks"].tolist() == [4096] * 3
    assert found.table["SQ_WAVES"].tolist() == [16384] * 3
    assert found.table["name"].tolist() == ["vecCopy"] * 3
    assert [None if pd.isna(v) else v for v in found.table["duration_ns"]] == duration_ns
    assert len(found.meta["counters"]) == counters
    if duration_ns[0]:
        assert top_kernels(found)["total_ms"].tolist() == [pytest.approx(sum(duration_ns) / 1e6)], (
            "as for any other vendor"
        )


@real
def test_passes_of_a_real_folder_join_to_what_the_tool_joined(tmp_path):
    """GIVEN the MI350 folder WHEN its pmc_perf.csv is taken away THEN its pmc_perf_N.csv and levels give the same."""
    source = DATA / "MI350"
    for path in source.glob("*.csv"):
        if path.name != "pmc_perf.csv":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    whole, joined = parse_report(source), parse_report(tmp_path)
    both = [c for c in whole.meta["counters"] if c in joined.meta["counters"]]
    assert len(both) == len(whole.meta["counters"])
    pd.testing.assert_frame_equal(whole.table[both], joined.table[both])
