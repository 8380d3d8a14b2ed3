"""The roofline of the expert GEMMs: roofs and their sources, points, and the time that each roof costs."""

from pathlib import Path

import pandas as pd
import pytest
from gemm_rows import GPU, row, table

from moe_lab.analysis.roofline import ceilings, peak, points, roofs
from moe_lab.analysis.roofs import of_gpu
from moe_lab.pages.show import notes
from moe_lab.runs import Run

L2 = GPU["l2_cache_bytes"]


def bench(name="bench", date="2026-01-01", gpu="NVIDIA H200", **given):
    roofs = {
        key: value["value"] if isinstance(value, dict) and "low" in value else value for key, value in given.items()
    }
    roofs["spread"] = {key: value for key, value in given.items() if isinstance(value, dict)}
    manifest = {"name": f"h200/{name}", "date": date, "gpu": {"name": gpu}, "measured": {"roofs": roofs}}
    return Run(Path("x"), manifest)


def stated(value, low, high):
    return {"value": value, "low": low, "high": high, "repetitions": 40, "how": "by a kernel"}


def test_roofs_are_theoretical_peaks_where_nothing_was_measured_and_say_so():
    found = roofs(GPU, []).set_index("kind")
    assert found.loc["dram", "value"] == 4_814_304_000_000
    assert found.loc["tensor", "value"] == pytest.approx(132 * 4096 * 1.98e9)
    assert found["measured"].tolist() == [False, False]
    assert "l2" not in found.index, "no peak of L2 is known"
    shown = notes.roofs(roofs(GPU, [])).html()
    assert shown.count("theoretical peak") == 2


def test_roofs_measured_on_the_same_gpu_come_first():
    runs = [bench(copy_bytes_per_s=4.4e12, read_bytes_per_s=4.57e12, matmul_flops_per_s=700e12)]
    found = roofs(GPU, runs).set_index("kind")
    assert found["value"].to_dict() == {"dram": 4.57e12, "tensor": 700e12}
    assert set(found["run"]) == {"h200/bench"}
    assert not roofs(GPU, [bench(gpu="NVIDIA A100", read_bytes_per_s=9e12)])["measured"].any()


def test_roofs_of_a_gpu_are_the_newest_benchmarks_with_the_spread_of_all():
    new = bench("new", "2026-02-02", read_bytes_per_s=stated(4.6e12, 4.55e12, 4.61e12), copy_bytes_per_s=4.2e12)
    old = bench("old", "2026-02-01", read_bytes_per_s=4.5e12, copy_bytes_per_s=4.3e12, matmul_flops_per_s=7e14)
    copied = bench("copied", "2026-03-01", copy_bytes_per_s=4.25e12)
    found = of_gpu("NVIDIA H200", [old, copied, new]).set_index("kind")
    assert found.loc["dram", ["value", "low", "high", "repetitions", "run", "runs"]].tolist() == [
        *(4.6e12, 4.5e12, 4.61e12, 40),
        *("h200/new", 2),
    ], "a copy counts only where nothing read"
    assert found.loc["tensor", ["value", "run", "runs"]].tolist() == [7e14, "h200/old", 1]
    measured = {"bf16_flops_per_s": stated(6.8e14, 6.7e14, 7.2e14), "matmul_flops_per_s": 9e14}
    both = of_gpu("NVIDIA H200", [bench("b", "2026-04-01", **measured), old]).set_index("kind")
    assert both.loc["tensor", ["value", "low", "high"]].tolist() == [6.8e14, 6.7e14, 7.2e14]


@pytest.mark.parametrize("value", [None, "4e12", True, -1.0, 0, float("nan"), float("inf"), [4e12], {}, {"value": "x"}])
def test_roof_that_is_no_positive_number_is_none(value):
    assert of_gpu("NVIDIA H200", [bench(read_bytes_per_s=value)]).empty


def test_roof_stays_one_that_a_kernel_exceeds_and_the_share_says_so():
    """The tuned w13 at M = 16 reads 0.522 GB in 121 us, 4.31 TB/s: more than a copy reaches."""
    known = roofs(GPU, [bench(copy_bytes_per_s=4.0e12)])
    assert known.set_index("kind").loc["dram", "value"] == 4.0e12
    costs = ceilings(table(row("tuned 16")), known, L2)
    assert costs["pct_of_floor"].tolist() == pytest.approx([100 * 0.522e9 / 121e-6 / 4.0e12])
    assert costs["pct_of_floor"].iloc[0] > 100


def test_roofs_of_an_unknown_gpu_are_not_made_up():
    assert roofs({"name": "NVIDIA RTX", "compute_capability": "8.6", "sm_count": 84}, []).empty


def test_l2_roof_is_measured_by_a_kernel_or_not_known():
    assert peak(roofs(GPU, [bench(read_bytes_per_s=4.5e12)]), "l2") is None
    assert peak(roofs(GPU, [bench(l2_read_bytes_per_s=stated(9.1e12, 9e12, 9.2e12))]), "l2") == 9.1e12


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
    l2 = 13.4e9 / 1503e-6 / 0.95
    costs = ceilings(rows, roofs(GPU, [bench(l2_read_bytes_per_s=l2)]), L2)
    assert costs["binding"].tolist() == ["l2", "dram", "tensor"]
    first, small, persistent = (costs.iloc[i] for i in range(3))
    assert first["l2_us"] == pytest.approx(0.95 * 1503)
    assert first["pct_of_floor"] == pytest.approx(95)
    assert first["lost_us"] == pytest.approx(0.05 * 1503)
    assert small["dram_us"] == pytest.approx(0.522e9 / 4.814304e12 * 1e6)
    assert pd.isna(persistent["l2_us"])
    assert persistent["tensor_us"] == pytest.approx(4 * 65536 * 768 * 2048 / (132 * 4096 * 1.98e9) * 1e6)


def test_ceilings_of_fp8_products_have_their_own_roof_or_none():
    rows = table(row("tuned 8192", format="fp8_block", tensor_fp8_ops=1e12))
    bf16 = {"bf16_flops_per_s": stated(7e14, 7e14, 7e14)}
    assert pd.isna(ceilings(rows, roofs(GPU, [bench(**bf16)]), L2)["tensor_us"].iloc[0])
    both = bf16 | {"fp8_flops_per_s": stated(13e14, 13e14, 13e14)}
    assert ceilings(rows, roofs(GPU, [bench(**both)]), L2)["tensor_us"].iloc[0] == pytest.approx(1e12 / 13e14 * 1e6)


def test_ceilings_take_the_time_of_the_timeline_where_there_is_one():
    rows = table(row("untuned 16", timeline_us=110.0), row("tuned 16", timeline_us=None))
    assert ceilings(rows, roofs(GPU, []), L2)["duration_us"].tolist() == [110, 121]
