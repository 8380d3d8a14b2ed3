"""AMD metrics by hand and against the tool's own definitions, tables, figures and sentences made from them."""

import checkout
import numpy as np
import pandas as pd
import pytest
from checkout import REPO
from rocprof_reference import FOLDERS, REFERENCE
from rocprof_sample import SAMPLE, fits, made_counters
from workload_builder import launch, old_launch, sysinfo, write_csv

from moe_lab import runs
from moe_lab.analysis import amd
from moe_lab.analysis.amd import evaluation
from moe_lab.analysis.amd import memory as amd_memory
from moe_lab.pages import load
from moe_lab.pages.rocprof_compute import findings, plots, tables
from moe_lab.pages.show import provenance
from moe_lab.report import build
from moe_lab.runs.parse import parse_report
from moe_lab.spec import published
from moe_lab.spec.errors import UserError

DATA = checkout.DATA / "rocprof-compute"
DOCS = REPO / "docs" / "amd.md"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real folders in ../shared/data/rocprof-compute are not here")

# Two launches; the second does nine times the work of the first, so that a mean of ratios and a ratio of sums differ.
LIGHT = {
    "GRBM_GUI_ACTIVE": 8000,  # 1000 cycles on each of 8 dies
    "SQ_BUSY_CU_CYCLES": 10_000,
    "TCP_TOTAL_CACHE_ACCESSES_sum": 100,
    "TCP_TCC_READ_REQ_sum": 80,
    "TCP_TCC_WRITE_REQ_sum": 10,
    "TCP_TCC_ATOMIC_WITH_RET_REQ_sum": 4,
    "TCP_TCC_ATOMIC_WITHOUT_RET_REQ_sum": 6,
    "TCC_BUBBLE_sum": 2,
    "TCC_EA0_RDREQ_sum": 7,
    "TCC_EA0_RDREQ_32B_sum": 1,
    "SQ_LDS_BANK_CONFLICT": 8,
    "SQ_LDS_IDX_ACTIVE": 40,
    "TCP_PENDING_STALL_CYCLES_sum": 30,
    "TCP_GATE_EN1_sum": 100,
}
HEAVY = {**{k: 9 * v for k, v in LIGHT.items()}, "TCP_TCC_READ_REQ_sum": 0}


def folder(tmp_path, rows=None, **changed):
    sysinfo(tmp_path, **changed)
    rows = rows or [launch(0, "align", 0, 1000, **LIGHT), launch(1, "align", 2000, 11000, **HEAVY)]
    write_csv(tmp_path / "pmc_perf.csv", rows)
    return parse_report(tmp_path)


def value(launches, name, how="total", kernel=None):
    table = amd.metrics(launches, how)
    table = table[table["kernel"] == kernel] if kernel else table
    return table.set_index("metric").loc[name, "value"]


def test_metrics_of_one_kernel_by_hand(tmp_path):
    """misses: light 100 of 100, heavy 180 of 900; so 72 % of all 1000 requests hit."""
    found = folder(tmp_path)
    assert value(found, "vl1d_hit_pct") == pytest.approx(72)
    assert value(found, "vl1d_hit_pct", "mean") == pytest.approx((0 + 80) / 2)
    assert value(found, "kernel_cycles") == pytest.approx((1000 + 9000) / 2)
    # 2 reads of 128 B, 4 of 64 B, 1 of 32 B: 544 B, nine times as many in the second launch
    assert value(found, "fabric_read_bytes") == pytest.approx(544 * 5)
    assert value(found, "fabric_read_gb_per_s") == pytest.approx(544 * 10 / 10_000)
    assert value(found, "lds_conflicts_per_access") == pytest.approx(8 / 32)
    assert value(found, "lds_bank_conflict_pct") == pytest.approx(100 * (8 / 32) / 32)
    assert value(found, "l1_stall_l2_data_pct", "median") == pytest.approx(30)


@pytest.mark.parametrize(
    ("waves", "cus"),
    [
        (1, 1),  # 1 / 32 * 8 + 1 = 1.25
        (5, 6),  # 5 / 32 * 8 + 5 = 6.25
        (64, 16),  # two CUs' worth of waves: 64 / 32 * 8 + 0
        (4000, 304),  # never more than there are
    ],
)
def test_active_cus_follows_the_tools_estimate(waves, cus, tmp_path):
    """waves = 4 * busy / cycles, CUs = floor(min(waves / 32 * 8 + min(waves mod 32, 8), 304)); 1000 cycles here."""
    found = folder(tmp_path, [launch(0, "k", GRBM_GUI_ACTIVE=8000, SQ_BUSY_CU_CYCLES=250 * waves)])
    assert value(found, "active_cus") == cus


def test_missing_counter_makes_a_metric_unknown_and_never_zero(tmp_path):
    rows = [launch(0, "align", **{k: v for k, v in LIGHT.items() if k != "TCP_TCC_WRITE_REQ_sum"})]
    found = folder(tmp_path, rows)
    assert value(found, "vl1d_hit_pct") is pd.NA
    assert value(found, "l1_l2_write_bytes") is pd.NA
    assert value(found, "vl1d_bytes") == 12800
    traffic = amd_memory.traffic(found).set_index("level")
    assert traffic.loc["L2", "bytes"] is pd.NA, "a part that is not known makes the total unknown"
    assert traffic.loc["vL1D", "bytes"] == 12800
    assert "write not known" in str(plots.memory({"r": amd_memory.traffic(found)}).data[0].y)


def test_counter_missing_in_one_launch_leaves_that_launch_out(tmp_path):
    """Of two launches only the first was counted: its 25 %, not 25 % diluted by a 0."""
    rows = [launch(0, "k", TCC_HIT_sum=1, TCC_MISS_sum=3), launch(1, "k", TCC_HIT_sum="", TCC_MISS_sum=3)]
    assert value(folder(tmp_path, rows), "l2_hit_pct") == 25


def test_nothing_to_divide_by_is_unknown(tmp_path):
    found = folder(tmp_path, [launch(0, "k", TCC_HIT_sum=0, TCC_MISS_sum=0)])
    assert value(found, "l2_hit_pct") is pd.NA


def test_durations_that_are_not_known_make_speeds_unknown_and_keep_shares(tmp_path):
    rows = [launch(0, "align", "8.1E+14", "8.1E+14", **LIGHT), launch(1, "other", 0, 10, GRBM_GUI_ACTIVE=1)]
    found = folder(tmp_path, rows)
    assert value(found, "fabric_read_gb_per_s", kernel="align") is pd.NA
    assert value(found, "fabric_read_bytes", kernel="align") == 544
    table = amd.kernels(found).set_index("name")
    assert table.loc["align", "total_ms"] is pd.NA
    assert table.loc["other", "total_ms"] == pytest.approx(1e-5)


def test_architecture_decides_line_sizes_and_counters(tmp_path):
    """MI200 has lines of 64 bytes in L1 and reads of 32 or 64 bytes from HBM; MI300 lines of 128."""
    counters = {"TCP_TOTAL_CACHE_ACCESSES_sum": 10, "TCC_EA_RDREQ_sum": 5, "TCC_EA_RDREQ_32B_sum": 1}
    old = folder(tmp_path / "a", [old_launch(0, "k", **counters)], gpu_arch="gfx90a", gpu_model="MI200", num_xcd="1")
    assert (value(old, "vl1d_bytes"), value(old, "fabric_read_bytes")) == (640, 4 * 64 + 32)
    assert amd.fills(old).empty, "one die"
    new = folder(tmp_path / "b", [launch(0, "k", TCP_TOTAL_CACHE_ACCESSES_sum=10)])
    assert value(new, "vl1d_bytes") == 1280
    oldest = folder(tmp_path / "c", [old_launch(0, "k", **counters)], gpu_arch="gfx908", gpu_model="MI100", num_xcd="1")
    assert (value(oldest, "vl1d_bytes"), value(oldest, "fabric_read_bytes")) == (640, 4 * 64 + 32)
    assert "mfma_pct" not in set(amd.metrics(oldest)["metric"]), "MI100 does not count it"


@pytest.mark.parametrize(
    ("arch", "line", "from_l2"),
    [("gfx908", 64, 64), ("gfx90a", 128, 64), ("gfx942", 128, 128), ("gfx950", 128, 128)],
)
def test_l2_requests_are_lines_of_the_architecture_and_no_bytes_from_vl1d(arch, line, from_l2, tmp_path):
    """MI100 has L2 lines of 64 bytes, later GPUs of 128: ten requests, and three reads of vL1D."""
    found = folder(tmp_path, [launch(0, "k", TCC_REQ_sum=10, TCP_TCC_READ_REQ_sum=3)], gpu_arch=arch)
    assert value(found, "l2_request_bytes") == 10 * line
    assert value(found, "l1_l2_read_bytes") == 3 * from_l2
    assert value(found, "l2_gb_per_s") == pytest.approx(10 * line / 2000)
    assert "l2_bytes" not in set(amd.metrics(found)["metric"]), "one name for two amounts"


@pytest.mark.parametrize("arch", SAMPLE)
def test_every_metric_of_a_made_sample_has_its_known_value(arch, tmp_path):
    """Two launches with all counters; what they give was taken when real folders agreed with the tool's definitions."""
    rows = [launch(n, "k", 0, 1000 + 500 * n, **made_counters(n)) for n in range(2)]
    sysinfo(tmp_path, gpu_arch=arch)
    write_csv(tmp_path / "pmc_perf.csv", [{k: v for k, v in r.items() if fits(k, arch)} for r in rows])
    table = amd.metrics(parse_report(tmp_path), "mean").set_index("metric")["value"]
    assert table.dropna().to_dict() == pytest.approx(SAMPLE[arch], rel=1e-9)


def test_gpu_without_definitions_and_report_without_counters_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="no metric definitions for gfx1151; there are for gfx908, gfx90a, gfx942, gfx95"
    ):
        amd.metrics(folder(tmp_path, [launch(0, "k", SQ_WAVES=1)], gpu_arch="gfx1151"))
    with pytest.raises(UserError, match="no counters; profile with rocprof-compute"):
        amd.metrics(folder(tmp_path, [launch(0, "k")]))


@pytest.mark.parametrize("name", ["gfx908", "gfx90a", "gfx942", "gfx950"])
def test_every_metric_says_its_unit_source_and_what_a_percentage_is_of(name):
    arch = amd.architecture(name)
    assert set(arch.parameters) == {
        "l1_line_bytes",
        "l2_line_bytes",
        "l2_line_bytes_per_cycle",
        "l1_l2_read_bytes_each",
    }
    for metric in arch.metrics.values():
        assert metric.unit
        assert metric.source[0].isdigit(), "a table of the tool"
        assert (metric.unit == "%") == metric.name.endswith("_pct")
        assert bool(metric.of) == (metric.unit == "%")
        assert metric.den or metric.unit in ("cycles", "B", "FLOP"), "means are of plain amounts"


@real
@pytest.mark.parametrize("name", FOLDERS)
def test_real_folders_agree_with_the_tools_definitions(name):
    """Every metric that is printed, to nine digits; what the tool cannot say is NA."""
    launches = parse_report(DATA / name)
    tables = {how: amd.metrics(launches, how).set_index("metric")["value"] for how in ("mean", "median")}
    assert set(tables["mean"].index) == set(REFERENCE)
    for metric, expected in REFERENCE.items():
        found = tables["median" if metric.startswith("l1_stall") else "mean"][metric]
        theirs = expected[FOLDERS.index(name)]
        assert found is pd.NA if theirs is None else found == pytest.approx(theirs, rel=1e-8, abs=1e-12), metric


@real
@pytest.mark.parametrize("name", FOLDERS)
def test_vector_copy_writes_what_it_must(name):
    """The program copies 1048576 doubles: 8 MiB leave vL1D for L2, as counted on every GPU."""
    level = amd_memory.traffic(parse_report(DATA / name)).set_index("level")
    assert level.loc["L2", "read_bytes"] == level.loc["L2", "write_bytes"] == 8 * 2**20


@pytest.mark.parametrize(
    ("blocks", "dies", "most", "least", "fill"),
    [
        (304, 8, 38, 38, 100),
        (305, 8, 39, 38, 100 * 305 / 312),
        (1, 8, 1, 0, 12.5),
        (6, 6, 1, 1, 100),
        (7, 1, 7, 7, 100),
    ],
)
def test_xcd_fill_counts_the_fullest_die(blocks, dies, most, least, fill):
    found = amd.xcd_fill(blocks, dies)
    assert (found.most, found.least) == (most, least)
    assert found.fill_pct == pytest.approx(fill)


def test_xcd_fill_of_no_blocks_is_refused():
    with pytest.raises(ValueError, match="must be at least 1"):
        amd.xcd_fill(0, 8)


@pytest.mark.parametrize(
    ("gpu", "dies"), [("AMD Instinct MI300X", 8), ("AMD Instinct MI300A", 6), ("NVIDIA H200", None)]
)
def test_dies_are_known_by_name_where_the_report_does_not_say(gpu, dies, tmp_path):
    found = folder(tmp_path)
    found.meta.update(machine={}, gpu={"name": gpu})
    assert amd.xcds(found) == dies


def test_partition_of_the_report_wins_over_the_name(tmp_path):
    assert amd.xcds(folder(tmp_path, num_xcd="1")) == 1, "MI300X in CPX mode: each partition is one die"


ROOFS = [{"device": 0, "HBMBw": 4000.0, "L2Bw": 9000.0, "FP32Flops": 90000.0, "MFMABF16Flops": 500000.0}]
MFMA = {f"SQ_INSTS_VALU_MFMA_MOPS_{t}": 0 for t in ("F16", "F32", "F64")} | {"SQ_INSTS_VALU_MFMA_MOPS_BF16": 100}
VALU = {f"SQ_INSTS_VALU_{o}_F{b}": 0 for o in ("ADD", "MUL", "TRANS", "FMA") for b in (16, 32, 64)}
WRITES = {"TCC_EA0_WRREQ_sum": 3, "TCC_EA0_WRREQ_64B_sum": 1}


def test_roofline_is_executed_work_over_the_bytes_of_each_level(tmp_path):
    """100 MFMA units of 512 FLOP and 3 VALU FMAs of 64 threads and 2 FLOP, in 1000 ns."""
    flop = 100 * 512 + 3 * 64 * 2
    row = {**LIGHT, **MFMA, **VALU, **WRITES, "SQ_INSTS_VALU_FMA_F32": 3}
    write_csv(tmp_path / "roofline.csv", ROOFS)
    found = folder(tmp_path, [launch(0, "gemm", 0, 1000, **row)])
    points = amd_memory.roofline(found).set_index("level")
    assert points.loc["HBM", "flop_per_byte"] == pytest.approx(flop / (544 + 64 + 2 * 32))
    assert points.loc["vL1D", "flop_per_byte"] == pytest.approx(flop / 12800)
    assert points.loc["HBM", "gflop_per_s"] == pytest.approx(flop / 1000)
    roofs = amd_memory.roofs(found).set_index("name")["value"]
    assert (roofs["HBM"], roofs["VALU FP32"], roofs["MFMA BF16"]) == (4000, 90000, 500000)
    figure = plots.roofline({"r": points.reset_index()}, {"r": amd_memory.roofs(found)})
    assert [t.x[0] for t in figure.data if t.mode == "markers" and t.name.startswith("HBM")] == [
        points.loc["HBM", "flop_per_byte"]
    ]


def test_copy_without_arithmetic_has_no_point_on_the_roofline(tmp_path):
    found = folder(
        tmp_path, [launch(0, "copy", 0, 1000, **LIGHT, **MFMA | {"SQ_INSTS_VALU_MFMA_MOPS_BF16": 0}, **VALU)]
    )
    assert amd_memory.roofline(found)["flop_per_byte"].isna().all()
    assert amd_memory.roofs(found).empty
    note = plots.roofline({"r": amd_memory.roofline(found)}, {"r": amd_memory.roofs(found)})
    assert note.sentence.startswith("No roofline")


def test_two_reports_are_compared_kernel_by_kernel(tmp_path):
    left = folder(tmp_path / "a", [launch(0, "align", **LIGHT), launch(1, "gone", **LIGHT)])
    right = folder(tmp_path / "b", [launch(0, "align", **{**LIGHT, "GRBM_GUI_ACTIVE": 4000})])
    table = amd.compare(left, right, ["kernel_cycles"]).set_index("kernel")
    assert table.loc["align", ["left", "right", "ratio"]].tolist() == [1000, 500, 0.5]
    assert table.loc["gone", "right"] is pd.NA


def test_kernels_that_share_a_short_name_are_told_apart(tmp_path):
    found = folder(
        tmp_path, [launch(0, "gemm<1>(int)", 0, 10, SQ_WAVES=1), launch(1, "gemm<2>(int)", 0, 20, SQ_WAVES=1)]
    )
    assert amd.kernels(found)["name"].tolist() == ["gemm<2>(int)", "gemm<1>(int)"], "longest first"
    assert amd.kernels(found, 1)["name"].tolist() == ["gemm<2>(int)"]
    assert set(amd_memory.traffic(found, 1)["kernel"]) == {"gemm<2>(int)"}


def test_notebook_without_runs_says_that_its_figures_are_published(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))
    assert load.amd_counts("") == []
    [sentence, *_] = [str(f) for f in findings.all_of([]) if f]
    assert sentence.startswith("Only published figures are shown")
    assert "330" in sentence
    assert tables.kernels({}).sentence.startswith("No run of rocprof-compute is shown")
    assert "published by others" in provenance.of([], published.ALIGN_AMD).html()


def test_notebook_takes_the_counted_runs_of_profiles_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path / "profiles"))
    folder(tmp_path / "w")
    runs.import_report(tmp_path / "w", "counted", manifest={"tool": {"name": "rocprof-compute", "version": "3.4.0"}})
    [one] = load.amd_counts("")
    assert (one.name, one.gpu) == ("mi300x/counted", "MI300X")
    assert "measured; run in profiles/" in provenance.of([one]).html()
    both = load.amd_counts(f"{tmp_path / 'w'},{tmp_path / 'w'}")
    assert [b.name for b in both] == ["w", "w (2)"]
    assert "measured; report or folder given" in provenance.of(both).html()
    with pytest.raises(UserError, match="matches 'nothing'"):
        load.amd_counts("", "nothing")


def test_sentences_carry_the_numbers_of_the_tables(tmp_path):
    folder(tmp_path / "w")
    said = [str(f) for f in findings.all_of(load.amd_counts(str(tmp_path / "w"))) if f]
    assert said[0].startswith(
        "On MI300X (w), align takes 5.00\u00a0k cycles, keeps 18 of 304 CUs active, hits vL1D in 72"
    )
    assert any("10 work-groups for 8 dies, 2 on the fullest, which fills 62\u00a0% of them" in s for s in said)
    assert any(s.startswith("Not known in w:") for s in said)


def test_figures_draw_the_numbers_of_the_tables(tmp_path):
    found = folder(tmp_path)
    stalls = amd.stalls(found)
    [bar] = plots.stalls({"w": stalls}).data
    assert list(bar.x) == [pytest.approx(30.0)]
    table = published.align_amd()
    assert list(plots.align_published(table).data[0].x) == table["cycles_k"].tolist()


def test_notebook_shows_the_numbers_of_a_folder_given_by_path(tmp_path):
    """The whole way: folder, notebook, HTML. 72 % of the requests hit vL1D, 5000 cycles a launch."""
    folder(tmp_path / "w")
    built = build(
        ["05_rocprof_compute"],
        out=tmp_path / "out",
        parameters={"folders": str(tmp_path / "w")},
        grid=None,
        show_code=False,
    )
    [page] = built.pages
    assert page.failed is None
    text = page.html.read_text()
    assert page.headline.startswith("On MI300X (w), align takes")
    assert ">72.0<" in text
    assert page.figures == 3, "published, stalls, memory; there is nothing for a roofline"


def test_glossary_of_the_docs_is_the_one_of_the_notebook():
    lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in DOCS.read_text().splitlines()
        if line[:1] == "|"
    ]
    assert {tuple(row) for row in tables.GLOSSARY} <= {tuple(c.replace("`", "") for c in line) for line in lines}


def test_expressions_do_arithmetic_only(tmp_path):
    counted = amd.Counted(pd.DataFrame({"A_B": [1.0, 4.0]}), amd.architecture("gfx942"), {})
    assert counted.evaluate("2 * A_B - 1").tolist() == [1, 7]
    with pytest.raises(ValueError, match="cannot be part of a metric's expression"):
        counted.evaluate("[1][0]")
    assert np.isnan(evaluation.aggregate(np.array([np.nan]), np.array([1.0]), "total"))


def test_counters_table_gives_amd_launches_the_columns_that_both_vendors_have(tmp_path):
    """LIGHT and HEAVY, two launches of one kernel: their counters are taken together; none of them is of DRAM."""
    from moe_lab.analysis.counters import counters_table

    launches = folder(tmp_path)
    [row] = counters_table(launches).to_dict("records")
    assert (row["name"], row["launches"]) == ("align", 2)
    assert row["l1_hit_pct"] == pytest.approx(value(launches, "vl1d_hit_pct"))
    assert row["duration_us"] == pytest.approx(5.0)  # the median of 1 and 9
    assert row["registers_per_thread"] > 0
    assert pd.isna(row["dram_read_bytes"])
    assert counters_table(launches).attrs["notes"][0].startswith("Counters of an AMD GPU")
    # LIGHT reads 80 and writes 10 + 10, HEAVY reads 0 and writes 90 + 90: of 128 and of 64 bytes, the mean of both
    chosen = counters_table(launches, ["l2_sm_bytes"])["l2_sm_bytes"]
    assert chosen.tolist() == [(80 * 128 + 20 * 64 + 180 * 64) / 2]
    with pytest.raises(UserError, match="knows no counter hits"):
        counters_table(launches, ["hits"])
