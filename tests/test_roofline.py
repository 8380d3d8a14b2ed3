"""The roofline of the expert GEMMs: roofs and their sources, points, and the time that each roof costs."""

from pathlib import Path

import pandas as pd
import pytest
from gemm_rows import GPU, reference, row, table

from moe_lab.analysis.roofline import ceilings, peak, points, roofs
from moe_lab.runs import Run

L2 = GPU["l2_cache_bytes"]


def bench(**roofs):
    return Run(Path("x"), {"name": "h200/bench", "gpu": {"name": "NVIDIA H200"}, "measured": {"roofs": roofs}})


def test_roofs_are_rated_where_nothing_was_measured_and_say_so():
    found = roofs(reference(), GPU, []).set_index("kind")
    assert found.loc["dram", "value"] == 4_814_304_000_000
    assert found.loc["tensor", "value"] == pytest.approx(132 * 4096 * 1.98e9)
    assert found["source"].str.startswith("rated: ").all()
    assert "l2" not in found.index, "no kernel shows it without its share of L2's peak"


def test_roofs_measured_on_the_same_gpu_come_first():
    runs = [bench(copy_bytes_per_s=4.4e12, read_bytes_per_s=4.57e12, matmul_flops_per_s=700e12)]
    found = roofs(reference(), GPU, runs).set_index("kind")
    assert found.loc["dram"].tolist() == [4.57e12, "read measured on this GPU in h200/bench"]
    assert found.loc["tensor"].tolist() == [700e12, "matmul measured on this GPU in h200/bench"]
    other = Run(Path("x"), {"name": "a100/bench", "gpu": {"name": "NVIDIA A100", "read_bytes_per_s": 9e12}})
    assert roofs(reference(), GPU, [other])["source"].str.startswith("rated").all()


def test_measured_roof_that_a_kernel_exceeds_is_none():
    """The tuned w13 at M = 16 reads 4.31 TB/s, more than a copy reaches."""
    found = roofs(reference(), GPU, [bench(copy_bytes_per_s=4.28e12)])
    assert found["source"].str.startswith("rated").all()
    found = roofs(reference(), GPU, [bench(copy_bytes_per_s=4.35e12)])
    assert found["source"].iloc[0] == "copy measured on this GPU in h200/bench"


def test_roofs_of_an_unknown_gpu_are_not_made_up():
    assert roofs(reference(), {"name": "NVIDIA RTX", "compute_capability": "8.6", "sm_count": 84}, []).empty


def test_l2_roof_follows_from_a_kernel_that_l2_serves():
    busy = row("untuned 8192", l2_throughput_pct=95.0, dram_throughput_pct=14.0, l2_sm_bytes=13.4e9)
    dram_bound = row("untuned 16", l2_throughput_pct=92.0, dram_throughput_pct=84.0, l2_sm_bytes=0.55e9)
    known = roofs(table(busy, dram_bound), GPU, [])
    assert peak(known, "l2") == pytest.approx(13.4e9 / 1503e-6 / 0.95)
    assert peak(roofs(table(dram_bound), GPU, []), "l2") is None, "L2 waits for DRAM there"


def test_points_use_what_was_counted_then_the_model_then_the_fewest():
    counted = row("untuned 8192", l2_sm_bytes=13.4e9, tensor_bf16_ops=4.4e11)
    plain = row("untuned 8192", "w2", dram_read_bytes=None)
    unknown = row("persistent 8192", dram_read_bytes=None)
    found = points(table(counted, plain, unknown), L2)
    assert found[["stage", "level", "flop_from", "bytes_from"]].to_numpy().tolist() == [
        ["w13", "dram", "counted", "counted"],
        ["w13", "l2", "counted", "counted"],
        ["w2", "dram", "padded rows", "modelled from the tiles"],
        ["w2", "l2", "padded rows", "modelled from the tiles"],
        ["w13", "dram", "useful rows", "fewest possible"],
    ]
    first = found.iloc[1]
    assert first["flop_per_byte"] == pytest.approx(4.4e11 / 13.4e9)
    assert first["tflop_per_s"] == pytest.approx(4.4e11 / 1503e-6 / 1e12)
    useful = 4 * 65536 * 768 * 2048
    assert found.iloc[4]["flop"] == useful


def test_points_need_no_counters():
    """GIVEN times only THEN the bytes are analytic."""
    columns = ["dram_read_bytes", "sm_throughput_pct", "mem_throughput_pct", "l2_hit_pct"]
    found = points(table(row("untuned 8192", **dict.fromkeys(columns))), L2)
    assert found["bytes_from"].tolist() == ["modelled from the tiles"] * 2


def test_ceilings_say_which_roof_costs_most_and_what_is_lost():
    busy = {"l2_throughput_pct": 95.0, "dram_throughput_pct": 14.0, "l2_sm_bytes": 13.4e9}
    rows = table(row("untuned 8192", **busy), row("untuned 16"), row("persistent 8192"))
    costs = ceilings(rows, roofs(rows, GPU, []), L2)
    assert costs["binding"].tolist() == ["l2", "dram", "tensor"]
    first, small, persistent = (costs.iloc[i] for i in range(3))
    assert first["l2_us"] == pytest.approx(0.95 * 1503)
    assert first["pct_of_floor"] == pytest.approx(95)
    assert first["lost_us"] == pytest.approx(0.05 * 1503)
    assert small["dram_us"] == pytest.approx(0.522e9 / 4.814304e12 * 1e6)
    assert pd.isna(persistent["l2_us"])
    assert persistent["tensor_us"] == pytest.approx(4 * 65536 * 768 * 2048 / (132 * 4096 * 1.98e9) * 1e6)


def test_ceilings_take_the_time_of_the_timeline_where_there_is_one():
    rows = table(row("untuned 16", timeline_us=110.0), row("tuned 16", timeline_us=None))
    assert ceilings(rows, roofs(rows, GPU, []), L2)["duration_us"].tolist() == [110, 121]
