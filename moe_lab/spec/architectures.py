# SPDX-License-Identifier: Apache-2.0
"""Architectures as data, in ``architectures.csv``: a card of each, the limits of its multiprocessors, and occupancy.

Compiled code tells what a thread block needs; the limits here then tell how many run on a multiprocessor at once.
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
        name: as the driver reports it; tuned tiles are found by it.
        multiprocessors: of the GPU, or of one die if each die appears as a GPU.
        dies: among which the GPU deals thread blocks in turn, each with an L2 cache of its own (AMD's XCDs).
        warp_threads: threads per warp.
        warps: warps that a multiprocessor can hold.
        blocks: thread blocks that it can hold.
        blocks_of_one_warp: the same, if a block is one warp.
        registers: 32-bit vector registers of a multiprocessor.
        register_unit: registers are allocated to a warp in multiples of this.
        scalar_registers: per side of a multiprocessor; 0 if they are no limit.
        smem_bytes: shared memory (LDS) of a multiprocessor.
        smem_block_bytes: most that a thread block can use.
        smem_reserved_bytes: taken by each block in addition.
        smem_unit_bytes: shared memory is allocated to a block in multiples of this.
        l2_bytes: L2 cache of the GPU as its driver reports it; 0 where no kernel asks for it.
        tensor_unit: what multiplies matrices at full rate: ``mma.sync``, ``wgmma``, ``tcgen05`` or ``mfma``.
        tensor_rows: rows of a tile that one of its instructions takes at full rate.
        source: where the figures come from.
    """

    card: str
    arch: str
    name: str
    multiprocessors: int
    dies: int
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
    l2_bytes: int
    tensor_unit: str
    tensor_rows: int
    source: str

    @property
    def amd(self) -> bool:
        """Whether it is a GPU of AMD."""
        return self.arch.startswith("gfx")

    @property
    def tma(self) -> bool:
        """Whether it copies whole tiles by a tensor memory accelerator."""
        return not self.amd and int(self.arch.removeprefix("sm_")) >= 90


@dataclass(frozen=True)
class Occupancy:
    """How many thread blocks a multiprocessor can hold at once.

    Attributes:
        blocks: number of blocks; 0 = not even one.
        percent: their warps, as a share of those that it can hold.
        limited_by: which allows the fewest blocks: ``registers``, ``scalar registers``, ``shared memory``, ``warps`` or
            ``blocks``; the first of these if several do.
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
    """Return a card by its short name, or the first one of an architecture; UserError if there is none."""
    known = cards()
    for card in known:
        if name in (card.card, card.arch):
            return card
    names = dict.fromkeys([*(card.arch for card in known), *(card.card for card in known)])
    raise UserError(f"No architecture is called '{name}'; choose one of: {', '.join(names)}.")


def occupancy(card: Card, warps: int, registers: int, smem_bytes: int, scalar_registers: int = 0) -> Occupancy:
    """Return how many blocks a multiprocessor can hold.

    Args:
        card: its limits apply.
        warps: warps per block.
        registers: vector registers per thread; on AMD including those for accumulation.
        smem_bytes: shared memory (LDS) per block.
        scalar_registers: per warp.
    """
    of_a_warp = _whole(max(1, registers) * card.warp_threads, card.register_unit)
    of_a_block = _whole(smem_bytes + card.smem_reserved_bytes, card.smem_unit_bytes)
    # A warp stays on one side, so each side rounds down by itself.
    by = {"registers": card.registers // SIDES // of_a_warp * SIDES // warps}
    if card.scalar_registers and scalar_registers:
        by["scalar registers"] = card.scalar_registers // scalar_registers * SIDES // warps
    if of_a_block:
        by["shared memory"] = card.smem_bytes // of_a_block
    by |= {"warps": card.warps // warps, "blocks": card.blocks_of_one_warp if warps == 1 else card.blocks}
    limit = min(by, key=lambda name: by[name])
    return Occupancy(by[limit], 100 * by[limit] * warps / card.warps, limit, by)


def listed(text: str) -> list[Card]:
    """Return the cards in a comma-separated list of cards and architectures, without repeats; see ``find``.

    Raises:
        UserError: one is unknown, or the list is empty.
    """
    found = list(dict.fromkeys(find(part.strip()) for part in text.split(",") if part.strip()))
    if not found:
        raise UserError("The list of architectures is empty; name one, such as sm_90.")
    return found


def _whole(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
