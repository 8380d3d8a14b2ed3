"""Excerpts of real pages of ncu 2025.3.1: w13 and w2 of a decode step of 16 sequences of Qwen3-30B-A3B on an H200."""

import pandas as pd
import pytest
from checkout import SAMPLES

from moe_lab.analysis.gemms import gemms
from moe_lab.analysis.limits import limiter
from moe_lab.analysis.traffic import model
from moe_lab.runs.parse import parse_report
from moe_lab.spec.architectures import find, occupancy

ROOT = "moe_lab|model=qwen3-30b-a3b|phase=decode|M=16|backend=fused_moe"
# What the workload printed in the same process.
WORKLOAD = {
    "rows_useful": 128,
    "rows_padded": 1360,
    "experts_hit": 85,
    "problem": {"M": 16, "K": 2048, "N": 768, "E": 128, "topk": 8, "dtype": "bf16", "quant": None},
    "tiles": {part: {"block_m": 16, "block_n": 64, "block_k": 128, "group_m": 1} for part in ("w13", "w2")},
}


@pytest.fixture(scope="module")
def base():
    return parse_report(SAMPLES / "ncu_raw_base.csv")


def test_real_raw_page_gives_ranges_geometry_and_counters(base):
    assert base.ranges["path"].tolist()[-2:] == [f"{ROOT}/layers.0/mlp/{s}" for s in ("w13", "w2")]
    assert base.ranges["domain"].unique().tolist() == ["moe_lab"]
    table = base.table
    assert table["duration_ns"].tolist() == [124416, 67712]
    assert table["grid_blocks"].tolist() == [3072, 4096]
    assert table["dram_read_bytes"].tolist() == [535081984, 267606528]
    assert table["sm_clock_hz"].tolist() == [1747567636.0, 1788209623.11]
    assert table[["registers_per_thread", "smem_dynamic_bytes"]].to_numpy().tolist() == [[63, 61440], [64, 61440]]


def test_real_page_states_the_gpu(base):
    gpu = base.meta["gpu"]
    assert (gpu["name"], gpu["sm_count"], gpu["compute_capability"]) == ("NVIDIA H200", 132, "9.0")
    assert (gpu["l2_cache_bytes"], gpu["sm_clock_khz"]) == (62914560, 1980000)
    assert gpu["memory_bandwidth_bytes_per_s"] == pytest.approx(4.8e12, rel=0.01), "what the card is rated for"


def test_real_pages_in_scaled_units_and_by_lines_agree(base):
    auto = parse_report(SAMPLES / "ncu_raw_auto.csv").table
    pd.testing.assert_frame_equal(base.table, auto, rtol=1e-6, atol=0.00501)
    details = parse_report(SAMPLES / "ncu_details_auto.csv")
    known = details.table.columns[details.table.notna().all()]
    assert {"dram_read_bytes", "sm_throughput_pct", "sm_clock_hz", "smem_dynamic_bytes"} <= set(known)
    text = ["name", "name_full", "kind", "attribution"]
    numbers = [c for c in known if c not in text]
    pd.testing.assert_frame_equal(
        base.table[numbers].astype(float), details.table[numbers].astype(float), rtol=3e-3, atol=0.00501
    )


def test_real_occupancy_is_what_ncu_says(base):
    table = gemms(base, WORKLOAD, base.meta["gpu"])
    assert table["blocks_per_sm"].tolist() == [3, 3]
    assert table["limiter"].tolist() == ["smem", "smem"]
    sizes = table[["block_threads", "registers_per_thread", "smem_bytes"]].astype(int)
    ours = [occupancy(find("h200"), threads // 32, *rest).percent for threads, *rest in sizes.itertuples(index=False)]
    assert ours == table["occupancy_theoretical_pct"].tolist() == [18.75, 18.75], "the latter is what ncu says"
    assert table["waves"].tolist() == pytest.approx([7.76, 10.34], abs=0.005), "as launch__waves_per_multiprocessor"


def test_real_decode_gemms_are_bound_by_dram(base):
    table = gemms(base, WORKLOAD, base.meta["gpu"])
    assert table[["stage", "series", "M", "tile", "tile_source"]].to_numpy().tolist() == [
        ["w13", "fused_moe", 16, "16x64x128", "workload"],
        ["w2", "fused_moe", 16, "16x64x128", "workload"],
    ]
    assert table["tiles_computed"].tolist() == [85 * 24, 85 * 32]
    assert table["blocks_empty"].tolist() == [3072 - 85 * 24, 4096 - 85 * 32]
    assert [limiter(row) for row in table.to_dict("records")] == ["DRAM", "DRAM"]


# Sectors of 32 bytes that loads of the SMs asked of L2 (L1 hit 0.2 and 1 % of them), and bytes read from DRAM.
@pytest.mark.parametrize(
    ("stage", "sectors", "read"), [(0, 17149824, 535081984), (1, 8650496, 267606528)], ids=["w13", "w2"]
)
def test_traffic_model_is_within_two_percent_of_real_loads(base, stage, sectors, read):
    row = gemms(base, WORKLOAD, base.meta["gpu"]).to_dict("records")[stage]
    moved = model(row, 16, 64, 1, base.meta["gpu"]["l2_cache_bytes"])
    assert moved["l2_a_bytes"] + moved["l2_b_bytes"] == pytest.approx(32 * sectors, rel=0.02)
    assert moved["dram_read_model_bytes"] == pytest.approx(read, rel=0.005)


def test_l2_bytes_of_all_sides_exceed_those_of_the_sms(base):
    """Two L2 partitions: what one hands to the other is counted again, so only l2_sm_bytes compares with a model."""
    assert base.table["l2_bytes"][0] / (32 * 17149824) == pytest.approx(1.5, abs=0.02)
