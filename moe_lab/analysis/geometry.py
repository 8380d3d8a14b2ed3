# SPDX-License-Identifier: Apache-2.0
"""Launch geometry: how many blocks fit on an SM, what limits them, and how full the last wave is."""

from dataclasses import replace
from functools import cache

from moe_lab.spec.architectures import Card, Occupancy, cards, find

# Compute capabilities that no card of architectures.csv has -> warps, blocks and KiB of shared memory of an SM, and the
# bytes that each block takes on top: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
_OTHERS = {
    **{"7.0": (64, 32, 96, 0), "7.5": (32, 16, 64, 0), "8.6": (48, 16, 100, 1024), "8.7": (48, 16, 164, 1024)},
    **{"10.3": (64, 32, 228, 1024), "11.0": (48, 24, 228, 1024), "12.1": (48, 24, 100, 1024)},
}
_SHORT = {"registers": "registers", "warps": "warps", "blocks": "sm", "shared memory": "smem"}


@cache
def limits(capability: str) -> Card | None:
    """Return a card whose SMs hold as much as those of a compute capability such as ``9.0``; None if not known."""
    if capability in _OTHERS:
        warps, blocks, kib, reserved = _OTHERS[capability]
        # Registers and units are the same in all of them.
        card = replace(find("sm_80"), warps=warps, blocks=blocks, blocks_of_one_warp=blocks)
        return replace(card, smem_bytes=kib * 1024, smem_reserved_bytes=reserved)
    return next((card for card in cards() if card.arch == f"sm_{capability.replace('.', '')}"), None)


def limiter(found: Occupancy) -> str:
    """Return what allows no more blocks, joined with ``+`` if there are several."""
    return "+".join(name for limit, name in _SHORT.items() if found.by.get(limit) == found.blocks)


def last_wave_fill_pct(grid_blocks: int, blocks_at_once: int) -> float:
    """Return how full the last wave of a grid is: its blocks, in percent of those that run at once on the whole GPU."""
    return 100 * ((grid_blocks - 1) % blocks_at_once + 1) / blocks_at_once  # a full last wave is 100, not 0
