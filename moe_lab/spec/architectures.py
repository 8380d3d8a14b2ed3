"""Architectures as data, ``architectures.csv``: a card of each, what its multiprocessors hold, and so their occupancy.

Compiled code says how much a thread block takes; with the limits here it follows how many run side by side.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from moe_lab.spec.errors import UserError

SOURCE = Path(__file__).with_suffix(".csv")
SIDES = 4  # of a multiprocessor (SIMDs of a compute unit): each has a quarter of the registers


@dataclass(frozen=True)
class Card:
    """One GPU and the limits of its architecture; a multiprocessor is AMD's compute unit, a warp its wavefront.

    Attributes:
        card: short name.
        arch: ``sm_90`` or ``gfx942``.
        name: as the driver says it, by which tuned tiles are found.
        multiprocessors: of the GPU; of one die where it shows each as a GPU.
        warp_threads: threads of a warp.
        warps: that a multiprocessor holds.
        blocks: thread blocks that it holds.
        blocks_of_one_warp: likewise where a block is one warp.
        registers: vector registers of 32 bits that it has.
        register_unit: of them that a warp takes at a time.
        scalar_registers: of one side; 0 where they are no limit.
        smem_bytes: shared memory (LDS) that it has.
        smem_block_bytes: most that a thread block may use.
        smem_reserved_bytes: that each block takes on top.
        smem_unit_bytes: that a block takes at a time.
        tensor_unit: what multiplies matrices at full rate: ``mma.sync``, ``wgmma``, ``tcgen05`` or ``mfma``.
        source: where the figures come from.
    """

    card: str
    arch: str
    name: str
    multiprocessors: int
    warp_threads: int
    warps: int
    blocks: int
    blocks_of_one_warp: int
    registers: int
    register_unit: int
    scalar_registers: int
    smem_bytes: int
    smem_block_bytes: int
    smem_reserved_bytes: int
    smem_unit_bytes: int
    tensor_unit: str
    source: str

    @property
    def amd(self) -> bool:
        """Whether it is AMD's."""
        return self.arch.startswith("gfx")


@dataclass(frozen=True)
class Occupancy:
    """How many thread blocks a multiprocessor holds at once.

    Attributes:
        blocks: that many; 0 = not even one.
        percent: its warps with them, of those that it can hold.
        limited_by: ``registers``, ``scalar registers``, ``shared memory``, ``warps`` or ``blocks``: the fewest; of
            equal ones the first of these.
        by: limit -> blocks that it allows.
    """

    blocks: int
    percent: float
    limited_by: str
    by: dict[str, int]


@cache
def cards() -> tuple[Card, ...]:
    """Return every card, in the order of the file."""
    with SOURCE.open(newline="", encoding="utf-8") as file:
        return tuple(_card(row) for row in csv.DictReader(file))


def _card(row: dict[str, str]) -> Card:
    of = get_type_hints(Card)
    known: dict[str, Any] = {key: int(value or 0) if of[key] is int else value for key, value in row.items()}
    return Card(**known)


def find(name: str) -> Card:
    """Return a card by its short name, or the first one of an architecture; raises UserError: there is none."""
    known = cards()
    for card in known:
        if name in (card.card, card.arch):
            return card
    names = dict.fromkeys([*(card.arch for card in known), *(card.card for card in known)])
    raise UserError(f"No architecture is called '{name}'; choose one of: {', '.join(names)}.")


def occupancy(card: Card, warps: int, registers: int, smem_bytes: int, scalar_registers: int = 0) -> Occupancy:
    """Return how many blocks a multiprocessor holds.

    Args:
        card: whose limits.
        warps: of a block.
        registers: vector registers of a thread; on AMD with those for accumulation.
        smem_bytes: shared memory (LDS) of a block.
        scalar_registers: of a warp.
    """
    of_a_warp = _whole(max(1, registers) * card.warp_threads, card.register_unit)
    of_a_block = _whole(smem_bytes + card.smem_reserved_bytes, card.smem_unit_bytes)
    by = {"registers": card.registers // SIDES // of_a_warp * SIDES // warps}
    if card.scalar_registers and scalar_registers:
        by["scalar registers"] = card.scalar_registers // scalar_registers * SIDES // warps
    if of_a_block:
        by["shared memory"] = card.smem_bytes // of_a_block
    by |= {"warps": card.warps // warps, "blocks": card.blocks_of_one_warp if warps == 1 else card.blocks}
    limit = min(by, key=lambda name: by[name])
    return Occupancy(by[limit], 100 * by[limit] * warps / card.warps, limit, by)


def listed(text: str) -> list[Card]:
    """Return the cards of a comma-separated list of cards and architectures, each once; see ``find``."""
    return list(dict.fromkeys(find(part.strip()) for part in text.split(",") if part.strip()))


def _whole(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
