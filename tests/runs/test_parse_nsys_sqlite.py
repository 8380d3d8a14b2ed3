"""Nsight Systems exports: what is attributed to what, and what is refused."""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc

import checkout
import pandas as pd
import pytest
from checkout import REPO
from nsys_builder import GENERATIONS, NsysBuilder
from nsys_runs import graph, parsed, real

from moe_lab.analysis.coverage import coverage
from moe_lab.cli import main
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

DATA = checkout.DATA / "nsys"


def paths(launches):
    """Return the range path of each operation, None where it has none."""
    path = launches.ranges["path"]
    return [None if pd.isna(i) else path[i] for i in launches.table["range_id"]]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_parse_attributes_a_kernel_by_its_api_call_in_every_generation(generation, tmp_path):
    b = NsysBuilder(generation)
    b.push("layer", 0, 100)
    b.push("mlp", 10, 50)
    b.push("mlp", 20, 40)  # nested range of the same name
    b.launch(25, 1, gpu=(200, 230))  # runs long after the range closed on the CPU
    b.launch(45, 2, gpu=(230, 240))
    b.launch(99, 3, gpu=(240, 250))  # its call ends after the range
    got = parsed(b, tmp_path)
    assert paths(got) == ["layer/mlp/mlp", "layer/mlp", None]
    assert got.table["attribution"].tolist() == ["api", "api", "none"]
    assert got.meta["schema"] == GENERATIONS[generation][0]
    assert got.meta["warnings"] == []


def test_parse_keeps_names_geometry_and_times(tmp_path):
    b = NsysBuilder()
    b.launch(1, 1, gpu=(10, 35), grid=(5, 3, 2), block=(64, 2, 1), registers=90, stream=9)
    row = parsed(b, tmp_path).table.iloc[0]
    assert (row["kind"], row["name"], row["name_full"]) == ("kernel", "gemm", "void gemm<float>(float*)")
    assert (row["start_ns"], row["end_ns"], row["duration_ns"]) == (10, 35, 25)
    assert (row["grid_blocks"], row["block_threads"], row["registers_per_thread"]) == (30, 128, 90)
    assert (row["smem_static_bytes"], row["smem_dynamic_bytes"], row["stream"]) == (1024, 0, 9)
    assert pd.isna(row["bytes"])
    assert pd.isna(row["graph_node"])


def test_parse_joins_by_process_where_correlation_ids_collide(tmp_path):
    b = NsysBuilder()
    for process, name in ((1, "rank0"), (2, "rank1")):
        b.push(name, 0, 100, process=process)
        b.launch(10, 7, gpu=(20, 30), process=process)
    got = parsed(b, tmp_path)
    assert paths(got) == ["rank0", "rank1"]
    assert got.table["process"].tolist() == [0, 1]
    assert got.ranges["process"].tolist() == [0, 1]


def test_parse_tells_threads_apart_whose_ids_differ_beyond_2_to_53(tmp_path):
    b = NsysBuilder()
    b.push("first", 0, 100, thread=1)
    b.push("second", 0, 100, thread=2)  # its globalTid is larger by 1: equal as a float
    b.launch(10, 1, gpu=(20, 30), thread=2)
    b.launch(10, 2, gpu=(30, 40), thread=1)
    assert paths(parsed(b, tmp_path)) == ["second", "first"]


def test_parse_reads_names_from_text_and_registered_strings_and_domains(tmp_path):
    b = NsysBuilder()
    b.event(75, "moe_lab", 0, None, registered=True, domain=5)
    b.event(75, "other", 0, None, process=2, domain=5)  # the same id in another process
    b.push("w13", 0, 10, registered=True, domain=5)
    b.push("{'Module': 'model.layers.0.mlp', 'Inputs': [[1]]}", 20, 30)
    b.push("aten::mm, op_id = 7", 40, 50, process=2, domain=5)
    for i, (at, process) in enumerate(((1, 1), (21, 1), (41, 2))):
        b.launch(at, i, gpu=(60 + i, 61 + i), process=process)
    got = parsed(b, tmp_path)
    assert paths(got) == ["w13", "model.layers.0.mlp", "aten::mm"]
    assert got.ranges["domain"].fillna("default").tolist() == ["moe_lab", "default", "other"]


def test_parse_reads_columns_that_begin_with_many_nulls(tmp_path):
    b = NsysBuilder()
    for i in range(70_000):  # more than a reader may look at to guess the type of a column
        b.push("registered", 10 * i, 10 * i + 5, registered=True)
    b.push("text", 10**6, 10**6 + 50)
    b.launch(10**6 + 10, 1, gpu=(2 * 10**6, 2 * 10**6 + 5))
    assert paths(parsed(b, tmp_path)) == ["text"]


def test_parse_closes_open_ranges_at_the_last_timestamp(tmp_path):
    b = NsysBuilder()
    b.push("server", 0, None)
    b.launch(10, 1, gpu=(20, 300))
    got = parsed(b, tmp_path)
    assert paths(got) == ["server"]
    assert got.ranges["end_ns"].tolist() == [300]
    assert "1 ranges were still open" in got.meta["warnings"][0]


def test_parse_lets_start_end_ranges_overlap(tmp_path):
    b = NsysBuilder()
    b.event(60, "request 1", 0, 50)
    b.event(60, "request 2", 20, 90)
    b.push("forward", 30, 45)
    b.launch(32, 1, gpu=(100, 110))
    b.launch(60, 2, gpu=(110, 120))
    got = parsed(b, tmp_path)
    assert paths(got) == ["request 1/forward", None]
    names = got.ranges["name"]
    pairs = [(int(o), names[r]) for o, r in got.memberships.itertuples(index=False)]
    assert sorted(pairs) == [(0, "request 2"), (1, "request 2")]


def test_parse_leaves_out_start_end_ranges_that_end_on_another_thread(tmp_path):
    b = NsysBuilder()
    b.event(60, "here", 0, 90, end_thread=1)
    b.event(60, "elsewhere", 0, 95, end_thread=2)
    b.launch(10, 1, gpu=(100, 110))
    got = parsed(b, tmp_path)
    assert paths(got) == ["here"]
    assert got.ranges["name"].tolist() == ["here"]
    assert "1 start/end ranges end on another thread" in got.meta["warnings"][0]


def test_parse_treats_copies_and_memsets_as_operations(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    b.launch(1, 1, gpu=(10, 20))
    b.call(5, 7, 2)
    b.memcpy(20, 25, 2, size=64, kind=2)
    b.call(8, 9, 3)
    b.memset(25, 27, 3, size=32)
    got = parsed(b, tmp_path)
    assert paths(got) == ["step"] * 3
    assert got.table["kind"].tolist() == ["kernel", "memcpy", "memset"]
    assert got.table["name"].tolist() == ["gemm", "memcpy device to host", "memset"]
    assert got.table["bytes"].fillna(-1).tolist() == [-1, 64, 32]


def test_parse_leaves_kernels_without_an_api_call_unattributed(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    b.launch(1, 1, gpu=(10, 20))
    b.kernel(30, 40, 99)
    b.kernel(40, 50, None)
    got = parsed(b, tmp_path)
    assert paths(got) == ["step", None, None]
    assert got.meta["warnings"] == ["2 of 3 GPU operations have no API call in the report, so no launch range."]


def test_parse_reads_a_report_without_ranges_and_calls(tmp_path):
    b = NsysBuilder()
    b.kernel(30, 40, 1)
    got = parsed(b, tmp_path)
    assert paths(got) == [None]
    assert len(got.ranges) == 0
    assert any("no NVTX ranges" in w for w in got.meta["warnings"])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_parse_attributes_replayed_kernels_to_the_stage_of_their_capture(generation, tmp_path):
    got = parsed(graph(generation), tmp_path)
    assert paths(got) == ["moe_lab|M=1/mlp/w13", "moe_lab|M=1/mlp/w2"] * 2
    assert got.table["attribution"].tolist() == ["graph_node"] * 4
    own = got.table["range_id"]
    assert own.nunique() == 4, "each replay is an instance of its own"
    assert got.ranges.loc[own, "synthetic"].all()
    parents = got.ranges.loc[got.ranges.loc[own, "parent_id"], "parent_id"]
    assert parents.tolist() == got.table["launch_range_id"].tolist()
    assert got.ranges.loc[got.table["capture_range_id"], "name"].tolist() == ["w13", "w2"] * 2
    assert got.meta["warnings"] == []


def test_parse_gives_replays_outside_of_ranges_the_captured_path(tmp_path):
    b = graph(replays=())
    for at in (1000, 2000):
        b.replay(at, at)
        b.kernel(at + 10, at + 20, at, node=101)
    got = parsed(b, tmp_path)
    assert paths(got) == ["moe_lab|M=1/mlp/w13"] * 2
    assert got.table["range_id"].nunique() == 2
    assert got.table["launch_range_id"].isna().all()


def test_parse_puts_captured_ranges_below_a_differently_named_replay(tmp_path):
    b = graph(replays=())
    b.push("decode step", 990, 1100)
    b.replay(1000, 50)
    b.kernel(1010, 1020, 50, node=101)
    assert paths(parsed(b, tmp_path)) == ["decode step/moe_lab|M=1/mlp/w13"]


def test_parse_attributes_to_the_replay_alone_when_the_capture_was_not_traced(tmp_path):
    got = parsed(graph(creations=False), tmp_path)
    assert paths(got) == ["moe_lab|M=1"] * 4
    assert got.table["attribution"].tolist() == ["graph_launch"] * 4
    assert got.table["capture_range_id"].isna().all()
    assert "4 of 4 operations of CUDA graphs were captured before tracing began" in got.meta["warnings"][0]


def test_parse_keeps_graph_nodes_of_processes_apart(tmp_path):
    b = graph(process=1, replays=((1000, 50),))
    b.push("other", 0, 40, process=2)  # the same node ids, captured under another range
    b.node(10, 1, process=2)
    b.node(200, 101, 1, process=2)
    b.replay(1000, 50, process=2)
    b.kernel(1010, 1020, 50, node=101, process=2)
    assert paths(parsed(b, tmp_path)) == ["moe_lab|M=1/mlp/w13", "moe_lab|M=1/mlp/w2", "other"]


def test_parse_follows_graphs_that_are_instantiated_again(tmp_path):
    b = graph(replays=())
    b.node(300, 201, 1)  # a second executable of the same graph
    b.node(300, 301, 101)  # and a clone of a clone
    for i, node in enumerate((101, 201, 301)):
        b.replay(1000 + 100 * i, 60 + i)
        b.kernel(1010 + 100 * i, 1020 + 100 * i, 60 + i, node=node)
    assert paths(parsed(b, tmp_path)) == ["moe_lab|M=1/mlp/w13"] * 3


def test_parse_finds_the_stage_of_graphs_captured_on_another_thread(tmp_path):
    b = NsysBuilder()
    b.push("compile", 0, 100, thread=2)
    b.push("w13", 5, 50, thread=2)
    b.push("something else", 0, 100, thread=1)  # open at the same time on the thread that replays
    b.node(10, 1, thread=2)
    b.node(60, 101, 1, thread=1)
    b.push("step", 900, 1100, thread=1)
    b.replay(1000, 50, thread=1)
    b.kernel(1010, 1020, 50, node=101)
    assert paths(parsed(b, tmp_path)) == ["step/compile/w13"]


def test_parse_keeps_eager_and_replayed_kernels_of_one_stage_on_one_path(tmp_path):
    b = graph(replays=((1000, 50),))
    b.launch(12, 1, gpu=(500, 510))  # eager, in the range that the graph was captured in
    got = parsed(b, tmp_path)
    assert paths(got) == ["moe_lab|M=1/mlp/w13", "moe_lab|M=1/mlp/w2", "moe_lab|M=1/mlp/w13"]


@pytest.mark.parametrize(("mode", "trace"), [("Graph", False), ("Graph", True), ("", True)])
def test_parse_refuses_graph_level_traces_unless_told(mode, trace, tmp_path):
    b = NsysBuilder(graph_mode=mode)
    b.push("prefill", 0, 100)
    b.launch(10, 1, gpu=(20, 30))
    b.replay(50, 2)
    if trace:
        b.row(
            "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=60, end=90, deviceId=0, correlationId=2, graphId=1, graphExecId=2
        )
    with pytest.raises(UserError, match=r"1 CUDA graph launches.*--cuda-graph-trace=node"):
        parsed(b, tmp_path)
    got = parsed(b, tmp_path, allow_graph_level=True)
    assert paths(got) == ["prefill"]
    assert "missing from every number" in got.meta["warnings"][0]


def test_parse_accepts_graph_mode_when_no_graph_was_launched(tmp_path):
    b = NsysBuilder(graph_mode="Graph")
    b.launch(10, 1, gpu=(20, 30))
    assert len(parsed(b, tmp_path).table) == 1


def test_parse_says_when_node_mode_lacks_the_kernels_of_a_graph(tmp_path):
    b = NsysBuilder(graph_mode="Node")
    b.launch(10, 1, gpu=(20, 30))
    b.replay(50, 2)
    assert any("1 CUDA graph launches without the kernels" in w for w in parsed(b, tmp_path).meta["warnings"])


def test_parse_reads_versioned_tables(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    b.launch(10, 1, gpu=(20, 30))
    b.rename = {"CUPTI_ACTIVITY_KIND_KERNEL": "CUPTI_ACTIVITY_KIND_KERNEL_V2", "NVTX_EVENTS": "NVTX_EVENTS_V3"}
    assert paths(parsed(b, tmp_path)) == ["step"]


def test_parse_warns_of_a_newer_schema_but_reads_it(tmp_path):
    b = NsysBuilder(schema="4.1.0")
    b.launch(10, 1, gpu=(20, 30))
    got = parsed(b, tmp_path)
    assert len(got.table) == 1
    assert "Schema 4.1.0 is newer than" in got.meta["warnings"][0]


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("CUPTI_ACTIVITY_KIND_KERNEL", "correlationId"),
        ("CUPTI_ACTIVITY_KIND_RUNTIME", "globalTid"),
        ("NVTX_EVENTS", "eventType"),
    ],
)
def test_parse_names_the_column_that_is_missing(table, column, tmp_path):
    b = NsysBuilder(schema="9.0.0")
    b.push("step", 0, 100)
    b.launch(10, 1, gpu=(20, 30))
    b.drop.add((table, column))
    with pytest.raises(UserError, match=f"{table} has no column {column}"):
        parsed(b, tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_parse_does_without_the_process_of_kernels_only_if_there_is_one(processes, tmp_path):
    b = NsysBuilder()
    for process in range(1, processes + 1):
        b.push("step", 0, 100, process=process)
        b.launch(10, 1, gpu=(20, 30), process=process)
    b.drop.add(("CUPTI_ACTIVITY_KIND_KERNEL", "globalPid"))
    if processes == 1:
        assert paths(parsed(b, tmp_path)) == ["step"]
    else:
        with pytest.raises(UserError, match="has no column globalPid"):
            parsed(b, tmp_path)


def test_parse_says_that_there_are_no_kernels(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    b.call(5, 7, 2)
    b.memcpy(20, 25, 2)
    with pytest.raises(UserError, match="contains no GPU kernels"):
        parsed(b, tmp_path)


def test_parse_says_that_nothing_ran_on_the_gpu(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    with pytest.raises(UserError, match="contains no GPU kernels"):
        parsed(b, tmp_path)


def test_parse_says_what_is_wrong_with_a_file(tmp_path):
    text, raw, foreign = tmp_path / "a.sqlite", tmp_path / "b.nsys-rep", tmp_path / "c.sqlite"
    text.write_text("not a database")
    raw.write_text("raw")
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE notes (id INTEGER)")
    cases = [
        (text, "not an SQLite file"),
        (raw, "nsys export"),
        (foreign, "not an export of Nsight Systems"),
        (tmp_path / "none.sqlite", "There is no report none.sqlite"),
    ]
    for path, message in cases:
        with pytest.raises(UserError, match=message):
            parse_report(path)


def test_parse_says_that_a_file_breaks_off(tmp_path):
    b = NsysBuilder()
    for i in range(2000):
        b.launch(10 * i, i, gpu=(20 * i, 20 * i + 5))
    whole = b.write(tmp_path / "run.sqlite").read_bytes()
    for size in (len(whole) // 2, len(whole) - 100, 4096, 60, 0):
        (tmp_path / "run.sqlite").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"truncated|not an SQLite" if size else "is empty"):
            parse_report(tmp_path / "run.sqlite")


def test_parse_says_that_pages_are_damaged(tmp_path):
    b = NsysBuilder()
    for i in range(2000):
        b.launch(10 * i, i, gpu=(20 * i, 20 * i + 5))
    path = b.write(tmp_path / "run.sqlite")
    whole = bytearray(path.read_bytes())
    for page in range(5, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 12] = b"\xff" * 12
    path.write_bytes(whole)
    with pytest.raises(UserError, match="truncated or damaged"):
        parse_report(path)


def test_parse_states_the_gpu_and_versions_but_nothing_of_the_machine(tmp_path):
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    b.row(
        "TARGET_INFO_GPU",
        id=0,
        name="NVIDIA H200",
        smCount=132,
        totalMemory=141 << 30,
        computeMajor=9,
        computeMinor=0,
        uuid="secret",
    )
    b.row("TARGET_INFO_SYSTEM_ENV", name="CudaDriverVersion", value="12080")
    b.row("TARGET_INFO_SYSTEM_ENV", name="NvDriverVersion", value="570.86")
    b.row("TARGET_INFO_SYSTEM_ENV", name="Hostname", value="secret")
    b.row("META_DATA_EXPORT", name="EXPORT_USER", value="secret")
    b.row("TARGET_INFO_SESSION_START_TIME", utcEpochNs=1, utcTime="2026-01-02T03:04:05")
    meta = parsed(b, tmp_path).meta
    gpu = meta["gpu"]
    assert (gpu["name"], gpu["sm_count"], gpu["memory_bytes"], gpu["compute_capability"]) == (
        "NVIDIA H200",
        132,
        141 << 30,
        "9.0",
    )
    assert gpu["l2_bytes"] is None
    assert (meta["driver"], meta["cuda"], meta["date"]) == ("570.86", "12.8", "2026-01-02")
    assert meta["tool"] == {"name": "nsys", "version": "2026.2.1.99"}
    assert "secret" not in str(meta)


def test_parse_real_export_of_two_processes():
    got = parse_report(real("h100_2gpu_1s.sqlite"))
    kernels = got.table[got.table["kind"] == "kernel"]
    assert len(kernels) == 3442
    assert (kernels["attribution"] == "none").sum() == 1810  # half of the kernels have no API row
    assert got.meta["processes"] == 2
    assert not got.ranges["crossing"].any()


def test_parse_refuses_real_graph_level_export():
    with pytest.raises(UserError, match="2 CUDA graph launches"):
        parse_report(real("nsight-2025.5.2.sqlite"))
    assert (
        len(parse_report(real("nsight-2025.5.2.sqlite"), allow_graph_level=True).table.query("kind == 'kernel'")) == 3
    )


def test_parse_reads_in_bounded_memory(tmp_path):
    """Batches are bounded: with a limit on its addresses a process used to end in a segmentation fault."""
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    b.write(tmp_path / "run.sqlite")
    said = subprocess.run(
        ["bash", "-c", 'ulimit -v 4000000; exec "$0" -m moe_lab breakdown "$1"', sys.executable, "run.sqlite"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
    )
    assert said.returncode == 0, said.stderr
    assert "coverage: 1 kernels" in said.stdout


def test_parse_refuses_what_is_no_plain_table_and_journals(tmp_path):
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    path = b.write(tmp_path / "run.sqlite")
    (tmp_path / "run.sqlite-wal").write_bytes(b"rest")
    with pytest.raises(UserError, match="not completely written"):
        parse_report(path)
    (tmp_path / "run.sqlite-wal").unlink()
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UserError, match="4 bytes follow its end"):
        parse_report(path)
    path = b.write(path)
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE StringIds RENAME TO kept")
        db.execute("CREATE VIEW StringIds AS SELECT * FROM kept")
    db.close()
    with pytest.raises(UserError, match="StringIds is a view"):
        parse_report(path)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            [
                "CREATE TABLE S (id INTEGER PRIMARY KEY, value TEXT) WITHOUT ROWID",
                "INSERT INTO S SELECT * FROM StringIds",
            ],
            "StringIds is a table WITHOUT ROWID",
        ),
        (["CREATE VIRTUAL TABLE S USING fts5(id, value)"], "StringIds is a virtual"),
    ],
    ids=["without rowid", "virtual"],
)
def test_parse_refuses_kinds_of_tables_that_nsys_does_not_write(statements, said, tmp_path):
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    path = b.write(tmp_path / "run.sqlite")
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
        db.execute("DROP TABLE StringIds")
        db.execute("ALTER TABLE S RENAME TO StringIds")
    db.close()
    with pytest.raises(UserError, match=said):
        parse_report(path)


def test_parse_does_not_take_superscripts_for_a_version(tmp_path):
    """GIVEN versions 2 and "³" of the kernels THEN that of the digit is read."""
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    path, table = b.write(tmp_path / "run.sqlite"), "CUPTI_ACTIVITY_KIND_KERNEL"
    with sqlite3.connect(path) as db:
        db.execute(f"ALTER TABLE {table} RENAME TO {table}_V2")
        db.execute(f'CREATE TABLE "{table}_V³" (start)')
    db.close()
    assert parse_report(path).table["duration_ns"].tolist() == [10]


def test_parse_refuses_names_without_end_before_they_are_read(tmp_path):
    """GIVEN a name of 100 MB THEN the sentence has its length."""
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    path = b.write(tmp_path / "run.sqlite")
    with sqlite3.connect(path) as db:
        db.execute(
            "UPDATE StringIds SET value = printf('%.*c', 100000001, 'x') WHERE id = (SELECT max(id) FROM StringIds)"
        )
    db.close()
    tracemalloc.start()
    with pytest.raises(UserError, match="a name in it has 100,000,001 characters, more than 100,000"):
        parse_report(path)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(("name", "kept"), [(b"\xff\xfe", None), (12, "12"), ("N" * 300, None)])
def test_parse_keeps_its_numbers_whatever_the_gpu_is_called(name, kept, tmp_path):
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    b.row("TARGET_INFO_GPU", id=0, name=name, smCount=132)
    got = parsed(b, tmp_path)
    assert got.table["duration_ns"].tolist() == [10]
    assert got.meta["gpu"]["sm_count"] == 132
    assert got.meta["gpu"]["name"] == kept


def test_parse_reads_under_a_limit_on_its_addresses(tmp_path):
    """GIVEN 20,000 kernels and 4 GB of virtual memory THEN all are read, by RLIMIT_AS of a child."""
    b = NsysBuilder()
    for i in range(20_000):
        b.launch(10 + 10 * i, 1 + i, gpu=(20 + 10 * i, 25 + 10 * i))
    path = b.write(tmp_path / "run.sqlite")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 * 10**9, 4 * 10**9))\n"
        "from pathlib import Path; from moe_lab.runs.parse import parse_report\n"
        "t = parse_report(Path(sys.argv[1])).table; print(len(t), t['duration_ns'].sum())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
    )
    assert (said.returncode, said.stdout.split()) == (0, ["20000", "100000"]), said.stderr


@pytest.mark.parametrize("times", [(30, 20), (-5, 20), (20, 2**63 - 1), (None, 20)])
def test_parse_refuses_kernels_whose_times_cannot_be_true(times, tmp_path):
    b = NsysBuilder()
    b.launch(10, 1, gpu=times)
    with pytest.raises(UserError, match="1 rows of CUPTI_ACTIVITY_KIND_KERNEL have times that cannot be true"):
        parsed(b, tmp_path)


def test_parse_says_which_graph_kernels_were_captured_in_no_range(tmp_path):
    b = NsysBuilder()
    b.node(5, 1)
    b.node(5, 2)
    b.push("w13", 10, 40)
    b.node(15, 3)
    b.push("replay", 300, 400)
    b.replay(310, 5)
    for node in (1, 2, 3):
        b.kernel(320 + 10 * node, 325 + 10 * node, 5, node=node)
    got = parsed(b, tmp_path)
    assert "2 of 3 operations of CUDA graphs were captured in no range" in got.meta["warnings"][0]
    covered = coverage(got)
    assert (covered.graph_kernels, covered.in_capture_pct) == (3, pytest.approx(100 / 3))


def test_breakdown_says_in_every_form_how_much_of_a_graph_has_its_capture_time_range(tmp_path, capsys):
    """GIVEN three graph kernels, one of them captured in a range, THEN table, csv and JSON say 33.33 %."""
    b = NsysBuilder()
    b.node(5, 1)
    b.node(5, 2)
    b.push("w13", 10, 40)
    b.node(15, 3)
    b.push("replay", 300, 400)
    b.replay(310, 5)
    for node in (1, 2, 3):
        b.kernel(320 + 10 * node, 325 + 10 * node, 5, node=node)
    path = b.write(tmp_path / "run.sqlite")
    said = {}
    for form in ("table", "csv", "json"):
        assert main(["breakdown", str(path), "--root", "replay", "--format", form]) == 0
        said[form] = capsys.readouterr().out
    assert "33.33 %" in said["table"]
    assert any("33.33" in cell for row in csv.reader(io.StringIO(said["csv"])) for cell in row)
    found = json.loads(said["json"])["coverage"]
    assert (found["graph_kernels"], found["in_capture_pct"]) == (3, pytest.approx(100 / 3, abs=0.01))


@pytest.mark.parametrize(("stream", "noted"), [(-5, True), (-1, False), (7, False)])
def test_negative_stream_is_na_and_noted(stream, noted, tmp_path):
    b = NsysBuilder()
    b.launch(10, 1, gpu=(20, 30))
    path = b.write(tmp_path / "run.sqlite")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET streamId = ?", (stream,))
    db.close()
    got = parse_report(path)
    assert got.table["stream"].isna().tolist() == [stream < 0]
    assert got.table["duration_ns"].tolist() == [10]
    said = "1 GPU operations have a negative stream or device, which cannot be: it is NA."
    assert (said in got.meta["warnings"]) == noted
