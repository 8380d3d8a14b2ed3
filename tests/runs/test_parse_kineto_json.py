"""torch.profiler's JSON: literal samples with Kineto's quirks, and equality with what nsys says of the same program."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kineto_builder import KinetoBuilder
from nsys_builder import NsysBuilder

from moe_lab.analysis.breakdown import breakdown
from moe_lab.runs.parse import kineto_json, parse_report
from moe_lab.runs.parse.kineto import file
from moe_lab.spec.errors import UserError

# A trace as torch 2.11 writes it on an H200, shortened: one launch through the runtime, one (Triton's) by the driver.
LITERAL = """
  {
    "schemaVersion": 1,
    "deviceProperties": [
    {
      "id": 0, "name": "NVIDIA H200", "totalGlobalMem": 150109880320,
      "computeMajor": 9, "computeMinor": 0,
      "maxThreadsPerBlock": 1024, "maxThreadsPerMultiprocessor": 2048,
      "regsPerBlock": 65536, "warpSize": 32,
      "sharedMemPerBlock": 49152, "numSms": 132
    , "regsPerMultiprocessor": 65536, "sharedMemPerBlockOptin": 232448, "sharedMemPerMultiprocessor": 233472
    }
    ],
      "cuda_runtime_version": 13000,
  "displayTimeUnit": "ms",
  "baseTimeNanoseconds": 1790857026000000000,
  "traceEvents": [
  {
    "ph": "X", "cat": "user_annotation", "name": "mlp", "pid": 803, "tid": 803,
    "ts": 4517743840059.629, "dur": 3030.760,
    "args": {
      "External id": 5,"Record function id": 0, "Ev Idx": 4
    }
  },
  {
    "ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 803, "tid": 803,
    "ts": 4517743840070.001, "dur": 4.25,
    "args": {
      "External id": 6,      "cbid": 211, "correlation": 517
    }
  },
  {
    "ph": "s", "id": 517, "pid": 803, "tid": 803, "ts": 4517743840070.001,
    "cat": "ac2g", "name": "ac2g"
  },
  {
    "ph": "X", "cat": "cuda_driver", "name": "cuLaunchKernelEx", "pid": 803, "tid": 803,
    "ts": 4517743840090.5, "dur": 4.0,
    "args": {
      "cbid": 652, "correlation": 518
    }
  },
  {
    "ph": "X", "cat": "kernel", "name": "nvjet_sm90_tst_64x16_64x16_4x1_v_bz_TNT", "pid": 0, "tid": 7,
    "ts": 4517743843673.090, "dur": 7.616,
    "args": {
            "queued": 0, "device": 0, "context": 1,      "stream": 7, "correlation": 517,
      "registers per thread": 168,      "shared memory": 180692,
      "blocks per SM": 0.606061,      "warps per SM": 7.272727,      "grid": [4, 20, 1],
      "block": [384, 1, 1],      "est. achieved occupancy %": 0
    }
  },
  {
    "ph": "X", "cat": "kernel", "name": "grouped_gemm_kernel", "pid": 0, "tid": 7,
    "ts": 4517743843680.994, "dur": 1.888,
    "args": {
            "queued": 0, "device": 0, "context": 1,      "stream": 7, "correlation": 518,      "warps per SM": "inf",
      "graph id": 0, "graph node id": 0
    }
  },
  {
    "ph": "X", "cat": "gpu_memset", "name": "Memset (Unknown)", "pid": 0, "tid": 7,
    "ts": 4517743843683.906, "dur": 0.768,
    "args": {
            "device": 0, "context": 1,      "stream": 7, "correlation": 0,      "bytes": 4
    }
  },
  {
    "name": "Record Window End", "ph": "i", "s": "g",
    "pid": "", "tid": "", "ts": 4517743845158.348
  }
  ],
  "traceName": "/tmp/raw_decode.json"
}"""


def test_literal_trace_gives_the_expected_table(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(LITERAL)
    found = parse_report(path)
    shown = found.table[["kind", "name", "duration_ns", "correlation", "grid_blocks", "block_threads", "bytes"]]
    assert shown.astype(object).where(shown.notna(), None).values.tolist() == [
        ["kernel", "nvjet_sm90_tst_64x16_64x16_4x1_v_bz_TNT", 7616, 517, 80, 384, None],
        ["kernel", "grouped_gemm_kernel", 1888, 518, None, None, None],
        ["memset", "memset", 768, None, None, None, 4],
    ]
    assert found.table["start_ns"].tolist() == [4517743843673090, 4517743843680994, 4517743843683906]
    assert found.table["smem_bytes"].tolist()[0] == 180692
    assert found.table["smem_static_bytes"].isna().all(), "Kineto only has the sum of static and dynamic"
    assert found.table["attribution"].tolist() == ["api", "api", "none"]
    assert found.table["graph_node"].isna().all(), "node 0 is Kineto's word for none"
    assert found.meta["gpu"]["name"] == "NVIDIA H200"
    assert (found.meta["gpu"]["sm_count"], found.meta["gpu"]["max_warps_per_sm"]) == (132, 64)
    assert (found.meta["cuda"], found.meta["date"]) == ("13.0", "2026-11-22")


def same_program(builder):
    """Write the same little program into either builder: two threads, nesting, a copy, a kernel before any range."""
    builder.launch(10, 1, gpu=(1500, 1600), name="warm_up")
    builder.push("layer", 100, 900)
    builder.push("mlp", 200, 800)
    builder.push("w13", 300, 400)
    builder.push("w2", 400, 500)
    builder.launch(310, 2, gpu=(2000, 2333))
    builder.launch(410, 3, gpu=(2300, 2700), name="gemm2", stream=8)
    builder.launch(510, 4, gpu=(2700, 2710), name="reduce")
    builder.call(520, 522, 5)
    builder.push("step", 100, 600, thread=2)
    builder.launch(398, 6, gpu=(2800, 2801), thread=2)
    builder.launch(399, 7, gpu=(2900, 2950))  # ends after w13: only mlp contains the whole call
    return builder


def test_nsys_and_kineto_give_the_same_launches_for_the_same_program(tmp_path):
    nsys, kineto = same_program(NsysBuilder()), same_program(KinetoBuilder())
    nsys.memcpy(2750, 2760, 5)
    kineto.copy(2750, 2760, 5)
    kineto.metadata()
    theirs = parse_report(nsys.write(tmp_path / "a.sqlite"))
    ours = parse_report(kineto.write(tmp_path / "a.json.gz"))
    lacks = ["smem_static_bytes", "smem_dynamic_bytes"]  # Kineto has their sum
    pd.testing.assert_frame_equal(
        theirs.table.drop(columns=lacks), ours.table[theirs.table.columns].drop(columns=lacks)
    )
    pd.testing.assert_frame_equal(theirs.ranges.drop(columns="report_row"), ours.ranges.drop(columns="report_row"))
    pd.testing.assert_frame_equal(breakdown(theirs), breakdown(ours))
    assert ours.table["range_id"].isna().tolist() == [True, *[False] * 6]


def test_replayed_kernels_belong_to_the_range_around_the_replay_and_a_warning_says_so(tmp_path):
    """With node ids (newer Kineto) and without (torch 2.11): the call tells that it was a graph."""
    for node in (7, 0):
        b = KinetoBuilder()
        b.push("capture", 100, 200)
        b.call(110, 112, 1)  # captured, so no kernel has its id
        for step, at in enumerate((300, 400)):
            b.push("step", at, at + 50)
            b.call(at + 1, at + 3, 10 + step, name="cudaGraphLaunch")
            b.kernel(at + 500, at + 510, 10 + step, node=node)
            b.kernel(at + 510, at + 530, 10 + step, node=node + 1 if node else 0)
        found = parse_report(b.write(tmp_path / "graph.json"))
        assert found.table["attribution"].tolist() == ["graph_launch"] * 4
        table = breakdown(found)
        assert table.loc[table["path"] == "step", ["instances", "kernels"]].values.tolist() == [[2, 2]]
        [said] = found.meta["warnings"]
        assert said.startswith("4 operations of CUDA graphs are attributed to the range around the replay only")
        assert found.meta["graph_mode"] == "Node"


def test_operator_stands_in_for_a_launch_that_the_trace_lacks(tmp_path):
    """GIVEN older Kineto, which did not record cudaLaunchKernelExC THEN the linked operator says where it happened."""
    b = KinetoBuilder()
    b.push("mlp", 100, 300)
    b.operator("aten::mm", 110, 150, 41)
    b.operator("aten::add", 160, 170, 42)
    b.kernel(500, 600, 9, external=41)
    b.kernel(600, 700, 10, external=99)
    found = parse_report(b.write(tmp_path / "t.json"))
    assert found.table["attribution"].tolist() == ["api", "none"]
    assert found.ranges.loc[found.table["range_id"].iloc[0], "path"] == "mlp"


def two_ranks(second_gpu):
    """Two ranks in one file, pids 11 and 22; id 5 is used by both, id 6 by one; all kernels stand at the end."""
    b = KinetoBuilder(pid=11)
    for pid, own in ((11, "a"), (22, "b")):
        b.push(own, 100, 200, pid=pid)
        b.call(110, 112, 5, pid=pid)
    b.call(120, 122, 6, pid=22)
    b.kernel(300, 310, 5)
    b.kernel(310, 330, 6, device=second_gpu)
    b.kernel(330, 360, 5, device=second_gpu)
    return b


def test_processes_of_a_merged_trace_are_told_apart_by_their_gpu(tmp_path):
    found = parse_report(two_ranks(1).write(tmp_path / "merged.json"))
    own = found.ranges.loc[found.table["range_id"], "name"].tolist()
    assert list(zip(own, found.table["duration_ns"], strict=True)) == [("a", 10), ("b", 20), ("b", 30)]
    assert "of 2 follows from GPU, time or place in the file, 0 are unattributed" in found.meta["warnings"][0]


def test_processes_that_all_call_their_gpu_0_stay_unattributed_where_they_share_ids(tmp_path):
    found = parse_report(two_ranks(0).write(tmp_path / "merged.json"))
    assert found.table["attribution"].tolist() == ["none", "api", "none"]
    assert "2 GPU operations have a correlation id that several processes" in found.meta["warnings"][0]
    assert "of 0 follows" in found.meta["warnings"][0]


def test_ranks_one_after_the_other_in_a_file_are_told_apart_and_stay_so_in_the_small_copy(tmp_path):
    b = KinetoBuilder()
    for pid, name, length in ((100, "a", 10), (200, "b", 20)):
        b.push(name, 100, 500, pid=pid)
        for correlation in (1, 2):
            b.call(110 * correlation, 110 * correlation + 2, correlation, pid=pid)
            b.kernel(1000 * correlation, 1000 * correlation + length, correlation, device=0)
        b.push("end", 600, 700, pid=pid)
    path = b.write(tmp_path / "merged.json")
    kineto_json.slim(path, tmp_path / "small.json.gz")
    for report in (path, tmp_path / "small.json.gz"):
        found = parse_report(report)
        own = found.ranges.loc[found.table["range_id"], "name"].tolist()
        assert list(zip(own, found.table["duration_ns"], strict=True)) == [("a", 10), ("a", 10), ("b", 20), ("b", 20)]


def test_ids_that_one_process_uses_again_are_unattributed_with_a_count(tmp_path):
    """GIVEN two ranks of the same pid (containers) in one file THEN no kernel goes to the other's range."""
    b = KinetoBuilder()
    for at in (100, 500):
        b.push(f"rank at {at}", at, at + 90)
        b.call(at + 10, at + 12, 5)
        b.kernel(at + 1000, at + 1010, 5)
    found = parse_report(b.write(tmp_path / "t.json"))
    assert found.table["attribution"].tolist() == ["none", "none"]
    assert found.meta["warnings"][0].startswith(
        "2 GPU operations have a correlation id that their process uses several"
    )


def test_graph_launches_without_kernels_are_counted_in_the_small_copy_too(tmp_path):
    b = KinetoBuilder()
    b.push("step", 100, 900)
    b.launch(110, 1, gpu=(1000, 1010))
    for i in range(8):
        b.call(120 + 10 * i, 125 + 10 * i, 10 + i, name="hipGraphLaunch")
    b.call(300, 305, 30, name="hipGraphLaunch")
    b.kernel(2000, 2010, 30)
    path = b.write(tmp_path / "t.json")
    kineto_json.slim(path, tmp_path / "s.json.gz")
    for report in (path, tmp_path / "s.json.gz"):
        said = [w for w in parse_report(report).meta["warnings"] if "without the kernels inside them" in w]
        assert len(said) == 1
        assert said[0].startswith("The report has 8 HIP graph launches")


def test_kernels_that_run_over_the_next_of_their_stream_are_noted_and_kept(tmp_path):
    """Up to 1 us is the grain of the clocks; other streams and GPUs run at the same time."""
    b = KinetoBuilder()
    b.push("step", 100, 900)
    lengths = [15_000, 20_900, 1_600_000_000, 15_000]
    for i, length in enumerate(lengths):
        b.launch(110 + 10 * i, i + 1, gpu=(10_000 + 20_000 * i, 10_000 + 20_000 * i + length))
    b.launch(200, 9, gpu=(10_000, 900_000), stream=8)
    found = parse_report(b.write(tmp_path / "t.json"))
    assert found.table["duration_ns"].tolist() == [*lengths, 890_000]
    [said] = found.meta["warnings"]
    assert said.startswith("1 kernels still run when the next kernel of their stream starts, 1599.9800 ms in all")


@pytest.mark.parametrize(("graph", "kept_ms"), [(None, 0.08), (7, 1600.06)])
def test_duration_over_two_whole_later_kernels_ends_where_the_next_starts(tmp_path, graph, kept_ms):
    """Five kernels 20 us apart, of which the third says 1.6 s; a graph's branches may share a stream."""
    b = KinetoBuilder()
    b.push("step", 100, 900)
    for i in range(5):
        length = 1_600_000_000 if i == 2 else 15_000
        b.launch(110 + 10 * i, i + 1, gpu=(10_000 + 20_000 * i, 10_000 + 20_000 * i + length))
        if graph:
            b.events[-1]["args"]["graph node id"] = graph + i
    found = parse_report(b.write(tmp_path / "t.json"))
    assert breakdown(found).attrs["coverage"]["kernel_time_ms"] == pytest.approx(kept_ms)
    clipped = "1 kernels have a duration that covers two or more whole later kernels"
    assert any(w.startswith(clipped) for w in found.meta["warnings"]) == (graph is None)


@pytest.mark.parametrize("key", ["stream", "device", "bytes", "registers per thread", "shared memory", "queued"])
@pytest.mark.parametrize("value", [2**64 - 1, 10**30, "\u00b2", "9" * 5000, [1], {"a": 1}, None, float("nan"), True])
def test_ids_and_sizes_that_are_none_are_not_known_and_times_stay(key, value, tmp_path):
    b = KinetoBuilder()
    b.push("step", 100, 900)
    b.launch(110, 1, gpu=(1000, 1010))
    b.launch(120, 2, gpu=(2000, 2010))
    b.events[4]["args"][key] = value
    found = parse_report(b.write(tmp_path / "t.json"))
    table = breakdown(found)
    assert table.loc[table["path"] == "step", ["kernels", "kernel_sum_ms"]].values.tolist() == [[2, 20e-6]]
    if key in ("stream", "device"):
        assert found.table[key].isna().tolist() == [True, False]


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 10**30, "worker \ud800", "7", None])
def test_threads_and_processes_of_odd_ids_keep_their_own_ranges(value, tmp_path):
    b = KinetoBuilder()
    b.push("one", 100, 900)
    b.push("two", 150, 800, thread=value)
    b.launch(200, 1, gpu=(1000, 1010))
    b.launch(300, 2, gpu=(2000, 2020), thread=value)
    found = parse_report(b.write(tmp_path / "t.json"))
    own = found.ranges.loc[found.table["range_id"], "path"].tolist()
    assert list(zip(own, found.table["duration_ns"], strict=True)) == [("one", 10), ("two", 20)]


@pytest.mark.parametrize("key", ["ts", "dur"])
@pytest.mark.parametrize("value", [1e308, 10**30, "1e400", "NaN", "\u00b2", [], {}, None, True, float("inf"), "gone"])
@pytest.mark.parametrize("event", [0, 2, 4], ids=["range", "call", "kernel"])
def test_times_that_are_none_are_refused_with_their_event(event, key, value, tmp_path):
    b = KinetoBuilder()
    b.push("step", 100, 900)
    b.launch(110, 1, gpu=(1000, 1010))
    if value == "gone":
        del b.events[event][key]
    else:
        b.events[event][key] = value
    with pytest.raises(UserError, match=rf"event {event + 1} \(.*has the (time|duration) .*not a number of micros"):
        parse_report(b.write(tmp_path / "t.json"))


def test_durations_below_0_are_refused_and_times_below_0_are_read_and_kept_in_the_small_copy(tmp_path):
    b = KinetoBuilder()
    b.push("step", -5001, -2000)
    b.launch(-4001, 1, gpu=(-1999, 1))
    path = b.write(tmp_path / "t.json")
    kineto_json.slim(path, tmp_path / "s.json.gz")
    for report in (path, tmp_path / "s.json.gz"):
        found = parse_report(report)
        assert found.table[["start_ns", "duration_ns", "attribution"]].values.tolist() == [[-1999, 2000, "api"]]
        assert found.ranges["start_ns"].tolist() == [-5001]
    b.events[4]["dur"] = -1
    b.write(path)
    with pytest.raises(UserError, match=r"event 5 \(kernel\) has the duration '-1'"):
        parse_report(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t + "{}", "more text follows its end, from character"),
        (lambda t: t + t, "follows its end"),
        (lambda t: t.replace("void gemm", "C:\\Python", 1), "character .* backslash begins no JSON escape.*not "),
        (lambda t: t.replace('"dur":', '"dur": 1, "dur":', 1), "'dur' appears twice in one object, with two values"),
        (lambda t: t.replace('"traceEvents": [', '"traceEvents": [5, ', 1), "there is no event"),
        (lambda t: t.replace('"traceEvents": [', '"traceEvents": [], "traceEvents": [', 1), "appears twice"),
        (lambda t: t.replace('"args": {', '"args": {"a": ' + "[" * 100_000, 1), "nested too deeply"),
        (lambda t: t.replace('"cbid": 211', '"cbid": ' + "9" * 5000, 1), "a number with thousands of digits"),
        (
            lambda t: t.replace("void gemm<float>(float*)", "x", 1).replace('"x"', '["x"]', 1),
            "name of event .* not text",
        ),
    ],
)
def test_damaged_trace_is_refused_with_its_cause(change, sentence, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(change(same_program(KinetoBuilder()).text()))
    with pytest.raises(UserError, match=sentence):
        kineto_json.parse(path)


def test_byte_order_marks_utf16_and_packed_members_one_after_the_other_are_read(tmp_path):
    text = same_program(KinetoBuilder()).text()
    half = len(text) // 2
    path = tmp_path / "t.json"
    for data in (
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode()),
    ):
        path.write_bytes(data)
        assert len(parse_report(path).table) == 6


def test_file_that_unpacks_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(b'{"schemaVersion": 1, "traceEvents": [' + b" " * 120_000_000))
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        parse_report(path)
    monkeypatch.setattr(file, "_memory", lambda: 3_000_000)
    with pytest.raises(UserError, match=r"a third of the memory; trace fewer steps"):
        parse_report(path)


def test_memory_that_does_not_suffice_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(kineto_json, "Join", full)
    with pytest.raises(UserError, match="needs more memory than there is; trace fewer steps"):
        parse_report(same_program(KinetoBuilder()).write(tmp_path / "t.json"))


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    for path in (tmp_path, tmp_path / "fifo.json", Path(os.devnull)):
        with pytest.raises(UserError, match=r"it is not a file; give the path"):
            kineto_json.parse(path)


@pytest.mark.parametrize("name", [5, {"a": 1}, "H\ud800", "N" * 300, "", None, "a\x1b[31m"])
def test_gpu_of_an_odd_name_has_none(name, tmp_path):
    b = KinetoBuilder(deviceProperties=[{"id": 0, "name": name, "numSms": 132, "totalGlobalMem": 10**30}])
    b.launch(110, 1, gpu=(1000, 1010))
    found = parse_report(b.write(tmp_path / "t.json")).meta["gpu"]
    assert (found["name"], found["sm_count"], found["memory_bytes"]) == (None, 132, None)


def test_half_surrogates_in_names_are_written_out(tmp_path):
    b = KinetoBuilder()
    b.push("a\ud800", 100, 900)
    b.launch(110, 1, gpu=(1000, 1010), name="k\udfff")
    found = parse_report(b.write(tmp_path / "t.json"))
    assert found.ranges["name"].tolist() == ["a\\ud800"]
    assert found.table["name"].tolist() == ["k\\udfff"]


def test_operations_without_a_duration_are_counted(tmp_path):
    b = same_program(KinetoBuilder())
    next(e for e in b.events if e["cat"] == "kernel")["ph"] = ["X"]
    assert (
        parse_report(b.write(tmp_path / "t.json")).meta["warnings"][0].startswith("1 GPU operations have no duration")
    )


def test_modules_are_ranges_and_steps_of_the_profiler_one_path(tmp_path):
    """GIVEN with_stack=True, as engines trace THEN nn.Module calls nest between annotations; step numbers go."""
    b = KinetoBuilder()
    for step in (0, 1):
        at = 1000 * step
        b.push(f"ProfilerStep#{step}", at + 100, at + 900)
        b.module("Decoder_0", at + 200, at + 800)
        b.module("FusedMoE_0", at + 300, at + 700)
        b.event("python_function", "moe.py(10): forward", at + 310, at + 690, (b.pid, 1))
        b.launch(at + 320, 1 + step, gpu=(at + 5000, at + 5010))
    table = breakdown(parse_report(b.write(tmp_path / "t.json")))
    assert table["path"].tolist()[:3] == [
        "ProfilerStep",
        "ProfilerStep/Decoder_0",
        "ProfilerStep/Decoder_0/FusedMoE_0",
    ]
    assert table["instances"].tolist()[:3] == [2, 2, 2]


def test_operators_are_ranges_where_nothing_else_is(tmp_path):
    b = KinetoBuilder()
    b.operator("aten::linear", 100, 200, 1)
    b.operator("aten::mm", 110, 190, 2)
    b.launch(120, 5, gpu=(300, 310))
    found = parse_report(b.write(tmp_path / "t.json"))
    assert found.ranges["path"].tolist() == ["aten::linear", "aten::linear/aten::mm"]
    assert "no user annotations" in found.meta["warnings"][0]


def test_times_since_1970_keep_their_nanoseconds(tmp_path):
    """GIVEN an older trace: microseconds since 1970, beyond what a double can hold to the nanosecond."""
    text = """[
    {"ph": "X", "cat": "user_annotation", "name": "a", "pid": 1, "tid": 1, "ts": 1740461679472450.001, "dur": 0.100},
    {"ph": "X", "cat": "user_annotation", "name": "b", "pid": 1, "tid": 1, "ts": 1740461679472450.101, "dur": 0.100},
    {"ph": "X", "cat": "Runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": 1740461679472450.102,
     "dur": 0.001, "args": {"correlation": 3, "external id": 2}},
    {"ph": "X", "cat": "Kernel", "name": "k", "pid": 0, "tid": 7, "ts": 1740461679472999, "dur": 3,
     "args": {"correlation": 3, "device": 0, "stream": 7}}
    ]"""
    path = tmp_path / "old.json"
    path.write_text(text)
    found = parse_report(path)
    assert found.ranges["start_ns"].tolist() == [1740461679472450001, 1740461679472450101]
    assert found.ranges.loc[found.table["range_id"].iloc[0], "name"] == "b"
    assert found.table["duration_ns"].tolist() == [3000]
    assert found.meta["date"] == "2025-02-25"


@pytest.mark.parametrize(
    ("content", "claimed"),
    [
        ('{"schema": 1, "name": "h200/run"}', False),
        ('[{"a": 1}]', False),
        ('{"traceEvents": [{"ph": "X", "cat": "blink.user_timing", "name": "paint"}]}', False),
        ('{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "aten::mm"}]}', True),
        ("not json at all", False),
        ("", False),
    ],
)
def test_only_traces_of_kineto_are_claimed(content, claimed, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    assert kineto_json.sniff(path) == claimed


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_truncated_trace_is_refused_in_one_sentence(cut, suffix, tmp_path):
    path = same_program(KinetoBuilder()).write(tmp_path / f"t{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(UserError, match="cannot be read as a JSON trace"):
        kineto_json.parse(path)


def test_trace_without_kernels_says_what_to_do(tmp_path):
    b = KinetoBuilder()
    b.operator("aten::mm", 1, 2, 1)
    with pytest.raises(UserError, match=r"no GPU kernels; profile with ProfilerActivity\.CUDA"):
        parse_report(b.write(tmp_path / "t.json"))


@st.composite
def programs(draw):
    """Threads with randomly nested annotations, launches anywhere, kernels that run late and out of order."""
    ranges, calls = [], []
    for thread in range(1, 1 + draw(st.integers(1, 3))):
        open_, clock = [], 0
        for _ in range(draw(st.integers(1, 25))):
            clock += draw(st.integers(1, 2000))  # ns: most moments are no whole microseconds
            what = draw(st.sampled_from(["push", "pop", "launch", "launch"]))
            if what == "push":
                open_.append((draw(st.sampled_from("abc")), clock))
            elif what == "pop" and open_:
                name, start = open_.pop()
                ranges.append((name, start, clock, thread))
            elif what == "launch":
                calls.append((clock, clock + draw(st.integers(0, 3000)), thread))
        clock += 5000
        ranges += [(name, start, clock + i, thread) for i, (name, start) in enumerate(reversed(open_))]
    return ranges, calls


@settings(max_examples=60, deadline=None)
@given(programs(), st.randoms())
def test_join_agrees_with_brute_force(tmp_path_factory, program, random):
    ranges, calls = program
    if not calls:
        return
    b = KinetoBuilder()
    order = list(range(len(calls)))
    random.shuffle(order)
    for number in order:
        start, end, thread = calls[number]
        b.kernel(10**6 + number, 10**6 + number + 5, number + 1)
        b.call(start, end, number + 1, thread=thread)
    for name, start, end, thread in random.sample(ranges, len(ranges)):
        b.push(name, start, end, thread=thread)
    found = parse_report(b.write(tmp_path_factory.mktemp("kineto") / "t.json"))
    own = found.ranges
    for _, row in found.table.iterrows():
        start, end, thread = calls[row["correlation"] - 1]
        around = [r for r in ranges if r[3] == thread and r[1] <= start and r[2] >= end]
        got = []
        at = row["range_id"]
        while not pd.isna(at):
            got.append((own.loc[at, "name"], own.loc[at, "start_ns"], own.loc[at, "end_ns"]))
            at = own.loc[at, "parent_id"]
        assert sorted(got) == sorted((n, s, e) for n, s, e, _ in around)


def test_escapes_and_odd_characters_in_names_survive(tmp_path):
    b = KinetoBuilder()
    b.push('say "hi" \\ µ\n', 100, 200)
    b.launch(110, 1, gpu=(300, 310))
    text = b.text().replace("\\u00b5", "µ")
    path = tmp_path / "t.json"
    path.write_bytes(text.encode()[:-1] + b"}")
    assert parse_report(path).ranges["name"].tolist() == ['say "hi" \\ µ\n']
    path.write_bytes(text.encode().replace("µ".encode(), b"\xff"))  # some drivers' strings are no UTF-8
    assert "\ufffd" in parse_report(path).ranges["name"].iloc[0]


def test_large_trace_keeps_no_event_objects(tmp_path):
    """Memory stays near the size of the text: 20 000 kernels would be some 40 MB as Python objects."""
    import tracemalloc

    b = KinetoBuilder()
    for i in range(20_000):
        b.kernel(i * 100, i * 100 + 50, i + 1)
    text = b.text()
    path = tmp_path / "big.json"
    path.write_text(text)
    del b
    tracemalloc.start()
    found = kineto_json.parse(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.table) == 20_000
    assert int(np.asarray(found.table["duration_ns"]).sum()) == 50 * 20_000
    assert peak < 4 * len(text)
    assert json.loads(text)["schemaVersion"] == 1
