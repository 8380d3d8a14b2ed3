"""rocprofv3's CSV files: literal samples, what can be known without HIP calls, and the real files where they are."""

import checkout
import pandas as pd
import pytest
from rocprofv3_builder import API_HEADER, CALLS, COPIES, KERNEL_HEADER, KERNELS, MARKERS, call, kernel, marker, write

from moe_lab import runs
from moe_lab.analysis.breakdown import breakdown
from moe_lab.runs.parse import parse_report, rocprofv3
from moe_lab.spec.errors import UserError

DATA = checkout.DATA / "rocprofv3"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real examples in ../shared/data/rocprofv3 are not here")


def paths(found):
    ids = found.table["range_id"]
    return [None if pd.isna(i) else found.ranges.loc[i, "path"] for i in ids]


def test_kernels_belong_to_the_range_around_the_call_with_their_id(tmp_path):
    found = parse_report(write(tmp_path / "out", kernels=KERNELS, markers=MARKERS, calls=CALLS, copies=COPIES))
    assert paths(found) == ["mlp/w13", "mlp/w2", "mlp", "mlp"]
    assert found.meta["warnings"] == []
    assert found.table["name"].tolist() == ["gemm", "Cijk_Ailk_Bljk_HHS_BH", "reduce", "memcpy host to device"]
    first = found.table.iloc[0]
    # Grid sizes count work-items: 1000 / 64 and 8 / 4, rounded up.
    assert (first["grid_x"], first["grid_y"], first["grid_blocks"], first["block_threads"]) == (16, 2, 32, 256)
    assert (first["registers_per_thread"], first["smem_bytes"], first["scratch_bytes_per_thread"]) == (8, 2048, 16)
    assert found.table["device"].tolist() == [4, 4, 4, 4]
    assert found.table["stream"].tolist() == [1, 1, 2, 0]
    assert found.table["bytes"].isna().all(), "the trace does not say how much was copied"
    gpu = found.meta["gpu"]
    assert (gpu["name"], gpu["chip"], gpu["sm_count"]) == ("AMD Instinct MI300X", "gfx942", 304)


def test_one_file_brings_the_others_of_its_process(tmp_path):
    folder = write(tmp_path, kernels=KERNELS, markers=MARKERS, calls=CALLS)
    write(tmp_path, kernels=[kernel("other", 1, 1, 2, thread=5)], prefix="800_")
    assert len(parse_report(folder / "717_kernel_trace.csv").table) == 3
    both = parse_report(folder)
    assert len(both.table) == 4
    assert both.table["process"].nunique() == 2


def test_without_calls_a_kernel_belongs_to_a_range_only_if_it_surely_was_launched_there(tmp_path):
    """GIVEN kernel 13 that ran while w13 was open, 17 after w2 ended, 18 before any later mark
    WHEN there is no HIP trace THEN 13 is certain, and 17 is certain only to lie in mlp if it ran before mlp ended.
    """
    kernels = [kernel("early", 13, 1050, 1060), kernel("middle", 17, 1350, 1360), kernel("late", 18, 5900, 5910)]
    found = parse_report(write(tmp_path, kernels=kernels, markers=MARKERS))
    assert paths(found) == ["mlp/w13", "mlp", None]
    [said] = found.meta["warnings"]
    assert said.startswith("3 of 3 operations have no HIP call in the trace")


def test_without_calls_the_next_marker_bounds_the_launch(tmp_path):
    """Kernel 13 ran late, but marker 14 began on its thread while w13 was open: the launch lies before that."""
    markers = [*MARKERS, marker("inner", 14, 1050, 1060)]
    found = parse_report(write(tmp_path, kernels=[KERNELS[0]], markers=markers))
    assert paths(found) == ["mlp/w13"]
    other_thread = [*MARKERS, marker("inner", 14, 1050, 1060, thread=718)]
    found = parse_report(write(tmp_path, kernels=[KERNELS[0]], markers=other_thread))
    assert paths(found) == ["mlp"], "w2 begins at 1200, after w13 ended: mlp is all that is sure"


def test_ids_that_do_not_count_up_with_time_are_not_trusted(tmp_path):
    markers = [marker("a", 2, 1000, 2000), marker("b", 1, 1500, 1600)]
    found = parse_report(write(tmp_path, kernels=[kernel("k", 3, 1700, 1800)], markers=markers))
    assert paths(found) == [None]


def test_range_of_the_process_counts_where_there_is_one_thread_only(tmp_path):
    """roctxRangeStart has thread 0."""
    markers = [*MARKERS, marker("request", 10, 990, 1500, thread=0)]
    found = parse_report(write(tmp_path / "one", kernels=KERNELS, markers=markers, calls=CALLS))
    assert paths(found)[0] == "request/mlp/w13"
    threads = [*CALLS, call("hipLaunchKernel", 30, 1, 2, thread=800)]
    found = parse_report(write(tmp_path / "two", kernels=KERNELS, markers=markers, calls=threads))
    assert paths(found)[0] == "mlp/w13"
    assert "1 roctxRangeStart ranges belong to no thread" in found.meta["warnings"][0]


def test_graph_replays_belong_to_the_range_around_them_and_newer_domains_are_ranges_too(tmp_path):
    markers = [
        marker("step", 1, 100, 200, domain="MARKER_CORE_RANGE_API"),
        marker("n", 3, 1, 2, domain="MARKER_NAME_API"),
    ]
    calls = [call("hipGraphLaunch", 2, 110, 120)]
    found = parse_report(
        write(tmp_path, kernels=[kernel("k", 2, 500, 510), kernel("l", 2, 510, 520)], markers=markers, calls=calls)
    )
    assert paths(found) == ["step", "step"]
    assert found.table["attribution"].tolist() == ["graph_launch"] * 2
    assert found.meta["warnings"][0].startswith("2 operations of HIP graphs")
    assert found.ranges["name"].tolist() == ["step"]


def test_run_of_amd_files_is_redacted_and_reads_the_same(tmp_path):
    """GIVEN files below %hostname%/ with paths and the host in names, and with kernels that lack a call."""
    markers = [*MARKERS, marker("load /home/ada/w.bin on analytical-engine", 21, 1390, 1395)]
    kernels = [*KERNELS, kernel("jit_/home/ada/k.hip", 40, 9000, 9100)]
    source = tmp_path / "out"
    write(source / "analytical-engine", kernels=kernels, markers=markers, calls=CALLS, copies=COPIES)
    (source / "analytical-engine" / "717_config.json").write_text('{"HF_TOKEN": "hf_topsecret"}')
    run = runs.import_report(source, "decode", root=tmp_path / "profiles", manifest={"command": ["/home/ada/x"]})
    assert run.manifest["name"] == "mi300x/decode"
    assert run.manifest["report"] == "report"
    kept = b"".join(p.read_bytes() + p.name.encode() for p in sorted(run.path.rglob("*")) if p.is_file())
    for secret in (b"analytical-engine", b"/home/ada", b"ada", b"hf_topsecret", b"secret-uuid", b"717"):
        assert secret not in kept
    assert b"hipGetDevice" not in kept, "calls that launched nothing are left out"
    before, after = parse_report(source), run.launches()
    columns = [c for c in before.table.columns if c not in ("name", "name_full")]
    pd.testing.assert_frame_equal(before.table[columns], after.table[columns])
    assert after.ranges["name"].tolist()[-1] == "load w.bin on host"
    assert before.meta["gpu"] == after.meta["gpu"]


def test_first_instances_of_an_amd_run_are_whole(tmp_path):
    markers, kernels, calls = [], [], []
    for step in range(4):
        at, ids = 1000 * step, 10 * step
        markers.append(marker("mlp", ids + 1, at + 100, at + 300))
        calls.append(call("hipLaunchKernel", ids + 2, at + 110, at + 120))
        kernels.append(kernel("k", ids + 2, at + 400, at + 400 + 10 * (step + 1)))
    source = write(tmp_path / "out", kernels=kernels, markers=markers, calls=calls)
    run = runs.import_report(source, "x/y", root=tmp_path / "profiles", keep_root="mlp", keep_instances=2)
    table = breakdown(run.launches(), "mlp")
    assert table.loc[0, ["instances", "total_kernel_sum_ms"]].tolist() == [2, pytest.approx(30e-6)]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"717_marker_api_trace.csv": f"{API_HEADER}\n{MARKERS[0]}"}, "has no kernel trace"),
        ({"717_kernel_trace.csv": KERNEL_HEADER}, "has no kernel trace with kernels"),
        (
            {"717_kernel_trace.csv": "Kernel_Name,Start_Timestamp\nk,1"},
            "lacks the columns Correlation_Id, End_Timestamp",
        ),
        ({"717_kernel_trace.csv": f"{KERNEL_HEADER}\n1,2,3"}, "is truncated or not a readable CSV file"),
    ],
    ids=["markers-only", "empty", "columns", "ragged"],
)
def test_unusable_files_say_what_is_wrong(files, sentence, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        parse_report(tmp_path / next(iter(files)))


def test_other_files_and_folders_are_not_claimed(tmp_path):
    (tmp_path / "numbers.csv").write_text("a,b\n1,2")
    assert not rocprofv3.sniff(tmp_path / "numbers.csv")
    assert not rocprofv3.sniff(tmp_path)
    with pytest.raises(UserError, match="not in a format"):
        parse_report(tmp_path)


@real
def test_real_kernel_trace_reads_and_claims_no_range_of_another_run():
    """The examples are of different runs: no kernel may land in a range of the marker example."""
    found = parse_report(DATA / "kernel_trace.csv")
    kernels = found.table[found.table["kind"] == "kernel"]
    assert len(kernels) == 9
    assert set(kernels["name"]) == {"addition_kernel", "subtract_kernel", "multiply_kernel", "divide_kernel"}
    assert set(kernels["grid_blocks"]) == {1024 // 64 * 1024}
    assert found.table["range_id"].isna().all()


@real
def test_real_marker_trace_nests(tmp_path):
    """The ranges of AMD's Python example, with a kernel that ran while the innermost was open."""
    text = (DATA / "python_bindings.csv").read_text()
    (tmp_path / "marker_api_trace.csv").write_text(text)
    row = kernel("k", 8, 1392141765529000, 1392141765530000, thread=15964)
    (tmp_path / "kernel_trace.csv").write_text(f"{KERNEL_HEADER}\n{row}\n")
    found = parse_report(tmp_path)
    assert len(found.ranges) == 5, "the first row is a mark"
    assert paths(found) == ["main/run(rows=4, cols=5)/matrix_transpose/transpose(nrows=4, ncols=5)"]


@real
def test_only_traces_among_the_real_files_are_claimed():
    claimed = {f.name for f in DATA.glob("*.csv") if rocprofv3.sniff(f)}
    assert claimed == {
        *("kernel_trace.csv", "kernel_trace_truncated.csv", "marker_api_trace.csv", "memory_copy_trace.csv"),
        *("hip_trace.csv", "hip_runtime_trace.csv"),
    }


@pytest.mark.parametrize(("stream", "kept_ns"), [(1, 80_000), (-1, 1_600_060_000)])
def test_duration_over_two_whole_later_kernels_ends_where_the_next_starts(tmp_path, stream, kept_ns):
    """GIVEN no stream but a hardware queue, which several streams share, THEN the times stay and are noted."""
    base = 2**53 + 1  # ns; a double does not hold it
    spans = [(base + 20_000 * i, base + 20_000 * i + (1_600_000_000 if i == 2 else 15_000)) for i in range(5)]
    rows = [kernel("gemm", 13 + i, *span, stream=stream) for i, span in enumerate(spans)]
    found = parse_report(write(tmp_path / "r", kernels=rows))
    assert found.table["duration_ns"].sum() == kept_ns
    assert found.table["start_ns"].tolist() == [start for start, _ in spans]
    clipped = [w for w in found.meta["warnings"] if w.startswith("1 kernels have a duration that covers two or more")]
    assert len(clipped) == (stream > 0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([kernel("k", 13, 20, 10)], "1 of 1 operations end before they start"),
        ([kernel("k", 13, 10, 2**62)], "last more than ten days"),
        ([kernel("k", 13, -5, 10)], "has -5 in column Start_Timestamp"),
        ([kernel("k", 13, 10, 20, grid=(2**31, 2**31, 2))], "more work-items than 62 bits count"),
    ],
    ids=["backward", "ten days", "negative", "grid"],
)
def test_trace_that_cannot_be_is_refused(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        parse_report(write(tmp_path / "r", kernels=rows))
