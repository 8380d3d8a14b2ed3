"""Launch geometry: how many blocks fit on an SM and why no more, waves, and how full the last one is."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_lab.analysis.counters import KEYS, grouped, same
from moe_lab.spec.launches import Launches

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


def geometry(launches: Launches) -> pd.DataFrame:
    """Return the launch geometry of every kernel, one row for each path, name, grid_blocks and block_threads.

    Works on timelines and counter reports alike: occupancy is computed from the registers and shared memory of the
    launch and the limits of the GPU's compute capability.

    Returns:
        Columns path, name, grid_blocks, block_threads, launches, registers_per_thread, smem_bytes (static and dynamic),
        blocks_per_sm, limiter (registers, smem, warps, sm, joined with ``+``), occupancy_theoretical_pct,
        occupancy_reported_pct (what ncu says; NA without it), sms_used, waves, last_wave_fill_pct. NA where registers,
        shared memory, the compute capability or the number of SMs are not known. ``attrs["notes"]`` says where the
        computed occupancy differs from ncu's.
    """
    gpu = launches.meta["gpu"] or {}
    limits = LIMITS.get(str(gpu.get("compute_capability")))
    rows = [_row(key, frame, limits, gpu.get("sm_count")) for key, frame in grouped(launches)]
    columns = (
        *KEYS,
        *("launches", "registers_per_thread", "smem_bytes", "blocks_per_sm", "limiter", "occupancy_theoretical_pct"),
        *("occupancy_reported_pct", "sms_used", "waves", "last_wave_fill_pct"),
    )
    table = pd.DataFrame(rows, columns=list(columns)).convert_dtypes()
    apart = (table["occupancy_theoretical_pct"] - table["occupancy_reported_pct"]).abs() > 1
    different = table.loc[apart.fillna(False), "name"].drop_duplicates().tolist()
    table.attrs["notes"] = (
        [f"Computed and reported occupancy differ for {', '.join(different)}: the reported one counts."]
        if different
        else []
    )
    return table


def _row(key: tuple[Hashable, ...], frame: pd.DataFrame, limits: Limits | None, sm_count: int | None) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(KEYS, key, strict=True)) | {"launches": len(frame)}
    static, dynamic = same(frame["smem_static_bytes"]), same(frame["smem_dynamic_bytes"])
    row["registers_per_thread"] = same(frame["registers_per_thread"])
    row["smem_bytes"] = None if static is None or dynamic is None else static + dynamic
    if "occupancy_theoretical_pct" in frame:
        row["occupancy_reported_pct"] = frame["occupancy_theoretical_pct"].median()
    if sm_count and not pd.isna(row["grid_blocks"]):
        row["sms_used"] = min(int(row["grid_blocks"]), sm_count)
    known = [row["block_threads"], row["registers_per_thread"], row["smem_bytes"]]
    if limits is None or any(pd.isna(k) for k in known):
        return row
    threads, registers, smem = (int(k) for k in known)
    found = fit(limits, threads, registers, smem)
    row |= {"blocks_per_sm": found.blocks, "limiter": found.limiter, "occupancy_theoretical_pct": found.occupancy_pct}
    if "sms_used" in row and found.blocks:
        at_once = found.blocks * int(sm_count or 0)
        row["waves"] = int(row["grid_blocks"]) / at_once
        row["last_wave_fill_pct"] = last_wave_fill_pct(int(row["grid_blocks"]), at_once)
    return row
