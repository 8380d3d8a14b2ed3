"""Launch geometry: how many blocks fit on an SM and why no more, waves, and how full the last one is."""

import math
from dataclasses import dataclass

WARP_THREADS = 32
REGISTER_UNIT = 256  # registers are given to a warp in units of this many
PARTS = 4  # an SM's registers and warps are split over so many schedulers
SMEM_UNIT_BYTES = 128


@dataclass(frozen=True)
class Limits:
    """What one SM holds at most.

    Attributes:
        warps: warps.
        blocks: thread blocks.
        smem_bytes: shared memory.
        registers: 32-bit registers.
        reserved_smem_bytes: shared memory that the system takes of each block.
    """

    warps: int
    blocks: int
    smem_bytes: int
    registers: int = 65536
    reserved_smem_bytes: int = 1024


# Per compute capability: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
LIMITS = {
    "7.0": Limits(64, 32, 96 * 1024, reserved_smem_bytes=0),
    "7.5": Limits(32, 16, 64 * 1024, reserved_smem_bytes=0),
    "8.0": Limits(64, 32, 164 * 1024),
    "8.6": Limits(48, 16, 100 * 1024),
    "8.7": Limits(48, 16, 164 * 1024),
    "8.9": Limits(48, 24, 100 * 1024),
    "9.0": Limits(64, 32, 228 * 1024),
    "10.0": Limits(64, 32, 228 * 1024),
    "10.3": Limits(64, 32, 228 * 1024),
    "11.0": Limits(48, 24, 228 * 1024),
    "12.0": Limits(48, 24, 100 * 1024),
    "12.1": Limits(48, 24, 100 * 1024),
}


@dataclass(frozen=True)
class Fit:
    """How many blocks of a launch fit on one SM.

    Attributes:
        by: blocks that each of ``registers``, ``smem``, ``warps``, ``sm`` (the number of blocks) allows.
        warps: warps of a block.
        limits: the SM's.
    """

    by: dict[str, int]
    warps: int
    limits: Limits

    @property
    def blocks(self) -> int:
        """Blocks that fit."""
        return min(self.by.values())

    @property
    def limiter(self) -> str:
        """What allows no more, joined with ``+`` where several do; the SM's warps when they are all in use."""
        return "+".join(name for name, blocks in self.by.items() if blocks == self.blocks)

    @property
    def occupancy_pct(self) -> float:
        """Warps that fit, of those that an SM can hold."""
        return 100 * self.blocks * self.warps / self.limits.warps


def fit(limits: Limits, block_threads: int, registers_per_thread: int, smem_bytes: int) -> Fit:
    """Return how many blocks fit on an SM, if the driver makes as much of L1 shared memory as they need.

    Args:
        limits: the SM's.
        block_threads: threads of a block.
        registers_per_thread: registers a thread.
        smem_bytes: static and dynamic shared memory a block.
    """
    warps = math.ceil(block_threads / WARP_THREADS)
    # Registers are given to whole warps, in units, and from the quarter of the SM that the warp runs on.
    per_warp = max(1, math.ceil(registers_per_thread * WARP_THREADS / REGISTER_UNIT)) * REGISTER_UNIT
    by = {
        "registers": limits.registers // PARTS // per_warp * PARTS // warps,
        "warps": limits.warps // warps,
        "sm": limits.blocks,
    }
    # The driver keeps some shared memory of every block for itself, and gives it in units.
    asked = math.ceil((smem_bytes + limits.reserved_smem_bytes) / SMEM_UNIT_BYTES) * SMEM_UNIT_BYTES
    if asked:
        by["smem"] = limits.smem_bytes // asked
    return Fit(by, warps, limits)


def last_wave_fill_pct(grid_blocks: int, blocks_at_once: int) -> float:
    """Return how full the last wave of a grid is: its blocks, of those that run at once on the whole GPU."""
    return 100 * ((grid_blocks - 1) % blocks_at_once + 1) / blocks_at_once  # a full last wave is 100, not 0
