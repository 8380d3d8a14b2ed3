from types import SimpleNamespace

import pandas as pd
import pytest

from moe_lab.analysis import static

TILE = {"constants": "EVEN_K=1 BLOCK_M=64 BLOCK_N=256 BLOCK_K=64"}
FEW = {"arch": "sm_100", "tensor_unit": "tcgen05", "constants": "BLOCK_M=64 BLOCK_N=128", "M": 1024}  # 128 rows each
FEW |= {"model": "256x128x32x4"}
RULES = {rule.about: rule for rule in static.RULES}


def row(**changes):
    known = {"arch": "sm_90", "gpu": "NVIDIA H100", "model": "m", "format": "bf16", "M": 1, "backend": "fused_moe"}
    known |= {"algorithm": None, "stage": "w13", "kernel": "gemm_kernel", "error": None, "tensor_unit": "wgmma"}
    known |= {"static_registers": 128, "local_accesses": 0, "loop_loads": [("16", 12)]}
    known |= {"blocks_by": [("registers", 4), ("shared memory", 3), ("warps", 16)]}
    return known | changes


@pytest.mark.parametrize(
    ("rule", "fires", "rests"),
    [
        ("Does not compile or launch", {"error": "no"}, {}),
        ("Spills", {"local_accesses": 3}, {}),
        ("Spills", {"sgpr_spills": 3}, {"sgpr_spills": 0}),
        ("mma.sync where the GPU has more", {"tensor_unit": "mma.sync"}, {"tensor_unit": "mma.sync", "arch": "sm_80"}),
        (
            "Warps repeat each other's products",
            TILE | {"tensor_unit": "mfma", "loop_tensor_flop": 2 * 2 * 64 * 256 * 64},
            TILE | {"tensor_unit": "mfma", "loop_tensor_flop": 2 * 64 * 256 * 64},
        ),
        (
            "Narrow loads in the inner loop",
            {"loop_loads": [("16", 1), ("4", 8)]},
            {"loop_loads": [("16", 8)]},
        ),
        (
            "Shared memory halves the occupancy",
            {"blocks_by": [("registers", 4), ("shared memory", 2), ("warps", 16)]},
            {"blocks_by": [("registers", 2), ("shared memory", 2), ("warps", 16)]},
        ),
        ("No TMA where the tile allows it", TILE, TILE | {"arch": "sm_80"}),
        ("No TMA where the tile allows it", {"constants": "BLOCK_SIZE_N=256 BLOCK_SIZE_K=64"}, {"constants": "N=256"}),
        ("No TMA where the tile allows it", TILE, TILE | {"mix": [("wgmma", 4), ("TMA", 2)]}),
        ("No TMA where the tile allows it", TILE, {"constants": "BLOCK_M=64 BLOCK_N=512 BLOCK_K=64"}),
        (
            "Converted operands in the inner loop",
            {"loop_mix": [("conversion", 8), ("wgmma", 4)]},
            {"loop_mix": [("conversion", 3), ("wgmma", 4)]},
        ),
        ("Fewer rows than the tensor unit takes", FEW, FEW | {"M": 1023}),
        ("Fewer rows than the tensor unit takes", FEW, FEW | {"constants": "SWAP=1 BLOCK_M=32 BLOCK_N=128"}),
        (
            "Fewer rows than the tensor unit takes",
            FEW,
            FEW | {"constants": "SWAP_AB=1 BLOCK_SIZE_M=32 BLOCK_SIZE_N=128"},
        ),
        ("Fewer rows than the tensor unit takes", FEW, FEW | {"arch": "sm_90", "tensor_unit": "mma.sync"}),
    ],
)
def test_a_rule_fires_in_the_rows_that_it_is_about(rule, fires, rests) -> None:
    table = pd.DataFrame([row(**rests), row(**fires)])
    assert static.amiss(table, RULES[rule]).index.tolist() == [1]


@pytest.mark.parametrize("changes", [{"tensor_unit": None}, {"loop_mix": [("wgmma", 4), ("TMA", 2)]}])
def test_narrow_loads_that_do_not_feed_the_tensor_unit_are_no_finding(changes) -> None:
    table = pd.DataFrame([row(loop_loads=[("4", 1)], **changes)])
    assert static.amiss(table, RULES["Narrow loads in the inner loop"]).empty


def test_no_rule_fires_without_what_it_looks_at() -> None:
    refused = pd.DataFrame([{"arch": "gfx942", "M": 1, "error": "no"}])
    assert [rule.about for rule in static.RULES if not static.amiss(refused, rule).empty] == [
        "Does not compile or launch"
    ]
    assert all(static.amiss(refused[:0], rule).empty for rule in static.RULES)


def test_rows_that_differ_in_m_alone_are_joined() -> None:
    table = pd.DataFrame([row(M=1), row(M=64), row(M=4096, static_registers=255)])
    found = static.kernels(table)
    assert found[["M", "static_registers", "spills"]].values.tolist() == [["1, 64", 128, 0], ["4096", 255, 0]]


def test_the_share_of_narrow_loads_is_one_of_bytes() -> None:
    assert static.narrow_pct([("16", 3), ("8", 1), ("4", 2)]) == 25.0
    assert static.narrow_pct([]) == static.narrow_pct(None) == 0.0
    assert not static.smem_costs_half(SimpleNamespace(blocks_by=None))
