import pandas as pd

from moe_lab.analysis import static_tiles

ROW = {"arch": "gfx942", "gpu": "AMD Instinct MI300X", "model": "qwen3-30b-a3b", "format": "bf16", "M": 64}
ROW |= {"backend": "fused_moe", "part": "w13", "error": None, "num_warps": 4, "static_registers": 100}
ROW |= {"vgpr_spills": 0, "sgpr_spills": 0, "local_accesses": 0, "static_occupancy_pct": 50.0}
ROW |= {"tensor_unit": "mfma", "loop_instructions": 32, "constants": "BLOCK_M=16 BLOCK_N=64 BLOCK_K=64"}


def tiles(**changes: dict) -> pd.DataFrame:
    return static_tiles.tiles(pd.DataFrame([ROW | {"tile": tile} | change for tile, change in changes.items()]))


def why(table: pd.DataFrame) -> dict:
    return dict(zip(table["tile"], table["why"], strict=True))


def test_a_tile_says_what_it_multiplies_per_byte_and_per_instruction_of_a_warp() -> None:
    table = tiles(**{"16x64": {}, "16x32": {"format": "int4_w4a16"}})
    assert table["tile_flop_per_byte"].tolist() == [2 * 16 * 64 / (2 * (16 + 64)), 2 * 16 * 64 / (2 * 16 + 64 / 2)]
    assert table["loop_flop_per_instruction"].tolist() == [2 * 16 * 64 * 64 / 4 / 32] * 2


def test_tiles_stay_unless_they_fail_spill_or_are_outdone() -> None:
    wide = {"constants": "BLOCK_M=16 BLOCK_N=128 BLOCK_K=64"}
    table = tiles(
        **{
            "16x64": {},
            "16x128": wide | {"static_occupancy_pct": 25.0},
            "16x129": wide | {"static_occupancy_pct": 24.0},
            "16x65": {},
            "32x64": {"static_occupancy_pct": 10.0},
            "16x66": {"vgpr_spills": 3},
            "16x67": {"error": "It needs 70000 bytes"},
        }
    )
    assert why(table) == {
        "16x64": "",
        "16x128": "",
        "16x129": "16x128 is as good or better in everything",
        "16x65": "16x64 is as good or better in everything",
        "32x64": "",
        "16x66": "spills 3 registers",
        "16x67": "It needs 70000 bytes",
    }
    assert static_tiles.summary(table).values.tolist() == [["gfx942", 7, 3, 1, 1, 2]]


def test_a_tile_that_is_best_elsewhere_says_nothing_here() -> None:
    better = {"static_occupancy_pct": 99.0}
    assert set(why(tiles(**{"16x64": {}, "16x128": better | {"arch": "gfx950"}})).values()) == {""}
    assert set(why(tiles(**{"16x64": {}, "16x128": better | {"part": "w2"}})).values()) == {""}


def test_tiles_of_a_format_that_the_gpu_lacks_all_fail() -> None:
    refused = {key: ROW[key] for key in ("arch", "gpu", "model", "format", "M", "backend", "part")}
    table = static_tiles.tiles(pd.DataFrame([refused | {"tile": "16x64", "kernel": None, "error": "needs NVIDIA"}]))
    assert why(table) == {"16x64": "needs NVIDIA"}
    assert static_tiles.summary(table).values.tolist() == [["gfx942", 1, 0, 1, 0, 0]]
