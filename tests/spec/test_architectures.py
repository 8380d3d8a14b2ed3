import pandas as pd
import pytest
from checkout import REPO

from moe_lab import runs
from moe_lab.analysis import static_check
from moe_lab.spec import architectures
from moe_lab.spec.errors import UserError

COUNTED = ["registers_per_thread", "block_threads", "smem_static_bytes", "smem_dynamic_bytes", "cluster_blocks"]
CAPTURES = sorted(p.parent for p in (REPO / "profiles").glob("h?00/*/report.csv"))


@pytest.mark.parametrize("folder", CAPTURES, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_occupancy_is_what_nsight_compute_says_of_every_kernel_of_the_committed_captures(folder) -> None:
    run = runs.load(folder)
    card = next(card for card in architectures.cards() if card.name == run.manifest["gpu"]["name"])
    table = run.launches().table
    known = table.dropna(subset=["occupancy_theoretical_pct", *COUNTED[:2]])
    assert len(known), "a capture without occupancy tests nothing"
    assert known["registers_per_thread"].min() >= static_check.LEAST_REGISTERS, "what is compiled is compared with that"
    for row in known.itertuples(index=False):
        smem = int(row.smem_static_bytes) + int(row.smem_dynamic_bytes)
        found = architectures.occupancy(card, int(row.block_threads) // 32, int(row.registers_per_thread), smem)
        assert found.percent == pytest.approx(row.occupancy_theoretical_pct, abs=0.01), row.name
        assert found.by["registers"] == row.block_limit_registers, row.name
        assert found.by["warps"] == row.block_limit_warps, row.name


@pytest.mark.parametrize(
    ("arch", "warps", "registers", "smem", "scalar", "blocks", "limit"),
    [
        ("sm_90", 4, 63, 61440, 0, 3, "shared memory"),
        ("sm_90", 8, 255, 0, 0, 1, "registers"),
        ("sm_89", 4, 32, 0, 0, 12, "warps"),
        ("sm_80", 1, 16, 0, 0, 32, "blocks"),
        ("gfx942", 8, 184, 49152, 43, 1, "registers"),
        ("gfx942", 4, 37, 1024, 106, 7, "scalar registers"),
        ("gfx90a", 4, 64, 40000, 43, 1, "shared memory"),
        ("gfx950", 4, 64, 40000, 43, 4, "shared memory"),
        ("gfx942", 1, 32, 0, 32, 32, "warps"),
        ("gfx908", 4, 128, 0, 43, 2, "registers"),
    ],
)
def test_the_fewest_blocks_limit_the_occupancy(arch, warps, registers, smem, scalar, blocks, limit) -> None:
    found = architectures.occupancy(architectures.find(arch), warps, registers, smem, scalar)
    assert (found.blocks, found.limited_by) == (blocks, limit)


def test_a_card_is_found_by_its_name_or_its_architecture() -> None:
    assert [card.card for card in architectures.listed("sm_90,h200,h100,gfx942")] == ["h100", "h200", "mi300x"]
    with pytest.raises(UserError, match="No architecture is called 'sm_1'; choose one of: sm_80"):
        architectures.find("sm_1")


def test_cards_have_names_that_tell_them_apart() -> None:
    known = pd.DataFrame(architectures.cards())
    assert known["card"].is_unique
    assert known["name"].is_unique
