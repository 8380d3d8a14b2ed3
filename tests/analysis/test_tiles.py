"""Tiles recovered from launches, blocks without work, and switches of the configuration."""

import pytest
from gemm_rows import reference, row, table

from moe_lab.analysis.tiles import Tile, blocks, recover, switches
from moe_lab.spec.problem import capacity

QWEN = {"experts": 128}


@pytest.mark.parametrize(
    ("grid", "M", "gemm_n", "label"),
    [
        # Published and measured grids of the field's untuned tiles, [16, 32, 64] and [64, 64, 32].
        (27600, 8192, 1536, "64x64x?"),
        (36800, 8192, 2048, "64x64x?"),
        (27624, 8192, 1536, "64x64x?"),  # SGLang: room for one expert more, the last tile rounded up
        (3834, 8192, 1536, "128x256x?"),
        (5112, 8192, 2048, "128x256x?"),
        # Fewer pairs than experts times tiles: every block_m gives a tile a pair, so only block_n shows.
        (6144, 16, 1536, "?x32x?"),
        (8192, 16, 2048, "?x32x?"),
        (3072, 16, 1536, "?x64x?"),
        (132, 8192, 1536, None),  # persistent: the grid says nothing
        (27601, 8192, 1536, None),
    ],
)
def test_tile_is_recovered_from_the_grid(grid, M, gemm_n, label):
    found = recover(None, "grouped_gemm_kernel", grid, 8 * M, 128, gemm_n)
    assert (found and found.label) == label
    assert found is None or found.source == "grid"


def test_tile_is_as_stated_then_by_name_then_by_grid():
    stated = {"block_m": 16, "block_n": 32, "block_k": 64, "group_m": 1, "num_warps": 4}
    name = "_p_matmul_ogs_NNT_bf16xbf16xbf16_16x256x64x1"
    assert recover(stated, name, 6144, 128, 128, 1536) == Tile(16, 32, 64, 1, "workload")
    assert recover(None, name, 132, 128, 128, 1536) == Tile(16, 256, 64, None, "kernel name")
    assert recover({}, "k", 27600, 65536, 128, 1536) == Tile(64, 64, source="grid")
    assert recover(None, "k", None, 65536, 128, 1536) is None


def test_capacity_pads_every_expert_that_can_be_hit():
    assert capacity(128, 16, 128) == 2048
    assert capacity(65536, 64, 128) == 73600
    assert capacity(8, 16, 128) == 128, "at most eight experts are hit"


def test_blocks_without_tiles_are_empty_and_persistent_kernels_have_none():
    """GIVEN 83 experts with a tile of 16 rows each and 48 tiles of columns."""
    found = blocks(Tile(16, 32), 6144, 83 * 16, 1536)
    assert (found.tiles, found.empty, found.persistent) == (83 * 48, 6144 - 83 * 48, False)
    found = blocks(Tile(16, 256), 132, 83 * 16, 1536)
    assert (found.tiles, found.empty, found.persistent) == (83 * 6, 0, True)
    few = blocks(Tile(16, 256), 132, 8 * 16, 1536, sized_by_gpu=True)
    assert (few.tiles, few.empty, few.persistent) == (48, 0, True), "not launched for the most padding"
    assert blocks(Tile(None, 32), 6144, 83 * 16, 1536) is None
    assert blocks(Tile(16, 32), 6144, None, 1536) is None


def test_switches_of_neighbouring_m_are_listed_and_equal_ones_are_not():
    rows = switches(reference())
    untuned = rows[rows["series"] == "fused_moe untuned"].to_dict("records")
    assert [r["stage"] for r in untuned] == ["w13", "w2"]
    own = {"series": "fused_moe untuned", "stage": "w13", "M_before": 16, "M": 8192}
    assert untuned[0] == own | {"before": "16x32x64, 128 threads", "after": "64x64x32, 128 threads"}
    assert switches(table(row("untuned 16"), row("untuned 16", M=32))).empty
