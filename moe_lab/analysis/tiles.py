# SPDX-License-Identifier: Apache-2.0
"""Tiles of an expert GEMM: recovered from a launch; how many blocks have work; where the configuration changes."""

import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moe_lab.spec.problem import capacity

SIZES = (16, 32, 64, 128, 256)  # of block_m and block_n that are tried when a tile is recovered from a grid
_IN_NAME = re.compile(r"(?<![0-9])(\d{2,3})x(\d{2,3})x(\d{2,3})(?![0-9])")
FIELDS = ("block_m", "block_n", "block_k", "group_m", "num_warps", "num_stages")


@dataclass(frozen=True)
class Tile:
    """A tile [block_m, block_n] that a thread block computes in steps of block_k; None = not known.

    Attributes:
        block_m: rows.
        block_n: columns.
        block_k: depth of a step.
        group_m: number of row tiles that run column by column, so that they share weights in L2.
        source: where it is known from: ``workload``, ``kernel name`` or ``grid``.
    """

    block_m: int | None
    block_n: int | None
    block_k: int | None = None
    group_m: int | None = None
    source: str = "workload"

    @property
    def label(self) -> str:
        """Return ``64x64x32``; a question mark stands for a size that is not known."""
        return "x".join("?" if s is None else str(s) for s in (self.block_m, self.block_n, self.block_k))


def recover(
    stated: Mapping[str, Any] | None, name: str, grid_blocks: int | None, rows: int, experts: int, gemm_n: int
) -> Tile | None:
    """Return the tile of a launch: as the workload states it, else from the kernel's name, else from its grid.

    Args:
        stated: sizes from the workload, or None.
        name: of the kernel; ``..._16x256x64...`` is block_m, block_n, block_k.
        grid_blocks: blocks of the launch; reveals the tile if only one pair of ``SIZES`` gives that grid.
        rows: token-expert pairs, M * topk.
        experts: number of experts.
        gemm_n: columns of the product.
    """
    if stated and stated.get("block_m"):
        return Tile(stated["block_m"], stated.get("block_n"), stated.get("block_k"), stated.get("group_m"))
    found = _IN_NAME.search(name)
    if found:
        m, n, k = (int(g) for g in found.groups())
        return Tile(m, n, k, None, "kernel name")
    return _from_grid(grid_blocks, rows, experts, gemm_n) if grid_blocks and rows else None


def _from_grid(grid_blocks: int, rows: int, experts: int, gemm_n: int) -> Tile | None:
    """Return the only tile that gives a grid of this size, or None."""
    fits = set()
    for m in SIZES:
        # Grids are sized for the most rows; SGLang counts one expert more. Some round the last tile off, some up.
        most = {capacity(rows, m, experts), min(rows * m, rows + (experts + 1) * (m - 1))}
        tiles = {t for size in most for t in (size // m, math.ceil(size / m))}
        fits |= {(m, n) for n in SIZES if grid_blocks in {t * math.ceil(gemm_n / n) for t in tiles}}
    if not fits:
        return None
    ms, ns = ({pair[i] for pair in fits} for i in range(2))
    # If several widths give this grid, no tile is better than a wrong one.
    if len(ns) > 1:
        return None
    return Tile(ms.pop() if len(ms) == 1 else None, ns.pop(), source="grid")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a launch.

    Attributes:
        tiles: tiles with rows in them.
        empty: blocks that find no tile, as the grid is sized for the upper bound; 0 for a persistent kernel.
        persistent: whether fewer blocks than tiles were launched, so that each computes several.
    """

    tiles: int
    empty: int
    persistent: bool


def blocks(
    tile: Tile | None, grid_blocks: int | None, rows_padded: int | None, gemm_n: int, sized_by_gpu: bool = False
) -> Blocks | None:
    """Return how many blocks of a launch have a tile to compute; None if tile or padded rows are not known.

    A kernel whose grid is sized by the GPU is persistent, however few tiles there are.
    """
    if tile is None or not tile.block_m or not tile.block_n or not grid_blocks or rows_padded is None:
        return None
    tiles = math.ceil(rows_padded / tile.block_m) * math.ceil(gemm_n / tile.block_n)
    persistent = sized_by_gpu or grid_blocks < tiles
    return Blocks(tiles, 0 if persistent else grid_blocks - tiles, persistent)


def switches(table: pd.DataFrame) -> pd.DataFrame:
    """Return where a backend launches another configuration at the next larger M.

    Args:
        table: ``analysis.gemms.gemms``.

    Returns:
        One row per switch: series, stage, M_before, M, before, after; a configuration is tile and block_threads as
        text.
    """
    rows: list[dict[str, Any]] = []
    for (series, stage), part in table.groupby(["series", "stage"], sort=False):
        before: Mapping[Hashable, Any] | None = None
        for row in part.sort_values("M").to_dict("records"):
            if before is not None and _configuration(before) != _configuration(row):
                own = {"series": series, "stage": stage, "M_before": before["M"], "M": row["M"]}
                rows.append(own | {"before": _configuration(before), "after": _configuration(row)})
            before = row
    return pd.DataFrame(rows, columns=["series", "stage", "M_before", "M", "before", "after"])


def _configuration(row: Mapping[Hashable, Any]) -> str:
    said = {"tile": "{}", "block_threads": "{} threads"}
    return ", ".join(text.format(row[key]) for key, text in said.items() if not pd.isna(row[key]))
