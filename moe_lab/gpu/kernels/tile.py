# SPDX-License-Identifier: Apache-2.0
"""The configuration of a grouped GEMM in Triton, shared by ``fused_moe`` and ``grouped``."""

from dataclasses import dataclass, replace

import torch

from moe_lab.gpu.kernels._device import is_hip, shared_memory_bytes
from moe_lab.spec.configs.tile import AMD_FIELDS, AMD_OWN


@dataclass(frozen=True)
class Tile:
    """A kernel configuration.

    Attributes:
        block_m: rows of a tile; align must use the same.
        block_n: columns of a tile.
        block_k: depth of one step.
        group_m: row tiles that are processed column by column, so that they share weights in L2.
        num_warps: warps per thread block.
        num_stages: stages of the software pipeline.
        waves_per_eu: on AMD, wavefronts that each SIMD should hold, for which the compiler limits registers; 0 = it
            chooses.
        matrix_instr_nonkdim: on AMD, rows and columns of a matrix instruction, 16 or 32; 0 = the compiler chooses.
        kpack: on AMD before gfx950, steps of a matrix instruction that one read of LDS feeds.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int
    waves_per_eu: int = AMD_OWN[0]
    matrix_instr_nonkdim: int = AMD_OWN[1]
    kpack: int = AMD_OWN[2]

    def options(self) -> dict[str, int]:
        """Return the arguments of Triton's launcher; those for AMD only there, and only if they are given."""
        pairs = zip(AMD_FIELDS, AMD_OWN, strict=True)
        amd = {name: getattr(self, name) for name, own in pairs if getattr(self, name) != own} if is_hip() else {}
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **amd}


def fit(tile: Tile, itemsize: int, device: torch.device) -> Tile:
    """Return the tile with no more pipeline stages than fit into shared memory (two on AMD, which are one buffer)."""
    if device.type != "cuda":
        return tile
    if is_hip():
        return replace(tile, num_stages=2)
    stage = (tile.block_m + tile.block_n) * tile.block_k * itemsize
    most = shared_memory_bytes(device.index if device.index is not None else torch.cuda.current_device()) // stage
    return replace(tile, num_stages=max(1, min(tile.num_stages, most)))
