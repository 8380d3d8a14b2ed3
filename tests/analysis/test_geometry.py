"""Launch geometry: occupancy and its limiter by the CUDA rules, waves, and the last wave."""

import pytest

from moe_lab.analysis.geometry import last_wave_fill_pct, limiter, limits
from moe_lab.spec.architectures import occupancy


@pytest.mark.parametrize(
    ("capability", "threads", "registers", "smem", "blocks", "by", "occupancy_pct"),
    [
        # 168 registers x 32 = 5376 a warp; 16384 of a scheduler hold 3 warps: 12 an SM, 3 blocks of 4.
        ("9.0", 128, 168, 0, 3, "registers", 18.75),
        # 64 registers x 32 = 2048: 8 warps a scheduler, 32 an SM; shared memory would allow 4.
        ("9.0", 256, 64, 49152, 4, "registers+smem", 50),
        # 228 KiB hold two blocks of 100 KiB + 1 KiB.
        ("9.0", 128, 32, 100 * 1024, 2, "smem", 12.5),
        ("9.0", 32, 16, 0, 32, "sm", 50),
        ("9.0", 1024, 32, 0, 2, "registers+warps", 100),
        ("8.9", 1024, 32, 0, 1, "warps", 66.7),
        ("7.5", 64, 32, 0, 16, "warps+sm", 100),
        # A block of 33 threads has two warps.
        ("8.0", 33, 16, 0, 32, "warps+sm", 100),
        # More registers than an SM has: it cannot be launched.
        ("9.0", 1024, 255, 0, 0, "registers", 0),
    ],
)
def test_blocks_that_fit_follow_the_cuda_rules(capability, threads, registers, smem, blocks, by, occupancy_pct):
    found = occupancy(limits(capability), -(-threads // 32), registers, smem)
    assert (found.blocks, limiter(found)) == (blocks, by)
    assert found.percent == pytest.approx(occupancy_pct, abs=0.05)


@pytest.mark.parametrize(
    ("grid", "at_once", "pct"),
    [(264, 264, 100), (265, 264, 100 / 264), (132, 264, 50), (528, 264, 100), (1, 132, 100 / 132)],
)
def test_last_wave_is_as_full_as_its_blocks(grid, at_once, pct):
    assert last_wave_fill_pct(grid, at_once) == pytest.approx(pct)
