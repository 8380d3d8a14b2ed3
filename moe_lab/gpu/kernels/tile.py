"""The configuration of a grouped GEMM in Triton, shared by ``fused_moe`` and ``grouped``."""

from dataclasses import dataclass, replace

import torch

from moe_lab.gpu.kernels._device import is_hip, shared_memory_bytes


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
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_warps: int
    num_stages: int


def fit(tile: Tile, itemsize: int, device: torch.device) -> Tile:
    """Return the tile with no more pipeline stages than fit into shared memory (two on AMD, which are one buffer)."""
    if device.type != "cuda":
        return tile
    if is_hip():
        return replace(tile, num_stages=2)
    stage = (tile.block_m + tile.block_n) * tile.block_k * itemsize
    most = shared_memory_bytes(device.index if device.index is not None else torch.cuda.current_device()) // stage
    return replace(tile, num_stages=max(1, min(tile.num_stages, most)))
