"""Bytes: the fewest, by the model, as counted; and what other tiles would move."""

import pandas as pd
import pytest
from gemm_rows import GPU, reference, row, table

from moe_lab.analysis.traffic import model, other_tiles, rows_padded, traffic

L2 = GPU["l2_cache_bytes"]


def test_model_reads_rows_for_each_tile_to_the_right_and_weights_for_each_tile_of_rows():
    """GIVEN w13 at M = 8192 with 64x64 tiles: 24 tiles of columns, 65536 + 128 * 32 padded rows = 1088 tiles."""
    moved = model(row("untuned 8192"), 64, 64, 8, L2)
    assert moved["l2_a_bytes"] == 24 * 65536 * 2048 * 2
    assert moved["l2_b_bytes"] == 1088 * 1536 * 2048 * 2
    assert moved["c_bytes"] == 65536 * 1536 * 2
    assert moved["l2_model_bytes"] == moved["l2_a_bytes"] + moved["l2_b_bytes"] + moved["c_bytes"]


@pytest.mark.parametrize(
    ("point", "stage", "within_pct"),
    [
        ("untuned 16", "w13", 1),
        ("untuned 16", "w2", 1),
        ("tuned 16", "w13", 1),
        ("untuned 8192", "w13", 3),
        ("untuned 8192", "w2", 1),
        ("tuned 8192", "w2", 2),
        ("tuned 8192", "w13", 15),  # large tiles: some rows or weights fall out of L2 that the model keeps
    ],
)
def test_model_meets_the_dram_reads_that_were_measured(point, stage, within_pct):
    found = traffic(table(row(point, stage)), L2).iloc[0]
    assert abs(found["dram_error_pct"]) < within_pct


def test_weights_that_do_not_fit_in_l2_are_read_once_a_group_of_row_tiles():
    """GIVEN four groups of row tiles an expert WHEN a matrix fits half of the L2, and when it does not."""
    given = row("untuned 8192", rows_padded=128 * 64 * 32, rows_padded_by=None, experts_hit=128, rows_useful=65536)
    matrix = 1536 * 2048 * 2
    fits, not_fits = (model(given, 64, 64, 8, size)["dram_read_model_bytes"] for size in (60e6, 10e6))
    assert not_fits - fits == 3 * 128 * matrix
    assert model(given, 64, 64, 8, None)["dram_read_model_bytes"] <= fits


def test_few_rows_that_stay_in_l2_are_read_once():
    few = row("untuned 16", experts_hit=2, rows_useful=128, rows_padded=128, rows_padded_by=None)
    weights = 2 * 1536 * 2048 * 2
    assert model(few, 16, 32, 1, 600e6)["dram_read_model_bytes"] == weights + 16 * 2048 * 2
    # A small L2 keeps nothing: four tiles of rows an expert read its weights again, and each pair its row.
    assert model(few, 16, 32, 1, 1e6)["dram_read_model_bytes"] == 4 * weights + 128 * 2048 * 2


def test_traffic_sets_the_fewest_the_model_and_the_counted_side_by_side():
    counted = row("untuned 8192", l2_sm_bytes=13.4e9, l2_bytes=20e9, dram_write_bytes=0.1e9)
    found = traffic(table(counted), L2).iloc[0]
    weights, activations = 128 * 1536 * 2048, 8192 * 2048 + 65536 * 1536
    assert found["minimum_bytes"] == 2 * (weights + activations)
    assert found["dram_waste"] == pytest.approx(1.145e9 / found["minimum_bytes"])
    assert (found["l2_counted_bytes"], found["l2_counted_of"]) == (13.4e9, "SMs")
    assert found["l2_per_minimum"] == pytest.approx(13.4e9 / found["minimum_bytes"])
    assert found["model_error_pct"] == pytest.approx(0.66, abs=0.02)
    assert found["minimum_bytes"] + found["rows_again_bytes"] + found["weights_again_bytes"] == found["l2_model_bytes"]


def test_traffic_leaves_na_what_is_not_known():
    all_sides = traffic(table(row("persistent 8192", l2_bytes=20e9)), L2).iloc[0]
    assert all_sides["l2_counted_of"] == "all sides"
    assert all_sides[["l2_model_bytes", "dram_model_bytes", "dram_waste", "model_error_pct"]].isna().all()
    unknown = traffic(table(row("untuned 8192", experts_hit=None)), L2).iloc[0]
    assert unknown[["minimum_bytes", "l2_model_bytes"]].isna().all()


def test_larger_tiles_save_traffic_and_the_sweep_checks_the_prediction():
    launched = row("untuned 8192", series="fused_moe 128x256x64", block_m=128, block_n=256, duration_us=700.0)
    rows = table(row("untuned 8192"), launched | {"l2_sm_bytes": 5.5e9})
    others = other_tiles(rows, L2)
    own = others[others["series"] == "fused_moe untuned"]
    best = own.loc[own["l2_saved_pct"].idxmax()]
    assert best["candidate"] == "128x256x64"
    assert best["l2_saved_pct"] == pytest.approx(59.7, abs=0.1)
    assert (best["counted_l2_bytes"], best["counted_us"]) == (5.5e9, 700)
    assert own.loc[own["candidate"] == "16x32x64", "l2_saved_pct"].item() < 0
    assert "64x64x32" not in set(own["candidate"]), "its own tile is no other"
    assert other_tiles(reference()[lambda t: t["backend"] == "triton_kernels"], L2).empty


def test_padded_rows_are_as_stated_or_half_a_tile_an_expert():
    given = row("untuned 8192", rows_padded_by={"64": 70000})
    assert rows_padded(given, 64) == 70000
    assert rows_padded(given | {"rows_padded_by": None}, 64) == given["rows_padded"]
    assert rows_padded(given | {"rows_padded_by": None}, 128) == 65536 + 128 * 127 // 2
    assert rows_padded(row("untuned 16", rows_padded_by=None), 128) == 83 * 128, "one tile an expert at least"
    assert rows_padded({"rows_useful": pd.NA}, 64) is None
