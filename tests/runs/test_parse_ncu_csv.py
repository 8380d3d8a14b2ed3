"""Pages of ncu as launches: units, ranges, ragged rows, missing metrics, noise; and what a run keeps of them."""

import pandas as pd
import pytest
from ncu_builder import NOISE_AFTER, NOISE_BEFORE, ROOT, details, entry, raw, stack

from moe_lab import runs
from moe_lab.analysis.breakdown import breakdown
from moe_lab.runs.parse import format_of, parse_report
from moe_lab.runs.parse.ncu.units import number, scale
from moe_lab.spec.errors import UserError
from moe_lab.spec.metrics import BY_COLUMN, BY_NAME, COUNTERS, LAUNCH, METRICS, SETS, chosen, of_set, parts

TIME, SM = "gpu__time_duration.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed"
READ, HIT = "dram__bytes_read.sum", "lts__t_sector_hit_rate.pct"
REGISTERS, SMEM = "launch__registers_per_thread", "launch__shared_mem_per_block_dynamic"
CLOCK = "gpc__cycles_elapsed.avg.per_second"
NAME = 'void moe::fused_moe<float, (Act)1>(const float *, "half" *, int)'
BASE = {TIME: "ns", SM: "%", READ: "byte", HIT: "%", REGISTERS: "register/thread", SMEM: "byte/block", CLOCK: "hz"}
AUTO = {TIME: "ms", SM: "%", READ: "Gbyte", HIT: "%", REGISTERS: "register/thread", SMEM: "Kbyte/block", CLOCK: "Ghz"}
# The reference capture: default tiles at M = 8192, w13 and w2 of Qwen3-30B-A3B on an H200.
W13 = {
    TIME: "1503456",
    SM: "33.25",
    READ: "1,045,000,000",
    HIT: "86.5",
    REGISTERS: "168",
    SMEM: "49152",
    CLOCK: "1.98e9",
}
W2 = {TIME: "778000", SM: "38", READ: "505000000", HIT: "n/a", REGISTERS: "168", SMEM: "49152", CLOCK: "1980000000"}


def kernel(values, stage, *, grid="(27600, 1, 1)", **more):
    return {
        "name": NAME,
        "grid": grid,
        "block": "(128, 1, 1)",
        "stack": stack(ROOT, "layers.0", "mlp", stage),
        "values": values,
        **more,
    }


def write(tmp_path, text, name="page.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def paths(found):
    return [None if pd.isna(i) else found.ranges.loc[i, "path"] for i in found.table["range_id"]]


def test_raw_page_gives_geometry_ranges_and_counters_and_what_is_missing_is_na(tmp_path):
    page = raw([kernel(W13, "w13"), kernel(W2, "w2", grid="(36800, 1, 1)")], BASE)
    found = parse_report(write(tmp_path, NOISE_BEFORE + page + NOISE_AFTER))
    table = found.table
    assert format_of(tmp_path / "page.csv") == "ncu_csv"
    assert table["name"].tolist() == ["fused_moe", "fused_moe"]
    assert table["name_full"].tolist() == [NAME, NAME]
    assert table["duration_ns"].tolist() == [1503456, 778000]
    assert table["grid_blocks"].tolist() == [27600, 36800]
    assert table[["block_x", "block_threads", "registers_per_thread", "smem_dynamic_bytes"]].iloc[0].tolist() == [
        *(128, 128, 168, 49152)
    ]
    assert table["dram_read_bytes"].tolist() == [1.045e9, 0.505e9]
    assert table["l2_hit_pct"].tolist() == [86.5, pd.NA]
    assert table["sm_clock_hz"].tolist() == [1.98e9, 1.98e9]
    unmeasured = ["start_ns", "end_ns", "correlation", "smem_static_bytes", "occupancy_achieved_pct", "ipc"]
    assert table[unmeasured].isna().all(axis=None)
    assert paths(found) == [f"{ROOT}/layers.0/mlp/w13", f"{ROOT}/layers.0/mlp/w2"]
    assert len(found.ranges) == 5, "root, layers.0 and mlp stay open between the two kernels"
    assert found.ranges["domain"].unique().tolist() == ["moe_lab"]
    assert found.meta["gpu"]["compute_capability"] == "9.0"


def test_scaled_units_give_the_same_table_as_base_units(tmp_path):
    scaled = {
        TIME: "1.503456",
        SM: "33.25",
        READ: "1.045",
        HIT: "86.5",
        REGISTERS: "168",
        SMEM: "49.152",
        CLOCK: "1.98",
    }
    base = parse_report(write(tmp_path, raw([kernel(W13, "w13")], BASE), "base.csv")).table
    auto = parse_report(write(tmp_path, raw([kernel(scaled, "w13")], AUTO), "auto.csv")).table
    pd.testing.assert_frame_equal(base, auto)


@pytest.mark.parametrize(
    ("unit", "factor", "base"),
    [
        ("us", 1e3, "ns"),
        ("usecond", 1e3, "ns"),
        ("s", 1e9, "ns"),
        ("Mbyte", 1e6, "byte"),
        ("Kbyte/block", 1e3, "byte/block"),
        ("Tbyte/second", 1e12, "byte/second"),
        ("byte/ns", 1e9, "byte/second"),
        ("cycle/nsecond", 1e9, "hz"),
        ("Ghz", 1e9, "hz"),
        ("MHz", 1e6, "hz"),
        ("inst/cycle", 1, "inst/cycle"),
        ("register/thread", 1, "register/thread"),
        ("%", 1, "%"),
        ("", 1, ""),
    ],
)
def test_units_are_decimal_and_rates_are_per_second(unit, factor, base):
    assert scale(unit) == (factor, base)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1,045,000", 1045000), ("0.38", 0.38), ("1e-3", 0.001), ("12 (3; 4; 5)", 12)],
        *[("nan", None), ("n/a", None), ("-", None), ("", None), ("inf", None), ("(256, 1, 1)", None)],
    ],
)
def test_numbers_have_separators_and_what_is_none_is_missing(text, value):
    assert number(text) == value


def test_page_of_a_locale_with_decimal_commas_is_read_in_it(tmp_path):
    values = {TIME: "1.503.456", SM: "33,25", READ: "1.045.000.000", HIT: "86,5", REGISTERS: "168"}
    table = parse_report(write(tmp_path, raw([kernel(values, "w13")], BASE))).table
    assert table[["duration_ns", "sm_throughput_pct", "dram_read_bytes"]].iloc[0].tolist() == [1503456, 33.25, 1.045e9]


def test_kernels_with_different_metrics_share_a_page(tmp_path):
    page = raw([kernel({TIME: "100"}, "w13"), kernel({SM: "5"}, "w2")], {TIME: "ns", SM: "%"})
    table = parse_report(write(tmp_path, page)).table
    assert table["duration_ns"].tolist() == [100, pd.NA]
    assert table["sm_throughput_pct"].tolist() == [pd.NA, 5]


def test_second_page_in_a_file_has_columns_of_its_own(tmp_path):
    """Each process of a live `ncu --csv` prints its page."""
    second = raw([kernel({SM: "7"}, "w13", process=4712)], {SM: "%"})
    found = parse_report(write(tmp_path, raw([kernel({TIME: "9"}, "w13")], {TIME: "ns"}) + NOISE_AFTER + second))
    assert found.table["duration_ns"].tolist() == [9, pd.NA]
    assert found.table["sm_throughput_pct"].tolist() == [pd.NA, 7]
    assert found.table["process"].tolist() == [0, 1]
    assert len(found.ranges) == 8, "processes share no range"


def test_page_without_nvtx_columns_is_unattributed(tmp_path):
    found = parse_report(write(tmp_path, raw([kernel(W13, "w13")], BASE, nvtx=False)))
    assert paths(found) == [None]
    assert found.table["attribution"].tolist() == ["none"]
    assert found.ranges.empty


def test_range_names_with_colons_and_two_domains_keep_their_parts(tmp_path):
    both = f"1  {entry('step: 3', '<default domain>')}  {entry('w13')}"
    found = parse_report(write(tmp_path, raw([{**kernel(W13, ""), "stack": both}], BASE)))
    assert found.ranges["name"].tolist() == ["step: 3", "w13"]
    assert found.ranges["domain"].tolist() == [pd.NA, "moe_lab"]


def test_stack_in_the_short_form_is_read_too(tmp_path):
    short = '1  "<default domain>:outer:none"  "<default domain>:inner:none"'
    found = parse_report(write(tmp_path, raw([{**kernel(W13, ""), "stack": short}], BASE)))
    assert paths(found) == ["outer/inner"]


def test_start_stop_ranges_share_their_kernels_outside_the_tree(tmp_path):
    found = parse_report(write(tmp_path, raw([kernel(W13, "w13", free=f"0  {entry('request', 'serve')}")], BASE)))
    request = found.ranges[found.ranges["name"] == "request"]
    assert request["crossing"].tolist() == [True]
    assert found.memberships.to_numpy().tolist() == [[0, request.index[0]]]
    assert paths(found) == [f"{ROOT}/layers.0/mlp/w13"]


SOL = "GPU Speed Of Light Throughput"
ROWS = [
    (SOL, "Memory Throughput", "%", "96.11"),
    (SOL, "Compute (SM) Throughput", "%", "33.02"),
    (SOL, "Duration", "ms", "1.50"),
    (SOL, "SM Frequency", "Ghz", "1.98"),
    (SOL, "Elapsed Cycles", "cycle", "2,976,123"),
    ("Memory Workload Analysis", "Memory Throughput", "Tbyte/s", "1.04"),
    ("Memory Workload Analysis", "L2 Hit Rate", "%", "86.02"),
    ("Launch Statistics", "Registers Per Thread", "register/thread", "168"),
    ("Launch Statistics", "Dynamic Shared Memory Per Block", "Kbyte/block", "49.15"),
    ("Launch Statistics", "# SMs", "SM", "132"),
    ("Launch Statistics", "Function Cache Configuration", "", "CachePreferNone"),
    ("Occupancy", "Block Limit Registers", "block", "3"),
    ("Command line profiler metrics", READ, "Gbyte", "1.05"),
]


def test_details_page_is_keyed_by_section_metric_and_unit(tmp_path):
    page = details(
        [{**kernel({}, "w13"), "rows": ROWS, "rule": 'look at "L1", 5 times'}, {**kernel({}, "w2"), "rows": ROWS[:1]}]
    )
    found = parse_report(write(tmp_path, NOISE_BEFORE + page))
    first, second = (found.table.iloc[i] for i in range(2))
    assert first["mem_throughput_pct"] == 96.11, "not the one in bytes a second"
    assert (first["duration_ns"], first["sm_clock_hz"], first["cycles_elapsed"]) == (1_500_000, 1.98e9, 2976123)
    assert (first["registers_per_thread"], first["smem_dynamic_bytes"], first["sm_count"]) == (168, 49150, 132)
    assert (first["block_limit_registers"], first["l2_hit_pct"], first["dram_read_bytes"]) == (3, 86.02, 1.05e9)
    assert second["mem_throughput_pct"] == 96.11
    assert pd.isna(second["duration_ns"])
    assert found.meta["gpu"]["sm_count"] == 132
    assert paths(found) == [f"{ROOT}/layers.0/mlp/{s}" for s in ("w13", "w2")]


def test_page_without_kernels_says_how_to_write_one(tmp_path):
    with pytest.raises(UserError, match="holds no profiled kernel; write it with `ncu --import"):
        parse_report(write(tmp_path, raw([], BASE)))


def test_other_csv_files_are_no_pages(tmp_path):
    with pytest.raises(UserError, match="not in a format"):
        format_of(write(tmp_path, "id,value\n1,2\n"))


def test_counters_have_no_times_so_a_breakdown_is_refused(tmp_path):
    found = parse_report(write(tmp_path, raw([kernel(W13, "w13")], BASE)))
    with pytest.raises(UserError, match="without start times"):
        breakdown(found)


def test_run_keeps_the_same_table_and_nothing_of_the_machine(tmp_path):
    named = {**kernel(W13, "load /home/ada/w.bin on gpu-box-17"), "process": 99}
    units = BASE | {"smsp__inst_issued.sum": "inst"}
    page = raw([named, kernel({**W2, "smsp__inst_issued.sum": "5"}, "w2")], units)
    source = write(tmp_path, NOISE_BEFORE + page)
    run = runs.import_report(source, "h200/counters", root=tmp_path / "profiles")
    text = run.report.read_text()
    assert run.report.name == "report.csv"
    for secret in ("ada", "gpu-box-17", "4711", "python3.12", "smsp__inst_issued"):
        assert secret not in text, secret
    before, after = parse_report(source), run.launches()
    same = [c for c in before.table.columns if c != "process"]
    pd.testing.assert_frame_equal(before.table[same], after.table[same])
    assert after.ranges["name"].tolist()[3] == "load w.bin on host"
    columns = ["parent_id", "depth", "domain", "crossing"]
    pd.testing.assert_frame_equal(before.ranges[columns], after.ranges[columns])
    assert run.manifest["tool"]["name"] == "ncu"


def test_what_a_chip_counts_under_other_names_is_computed(tmp_path):
    """`ncu --set full` on Hopper has sectors and requests, but not their quotient, and L2 sectors, not bytes."""
    load = "l1tex__t_{}_pipe_lsu_mem_global_op_ld.sum"
    names = [load.format("sectors"), load.format("requests"), "lts__t_sectors.sum"]
    units = dict.fromkeys(names, "") | {"lts__t_sectors.sum": "sector"}
    values = [dict(zip(names, row, strict=True)) for row in (("480", "60", "1,000"), ("0", "0", "n/a"))]
    source = write(tmp_path, raw([kernel(v, "w13") for v in values], units))
    run = runs.import_report(source, "h200/x", root=tmp_path / "p")
    for table in (parse_report(source).table, run.launches().table):
        assert table["sectors_per_load_request"].tolist() == [8, pd.NA]
        assert table["l2_bytes"].tolist() == [32000, pd.NA]


def test_metric_table_is_sound():
    names = [n for m in METRICS for n in m.names]
    assert len(names) == len(set(names)), "a name of ncu is in one row only"
    assert all(BY_NAME[part] is m for m in METRICS for n in m.names for part in parts(n))
    assert all(m.collect in (LAUNCH, *SETS) for m in METRICS)
    suffix = {"%": "_pct", "byte": "_bytes", "hz": "_hz", "ns": "_ns"}
    assert all(m.column.endswith(suffix[m.unit]) for m in METRICS if m.unit in suffix)
    assert len(of_set("basic")) < len(of_set("roofline")) < len(of_set("full")) == len(METRICS)
    assert {m.column for m in chosen("l2_hit_pct, dram__bytes_read.sum")} - {m.column for m in of_set("basic")} == {
        *("l2_hit_pct", "dram_read_bytes")
    }
    assert BY_COLUMN["duration_ns"] not in COUNTERS
    with pytest.raises(UserError, match="'l3_hit_pct' is not a metric"):
        chosen("l3_hit_pct")


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [
        ("cycles_elapsed", "gpc__cycles_elapsed.max", "sm__cycles_elapsed.max"),
        ("l2_bytes", "lts__t_bytes.sum", "lts__t_sectors.sum"),
        (
            "dram_throughput_pct",
            "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
            "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        ),
        ("dram_read_bytes", "dram__bytes_read.sum", "dram__bytes_op_read.sum"),
    ],
)
def test_of_two_names_in_a_report_the_first_counts(column, first, second, tmp_path):
    """With the order swapped in metrics.csv these are the other numbers."""
    unit = BY_COLUMN[column].unit
    units = {second: "sector" if "sectors" in second else unit, first: unit}
    page = raw([kernel({second: "7", first: "5"}, "w13"), kernel({second: "7"}, "w2")], units)
    table = parse_report(write(tmp_path, page)).table
    assert table[column].tolist() == [5, 7 * (32 if "sectors" in second else 1)]


def test_elapsed_cycles_of_both_pages_are_one_metric(tmp_path):
    names = {"gpc__cycles_elapsed.max": "cycle", "sm__cycles_elapsed.max": "cycle"}
    values = dict(zip(names, ["2,976,123", "2,976,000"], strict=True))
    one = parse_report(write(tmp_path, raw([kernel(values, "w13")], names), "raw.csv")).table
    other = parse_report(write(tmp_path, details([{**kernel({}, "w13"), "rows": ROWS}]), "details.csv")).table
    assert one["cycles_elapsed"].tolist() == other["cycles_elapsed"].tolist() == [2976123]


def test_details_page_of_2020_has_other_labels_and_all_are_read(tmp_path):
    old = "GPU Speed Of Light"
    rows = [(old, "Memory Frequency", "cycle/nsecond", "1.25"), (old, "SOL FB", "%", "46.47")]
    rows += [(old, "Elapsed Cycles", "cycle", "10251"), (old, "SM Frequency", "cycle/usecond", "1138.5")]
    rows += [(old, "Memory [%]", "%", "46.5"), (old, "Duration", "nsecond", "8992"), (old, "SOL L2", "%", "13.61")]
    rows += [(old, "SM [%]", "%", "22.48"), (old, "SOL TEX", "%", "11.33")]
    rows += [("Instruction Statistics", "Executed Instructions", "inst", "123456")]
    rows += [("Scheduler Statistics", "One or More Eligible", "%", "40.25")]
    row = parse_report(write(tmp_path, details([{**kernel({}, "w13"), "rows": rows}]))).table.iloc[0]
    assert (row["duration_ns"], row["cycles_elapsed"], row["instructions"]) == (8992, 10251, 123456)
    assert (row["sm_clock_hz"], row["dram_clock_hz"]) == (1138.5e6, 1.25e9)
    assert (row["sm_throughput_pct"], row["mem_throughput_pct"], row["issue_active_pct"]) == (22.48, 46.5, 40.25)
    assert (row["dram_throughput_pct"], row["l2_throughput_pct"], row["l1_throughput_pct"]) == (46.47, 13.61, 11.33)


def asked(*rows):
    return [("Command line profiler metrics", *row) for row in rows]


@pytest.mark.parametrize(
    ("rows", "ns", "read"),
    [
        ([("117.344", "ns"), ("595.520", "byte")], 117344, 595520),
        ([("117,344", "ns"), ("595,520", "byte")], 117344, 595520),
        ([("117.344", "us"), ("595.520", "Kbyte")], 117344, 595520),
        ([("117,344", "us"), ("595,520", "Kbyte")], 117344, 595520),
        ([("117.344", "ns"), ("27.595.520", "byte")], 117344, 27595520),
        ([("117\u202f344", "ns"), ("27\u00a0595\u00a0520", "byte")], 117344, 27595520),
        ([("117 344", "ns"), ("1 595 520", "byte")], 117344, 1595520),
        ([("117\u2019344", "ns"), ("595'520", "byte")], 117344, 595520),
        ([("117344", "ns"), ("595,52", "Kbyte")], 117344, 595520),
        ([("0.344", "us"), ("12,595,520", "byte")], 344, 12595520),
    ],
)
def test_separators_of_any_locale_give_the_number_that_was_printed(rows, ns, read, tmp_path):
    page = details([{**kernel({}, "w13"), "rows": asked((TIME, *rows[0][::-1]), (READ, *rows[1][::-1]))}])
    table = parse_report(write(tmp_path, page)).table
    assert table[["duration_ns", "dram_read_bytes"]].iloc[0].tolist() == [ns, read]


MOST = "l1tex__throughput.max.pct_of_peak_sustained_active"


def test_percentages_beyond_a_thousand_have_separators_too(tmp_path):
    """Of many units the largest may reach 1,056 %; that it is no 1.056 follows from 1,980,000 on the same page."""
    units = {TIME: "ns", "device__attribute_max_gpu_frequency_khz": "", MOST: "%", SM: "%"}
    values = [
        {TIME: "117,344", "device__attribute_max_gpu_frequency_khz": "1,980,000", MOST: most, SM: sm}
        for most, sm in (("1,056", "1,012"), ("98.5", "22"))
    ]
    table = parse_report(write(tmp_path, raw([kernel(v, "w13") for v in values], units))).table
    assert table["duration_ns"].tolist() == [117344, 117344]
    assert table["sm_throughput_pct"].tolist() == [1012, 22]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("sm__inst_executed.avg.per_cycle_active", "inst/cycle", "1.234")], "which may be 1.234 or 1,234"),
        (
            [("sm__inst_executed.avg.per_cycle_active", "inst/cycle", "1,234"), (MOST, "%", "1,056")],
            "may be 1,234 or 1.234",
        ),
        ([(TIME, "ns", "117.344"), (HIT, "%", "33.25")], "only a decimal comma"),
        ([(TIME, "ns", "1e400")], "not a number that a counter can have"),
        ([(TIME, "ns", "-5")], "not a number that a counter can have"),
        ([(TIME, "ns", "12abc")], "is not a number"),
        ([(TIME, "fortnight", "12")], "not a unit of ns"),
    ],
)
def test_numbers_that_cannot_be_known_are_refused(rows, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        parse_report(write(tmp_path, details([{**kernel({}, "w13"), "rows": asked(*rows)}])))


def test_page_that_breaks_off_or_has_other_separators_is_refused(tmp_path):
    page = raw([kernel(W13, "w13"), kernel(W2, "w2")], BASE)
    for cut in (len(page) - 2, len(page) - 30, len(page) - 200):
        with pytest.raises(UserError, match="cannot be read as a page of ncu"):
            parse_report(write(tmp_path, page[:cut]))
    with pytest.raises(UserError, match="separated by semicolons"):
        parse_report(write(tmp_path, page.replace('","', '";"')))
    with pytest.raises(UserError, match="field larger than field limit"):
        parse_report(write(tmp_path, page.replace("fused_moe", "f" * 140_000)))


def test_page_that_a_windows_shell_wrote_is_read(tmp_path):
    (tmp_path / "page.csv").write_text(raw([kernel(W13, "w13")], BASE), encoding="utf-16")
    assert parse_report(tmp_path / "page.csv").table["duration_ns"].tolist() == [1503456]


def test_last_kernel_with_fewer_metrics_is_noted(tmp_path):
    page = details([{**kernel({}, "w13"), "rows": ROWS}, {**kernel({}, "w2"), "rows": ROWS[:3]}])
    assert "The last kernel has 3 of the 11 metrics" in parse_report(write(tmp_path, page)).meta["warnings"][0]
