"""The breakdown: hand-made cases with known numbers, and NVIDIA's definition of a projection by brute force."""

import sqlite3
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nsys_builder import NsysBuilder
from nsys_runs import graph, parsed, real

from moe_lab.analysis.breakdown import UNATTRIBUTED, breakdown, instances, selected
from moe_lab.analysis.coverage import coverage
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

MS = 1_000_000  # ns


def two_layers():
    """Return two instances of a root: w13 3 and 3 ms, w2 5 and 9 ms, 2 and 6 ms directly in mlp, with gaps between."""
    b = NsysBuilder()
    for i, (w2, rest) in enumerate(((5, 2), (9, 6))):
        at = 1000 * MS * i
        b.push("moe_lab|phase=decode|M=1", at, at + 900 * MS)
        b.push("mlp", at + 1, at + 800)
        b.push("w13", at + 2, at + 100)
        b.push("w2", at + 200, at + 300)
        b.launch(at + 10, 10 * i + 1, gpu=(at + 10 * MS, at + 13 * MS), name="up")
        b.launch(at + 210, 10 * i + 2, gpu=(at + 14 * MS, at + (14 + w2) * MS), name="down")
        b.launch(at + 400, 10 * i + 3, gpu=(at + 30 * MS, at + (30 + rest) * MS), name="sum")
    b.kernel(5000 * MS, 5030 * MS, 999, name="lost")
    return b


def row(table, path):
    return table[table["path"] == path].iloc[0]


def test_breakdown_gives_medians_per_instance_and_totals(tmp_path):
    table = breakdown(parsed(two_layers(), tmp_path))
    root = "moe_lab|phase=decode|M=1"
    assert table["path"].tolist() == [root, f"{root}/mlp", f"{root}/mlp/w13", f"{root}/mlp/w2", UNATTRIBUTED]
    assert table["depth"].tolist() == [0, 1, 2, 2, 1]
    assert table["instances"].tolist() == [2] * 5
    mlp = row(table, f"{root}/mlp")
    assert mlp["kernels"] == 3
    assert mlp["kernel_sum_ms"] == pytest.approx((10 + 18) / 2)
    assert mlp["busy_ms"] == pytest.approx((10 + 18) / 2)
    assert mlp["span_ms"] == pytest.approx((22 + 26) / 2)  # from 10 to 32, from 10 to 36
    assert mlp["gap_ms"] == pytest.approx((12 + 8) / 2)
    assert mlp["total_kernel_sum_ms"] == pytest.approx(28)
    w2 = row(table, f"{root}/mlp/w2")
    assert (w2["kernel_sum_ms"], w2["pct_of_root"]) == (pytest.approx(7), pytest.approx(50))
    assert row(table, UNATTRIBUTED)["total_kernel_sum_ms"] == 0  # every kernel of the roots lies in mlp


def test_breakdown_takes_roots_from_a_regular_expression(tmp_path):
    table = breakdown(parsed(two_layers(), tmp_path), "^mlp$", spread=True)
    assert table["path"].tolist() == ["mlp", "mlp/w13", "mlp/w2", UNATTRIBUTED]
    rest = row(table, UNATTRIBUTED)  # 2 and 6 ms directly in mlp
    assert (rest["instances"], rest["kernels"], rest["kernel_sum_ms"], rest["total_kernel_sum_ms"]) == (2, 1, 4, 8)
    shares = [row(table, p)["pct_of_root"] for p in ("mlp/w13", "mlp/w2", UNATTRIBUTED)]
    assert sum(shares) == pytest.approx(100)
    w2 = row(table, "mlp/w2")
    assert (w2["kernel_sum_ms_min"], w2["kernel_sum_ms"], w2["kernel_sum_ms_max"]) == (5, 7, 9)
    assert (row(table, "mlp")["gap_ms_min"], row(table, "mlp")["gap_ms_max"]) == (8, 12)


def test_breakdown_takes_the_median_not_the_mean(tmp_path):
    b = NsysBuilder()
    for i, ms in enumerate((1, 2, 90)):
        b.push("step", 1000 * i, 1000 * i + 100)
        b.launch(1000 * i + 10, i, gpu=(i * 1000 * MS, (i * 1000 + ms) * MS))
    step = row(breakdown(parsed(b, tmp_path), spread=True), "step")
    for column in ("kernel_sum_ms", "busy_ms", "span_ms"):
        assert (step[f"{column}_min"], step[column], step[f"{column}_max"]) == (1, 2, 90)


def test_breakdown_nested_matches_count_once(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    b.push("step", 10, 90)
    b.launch(20, 1, gpu=(200, 300))
    table = breakdown(parsed(b, tmp_path), "step")
    assert table["path"].tolist() == ["step", "step/step", UNATTRIBUTED]
    assert table["pct_of_root"].tolist() == [100, 100, 0]


def test_breakdown_without_roots_takes_the_whole_report(tmp_path):
    b = NsysBuilder()
    b.push("train", 0, 100)
    b.push("empty", 50, 60)  # launches nothing: no row
    b.launch(20, 1, gpu=(0, 3 * MS))
    b.kernel(10 * MS, 11 * MS, 99)
    table = breakdown(parsed(b, tmp_path))
    assert table["path"].tolist() == ["train", UNATTRIBUTED]
    assert table["pct_of_root"].tolist() == [75, 25]
    assert table["instances"].isna().tolist() == [False, True]
    assert row(table, UNATTRIBUTED)["kernels"] == 1


def test_breakdown_busy_is_the_union_over_streams_and_copies(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    b.launch(10, 1, gpu=(0, 10 * MS), stream=7)
    b.launch(12, 2, gpu=(4 * MS, 6 * MS), stream=8)  # inside the first
    b.launch(14, 3, gpu=(8 * MS, 14 * MS), stream=8)  # overlaps its end
    b.call(16, 18, 4)
    b.memcpy(20 * MS, 21 * MS, 4)
    step = row(breakdown(parsed(b, tmp_path)), "step")
    assert step["kernels"] == 3
    assert step["kernel_sum_ms"] == 18
    assert step["busy_ms"] == 15
    assert step["span_ms"] == 21
    assert step["gap_ms"] == 6


def test_breakdown_counts_one_instance_a_replay(tmp_path):
    table = breakdown(parsed(graph(), tmp_path))
    assert table["path"].tolist() == [
        "moe_lab|M=1",
        "moe_lab|M=1/mlp",
        "moe_lab|M=1/mlp/w13",
        "moe_lab|M=1/mlp/w2",
        UNATTRIBUTED,
    ]
    assert table["instances"].tolist() == [2] * 5
    assert table["kernels"].tolist() == [2, 2, 1, 1, 0]
    assert table["pct_of_root"].tolist() == pytest.approx([100, 100, 200 / 3, 100 / 3, 0])


def test_breakdown_gives_crossing_ranges_a_row_of_their_own(tmp_path):
    b = NsysBuilder()
    b.event(60, "request 1", 0, 50)
    b.event(60, "request 2", 20, 90)
    b.launch(32, 1, gpu=(0, 1 * MS))
    b.launch(60, 2, gpu=(1 * MS, 4 * MS))
    table = breakdown(parsed(b, tmp_path))
    totals = dict(zip(table["path"], table["total_kernel_sum_ms"], strict=True))
    assert totals == {"request 1": 1, "request 2": 4, UNATTRIBUTED: 3}


def test_coverage_says_what_lies_in_ranges_roots_and_stages(tmp_path):
    got = coverage(parsed(two_layers(), tmp_path))
    assert got.kernels == 7
    assert got.kernel_time_ms == pytest.approx(58)
    assert got.in_range_pct == pytest.approx(100 * 28 / 58)
    assert got.in_root_pct == pytest.approx(100 * 28 / 58)
    assert got.in_stage_pct == pytest.approx(100 * 20 / 28)  # w13 and w2, but not what lies directly in mlp
    assert breakdown(parsed(two_layers(), tmp_path)).attrs["coverage"] == asdict(got)


def test_coverage_knows_no_stages_where_none_are_marked(tmp_path):
    b = NsysBuilder()
    b.push("train", 0, 100)
    b.launch(20, 1, gpu=(0, 3 * MS))
    assert coverage(parsed(b, tmp_path)).in_stage_pct is None


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("w14", r"No range name matches 'w14'.*'moe_lab\|phase=decode\|M=1', 'mlp', 'w13'"),
        ("(", "not a valid regular expression"),
    ],
)
def test_breakdown_says_what_is_wrong_with_the_root(root, message, tmp_path):
    with pytest.raises(UserError, match=message):
        breakdown(parsed(two_layers(), tmp_path), root)


def test_breakdown_says_that_a_root_holds_no_gpu_work(tmp_path):
    b = two_layers()
    b.push("tokenize", 950 * MS, 960 * MS)
    with pytest.raises(UserError, match="No GPU operation lies in a range that matches 'tokenize'"):
        breakdown(parsed(b, tmp_path), "tokenize")


def projection(path: Path) -> set[tuple]:
    """Return (name, thread, CPU start, CPU end, operations, projected start, projected end) by NVIDIA's definition.

    A quadratic join, as the definition is written: an operation belongs to a range if its API call lies inside it on
    the same thread; only ranges that begin and end on one thread count.
    """
    query = """
        WITH op AS (
            SELECT start, "end", correlationId, globalPid FROM CUPTI_ACTIVITY_KIND_KERNEL
            UNION ALL SELECT start, "end", correlationId, globalPid FROM CUPTI_ACTIVITY_KIND_MEMCPY),
        launched AS (
            SELECT op.start, op."end", r.start AS called, r."end" AS returned, r.globalTid
            FROM op JOIN CUPTI_ACTIVITY_KIND_RUNTIME r
            ON r.correlationId = op.correlationId AND (r.globalTid & ~0xFFFFFF) = op.globalPid)
        SELECT n.rowid, n.start, n."end", count(*), min(l.start), max(l."end")
        FROM NVTX_EVENTS n JOIN launched l
        ON n.globalTid = l.globalTid AND n.start <= l.called AND n."end" >= l.returned
        WHERE n.eventType IN (59, 60) AND (n.endGlobalTid IS NULL OR n.endGlobalTid = n.globalTid)
        GROUP BY n.rowid"""
    with sqlite3.connect(path) as db:
        return set(db.execute(query.replace("0xFFFFFF", str(0xFFFFFF))).fetchall())


def ours(launches) -> set[tuple]:
    """Return the same from our tables: every range with operations, crossing ones included."""
    table = instances(launches)
    real_ranges = launches.ranges.loc[table["range_id"]].reset_index(drop=True)
    columns = [real_ranges[c] for c in ("report_row", "start_ns", "end_ns")]
    return set(zip(*columns, *(table[c] for c in ("operations", "start_ns", "end_ns")), strict=True))


@st.composite
def reports(draw):
    """Random ranges (nested, crossing, open on two threads of two processes), calls and operations on two streams."""
    b = NsysBuilder()
    place = st.tuples(st.integers(1, 2), st.integers(1, 2))
    for i in range(draw(st.integers(0, 9))):
        process, thread = draw(place)
        start, length = draw(st.integers(0, 60)), draw(st.integers(0, 60))
        kind, end_thread = draw(st.sampled_from([(59, None), (59, None), (60, None), (60, thread), (60, 3)]))
        name = draw(st.sampled_from(["a", "b", f"c{i}"]))
        b.event(kind, name, start, start + length, process=process, thread=thread, end_thread=end_thread)
    b.event(34, "mark", 5, None)
    b.memcpy(0, 1, 10**6)  # so that the table exists
    for correlation in range(draw(st.integers(1, 10))):
        process, thread = draw(place)
        at = draw(st.integers(0, 110))
        start, length = draw(st.integers(0, 500)), draw(st.integers(0, 80))
        if draw(st.booleans()):
            b.call(at, at + draw(st.integers(1, 9)), correlation // 2, process=process, thread=thread)
        if draw(st.booleans()):
            b.kernel(start, start + length, correlation // 2, process=process, stream=draw(st.sampled_from([7, 8])))
        else:
            b.memcpy(start, start + length, correlation, process=process)
    b.call(0, 1, 10**7)
    b.kernel(0, 1, 10**7)
    return b


def first_calls_only(b):
    """Drop further calls with a correlation id that its process already used: nsys writes none."""
    seen = set()
    rows = b.rows["CUPTI_ACTIVITY_KIND_RUNTIME"]
    keys = [(r["globalTid"] & ~0xFFFFFF, r["correlationId"]) for r in rows]
    kept = [r for r, key in zip(rows, keys, strict=True) if not (key in seen or seen.add(key))]
    b.rows["CUPTI_ACTIVITY_KIND_RUNTIME"] = kept
    return b


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports())
def test_instances_equal_the_projection_that_nvidia_defines(tmp_path, b):
    path = first_calls_only(b).write(tmp_path / "random.sqlite")
    assert ours(parse_report(path)) == projection(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports())
def test_instances_are_busy_for_the_union_of_their_operations(tmp_path, b):
    launches = parse_report(first_calls_only(b).write(tmp_path / "random.sqlite"))
    table, ranges = launches.table, launches.ranges
    for item in instances(launches).itertuples():
        inside = set(launches.memberships.query("range_id == @item.range_id")["operation"])
        for op, node in enumerate(table["range_id"]):
            while not pd.isna(node):
                inside |= {op} if node == item.range_id else set()
                node = ranges["parent_id"][node]
        ops = table.loc[sorted(inside)]
        covered = {t for s, e in zip(ops["start_ns"], ops["end_ns"], strict=True) for t in range(s, e)}
        kernels = ops[ops["kind"] == "kernel"]
        assert item.operations == len(ops)
        assert item.kernels == len(kernels)
        assert item.busy_ms * MS == pytest.approx(len(covered))
        assert item.kernel_sum_ms * MS == pytest.approx(int(kernels["duration_ns"].sum()))
        assert item.gap_ms * MS == pytest.approx(int(ops["end_ns"].max() - ops["start_ns"].min()) - len(covered))


def test_instances_of_a_real_export_equal_the_projection_that_nvidia_defines():
    path = real("h100_2gpu_1s.sqlite")
    launches = parse_report(path)
    table = launches.table
    with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as db:
        columns = 'SELECT start, "end", correlationId, globalPid FROM CUPTI_ACTIVITY_KIND_'
        ops = [row for kind in ("KERNEL", "MEMCPY", "MEMSET") for row in db.execute(columns + kind)]
        query = 'SELECT globalTid, correlationId, start, "end" FROM CUPTI_ACTIVITY_KIND_RUNTIME ORDER BY rowid DESC'
        calls = {(t & ~0xFFFFFF, c): (t, s, e) for t, c, s, e in db.execute(query)}
        ranges = db.execute('SELECT rowid, start, "end", globalTid FROM NVTX_EVENTS WHERE eventType = 59').fetchall()
    assert len(ops) == len(table)
    launched = [(*calls[pid, c], s, e) for s, e, c, pid in ops if (pid, c) in calls]
    thread, called, returned, start, end = np.array(launched, np.int64).T
    expected = set()
    for rowid, begin, finish, tid in ranges:
        inside = (thread == tid) & (called >= begin) & (returned <= finish)
        if inside.any():
            expected.add((rowid, begin, finish, int(inside.sum()), int(start[inside].min()), int(end[inside].max())))
    assert len(expected) > 3000
    assert ours(launches) == expected


def test_breakdown_works_on_long_times_of_many_instances(tmp_path):
    b = NsysBuilder()  # instances times the length of the report exceeds 2**63 ns
    for i in range(2000):
        at = i * 10**15
        b.push("step", at, at + 100)
        b.launch(at + 10, 2 * i, gpu=(at + 20, at + 22))
        b.launch(at + 10, 2 * i + 1, gpu=(at + 21, at + 24))
    step = row(breakdown(parsed(b, tmp_path)), "step")
    assert (step["instances"], step["busy_ms"], step["gap_ms"]) == (2000, 4e-6, 0)


def test_operators_of_pytorch_are_no_stages(tmp_path):
    b = NsysBuilder()
    b.push("step", 0, 100)
    b.push("w13", 10, 40)
    b.launch(20, 1, gpu=(0, 3 * MS))
    b.push("aten::layer_norm", 50, 90)
    b.launch(60, 2, gpu=(3 * MS, 4 * MS))
    assert coverage(parsed(b, tmp_path)).in_stage_pct == pytest.approx(75), "layer_norm would end in norm"


def nested(tmp_path):
    """Return the breakdown of two roots: b with y (1 us) and x (3 us), then a with z (2 us), and 4 us in no range."""
    b = NsysBuilder()
    b.push("b", 0, 1000)
    b.push("a", 2000, 3000)
    for at, name, us in ((100, "y", 1), (500, "x", 3), (2100, "z", 2)):
        b.push(name, at, at + 50)
        b.launch(at + 1, at, gpu=(1000 * at, 1000 * (at + us)))
    b.launch(50_000, 99, gpu=(10**7, 10**7 + 4000))
    return breakdown(parse_report(b.write(tmp_path / "r.sqlite")))


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, ["b", "b/y", "b/x", "a", "a/z"]),
        ({"sort": "time"}, ["b", "b/x", "b/y", "a", "a/z"]),
        ({"sort": "name"}, ["a", "a/z", "b", "b/x", "b/y"]),
        ({"depth": 0}, ["b", "a"]),
        ({"top": 1}, ["b"]),
        ({"top": 3}, ["b", "b/x", "a"]),
        ({"top": 4, "sort": "name"}, ["a", "a/z", "b", "b/x"]),
        ({"top": 1, "depth": 0}, ["b"]),
    ],
)
def test_rows_are_selected_with_what_they_lie_in(options, paths, tmp_path):
    table = nested(tmp_path)
    found = selected(table, **options)
    assert found["path"].tolist() == [*paths, UNATTRIBUTED]
    assert found.attrs == table.attrs, "the coverage is that of the report"


def test_a_deep_row_of_much_time_keeps_what_it_lies_in(tmp_path):
    """Medians of many short instances may be small; the rows above a kept one stay whatever they have."""
    table = nested(tmp_path)
    table.loc[table["path"] == "a", "total_kernel_sum_ms"] = 0.0  # as a range that was left out by a filter
    assert selected(table, top=3)["path"].tolist() == ["b", "b/x", "a", "a/z", UNATTRIBUTED]


def test_what_no_range_below_the_roots_holds_stays_last_in_every_order(tmp_path):
    b = NsysBuilder()
    for number, root in enumerate("ba"):
        b.push(root, 100 * number, 100 * number + 50)
        b.launch(100 * number + 1, number, gpu=(1000 * number, 1000 * number + 10))
    table = breakdown(parse_report(b.write(tmp_path / "r.sqlite")), "^[ab]$")
    assert selected(table, sort="name")["path"].tolist() == ["a", "b", UNATTRIBUTED]
