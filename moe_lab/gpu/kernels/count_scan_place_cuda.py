"""Align in two launches of CUDA C++ of which one is a single busy block, see ``count_scan_place.cu``."""

from pathlib import Path

import torch
import triton
from torch import Tensor

from moe_lab.gpu.align import Buffers
from moe_lab.gpu.kernels._nvrtc import launch
from moe_lab.gpu.kernels._pairs import map_arguments

SOURCE = Path(__file__).with_name("count_scan_place.cu")


def align_count_scan_place_cuda(
    topk_ids: Tensor, block_m: int, E: int, out: Buffers, expert_map: Tensor | None = None, remote: str = "drop"
) -> None:
    """Fill ``out.alignment``.

    Args:
        topk_ids: [M, topk] int32 or int64, contiguous.
        block_m: rows of a tile.
        E: experts.
        out: memory of this call, with E entries of scratch.
        expert_map: [E] int32 or None, see ``moe_lab.gpu.align``.
        remote: what becomes of pairs whose expert maps to -1.
    """
    pointer, drop, relabel = map_arguments(expert_map, remote, topk_ids)
    numel, rows = topk_ids.numel(), out.alignment.sorted_token_ids
    macros = (
        ("BINS", max(32, triton.next_power_of_2(E))),
        ("BLOCK_M", block_m),
        ("ID", "long long" if topk_ids.dtype == torch.int64 else "int"),
        ("DROP", int(drop)),
        ("RELABEL", int(relabel)),
    )
    arguments = topk_ids, pointer, *out.alignment, out.scratch, numel, E, rows.numel()
    launch(SOURCE, "count_scan", 2, 1024, *arguments, macros=macros)
    launch(SOURCE, "place", triton.cdiv(numel, 256), 256, topk_ids, pointer, rows, out.scratch, numel, E, macros=macros)
